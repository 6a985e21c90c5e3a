"""The values operations answers with, made from the queue's and the front door's own; and how they become JSON.

Times are seconds since the epoch, UTC. Ids are as people see them. Addresses are text, the null sender is "".
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import assert_never

from mailroot.deliver.replies.base import Entry
from mailroot.deliver.replies.shipped import explain
from mailroot.mail.outcome import Deferred, Delivered, Failed, Outcome
from mailroot.operations.listeners import ListenerStatus
from mailroot.operations.servers import Folders, ServerState
from mailroot.queue.base import Attempt, Counts, Fate, Record, Standing, State, format_id
from mailroot.receive.sessions import SessionInfo

FIRST_RECIPIENTS = 3
"""So many recipients of a message are named in a listing."""


@dataclass(frozen=True, slots=True)
class ServerStatus:
    """One virtual server. `counts` is None where the queue cannot be read; `trouble` says why, "" if all is
    well."""

    name: str
    state: ServerState
    trouble: str
    fqdn: str
    listeners: tuple[ListenerStatus, ...]
    folders: Folders
    sessions: int
    counts: Counts | None


@dataclass(frozen=True, slots=True)
class SessionStatus:
    """One session of a client. `since` is when it connected; `messages` how many it handed in. `listener` is the
    address it came to, `proxy` the one of who speaks for it, "" if nobody does."""

    server: str
    id: str
    client: str
    helo: str
    user: str
    tls: bool
    since: float
    messages: int
    state: str
    listener: str
    proxy: str


@dataclass(frozen=True, slots=True)
class QueueCounts:
    """How many messages one virtual server's queue holds."""

    server: str
    counts: Counts


@dataclass(frozen=True, slots=True)
class Summary:
    """One line of a listing. `recipients` are the first few of `recipients_total`; `pending` of them wait.

    `doing` says in words what is happening; `why` is the last reply that kept a recipient from being delivered.
    """

    id: str
    server: str
    state: State
    doing: str
    why: str
    sender: str
    recipients: tuple[str, ...]
    recipients_total: int
    pending: int
    subject: str
    size: int
    arrived: float
    attempts: int
    due: float | None
    finished: float | None


@dataclass(frozen=True, slots=True)
class RecipientStatus:
    """One recipient: where it stands, and the last reply about it (`host` "" where none was reached). `meaning` and
    `advice` are that reply in words, and what can be done; "" where nothing has to be done."""

    address: str
    fate: Fate
    host: str
    reply: str
    at: float | None
    meaning: str
    advice: str


@dataclass(frozen=True, slots=True)
class StoryLine:
    """What one host said, in one attempt, about some of the recipients: "delivered", "deferred" or "failed"; and
    what that meant, "" if delivered."""

    at: float
    outcome: str
    host: str
    reply: str
    recipients: tuple[str, ...]
    meaning: str


@dataclass(frozen=True, slots=True)
class Detail:
    """All that is known of one message. `envid` is the sender's own id for it (RFC 3461), "" if none. Of what
    `summary.why` says, `meaning` is the sense in a sentence, `fault` whose fault it is ("recipient", "message",
    "sender", "route", "host", "nobody") and `fault_in_words` the same at length, `advice` what can be done; all ""
    where nothing has to be done."""

    summary: Summary
    message_id: str
    envid: str
    door: str
    client: str
    helo: str
    user: str
    delay_reported: bool
    meaning: str
    fault: str
    fault_in_words: str
    advice: str
    recipients: tuple[RecipientStatus, ...]
    story: tuple[StoryLine, ...]


@dataclass(frozen=True, slots=True)
class Page:
    """Messages, newest first; `next` continues the listing (as `before`), None at its end."""

    messages: tuple[Summary, ...]
    next: str | None


@dataclass(frozen=True, slots=True)
class Skipped:
    """A message that was meant but not changed, and why."""

    id: str
    why: str


@dataclass(frozen=True, slots=True)
class Changed:
    """What a verb did to one batch of messages; `next` continues it (as `before`), None when all are done."""

    changed: tuple[str, ...]
    skipped: tuple[Skipped, ...]
    next: str | None


def session_status(server: str, info: SessionInfo) -> SessionStatus:
    """A session as operators see it."""
    return SessionStatus(
        server=server,
        id=info.id,
        client=info.client,
        helo=info.helo,
        user=info.user,
        tls=bool(info.tls),
        since=info.since,
        messages=info.messages,
        state=info.state,
        listener=info.listener,
        proxy=info.proxy,
    )


def summary(server: str, record: Record, now: float) -> Summary:
    """A message as one line of a listing."""
    envelope = record.message.envelope
    return Summary(
        id=format_id(record.id),
        server=server,
        state=record.state,
        doing=_doing(record, now),
        why=_why(record.standings),
        sender=str(envelope.sender) if envelope.sender else "",
        recipients=tuple(str(s.recipient.address) for s in record.standings[:FIRST_RECIPIENTS]),
        recipients_total=len(record.standings),
        pending=len(record.pending),
        subject=record.message.subject,
        size=record.size,
        arrived=record.message.origin.arrived,
        attempts=record.attempts,
        due=record.due if record.state is State.QUEUED and not record.leased else None,
        finished=record.finished,
    )


def detail(server: str, record: Record, story: Sequence[Attempt], now: float) -> Detail:
    """Everything about a message."""
    addresses = tuple(str(standing.recipient.address) for standing in record.standings)
    origin = record.message.origin
    newest = _newest_refusal(record.standings)
    why = explain(newest.reply, newest.host) if newest is not None else None
    return Detail(
        summary=summary(server, record, now),
        message_id=record.message.message_id,
        envid=record.message.envelope.envid or "",
        door=origin.door,
        client=origin.client,
        helo=origin.helo,
        user=origin.user,
        delay_reported=record.delay_reported,
        meaning=why.meaning if why else "",
        fault=why.fault.value if why else "",
        fault_in_words=why.fault.words if why else "",
        advice=why.next if why else "",
        recipients=tuple(_recipient_status(standing) for standing in record.standings),
        story=tuple(
            StoryLine(
                at=attempt.outcome.at,
                outcome=_outcome_word(attempt.outcome),
                host=attempt.outcome.host,
                reply=str(attempt.outcome.reply),
                recipients=tuple(addresses[index] for index in attempt.recipients if index < len(addresses)),
                meaning=_meaning(attempt.outcome),
            )
            for attempt in story
        ),
    )


def _recipient_status(standing: Standing) -> RecipientStatus:
    last = standing.last
    entry = _explained(last) if standing.fate is not Fate.DELIVERED else None
    return RecipientStatus(
        address=str(standing.recipient.address),
        fate=standing.fate,
        host=last.host if last else "",
        reply=str(last.reply) if last else "",
        at=last.at if last else None,
        meaning=entry.meaning if entry else "",
        advice=entry.next if entry else "",
    )


def _explained(outcome: Outcome | None) -> Entry | None:
    """What the table says of this outcome; None if it is a good one."""
    match outcome:
        case Deferred(reply, host) | Failed(reply, host):
            return explain(reply, host)
        case _:
            return None


def _meaning(outcome: Outcome) -> str:
    entry = _explained(outcome)
    return entry.meaning if entry else ""


def _outcome_word(outcome: Outcome) -> str:
    match outcome:
        case Delivered():
            return "delivered"
        case Deferred():
            return "deferred"
        case Failed():
            return "failed"
        case _:
            assert_never(outcome)


def _doing(record: Record, now: float) -> str:
    match record.state:
        case State.HELD:
            return "held"
        case State.FINISHED:
            return _end(record.standings)
        case State.QUEUED:
            if record.leased:
                return "being delivered"
            if record.due is None or record.due <= now:
                return "due now"
            return "deferred" if record.attempts else "waiting"
        case _:
            assert_never(record.state)


def _end(standings: Sequence[Standing]) -> str:
    """How a finished message ended: "delivered", "failed", "1 delivered, 2 failed"."""
    fates = [standing.fate for standing in standings]
    kinds = [fate for fate in (Fate.DELIVERED, Fate.FAILED, Fate.DELETED) if fate in fates]
    if len(kinds) == 1:
        return kinds[0].value
    return ", ".join(f"{fates.count(fate)} {fate.value}" for fate in kinds)


def _why(standings: Sequence[Standing]) -> str:
    """The newest reply that kept a recipient from being delivered, with who said it."""
    newest = _newest_refusal(standings)
    if newest is None:
        return ""
    return f"{newest.host}: {newest.reply}" if newest.host else str(newest.reply)


def _newest_refusal(standings: Sequence[Standing]) -> Deferred | Failed | None:
    refusals = [
        standing.last
        for standing in standings
        if standing.fate is not Fate.DELIVERED and isinstance(standing.last, Deferred | Failed)
    ]
    return max(refusals, key=lambda outcome: outcome.at, default=None)


def as_json(value: object) -> object:
    """A value as what JSON knows: dataclasses as objects by their field names, enums by value, tuples as lists."""
    if isinstance(value, Enum):
        return value.value
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, tuple | list):
        return [as_json(item) for item in value]
    if is_dataclass(value):
        return {field.name: as_json(getattr(value, field.name)) for field in fields(value)}
    raise TypeError(f"{type(value).__name__} has no JSON form")
