"""The accounts file: who may log in, and what is kept of their passwords.

One JSON file, for this account of the computer alone, replaced as a whole; `mailroot user` keeps it, and a running
server sees a change at its next login. `account_file` reads and writes its format; this is what a server asks it.
"""

import secrets
from dataclasses import dataclass
from pathlib import Path

from mailroot.events import AccountsLoaded, AccountsRefused, Bus
from mailroot.policy.auth.account_file import Account, Accounts, AccountsError, read_accounts
from mailroot.policy.auth.base import Denied, Granted, Unavailable, Verdict
from mailroot.policy.auth.passwords import (
    NOBODYS_HASH,
    SCRAM_ITERATIONS,
    CannotCheck,
    KnownGood,
    PasswordWork,
    given_password,
)
from mailroot.smtp.sasl.scram import Verifier

_Mark = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class _Content:
    accounts: Accounts
    enabled: bool
    scram: bool
    ntlm: bool

    @classmethod
    def of(cls, accounts: Accounts) -> "_Content":
        enabled = [account for account in accounts if not account.disabled]
        return cls(
            accounts,
            bool(enabled),
            any(account.scram is not None for account in enabled),
            any(account.nt_hash is not None for account in enabled),
        )


class AccountFile:
    """The accounts file of a virtual server, as a source of passwords and of verifiers.

    Every question looks first whether the file changed; a changed one is read at once (a thousand accounts take
    some milliseconds). One that cannot be read or understood is refused, and the accounts it had stay in force; one
    that is gone has none.
    """

    name = "accounts file"

    def __init__(
        self, path: Path, *, bus: Bus | None = None, server: str = "", work: PasswordWork | None = None
    ) -> None:
        """Raises AccountsError, a ValueError, for a file that cannot be used. `bus` hears of later changes."""
        self.path = path
        self.trouble = ""
        """Why the file as it is now was not taken; "" if it was."""
        self._bus = bus
        self._server = server
        self._work = work or PasswordWork()
        self._good = KnownGood()
        self._mark = _mark(path)
        self._content = _Content.of(Accounts() if self._mark is None else read_accounts(path))

    @property
    def has_accounts(self) -> bool:
        return self._now().enabled

    @property
    def has_scram(self) -> bool:
        """Whether anybody could log in by SCRAM."""
        return self._now().scram

    @property
    def has_nt_hashes(self) -> bool:
        """Whether anybody could log in by NTLM."""
        return self._now().ntlm

    def find(self, name: str) -> Account | None:
        """The account of that name, in any case, disabled or not."""
        return self._now().accounts.get(name)

    def verifier(self, name: str) -> tuple[Account | None, Verifier]:
        """The account, and what SCRAM is to go on with: for names without a verifier one made up, with a salt that
        stays the same, so that nobody can tell which names there are (RFC 5802 §9)."""
        accounts = self._now().accounts
        made_up = Verifier(accounts.salt(name), SCRAM_ITERATIONS, secrets.token_bytes(32), secrets.token_bytes(32))
        account = accounts.get(name)
        if account is None or account.scram is None:
            return None, made_up
        return account, account.scram

    async def check(self, user: str, password: str) -> Verdict | None:
        account = self.find(user)
        hashed = NOBODYS_HASH if account is None else account.password
        given = given_password(password)
        mark = self._good.mark(hashed, given)
        if account is not None and not account.disabled and self._good.knows(mark):
            return Granted(account.name)
        try:
            right = await self._work.verify(hashed, given)
        except CannotCheck as error:
            return Unavailable(str(error))
        if account is None:
            return None
        if not right:
            return Denied("wrong password", account.name)
        if account.disabled:
            return Denied("account is disabled", account.name)
        self._good.add(mark)
        return Granted(account.name)

    def close(self) -> None:
        self._work.close()

    def _now(self) -> _Content:
        """The accounts in force, after a look at the file."""
        try:
            mark = _mark(self.path)
            if mark == self._mark:
                return self._content
            content = _Content.of(Accounts() if mark is None else read_accounts(self.path))
        except AccountsError as error:
            if str(error) != self.trouble:
                self.trouble = str(error)
                self._publish(AccountsRefused(self._server, self.trouble))
            # What is wrong with its text is wrong until it changes; what could not be read may be in a moment.
            if not error.passing:
                self._mark = mark
            return self._content
        self._mark, self._content, self.trouble = mark, content, ""
        self._publish(AccountsLoaded(self._server, str(self.path), len(content.accounts)))
        return content

    def _publish(self, event: AccountsLoaded | AccountsRefused) -> None:
        if self._bus is not None:
            self._bus.publish(event)


def _mark(path: Path) -> _Mark | None:
    """What changes when the file is replaced; None: there is none. Raises AccountsError."""
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise AccountsError.of(path, error) from None
    return status.st_mtime_ns, status.st_size, status.st_ino
