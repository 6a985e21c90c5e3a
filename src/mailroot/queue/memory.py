"""A queue in memory: the plainest thing that keeps every verb's word, for tests and as the oracle of the others.

It keeps nothing over a restart and must never stand behind a real front door.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace

from mailroot.clock import Clock
from mailroot.mail.envelope import Door
from mailroot.queue.base import (
    CHUNK,
    LEASE_LOST,
    MOST_ARRIVALS,
    QUARTER,
    SMALL,
    Arrivals,
    Attempt,
    Claim,
    Content,
    Counts,
    Fate,
    IdSource,
    LeaseLost,
    Message,
    MessageId,
    QueueError,
    Record,
    Search,
    Settlement,
    Standing,
    State,
    attempts,
    fate_of,
)
from mailroot.queue.search import matches


class MemoryContent:
    """Octets at hand."""

    def __init__(self, octets: bytes, *, small: bool) -> None:
        self._octets = octets
        self._small = small

    @property
    def size(self) -> int:
        return len(self._octets)

    async def octets(self) -> bytes | None:
        return self._octets if self._small else None

    async def chunks(self) -> AsyncIterator[bytes]:
        for start in range(0, len(self._octets), CHUNK):
            yield self._octets[start : start + CHUNK]


@dataclass(slots=True)
class _Entry:
    record: Record
    content: Content | None
    story: list[Attempt]


class MemoryDraft:
    """A message while it arrives."""

    def __init__(self, queue: "MemoryQueue", id: MessageId) -> None:
        self._queue = queue
        self._id = id
        self._pieces: list[bytes] = []
        self._over = False

    @property
    def id(self) -> MessageId:
        return self._id

    async def write(self, octets: bytes) -> None:
        self._pieces.append(octets)

    async def commit(self, message: Message) -> None:
        if self._over:
            raise QueueError("the message was committed or abandoned before")
        self._over = True
        self._queue.insert(self._id, message, b"".join(self._pieces))

    async def abandon(self) -> None:
        self._over = True
        self._pieces = []


class MemoryQueue:
    """See `mailroot.queue.base.Queue`."""

    def __init__(self, clock: Clock) -> None:
        self.wake = asyncio.Event()
        self._clock = clock
        self._ids = IdSource()
        self._entries: dict[MessageId, _Entry] = {}

    def draft(self) -> MemoryDraft:
        return MemoryDraft(self, self._ids.new())

    def insert(self, id: MessageId, message: Message, octets: bytes) -> None:
        """Store a message, due now."""
        record = Record(
            id=id,
            message=message,
            size=len(message.prefix) + len(octets),
            state=State.HELD if message.hold else State.QUEUED,
            standings=tuple(Standing(recipient) for recipient in message.envelope.recipients),
            attempts=0,
            due=self._clock.now(),
            delay_reported=False,
            leased=False,
        )
        # What is held was said with `hold`; a record says it with its state.
        record = replace(record, message=replace(message, hold=False))
        content = MemoryContent(message.prefix + octets, small=len(octets) <= SMALL)
        self._entries[id] = _Entry(record, content, [])
        self.wake.set()

    async def claim(self, limit: int) -> list[Claim]:
        now = self._clock.now()
        claims: list[Claim] = []
        for entry in self._waiting():
            record = entry.record
            if len(claims) == limit or record.due is None or record.due > now or entry.content is None:
                break
            entry.record = replace(record, attempts=record.attempts + 1, leased=True)
            claims.append(Claim(entry.record, entry.content))
        return claims

    async def next_due(self) -> float | None:
        return next((entry.record.due for entry in self._waiting()), None)

    async def settle(self, claim: Claim, settlement: Settlement) -> None:
        entry = self._leased(claim)
        standings = list(entry.record.standings)
        for index, outcome in settlement.outcomes:
            standings[index] = Standing(standings[index].recipient, fate_of(outcome), outcome)
        record = replace(
            entry.record,
            standings=tuple(standings),
            delay_reported=entry.record.delay_reported or settlement.delay_reported,
            leased=False,
            due=settlement.due,
        )
        entry.record = record
        entry.story += attempts(settlement.outcomes)
        if not record.pending:
            self._finish(entry)
        for report in settlement.reports:
            self.insert(self._ids.new(), report.message, report.octets)
        self.wake.set()

    async def give_back(self, claim: Claim, due: float | None = None) -> None:
        entry = self._leased(claim)
        record = entry.record
        due = self._clock.now() if due is None else due
        entry.record = replace(record, leased=False, attempts=record.attempts - 1, due=due)
        self.wake.set()

    async def find(self, search: Search, limit: int) -> list[Record]:
        found = [entry.record for entry in self._entries.values() if matches(search, entry.record)]
        return sorted(found, key=lambda record: record.id, reverse=True)[:limit]

    async def record(self, id: MessageId) -> Record | None:
        entry = self._entries.get(id)
        return entry.record if entry else None

    async def story(self, id: MessageId) -> list[Attempt]:
        entry = self._entries.get(id)
        return list(entry.story) if entry else []

    async def content(self, id: MessageId) -> Content | None:
        entry = self._entries.get(id)
        return entry.content if entry else None

    async def counts(self) -> Counts:
        records = [entry.record for entry in self._entries.values()]
        unfinished = [record for record in records if record.state is not State.FINISHED]
        oldest = min(unfinished, key=lambda record: record.id, default=None)
        leased = sum(record.leased for record in records)
        return Counts(
            queued=sum(record.state is State.QUEUED for record in records) - leased,
            leased=leased,
            held=sum(record.state is State.HELD for record in records),
            finished=len(records) - len(unfinished),
            oldest=oldest.message.origin.arrived if oldest else None,
        )

    async def arrivals(self, since: float) -> list[Arrivals]:
        found: dict[tuple[float, str, str], tuple[int, int]] = {}
        for entry in self._entries.values():
            message = entry.record.message
            origin = message.origin
            if origin.door is Door.SMTP and origin.arrived >= since:
                key = (origin.arrived // QUARTER * QUARTER, origin.client, origin.user)
                messages, recipients = found.get(key, (0, 0))
                found[key] = (messages + 1, recipients + len(message.envelope.recipients))
        newest = sorted(found.items(), reverse=True)[:MOST_ARRIVALS]
        return [Arrivals(client, user, arrived, *numbers) for (arrived, client, user), numbers in newest]

    async def retry(self, search: Search) -> list[MessageId]:
        def change(entry: _Entry) -> None:
            entry.record = replace(entry.record, due=self._clock.now())

        return self._change(search, (State.QUEUED,), change)

    async def hold(self, search: Search) -> list[MessageId]:
        def change(entry: _Entry) -> None:
            entry.record = replace(entry.record, state=State.HELD)

        return self._change(search, (State.QUEUED,), change)

    async def release(self, search: Search) -> list[MessageId]:
        def change(entry: _Entry) -> None:
            entry.record = replace(entry.record, state=State.QUEUED, due=self._clock.now())

        return self._change(search, (State.HELD,), change)

    async def delete(self, search: Search) -> list[MessageId]:
        def change(entry: _Entry) -> None:
            standings = (
                replace(standing, fate=Fate.DELETED) if standing.fate is Fate.PENDING else standing
                for standing in entry.record.standings
            )
            entry.record = replace(entry.record, standings=tuple(standings))
            self._finish(entry)

        return self._change(search, (State.QUEUED, State.HELD), change)

    async def forget(self, before: float, limit: int = 1000) -> int:
        old = [
            entry.record
            for entry in self._entries.values()
            if entry.record.finished is not None and entry.record.finished < before
        ]
        old.sort(key=lambda record: (record.finished, record.id))
        for record in old[:limit]:
            del self._entries[record.id]
        return len(old[:limit])

    async def close(self) -> None:
        for entry in self._entries.values():
            entry.record = replace(entry.record, leased=False)

    def _waiting(self) -> list[_Entry]:
        """Queued and not leased, the one due first in front."""
        waiting = [
            entry
            for entry in self._entries.values()
            if entry.record.state is State.QUEUED and not entry.record.leased
        ]
        return sorted(waiting, key=lambda entry: (entry.record.due, entry.record.id))

    def _leased(self, claim: Claim) -> _Entry:
        entry = self._entries.get(claim.record.id)
        if entry is None or not entry.record.leased or entry.record.attempts != claim.record.attempts:
            raise LeaseLost(LEASE_LOST)
        return entry

    def _finish(self, entry: _Entry) -> None:
        record = entry.record
        entry.record = replace(
            record,
            message=replace(record.message, prefix=b""),
            state=State.FINISHED,
            due=None,
            finished=self._clock.now(),
        )
        entry.content = None

    def _change(
        self, search: Search, states: tuple[State, ...], change: Callable[[_Entry], None]
    ) -> list[MessageId]:
        entries = [
            entry
            for entry in self._entries.values()
            if entry.record.state in states and not entry.record.leased and matches(search, entry.record)
        ]
        for entry in entries:
            change(entry)
        self.wake.set()
        return sorted((entry.record.id for entry in entries), reverse=True)
