"""Keeping the accounts file: who is in it, new accounts and passwords, and what may no longer log in.

It works on the file alone, whether a server runs or not: one that does takes a change at its next login. No hash
ever leaves here.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from mailroot.clock import Clock
from mailroot.operations.servers import Conflict, Invalid, NotFound, OperationError
from mailroot.policy.auth.account_file import (
    Account,
    Accounts,
    AccountsError,
    changing_accounts,
    check_name,
    read_accounts,
)
from mailroot.policy.auth.nt_hash import nt_hash
from mailroot.policy.auth.passwords import SCRAM_ITERATIONS, generate_password, hash_password, new_password
from mailroot.smtp.sasl.scram import Verifier
from mailroot.system import is_readable_by_others

__all__ = ["AccountInfo", "AccountList", "generate_password"]

_LONGEST_NOTE = 200


@dataclass(frozen=True, slots=True)
class AccountInfo:
    """An account, for people. `logins`: the kinds it has what is needed for: "basic", "scram", "ntlm". Times are
    seconds since the epoch; `changed` is when its password was last set."""

    name: str
    logins: tuple[str, ...]
    disabled: bool
    note: str
    created: float
    changed: float

    @classmethod
    def of(cls, account: Account) -> "AccountInfo":
        kinds = {"basic": True, "scram": account.scram is not None, "ntlm": account.nt_hash is not None}
        return cls(
            account.name,
            tuple(kind for kind, there in kinds.items() if there),
            account.disabled,
            account.note,
            account.created,
            account.changed,
        )


class AccountList:
    """The accounts of one file. Every method may block for a moment and raises OperationError."""

    def __init__(self, file: Path, clock: Clock, *, scram: bool = True, owner_like: Path | None = None) -> None:
        """`scram`: new passwords get a SCRAM verifier. `owner_like`: what belongs to the account that the server
        runs as; a new file will, too."""
        self.file = file
        self._clock = clock
        self._scram = scram
        self._owner_like = owner_like

    @property
    def warning(self) -> str:
        """What wants attention about the file itself; "" if nothing does."""
        try:
            exposed = is_readable_by_others(self.file)
        except OSError:
            return ""
        if exposed:
            return f"{self.file}: every account of this computer may read it; right would be mode 600"
        return ""

    def accounts(self) -> list[AccountInfo]:
        """All of them, by name; none where there is no file yet."""
        with _words():
            if not self.file.exists():
                return []
            accounts = read_accounts(self.file)
        return sorted(map(AccountInfo.of, accounts), key=lambda account: account.name.casefold())

    def add(self, name: str, password: str, *, ntlm: bool = False, note: str = "") -> AccountInfo:
        """A new account. `ntlm`: keep the NT hash as well, which is as good as the password itself."""
        try:
            check_name(name)
            prepared = new_password(password)
        except ValueError as error:
            raise Invalid(str(error)) from None
        if len(note) > _LONGEST_NOTE or not note.isprintable():
            raise Invalid(f"a note is one line of at most {_LONGEST_NOTE} characters")
        hashed, now = hash_password(prepared), self._clock.now()
        with self._changing() as accounts:
            there = accounts.get(name)
            if there is not None:
                raise Conflict(
                    f"there is an account '{there.name}' already; `mailroot user passwd` sets its password"
                )
            account = Account(
                name,
                hashed,
                self._verifier(accounts, name, prepared),
                nt_hash(password) if ntlm else None,
                False,
                note,
                now,
                now,
            )
            accounts.put(account)
        return AccountInfo.of(account)

    def set_password(self, name: str, password: str, *, ntlm: bool | None = None) -> AccountInfo:
        """A new password. `ntlm` None: with an NT hash if there was one."""
        try:
            prepared = new_password(password)
        except ValueError as error:
            raise Invalid(str(error)) from None
        hashed, now = hash_password(prepared), self._clock.now()
        with self._changing() as accounts:
            account = self._known(accounts, name)
            keep = account.nt_hash is not None if ntlm is None else ntlm
            account = replace(
                account,
                password=hashed,
                scram=self._verifier(accounts, account.name, prepared),
                nt_hash=nt_hash(password) if keep else None,
                changed=now,
            )
            accounts.put(account)
        return AccountInfo.of(account)

    def set_disabled(self, name: str, disabled: bool) -> AccountInfo:
        """A disabled account keeps its password and lets nobody in."""
        with self._changing() as accounts:
            account = replace(self._known(accounts, name), disabled=disabled)
            accounts.put(account)
        return AccountInfo.of(account)

    def remove(self, name: str) -> AccountInfo:
        with self._changing() as accounts:
            account = self._known(accounts, name)
            accounts.remove(account.name)
        return AccountInfo.of(account)

    def known(self, name: str) -> AccountInfo:
        """The account of that name, in any case."""
        with _words():
            return AccountInfo.of(self._known(read_accounts(self.file) if self.file.exists() else Accounts(), name))

    def _known(self, accounts: Accounts, name: str) -> Account:
        account = accounts.get(name)
        if account is None:
            raise NotFound(f"there is no account '{name}' in {self.file}")
        return account

    def _verifier(self, accounts: Accounts, name: str, password: str) -> Verifier | None:
        return Verifier.of(password, accounts.salt(name), SCRAM_ITERATIONS) if self._scram else None

    @contextmanager
    def _changing(self) -> Iterator[Accounts]:
        with _words(), changing_accounts(self.file, owner_like=self._owner_like) as accounts:
            yield accounts


@contextmanager
def _words() -> Iterator[None]:
    try:
        yield
    except AccountsError as error:
        raise OperationError(str(error)) from None
