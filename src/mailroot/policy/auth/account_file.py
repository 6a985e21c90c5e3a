"""The accounts file's format, how it is read, and how it is changed: one writer at a time, whole or not at all."""

import binascii
import hmac
import json
import os
import secrets
import time
from base64 import b64decode, b64encode
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mailroot.policy.auth.passwords import is_password_hash
from mailroot.smtp.sasl.saslprep import saslprep
from mailroot.smtp.sasl.scram import LEAST_ITERATIONS, MOST_ITERATIONS, Verifier
from mailroot.system import FileLock, keep_owner, make_private, sync_folder

_FORMAT = 1
_LARGEST_FILE = 16 * 1024 * 1024
_LONGEST_NAME = 256
_LONGEST_NOTE = 1000
_SALT_LENGTH = 16
_LOCK_PATIENCE = 10.0
_REPLACE_PATIENCE = 2.0
_PAUSE = 0.02


class AccountsError(ValueError):
    """The accounts file cannot be read, understood or changed; the text names it and is for an administrator.
    `passing`: it may be another time, with the file as it is."""

    def __init__(self, text: str, *, passing: bool = False) -> None:
        super().__init__(text)
        self.passing = passing

    @classmethod
    def of(cls, path: Path, error: OSError, what: str = "cannot be read") -> "AccountsError":
        return cls(f"{path}: {what}: {(error.strerror or str(error)).lower()}", passing=True)


@dataclass(frozen=True, slots=True)
class Account:
    """One account. `password` is an argon2id hash. `scram` and `nt_hash` (16 octets) are None where it may not log
    in that way. Times are seconds since the epoch; `changed` is that of the password."""

    name: str
    password: str = field(repr=False)
    scram: Verifier | None = field(default=None, repr=False)
    nt_hash: bytes | None = field(default=None, repr=False)
    disabled: bool = False
    note: str = ""
    created: float = 0.0
    changed: float = 0.0


def account_key(name: str) -> str:
    """What two writings of the same name have in common: case does not count, as in Windows."""
    try:
        return saslprep(name).casefold()
    except ValueError:
        return name.casefold()


def check_name(name: str) -> None:
    """Raises ValueError, in words, for what cannot be an account's name."""
    if not name or name != name.strip():
        raise ValueError("a name has letters, and no spaces around it")
    if len(name) > _LONGEST_NAME:
        raise ValueError(f"a name of {len(name)} characters; the longest is {_LONGEST_NAME}")
    if not name.isprintable():
        raise ValueError("a name with control characters")
    try:
        saslprep(name, stored=True)
    except ValueError as error:
        raise ValueError(f"not every program could send this name: {error}") from None


class Accounts:
    """The accounts of a file, by name; and the secret that made-up salts come from."""

    __slots__ = ("_by_key", "_secret")

    def __init__(self, secret: bytes = b"") -> None:
        self._secret = secret or secrets.token_bytes(32)
        self._by_key: dict[str, Account] = {}

    def __len__(self) -> int:
        return len(self._by_key)

    def __iter__(self) -> Iterator[Account]:
        return iter(self._by_key.values())

    def get(self, name: str) -> Account | None:
        return self._by_key.get(account_key(name))

    def put(self, account: Account) -> None:
        """Add it, or replace the one of its name."""
        self._by_key[account_key(account.name)] = account

    def remove(self, name: str) -> None:
        """Raises KeyError."""
        del self._by_key[account_key(name)]

    def salt(self, name: str) -> bytes:
        """The salt of a name, whether there is such an account or not: SCRAM shows it to everybody who asks, and
        nobody learns from it who exists."""
        return hmac.digest(self._secret, account_key(name).encode(errors="replace"), "sha256")[:_SALT_LENGTH]

    def as_json(self) -> dict[str, Any]:
        """The file's content; full of secrets."""
        ordered = sorted(self, key=lambda account: account_key(account.name))
        return {"format": _FORMAT, "secret": _text(self._secret), "accounts": [_written(one) for one in ordered]}


def read_accounts(path: Path) -> Accounts:
    """The accounts in a file. Raises AccountsError."""
    try:
        with path.open("rb") as file:
            octets = file.read(_LARGEST_FILE + 1)
    except OSError as error:
        raise AccountsError.of(path, error) from None
    if len(octets) > _LARGEST_FILE:
        raise AccountsError(f"{path}: is larger than 16 MiB; that is no accounts file")
    try:
        # Editors on Windows put a byte order mark before UTF-8.
        content = json.loads(octets.decode("utf-8-sig"))
    except json.JSONDecodeError as error:
        raise AccountsError(f"{path}:{error.lineno}: is not JSON: {error.msg}") from None
    except (ValueError, RecursionError):
        raise AccountsError(f"{path}: is not JSON in UTF-8") from None
    try:
        return _accounts(content)
    except _WrongError as wrong:
        raise AccountsError(f"{path}: {wrong}; right would be a file that `mailroot user` wrote") from None


@contextmanager
def changing_accounts(path: Path, *, owner_like: Path | None = None) -> Iterator[Accounts]:
    """The accounts, to be changed; written when the block ends well, with nobody else writing in between.

    A new file gets the owner of `owner_like`, so that a service with an account of its own can read what an
    administrator made; one that is replaced keeps its owner. Raises AccountsError.
    """
    try:
        lock = FileLock(path.with_name(path.name + ".lock"))
    except OSError as error:
        raise AccountsError.of(path, error, "cannot be locked") from None
    try:
        _acquire(lock, path)
        existed = path.exists()
        accounts = read_accounts(path) if existed else Accounts()
        yield accounts
        try:
            owner = path if existed else owner_like
            if owner is not None:
                keep_owner(lock.path, owner)
            _replace(path, accounts, owner)
        except OSError as error:
            raise AccountsError.of(path, error, "cannot be written") from None
    finally:
        lock.close()


def _acquire(lock: FileLock, path: Path) -> None:
    until = time.monotonic() + _LOCK_PATIENCE
    try:
        while not lock.try_acquire():
            if time.monotonic() >= until:
                raise AccountsError(f"{path}: another program is changing it", passing=True)
            time.sleep(_PAUSE)
    except OSError as error:
        raise AccountsError.of(path, error, "cannot be locked") from None


def _replace(path: Path, accounts: Accounts, owner_like: Path | None) -> None:
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    text = json.dumps(accounts.as_json(), indent=1, ensure_ascii=False) + "\n"
    try:
        with draft.open("xb") as file:
            # Before there is anything in it to read.
            make_private(draft)
            if owner_like is not None:
                keep_owner(draft, owner_like)
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())
        _move(draft, path)
    except BaseException:
        with suppress(OSError):
            draft.unlink()
        raise
    sync_folder(path.parent)


def _move(draft: Path, path: Path) -> None:
    """On Windows a file cannot be replaced in the moment in which a server reads it."""
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


class _WrongError(Exception):
    """What is wrong in the file's content; names the place, and never a value."""


def _text(octets: bytes) -> str:
    return b64encode(octets).decode()


def _written(account: Account) -> dict[str, Any]:
    written: dict[str, Any] = {"name": account.name, "password": account.password}
    if account.scram is not None:
        written["scram_sha_256"] = {
            "salt": _text(account.scram.salt),
            "iterations": account.scram.iterations,
            "stored_key": _text(account.scram.stored_key),
            "server_key": _text(account.scram.server_key),
        }
    if account.nt_hash is not None:
        written["nt_hash"] = account.nt_hash.hex()
    written |= {"disabled": account.disabled, "note": account.note}
    return written | {"created": account.created, "changed": account.changed}


def _accounts(content: object) -> Accounts:
    if not isinstance(content, dict):
        raise _WrongError("is not an object")
    if content.get("format") != _FORMAT:
        raise _WrongError("'format' is not one that this version knows")
    _only(content, ("format", "secret", "accounts"), "the file")
    secret = _octets(content.get("secret"), "'secret'", 16)
    listed = content.get("accounts")
    if not isinstance(listed, list):
        raise _WrongError("'accounts' is not a list")
    accounts = Accounts(secret)
    for number, entry in enumerate(listed, 1):
        account = _account(entry, f"account {number}")
        if accounts.get(account.name) is not None:
            raise _WrongError(f"{account.name!r} is there twice")
        accounts.put(account)
    return accounts


_KEYS = ("name", "password", "scram_sha_256", "nt_hash", "disabled", "note", "created", "changed")


def _account(entry: object, where: str) -> Account:
    if not isinstance(entry, dict):
        raise _WrongError(f"{where} is not an object")
    _only(entry, _KEYS, where)
    name = entry.get("name")
    if not isinstance(name, str):
        raise _WrongError(f"{where} has no 'name'")
    try:
        check_name(name)
    except ValueError as error:
        raise _WrongError(f"'name' of {where}: {error}") from None
    where = f"account {name!r}"
    password = entry.get("password")
    if not isinstance(password, str) or not is_password_hash(password):
        raise _WrongError(f"'password' of {where} is not an argon2id hash")
    disabled, note = entry.get("disabled", False), entry.get("note", "")
    if not isinstance(disabled, bool) or not isinstance(note, str):
        raise _WrongError(f"'disabled' or 'note' of {where} is not of its kind")
    scram, nt_hash = entry.get("scram_sha_256"), entry.get("nt_hash")
    return Account(
        name,
        password,
        None if scram is None else _verifier(scram, where),
        None if nt_hash is None else _nt_hash(nt_hash, where),
        disabled,
        note,
        _time(entry.get("created", 0.0), where),
        _time(entry.get("changed", 0.0), where),
    )


def _verifier(entry: object, where: str) -> Verifier:
    if not isinstance(entry, dict):
        raise _WrongError(f"'scram_sha_256' of {where} is not an object")
    _only(entry, ("salt", "iterations", "stored_key", "server_key"), f"'scram_sha_256' of {where}")
    iterations = entry.get("iterations")
    if type(iterations) is not int or not LEAST_ITERATIONS <= iterations <= MOST_ITERATIONS:
        raise _WrongError(f"'iterations' of {where} is not from {LEAST_ITERATIONS} to {MOST_ITERATIONS}")
    return Verifier(
        _octets(entry.get("salt"), f"'salt' of {where}", 8),
        iterations,
        _octets(entry.get("stored_key"), f"'stored_key' of {where}", 32, 32),
        _octets(entry.get("server_key"), f"'server_key' of {where}", 32, 32),
    )


def _nt_hash(text: object, where: str) -> bytes:
    try:
        octets = bytes.fromhex(text) if isinstance(text, str) else b""
    except ValueError:
        octets = b""
    if len(octets) != 16:
        raise _WrongError(f"'nt_hash' of {where} is not 32 hexadecimal digits")
    return octets


def _octets(text: object, what: str, least: int, most: int = 64) -> bytes:
    try:
        octets = b64decode(text, validate=True) if isinstance(text, str) else b""
    except (binascii.Error, ValueError):
        octets = b""
    if not least <= len(octets) <= most:
        raise _WrongError(f"{what} is not base64 of its length")
    return octets


def _time(value: object, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e11:
        raise _WrongError(f"a time of {where} is not in seconds since 1970")
    return float(value)


def _only(entry: dict[str, Any], known: tuple[str, ...], where: str) -> None:
    for key in entry:
        if key not in known:
            raise _WrongError(f"{where} has a key {key[:40]!r}, which this version does not know")
