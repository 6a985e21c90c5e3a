"""Logins with an access token: XOAUTH2 and OAUTHBEARER (RFC 7628), never any other, and never in the clear."""

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from mailroot.deliver.credentials.base import (
    Ending,
    LoginImpossible,
    LoginServer,
    Token,
    TokenSource,
    without_secrets,
)
from mailroot.deliver.credentials.fetch import TokenKeeper
from mailroot.deliver.credentials.mailboxes import Mailboxes
from mailroot.mail.address import Address
from mailroot.smtp.sasl.base import Mechanism
from mailroot.smtp.sasl.oauth import OAUTHBEARER, XOAUTH2, OAuthBearer, XOAuth2

if TYPE_CHECKING:
    from mailroot.net.https import Endpoints

_MOST_REMEMBERED = 32


class Tokens(Protocol):
    """Sources of tokens: one for all mailboxes, or one for each."""

    def source(self, mailbox: str) -> TokenSource:
        """Where this mailbox's tokens come from."""
        ...

    def endings(self) -> tuple[Ending, ...]:
        """When what tokens are got with ends. Reads files."""
        ...

    def forgive(self) -> None:
        """The next request may be made at once."""
        ...

    async def close(self) -> None:
        """End what is under way."""
        ...


class OneForAll:
    """The same tokens for all mailboxes: those of a program, or of one account."""

    __slots__ = ("_endings", "_endpoints", "_keeper")

    def __init__(
        self, keeper: TokenKeeper, endpoints: "Endpoints", endings: Callable[[], tuple[Ending, ...]]
    ) -> None:
        self._keeper = keeper
        self._endpoints = endpoints
        self._endings = endings

    def source(self, mailbox: str) -> TokenSource:
        return self._keeper

    def endings(self) -> tuple[Ending, ...]:
        return self._endings()

    def forgive(self) -> None:
        self._keeper.forgive()

    async def close(self) -> None:
        await self._keeper.close()
        await self._endpoints.close()


class TokenCredentials:
    """The Credentials of a route whose hosts want tokens."""

    __slots__ = ("_mailboxes", "_order", "_remembered", "_tokens")

    def __init__(
        self,
        tokens: Tokens,
        mailboxes: Mailboxes,
        order: tuple[str, ...] = (XOAUTH2, OAUTHBEARER),
    ) -> None:
        """`order`: the mechanisms, the better first."""
        self._tokens = tokens
        self._mailboxes = mailboxes
        self._order = order
        # What was sent of late: a host may repeat it later, and not every token looks like one.
        self._remembered: deque[str] = deque(maxlen=_MOST_REMEMBERED)

    def account(self, sender: Address | None) -> str:
        return self._mailboxes.of(sender)

    async def token(self, sender: Address | None, *, fresh: bool = False) -> Token:
        """The token that a message of this sender is sent with, for who wants to look at it. Raises
        LoginImpossible, TokenTrouble."""
        token = await self._tokens.source(self.account(sender)).token(fresh=fresh)
        if token.value not in self._remembered:
            self._remembered.append(token.value)
        return token

    async def mechanism(self, server: LoginServer, sender: Address | None, *, fresh: bool = False) -> Mechanism:
        mailbox = self.account(sender)
        if not server.secured:
            raise LoginImpossible(f"{server.host} offers no TLS, and a token is never sent in the clear.")
        name = next((one for one in self._order if one in server.mechanisms), "")
        if not name:
            told = ", ".join(server.mechanisms)
            raise LoginImpossible(
                f"{server.host} offers no login with tokens (XOAUTH2 or OAUTHBEARER)"
                + (f", only by {told}." if told else "; it offers none at all.")
            )
        token = await self.token(sender, fresh=fresh)
        if name == XOAUTH2:
            return XOAuth2(mailbox, token.value)
        return OAuthBearer(mailbox, token.value, host=server.host, port=server.port)

    def without_secrets(self, text: str) -> str:
        return without_secrets(text, self._remembered)

    def endings(self) -> tuple[Ending, ...]:
        return self._tokens.endings()

    def forgive(self) -> None:
        self._tokens.forgive()

    async def close(self) -> None:
        await self._tokens.close()
        self._remembered.clear()
