"""What a queue is: the verbs every engine has, and the values they speak in.

Three promises, each kept by one verb:

- durable before 250: when `Draft.commit` returns, the message survives a crash of process and machine;
- counted before tried: `Queue.claim` counts the attempt in the same transaction that leases the message;
- settled after the answer: `Queue.settle` stores every outcome, and the reports it causes, at once.

So delivery is at least once. A worker leases what it claims; the lease hangs on the worker's own sign of
life, so nothing needs renewing per message, and a dead worker's messages go back to the queue.

An engine raises `QueueError` (or a subclass) when it cannot keep a promise; then nothing was promised.
"""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import NewType, Protocol, assert_never

from mailroot.mail.envelope import Envelope, Origin, Recipient
from mailroot.mail.outcome import Deferred, Delivered, Failed, Outcome

MessageId = NewType("MessageId", int)
"""63 bits, rising with time of acceptance, unique over processes and machines."""


class QueueError(Exception):
    """The queue cannot do it now (disk full, read-only, database error); a client gets 4xx, nothing is lost."""


class QueueFull(QueueError):
    """No room: the disk is full or the queue's own limit is reached (452 4.3.1)."""


class QueueRefused(QueueError):
    """The database is damaged, foreign or of a newer version; it was left as it is, and we do not start."""


class LeaseLost(QueueError):
    """The claim is no longer ours (our sign of life was late); whoever has it now settles it."""


LEASE_LOST = "the message is no longer leased to this claim"


class State(StrEnum):
    """What a message in the queue is doing."""

    QUEUED = "queued"
    HELD = "held"
    FINISHED = "finished"


class Fate(StrEnum):
    """Where a recipient stands."""

    PENDING = "pending"
    DELIVERED = "delivered"
    FAILED = "failed"
    DELETED = "deleted"


@dataclass(frozen=True, slots=True)
class Message:
    """What is stored with the octets when a draft is committed.

    `prefix` is what we add in front of the client's octets (Received, missing Date and Message-ID), so that
    these stay as they came; it is kept with them, so the record of a finished message has none. `message_id` is
    the Message-ID header field with its brackets; `subject` is decoded, for people. `hold`: store it, but do not
    deliver it until it is released; a stored record says that with its state.
    """

    envelope: Envelope
    origin: Origin
    prefix: bytes
    message_id: str
    subject: str
    hold: bool = False


@dataclass(frozen=True, slots=True)
class Standing:
    """A recipient of a stored message: where it stands and the last outcome, if it was ever tried."""

    recipient: Recipient
    fate: Fate = Fate.PENDING
    last: Outcome | None = None


@dataclass(frozen=True, slots=True)
class Record:
    """A stored message without its octets.

    `attempts` counts claims. `due` is when it is tried next (seconds since the epoch; None once finished).
    `delay_reported` says whether the sender was told of the delay. `size` is prefix and octets together.
    `leased` says whether a worker is at it now.
    """

    id: MessageId
    message: Message
    size: int
    state: State
    standings: tuple[Standing, ...]
    attempts: int
    due: float | None
    delay_reported: bool
    leased: bool
    finished: float | None = None

    @property
    def pending(self) -> tuple[int, ...]:
        """Indices of the recipients still to be delivered."""
        return tuple(n for n, s in enumerate(self.standings) if s.fate is Fate.PENDING)


class Content(Protocol):
    """A stored message's octets, prefix first; may be read any number of times until the claim is settled."""

    @property
    def size(self) -> int:
        """Octets in all, prefix included."""
        ...

    async def octets(self) -> bytes | None:
        """All of it, if the engine keeps it as one small piece (see `SMALL`); None: use `chunks`."""
        ...

    def chunks(self) -> AsyncIterator[bytes]:
        """All of it, in pieces of at most `CHUNK` octets, so that memory stays constant."""
        ...


SMALL = 64 * 1024
"""Messages up to this size live in the database; larger bodies are files."""

CHUNK = 256 * 1024
"""Largest piece in which a large body is written or read."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A message leased to this worker, to be settled or given back."""

    record: Record
    content: Content


@dataclass(frozen=True, slots=True)
class Report:
    """A message of our own making (delivery report), stored in the transaction that causes it."""

    message: Message
    octets: bytes


@dataclass(frozen=True, slots=True)
class Settlement:
    """The result of one attempt.

    `outcomes` maps index of recipient to outcome; a recipient that is not named stays as it is.
    `due` is when what is still pending is tried next. `delay_reported` True: the delay notice is among
    `reports`.
    """

    outcomes: tuple[tuple[int, Outcome], ...]
    due: float
    reports: tuple[Report, ...] = ()
    delay_reported: bool = False


@dataclass(frozen=True, slots=True)
class Attempt:
    """One line of a message's story: what one host said about some of its recipients."""

    recipients: tuple[int, ...]
    outcome: Outcome


def attempts(outcomes: Iterable[tuple[int, Outcome]]) -> list[Attempt]:
    """The lines that a settlement adds to a story: recipients with the same outcome share one."""
    together: dict[Outcome, list[int]] = {}
    for index, outcome in outcomes:
        together.setdefault(outcome, []).append(index)
    return [Attempt(tuple(indices), outcome) for outcome, indices in together.items()]


def fate_of(outcome: Outcome) -> Fate:
    """Where a recipient stands after an outcome."""
    match outcome:
        case Delivered():
            return Fate.DELIVERED
        case Deferred():
            return Fate.PENDING
        case Failed():
            return Fate.FAILED
        case _:
            assert_never(outcome)


@dataclass(frozen=True, slots=True)
class Search:
    """Which messages an operator means; conditions that are given must all hold. Text matches a part,
    without regard to case; `text` may stand in sender, recipients, subject or message id. `since` (included) and
    `until` (not) are times of arrival. `before` continues a listing: only ids below it."""

    ids: tuple[MessageId, ...] = ()
    states: tuple[State, ...] = ()
    sender: str = ""
    recipient: str = ""
    subject: str = ""
    message_id: str = ""
    text: str = ""
    since: float | None = None
    until: float | None = None
    before: MessageId | None = None


@dataclass(frozen=True, slots=True)
class Counts:
    """How many messages the queue holds. `oldest` is the arrival of the oldest unfinished one."""

    queued: int
    leased: int
    held: int
    finished: int
    oldest: float | None


@dataclass(frozen=True, slots=True)
class Arrivals:
    """How many messages, with how many recipients, one client and login handed in by SMTP within the quarter of an
    hour that begins at `arrived` (seconds since the epoch)."""

    client: str
    user: str
    arrived: float
    messages: int
    recipients: int


QUARTER = 900.0
"""Seconds that `Arrivals` put together."""

MOST_ARRIVALS = 50_000
"""So many `Arrivals` are told of at most, the newest ones."""


class Draft(Protocol):
    """A message while it arrives. Ends with `commit` or `abandon`, whichever comes first."""

    @property
    def id(self) -> MessageId:
        """The id the message will have; it may stand in its Received field."""
        ...

    async def write(self, octets: bytes) -> None:
        """Append octets of the message. Past `SMALL` they go to disk as they come. Raises QueueError."""
        ...

    async def commit(self, message: Message) -> None:
        """Make the message durable: on return it is synced to disk and due at once. Raises QueueError,
        and then the message does not exist. The only place a 250 may follow."""
        ...

    async def abandon(self) -> None:
        """Forget what was written; safe to call at any time, also after commit (then it does nothing)."""
        ...


class Queue(Protocol):
    """A queue, open in this process. Verbs may be called concurrently from one event loop."""

    wake: asyncio.Event
    """Set whenever `claim` may have something it had not before; whoever claims clears it *before* it claims."""

    def draft(self) -> Draft:
        """Start a message."""
        ...

    async def claim(self, limit: int) -> list[Claim]:
        """Lease up to `limit` due messages to this worker, oldest due first, their attempt counted."""
        ...

    async def next_due(self) -> float | None:
        """When the next message falls due that nobody has leased; None if there is none."""
        ...

    async def settle(self, claim: Claim, settlement: Settlement) -> None:
        """Store an attempt's result in one transaction; a message with nothing pending is finished. Raises
        LeaseLost, QueueError."""
        ...

    async def give_back(self, claim: Claim, due: float | None = None) -> None:
        """Return a claim untried, the attempt not counted: due at once, or at `due` (seconds since the epoch)."""
        ...

    # The owner's verbs. Those that change messages return the ids they changed; a message that is being
    # delivered at this moment is left alone, and so is missing from the answer.

    async def find(self, search: Search, limit: int) -> list[Record]:
        """The newest matching messages, newest first."""
        ...

    async def record(self, id: MessageId) -> Record | None: ...

    async def story(self, id: MessageId) -> list[Attempt]:
        """Every attempt, oldest first."""
        ...

    async def content(self, id: MessageId) -> Content | None:
        """The octets, while they are kept: None for an unknown or finished message."""
        ...

    async def counts(self) -> Counts: ...

    async def arrivals(self, since: float) -> list[Arrivals]:
        """What came in by SMTP since then, finished or not, newest first; as far as the records are kept."""
        ...

    async def retry(self, search: Search) -> list[MessageId]:
        """Make queued messages due now."""
        ...

    async def hold(self, search: Search) -> list[MessageId]:
        """Keep queued messages from being delivered."""
        ...

    async def release(self, search: Search) -> list[MessageId]:
        """Let held messages go on, due now."""
        ...

    async def delete(self, search: Search) -> list[MessageId]:
        """Remove unfinished messages; their records stay, with fate DELETED. Nobody is told."""
        ...

    async def forget(self, before: float, limit: int = 1000) -> int:
        """Remove the records of messages finished before that time, at most `limit`; returns how many."""
        ...

    async def close(self) -> None:
        """Give back what is leased and close; drafts not committed are gone."""
        ...


class IdSource:
    """Makes message ids: 41 bits of milliseconds since 2024-01-01, 10 of a random number of the process's own,
    12 of counter. Should two processes ever make the same one, the database refuses the second insert and that
    client is asked to try again."""

    _EPOCH = 1_704_067_200_000

    def __init__(self) -> None:
        self._process = secrets.randbits(10)
        self._last = 0

    def new(self) -> MessageId:
        """A fresh id, greater than any this source made before (also when the clock is set back)."""
        fresh = (int(time.time() * 1000) - self._EPOCH) << 12
        # Millisecond and counter are one number that only rises; it may run ahead of the clock in a burst.
        self._last = max(self._last + 1, fresh)
        millisecond, counter = self._last >> 12, self._last & 0xFFF
        return MessageId(millisecond << 22 | self._process << 12 | counter)


_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


def format_id(id: MessageId) -> str:
    """The id as people see it: 13 characters of Crockford's base 32, sorting like the number."""
    return "".join(_ALPHABET[(id >> shift) & 31] for shift in range(60, -1, -5))


def parse_id(text: str) -> MessageId:
    """The inverse of `format_id`, forgiving case and O/0, I/L/1. Raises ValueError."""
    value = 0
    for character in text.strip().upper().replace("O", "0").replace("I", "1").replace("L", "1"):
        digit = _ALPHABET.find(character)
        if digit < 0:
            raise ValueError(f"{text!r} is not a message id: 13 letters and digits, as `mailroot queue list` shows")
        value = value << 5 | digit
    if len(text.strip()) != 13 or value >= 1 << 63:
        raise ValueError(f"{text!r} is not a message id: 13 letters and digits, as `mailroot queue list` shows")
    return MessageId(value)
