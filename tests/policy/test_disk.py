"""The watch on the disk: refused in time, taken again with a margin, and never refused for want of knowledge."""

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mailroot.clock import ManualClock
from mailroot.events import Bus, DiskLow, DiskRecovered, DiskUnknown, Event
from mailroot.mail.reply import Reply
from mailroot.policy import disk
from mailroot.policy.disk import DiskWatch

pytestmark = pytest.mark.quick

LIMIT = 800


class House:
    """A watch on a disk that says what the test wants."""

    def __init__(self, limit: int = LIMIT) -> None:
        self.clock = ManualClock()
        self.events: list[Event] = []
        self.free: int | OSError = 100_000
        self.looks = 0
        bus = Bus(self.clock)
        bus.subscribe(lambda at, event: self.events.append(event))
        self.watch = DiskWatch(Path("Queue"), limit, bus, self.clock, server="relay", measure=self.measure)

    def measure(self, folder: Path) -> int:
        assert folder == Path("Queue")
        self.looks += 1
        if isinstance(self.free, OSError):
            raise self.free
        return self.free

    async def look(self, free: int | OSError) -> None:
        self.free = free
        await self.watch.look()

    def takes(self, size: int = 0) -> bool:
        refusal = self.watch.refuse(size)
        assert refusal is None or refusal.reply == Reply(452, "4.3.1", "Insufficient system storage")
        return refusal is None


@pytest.fixture
async def house() -> House:
    return House()


async def test_low_space_is_refused_until_there_is_a_margin(house: House) -> None:
    await house.look(LIMIT)
    assert house.takes()
    await house.look(LIMIT - 1)
    assert not house.takes()
    await house.look(LIMIT + 99)
    assert not house.takes()
    await house.look(LIMIT + 100)
    assert house.takes()
    assert house.events == [DiskLow("relay", "Queue", 799, 800), DiskRecovered("relay", "Queue", 900)]


async def test_a_message_that_would_fill_the_disk_is_refused_alone(house: House) -> None:
    await house.look(1000)
    assert house.takes(200)
    assert not house.takes(201)
    assert house.takes()
    assert house.events == []


async def test_what_came_since_the_last_look_is_reckoned_with(house: House) -> None:
    house.watch.take(1 << 40)  # nothing is known yet
    await house.look(1000)
    house.watch.take(150)
    assert house.takes(50)
    assert not house.takes(51)
    house.watch.take(51)
    assert not house.takes()
    assert house.events == []
    await house.look(900)
    assert house.takes()


async def test_what_cannot_be_learned_refuses_nothing(house: House) -> None:
    assert house.takes(1 << 60)
    await house.look(0)
    for _ in range(3):
        await house.look(FileNotFoundError(2, "No such file or directory"))
        assert house.takes(1 << 60)
    await house.look(1)
    assert not house.takes()
    await house.look(PermissionError(13, "Permission denied"))
    assert house.events == [
        DiskLow("relay", "Queue", 0, 800),
        DiskUnknown("relay", "Queue", "No such file or directory"),
        DiskLow("relay", "Queue", 1, 800),
        DiskUnknown("relay", "Queue", "Permission denied"),
    ]


async def test_no_limit_is_no_look() -> None:
    house = House(limit=0)
    await house.look(0)
    assert house.takes(1 << 60)
    assert house.looks == 0


async def test_a_disk_that_hangs_is_asked_once(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk, "_DEADLINE", 0.01)
    answer = threading.Event()
    asked = 0

    def hang(folder: Path) -> int:
        nonlocal asked
        asked += 1
        answer.wait(10)
        return 5

    watch = DiskWatch(Path("Queue"), LIMIT, house.watch._bus, house.clock, server="relay", measure=hang)
    try:
        for _ in range(3):
            await watch.look()
        assert watch.refuse(0) is None
        assert house.events == [DiskUnknown("relay", "Queue", "no answer within 0 seconds")]
        assert asked == 1
    finally:
        answer.set()
    monkeypatch.setattr(disk, "_DEADLINE", 10.0)
    await watch.look()
    assert watch.refuse(0) is not None


@contextlib.asynccontextmanager
async def running(watch: DiskWatch) -> AsyncIterator[None]:
    task = asyncio.create_task(watch.run())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def looks(house: House, number: int) -> None:
    """Until so many looks have been taken and their results are in."""
    async with asyncio.timeout(10):
        while house.looks < number or house.watch._asked is not None:
            await asyncio.sleep(0)
    await settle()


async def test_it_looks_every_few_seconds_and_more_closely_near_the_limit(house: House) -> None:
    async with running(house.watch):
        await looks(house, 1)
        house.clock.set(0.0)  # the time of day does not matter
        house.clock.turn(4.9)
        await settle()
        assert house.looks == 1
        house.free = LIMIT * 7
        house.clock.turn(0.1)
        await looks(house, 2)
        house.free = 0
        house.clock.turn(1.0)
        await looks(house, 3)
        assert not house.takes()


async def test_a_changed_limit_holds_at_once(house: House) -> None:
    house.free = 50_000
    async with running(house.watch):
        await looks(house, 1)
        assert house.takes()
        house.watch.change(60_000)
        await looks(house, 2)
        assert not house.takes()
        house.watch.change(0)
        assert house.takes()
        await settle()
        house.clock.turn(100)
        await settle()
        assert house.looks == 2
        house.watch.change(100)
        await looks(house, 3)
        assert house.takes()


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


def test_the_real_disk(tmp_path: Path) -> None:
    async def ask(limit: int) -> bool:
        clock = ManualClock()
        watch = DiskWatch(tmp_path, limit, Bus(clock), clock, server="relay")
        await watch.look()
        return watch.refuse(0) is None

    assert asyncio.run(ask(1))
    assert not asyncio.run(ask(1 << 62))
