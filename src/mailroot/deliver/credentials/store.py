"""Logins that were made by hand, kept: refresh tokens, encrypted, each in a file of its own.

The key is in a private file beside them, so that a copy of a single file is of no use; or in the system's keyring,
so that a copy of the whole folder is not. A file is replaced whole, and is safe on disk when `write` returns.
Several processes share the folder: whoever uses a refresh token takes its turn first, because using it may roll it,
and with many issuers whoever then uses the old one loses the login.
"""

import asyncio
import hashlib
import json
import os
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mailroot.system import FileLock, keep_owner, make_private, sync_folder

_FORMAT = 1
_LARGEST_FILE = 256 * 1024
_KEY = "key"
_KEYRING_SERVICE = "mailroot"
_TURN_PATIENCE = 30.0
_REPLACE_PATIENCE = 2.0
_PAUSE = 0.02


class StoreError(Exception):
    """A stored login cannot be read or written; the text is for an administrator, and no secret is in it.
    `passing`: another time may do."""

    def __init__(self, text: str, *, passing: bool = False) -> None:
        super().__init__(text)
        self.passing = passing


@dataclass(frozen=True, slots=True)
class StoredLogin:
    """A refresh token, where and for which client it is good, and whose it is ("" if unknown). `kept` is when it
    came, `ends` when it ends if that is known, seconds since the epoch. `origin`: a hash of the refresh token of
    the settings that it descends from, "" if it is from a login."""

    refresh_token: str = field(repr=False)
    endpoint: str
    client: str
    account: str = ""
    kept: float = 0.0
    ends: float | None = None
    origin: str = ""


class LoginStore:
    """A folder of stored logins, by name: a route's. All but `turn` and `stamp` block; all raise StoreError but
    `stamp`."""

    __slots__ = ("_cipher", "_folder", "_keyring")

    def __init__(self, folder: Path, *, keyring: bool = False) -> None:
        """`keyring`: the key is in the system's keyring, not in a file. Nothing is touched yet."""
        self._folder = folder
        self._keyring = keyring
        self._cipher: Any = None

    def __repr__(self) -> str:
        return f"LoginStore({str(self._folder)!r})"

    @asynccontextmanager
    async def turn(self, name: str, patience: float = _TURN_PATIENCE) -> AsyncIterator[None]:
        """While it lasts, no other process and no other task uses this login. Raises StoreError where another has
        its turn for longer than `patience` seconds."""
        path = self._path(name).with_suffix(".lock")
        try:
            await asyncio.to_thread(self._prepare)
            lock = FileLock(path)
        except OSError as error:
            raise _failed(path, error, "cannot be locked") from None
        try:
            until = asyncio.get_running_loop().time() + patience
            try:
                while not lock.try_acquire():
                    if asyncio.get_running_loop().time() >= until:
                        raise StoreError(f"{path}: another process is using this login", passing=True)
                    await asyncio.sleep(_PAUSE)
            except OSError as error:
                raise _failed(path, error, "cannot be locked") from None
            yield
        finally:
            lock.close()

    def stamp(self, name: str) -> object:
        """Changes when the login was written; None without one. Quick."""
        try:
            found = self._path(name).stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_ino

    def read(self, name: str) -> StoredLogin | None:
        """The login of this name, None if there is none."""
        path = self._path(name)
        try:
            with path.open("rb") as file:
                octets = file.read(_LARGEST_FILE + 1)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _failed(path, error, "cannot be read") from None
        return self._opened(path, octets, name)

    def write(self, name: str, login: StoredLogin) -> None:
        """Keep it in place of the last one. On return it is safe on disk."""
        path = self._path(name)
        try:
            self._prepare()
        except OSError as error:
            raise _failed(path, error, "cannot be written") from None
        content = json.dumps({"format": _FORMAT, "name": name, **asdict(login)}).encode()
        encrypted: bytes = self._open_cipher(new=True).encrypt(content)
        try:
            _replace(path, encrypted)
        except OSError as error:
            raise _failed(path, error, "cannot be written") from None

    def remove(self, name: str) -> bool:
        """Forget a login; whether there was one."""
        path = self._path(name)
        try:
            path.unlink()
            sync_folder(self._folder)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise _failed(path, error, "cannot be removed") from None
        return True

    # Files

    def _path(self, name: str) -> Path:
        # Names are as people write them; file names are not, and some file systems take "A" for "a".
        return self._folder / f"{hashlib.sha256(name.encode()).hexdigest()[:24]}.login"

    def _prepare(self) -> None:
        if not self._folder.is_dir():
            self._folder.mkdir(parents=True, exist_ok=True)
            make_private(self._folder)
            keep_owner(self._folder, self._folder.parent)

    def _opened(self, path: Path, octets: bytes, name: str) -> StoredLogin:
        from cryptography.fernet import InvalidToken

        try:
            content = json.loads(self._open_cipher(new=False).decrypt(octets))
        except (InvalidToken, ValueError, RecursionError):
            content = None
        if not isinstance(content, dict) or content.get("format") != _FORMAT or content.get("name") != name:
            where = "in the system's keyring" if self._keyring else f"in {self._folder / _KEY}"
            raise StoreError(
                f"{path}: cannot be read with the key {where}; log in again with `mailroot route login {name}`"
            )
        known = {one: content[one] for one in StoredLogin.__dataclass_fields__ if one in content}
        return StoredLogin(**known)

    # The key

    def _open_cipher(self, *, new: bool) -> Any:
        from cryptography.fernet import Fernet

        if self._cipher is None:
            key = self._keyring_key(new=new) if self._keyring else self._file_key(new=new)
            try:
                self._cipher = Fernet(key)
            except ValueError:
                raise StoreError(
                    f"{self._folder}: the key of stored logins is not one that Mailroot made"
                ) from None
        return self._cipher

    def _file_key(self, *, new: bool) -> bytes:
        path = self._folder / _KEY
        try:
            found = _read_key(path)
            if found is None and new:
                lock = FileLock(self._folder / f"{_KEY}.lock")
                try:
                    lock.acquire()
                    found = _read_key(path)
                    if found is None:
                        found = _new_key()
                        _replace(path, found)
                finally:
                    lock.close()
        except OSError as error:
            raise _failed(path, error, "cannot be used") from None
        if found is None:
            raise StoreError(
                f"{path}: the key of stored logins is missing; log in again with `mailroot route login`"
            )
        return found

    def _keyring_key(self, *, new: bool) -> bytes:
        try:
            import keyring
            from keyring.errors import KeyringError
        except ImportError:
            raise StoreError(
                "the package 'keyring' is not installed; right would be `pip install mailroot[keyring]`, or "
                "keyring = false"
            ) from None
        user = str(self._folder)
        try:
            found = keyring.get_password(_KEYRING_SERVICE, user)
            if found is None and new:
                keyring.set_password(_KEYRING_SERVICE, user, _new_key().decode())
                # Two processes at once: what is there in the end counts.
                found = keyring.get_password(_KEYRING_SERVICE, user)
        except KeyringError as error:
            raise StoreError(
                f"the system's keyring cannot be used ({type(error).__name__}); is there one for the account that "
                "Mailroot runs as? Else right would be keyring = false",
                passing=True,
            ) from None
        if found is None:
            raise StoreError(
                "the key of stored logins is not in the system's keyring; log in again with `mailroot route login`"
            )
        return str(found).encode()


def _new_key() -> bytes:
    from cryptography.fernet import Fernet

    return Fernet.generate_key()


def _read_key(path: Path) -> bytes | None:
    try:
        with path.open("rb") as file:
            return file.read(1024).strip()
    except FileNotFoundError:
        return None


def _replace(path: Path, octets: bytes) -> None:
    """Whole or not at all, private, and safe on disk."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with draft.open("xb") as file:
            # Before there is anything in it to read.
            make_private(draft)
            keep_owner(draft, path.parent)
            file.write(octets)
            file.flush()
            os.fsync(file.fileno())
        _move(draft, path)
    except BaseException:
        with suppress(OSError):
            draft.unlink()
        raise
    sync_folder(path.parent)


def _move(draft: Path, path: Path) -> None:
    """On Windows a file cannot be replaced in the moment in which somebody reads it."""
    until = time.monotonic() + _REPLACE_PATIENCE
    while True:
        try:
            draft.replace(path)
        except PermissionError:
            if os.name != "nt" or time.monotonic() >= until:
                raise
            time.sleep(_PAUSE)
        else:
            return


def _failed(path: Path, error: OSError, what: str) -> StoreError:
    return StoreError(f"{path}: {what}: {(error.strerror or str(error)).lower()}", passing=True)
