"""The accounts file as a server sees it: who is let in, what is told, and how much work it was.

Here a password is checked by comparing it with what stands in the hash's place for a salt: the work itself is
tested in test_passwords.
"""

import asyncio
import json
import os
import threading
from pathlib import Path

import pytest

from mailroot.clock import ManualClock
from mailroot.events import AccountsLoaded, AccountsRefused, Bus, Event
from mailroot.policy.auth.account_file import Account, AccountsError, changing_accounts, read_accounts
from mailroot.policy.auth.accounts import AccountFile
from mailroot.policy.auth.base import Denied, Granted, Unavailable
from mailroot.policy.auth.passwords import NOBODYS_HASH, CannotCheck, PasswordWork
from mailroot.smtp.sasl.scram import Verifier

pytestmark = pytest.mark.quick


def hashed(password: str) -> str:
    """Stands for a hash of the password, and can be read."""
    return f"$argon2id$v=19$m=19456,t=2,p=1${password.encode().hex():A<22}$" + "A" * 43


class Work(PasswordWork):
    """Counts what it is asked."""

    def __init__(self) -> None:
        super().__init__(verify=lambda kept, password: kept == hashed(password))
        self.asked: list[str] = []

    async def verify(self, kept: str, password: str) -> bool:
        self.asked.append(kept)
        return await super().verify(kept, password)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "accounts.json"


def put(path: Path, name: str, password: str, *, disabled: bool = False, scram: bool = False) -> None:
    with changing_accounts(path) as accounts:
        verifier = Verifier.of(password, accounts.salt(name), 4096) if scram else None
        accounts.put(Account(name, hashed(password), verifier, None, disabled))


@pytest.fixture
def work() -> Work:
    return Work()


@pytest.fixture
def heard() -> list[Event]:
    return []


@pytest.fixture
def file(path: Path, work: Work, heard: list[Event]) -> AccountFile:
    put(path, "ann", "secret")
    put(path, "gone", "secret", disabled=True)
    bus = Bus(ManualClock())
    bus.subscribe(lambda _, event: heard.append(event))
    return AccountFile(path, bus=bus, server="default", work=work)


async def test_who_is_let_in(file: AccountFile) -> None:
    assert await file.check("ann", "secret") == Granted("ann")
    assert await file.check("ANN", "secret") == Granted("ann")
    assert await file.check("ann", "Secret") == Denied("wrong password", "ann")
    assert await file.check("gone", "secret") == Denied("account is disabled", "gone")
    assert await file.check("gone", "guess") == Denied("wrong password", "gone")
    assert await file.check("nobody", "secret") is None


@pytest.mark.parametrize("user", ["ann", "nobody", "gone", "", "x" * 5000, "a\0b", "\ue000"])
@pytest.mark.parametrize("password", ["secret", "guess", "", "x" * 5000, "\ue000"])
async def test_the_work_is_the_same_for_everybody(file: AccountFile, work: Work, user: str, password: str) -> None:
    await file.check(user, password)
    assert len(work.asked) == 1
    assert work.asked[0].rsplit("$", 2)[0] == NOBODYS_HASH.rsplit("$", 2)[0]


async def test_a_password_that_was_right_is_not_worked_out_again(file: AccountFile, work: Work) -> None:
    for _ in range(3):
        assert await file.check("ann", "secret") == Granted("ann")
    assert len(work.asked) == 1
    for n in range(2, 4):
        assert await file.check("ann", "guess") == Denied("wrong password", "ann")
        assert len(work.asked) == n


async def test_what_is_remembered_ends_with_the_password(file: AccountFile, path: Path, work: Work) -> None:
    await file.check("ann", "secret")
    put(path, "ann", "another")
    assert await file.check("ann", "secret") == Denied("wrong password", "ann")
    assert await file.check("ann", "another") == Granted("ann")
    put(path, "ann", "another", disabled=True)
    before = len(work.asked)
    assert await file.check("ann", "another") == Denied("account is disabled", "ann")
    assert len(work.asked) == before + 1


async def test_passwords_are_the_same_however_they_are_typed(file: AccountFile, path: Path) -> None:
    put(path, "eve", "größe")
    assert await file.check("eve", "gro\u0308ße") == Granted("eve")


async def test_when_there_is_too_much_to_do(path: Path) -> None:
    put(path, "ann", "secret")

    def fail(kept: str, password: str) -> bool:
        raise CannotCheck("no memory")

    file = AccountFile(path, work=PasswordWork(verify=fail))
    assert await file.check("ann", "secret") == Unavailable("no memory")
    assert await file.check("nobody", "secret") == Unavailable("no memory")
    file.close()
    assert await file.check("ann", "secret") == Unavailable("the server is stopping")


def test_names_are_just_names(path: Path) -> None:
    for name in ("CORP\\ann", "ann@example.com", "Größe"):
        put(path, name, "x")
    file = AccountFile(path)
    for wanted, name in (("corp\\ANN", "CORP\\ann"), ("Ann@Example.com", "ann@example.com"), ("GRÖSSE", "Größe")):
        account = file.find(wanted)
        assert account is not None
        assert account.name == name
    assert file.find("ann") is None


def test_what_there_is(path: Path) -> None:
    file = AccountFile(path)
    assert (file.has_accounts, file.has_scram, file.has_nt_hashes) == (False, False, False)
    put(path, "gone", "x", disabled=True, scram=True)
    assert (file.has_accounts, file.has_scram, file.has_nt_hashes) == (False, False, False)
    put(path, "ann", "x")
    assert (file.has_accounts, file.has_scram, file.has_nt_hashes) == (True, False, False)
    put(path, "eve", "x", scram=True)
    with changing_accounts(path) as accounts:
        accounts.put(Account("old", hashed("x"), nt_hash=bytes(16)))
    assert (file.has_accounts, file.has_scram, file.has_nt_hashes) == (True, True, True)


def test_a_changed_file_is_read_and_a_broken_one_is_not(file: AccountFile, path: Path, heard: list[Event]) -> None:
    good = path.read_text()
    path.write_text(good[:-20])
    for _ in range(2):
        assert file.find("ann") is not None
    (refused,) = heard
    assert isinstance(refused, AccountsRefused)
    assert refused.server == "default"
    assert refused.reason.startswith(f"{path}:")
    assert file.trouble == refused.reason
    path.write_text(good.replace('"ann"', '"eve"'))
    assert file.find("ann") is None
    assert file.find("eve") is not None
    assert heard[1:] == [AccountsLoaded("default", str(path), 2)]
    assert file.trouble == ""


def test_a_file_that_is_gone_lets_nobody_in(file: AccountFile, path: Path) -> None:
    path.unlink()
    assert file.find("ann") is None
    assert not file.has_accounts


def test_a_file_that_cannot_be_read_is_tried_again(
    file: AccountFile, path: Path, heard: list[Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    put(path, "eve", "x")
    with monkeypatch.context() as patch:

        def fail(*_: object) -> None:
            raise PermissionError(13, "Permission denied")

        patch.setattr(Path, "open", fail)
        for _ in range(2):
            assert file.find("eve") is None
            assert file.find("ann") is not None
    assert heard == [AccountsRefused("default", f"{path}: cannot be read: permission denied")]
    assert file.find("eve") is not None


def test_scram_shows_nobody_who_exists(file: AccountFile, path: Path) -> None:
    put(path, "eve", "secret", scram=True)
    account, real = file.verifier("EVE")
    assert account is not None
    assert account.scram == real
    shown = {}
    for name in ("nobody", "NOBODY", "ann"):
        nobody, made_up = file.verifier(name)
        assert nobody is None
        shown[name] = made_up.salt
        assert len(made_up.salt) == len(real.salt)
        assert file.verifier(name)[1].stored_key != made_up.stored_key
    assert shown["nobody"] == shown["NOBODY"] != shown["ann"]
    # After a restart it is the same, and when there is such an account one day, too.
    assert AccountFile(path).verifier("nobody")[1].salt == shown["nobody"]
    put(path, "nobody", "secret", scram=True)
    assert file.verifier("nobody")[1].salt == shown["nobody"]


def test_the_file_keeps_everything(path: Path) -> None:
    account = Account("ann", hashed("x"), Verifier.of("x", bytes(16), 5000), bytes(range(16)), True, "ä", 1.5, 2.5)
    with changing_accounts(path) as accounts:
        accounts.put(account)
        salt = accounts.salt("ann")
    read = read_accounts(path)
    assert read.get("ANN") == account
    assert read.salt("Ann") == salt
    for secret in ("hash", account.password, "stored"):
        assert secret not in repr(account)


def test_the_file_is_for_nobody_else(path: Path) -> None:
    put(path, "ann", "x")
    for one in path.parent.iterdir():
        assert one.name in ("accounts.json", "accounts.json.lock")
        if one.stat().st_mode & 0o777 != 0o666:  # what Windows says of every file
            assert one.stat().st_mode & 0o777 == 0o600


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root gives files away")
def test_what_an_administrator_writes_belongs_to_the_service(path: Path) -> None:
    service = path.parent / "mailroot"
    service.mkdir()
    os.chown(service, 4711, 4712)
    for owner_like in (service, None):
        with changing_accounts(path, owner_like=owner_like) as accounts:
            accounts.put(Account("ann", hashed("x")))
        for file in (path, path.with_name("accounts.json.lock")):
            assert (file.stat().st_uid, file.stat().st_gid) == (4711, 4712)
            assert file.stat().st_mode & 0o777 == 0o600


def test_writers_take_turns(path: Path) -> None:
    def write(first: int) -> None:
        for n in range(first, first + 5):
            with changing_accounts(path) as accounts:
                accounts.put(Account(f"user{n}", hashed("x")))

    threads = [threading.Thread(target=write, args=(5 * n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(account.name for account in read_accounts(path)) == sorted(f"user{n}" for n in range(20))


def test_a_writer_does_not_wait_for_ever(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mailroot.policy.auth.account_file._LOCK_PATIENCE", 0.0)
    busy = pytest.raises(AccountsError, match="another program is changing it")
    with changing_accounts(path), busy, changing_accounts(path):
        pass


def test_what_fails_leaves_the_old_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(path, "ann", "x")
    before = path.read_bytes()

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mailroot.policy.auth.account_file.os.fsync", fail)
    with pytest.raises(AccountsError, match="cannot be written: no space left"):
        put(path, "eve", "x")
    monkeypatch.undo()
    with pytest.raises(ZeroDivisionError), changing_accounts(path) as accounts:
        accounts.remove("ann")
        raise ZeroDivisionError
    assert path.read_bytes() == before
    assert len(list(path.parent.iterdir())) == 2


def broken(path: Path, change: str, to: str) -> str:
    put(path, "ann", "x", scram=True)
    text = json.dumps(json.loads(path.read_text()))
    assert change in text
    path.write_text(text.replace(change, to))
    with pytest.raises(AccountsError) as caught:
        AccountFile(path)
    assert str(caught.value).startswith(str(path))
    return str(caught.value).removeprefix(str(path))


@pytest.mark.parametrize(
    ("change", "to", "said"),
    [
        ('{"format"', '"format"', "is not JSON"),
        ('{"format": 1', '[{"format": 1', "is not JSON"),
        ('"format": 1', '"format": 2', "'format' is not one that this version knows"),
        ('"secret": "', '"secret": "%', "'secret' is not base64 of its length"),
        ('"accounts": [', '"accounts": 1, "more": [', "the file has a key 'more'"),
        ('"accounts": [{', '"accounts": [1, {', "account 1 is not an object"),
        ('"name": "ann"', '"name": ""', "'name' of account 1: a name has letters"),
        ('"name": "ann"', '"name": 1', "account 1 has no 'name'"),
        ('"name": "ann"', '"name": "ann", "admin": true', "account 1 has a key 'admin'"),
        ("$argon2id$", "$argon2i$", "'password' of account 'ann' is not an argon2id hash"),
        ("m=19456", "m=9999999", "'password' of account 'ann' is not an argon2id hash"),
        ("t=2", "t=99", "'password' of account 'ann' is not an argon2id hash"),
        ("p=1", "p=0", "'password' of account 'ann' is not an argon2id hash"),
        ('"iterations": 4096', '"iterations": 10', "'iterations' of account 'ann' is not from 4096"),
        ('"iterations": 4096', '"iterations": true', "'iterations' of account 'ann' is not from 4096"),
        ('"stored_key": "', '"stored_key": "AAAA', "'stored_key' of account 'ann' is not base64 of its length"),
        ('"disabled": false', '"disabled": 0', "'disabled' or 'note' of account 'ann'"),
        ('"disabled": false', '"disabled": false, "nt_hash": "ab"', "'nt_hash' of account 'ann'"),
        ('"created": 0.0', '"created": NaN', "a time of account 'ann'"),
        ('"created": 0.0', f'"created": {"9" * 5000}', "is not JSON in UTF-8"),
        ('"note": ""', '"note": ' + "[" * 100_000, "is not JSON in UTF-8"),
    ],
)
def test_a_file_that_is_none_is_refused_and_no_secret_is_told(path: Path, change: str, to: str, said: str) -> None:
    told = broken(path, change, to)
    assert said in told
    assert "19456" not in told


def test_the_same_name_twice(path: Path) -> None:
    put(path, "ann", "x")
    content = json.loads(path.read_text())
    content["accounts"].append(content["accounts"][0] | {"name": "ANN"})
    path.write_text(json.dumps(content))
    with pytest.raises(AccountsError, match="'ANN' is there twice"):
        AccountFile(path)


def test_an_editor_may_put_a_byte_order_mark_before_it(path: Path) -> None:
    put(path, "ann", "x")
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert AccountFile(path).find("ann") is not None


def test_a_file_without_an_end(path: Path) -> None:
    path.write_bytes(b" " * (16 * 1024 * 1024 + 1))
    with pytest.raises(AccountsError, match="larger than 16 MiB"):
        AccountFile(path)


def test_a_folder_in_its_place(path: Path) -> None:
    path.mkdir()
    with pytest.raises(AccountsError, match="cannot be read"):
        AccountFile(path)


async def test_many_logins_at_once_cost_one_each(file: AccountFile, work: Work) -> None:
    verdicts = await asyncio.gather(*(file.check("ann", "secret") for _ in range(20)))
    assert set(verdicts) == {Granted("ann")}
    assert await file.check("ann", "secret") == Granted("ann")
    assert len(work.asked) <= 20
