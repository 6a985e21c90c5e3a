"""All that can happen, typed, each said once; and the bus that carries it to whoever listens.

Rooms publish; logs, metrics, alerts and the console subscribe. Nothing else in the code logs. An event holds
plain values, no secrets, and no time: the bus stamps it. The first line of a docstring is what the
documentation says about the event; `level` is how much it matters to a person reading the log.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

from mailroot.clock import Clock

Level = Literal["debug", "info", "warning", "error"]


@dataclass(frozen=True, slots=True)
class Event:
    """Something happened in the virtual server named `server` ("" for the service as a whole)."""

    level: ClassVar[Level] = "info"
    server: str


# The service and its virtual servers


@dataclass(frozen=True, slots=True)
class ListenerOpened(Event):
    """A listener accepts connections at `address` ("127.0.0.1:2525")."""

    address: str


@dataclass(frozen=True, slots=True)
class ListenerFailed(Event):
    """A listener could not be opened; `reason` says why and what to do."""

    level: ClassVar[Level] = "error"
    address: str
    reason: str


@dataclass(frozen=True, slots=True)
class ServerChanged(Event):
    """A virtual server was started, stopped, paused, continued or reloaded: `state` is what it is now."""

    state: str
    why: str = ""


@dataclass(frozen=True, slots=True)
class ConfigurationRefused(Event):
    """A changed configuration was not taken, whole as it is; the old one stays in force."""

    level: ClassVar[Level] = "error"
    reason: str


@dataclass(frozen=True, slots=True)
class ConfigurationWarning(Event):
    """The configuration is taken, but something in it wants attention."""

    level: ClassVar[Level] = "warning"
    warning: str


@dataclass(frozen=True, slots=True)
class InternalError(Event):
    """A fault of ours was caught at the border of `where`; nothing was acknowledged, nothing lost."""

    level: ClassVar[Level] = "error"
    where: str
    error: str
    traceback: str


@dataclass(frozen=True, slots=True)
class QueueTrouble(Event):
    """The queue cannot store (disk full, read-only, database error); clients get 4xx until it can."""

    level: ClassVar[Level] = "error"
    reason: str


@dataclass(frozen=True, slots=True)
class QueueRecovered(Event):
    """The queue can store again."""


# The front door


@dataclass(frozen=True, slots=True)
class SessionOpened(Event):
    """A client connected."""

    level: ClassVar[Level] = "debug"
    session: str
    client: str
    listener: str


@dataclass(frozen=True, slots=True)
class SessionRefused(Event):
    """A client was turned away at the door; `rule` says by what."""

    level: ClassVar[Level] = "warning"
    client: str
    listener: str
    rule: str
    reply: str


@dataclass(frozen=True, slots=True)
class SessionSecured(Event):
    """A session is encrypted now."""

    level: ClassVar[Level] = "debug"
    session: str
    client: str
    protocol: str
    cipher: str


@dataclass(frozen=True, slots=True)
class HandshakeFailed(Event):
    """A client began TLS and could not finish it, or sent commands in the clear behind STARTTLS."""

    level: ClassVar[Level] = "warning"
    session: str
    client: str
    reason: str


@dataclass(frozen=True, slots=True)
class CommandRefused(Event):
    """A client's command was refused with `reply`; `command` is the line without secrets, cut to 200."""

    session: str
    client: str
    command: str
    reply: str
    rule: str = ""


@dataclass(frozen=True, slots=True)
class LoginSucceeded(Event):
    """A client has logged in as `user`; `mechanism` is how."""

    session: str
    client: str
    user: str
    mechanism: str


@dataclass(frozen=True, slots=True)
class LoginFailed(Event):
    """A login was refused; `user` is who the client claimed to be, `failures` how often it has failed of late."""

    level: ClassVar[Level] = "warning"
    session: str
    client: str
    user: str
    mechanism: str
    reason: str
    failures: int


@dataclass(frozen=True, slots=True)
class LoginUnavailable(Event):
    """A login could be neither granted nor refused, because a directory or token server did not answer."""

    level: ClassVar[Level] = "error"
    session: str
    client: str
    mechanism: str
    reason: str


@dataclass(frozen=True, slots=True)
class AccountsLoaded(Event):
    """A changed accounts file was read and is in force; `accounts` is how many there are in it."""

    file: str
    accounts: int


@dataclass(frozen=True, slots=True)
class AccountsRefused(Event):
    """A changed accounts file cannot be read or understood; the accounts that were in it before stay in force."""

    level: ClassVar[Level] = "error"
    reason: str


@dataclass(frozen=True, slots=True)
class Banned(Event):
    """An address or account failed to log in too often and is banned until `until` (seconds since the epoch)."""

    level: ClassVar[Level] = "warning"
    who: str
    failures: int
    until: float


@dataclass(frozen=True, slots=True)
class BanLifted(Event):
    """An operator lifted a ban before its time."""

    who: str


@dataclass(frozen=True, slots=True)
class LimitReached(Event):
    """A client reached the limit `limit` (a key of the configuration); `value` is where the limit stands."""

    level: ClassVar[Level] = "warning"
    session: str
    client: str
    user: str
    limit: str
    value: str


@dataclass(frozen=True, slots=True)
class ClientIntroduced(Event):
    """A proxy said for whom it speaks, by a PROXY header or XCLIENT: `client` is who that is."""

    level: ClassVar[Level] = "debug"
    session: str
    proxy: str
    client: str
    how: str


@dataclass(frozen=True, slots=True)
class SenderRewritten(Event):
    """A message's sender was not allowed to its client and was replaced, as `rule` says."""

    message: str
    session: str
    original: str
    sender: str
    rule: str


@dataclass(frozen=True, slots=True)
class DiskLow(Event):
    """There is less disk space free than the limit: mail is refused with 452 until there is more."""

    level: ClassVar[Level] = "error"
    folder: str
    free: int
    limit: int


@dataclass(frozen=True, slots=True)
class DiskRecovered(Event):
    """There is enough free disk space again: mail is taken."""

    folder: str
    free: int


@dataclass(frozen=True, slots=True)
class DiskUnknown(Event):
    """How much disk space is free cannot be learned; mail is taken while it can be stored."""

    level: ClassVar[Level] = "warning"
    folder: str
    reason: str


@dataclass(frozen=True, slots=True)
class CertificateLoaded(Event):
    """A certificate is in use from now on; `ends` is its end in seconds since the epoch."""

    file: str
    names: tuple[str, ...]
    ends: float


@dataclass(frozen=True, slots=True)
class CertificateRefused(Event):
    """A changed certificate file cannot be used; the old certificate stays in use."""

    level: ClassVar[Level] = "error"
    file: str
    reason: str


@dataclass(frozen=True, slots=True)
class CertificateEnding(Event):
    """A certificate in use ends in `days` days; negative: it has ended."""

    level: ClassVar[Level] = "warning"
    file: str
    names: tuple[str, ...]
    days: int


@dataclass(frozen=True, slots=True)
class SessionClosed(Event):
    """A session ended: `why` is "quit", "client left", "time-out", "ended by operator", …"""

    level: ClassVar[Level] = "debug"
    session: str
    client: str
    why: str
    messages: int
    seconds: float


@dataclass(frozen=True, slots=True)
class MessageAccepted(Event):
    """A message is safe on disk and was acknowledged. `message` is its id as people see it."""

    message: str
    session: str
    client: str
    door: str
    sender: str
    recipients: tuple[str, ...]
    size: int
    message_id: str
    subject: str


@dataclass(frozen=True, slots=True)
class PickupRefused(Event):
    """A file in the Pickup folder could not be taken; it is in Badmail, or stays where `kept` says so."""

    level: ClassVar[Level] = "warning"
    file: str
    reason: str
    kept: bool = False


# The way out


@dataclass(frozen=True, slots=True)
class RecipientDelivered(Event):
    """The next hop took the message for this recipient."""

    message: str
    sender: str
    recipient: str
    route: str
    host: str
    reply: str
    delay: float
    attempts: int


@dataclass(frozen=True, slots=True)
class RecipientDeferred(Event):
    """Not delivered yet; tried again at `due` (seconds since the epoch). `meaning`: the reply in words."""

    level: ClassVar[Level] = "warning"
    message: str
    sender: str
    recipient: str
    route: str
    host: str
    reply: str
    attempts: int
    due: float
    meaning: str = ""


@dataclass(frozen=True, slots=True)
class RecipientFailed(Event):
    """Given up for good; the sender is told, or the message is in Badmail. `meaning`: the reply in words."""

    level: ClassVar[Level] = "warning"
    message: str
    sender: str
    recipient: str
    route: str
    host: str
    reply: str
    attempts: int
    meaning: str = ""


@dataclass(frozen=True, slots=True)
class ReportWritten(Event):
    """A delivery report (`kind`: failed, delayed, delivered) about `about` was queued for `recipient`."""

    message: str
    about: str
    kind: str
    recipient: str


@dataclass(frozen=True, slots=True)
class BadmailWritten(Event):
    """A message that can be neither delivered nor returned was put into the Badmail folder as `file`."""

    level: ClassVar[Level] = "warning"
    message: str
    file: str
    reason: str


@dataclass(frozen=True, slots=True)
class MessagesChanged(Event):
    """An operator did `action` (retry, hold, release, delete) to messages."""

    action: str
    messages: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LeaseExpired(Event):
    """Another worker took over a message because our sign of life came late; it may arrive twice."""

    level: ClassVar[Level] = "error"
    message: str


Subscriber = Callable[[float, Event], None]


class Bus:
    """Carries each event to every subscriber, at once and in order of subscription.

    A subscriber must be quick and must not raise; one that does is dropped, and the others are told.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._subscribers: list[Subscriber] = []

    def subscribe(self, subscriber: Subscriber) -> Callable[[], None]:
        """Hear every event from now on, with its time; the answer ends it."""
        self._subscribers.append(subscriber)

        def unsubscribe() -> None:
            if subscriber in self._subscribers:
                self._subscribers.remove(subscriber)

        return unsubscribe

    def publish(self, event: Event) -> None:
        """Say what happened."""
        now = self._clock.now()
        for subscriber in tuple(self._subscribers):
            try:
                subscriber(now, event)
            except Exception as error:  # noqa: BLE001 - one bad listener must not stop the mail
                self._subscribers.remove(subscriber)
                self.publish(InternalError("", "event subscriber", repr(error), ""))
