"""Time as a dependency: whoever needs the time of day is given a Clock, so that tests can turn it.

Times are seconds since the epoch, UTC, as a float. What counts or waits for a while goes by `steady`, which nobody
sets. Deadlines of network waits are not the clock's business: they are measured on the event loop's own monotonic
time.
"""

import asyncio
import time
from typing import Protocol


class Clock(Protocol):
    """The time of day, and waiting for one."""

    def now(self) -> float:
        """Seconds since the epoch, UTC."""
        ...

    def steady(self) -> float:
        """Seconds that pass evenly, whatever the time of day is set to; they begin anywhere, and end with us."""
        ...

    async def sleep_until(self, when: float) -> None:
        """Return when `now() >= when`; at once if that is already so."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Return when so much of `steady` has passed."""
        ...


class SystemClock:
    """The machine's clock."""

    # The clock may be set while we sleep, so we look again at least this often.
    _LONGEST_SLEEP = 30.0

    def now(self) -> float:
        return time.time()

    def steady(self) -> float:
        return time.monotonic()

    async def sleep_until(self, when: float) -> None:
        while (left := when - time.time()) > 0:
            await asyncio.sleep(min(left, self._LONGEST_SLEEP))

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class ManualClock:
    """A clock that stands still until a test turns it."""

    def __init__(self, now: float = 1_800_000_000.0) -> None:
        self._now = now
        self._steady = 0.0
        self._turned = asyncio.Event()

    def now(self) -> float:
        return self._now

    def steady(self) -> float:
        return self._steady

    def turn(self, seconds: float) -> None:
        """Move the clock forward and wake those whose time has come."""
        self._steady += seconds
        self.set(self._now + seconds)

    def set(self, now: float) -> None:
        """Set the time of day, as an administrator or a time server does: no time passes."""
        self._now = now
        self._turned.set()
        self._turned = asyncio.Event()

    async def sleep_until(self, when: float) -> None:
        while self._now < when:
            await self._turned.wait()

    async def sleep(self, seconds: float) -> None:
        end = self._steady + seconds
        while self._steady < end:
            await self._turned.wait()
