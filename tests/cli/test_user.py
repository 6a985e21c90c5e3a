"""`mailroot user`: the accounts file by hand, and what a server makes of it."""

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mailroot.policy.auth.account_file import read_accounts
from mailroot.policy.auth.accounts import AccountFile
from mailroot.policy.auth.base import Denied, Granted
from mailroot.policy.auth.nt_hash import nt_hash
from rig.served import Said

pytestmark = pytest.mark.quick

Say = Callable[..., Said]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "accounts.json"


@pytest.fixture
def user(say: Say, path: Path, monkeypatch: pytest.MonkeyPatch) -> Say:
    """`mailroot user ARGUMENTS`, with `given` on standard input."""

    def run(*arguments: str, given: bytes = b"") -> Said:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(given)))
        return say("user", *arguments, "--file", str(path))

    return run


async def check(path: Path, name: str, password: str) -> object:
    file = AccountFile(path)
    try:
        return await file.check(name, password)
    finally:
        file.close()


async def test_an_accounts_life(user: Say, path: Path) -> None:
    made = user("add", "CORP\\ann", "--password-stdin", "--note", "the CRM", given=b"secret\n")
    assert made.code == 0
    assert made.out == f"account 'CORP\\ann' made in {path}; it may log in by basic, scram\n"
    assert await check(path, "corp\\Ann", "secret") == Granted("CORP\\ann")
    assert user("passwd", "corp\\ann", "--password-stdin", given="größe\r\n".encode()).code == 0
    assert await check(path, "CORP\\ann", "secret") == Denied("wrong password", "CORP\\ann")
    assert await check(path, "CORP\\ann", "größe") == Granted("CORP\\ann")
    assert user("disable", "CORP\\ANN").out.startswith("account 'CORP\\ann' disabled")
    assert await check(path, "CORP\\ann", "größe") == Denied("account is disabled", "CORP\\ann")
    assert "disabled" in user("list").out
    assert user("enable", "corp\\ann").code == 0
    assert await check(path, "CORP\\ann", "größe") == Granted("CORP\\ann")
    assert user("remove", "corp\\ann").out == "account 'CORP\\ann' removed\n"
    assert await check(path, "CORP\\ann", "größe") is None


async def test_a_made_password_works(user: Say, path: Path) -> None:
    made = json.loads(user("add", "ann", "--generate", "--json").out)
    assert made["account"]["name"] == "ann"
    assert await check(path, "ann", made["password"]) == Granted("ann")
    shown = user("passwd", "ann", "--generate").out
    assert await check(path, "ann", shown.split("password: ")[1].strip()) == Granted("ann")
    assert await check(path, "ann", made["password"]) == Denied("wrong password", "ann")


def test_the_list_shows_no_hash(user: Say, path: Path) -> None:
    assert user("list").out == f"no accounts in {path}\n"
    user("add", "eve", "--generate")
    made = user("add", "ann", "--password-stdin", "--ntlm", "--note", "old", given=b"secret")
    assert "NT hash of 'ann'" in made.err
    assert made.err.startswith("warning: ")
    account = read_accounts(path).get("ann")
    assert account is not None
    assert account.nt_hash == nt_hash("secret")
    said, answer = user("list"), json.loads(user("list", "--json").out)
    rows = said.out.splitlines()
    assert [row.split()[0] for row in rows] == ["NAME", "ann", "eve"]
    assert "basic, scram, ntlm" in rows[1]
    assert rows[1].endswith("old")
    assert answer["file"] == str(path)
    assert [one["logins"] for one in answer["accounts"]] == [["basic", "scram", "ntlm"], ["basic", "scram"]]
    for text in (said.out, json.dumps(answer)):
        for secret in ("argon2", nt_hash("secret").hex(), json.loads(path.read_text())["secret"]):
            assert secret not in text


def test_the_nt_hash_goes_on_and_off(user: Say, path: Path) -> None:
    def hashes() -> bytes | None:
        account = read_accounts(path).get("ann")
        assert account is not None
        return account.nt_hash

    user("add", "ann", "--password-stdin", given=b"one")
    assert hashes() is None
    user("passwd", "ann", "--password-stdin", "--ntlm", given=b"two")
    assert hashes() == nt_hash("two")
    user("passwd", "ann", "--password-stdin", given=b"three")
    assert hashes() == nt_hash("three")
    user("passwd", "ann", "--password-stdin", "--no-ntlm", given=b"three")
    assert hashes() is None


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (b"", "an empty password is none"),
        (b"\n", "an empty password is none"),
        (b"x" * 257, "a password of 257 characters; the longest is 256"),
        (b"x" * 10_000, "too long"),
        (b"\xff\xfe", "not UTF-8"),
        ("\U0001f600".encode(), "not every program could send this password"),
    ],
)
def test_passwords_that_cannot_be(user: Say, path: Path, given: bytes, said: str) -> None:
    refused = user("add", "ann", "--password-stdin", given=given)
    assert refused.code == 1
    assert said in refused.err
    assert not path.exists()


@pytest.mark.parametrize("name", ["", " ann", "a\tb", "x" * 257, "\ue000"])
def test_names_that_cannot_be(user: Say, path: Path, name: str) -> None:
    refused = user("add", name, "--generate")
    assert refused.code == 1
    assert "name" in refused.err
    assert not path.exists()


def test_what_is_there_already_and_what_is_not(user: Say, path: Path) -> None:
    user("add", "Ann", "--generate")
    before = path.read_bytes()
    again = user("add", "ANN", "--generate")
    assert (again.code, "there is an account 'Ann' already" in again.err) == (1, True)
    for command in ("remove", "disable", "enable", "passwd"):
        refused = user(command, "nobody")
        assert (refused.code, refused.err) == (1, f"mailroot: there is no account 'nobody' in {path}\n")
    assert path.read_bytes() == before


def test_a_note_is_a_line(user: Say) -> None:
    for note in ("a\nb", "x" * 201):
        assert "a note is one line" in user("add", "ann", "--generate", "--note", note).err


def test_no_terminal_and_no_option(user: Say) -> None:
    refused = user("add", "ann")
    assert refused.code == 1
    assert "--password-stdin" in refused.err
    assert user("add", "ann", "--generate", "--password-stdin").code == 2


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


async def test_at_a_terminal_it_is_asked_twice(say: Say, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers: list[str] = ["secret", "Secret", "secret", "secret"]
    monkeypatch.setattr(sys, "stdin", Terminal())
    monkeypatch.setattr("getpass.getpass", lambda prompt: answers.pop(0))
    refused = say("user", "add", "ann", "--file", str(path))
    assert (refused.code, "not the same" in refused.err) == (1, True)
    assert not path.exists()
    assert say("user", "add", "ann", "--file", str(path)).code == 0
    assert await check(path, "ann", "secret") == Granted("ann")

    def end(prompt: str) -> str:
        raise EOFError

    monkeypatch.setattr("getpass.getpass", end)
    assert "nothing was changed" in say("user", "passwd", "ann", "--file", str(path)).err


def test_a_broken_file_is_left_alone(user: Say, path: Path) -> None:
    path.write_text("{")
    for arguments in (("list",), ("add", "ann", "--generate"), ("remove", "ann")):
        refused = user(*arguments)
        assert refused.code == 1
        assert f"{path}:1: is not JSON" in refused.err
    assert path.read_text() == "{"


def test_the_file_of_a_virtual_server(say: Say, tmp_path: Path) -> None:
    config = tmp_path / "mailroot.toml"
    config.write_text(
        '[access.authentication]\nscram = false\n[virtual_server.one.general]\nlisten = ["127.0.0.1:2501"]\n'
        'mailroot = "one"\n[virtual_server.two.general]\nlisten = ["127.0.0.1:2502"]\nmailroot = "two"\n'
    )
    made = say("user", "add", "ann", "--generate", "--config", str(config))
    assert made.code == 0
    account = read_accounts(tmp_path / "accounts.json").get("ann")
    assert account is not None
    assert account.scram is None
    config.write_text(config.read_text() + '[virtual_server.two.access.authentication]\naccounts = "two.json"\n')
    refused = say("user", "list", "--config", str(config))
    assert (refused.code, "one, two" in refused.err) == (1, True)
    assert str(tmp_path / "two.json") in say("user", "list", "--config", str(config), "--server", "two").out
    assert "ann" in say("user", "list", "--config", str(config), "--server", "one").out
    refused = say("user", "list", "--config", str(config), "--server", "three")
    assert (refused.code, "there is no virtual server 'three'" in refused.err) == (1, True)
    assert say("user", "list", "--config", str(tmp_path / "none.toml")).code == 1


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has access lists")
def test_a_file_that_others_may_read_is_told_of(user: Say, path: Path) -> None:
    user("add", "ann", "--generate")
    path.chmod(0o644)
    assert "every account of this computer may read it" in user("list").err
    user("add", "eve", "--generate")
    assert path.stat().st_mode & 0o777 == 0o600
