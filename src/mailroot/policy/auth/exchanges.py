"""The logins that our own accounts can do: PLAIN, LOGIN, SCRAM-SHA-256 and EXTERNAL, each from its first octets to
its verdict.

Nothing a client sends is in a reason, but for the name it claims. What the octets mean is in `smtp.sasl`.
"""

import asyncio
import secrets
from collections.abc import Callable, Sequence

from mailroot.policy.auth.account_file import Account, account_key
from mailroot.policy.auth.accounts import AccountFile
from mailroot.policy.auth.base import (
    Challenge,
    Channel,
    Denied,
    Granted,
    Malformed,
    PasswordSource,
    Step,
    Verdict,
)
from mailroot.smtp.sasl.base import BindingMismatch, SaslError
from mailroot.smtp.sasl.external import read_external
from mailroot.smtp.sasl.login import PASSWORD_CHALLENGE, USERNAME_CHALLENGE, read_login
from mailroot.smtp.sasl.plain import read_plain
from mailroot.smtp.sasl.scram import ScramServer

_LONGEST_NAME = 256
_SAME_TIME = 1.0


class Passwords:
    """The places that know passwords, asked in order. A user that one of them knows is decided by it alone."""

    __slots__ = ("_same_time", "_sources")

    def __init__(self, sources: Sequence[PasswordSource], *, same_time: float = _SAME_TIME) -> None:
        """`same_time`: with several sources every refusal takes so many seconds, since how many of them were asked
        would tell where a user is known."""
        self._sources = tuple(sources)
        self._same_time = same_time if len(self._sources) > 1 else 0.0

    @property
    def has_accounts(self) -> bool:
        return any(source.has_accounts for source in self._sources)

    async def check(self, user: str, password: str) -> Verdict:
        """Who this is. A name in no source is refused like a wrong password."""
        loop = asyncio.get_running_loop()
        until = loop.time() + self._same_time
        verdict = await self._ask(user, password)
        if self._same_time and isinstance(verdict, Denied):
            await asyncio.sleep(max(0.0, until - loop.time()))
        return verdict

    async def _ask(self, user: str, password: str) -> Verdict:
        if not password:
            # A directory takes a bind without a password for nobody's, and allows it (RFC 4513 §5.1.2).
            return Denied("empty password", user)
        if len(user) > _LONGEST_NAME or "\0" in user or "\0" in password:
            return Denied("no such account", user[:_LONGEST_NAME])
        for source in self._sources:
            verdict = await source.check(user, password)
            if verdict is not None:
                return verdict
        return Denied("no such account", user)


def anybody(user: str) -> bool:
    """May try."""
    return True


class PlainExchange:
    """PLAIN: one message with everything."""

    __slots__ = ("_may_try", "_passwords", "user")

    def __init__(self, passwords: Passwords, may_try: Callable[[str], bool] = anybody) -> None:
        """`may_try` is asked with the name before the password is looked at."""
        self._passwords = passwords
        self._may_try = may_try
        self.user = ""

    async def step(self, response: bytes | None) -> Step:
        if response is None:
            return Challenge(b"")
        try:
            given = read_plain(response)
        except SaslError as error:
            return Malformed(str(error))
        self.user = given.username[:_LONGEST_NAME]
        if not _is_same(given.authzid, given.username):
            return Denied("wants to act as another account", self.user)
        if not self._may_try(self.user):
            return Denied("may not try now", self.user)
        return await self._passwords.check(given.username, given.password)


class LoginExchange:
    """LOGIN: the name, perhaps with the command itself, and the password; always asked for by a 334, without which
    .NET believes in no success."""

    __slots__ = ("_name", "_passwords", "user")

    def __init__(self, passwords: Passwords) -> None:
        self._passwords = passwords
        self._name: str | None = None
        self.user = ""

    async def step(self, response: bytes | None) -> Step:
        if response is None:
            return Challenge(USERNAME_CHALLENGE)
        if self._name is None:
            self._name = read_login(response)
            self.user = self._name[:_LONGEST_NAME]
            return Challenge(PASSWORD_CHALLENGE)
        return await self._passwords.check(self._name, read_login(response))


class ScramExchange:
    """SCRAM-SHA-256 and -PLUS (RFC 5802, RFC 7677), for accounts of the accounts file.

    SMTP has no room for data with a success: the server's signature is a challenge, which the client answers with
    nothing (RFC 4422 §3.6).
    """

    __slots__ = ("_account", "_accounts", "_scram", "_step", "user")

    def __init__(self, accounts: AccountFile, channel: Channel, *, plus: bool, plus_offered: bool) -> None:
        self._accounts = accounts
        self._account: Account | None = None
        self._scram = ScramServer(
            secrets.token_urlsafe(24), plus=plus, plus_offered=plus_offered, bindings=channel.bindings
        )
        self._step = 0
        self.user = ""

    async def step(self, response: bytes | None) -> Step:
        if response is None:
            return Challenge(b"")
        self._step += 1
        try:
            match self._step:
                case 1:
                    return self._first(response)
                case 2:
                    return self._final(response)
                case _:
                    return self._end(response)
        except BindingMismatch as error:
            return Denied(str(error), self.user)
        except SaslError as error:
            return Malformed(str(error))

    def _first(self, response: bytes) -> Step:
        name = self._scram.first(response)
        self.user = name[:_LONGEST_NAME]
        if not _is_same(self._scram.authzid, name):
            return Denied("wants to act as another account", self.user)
        self._account, verifier = self._accounts.verifier(name)
        return Challenge(self._scram.challenge(verifier))

    def _final(self, response: bytes) -> Step:
        proof = self._scram.final(response)
        account = self._account
        if account is None:
            return Denied("no such account with a SCRAM verifier", self.user)
        self.user = account.name
        if proof is None:
            return Denied("wrong password", self.user)
        if account.disabled:
            return Denied("account is disabled", self.user)
        return Challenge(proof)

    def _end(self, response: bytes) -> Step:
        if response:
            return Malformed("something after the proof")
        return Granted(self.user)


class ExternalExchange:
    """EXTERNAL: the certificate has said it."""

    __slots__ = ("user",)

    def __init__(self, user: str) -> None:
        self.user = user

    async def step(self, response: bytes | None) -> Step:
        if response is None:
            return Challenge(b"")
        try:
            authzid = read_external(response)
        except SaslError as error:
            return Malformed(str(error))
        if not _is_same(authzid, self.user):
            return Denied("wants to act as another account than its certificate's", self.user)
        return Granted(self.user)


def _is_same(authzid: str, user: str) -> bool:
    """Whether whom it wants to act as is itself."""
    return not authzid or account_key(authzid) == account_key(user)
