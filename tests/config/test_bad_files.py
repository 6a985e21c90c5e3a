"""Bad configuration files: each folder below tests/configs has one, and in expected.txt all that is said about it.

FOLDER stands for the folder's own path.
"""

import os
import re
from pathlib import Path

import pytest

from mailroot.config.load import ConfigurationError, load

pytestmark = pytest.mark.quick

CONFIGS = Path(__file__).parent.parent / "configs"


@pytest.mark.parametrize("name", sorted(path.name for path in CONFIGS.iterdir()))
def test_everything_that_is_wrong_is_said_at_once(name: str) -> None:
    folder = CONFIGS / name
    with pytest.raises(ConfigurationError) as caught:
        load(folder / "mailroot.toml", {})
    said = (
        str(caught.value).replace(f"{folder / 'mailroot.toml'}:", "mailroot.toml:").replace(str(folder), "FOLDER")
    )
    if os.name == "nt":
        said = re.sub(r"FOLDER\S+", lambda match: match[0].replace("\\", "/"), said)
    assert said.splitlines() == (folder / "expected.txt").read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize("name", ["secrets", "contradictions"])
def test_no_secret_is_ever_said(name: str) -> None:
    text = (CONFIGS / name / "mailroot.toml").read_text(encoding="utf-8")
    secrets = [secret for secret in ("hunter2", "12345", "once and only here") if secret in text]
    assert secrets
    with pytest.raises(ConfigurationError) as caught:
        load(CONFIGS / name / "mailroot.toml", {})
    assert not [
        secret for secret in secrets if secret in f"{caught.value} {caught.value!r} {caught.value.problems}"
    ]
