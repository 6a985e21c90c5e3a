"""The examples of the documentation are configurations that Mailroot takes, and say what Mailroot says."""

import re
from pathlib import Path

import pytest

from mailroot.config.load import load
from mailroot.smtp import answers
from rig.door import certificate_pem

pytestmark = pytest.mark.quick

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]

_TOML = re.compile(r"^```toml\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_SECRETS = ("smart-host.password", "relay.password", "introspection.secret")


def _examples() -> list[object]:
    return [
        pytest.param(text, id=f"{page.relative_to(ROOT).as_posix()}:{number}")
        for page in PAGES
        for number, text in enumerate(_TOML.findall(page.read_text("utf-8")), 1)
    ]


@pytest.mark.parametrize("text", _examples())
def test_an_example_is_understood(text: str, tmp_path: Path) -> None:
    for name in ("relay.pem", "relay.key", "printer7.pem", "clients-ca.pem"):
        (tmp_path / name).write_bytes(certificate_pem())
    for name in _SECRETS:
        (tmp_path / name).write_text("secret\n")
        (tmp_path / name).chmod(0o600)
    (tmp_path / "mailroot.keytab").write_bytes(b"\x05\x02")
    if "[[general.certificates]]" not in text:
        # Shown where a certificate has been spoken of already.
        text += '\n[[general.certificates]]\nfile = "relay.pem"\n'
    file = tmp_path / "mailroot.toml"
    file.write_text(text, encoding="utf-8")
    assert load(file, {}).virtual_servers


@pytest.mark.parametrize("page", ["network.md", "moving.md"])
def test_quoted_answers_are_given(page: str) -> None:
    """What a page quotes as an answer of ours, with its code and status, is one, as far as it goes."""
    ours = [
        f"{reply.code} {reply.status} {reply.text}" for reply in vars(answers).values() if hasattr(reply, "code")
    ]
    text = (ROOT / "docs" / page).read_text("utf-8")
    quoted = re.findall(r"^\| ((?:5|4)\d\d [45]\.\d\.\d+ [^|…]*[^|… .])\.? *\|", text, re.MULTILINE)
    quoted += re.findall(r"^<\*\* (530 5\.7\.0 .*)$", text, re.MULTILINE)
    given_elsewhere = ("454 4.7.0 Too many failed logins",)  # with more in it than the answer alone
    missing = [
        one
        for one in quoted
        if not any(answer.startswith(one) for answer in ours) and not one.startswith(given_elsewhere)
    ]
    assert quoted
    assert missing == []
