"""What every queue engine keeps: the three promises, the owner's verbs, and the order of things."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from mailroot.clock import ManualClock
from mailroot.mail.address import Address
from mailroot.mail.envelope import Body, Door, Envelope, Notify, Origin, Recipient, Return
from mailroot.mail.outcome import Deferred, Delivered, Failed, Outcome
from mailroot.mail.reply import Reply
from mailroot.queue import reader
from mailroot.queue.base import (
    CHUNK,
    SMALL,
    Arrivals,
    Attempt,
    Claim,
    Content,
    Counts,
    Fate,
    LeaseLost,
    Message,
    MessageId,
    Queue,
    QueueError,
    Report,
    Search,
    Settlement,
    State,
)
from mailroot.queue.memory import MemoryQueue
from mailroot.queue.sqlite import open_queue

pytestmark = pytest.mark.quick

BODY = b"Subject: Test Message\r\n\r\ntext\r\n"


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture(params=["memory", "sqlite"])
async def queue(request: pytest.FixtureRequest, tmp_path: Path, clock: ManualClock) -> AsyncIterator[Queue]:
    opened: Queue = MemoryQueue(clock) if request.param == "memory" else await open_queue(tmp_path / "Queue", clock)
    yield opened
    await opened.close()


def message(
    clock: ManualClock,
    *recipients: str,
    sender: str | None = "sender@example.com",
    subject: str = "Test Message",
    hold: bool = False,
) -> Message:
    envelope = Envelope(
        sender=address(sender) if sender else None,
        recipients=tuple(Recipient(address(recipient)) for recipient in recipients or ("someone@example.org",)),
    )
    origin = Origin(Door.SMTP, clock.now(), "192.0.2.7", "client.example.com", "robot")
    return Message(envelope, origin, b"Received: from client\r\n", "<1@example.com>", subject, hold)


def address(text: str) -> Address:
    local, _, domain = text.rpartition("@")
    return Address(local, domain)


async def put(queue: Queue, message: Message, body: bytes = BODY) -> MessageId:
    draft = queue.draft()
    await draft.write(body)
    await draft.commit(message)
    return draft.id


async def all_of(content: Content | None) -> bytes:
    assert content is not None
    return b"".join([piece async for piece in content.chunks()])


async def one(queue: Queue) -> Claim:
    [claim] = await queue.claim(1)
    return claim


def delivered(at: float = 1.0) -> Delivered:
    return Delivered(Reply(250, "2.0.0", "Ok: queued as 4XHJ2x"), "mx.example.org [192.0.2.1]:25", at)


def deferred(at: float = 1.0) -> Deferred:
    return Deferred(Reply(451, "4.3.0", "later\nplease"), "mx.example.org [192.0.2.1]:25", at)


def failed(at: float = 1.0) -> Failed:
    return Failed(Reply(550, "5.1.1", "no such user \u2028 \udcff"), "", at)


# The way in


async def test_what_is_committed_can_be_claimed(queue: Queue, clock: ManualClock) -> None:
    sent = message(clock)
    stored = await put(queue, sent)
    claim = await one(queue)
    assert claim.record.id == stored
    assert claim.record.message == sent
    assert claim.record.size == len(sent.prefix) + len(BODY) == claim.content.size
    assert claim.record.state is State.QUEUED
    assert claim.record.attempts == 1
    assert claim.record.leased
    assert claim.record.due == clock.now()
    assert claim.record.pending == (0,)
    assert await claim.content.octets() == sent.prefix + BODY
    assert await all_of(claim.content) == sent.prefix + BODY
    assert await queue.claim(10) == []


async def test_what_is_not_committed_is_not_there(queue: Queue) -> None:
    draft = queue.draft()
    await draft.write(BODY)
    await draft.abandon()
    await draft.abandon()
    assert await queue.claim(1) == []
    assert await queue.record(draft.id) is None
    assert await queue.content(draft.id) is None
    assert await queue.story(draft.id) == []


async def test_abandon_after_commit_changes_nothing(queue: Queue, clock: ManualClock) -> None:
    draft = queue.draft()
    await draft.write(b"x" * (SMALL + 1))
    await draft.commit(message(clock))
    await draft.abandon()
    claim = await one(queue)
    assert await all_of(claim.content) == claim.record.message.prefix + b"x" * (SMALL + 1)


async def test_a_message_without_octets(queue: Queue, clock: ManualClock) -> None:
    draft = queue.draft()
    await draft.commit(replace(message(clock), prefix=b""))
    claim = await one(queue)
    assert claim.content.size == 0
    assert await claim.content.octets() == b""
    assert await all_of(claim.content) == b""


@pytest.mark.parametrize("size", [SMALL - 1, SMALL, SMALL + 1, CHUNK, CHUNK + 1, 3 * CHUNK + 17])
async def test_octets_come_back_as_they_were(queue: Queue, clock: ManualClock, size: int) -> None:
    octets = bytes(n * 7 % 251 for n in range(1024)) * (size // 1024 + 1)
    octets = octets[:size]
    draft = queue.draft()
    for start in range(0, size, 10_000):
        await draft.write(octets[start : start + 10_000])
    sent = message(clock)
    await draft.commit(sent)
    claim = await one(queue)
    for _ in range(2):
        pieces = [piece async for piece in claim.content.chunks()]
        assert b"".join(pieces) == sent.prefix + octets
        assert all(0 < len(piece) <= CHUNK for piece in pieces)
    whole = await claim.content.octets()
    assert whole == (sent.prefix + octets if size <= SMALL else None)
    assert claim.content.size == len(sent.prefix) + size
    assert await all_of(await queue.content(draft.id)) == sent.prefix + octets


async def test_everything_an_envelope_can_say(queue: Queue, clock: ManualClock) -> None:
    envelope = Envelope(
        sender=Address('"a @ b"', "[IPv6:2001:db8::1]"),
        recipients=(
            Recipient(Address("jürgen", "grüße.example")),
            Recipient(Address("a", "example.com"), Notify.NEVER),
            Recipient(Address("b", "example.com"), Notify.SUCCESS | Notify.DELAY, "rfc822;b+c@example.net"),
            Recipient(Address("c", "[x:y@z]"), None, "rfc822;c"),
            Recipient(Address("d", "[x:y@z]")),
        ),
        body=Body.BINARY,
        smtputf8=True,
        ret=Return.HEADERS,
        envid="QQ314159 ü",
    )
    sent = replace(message(clock), envelope=envelope, subject='Grüße "quoted" \\ \u2028', message_id="<ü@x>")
    stored = await put(queue, sent)
    assert (await queue.record(stored)).message == sent  # type: ignore[union-attr]
    claim = await one(queue)
    assert claim.record.message == sent
    await queue.give_back(claim)
    assert (await one(queue)).record.message == sent


async def test_what_is_given_back_may_wait(queue: Queue, clock: ManualClock) -> None:
    stored = await put(queue, message(clock))
    await queue.give_back(await one(queue), clock.now() + 30)
    assert await queue.claim(10) == []
    assert await queue.next_due() == clock.now() + 30
    record = await queue.record(stored)
    assert record is not None and record.attempts == 0
    clock.turn(30)
    assert (await one(queue)).record.attempts == 1


async def test_the_null_sender(queue: Queue, clock: ManualClock) -> None:
    stored = await put(queue, message(clock, sender=None))
    await queue.give_back(await one(queue))
    assert (await one(queue)).record.message.envelope.sender is None
    assert (await queue.record(stored)).message.envelope.sender is None  # type: ignore[union-attr]


async def test_ids_rise(queue: Queue, clock: ManualClock) -> None:
    ids = [await put(queue, message(clock)) for _ in range(20)]
    assert ids == sorted(set(ids))


async def test_many_at_once(queue: Queue, clock: ManualClock) -> None:
    ids = await asyncio.gather(*(put(queue, message(clock), b"%d" % n) for n in range(200)))
    claims = await queue.claim(500)
    assert sorted(claim.record.id for claim in claims) == sorted(ids)
    octets = {claim.record.id: await claim.content.octets() for claim in claims}
    assert all(octets[each].endswith(b"\n%d" % n) for n, each in enumerate(ids))  # type: ignore[union-attr]
    await asyncio.gather(*(queue.settle(claim, Settlement(((0, delivered()),), 0.0)) for claim in claims))
    assert await queue.counts() == Counts(0, 0, 0, 200, None)


# The way out


async def test_limits_and_order(queue: Queue, clock: ManualClock) -> None:
    ids = []
    for _ in range(5):
        ids.append(await put(queue, message(clock)))
        clock.turn(1)
    first = await queue.claim(2)
    second = await queue.claim(10)
    assert [claim.record.id for claim in first + second] == ids
    assert await queue.next_due() is None


async def test_a_deferred_message_comes_back_when_it_is_due(queue: Queue, clock: ManualClock) -> None:
    stored = await put(queue, message(clock, "a@example.org", "b@example.org", "c@example.org"))
    claim = await one(queue)
    due = clock.now() + 900
    queue.wake.clear()
    await queue.settle(claim, Settlement(((0, delivered(5.0)), (1, failed(6.0)), (2, deferred(7.0))), due))
    assert queue.wake.is_set()
    assert await queue.claim(1) == []
    assert await queue.next_due() == due
    record = await queue.record(stored)
    assert record is not None
    assert not record.leased
    assert record.state is State.QUEUED
    assert record.due == due
    assert record.attempts == 1
    assert record.pending == (2,)
    assert [standing.fate for standing in record.standings] == [Fate.DELIVERED, Fate.FAILED, Fate.PENDING]
    assert [standing.last for standing in record.standings] == [delivered(5.0), failed(6.0), deferred(7.0)]
    clock.turn(899)
    assert await queue.claim(1) == []
    clock.turn(1)
    again = await one(queue)
    assert again.record.attempts == 2
    assert again.record.standings == record.standings
    assert await all_of(again.content) == record.message.prefix + BODY
    await queue.settle(again, Settlement(((2, delivered(8.0)),), 0.0))
    assert (await queue.record(stored)).state is State.FINISHED  # type: ignore[union-attr]
    assert await queue.story(stored) == [
        Attempt((0,), delivered(5.0)),
        Attempt((1,), failed(6.0)),
        Attempt((2,), deferred(7.0)),
        Attempt((2,), delivered(8.0)),
    ]


async def test_recipients_with_the_same_outcome_share_a_line(queue: Queue, clock: ManualClock) -> None:
    stored = await put(queue, message(clock, "a@example.org", "b@example.org", "c@example.org"))
    outcomes: tuple[tuple[int, Outcome], ...] = ((0, delivered()), (1, deferred()), (2, delivered()))
    await queue.settle(await one(queue), Settlement(outcomes, 0.0))
    assert await queue.story(stored) == [Attempt((0, 2), delivered()), Attempt((1,), deferred())]


async def test_a_record_outlives_its_body(queue: Queue, clock: ManualClock) -> None:
    small, large = await put(queue, message(clock)), await put(queue, message(clock), b"x" * (SMALL + 1))
    clock.turn(60)
    reported = replace(delivered(), reports_on=True)
    for claim in await queue.claim(2):
        await queue.settle(claim, Settlement(((0, reported),), 0.0))
    for stored in small, large:
        record = await queue.record(stored)
        assert record is not None
        assert record.state is State.FINISHED
        assert record.finished == clock.now()
        assert record.due is None
        assert not record.leased
        assert record.pending == ()
        assert record.message == replace(message(clock), prefix=b"", origin=record.message.origin)
        assert record.standings[0].last == reported
        assert await queue.content(stored) is None
    assert await queue.claim(5) == []
    assert await queue.next_due() is None


async def test_settling_without_outcomes_only_sets_the_time(queue: Queue, clock: ManualClock) -> None:
    stored = await put(queue, message(clock))
    await queue.settle(await one(queue), Settlement((), clock.now() + 5, delay_reported=True))
    record = await queue.record(stored)
    assert record is not None
    assert (record.due, record.delay_reported, record.pending) == (clock.now() + 5, True, (0,))
    clock.turn(5)
    claim = await one(queue)
    assert claim.record.delay_reported
    await queue.settle(claim, Settlement((), clock.now() + 5))
    assert (await queue.record(stored)).delay_reported  # type: ignore[union-attr]


async def test_reports_are_stored_with_their_cause(queue: Queue, clock: ManualClock) -> None:
    await put(queue, message(clock))
    claim = await one(queue)
    queue.wake.clear()
    reports = (
        Report(message(clock, "sender@example.com", sender=None, subject="failed"), b"small"),
        Report(message(clock, "sender@example.com", sender=None, subject="failed"), b"l" * (SMALL + 5)),
    )
    await queue.settle(claim, Settlement(((0, failed()),), 0.0, reports))
    assert queue.wake.is_set()
    claims = await queue.claim(5)
    assert [claim.record.message for claim in claims] == [report.message for report in reports]
    for claim, report in zip(claims, reports, strict=True):
        assert await all_of(claim.content) == report.message.prefix + report.octets
        assert claim.record.attempts == 1


async def test_giving_back_does_not_count(queue: Queue, clock: ManualClock) -> None:
    stored = await put(queue, message(clock))
    claim = await one(queue)
    clock.turn(10)
    queue.wake.clear()
    await queue.give_back(claim)
    assert queue.wake.is_set()
    record = await queue.record(stored)
    assert record is not None
    assert (record.attempts, record.leased, record.due) == (0, False, clock.now())
    again = await one(queue)
    assert again.record.attempts == 1
    assert await again.content.octets() == again.record.message.prefix + BODY


async def test_a_claim_is_settled_once(queue: Queue, clock: ManualClock) -> None:
    await put(queue, message(clock))
    claim = await one(queue)
    settlement = Settlement(((0, deferred()),), clock.now())
    await queue.settle(claim, settlement)
    with pytest.raises(LeaseLost):
        await queue.settle(claim, settlement)
    with pytest.raises(LeaseLost):
        await queue.give_back(claim)
    again = await one(queue)
    with pytest.raises(LeaseLost):
        await queue.settle(claim, settlement)
    await queue.settle(again, Settlement(((0, delivered()),), 0.0))
    assert (await queue.counts()).finished == 1


async def test_a_lost_lease_stores_no_report_and_spoils_no_neighbour(queue: Queue, clock: ManualClock) -> None:
    for _ in range(5):
        await put(queue, message(clock))
    claims = await queue.claim(5)
    await queue.give_back(claims[2])
    report = Report(message(clock), b"r" * (SMALL + 1))
    results = await asyncio.gather(
        *(queue.settle(claim, Settlement(((0, failed()),), 0.0, (report,))) for claim in claims),
        return_exceptions=True,
    )
    assert [type(result) for result in results] == [type(None)] * 2 + [LeaseLost] + [type(None)] * 2
    counts = await queue.counts()
    assert (counts.finished, counts.queued) == (4, 1 + 4)


async def test_wake_is_set_by_whatever_can_be_claimed(queue: Queue, clock: ManualClock) -> None:
    queue.wake.clear()
    await put(queue, message(clock))
    assert queue.wake.is_set()
    await queue.hold(Search())
    queue.wake.clear()
    await queue.release(Search())
    assert queue.wake.is_set()
    claim = await one(queue)
    await queue.settle(claim, Settlement((), clock.now() + 100))
    queue.wake.clear()
    await queue.retry(Search())
    assert queue.wake.is_set()
    assert len(await queue.claim(1)) == 1


# The owner's verbs


async def test_newly_stored_is_queued_not_leased(queue: Queue, clock: ManualClock) -> None:
    stored = await put(queue, message(clock))
    assert await queue.counts() == Counts(1, 0, 0, 0, clock.now())
    assert await queue.next_due() == clock.now()
    [found] = await queue.find(Search(), 5)
    assert found == await queue.record(stored)
    assert (found.leased, found.attempts, found.state) == (False, 0, State.QUEUED)


async def test_arrivals_by_client_login_and_quarter_of_an_hour(
    queue: Queue, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "SLICE", 2)
    start = clock.now()
    assert start % 900 == 0

    async def arrive(*recipients: str, **origin: object) -> None:
        fresh = message(clock, *recipients)
        await put(queue, replace(fresh, origin=replace(fresh.origin, **origin)))

    await arrive()  # too old
    clock.turn(900)
    await arrive(user="other")
    await arrive("a@example.org", "b@example.org")
    clock.turn(800)
    await arrive("c@example.org")
    await arrive(client="2001:db8::1", user='"quoted" Jürgen')
    await arrive(door=Door.PICKUP, client="")
    await arrive(door=Door.REPORT, client="")
    clock.turn(100)
    await arrive()
    [*claims] = await queue.claim(10)
    for claim in claims:
        await queue.settle(claim, Settlement(((0, delivered()),), 0.0))

    assert await queue.arrivals(start + 900) == [
        Arrivals("192.0.2.7", "robot", start + 1800, 1, 1),
        Arrivals("2001:db8::1", '"quoted" Jürgen', start + 900, 1, 1),
        Arrivals("192.0.2.7", "robot", start + 900, 2, 3),
        Arrivals("192.0.2.7", "other", start + 900, 1, 1),
    ]
    assert await queue.arrivals(clock.now() + 1) == []


async def test_counts(queue: Queue, clock: ManualClock) -> None:
    assert await queue.counts() == Counts(0, 0, 0, 0, None)
    oldest = clock.now()
    for _ in range(4):
        await put(queue, message(clock))
        clock.turn(1)
    claims = await queue.claim(2)
    await put(queue, message(clock, hold=True))
    assert await queue.counts() == Counts(2, 2, 1, 0, oldest)
    await queue.settle(claims[0], Settlement(((0, delivered()),), 0.0))
    assert await queue.counts() == Counts(2, 1, 1, 1, oldest + 1)


async def test_hold_and_release(queue: Queue, clock: ManualClock) -> None:
    held = await put(queue, message(clock, hold=True))
    assert await queue.claim(1) == []
    assert await queue.next_due() is None
    record = await queue.record(held)
    assert record is not None
    assert record.state is State.HELD
    assert record.message == message(clock)
    clock.turn(5)
    assert await queue.release(Search(ids=(held,))) == [held]
    assert await queue.release(Search(ids=(held,))) == []
    claim = await one(queue)
    assert (claim.record.id, claim.record.due) == (held, clock.now())
    assert await queue.hold(Search()) == []  # somebody is at it
    await queue.give_back(claim)
    assert await queue.hold(Search()) == [held]
    assert await queue.claim(1) == []
    assert await queue.retry(Search()) == []


async def test_retry(queue: Queue, clock: ManualClock) -> None:
    ids = [await put(queue, message(clock)) for _ in range(3)]
    for claim in await queue.claim(3):
        await queue.settle(claim, Settlement(((0, deferred()),), clock.now() + 900))
    assert await queue.retry(Search(ids=tuple(ids[:2]))) == [ids[1], ids[0]]
    assert sorted(claim.record.id for claim in await queue.claim(5)) == ids[:2]


@pytest.mark.parametrize("size", [10, SMALL + 1])
async def test_delete(queue: Queue, clock: ManualClock, size: int) -> None:
    sent = message(clock, "a@example.org", "b@example.org", "c@example.org")
    stored = await put(queue, sent, b"x" * size)
    await queue.settle(await one(queue), Settlement(((0, delivered()), (1, deferred())), clock.now()))
    assert await queue.delete(Search()) == [stored]
    assert await queue.delete(Search()) == []
    record = await queue.record(stored)
    assert record is not None
    assert record.state is State.FINISHED
    assert record.finished == clock.now()
    assert [standing.fate for standing in record.standings] == [Fate.DELIVERED, Fate.DELETED, Fate.DELETED]
    assert record.standings[1].last == deferred()
    assert await queue.content(stored) is None
    assert await queue.claim(1) == []


async def test_what_is_being_delivered_is_left_alone(queue: Queue, clock: ManualClock) -> None:
    leased, free = await put(queue, message(clock)), await put(queue, message(clock))
    claim = await one(queue)
    assert claim.record.id == leased
    assert await queue.delete(Search()) == [free]
    await queue.settle(claim, Settlement(((0, delivered()),), 0.0))


async def test_forget(queue: Queue, clock: ManualClock) -> None:
    ids = []
    for _ in range(5):
        ids.append(await put(queue, message(clock)))
        await queue.settle(await one(queue), Settlement(((0, delivered()),), 0.0))
        clock.turn(10)
    unfinished = await put(queue, message(clock))
    assert await queue.forget(clock.now() - 20, limit=2) == 2
    assert await queue.forget(clock.now() - 20) == 1
    assert await queue.forget(clock.now() - 20) == 0
    assert [record.id for record in await queue.find(Search(), 10)] == [unfinished, ids[4], ids[3]]


SEARCHES: list[tuple[Callable[[list[MessageId]], Search], list[int]]] = [
    (lambda ids: Search(), [4, 3, 2, 1, 0]),
    (lambda ids: Search(ids=(ids[3], ids[1], MessageId(5))), [3, 1]),
    (lambda ids: Search(states=(State.HELD,)), [2]),
    (lambda ids: Search(states=(State.FINISHED,)), [0]),
    (lambda ids: Search(states=(State.QUEUED, State.HELD)), [4, 3, 2, 1]),
    (lambda ids: Search(sender="ALICE@"), [1]),
    (lambda ids: Search(sender="@example.com"), [4, 1, 0]),
    (lambda ids: Search(recipient="Jürgen"), [2]),
    (lambda ids: Search(recipient="JÜRGEN@grÜße"), [2]),
    (lambda ids: Search(recipient='"odd'), [3]),
    (lambda ids: Search(subject="50% off_"), [3]),
    (lambda ids: Search(subject="50% offx"), []),
    (lambda ids: Search(subject="invoice", states=(State.QUEUED,)), [4, 1]),
    (lambda ids: Search(subject="ÜBER"), [2]),
    (lambda ids: Search(message_id="<3@"), [3]),
    (lambda ids: Search(text="invoice"), [4, 3, 1]),
    (lambda ids: Search(text="bob@"), [4]),
    (lambda ids: Search(text="nothing like it"), []),
    (lambda ids: Search(since=1_800_000_010.0, until=1_800_000_030.0), [2, 1]),
    (lambda ids: Search(before=ids[2]), [1, 0]),
    (lambda ids: Search(before=ids[2], text="invoice"), [1]),
    (lambda ids: Search(sender="null"), []),
]


@pytest.mark.parametrize("number", range(len(SEARCHES)))
async def test_search(queue: Queue, clock: ManualClock, number: int) -> None:
    ids = []
    for n, (sender, recipient, subject, hold) in enumerate(
        [
            ("zoe@example.com", "x@example.org", "finished", False),
            ("alice@example.com", "y@example.org", "Your INVOICE", False),
            (None, "jürgen@grüße.example", "Über uns", True),
            ("carl@example.net", '"odd\\"one"@invoice.example', "Now 50% off_%", False),
            ("dora@example.com", "bob@example.org", "invoice 2", False),
        ]
    ):
        sent = replace(message(clock, recipient, sender=sender, subject=subject, hold=hold), message_id=f"<{n}@id>")
        ids.append(await put(queue, sent))
        clock.turn(10)
    await queue.settle(await one(queue), Settlement(((0, delivered()),), 0.0))
    make, expected = SEARCHES[number]
    search = make(ids)
    assert [ids.index(record.id) for record in await queue.find(search, 10)] == expected
    assert [ids.index(record.id) for record in await queue.find(search, 1)] == expected[:1]
    deleted = await queue.delete(search)
    assert [ids.index(each) for each in deleted] == [n for n in expected if n != 0]


async def test_a_listing_goes_on_where_it_stopped(queue: Queue, clock: ManualClock) -> None:
    ids = [await put(queue, message(clock)) for _ in range(7)]
    seen: list[MessageId] = []
    before = None
    while page := await queue.find(Search(before=before), 3):
        seen += [record.id for record in page]
        before = page[-1].id
    assert seen == ids[::-1]


async def test_owners_verbs_reach_more_than_one_transaction_takes(queue: Queue, clock: ManualClock) -> None:
    ids = await asyncio.gather(*(put(queue, message(clock)) for _ in range(2300)))
    assert sorted(await queue.hold(Search())) == sorted(ids)
    assert (await queue.counts()).held == 2300
    assert await queue.claim(1) == []
    assert sorted(await queue.delete(Search(subject="test"))) == sorted(ids)
    assert await queue.counts() == Counts(0, 0, 0, 2300, None)


async def test_a_committed_draft_cannot_be_committed_again(queue: Queue, clock: ManualClock) -> None:
    draft = queue.draft()
    await draft.commit(message(clock))
    with pytest.raises(QueueError):
        await draft.commit(message(clock))
    assert (await queue.counts()).queued == 1


async def test_nothing_is_done_after_close(queue: Queue, clock: ManualClock) -> None:
    await put(queue, message(clock))
    await queue.close()
    await queue.close()
