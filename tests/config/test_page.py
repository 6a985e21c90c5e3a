"""docs/configuration.md against the settings classes and the loader."""

import importlib.util
import re
from pathlib import Path

import pytest

from mailroot.config.load import ConfigurationError, load
from mailroot.policy.auth.account_file import Account, changing_accounts
from mailroot.policy.auth.passwords import NOBODYS_HASH
from rig.door import certificate_pem

pytestmark = pytest.mark.quick

ROOT = Path(__file__).parent.parent.parent
TEXT = (ROOT / "docs" / "configuration.md").read_text("utf-8")
EXAMPLES = re.findall(r"^```toml\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)


def test_the_tables_are_those_of_the_classes() -> None:
    spec = importlib.util.spec_from_file_location("configuration_page", ROOT / "scripts" / "configuration_page.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    assert script.with_tables(TEXT) == TEXT, "run scripts/configuration_page.py"


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_an_example_is_in_order(number: int, tmp_path: Path) -> None:
    (tmp_path / "smart-host.password").write_text("secret\n")
    (tmp_path / "smart-host.password").chmod(0o600)
    (tmp_path / "relay.pem").write_bytes(certificate_pem())
    with changing_accounts(tmp_path / "accounts.json") as accounts:
        accounts.put(Account("crm", NOBODYS_HASH))
    (tmp_path / "mailroot.toml").write_text(EXAMPLES[number], encoding="utf-8")
    assert load(tmp_path / "mailroot.toml", {}).warnings == ()


def test_the_mistakes_it_shows_are_told_like_that(tmp_path: Path) -> None:
    shown = re.findall(r"^    mailroot\.toml:(\d+): (\[[\w.]+\]) (\w+): (.*)$", TEXT, re.MULTILINE)
    assert len(shown) == 2
    lines = [""] * 10
    for line, section, key, _ in shown:
        lines[int(line) - 2 : int(line)] = [section, f"{key} = 15"]
    file = tmp_path / "mailroot.toml"
    file.write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(ConfigurationError) as caught:
        load(file, {})
    assert caught.value.problems == tuple(
        f"{file}:{line}: {section} {key}: {said}" for line, section, key, said in shown
    )
