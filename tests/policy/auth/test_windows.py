"""Windows accounts: what is asked, and what its answers mean. The calls themselves run on Windows alone."""

import os

import pytest

from mailroot.policy.auth.base import Denied, Unavailable
from mailroot.policy.auth.settings import WindowsSettings
from mailroot.policy.auth.windows import Identity, WindowsAccounts, identify, judge, split_name

pytestmark = pytest.mark.quick

on_windows = pytest.mark.skipif(os.name != "nt", reason="on Windows only")


@pytest.mark.parametrize(
    ("user", "default", "asked"),
    [
        ("jo", "", ("jo", ".")),
        ("jo", "CORP", ("jo", "CORP")),
        ("OTHER\\jo", "CORP", ("jo", "OTHER")),
        ("\\jo", "CORP", ("jo", ".")),
        (".\\jo", "CORP", ("jo", ".")),
        ("jo@corp.example", "CORP", ("jo@corp.example", None)),
        ("CORP\\jo@x", "", ("jo@x", "CORP")),
    ],
)
def test_forms_of_names(user: str, default: str, asked: tuple[str, str | None]) -> None:
    assert split_name(user, default) == asked


@pytest.mark.parametrize("code", [1326, 1327, 1328, 1329, 1330, 1331, 1385, 1793, 1907, 1909, 4711])
def test_refusals(code: int) -> None:
    verdict = judge(code, "jo")
    assert isinstance(verdict, Denied)
    assert verdict.user == "jo"
    assert verdict.reason


@pytest.mark.parametrize("code", [1311, 1314, 1355, 1722, 1789])
def test_what_says_nothing_about_the_password(code: int) -> None:
    assert isinstance(judge(code, "jo"), Unavailable)


def test_guests_and_groups_are_nobody() -> None:
    assert Identity("PC\\jo", 1, 1001).is_person
    assert Identity("CORP\\PC$", 1, 1106).is_person
    assert not Identity("PC\\Gast", 1, 501).is_person
    assert not Identity("NT AUTHORITY\\ANONYMOUS LOGON", 5, 7).is_person
    assert not Identity("BUILTIN\\Users", 4, 545).is_person


@pytest.mark.skipif(os.name == "nt", reason="not on Windows")
def test_elsewhere_there_are_none() -> None:
    with pytest.raises(ValueError, match="on Windows only"):
        WindowsAccounts(WindowsSettings())
    with pytest.raises(OSError, match="no Windows accounts here"):
        identify("jo")


@on_windows
async def test_what_windows_is_not_asked() -> None:
    accounts = WindowsAccounts(WindowsSettings())
    assert accounts.has_accounts
    for user, password in (("jo", ""), ("", "x"), ("CORP\\", "x"), ("j\0o", "x"), ("jo", "x\0"), ("j" * 300, "x")):
        assert isinstance(await accounts.check(user, password), Denied), (user, password)


@on_windows
async def test_a_wrong_password_does_not_get_in() -> None:
    verdict = await WindowsAccounts(WindowsSettings()).check("mailroot-nobody", "no password of anybody")
    assert isinstance(verdict, Denied | Unavailable)


@on_windows
def test_who_we_are_ourselves() -> None:
    identity = identify(os.environ["USERNAME"])
    assert identity.name.lower().endswith("\\" + os.environ["USERNAME"].lower())
    assert identity.is_person
    with pytest.raises(OSError):
        identify("mailroot-nobody")
