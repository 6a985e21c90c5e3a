"""Claims what is due, has it tried, and settles what became of it; one task per message.

What is kept here: the bounds of what is under way, retries, delay notices and expiry (by `schedule`), reports and
Badmail for what failed, and the border at which a fault of ours becomes "deferred" and an event. What is not: how
to deliver (`attempt`) and what to write (`bounce`).

An outcome is in memory only until it is settled. If the queue cannot store it (disk full), the message is not tried
again; the storing is, until it succeeds: mail must not be delivered twice because a disk is full.
"""

import asyncio
import random
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from math import inf
from typing import Protocol

from mailroot.clock import Clock
from mailroot.deliver.attempt import Attempt, Courier, Result
from mailroot.deliver.bounce import kind_of
from mailroot.deliver.replies.shipped import explain
from mailroot.deliver.route import ToDrop
from mailroot.deliver.schedule import Schedule
from mailroot.events import (
    BadmailWritten,
    Bus,
    InternalError,
    LeaseExpired,
    QueueRecovered,
    QueueTrouble,
    RecipientDeferred,
    RecipientDelivered,
    RecipientFailed,
    ReportWritten,
)
from mailroot.mail.envelope import Notify
from mailroot.mail.outcome import Deferred, Delivered, Failed, Outcome
from mailroot.mail.reply import Reply
from mailroot.queue.base import (
    CHUNK,
    Claim,
    Content,
    LeaseLost,
    Queue,
    QueueError,
    Record,
    Report,
    Settlement,
    format_id,
)

MAX_MESSAGES = 1000
"""Messages under way at once."""
MAX_OCTETS = 64 * 1024 * 1024
"""Octets of messages held in memory at once, roughly; of a large message only a piece is."""
_BATCH = 100
"""Messages claimed at once."""
_ROOM = 20
"""Messages that must have gone before a full agent claims again: a claim for each would cost more."""
_POLL = 5.0
"""Seconds after which we look for what other workers left behind, even if nobody wakes us."""
_NEXT_TURN = 30.0
"""Seconds after which a message that found all connections busy is claimed again."""
_FIRST_PAUSE = 0.5
_LONGEST_PAUSE = 30.0
"""Seconds between tries to settle while the queue cannot store."""
_LAST_WORDS = 5.0
"""Seconds for settling and giving back after an attempt was cut short at shutdown."""


class Reports(Protocol):
    """Who is told what; `deliver.bounce.Bounce`."""

    async def reports(
        self,
        record: Record,
        content: Content,
        outcomes: Sequence[tuple[int, Outcome]],
        *,
        delayed: Sequence[int] = (),
        due: float,
        expires: float,
    ) -> list[Report]: ...


class BadmailFolder(Protocol):
    """Where that goes which can be neither delivered nor returned; `deliver.badmail.Badmail`."""

    async def write(self, record: Record, content: Content, reason: str, failed: Sequence[int]) -> str: ...


class _Flight:
    """A message under way."""

    __slots__ = ("attempt", "claim", "octets", "settling")

    def __init__(self, claim: Claim, attempt: Attempt) -> None:
        self.claim = claim
        self.attempt = attempt
        self.octets = min(claim.content.size, CHUNK)
        self.settling = False


class Agent:
    """The delivery agent of one virtual server, named `server` in events. `grace` is how many seconds an attempt
    may go on when we are told to stop; `spread` gives numbers from -1 to 1 (see `Schedule.retry`)."""

    def __init__(
        self,
        queue: Queue,
        bus: Bus,
        clock: Clock,
        *,
        server: str,
        courier: Courier,
        schedule: Schedule,
        bounce: Reports,
        badmail: BadmailFolder,
        grace: float = 10.0,
        spread: Callable[[], float] = lambda: random.uniform(-1, 1),  # noqa: S311 - no secret
    ) -> None:
        self._queue = queue
        self._bus = bus
        self._clock = clock
        self._server = server
        self._courier = courier
        self._schedule = schedule
        self._bounce = bounce
        self._badmail = badmail
        self._grace = grace
        self._spread = spread
        self._flights: dict[asyncio.Task[None], _Flight] = {}
        self._octets = 0
        self._full = False
        self._troubled = False
        self._next_due = inf
        self._alarm: asyncio.Task[None] | None = None
        self._alarm_at = inf
        self._look = True

    async def run(self) -> None:
        """Deliver until cancelled. Then what is under way gets `grace` seconds (none if cancelled once more), and
        the rest is given back."""
        try:
            while True:
                self._queue.wake.clear()
                room = min(MAX_MESSAGES - len(self._flights), _BATCH)
                self._full = room <= 0 or self._octets >= MAX_OCTETS
                claims = [] if self._full else await self._claim(room)
                for claim in claims:
                    self._start(claim)
                if self._full or len(claims) < room:
                    await self._rest()
        finally:
            await self._stop()

    # When to look

    async def _claim(self, limit: int) -> list[Claim]:
        try:
            claims = await self._queue.claim(limit)
        except QueueError as error:
            self._trouble(error)
            return []
        if claims:
            self._recovered()
        return claims

    async def _rest(self) -> None:
        """Until there may be something to claim."""
        if self._look:
            self._look = False
            try:
                due = await self._queue.next_due()
            except QueueError as error:
                self._trouble(error)
                due = None
            self._next_due = inf if due is None else due
        self._set_alarm()
        await self._queue.wake.wait()

    def _set_alarm(self) -> None:
        now = self._clock.now()
        # What is overdue and yet was not claimed is in the hands of another worker.
        at = max(min(self._next_due, now + _POLL), now + 0.1)
        if self._alarm is not None:
            if self._alarm_at <= at:
                return
            self._alarm.cancel()
        self._alarm_at = at
        self._alarm = asyncio.get_running_loop().create_task(self._ring(at))

    async def _ring(self, at: float) -> None:
        await self._clock.sleep_until(at)
        self._alarm = None
        self._look = True
        self._queue.wake.set()

    # A message

    def _start(self, claim: Claim) -> None:
        flight = _Flight(claim, self._courier.attempt(claim))
        self._octets += flight.octets
        task = asyncio.get_running_loop().create_task(self._fly(flight))
        self._flights[task] = flight
        task.add_done_callback(self._landed)

    def _landed(self, task: asyncio.Task[None]) -> None:
        self._octets -= self._flights.pop(task).octets
        if self._full and len(self._flights) <= MAX_MESSAGES - _ROOM and self._octets <= MAX_OCTETS // 2:
            self._full = False
            self._queue.wake.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            self._fault("settling a message", error)

    async def _fly(self, flight: _Flight) -> None:
        outcomes = flight.attempt.outcomes
        record = flight.claim.record
        try:
            await flight.attempt.run()
        except asyncio.CancelledError:
            # Cut short at shutdown; what is known is settled all the same, and `_stop` waits for that.
            pass
        except Exception as error:  # noqa: BLE001 - the border of our own faults
            self._fault(f"delivering message {format_id(record.id)}", error)
            text = "A fault of this server; its log says more" if not isinstance(error, QueueError) else str(error)
            for index in record.pending:
                if index not in outcomes:
                    outcome = Deferred(Reply(451, "4.3.0", text), "", self._clock.now())
                    outcomes[index] = Result(outcome, "")
        flight.settling = True
        crowded, now = flight.attempt.crowded, self._clock.now()
        if crowded is not None and (outcomes or min(self._marks(record, record.pending, told=False)) <= now):
            for index in record.pending:
                outcomes.setdefault(index, Result(Deferred(crowded, "", now), ""))
        if outcomes:
            await self._settle(flight.claim, outcomes)
        elif crowded is not None:
            # One slow destination must not hold every place: others go first, then it is this message's turn again.
            await self._give_back(flight.claim, now + _NEXT_TURN)
        else:
            await self._give_back(flight.claim, now)

    async def _give_back(self, claim: Claim, due: float) -> None:
        try:
            await self._queue.give_back(claim, due)
        except QueueError as error:
            # The lease runs out in its own time.
            self._trouble(error)
        else:
            self._expect(due)

    def _expect(self, due: float) -> None:
        """A message of ours falls due then."""
        if self._clock.now() < due < self._next_due:
            self._next_due = due
            if self._alarm is not None:
                self._set_alarm()

    async def _settle(self, claim: Claim, results: dict[int, Result]) -> None:
        record = claim.record
        recipients = record.message.envelope.recipients
        now = due = self._clock.now()
        reports: list[Report] = []
        delayed: list[int] = []
        for index, result in results.items():
            if not isinstance(result.outcome, Delivered) or recipients[index].notify is not None:
                self._expire(record, results, now)
                delayed = self._delayed(record, results, now)
                due = self._due(record, results, now, told=bool(delayed))
                if not await self._told(claim, results, delayed, due, reports):
                    delayed = []
                    due = self._due(record, results, now, told=False)
                break
        outcomes = tuple([(index, result.outcome) for index, result in results.items()])
        if not await self._store(claim, Settlement(outcomes, due, tuple(reports), bool(delayed))):
            return
        self._expect(due)
        self._publish(record, results, reports, due)

    async def _store(self, claim: Claim, settlement: Settlement) -> bool:
        """Settle, however long it takes; False: the message is another worker's by now."""
        pause = _FIRST_PAUSE
        while True:
            try:
                await self._queue.settle(claim, settlement)
            except LeaseLost:
                self._bus.publish(LeaseExpired(self._server, format_id(claim.record.id)))
                return False
            except QueueError as error:
                self._trouble(error)
                await self._clock.sleep_until(self._clock.now() + pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
            else:
                self._recovered()
                return True

    # Who is told what

    def _is_local(self, record: Record, index: int) -> bool:
        address = record.message.envelope.recipients[index].address
        return isinstance(self._courier.router.route(address), ToDrop)

    def _expire(self, record: Record, results: dict[int, Result], now: float) -> None:
        """What is still deferred when its time is over has failed (RFC 3463 §3.5: X.4.7)."""
        arrived = record.message.origin.arrived
        for index, result in results.items():
            last = result.outcome
            expires = self._schedule.expires(arrived, local=self._is_local(record, index))
            if isinstance(last, Deferred) and now >= expires:
                text = f"Not delivered within {_span(expires - arrived)}. The last answer was: {last.reply}"
                code = last.reply.code if last.reply.is_transient else 451
                result.outcome = Failed(Reply(code, "4.4.7", text), last.host, last.at)

    def _delayed(self, record: Record, results: dict[int, Result], now: float) -> list[int]:
        """Whose delay the sender is told of now."""
        envelope = record.message.envelope
        if record.delay_reported or envelope.sender is None:
            return []
        delayed: list[int] = []
        for index, result in results.items():
            notice = self._schedule.delay_notice(record.message.origin.arrived, local=self._is_local(record, index))
            wanted = envelope.recipients[index].wants(Notify.DELAY)
            if isinstance(result.outcome, Deferred) and wanted and notice is not None and now >= notice:
                delayed.append(index)
        return delayed

    def _due(self, record: Record, results: dict[int, Result], now: float, *, told: bool) -> float:
        """When the message is tried next; now, if it was not tried for everyone. `told`: of the delay, just now."""
        if len(results) < len(record.pending):
            return now
        waiting = [index for index, result in results.items() if isinstance(result.outcome, Deferred)]
        if not waiting:
            return now
        marks = self._marks(record, waiting, told=told)
        return self._schedule.next_due(max(1, record.attempts), now, self._spread(), marks)

    def _marks(self, record: Record, indices: Sequence[int], *, told: bool) -> list[float]:
        """The times at which something falls due for these recipients: the delay notice, and the end."""
        envelope = record.message.envelope
        arrived = record.message.origin.arrived
        notice = not (told or record.delay_reported or envelope.sender is None)
        marks: list[float] = []
        for index in indices:
            local = self._is_local(record, index)
            marks.append(self._schedule.expires(arrived, local=local))
            late = self._schedule.delay_notice(arrived, local=local)
            if notice and late is not None and envelope.recipients[index].wants(Notify.DELAY):
                marks.append(late)
        return marks

    async def _told(
        self, claim: Claim, results: dict[int, Result], delayed: Sequence[int], due: float, reports: list[Report]
    ) -> bool:
        """Add what has to be reported to `reports`, and write to Badmail what cannot be. False if that is not
        possible now: then nothing has failed yet, the failed are deferred."""
        record, content = claim.record, claim.content
        failed = [index for index, result in results.items() if isinstance(result.outcome, Failed)]
        try:
            if record.message.envelope.sender is None:
                if failed:
                    await self._to_badmail(record, content, results, failed)
            else:
                arrived = record.message.origin.arrived
                expires = min(
                    (self._schedule.expires(arrived, local=self._is_local(record, n)) for n in delayed or results),
                )
                outcomes = [(index, result.outcome) for index, result in results.items()]
                reports += await self._bounce.reports(
                    record, content, outcomes, delayed=delayed, due=due, expires=expires
                )
        except (OSError, QueueError) as error:
            self._bus.publish(QueueTrouble(self._server, f"Reports and Badmail cannot be written: {error}"))
        except Exception as error:  # noqa: BLE001 - the border of our own faults
            self._fault(f"reporting on message {format_id(record.id)}", error)
        else:
            return True
        reports.clear()
        for index in failed:
            last = results[index].outcome
            reply = Reply(
                451, "4.3.0", f"Failed, but nobody could be told so far. The last answer was: {last.reply}"
            )
            results[index].outcome = Deferred(reply, last.host, last.at)
        return False

    async def _to_badmail(
        self, record: Record, content: Content, results: dict[int, Result], failed: Sequence[int]
    ) -> None:
        """A report that cannot be delivered is not reported on (RFC 5321 §6.1)."""
        standings = list(record.standings)
        for index in failed:
            standings[index] = replace(standings[index], last=results[index].outcome)
        reason = "It could not be delivered, and it has no sender to whom it could be returned."
        file = await self._badmail.write(replace(record, standings=tuple(standings)), content, reason, failed)
        self._bus.publish(BadmailWritten(self._server, format_id(record.id), file, reason))

    # Events

    def _publish(self, record: Record, results: dict[int, Result], reports: Sequence[Report], due: float) -> None:
        server, publish, message = self._server, self._bus.publish, format_id(record.id)
        envelope = record.message.envelope
        sender = str(envelope.sender or "")
        tries = record.attempts
        for index, result in results.items():
            recipient = str(envelope.recipients[index].address)
            host, reply, route = result.outcome.host, str(result.outcome.reply), result.route
            match result.outcome:
                case Delivered(at=at):
                    delay = at - record.message.origin.arrived
                    publish(
                        RecipientDelivered(server, message, sender, recipient, route, host, reply, delay, tries)
                    )
                case Deferred():
                    meaning = explain(result.outcome.reply, host).meaning
                    publish(
                        RecipientDeferred(
                            server, message, sender, recipient, route, host, reply, tries, due, meaning
                        )
                    )
                case Failed():
                    meaning = explain(result.outcome.reply, host).meaning
                    publish(RecipientFailed(server, message, sender, recipient, route, host, reply, tries, meaning))
        for report in reports:
            for told in report.message.envelope.recipients:
                kind = kind_of(report).value
                publish(ReportWritten(server, report.message.message_id, message, kind, str(told.address)))

    def _fault(self, where: str, error: BaseException) -> None:
        trace = "".join(traceback.format_exception(error))
        self._bus.publish(InternalError(self._server, where, repr(error), trace))

    def _trouble(self, error: QueueError) -> None:
        if not self._troubled:
            self._troubled = True
            self._bus.publish(QueueTrouble(self._server, str(error)))

    def _recovered(self) -> None:
        if self._troubled:
            self._troubled = False
            self._bus.publish(QueueRecovered(self._server))

    # The end

    async def _stop(self) -> None:
        """Let attempts come to their end for `grace` seconds (or until cancelled once more), cut the others short,
        settle what is known."""
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        # Who still waits for a connection has not begun.
        self._courier.pool.stop()
        if self._flights:
            with suppress(asyncio.CancelledError):
                await asyncio.wait(self._flights, timeout=self._grace)
        for task, flight in self._flights.items():
            if not flight.settling:
                task.cancel()
        if self._flights:
            await asyncio.wait(self._flights, timeout=_LAST_WORDS)
        for task in list(self._flights):
            # The queue has not taken its outcome so far, and we are told to go.
            task.cancel()
        await asyncio.gather(*self._flights, return_exceptions=True)
        await self._courier.pool.close(_LAST_WORDS)


def _span(seconds: float) -> str:
    return f"{seconds / 3600:g} hours" if seconds >= 7200 else f"{seconds / 60:.0f} minutes"
