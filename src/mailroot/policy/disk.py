"""Low disk space: mail is refused with 452 before the disk is full, and taken again when there is room.

The free space is looked at every few seconds, in a thread, so that asking about it costs nothing at MAIL; what was
taken since then is reckoned with, since a fast disk may be filled in less. Where the free space cannot be learned,
mail is taken: the queue itself still refuses what it cannot store (`QueueFull`).
"""

import asyncio
from asyncio import Future
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from mailroot.clock import Clock
from mailroot.events import Bus, DiskLow, DiskRecovered, DiskUnknown
from mailroot.mail.reply import Reply
from mailroot.policy.visit import Refuse
from mailroot.system import free_disk

_LOOK_EVERY = 5.0
_LOOK_CLOSELY_EVERY = 1.0
"""Seconds between looks; the shorter ones while less than `_NEAR` times the limit is free."""

_NEAR = 8

_DEADLINE = 10.0
"""A disk that does not answer within these seconds (a network share that hangs) is one we know nothing of."""

_MARGIN = 8
"""Mail is taken again when an eighth of the limit more is free: no flapping at the edge."""

# RFC 5321 §4.2.3, RFC 3463 §3.4
_INSUFFICIENT = Reply(452, "4.3.1", "Insufficient system storage")


class DiskWatch:
    """Watches the disk that holds `folder`. `limit`: octets that must stay free; 0: nothing is watched."""

    def __init__(
        self,
        folder: Path,
        limit: int,
        bus: Bus,
        clock: Clock,
        *,
        server: str,
        measure: Callable[[Path], int] = free_disk,
    ) -> None:
        self._folder = folder
        self._limit = limit
        self._bus = bus
        self._clock = clock
        self._server = server
        self._measure = measure
        self._free: int | None = None
        self._low = False
        self._unknown = False
        self._asked: Future[int] | None = None
        self._changed = asyncio.Event()

    def change(self, limit: int) -> None:
        """Go by this limit from now on; `run` looks at once."""
        self._limit = limit
        self._changed.set()

    def refuse(self, size: int) -> Refuse | None:
        """Asked at MAIL. `size` in octets, as the client announced it; 0: it did not."""
        limit, free = self._limit, self._free
        if not limit or free is None:
            return None
        if not self._low and free - size >= limit:
            return None
        return Refuse(f"limits.min_free_disk: {free} octets are free, {limit} must stay so", _INSUFFICIENT)

    def take(self, size: int) -> None:
        """A message of so many octets was stored: the next look will tell, until then it is reckoned with."""
        if self._free is not None:
            self._free -= size

    async def run(self) -> None:
        """Look every few seconds, until cancelled."""
        while True:
            self._changed.clear()
            await self.look()
            free, limit = self._free, self._limit
            near = free is not None and free < _NEAR * limit
            pause = self._clock.sleep(_LOOK_CLOSELY_EVERY if near else _LOOK_EVERY) if limit else None
            await self._until_changed(pause)

    async def _until_changed(self, pause: Coroutine[Any, Any, None] | None) -> None:
        """Return when the pause is over, or before when the limit is another."""
        waits: set[Future[Any]] = {asyncio.ensure_future(self._changed.wait())}
        if pause is not None:
            waits.add(asyncio.ensure_future(pause))
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    async def look(self) -> None:
        """Look now. Whoever wants to be right from the first message on does so before a listener opens."""
        if not self._limit:
            self._free, self._low = None, False
            return
        # Of calls that hang there is one at most, in one thread.
        asked = self._asked or asyncio.get_running_loop().run_in_executor(None, self._measure, self._folder)
        self._asked = asked
        await asyncio.wait((asked,), timeout=_DEADLINE)
        if not asked.done():
            self._lose(f"no answer within {_DEADLINE:.0f} seconds")
            return
        self._asked = None
        try:
            free = asked.result()
        except OSError as error:
            self._lose(error.strerror or str(error))
            return
        self._learn(free)

    def _learn(self, free: int) -> None:
        self._free, self._unknown = free, False
        limit = self._limit
        if not self._low and free < limit:
            self._low = True
            self._bus.publish(DiskLow(self._server, str(self._folder), free, limit))
        elif self._low and free >= limit + limit // _MARGIN:
            self._low = False
            self._bus.publish(DiskRecovered(self._server, str(self._folder), free))

    def _lose(self, reason: str) -> None:
        self._free, self._low = None, False
        if not self._unknown:
            self._unknown = True
            self._bus.publish(DiskUnknown(self._server, str(self._folder), reason))
