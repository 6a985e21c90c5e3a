"""The queue in one SQLite database, with a folder for large bodies: several processes on one machine may share it.

Its folder holds `queue.sqlite3` (and SQLite's own -wal and -shm), `queue.lock` (whose turn it is to write),
`worker-N.lock` (who lives) and `bodies/`. What is committed here goes to this process's next `claim` from memory,
leased in the very transaction that stores it, up to a bound; what is beyond waits in the database.

This module must not know what is done with a message, nor publish events: trouble is told to whoever opened it.
"""

import asyncio
import contextlib
import math
import sqlite3
import time
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from mailroot.clock import Clock
from mailroot.queue import changes, reader, rows, schema, workers
from mailroot.queue.base import (
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
    QueueRefused,
    Record,
    Report,
    Search,
    Settlement,
    Standing,
    State,
    fate_of,
)
from mailroot.queue.bodies import Bodies, queue_error
from mailroot.queue.fresh import Fresh
from mailroot.queue.operation import CommitUnknown, Insert, Operation, Settle, Work
from mailroot.queue.reader import Reader
from mailroot.queue.stored import StoredContent, StoredDraft
from mailroot.queue.workers import Watch, Worker
from mailroot.queue.writer import Writer
from mailroot.system import FileLock, make_private, sync_folder

T = TypeVar("T")

DATABASE = "queue.sqlite3"

OLDEST_SQLITE = (3, 34)

AT_ONCE = 1000
"""Messages that are leased, or changed by an owner's verb, in one transaction."""

STUCK = 60.0
"""Seconds after which a transaction that does not end is given up by those who wait for it."""

KNOWN = 1.0
"""Seconds for which we rely on knowing what is due, although other processes add to it unseen."""

Trouble = Callable[[str | None], None]
"""Called in the event loop with the reason when storing begins to fail, and with None when it works again."""


async def open_queue(folder: Path, clock: Clock, trouble: Trouble | None = None) -> "SqliteQueue":
    """Open the queue in a folder, which is made if need be. Raises QueueRefused, QueueError."""
    try:
        turn, worker = await asyncio.to_thread(_open, folder)
    except sqlite3.Error as error:
        raise QueueError(f"{folder / DATABASE}: {error}") from error
    except OSError as error:
        raise queue_error(error) from error
    queue = SqliteQueue(folder, clock, turn, worker, trouble)
    try:
        await queue.start()
    except BaseException:
        await queue.close()
        raise
    return queue


def _open(folder: Path) -> tuple[FileLock, Worker]:
    if sqlite3.sqlite_version_info < OLDEST_SQLITE:
        wanted = ".".join(map(str, OLDEST_SQLITE))
        raise QueueRefused(f"This Python has SQLite {sqlite3.sqlite_version}; the queue needs {wanted} or later.")
    _make(folder)
    schema.refuse_foreign(folder / DATABASE)  # before a lock file is put beside it
    turn = FileLock(folder / "queue.lock")
    try:
        turn.acquire()
        try:
            schema.prepare(folder / DATABASE)
            if not (folder / "bodies").exists():
                _make(folder / "bodies")
                make_private(folder / "bodies")
        finally:
            turn.release()
        return turn, Worker(folder)
    except BaseException:
        turn.close()
        raise


def _make(folder: Path) -> None:
    """Make a folder, and durable that it is there: what is stored in it must be found again."""
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for each in missing:
        sync_folder(each.parent)


class SqliteQueue:
    """See `mailroot.queue.base.Queue`; made by `open_queue`."""

    def __init__(
        self, folder: Path, clock: Clock, turn: FileLock, worker: Worker, trouble: Trouble | None = None
    ) -> None:
        file = folder / DATABASE
        self.wake = asyncio.Event()
        self.wake.set()
        self._clock = clock
        self._turn = turn
        self._worker = worker
        self._me = worker.number
        self._trouble = trouble
        self._in_trouble = False
        self._ids = IdSource()
        self._writer = Writer(file, turn, self._answer)
        self._fetching = Reader(file, "fetch")  # for delivery: always short
        self._scanning = Reader(file, "scan")  # for people: may take a while
        self._bodies = Bodies(folder / "bodies", self._me, self._tell)
        self._watch = Watch()
        self._tasks: list[asyncio.Task[None]] = []
        self._waiting: set[Operation] = set()
        self._closed = False
        self._refusal: QueueError | None = None
        self._fresh = Fresh()
        # When something that is not leased falls due, as far as we know, and until when we rely on that.
        self._stored_due = math.inf
        self._known_until = 0.0

    async def start(self) -> None:
        """Join the workers of this queue, and free what dead ones had leased. Raises QueueError."""
        self._writer.start(asyncio.get_running_loop())
        await self._write(workers.enter, self._me)
        await self._bury()
        due = await self._fetching.run(reader.next_due)
        self._stored_due = math.inf if due is None else due
        self._keep(self._keep_looking())
        self._keep(self._sweep())

    def _keep(self, work: Coroutine[Any, Any, None]) -> None:
        self._tasks.append(asyncio.get_running_loop().create_task(work))

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        with contextlib.suppress(QueueError):  # else whoever opens the queue next does it for us
            await self._free_fresh()
            await self._write(workers.give_up, self._me)
        self._refusal = QueueError("the queue is closed")
        await self._fetching.close()
        await self._scanning.close()
        # The last to go is one that may write: SQLite then moves the log into the database and removes it.
        await asyncio.to_thread(self._writer.stop)
        await asyncio.to_thread(self._bodies.close)
        self._worker.leave()
        self._turn.close()

    # The way in.

    def draft(self) -> StoredDraft:
        return StoredDraft(self._ids.new(), self._bodies, self._insert)

    async def _insert(self, id: MessageId, message: Message, octets: int, body: bytes | None) -> None:
        """Make a message durable whose octets are `body`, or in its sealed file. Raises QueueError."""
        now = self._clock.now()
        size = len(message.prefix) + octets
        file = self._bodies.name(id) if body is None else None
        held = 0 if body is None else len(body)
        claim = None
        if not message.hold and self._fresh.reserve(held):
            # The record is made of what is at hand: nothing is read back.
            record = Record(
                id=id,
                message=message,
                size=size,
                state=State.QUEUED,
                standings=tuple(map(Standing, message.envelope.recipients)),
                attempts=1,
                due=now,
                delay_reported=False,
                leased=True,
            )
            claim = Claim(record, StoredContent(id, size, message.prefix, file, body, self._bodies, self.content))
        new = rows.insertion(
            id,
            message,
            octets,
            state=rows.HELD if message.hold else rows.QUEUED,
            worker=0 if claim is None else self._me,
            due=now,
            attempts=0 if claim is None else 1,
            file=file,
            body=body,
        )

        def done(operation: Insert) -> None:
            if claim is None:
                if operation.error is None:
                    self._stored(now)
            elif operation.error is None:
                self._fresh.add(claim)
                self.wake.set()
            else:
                self._fresh.unreserve(held)
            if file is not None:
                self._decided(id, operation.error)

        await self._submit(Insert(asyncio.get_running_loop().create_future(), new, held, done))

    def _decided(self, id: MessageId, error: BaseException | None) -> None:
        """The row of a file was stored, or not. If that cannot be told, the file stays: a later start knows."""
        if error is None or isinstance(error, CommitUnknown):
            self._bodies.keep(id)
        else:
            self._bodies.discard(id)

    def _stored(self, due: float) -> None:
        """Something not leased is in the database."""
        self._stored_due = min(self._stored_due, due)
        self.wake.set()

    # The way out.

    async def claim(self, limit: int) -> list[Claim]:
        now = self._clock.now()
        claims: list[Claim] = []
        try:
            while len(claims) < limit:
                fresh = self._fresh.due
                if fresh is not None and fresh <= self._stored_due:
                    claims.append(self._fresh.take())
                    continue
                if claims and self._stored_due > now and time.monotonic() < self._known_until:
                    break
                # What is in the database comes first as far as it fell due before what is in memory.
                until = now if fresh is None else min(fresh, now)
                leased = await self._lease(until, min(limit - len(claims), AT_ONCE))
                claims += leased
                if not leased and not self._fresh:
                    break
                if not leased:
                    claims.append(self._fresh.take())
        except BaseException:
            for claim in reversed(claims):
                self._fresh.put_back(claim)
            raise
        return claims

    async def _lease(self, now: float, limit: int) -> list[Claim]:
        """Lease what is in the database and due."""

        def done(operation: Work) -> None:
            if operation.future.done() and operation.error is None:  # nobody waits any more, but they are leased
                for row in operation.result[0]:
                    self._fresh.put_back(self._leased(row, operation.result[1]))
                self.wake.set()

        found, bodies, self._stored_due = await self._submit(
            Work(
                asyncio.get_running_loop().create_future(),
                lambda connection: changes.lease(connection, self._me, now, limit),
                lambda connection: changes.nothing_due(connection, now),
                done,
            )
        )
        self._known_until = time.monotonic() + KNOWN
        return [self._leased(row, bodies) for row in found]

    def _leased(self, row: rows.Row, bodies: dict[int, bytes]) -> Claim:
        record = rows.record(row)
        record = replace(record, attempts=record.attempts + 1, leased=True)
        prefix, body = record.message.prefix, bodies.get(record.id)
        return Claim(
            record, StoredContent(record.id, record.size, prefix, row[-1], body, self._bodies, self.content)
        )

    async def next_due(self) -> float | None:
        stored = await self._fetching.run(reader.next_due)
        dues = [due for due in (stored, self._fresh.due) if due is not None]
        return min(dues, default=None)

    async def settle(self, claim: Claim, settlement: Settlement) -> None:
        record = claim.record
        fates = [standing.fate for standing in record.standings]
        for index, outcome in settlement.outcomes:
            fates[index] = fate_of(outcome)
        finished = Fate.PENDING not in fates
        now = self._clock.now()
        reports: list[tuple[rows.New, MessageId | None]] = []
        row = rows.settlement(
            record.id,
            settlement.outcomes,
            state=rows.FINISHED if finished else rows.QUEUED,
            worker=self._me,
            due=now if finished else settlement.due,
            attempts=record.attempts,
            delay_reported=settlement.delay_reported,
        )

        def done(operation: Settle) -> None:
            for _, in_file in reports:
                if in_file is not None:
                    self._decided(in_file, operation.error)
            if operation.error is not None:
                return
            if reports:
                self._stored(now)
            if not finished:
                self._stored(settlement.due)
            elif isinstance(claim.content, StoredContent) and claim.content.file is not None:
                self._bodies.remove([claim.content.file])

        try:
            for report in settlement.reports:
                stored = await self._report(report, now)
                reports.append(stored)
        except BaseException:
            for _, in_file in reports:
                if in_file is not None:
                    self._bodies.discard(in_file)
            raise
        octets = sum(len(report.octets) for report in settlement.reports)
        future = asyncio.get_running_loop().create_future()
        await self._submit(Settle(future, row, [new for new, _ in reports], octets, done))

    async def _report(self, report: Report, now: float) -> tuple[rows.New, MessageId | None]:
        """The row of a report, and its id if it is large: its octets are in their file then."""
        message = self._ids.new()
        large = len(report.octets) > SMALL
        if large:
            self._bodies.start(message)
            try:
                await self._bodies.seal(message, [report.octets])
            except BaseException:
                self._bodies.discard(message)
                raise
        new = rows.insertion(
            message,
            report.message,
            len(report.octets),
            state=rows.HELD if report.message.hold else rows.QUEUED,
            worker=0,
            due=now,
            attempts=0,
            file=self._bodies.name(message) if large else None,
            body=None if large else report.octets,
        )
        return new, message if large else None

    async def give_back(self, claim: Claim, due: float | None = None) -> None:
        due = self._clock.now() if due is None else due
        await self._write(changes.give_back, self._me, claim.record.id, claim.record.attempts, due)
        self._stored(due)

    # The owner's verbs.

    async def find(self, search: Search, limit: int) -> list[Record]:
        return await self._scanning.run(reader.find, search, limit, self._fresh)

    async def record(self, id: MessageId) -> Record | None:
        return await self._fetching.run(reader.record, id, self._fresh)

    async def story(self, id: MessageId) -> list[Attempt]:
        return await self._fetching.run(reader.story, id)

    async def content(self, id: MessageId) -> Content | None:
        row = await self._fetching.run(reader.body, id)
        return StoredContent(id, *row, self._bodies, self.content) if row else None

    async def counts(self) -> Counts:
        counts = await self._scanning.run(reader.counts)
        early = min(len(self._fresh), counts.leased)
        return replace(counts, queued=counts.queued + early, leased=counts.leased - early)

    async def arrivals(self, since: float) -> list[Arrivals]:
        return await self._scanning.run(reader.arrivals, since)

    async def retry(self, search: Search) -> list[MessageId]:
        return await self._change(search, changes.retry, State.QUEUED)

    async def hold(self, search: Search) -> list[MessageId]:
        return await self._change(search, changes.hold, State.QUEUED)

    async def release(self, search: Search) -> list[MessageId]:
        return await self._change(search, changes.release, State.HELD)

    async def delete(self, search: Search) -> list[MessageId]:
        return await self._change(search, changes.delete, State.QUEUED, State.HELD)

    async def _change(self, search: Search, change: changes.Change, *states: State) -> list[MessageId]:
        """Change what matches and is not leased, some at a time, newest first; the ids of what was changed."""
        await self._free_fresh()
        changed: list[MessageId] = []
        while found := await self._scanning.run(reader.ids, search, states, AT_ONCE):
            messages, files = await self._write(change, found, self._clock.now())
            changed += messages
            self._bodies.remove(files)
            search = replace(search, before=found[-1])
        self._stored(self._clock.now())
        return changed

    async def forget(self, before: float, limit: int = 1000) -> int:
        return await self._write(changes.forget, before, limit)

    # What goes on beside.

    async def _keep_looking(self) -> None:
        while True:
            await self._clock.sleep_until(self._clock.now() + workers.LOOK)
            with contextlib.suppress(QueueError):
                await self.look()

    async def look(self) -> None:
        """What is done every few seconds: give a sign of life if others share the queue, take over from the dead,
        notice what others left due, remove files that could not be removed before. Raises QueueError."""
        if self._writer.busy_for() > STUCK:
            self._give_up_waiting()
            return
        beats = await self._fetching.run(workers.others, self._me)
        if beats and not await self._write(workers.beat, self._me):
            self._fresh.clear()  # our sign of life was late: what we had leased is somebody else's
        await self._bury()
        for number in self._watch.silent(beats):
            await self._write(workers.give_up, number)
        due = await self._fetching.run(reader.next_due)
        if due is not None and (due <= self._clock.now() or due < self._stored_due):
            self._stored(due)
        self._bodies.remove_left()

    async def _bury(self) -> None:
        """Free what workers had leased that are no more."""
        for number in await self._bodies.in_thread(self._worker.vacant):
            if await self._fetching.run(workers.has_remains, number):
                lock = self._worker.take(number)
                if lock is not None:
                    try:
                        await self._write(workers.give_up, number)
                    finally:
                        lock.close()

    async def _sweep(self) -> None:
        """Remove files without a row: what crashes left behind."""
        with contextlib.suppress(QueueError):
            await self._sweep_files_of(self._me)
            for number in await self._bodies.in_thread(self._worker.vacant):
                lock = self._worker.take(number)
                if lock is not None:
                    try:
                        await self._sweep_files_of(number)
                    finally:
                        lock.close()

    async def _sweep_files_of(self, number: int) -> None:
        async for files in self._bodies.leftovers(number):
            wanted = await self._scanning.run(reader.with_body, list(files))
            self._bodies.remove([name for message, name in files.items() if message not in wanted])

    async def _free_fresh(self) -> None:
        """Return what is leased but not claimed to the database, so that the owner's verbs reach it."""
        claims = [self._fresh.take() for _ in range(len(self._fresh))]
        if claims:
            try:
                await self._write(changes.free, self._me, [claim.record.id for claim in claims])
            except QueueError:
                for claim in reversed(claims):
                    self._fresh.put_back(claim)
                raise
            self._stored(self._clock.now())

    def _give_up_waiting(self) -> None:
        """The disk does not answer: nobody waits for it any longer, and nobody may take anything for stored."""
        self._refusal = error = CommitUnknown(f"the disk has not answered for {STUCK:.0f} seconds")
        self._tell(error)
        for operation in self._waiting:
            if not operation.future.done():
                operation.future.set_exception(error)

    # Between event loop and writer.

    async def _write(self, change: Callable[..., T], *arguments: object) -> T:
        """The result of `change(connection, *arguments)`, called in a transaction. Raises QueueError."""
        future = asyncio.get_running_loop().create_future()
        result: T = await self._submit(Work(future, lambda connection: change(connection, *arguments)))
        return result

    def _submit(self, operation: Operation) -> "asyncio.Future[Any]":
        if self._refusal is not None:
            operation.error = self._refusal
            self._answer([operation])
            return operation.future
        self._waiting.add(operation)
        self._writer.submit(operation)
        return operation.future

    def _answer(self, batch: list[Operation]) -> None:
        """A transaction is over: called in the event loop."""
        if self._waiting:
            self._waiting.difference_update(batch)
            if isinstance(self._refusal, CommitUnknown):
                self._refusal = None  # the disk answers again
        for operation in batch:
            error, future = operation.error, operation.future
            if operation.done is not None:
                operation.done(operation)
            if error is None:
                if self._in_trouble:
                    self._tell(None)
                if not future.done():
                    future.set_result(operation.result)
            else:
                if isinstance(error, QueueError) and not isinstance(error, LeaseLost):
                    self._tell(error)
                if not future.done():
                    future.set_exception(error)

    def _tell(self, error: QueueError | None) -> None:
        """Say when trouble begins, and when it is over."""
        if self._in_trouble != (error is not None):
            self._in_trouble = error is not None
            if self._trouble is not None:
                self._trouble(None if error is None else str(error))
