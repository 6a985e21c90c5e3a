"""What a login is made of: the channel it comes through, the exchange it is, and its end (RFC 4422, RFC 4954).

A mechanism's exchange says what to send next; where it needs to know a secret, a token or an account it asks a
source. What the octets of a mechanism mean is in `smtp.sasl`; how an exchange looks on the wire, in `smtp.server`.
"""

from dataclasses import dataclass
from typing import Protocol

from mailroot.policy.visit import IPAddress


@dataclass(frozen=True, slots=True)
class Channel:
    """Where a login comes from. `client` is the peer, unmapped. `fqdn` is our name. `certificate` is the client's
    own in DER, None where it showed none. `bindings` are the channel bindings there are, by their names
    ("tls-unique", "tls-server-end-point"; RFC 5929); empty in the clear."""

    client: IPAddress
    fqdn: str
    tls: bool = False
    certificate: bytes | None = None
    bindings: tuple[tuple[str, bytes], ...] = ()


@dataclass(frozen=True, slots=True)
class Challenge:
    """The client is asked for more: the octets of a 334, before base64.

    `denied`: the login has failed already, and this challenge only tells the client why (RFC 7628 §3.2.2). Whatever
    the client answers, the exchange ends with this same verdict. A client that cancels or goes away instead has
    failed no less. `skip_empty`: an empty line is no answer to it, and one is passed over without a word."""

    octets: bytes
    denied: "Denied | None" = None
    skip_empty: bool = False


@dataclass(frozen=True, slots=True)
class Granted:
    """The client is who it says. `user` is the account's name as the policy knows it."""

    user: str


@dataclass(frozen=True, slots=True)
class Denied:
    """It is not. `reason` is for the log, never for the client; `user` whom it claimed to be, "" if unknown."""

    reason: str
    user: str = ""


@dataclass(frozen=True, slots=True)
class Malformed:
    """What the client sent is not in the form of the mechanism: 501, and no failed login."""

    reason: str


@dataclass(frozen=True, slots=True)
class Unavailable:
    """It cannot be known now (directory or token server out of reach): 454, and no failed login."""

    reason: str


Verdict = Granted | Denied | Unavailable
Step = Challenge | Verdict | Malformed


class Exchange(Protocol):
    """One AUTH, from its first octets to its end; used once. May wait for a directory or a token server, within
    its own deadline. Its repr shows no secret."""

    @property
    def user(self) -> str:
        """Whom the client claims to be, as far as is known; "" before."""
        ...

    async def step(self, response: bytes | None) -> Step:
        """What to do with the client's next octets; None at the start, where there was no initial response."""
        ...


class PasswordSource(Protocol):
    """A place that can tell whether a password is right."""

    name: str
    """For logs and explanations: "accounts file", "LDAP", "Windows"."""

    @property
    def has_accounts(self) -> bool:
        """Whether anybody could log in: what nobody can use is not offered."""
        ...

    async def check(self, user: str, password: str) -> Verdict | None:
        """None: this source knows no such user, ask the next. Takes as long for unknown as for known users."""
        ...
