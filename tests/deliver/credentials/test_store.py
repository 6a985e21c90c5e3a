"""Stored logins: what is on disk, who can read it, and who has its turn."""

import asyncio
import json
import multiprocessing
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mailroot.deliver.credentials.store import LoginStore, StoredLogin, StoreError

pytestmark = pytest.mark.quick

SECRET = "1.AXoAz-refresh-token-of-the-relay"
LOGIN = StoredLogin(SECRET, "https://login.example/token", "relay", "relay@example.com", 5.0, 9.0, "hash")


@pytest.fixture
def store(tmp_path: Path) -> LoginStore:
    return LoginStore(tmp_path / "logins")


def test_what_is_kept_comes_back_also_in_another_process(store: LoginStore, tmp_path: Path) -> None:
    assert store.read("Office") is None
    assert store.stamp("Office") is None
    store.write("Office", LOGIN)
    store.write("office", StoredLogin("other", "e", "c"))
    again = LoginStore(tmp_path / "logins")
    assert again.read("Office") == LOGIN
    assert again.read("office") == StoredLogin("other", "e", "c")
    first = store.stamp("Office")
    store.write("Office", StoredLogin("third", "e", "c"))
    assert store.stamp("Office") != first
    assert store.read("Office") == StoredLogin("third", "e", "c")
    assert store.remove("Office")
    assert not store.remove("Office")
    assert store.read("Office") is None
    assert store.read("office") is not None


def test_nothing_of_it_can_be_read_without_the_key(store: LoginStore, tmp_path: Path) -> None:
    for name in ("one", "two"):
        store.write(name, LOGIN)
    folder = tmp_path / "logins"
    files = sorted(folder.iterdir())
    assert len(files) == 4  # two logins, the key, and its lock
    content = b"".join(file.read_bytes() for file in files)
    for text in (SECRET, "relay@example.com", "login.example"):
        assert text.encode() not in content
    if os.name != "nt":
        assert folder.stat().st_mode & 0o777 == 0o700
        assert {file.stat().st_mode & 0o077 for file in files} == {0}
    assert SECRET not in repr(LOGIN) + repr(store)


def test_a_file_is_that_of_its_name(store: LoginStore, tmp_path: Path) -> None:
    store.write("one", LOGIN)
    [file] = (tmp_path / "logins").glob("*.login")
    store.write("two", LOGIN)
    [other] = {*(tmp_path / "logins").glob("*.login")} - {file}
    other.write_bytes(file.read_bytes())
    with pytest.raises(StoreError, match="route login two"):
        store.read("two")


@pytest.mark.parametrize("octets", [b"", b"nonsense", b"x" * 300_000])
def test_a_file_that_is_none(store: LoginStore, tmp_path: Path, octets: bytes) -> None:
    store.write("one", LOGIN)
    [file] = (tmp_path / "logins").glob("*.login")
    file.write_bytes(octets)
    with pytest.raises(StoreError, match="log in again") as raised:
        store.read("one")
    assert not raised.value.passing


def test_a_key_that_is_lost(store: LoginStore, tmp_path: Path) -> None:
    store.write("one", LOGIN)
    (tmp_path / "logins" / "key").unlink()
    lost = LoginStore(tmp_path / "logins")
    with pytest.raises(StoreError, match="key of stored logins is missing"):
        lost.read("one")
    lost.write("one", LOGIN)
    assert LoginStore(tmp_path / "logins").read("one") == LOGIN
    (tmp_path / "logins" / "key").write_text("nonsense")
    with pytest.raises(StoreError, match="not one that Mailroot made"):
        LoginStore(tmp_path / "logins").read("one")


def test_an_unfinished_write_leaves_the_last_one(
    store: LoginStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.write("one", LOGIN)

    def fail(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(StoreError, match="cannot be written: no space left on device") as raised:
        store.write("one", StoredLogin("new", "e", "c"))
    assert raised.value.passing
    assert store.read("one") == LOGIN
    assert not list((tmp_path / "logins").glob(".*"))


def test_it_is_synced_before_it_is_there(store: LoginStore, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []
    real_fsync, real_replace = os.fsync, Path.replace

    def fsync(file: int) -> None:
        steps.append("sync")
        real_fsync(file)

    def replace(self: Path, target: Any) -> Path:
        steps.append("replace")
        return real_replace(self, target)

    store.write("one", LOGIN)
    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "replace", replace)
    store.write("one", LOGIN)
    assert steps[:2] == ["sync", "replace"]
    assert steps[2:] == ([] if os.name == "nt" else ["sync"])  # of the folder


async def test_turns(store: LoginStore, tmp_path: Path) -> None:
    other = LoginStore(tmp_path / "logins")
    order: list[str] = []

    async def take(which: LoginStore, name: str) -> None:
        async with which.turn("one"):
            order.append(f"{name} begins")
            await asyncio.sleep(0.02)
            order.append(f"{name} ends")

    await asyncio.gather(take(store, "a"), take(other, "b"), take(store, "c"))
    assert sorted(order[::2]) == ["a begins", "b begins", "c begins"]
    assert all(order[n].split()[0] == order[n + 1].split()[0] for n in (0, 2, 4))

    async with store.turn("one"):
        async with other.turn("two"):
            pass
        with pytest.raises(StoreError, match="another process is using this login") as raised:
            async with other.turn("one", patience=0.03):
                pass
    assert raised.value.passing


def _hold(folder: Path, taken: Any, end: Any) -> None:
    async def hold() -> None:
        async with LoginStore(folder).turn("one"):
            taken.set()
            end.wait(60)

    asyncio.run(hold())


async def test_another_process_has_its_turn_until_it_dies(store: LoginStore, tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    taken, end = context.Event(), context.Event()
    process = context.Process(target=_hold, args=(tmp_path / "logins", taken, end))
    process.start()
    try:
        assert await asyncio.to_thread(taken.wait, 60)
        with pytest.raises(StoreError, match="another process"):
            async with store.turn("one", patience=0.05):
                pass
    finally:
        process.kill()
        process.join(30)
    async with store.turn("one"):
        pass


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be written"):
        LoginStore(tmp_path / "file").write("one", LOGIN)


class TestKeyring:
    """The key is in the system's keyring."""

    @pytest.fixture
    def kept(self) -> Iterator[dict[tuple[str, str], str]]:
        keyring = pytest.importorskip("keyring")
        backend = pytest.importorskip("keyring.backend")
        kept: dict[tuple[str, str], str] = {}

        class Memory(backend.KeyringBackend):  # type: ignore[misc, name-defined]
            priority = 1

            def get_password(self, service: str, username: str) -> str | None:
                return kept.get((service, username))

            def set_password(self, service: str, username: str, password: str) -> None:
                kept[service, username] = password

            def delete_password(self, service: str, username: str) -> None:
                del kept[service, username]

        before = keyring.get_keyring()
        keyring.set_keyring(Memory())
        yield kept
        keyring.set_keyring(before)

    def test_nothing_in_the_folder_opens_it(self, kept: dict[tuple[str, str], str], tmp_path: Path) -> None:
        LoginStore(tmp_path, keyring=True).write("one", LOGIN)
        assert LoginStore(tmp_path, keyring=True).read("one") == LOGIN
        [(service, user)] = kept
        assert (service, user) == ("mailroot", str(tmp_path))
        content = b"".join(file.read_bytes() for file in tmp_path.iterdir())
        assert kept[service, user].encode() not in content
        with pytest.raises(StoreError, match="key of stored logins is missing"):
            LoginStore(tmp_path).read("one")
        kept.clear()
        with pytest.raises(StoreError, match="not in the system's keyring"):
            LoginStore(tmp_path, keyring=True).read("one")

    def test_where_there_is_none(self, tmp_path: Path) -> None:
        keyring = pytest.importorskip("keyring")
        from keyring.backends.fail import Keyring

        before = keyring.get_keyring()
        keyring.set_keyring(Keyring())
        try:
            with pytest.raises(StoreError, match=r"cannot be used \(NoKeyringError\).*keyring = false"):
                LoginStore(tmp_path, keyring=True).write("one", LOGIN)
        finally:
            keyring.set_keyring(before)

    def test_where_it_is_not_installed(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(__import__("sys").modules, "keyring", None)
        with pytest.raises(StoreError, match="pip install"):
            LoginStore(tmp_path, keyring=True).write("one", LOGIN)


def test_a_newer_version_may_keep_more(store: LoginStore, tmp_path: Path) -> None:
    from cryptography.fernet import Fernet

    store.write("one", LOGIN)
    [file] = (tmp_path / "logins").glob("*.login")
    cipher = Fernet((tmp_path / "logins" / "key").read_bytes())
    content = json.loads(cipher.decrypt(file.read_bytes()))
    file.write_bytes(cipher.encrypt(json.dumps(content | {"more": 1}).encode()))
    assert store.read("one") == LOGIN
