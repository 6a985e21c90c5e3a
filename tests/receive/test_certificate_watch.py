"""The watch over certificates: what it takes, what it tells, and how often."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from mailroot.clock import ManualClock
from mailroot.events import Bus, CertificateEnding, CertificateLoaded, CertificateRefused, Event
from mailroot.net.certificates import Certificates
from mailroot.net.tls import CertificateFile
from mailroot.receive.certificate_watch import CertificateWatch
from rig.authority import Issued, issue

pytestmark = pytest.mark.quick

DAY = 86400.0


class LookingClock(ManualClock):
    """A manual clock that says when somebody has begun to wait for it."""

    def __init__(self, now: float) -> None:
        super().__init__(now)
        self.waiting = asyncio.Event()

    async def sleep_until(self, when: float) -> None:
        self.waiting.set()
        await super().sleep_until(when)


class Watched:
    """A watch that runs, over one certificate."""

    def __init__(self, folder: Path, issued: Issued) -> None:
        self.folder = folder
        self.certificates = Certificates([CertificateFile(*issued.files(folder, "relay"))])
        self.clock = LookingClock(time.time())
        bus = Bus(self.clock)
        self.events: list[Event] = []
        bus.subscribe(lambda _, event: self.events.append(event))
        self.watch = CertificateWatch(self.certificates, bus, self.clock, server="default")

    @property
    def ends(self) -> float:
        return self.certificates.shown()[0].ends

    async def look(self, seconds: float = 0) -> list[Event]:
        """Let that time pass and the watch look; what it told."""
        if seconds:
            self.clock.waiting.clear()
            self.clock.turn(seconds)
        await asyncio.wait_for(self.clock.waiting.wait(), 30)
        told, self.events[:] = list(self.events), []
        return told


@asynccontextmanager
async def watched(folder: Path, issued: Issued) -> AsyncIterator[Watched]:
    one = Watched(folder, issued)
    running = asyncio.create_task(one.watch.run())
    try:
        yield one
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_changes_are_taken_and_told(tmp_path: Path) -> None:
    async with watched(tmp_path, issue("relay.example.com", days=300)) as one:
        file = str(tmp_path / "relay.pem")
        assert await one.look() == [CertificateLoaded("default", file, ("relay.example.com",), one.ends)]
        assert await one.look(30) == []
        (tmp_path / "relay.pem").write_bytes(b"half a fi")
        (refused,) = await one.look(30)
        assert isinstance(refused, CertificateRefused)
        assert (refused.server, refused.file) == ("default", file)
        assert await one.look(30) == []
        issue("new.example.com", days=200).files(tmp_path, "relay")
        assert await one.look(30) == [CertificateLoaded("default", file, ("new.example.com",), one.ends)]
        assert one.certificates.shown()[0].names == ("new.example.com",)


async def test_what_changed_before_it_began_is_seen_at_once(tmp_path: Path) -> None:
    one = Watched(tmp_path, issue("relay.example.com", days=300))
    issue("new.example.com", days=300).files(tmp_path, "relay")
    running = asyncio.create_task(one.watch.run())
    told = await one.look()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert [event.names for event in told if isinstance(event, CertificateLoaded)] == [
        ("relay.example.com",),
        ("new.example.com",),
    ]


async def test_an_end_that_comes_near_is_told_once_a_day(tmp_path: Path) -> None:
    async with watched(tmp_path, issue("relay.example.com", days=40)) as one:
        assert len(await one.look()) == 1
        assert await one.look(one.ends - 30 * DAY - 1 - one.clock.now()) == []
        told = []
        for _ in range(2 * 24):
            told += await one.look(3600)
        file, names = str(tmp_path / "relay.pem"), ("relay.example.com",)
        assert told == [CertificateEnding("default", file, names, days) for days in (29, 28)]
        (over,) = await one.look(one.ends + 1 - one.clock.now())
        assert over == CertificateEnding("default", file, names, -1)
        issue("relay.example.com", days=400).files(tmp_path, "relay")
        (loaded,) = await one.look(30)
        assert isinstance(loaded, CertificateLoaded)
        assert await one.look(2 * DAY) == []
