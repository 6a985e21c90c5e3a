"""What a SASL mechanism is to an SMTP client, and the words both sides share (RFC 4422 §3, RFC 4954 §4).

Base64 is the protocol's business.
"""

from dataclasses import dataclass, field
from typing import ClassVar, Protocol


class SaslError(ValueError):
    """What the other side sent is not in the form of the mechanism. The text is for the log; no secret is in it."""


class BindingMismatch(SaslError):
    """The login is for another TLS connection than this one, or somebody hid from the client what we offer: a man
    in the middle, as far as we can know (RFC 5802 §6)."""


class ServerUntrusted(SaslError):
    """The server did not prove that it knows us, or asks for what no good server asks."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a client gave away: who it is (`username`), whom it wants to act as ("" is the same), and the
    password, all three as they came."""

    username: str
    password: str = field(repr=False)
    authzid: str = ""


class Mechanism(Protocol):
    """The client's side of one login, used once. Its repr shows no secret."""

    name: ClassVar[str]

    @property
    def proven(self) -> bool:
        """Whether a 235 may be believed: the server proved all that the mechanism has it prove."""
        ...

    def initial(self) -> bytes | None:
        """What may be sent with the AUTH command; None: the server speaks first."""
        ...

    def respond(self, challenge: bytes) -> bytes:
        """The answer to a challenge. Raises ServerUntrusted where the login is to be broken off."""
        ...
