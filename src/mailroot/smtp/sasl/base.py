"""What a SASL mechanism is to an SMTP client (RFC 4422 §3, RFC 4954 §4). Base64 is the protocol's business."""

from typing import ClassVar, Protocol


class Mechanism(Protocol):
    """One login, used once. Its repr shows no secret."""

    name: ClassVar[str]

    def initial(self) -> bytes | None:
        """What may be sent with the AUTH command; None: the server speaks first."""
        ...

    def respond(self, challenge: bytes) -> bytes:
        """The answer to a challenge."""
        ...
