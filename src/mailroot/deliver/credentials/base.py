"""What a login at a next hop is made of: credentials, the tokens some of them need, and what may go wrong.

Credentials are asked for a SASL mechanism for each new connection. Those with tokens ask a TokenSource, which knows
where tokens come from and asks for them seldom. No secret is in a repr, an error or a text of this room.
"""

import re
from base64 import b64encode
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol
from urllib.parse import quote, quote_plus

from mailroot.mail.address import Address
from mailroot.smtp.sasl.base import Mechanism

_LONGEST_SAID = 600
_BLANK = "[secret]"
_SHORTEST_SECRET = 4
# What begins so is a JSON object in base64: signed tokens and assertions. The second is Google's.
_TOKENS = re.compile(r"eyJ[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]*)*|ya29\.[A-Za-z0-9._-]{8,}")


class Fault(StrEnum):
    """Whose fault it is that there is no token."""

    OURS = "ours"
    """Settings, consents or rights: somebody has to do something."""
    THEIRS = "theirs"
    """The issuer cannot now; it passes by itself."""
    NETWORK = "network"
    """The issuer was not reached, or something else answered in its place."""


class LoginImpossible(Exception):
    """There can be no login: the host does not offer what is needed, or the sender has no mailbox. The text is for
    people. `mailbox`: this sender only; others may be able to."""

    def __init__(self, reason: str, *, mailbox: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.mailbox = mailbox


class TokenTrouble(Exception):
    """There is no token.

    `reason` says in a sentence or two what is wrong and what to do. `code` is what the issuer calls it
    ("AADSTS7000222", "invalid_client", …) or one of ours ("unreachable", "login_required", "store"). `retry`:
    another time may do, without anybody doing something. `mailbox`: this mailbox only; others may get theirs.
    `said` is the issuer's own text, without secrets, "" if it said nothing. `wait` is the least number of seconds
    until it makes sense to ask again, None if that is not known.
    """

    def __init__(
        self,
        reason: str,
        *,
        fault: Fault,
        code: str,
        retry: bool,
        mailbox: bool = False,
        said: str = "",
        wait: float | None = None,
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.fault = fault
        self.code = code
        self.retry = retry
        self.mailbox = mailbox
        self.said = said
        self.wait = wait

    def again(self, wait: float | None, *, mailbox: bool | None = None) -> "TokenTrouble":
        """The same trouble, to be raised once more; `wait` in seconds."""
        return TokenTrouble(
            self.reason,
            fault=self.fault,
            code=self.code,
            retry=self.retry,
            mailbox=self.mailbox if mailbox is None else mailbox,
            said=self.said,
            wait=wait,
        )


@dataclass(frozen=True, slots=True)
class Token:
    """An access token. Times are seconds since the epoch, by our clock.

    All but `value`, `obtained` and `expires` is what the token says about itself, if it can be read (a JWT): it is
    not checked, and good for telling people what they set up. `audience` is whom it is for, `user` whose it is (""
    for a program's own), `app` the program's identifier.
    """

    value: str = field(repr=False)
    obtained: float
    expires: float
    scopes: tuple[str, ...] = ()
    roles: tuple[str, ...] = ()
    audience: str = ""
    tenant: str = ""
    user: str = ""
    app: str = ""


class TokenSource(Protocol):
    """Where tokens for one mailbox, or for all, come from. Shared by all connections."""

    async def token(self, *, fresh: bool = False) -> Token:
        """A token that is good for a while. `fresh`: the last one was refused, another is wanted; one that is less
        than a minute old counts as such. Raises TokenTrouble."""
        ...


class Grant(Protocol):
    """One way to get a token. Asks each time: who remembers is `fetch`."""

    async def fetch(self) -> Token:
        """Ask for a token. Raises TokenTrouble."""
        ...

    def stamp(self) -> object:
        """Something that changes when a new attempt has better prospects, as after another login. Quick."""
        ...


@dataclass(frozen=True, slots=True)
class LoginServer:
    """The host that is logged in to: its name, its port, the SASL mechanisms it offers (after STARTTLS, if there
    was one), whether the connection has TLS, and its channel bindings by name (RFC 5929)."""

    host: str
    port: int
    mechanisms: tuple[str, ...]
    secured: bool
    bindings: tuple[tuple[str, bytes], ...] = ()


@dataclass(frozen=True, slots=True)
class Ending:
    """A secret that ends: what it is, in words ("client secret of app 1234"), and when, seconds since the epoch."""

    what: str
    ends: float


class Credentials(Protocol):
    """A route's login."""

    def account(self, sender: Address | None) -> str:
        """Who is logged in as, for a message of this sender (None: the null sender). Connections can be shared by
        messages with the same account. Raises LoginImpossible."""
        ...

    async def mechanism(self, server: LoginServer, sender: Address | None, *, fresh: bool = False) -> Mechanism:
        """A login for a new connection, used once. `fresh`: the last token was refused. Raises LoginImpossible,
        TokenTrouble."""
        ...

    def without_secrets(self, text: str) -> str:
        """What a host said to a login, for logs and reports: some repeat in it what they were sent."""
        ...

    def endings(self) -> tuple[Ending, ...]:
        """The secrets of which the end is known. Reads files: call it in a thread."""
        ...

    def forgive(self) -> None:
        """Somebody asks for another attempt at once, whatever went wrong before."""
        ...

    async def close(self) -> None:
        """End what is under way."""
        ...


def without_secrets(text: str, secrets: Iterable[str] = ()) -> str:
    """The text without these secrets, in the forms in which they are sent, and without anything like a token."""
    for secret in secrets:
        # What is shorter is found in any text.
        if len(secret) < _SHORTEST_SECRET:
            continue
        coded = b64encode(secret.encode()).decode()
        forms = {secret, quote(secret, safe=""), quote_plus(secret), coded, coded.rstrip("=")}
        for form in sorted(forms, key=len, reverse=True):
            text = text.replace(form, _BLANK)
    return _TOKENS.sub("[token]", text)


def shown(text: object, secrets: Iterable[str] = ()) -> str:
    """What a stranger said, for people: one line, not long, no control characters, no secrets."""
    if not isinstance(text, str):
        return ""
    # A secret may stand anywhere in it, also where it is cut off.
    safe = without_secrets(text[: 16 * _LONGEST_SAID], secrets)
    line = " ".join("".join(one if one.isprintable() else " " for one in safe).split())
    return line if len(line) <= _LONGEST_SAID else line[: _LONGEST_SAID - 1] + "…"
