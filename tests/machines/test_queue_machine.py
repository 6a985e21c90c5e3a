"""Any order of verbs on two workers of one SQLite queue does what the same verbs do to the queue in memory."""

import asyncio
import shutil
import tempfile
from collections.abc import Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from mailroot.clock import ManualClock
from mailroot.mail.address import Address
from mailroot.mail.envelope import Door, Envelope, Origin, Recipient
from mailroot.mail.outcome import Deferred, Delivered, Failed, Outcome
from mailroot.mail.reply import Reply
from mailroot.queue import sqlite
from mailroot.queue.base import (
    SMALL,
    Claim,
    LeaseLost,
    Message,
    Queue,
    Record,
    Report,
    Search,
    Settlement,
    State,
)
from mailroot.queue.memory import MemoryQueue
from mailroot.queue.sqlite import SqliteQueue, open_queue

T = TypeVar("T")

WORKERS = st.sampled_from([0, 1])
TEXTS = st.sampled_from(["", "a", "B@", "ü", "Ü%", "nobody"])
SEARCHES = st.builds(
    Search,
    states=st.sampled_from([(), (State.QUEUED,), (State.HELD, State.FINISHED), (State.FINISHED,)]),
    sender=TEXTS,
    recipient=TEXTS,
    subject=TEXTS,
    text=TEXTS,
)
ADDRESSES = st.sampled_from([Address("a", "example.com"), Address("b", "example.org"), Address("ü", "[x:@]")])
MESSAGES = st.builds(
    lambda sender, recipients, subject, hold: Message(
        Envelope(sender, tuple(map(Recipient, recipients))),
        Origin(Door.SMTP, 0.0, "192.0.2.1"),
        b"Received: x\r\n",
        "<1@example.com>",
        subject,
        hold,
    ),
    st.none() | ADDRESSES,
    st.lists(ADDRESSES, min_size=1, max_size=3),
    st.sampled_from(["", "ABC", "Über 100%", 'say "a"']),
    st.sampled_from([False, False, False, True]),
)
SIZES = st.sampled_from([0, 5, SMALL + 1])
OUTCOMES = st.sampled_from([Delivered, Deferred, Failed])


class QueueMachine(RuleBasedStateMachine):
    """Two workers and the oracle; `held` are the claims that each worker has."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.folder = Path(tempfile.mkdtemp(prefix="mailroot-queue-"))
        self.clock = ManualClock()
        # Else a claim that brings something from memory may overlook, for a moment, what the other worker stored.
        self.known, sqlite.KNOWN = sqlite.KNOWN, 0.0
        self.oracle = MemoryQueue(self.clock)
        self.workers: list[SqliteQueue] = [self.open(), self.open()]
        self.held: list[list[tuple[Claim, Claim]]] = [[], []]
        self.lost: list[tuple[int, Claim]] = []

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(work)

    def open(self) -> SqliteQueue:
        return self.do(open_queue(self.folder / "Queue", self.clock))

    def teardown(self) -> None:
        self.the_same_is_there()
        for queue in self.workers:
            self.do(queue.close())
        self.loop.close()
        sqlite.KNOWN = self.known
        shutil.rmtree(self.folder)

    def free_others(self, worker: int) -> None:
        """What another worker keeps in memory for itself looks leased: have it give that back first."""
        self.do(self.workers[1 - worker]._free_fresh())

    def pick(self, worker: int, number: int) -> tuple[Claim, Claim]:
        return self.held[worker].pop(number % len(self.held[worker]))

    @rule(worker=WORKERS, message=MESSAGES, size=SIZES)
    def accept(self, worker: int, message: Message, size: int) -> None:
        message = replace(message, origin=replace(message.origin, arrived=self.clock.now()))
        self.clock.turn(0.001)  # so that no two are due at the same moment
        draft = self.workers[worker].draft()
        self.do(draft.write(b"x" * size))
        self.do(draft.commit(message))
        self.oracle.insert(draft.id, message, b"x" * size)

    @rule(worker=WORKERS, size=SIZES)
    def abandon(self, worker: int, size: int) -> None:
        draft = self.workers[worker].draft()
        self.do(draft.write(b"x" * size))
        self.do(draft.abandon())

    @rule(worker=WORKERS, limit=st.integers(1, 4))
    def claim(self, worker: int, limit: int) -> None:
        self.free_others(worker)
        claims = self.do(self.workers[worker].claim(limit))
        expected = self.do(self.oracle.claim(limit))
        assert [claim.record for claim in claims] == [claim.record for claim in expected]
        for claim, same in zip(claims, expected, strict=True):
            assert self.do(octets(claim)) == self.do(octets(same))
        self.held[worker] += zip(claims, expected, strict=True)

    @precondition(lambda self: any(self.held))
    @rule(
        worker=WORKERS,
        number=st.integers(0, 10),
        kinds=st.lists(OUTCOMES, min_size=3, max_size=3),
        wait=st.sampled_from([0.0, 60.0]),
        delay=st.booleans(),
        report=st.none() | SIZES,
    )
    def settle(
        self,
        worker: int,
        number: int,
        kinds: list[type[Delivered] | type[Deferred] | type[Failed]],
        wait: float,
        delay: bool,
        report: int | None,
    ) -> None:
        if not self.held[worker]:
            worker = 1 - worker
        claim, same = self.pick(worker, number)
        self.clock.turn(0.001)
        now = self.clock.now()
        outcomes: list[tuple[int, Outcome]] = [
            (index, kinds[index](Reply(250, "2.0.0", f"said {index % 2}"), "mx", now))
            for index in claim.record.pending
        ]
        notice = Message(
            Envelope(None, (Recipient(Address("a", "example.com")),)),
            Origin(Door.REPORT, now),
            b"",
            "<2@example.com>",
            "report",
        )
        reports = () if report is None else (Report(notice, b"x" * report),)
        known = {record.id for record in self.do(self.workers[worker].find(Search(), 10_000))}
        settlement = Settlement(tuple(outcomes), now + wait, reports, delay)
        self.do(self.workers[worker].settle(claim, settlement))
        self.do(self.oracle.settle(same, replace(settlement, reports=())))
        for record in self.do(self.workers[worker].find(Search(), 10_000)):
            if record.id not in known and report is not None:
                self.oracle.insert(record.id, notice, b"x" * report)
        self.lost.append((worker, claim))

    @precondition(lambda self: any(self.held))
    @rule(worker=WORKERS, number=st.integers(0, 10))
    def give_back(self, worker: int, number: int) -> None:
        if not self.held[worker]:
            worker = 1 - worker
        claim, same = self.pick(worker, number)
        self.clock.turn(0.001)
        self.do(self.workers[worker].give_back(claim))
        self.do(self.oracle.give_back(same))

    @precondition(lambda self: self.lost)
    @rule(number=st.integers(0, 10))
    def settle_twice(self, number: int) -> None:
        worker, claim = self.lost[number % len(self.lost)]
        try:
            self.do(self.workers[worker].settle(claim, Settlement((), 0.0)))
        except LeaseLost:
            return
        raise AssertionError("a claim was settled twice")

    @rule(worker=WORKERS, search=SEARCHES, verb=st.sampled_from(["retry", "hold", "release", "delete"]))
    def own(self, worker: int, search: Search, verb: str) -> None:
        self.free_others(worker)
        self.clock.turn(0.001)
        changed = self.do(getattr(self.workers[worker], verb)(search))
        assert changed == self.do(getattr(self.oracle, verb)(search))

    @rule(worker=WORKERS, age=st.sampled_from([0.0, 30.0]), limit=st.integers(1, 3))
    def forget(self, worker: int, age: float, limit: int) -> None:
        before = self.clock.now() - age
        forgotten = self.do(self.workers[worker].forget(before, limit))
        assert forgotten == self.do(self.oracle.forget(before, limit))

    @rule(worker=WORKERS, search=SEARCHES, limit=st.integers(1, 5))
    def find(self, worker: int, search: Search, limit: int) -> None:
        self.free_others(worker)
        assert self.do(self.workers[worker].find(search, limit)) == self.do(self.oracle.find(search, limit))

    @rule(worker=WORKERS)
    def reopen(self, worker: int) -> None:
        self.do(self.workers[worker].close())
        for _, same in self.held[worker]:
            entry = self.oracle._entries[same.record.id]
            entry.record = replace(entry.record, leased=False)
        self.lost += [(worker, claim) for claim, _ in self.held[worker]]
        self.held[worker] = []
        self.workers[worker] = self.open()

    @rule(worker=WORKERS)
    def look(self, worker: int) -> None:
        # Both look, so that neither is taken for dead.
        self.do(self.workers[worker].look())
        self.do(self.workers[1 - worker].look())

    @rule(seconds=st.sampled_from([1.0, 30.0, 60.0]))
    def wait(self, seconds: float) -> None:
        self.clock.turn(seconds)

    @rule()
    def the_same_is_there(self) -> None:
        for worker in (0, 1):
            self.free_others(worker)
            mine, expected = (self.do(state(queue)) for queue in (self.workers[worker], self.oracle))
            assert mine == expected


async def state(queue: Queue) -> tuple[list[Record], object, object, list[object]]:
    """All that can be seen of a queue."""
    records = await queue.find(Search(), 10_000)
    stories: list[object] = [await queue.story(record.id) for record in records]
    return records, await queue.counts(), await queue.next_due(), stories


async def octets(claim: Claim) -> tuple[int, bytes, bool]:
    whole = await claim.content.octets()
    return claim.content.size, b"".join([piece async for piece in claim.content.chunks()]), whole is None


QueueMachine.TestCase.settings = settings(
    max_examples=25,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
TestQueue = QueueMachine.TestCase
