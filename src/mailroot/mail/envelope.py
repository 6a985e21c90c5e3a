"""The envelope: who a message is from and to, and how it wants to be carried (RFC 5321 §2.3.1, RFC 3461).

Made once, at the door, and carried unchanged through queue, delivery and report.
"""

from dataclasses import dataclass
from enum import Flag, StrEnum, auto

from mailroot.mail.address import Address


class Notify(Flag):
    """The NOTIFY parameter of RCPT (RFC 3461 §4.1). NEVER stands alone."""

    NEVER = 0
    SUCCESS = auto()
    FAILURE = auto()
    DELAY = auto()


class Body(StrEnum):
    """The BODY parameter of MAIL (RFC 6152 §2, RFC 3030 §3)."""

    SEVEN_BIT = "7BIT"
    EIGHT_BIT = "8BITMIME"
    BINARY = "BINARYMIME"


class Return(StrEnum):
    """The RET parameter of MAIL: how much of the message a failure report brings back (RFC 3461 §4.3)."""

    FULL = "FULL"
    HEADERS = "HDRS"


@dataclass(frozen=True, slots=True)
class Recipient:
    """One recipient of a message.

    `notify` is None where the client said nothing: then failure and delay are reported (RFC 3461 §4.1).
    `original` is ORCPT as sent, "type;address" with its xtext decoded, or None.
    """

    address: Address
    notify: Notify | None = None
    original: str | None = None

    def wants(self, what: Notify) -> bool:
        """Whether the sender asked, or by silence agreed, to hear of this."""
        if self.notify is None:
            return what in (Notify.FAILURE, Notify.DELAY)
        return bool(self.notify & what)


@dataclass(frozen=True, slots=True)
class Envelope:
    """`sender` None is the null reverse-path `<>` of reports. `envid` is ENVID with its xtext decoded."""

    sender: Address | None
    recipients: tuple[Recipient, ...]
    body: Body = Body.SEVEN_BIT
    smtputf8: bool = False
    ret: Return | None = None
    envid: str | None = None


class Door(StrEnum):
    """How a message came in."""

    SMTP = "smtp"
    PICKUP = "pickup"
    REPORT = "report"


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a message came from; kept for the trace and for reports.

    `client` is the peer's IP address ("" for Pickup and reports), `helo` the name it gave, `user` its login.
    `arrived` is the time of acceptance, seconds since the epoch.
    """

    door: Door
    arrived: float
    client: str = ""
    helo: str = ""
    user: str = ""
