"""Time as a dependency: whoever needs the time of day is given a Clock, so that tests can turn it.

Times are seconds since the epoch, UTC, as a float. Deadlines of network waits are not the clock's
business: they are measured on the event loop's own monotonic time.
"""

import asyncio
import time
from typing import Protocol


class Clock(Protocol):
    """The time of day, and waiting for one."""

    def now(self) -> float:
        """Seconds since the epoch, UTC."""
        ...

    async def sleep_until(self, when: float) -> None:
        """Return when `now() >= when`; at once if that is already so."""
        ...


class SystemClock:
    """The machine's clock."""

    # The clock may be set while we sleep, so we look again at least this often.
    _LONGEST_SLEEP = 30.0

    def now(self) -> float:
        return time.time()

    async def sleep_until(self, when: float) -> None:
        while (left := when - time.time()) > 0:
            await asyncio.sleep(min(left, self._LONGEST_SLEEP))


class ManualClock:
    """A clock that stands still until a test turns it."""

    def __init__(self, now: float = 1_800_000_000.0) -> None:
        self._now = now
        self._turned = asyncio.Event()

    def now(self) -> float:
        return self._now

    def turn(self, seconds: float) -> None:
        """Move the clock forward and wake those whose time has come."""
        self._now += seconds
        self._turned.set()
        self._turned = asyncio.Event()

    async def sleep_until(self, when: float) -> None:
        while self._now < when:
            await self._turned.wait()
