"""NTLM with the accounts of the accounts file that are allowed to use it (MS-NLMP), alone or within SPNEGO.

On Windows it is the system's business, see `sspi`.
"""

import secrets
import time
from typing import Protocol

from mailroot.policy.auth.account_file import Account
from mailroot.policy.auth.base import Channel
from mailroot.policy.auth.contexts import LoginRefused
from mailroot.smtp.sasl.base import BindingMismatch, SaslError
from mailroot.smtp.sasl.ntlm import Claim, NotTaken, NtlmServer, NtlmSession
from mailroot.smtp.sasl.spnego import Opening, SpnegoServer

_NOBODYS_HASH = secrets.token_bytes(16)
"""What logins of unknown names are checked with, so that they take as long."""

_FROM_1601_TO_1970 = 11_644_473_600


class NtAccounts(Protocol):
    """Accounts, some of them with an NT hash."""

    @property
    def has_nt_hashes(self) -> bool:
        """Whether anybody could log in by NTLM."""
        ...

    def find(self, name: str) -> Account | None:
        """The account of that name, in any case, disabled or not."""
        ...


class NtlmContext:
    """NTLM, as AUTH NTLM has it. `user` is the account's name in the accounts file. Takes no time, so it needs no
    thread."""

    __slots__ = ("_accounts", "_channel", "_server", "_session", "_step", "complete", "user")

    def __init__(self, accounts: NtAccounts, channel: Channel) -> None:
        self._accounts = accounts
        self._channel = channel
        now = int((time.time() + _FROM_1601_TO_1970) * 10_000_000)
        self._server = NtlmServer(channel.fqdn.partition(".")[0], secrets.token_bytes(8), now)
        self._session: NtlmSession | None = None
        self._step = 0
        self.user = ""
        self.complete = False

    @property
    def session(self) -> NtlmSession:
        """When `complete`."""
        assert self._session is not None
        return self._session

    async def step(self, token: bytes) -> bytes:
        self._step += 1
        match self._step:
            case 1:
                return self._server.challenge(token)
            case 2:
                self._authenticate(token)
                return b""
            case _:
                raise SaslError("an NTLM message too many")

    def _authenticate(self, token: bytes) -> None:
        try:
            claim = self._server.read(token)
        except NotTaken as error:
            self.user = error.user
            raise LoginRefused(str(error)) from None
        account = self._account(claim)
        self.user = claim.user if account is None else account.name
        nt_hash = account.nt_hash if account is not None else None
        try:
            session = self._server.verify(claim, nt_hash or _NOBODYS_HASH, self._channel.bindings)
        except BindingMismatch as error:
            raise LoginRefused(str(error)) from None
        if account is None:
            raise LoginRefused("no such account")
        if nt_hash is None:
            raise LoginRefused("the account may not use NTLM")
        if session is None:
            raise LoginRefused("wrong password")
        if account.disabled:
            raise LoginRefused("account is disabled")
        self._session = session
        self.complete = True

    def _account(self, claim: Claim) -> Account | None:
        """Clients split jo@example.com, and put a domain beside a name that has none with us."""
        with_domain = self._accounts.find(f"{claim.user}@{claim.domain}") if claim.domain else None
        return with_domain or self._accounts.find(claim.user)

    async def wrap(self, octets: bytes) -> bytes:
        if not self.session.can_sign:
            raise LoginRefused("an NTLM client that did not ask for signatures")
        return self.session.wrap(octets)

    async def unwrap(self, token: bytes) -> bytes:
        octets = self.session.unwrap(token)
        if octets is None:
            raise LoginRefused("a signature that is not the client's")
        return octets


class NtlmInSpnego:
    """NTLM, chosen within SPNEGO."""

    __slots__ = ("_inner", "_opening", "_spnego")

    def __init__(self, inner: NtlmContext, opening: Opening) -> None:
        self._inner = inner
        self._spnego = SpnegoServer(opening)
        self._opening = True

    @property
    def user(self) -> str:
        return self._inner.user

    @property
    def complete(self) -> bool:
        return self._inner.complete

    async def step(self, token: bytes) -> bytes:
        """The first token is the one that `opening` was read from."""
        message = self._spnego.opened() if self._opening else self._spnego.answered(token)
        self._opening = False
        if message is None:
            return self._spnego.ask()
        answer = await self._inner.step(message)
        if not self._inner.complete:
            return self._spnego.ask(answer)
        try:
            return self._spnego.done(self._inner.session)
        except BindingMismatch as error:
            raise LoginRefused(str(error)) from None

    async def wrap(self, octets: bytes) -> bytes:
        return await self._inner.wrap(octets)

    async def unwrap(self, token: bytes) -> bytes:
        return await self._inner.unwrap(token)
