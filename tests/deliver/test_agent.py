"""The agent: retries and their times, delay, expiry, reports and Badmail, the queue's trouble, our own faults."""

import asyncio
from pathlib import Path

import pytest

from mailroot.deliver.agent import MAX_MESSAGES
from mailroot.deliver.pool import PATIENCE
from mailroot.events import (
    BadmailWritten,
    InternalError,
    LeaseExpired,
    QueueRecovered,
    QueueTrouble,
    RecipientDeferred,
    RecipientDelivered,
    RecipientFailed,
    ReportWritten,
)
from mailroot.mail.envelope import Notify, Recipient
from mailroot.queue.base import Claim, LeaseLost, QueueFull, Settlement, State
from mailroot.units import DAY, HOUR, MINUTE
from rig.delivery import Delivery, address
from rig.next_hop import NextHop

TEXT = b"Subject: x\r\n\r\nhello\r\n"
LATER = {"RCPT": "450 4.2.0 later"}


def out(tmp_path: Path, hop: NextHop, **settings: object) -> Delivery:
    return Delivery(tmp_path, f"[127.0.0.1]:{hop.port}", **settings)  # type: ignore[arg-type]


async def test_the_whole_life_of_a_message_that_nobody_takes(tmp_path: Path) -> None:
    async with NextHop(LATER) as hop, out(tmp_path, hop).running() as delivery:
        start = delivery.clock.now()
        message_id = await delivery.send(TEXT, "a@example.net")
        times: list[float] = []
        while not delivery.seen(RecipientFailed):
            seen = len(delivery.seen(RecipientDeferred))
            await delivery.until(
                lambda seen=seen: (
                    len(delivery.seen(RecipientDeferred)) > seen or bool(delivery.seen(RecipientFailed))
                )  # type: ignore[misc]
            )
            times.append(delivery.clock.now() - start)
            record = await delivery.record(message_id)
            if record.due is not None:
                delivery.clock.turn(record.due - delivery.clock.now())
        assert times[:4] == [0, 15 * MINUTE, 45 * MINUTE, 105 * MINUTE]
        assert 12 * HOUR in times and times[-1] == 2 * DAY
        delays = [e for e in delivery.seen(ReportWritten) if e.kind == "delayed"]
        assert len(delays) == 1
        [failed] = [e for e in delivery.seen(RecipientFailed) if e.recipient == "a@example.net"]
        assert failed.reply == ("450 4.4.7 Not delivered within 48 hours. The last answer was: 450 4.2.0 later")
        assert [e.kind for e in delivery.seen(ReportWritten)] == ["delayed", "failed"]


async def test_a_short_life_is_told_in_minutes(tmp_path: Path) -> None:
    async with (
        NextHop(LATER) as hop,
        out(tmp_path, hop, schedule={"expiration": 20 * MINUTE}).running() as delivery,
    ):
        await delivery.send(TEXT, "a@example.net")
        await delivery.until_seen(RecipientDeferred)
        delivery.clock.turn(20 * MINUTE)
        [failed] = await delivery.until_seen(RecipientFailed)
        assert failed.reply.startswith("450 4.4.7 Not delivered within 20 minutes. The last answer was: 450 ")


async def test_nobody_is_told_of_a_delay_who_does_not_want_to(tmp_path: Path) -> None:
    async with NextHop(LATER) as hop, out(tmp_path, hop).running() as delivery:
        never = Recipient(address("a@example.net"), Notify.FAILURE)
        message_id = await delivery.send(TEXT, never)
        await delivery.until_seen(RecipientDeferred)
        delivery.clock.turn(12 * HOUR)
        await delivery.until_seen(RecipientDeferred, 2)
        assert not delivery.seen(ReportWritten)
        assert not (await delivery.record(message_id)).delay_reported


async def test_a_failure_is_reported_and_copied(tmp_path: Path) -> None:
    async with (
        NextHop({"RCPT": ["550 5.1.1 unknown", "250 ok"]}) as hop,
        out(tmp_path, hop, copy_to="postmaster@example.org").running() as delivery,
    ):
        await delivery.send(TEXT, "a@example.net")
        await delivery.until_seen(RecipientDelivered, 2)
        assert [e.kind for e in delivery.seen(ReportWritten)] == ["failed", "failed"]
        assert sorted(m.recipients[0] for m in hop.messages) == [
            "RCPT TO:<postmaster@example.org>",
            "RCPT TO:<s@example.com>",
        ]
        assert all(m.mail.startswith("MAIL FROM:<>") for m in hop.messages)
        assert b"Status: 5.1.1" in hop.messages[0].octets


async def test_a_report_that_fails_goes_to_badmail(tmp_path: Path) -> None:
    async with NextHop({"RCPT": "550 5.1.1 unknown"}) as hop, out(tmp_path, hop).running() as delivery:
        await delivery.send(TEXT, "a@example.net")
        [event] = await delivery.until_seen(BadmailWritten)
        await delivery.until_seen(RecipientFailed, 2)
        assert sorted(path.suffix for path in delivery.badmail_folder.iterdir()) == [".BAD", ".BDP", ".BDR"]
        words = (delivery.badmail_folder / f"{event.file}.BDR").read_text()
        assert "550 5.1.1 unknown" in words
        assert (await delivery.queue.counts()).queued == 0


async def test_a_report_that_cannot_be_written_leaves_nothing_failed(tmp_path: Path) -> None:
    async with NextHop({"RCPT": "550 5.1.1 unknown"}) as hop, out(tmp_path, hop).running() as delivery:
        delivery.badmail_folder.rmdir()
        delivery.badmail_folder.write_text("in the way")
        message_id = await delivery.send(TEXT, "a@example.net", sender=None)
        [event] = await delivery.until_seen(RecipientDeferred)
        assert event.reply.endswith("The last answer was: 550 5.1.1 unknown")
        assert "Badmail" in delivery.seen(QueueTrouble)[0].reason
        assert (await delivery.record(message_id)).state is State.QUEUED
        delivery.badmail_folder.unlink()
        delivery.badmail_folder.mkdir()
        delivery.clock.turn(15 * MINUTE)
        await delivery.until_seen(BadmailWritten)


async def test_outcomes_wait_for_a_full_disk(tmp_path: Path) -> None:
    async with NextHop() as hop, out(tmp_path, hop).running() as delivery:
        settle = delivery.queue.settle
        full = True

        async def settle_if_there_is_room(claim: Claim, settlement: Settlement) -> None:
            if full:
                raise QueueFull("the disk is full")
            await settle(claim, settlement)

        delivery.queue.settle = settle_if_there_is_room  # type: ignore[method-assign]
        message_id = await delivery.send(TEXT, "a@example.net")
        await delivery.until_seen(QueueTrouble)
        for _ in range(20):
            delivery.clock.turn(60)
            await asyncio.sleep(0)
        assert not delivery.seen(RecipientDelivered)
        assert len(delivery.seen(QueueTrouble)) == 1
        full = False
        delivery.clock.turn(60)
        await delivery.until_seen(RecipientDelivered)
        assert len(delivery.seen(QueueRecovered)) == 1
        # Not tried again while it could not be stored.
        assert len(hop.messages) == 1
        assert (await delivery.record(message_id)).state is State.FINISHED


async def test_a_queue_that_cannot_be_asked_is_asked_again(tmp_path: Path) -> None:
    async with NextHop() as hop:
        delivery = out(tmp_path, hop)
        claim = delivery.queue.claim

        async def fail(limit: int) -> list[Claim]:
            raise QueueFull("no")

        delivery.queue.claim = fail  # type: ignore[method-assign]
        await delivery.send(TEXT, "a@example.net")
        async with delivery.running():
            await delivery.until_seen(QueueTrouble)
            delivery.queue.claim = claim  # type: ignore[method-assign]
            delivery.clock.turn(5)
            await delivery.until_seen(RecipientDelivered)
            assert len(delivery.seen(QueueRecovered)) == 1


async def test_a_lost_lease_is_said(tmp_path: Path) -> None:
    async with NextHop() as hop, out(tmp_path, hop).running() as delivery:

        async def lost(claim: Claim, settlement: Settlement) -> None:
            raise LeaseLost("too late")

        delivery.queue.settle = lost  # type: ignore[method-assign]
        await delivery.send(TEXT, "a@example.net")
        await delivery.until_seen(LeaseExpired)
        assert not delivery.seen(RecipientDelivered)


async def test_a_fault_of_ours_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with NextHop() as hop, out(tmp_path, hop).running() as delivery:
        take = delivery.pool.take

        async def broken(*arguments: object) -> None:
            raise ZeroDivisionError("oh")

        monkeypatch.setattr(delivery.pool, "take", broken)
        await delivery.send(TEXT, "a@example.net", "b@local.example")
        [event] = await delivery.until_seen(RecipientDeferred)
        assert event.recipient == "a@example.net" and event.reply.startswith("451 4.3.0")
        assert [e.recipient for e in await delivery.until_seen(RecipientDelivered)] == ["b@local.example"]
        [fault] = delivery.seen(InternalError)
        assert "ZeroDivisionError" in fault.traceback
        monkeypatch.setattr(delivery.pool, "take", take)
        delivery.clock.turn(15 * MINUTE)
        await delivery.until_seen(RecipientDelivered, 2)


async def test_an_address_with_a_line_end_harms_only_its_message(tmp_path: Path) -> None:
    async with NextHop() as hop, out(tmp_path, hop).running() as delivery:
        await delivery.send(TEXT, "a\r\nRCPT TO:<evil@example.net>\r\n@example.net")
        await delivery.send(TEXT, "b@example.net")
        await delivery.until_seen(RecipientDelivered)
        await delivery.until_seen(RecipientDeferred)
        assert "evil" not in " ".join(hop.commands)


async def test_more_than_is_taken_at_once(tmp_path: Path) -> None:
    async with NextHop() as hop:
        delivery = out(tmp_path, hop)
        count = MAX_MESSAGES * 2
        for _ in range(count):
            await delivery.send(TEXT, "a@example.net")
        async with delivery.running():
            await delivery.until_seen(RecipientDelivered, count)
            assert len(hop.messages) == count


async def test_others_leftovers_are_found_without_a_wake(tmp_path: Path) -> None:
    async with NextHop() as hop, out(tmp_path, hop).running() as delivery:
        await delivery.send(TEXT, "a@example.net")
        await delivery.until_seen(RecipientDelivered)
        set_wake = delivery.queue.wake.set
        delivery.queue.wake.set = lambda: None  # type: ignore[method-assign]
        await delivery.send(TEXT, "b@example.net")
        delivery.queue.wake.set = set_wake  # type: ignore[method-assign]
        for _ in range(5):
            await asyncio.sleep(0)
        assert len(hop.messages) == 1
        delivery.clock.turn(5)
        await delivery.until_seen(RecipientDelivered, 2)


async def test_local_mail_has_times_of_its_own(tmp_path: Path) -> None:
    async with NextHop(LATER) as hop:
        schedule = {"local_expiration": HOUR, "local_delay_notification": 0}
        delivery = out(tmp_path, hop, schedule=schedule)
        (tmp_path / "Drop").rmdir()
        (tmp_path / "Drop").write_text("in the way")
        async with delivery.running():
            message_id = await delivery.send(TEXT, "a@local.example", "b@example.net")
            await delivery.until_seen(RecipientDeferred, 2)
            delivery.clock.turn(HOUR)
            [failed] = await delivery.until_seen(RecipientFailed)
            assert failed.recipient == "a@local.example" and "within 60 minutes" in failed.reply
            assert (await delivery.record(message_id)).pending == (1,)


async def in_line(delivery: Delivery) -> None:
    """Until a message waits for a connection."""
    while not any(destination.waiters for destination in delivery.pool._destinations.values()):
        await asyncio.sleep(0)


async def test_a_destination_that_keeps_us_waiting_does_not_keep_the_place_of_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    released = asyncio.Event()
    async with (
        NextHop(hold={"MAIL": released}) as hop,
        out(tmp_path, hop, connections={"max_connections_per_domain": 1, "timeout": 60.0}).running() as delivery,
    ):
        first = await delivery.send(TEXT, "a@example.net")
        await hop.heard("MAIL")
        second = await delivery.send(TEXT, "b@example.net")
        await in_line(delivery)
        later = asyncio.get_running_loop().time() + PATIENCE + 1
        monkeypatch.setattr(delivery.pool, "_now", lambda: later)
        delivery.pool.sweep()
        while (await delivery.record(second)).leased:
            await asyncio.sleep(0)
        waiting = await delivery.record(second)
        assert waiting.attempts == 0 and waiting.due is not None and waiting.due > delivery.clock.now()
        assert (await delivery.record(first)).leased
        released.set()
        await delivery.until_seen(RecipientDelivered)
        delivery.clock.turn(waiting.due - delivery.clock.now())
        await delivery.until_seen(RecipientDelivered, 2)


async def test_who_waits_for_a_busy_destination_until_the_end_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    released = asyncio.Event()
    async with (
        NextHop(hold={"MAIL": released}) as hop,
        out(tmp_path, hop, connections={"max_connections_per_domain": 1, "timeout": 60.0}).running() as delivery,
    ):
        await delivery.send(TEXT, "a@example.net")
        await hop.heard("MAIL")
        delivery.clock.turn(-2 * DAY)
        await delivery.send(TEXT, "b@example.net")
        delivery.clock.turn(2 * DAY)
        await in_line(delivery)
        later = asyncio.get_running_loop().time() + PATIENCE + 1
        monkeypatch.setattr(delivery.pool, "_now", lambda: later)
        delivery.pool.sweep()
        [failed] = await delivery.until_seen(RecipientFailed)
        assert failed.recipient == "b@example.net" and "4.4.7" in failed.reply
        released.set()
