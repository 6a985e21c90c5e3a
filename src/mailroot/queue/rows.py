"""How a message becomes a row of the database, and a row a message again.

Envelope, origin and story are JSON, compact and without what is at its default. Where a recipient stands is not
stored twice: it follows from the story's last line about it. No I/O here.
"""

import json
from collections.abc import Container, Iterable, Sequence
from typing import Any

from mailroot.mail.address import Address
from mailroot.mail.envelope import Body, Door, Envelope, Notify, Origin, Recipient, Return
from mailroot.mail.outcome import Deferred, Delivered, Failed, Outcome
from mailroot.mail.reply import Reply
from mailroot.queue.base import Attempt, Fate, Message, MessageId, Record, Standing, State, attempts, fate_of

QUEUED, HELD, FINISHED = 0, 1, 2
"""`message.state`."""

STATES = (State.QUEUED, State.HELD, State.FINISHED)
STATE_NUMBERS = {state: number for number, state in enumerate(STATES)}

Row = tuple[Any, ...]

New = tuple[Row, Row]
"""The rows of a new message: `MESSAGE_COLUMNS` and `BODY_COLUMNS`."""

MESSAGE_COLUMNS = (
    "id",
    "state",
    "worker",
    "due",
    "attempts",
    "arrived",
    "size",
    "envelope",
    "origin",
    "message_id",
    "subject",
    "prefix",
)
"""What a new message fills; the other columns have defaults."""

BODY_COLUMNS = ("id", "file", "octets")

RECORD_COLUMNS = (
    "message.id, message.state, message.worker, message.due, message.attempts, message.delay_reported,"
    " message.deleted, message.arrived, message.size, message.envelope, message.origin, message.message_id,"
    " message.subject, message.prefix, message.story"
)
"""What `record` reads, in its order."""

# What people search is stored as it is; in a story there may be anything a remote host said, so it is plain ASCII.
_encode_story = json.JSONEncoder(check_circular=False, separators=(",", ":")).encode
_encode = json.JSONEncoder(ensure_ascii=False, check_circular=False, separators=(",", ":")).encode

_OUTCOMES: dict[str, type[Delivered] | type[Deferred] | type[Failed]] = {
    "delivered": Delivered,
    "deferred": Deferred,
    "failed": Failed,
}
_NAMES = {kind: name for name, kind in _OUTCOMES.items()}


def insertion(
    id: MessageId,
    message: Message,
    octets: int,
    *,
    state: int,
    worker: int,
    due: float,
    attempts: int,
    file: str | None,
    body: bytes | None,
) -> New:
    """The rows of a new message; its `octets` (how many) are in `file` or `body`."""
    origin = message.origin
    row = (
        id,
        state,
        worker,
        due,
        attempts,
        origin.arrived,
        len(message.prefix) + octets,
        _text(_encode(_envelope(message.envelope))),
        _text(_encode([origin.door.value, origin.client, origin.helo, origin.user])),
        _text(message.message_id),
        _text(message.subject),
        message.prefix,
    )
    return row, (id, file, body)


def settlement(
    id: MessageId,
    outcomes: Iterable[tuple[int, Outcome]],
    *,
    state: int,
    worker: int,
    due: float,
    attempts: int,
    delay_reported: bool,
) -> Row:
    """What a settlement changes, and by which claim: (state, due, delay_reported, story, id, worker, attempts)."""
    return state, due, int(delay_reported), _story_lines(outcomes), id, worker, attempts


def record(row: Sequence[Any], unclaimed: Container[MessageId] = ()) -> Record:
    """The record of a row of `RECORD_COLUMNS`.

    A message in `unclaimed` is leased for this process's next `claim` only in advance: nobody has it yet, and its
    attempt has not begun.
    """
    message = MessageId(row[0])
    state = STATES[row[1]]
    envelope = _read_envelope(json.loads(row[9]))
    door, client, helo, user = json.loads(row[10])
    early = row[2] != 0 and message in unclaimed
    return Record(
        id=message,
        message=Message(
            envelope=envelope,
            origin=Origin(Door(door), row[7], client, helo, user),
            prefix=row[13],
            message_id=row[11],
            subject=row[12],
        ),
        size=row[8],
        state=state,
        standings=_standings(envelope, row[14], deleted=bool(row[6])),
        attempts=row[4] - early,
        due=None if state is State.FINISHED else row[3],
        delay_reported=bool(row[5]),
        leased=row[2] != 0 and not early,
        finished=row[3] if state is State.FINISHED else None,
    )


def story(text: str) -> list[Attempt]:
    """The attempts that `message.story` tells of, oldest first."""
    return [_attempt(line) for line in text.split("\n") if line]


def _story_lines(outcomes: Iterable[tuple[int, Outcome]]) -> str:
    """One line per different outcome."""
    return "".join(
        _encode_story(
            [
                attempt.recipients,
                _NAMES[type(attempt.outcome)],
                attempt.outcome.at,
                attempt.outcome.host,
                attempt.outcome.reply.code,
                attempt.outcome.reply.status,
                attempt.outcome.reply.text,
                *([1] if isinstance(attempt.outcome, Delivered) and attempt.outcome.reports_on else []),
            ]
        )
        + "\n"
        for attempt in attempts(outcomes)
    )


def _text(text: str) -> str:
    """The text, without halves of surrogate pairs: the database takes UTF-8 only."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


def _attempt(line: str) -> Attempt:
    recipients, name, at, host, code, status, text, *reports_on = json.loads(line)
    reply = Reply(code, status, text)
    if reports_on:
        return Attempt(tuple(recipients), Delivered(reply, host, at, reports_on=True))
    return Attempt(tuple(recipients), _OUTCOMES[name](reply, host, at))


def _standings(envelope: Envelope, text: str, *, deleted: bool) -> tuple[Standing, ...]:
    last: dict[int, Outcome] = {}
    for attempt in story(text):
        last.update(dict.fromkeys(attempt.recipients, attempt.outcome))
    untouched = Fate.DELETED if deleted else Fate.PENDING
    standings = []
    for index, recipient in enumerate(envelope.recipients):
        outcome = last.get(index)
        fate = untouched if outcome is None else fate_of(outcome)
        if deleted and fate is Fate.PENDING:
            fate = Fate.DELETED
        standings.append(Standing(recipient, fate, outcome))
    return tuple(standings)


def _envelope(envelope: Envelope) -> list[object]:
    fields: list[object] = [
        envelope.sender and _address(envelope.sender),
        [_recipient(recipient) for recipient in envelope.recipients],
    ]
    if (
        envelope.body is not Body.SEVEN_BIT
        or envelope.smtputf8
        or envelope.ret is not None
        or envelope.envid is not None
    ):
        fields += [envelope.body.value, int(envelope.smtputf8), envelope.ret and envelope.ret.value, envelope.envid]
    return fields


def _address(address: Address) -> object:
    # Always the text that people search for. Where the last "@" is not the one between local part and domain (odd
    # address literals), the length of the local part tells.
    text = f"{address.local}@{address.domain}"
    return text if "@" not in address.domain else [text, len(address.local)]


def _recipient(recipient: Recipient) -> object:
    address = _address(recipient.address)
    if recipient.notify is None and recipient.original is None:
        return address
    return [address, None if recipient.notify is None else recipient.notify.value, recipient.original]


def _read_envelope(fields: list[Any]) -> Envelope:
    sender, recipients, *rest = fields
    if not rest:
        return Envelope(sender and _read_address(sender), tuple(map(_read_recipient, recipients)))
    body, smtputf8, ret, envid = rest
    return Envelope(
        sender and _read_address(sender),
        tuple(map(_read_recipient, recipients)),
        Body(body),
        bool(smtputf8),
        ret and Return(ret),
        envid,
    )


def _read_address(value: Any) -> Address:
    if isinstance(value, str):
        local, _, domain = value.rpartition("@")
        return Address(local, domain)
    text, length = value
    return Address(text[:length], text[length + 1 :])


def _read_recipient(value: Any) -> Recipient:
    if isinstance(value, str) or len(value) == 2:
        return Recipient(_read_address(value))
    address, notify, original = value
    return Recipient(_read_address(address), None if notify is None else Notify(notify), original)
