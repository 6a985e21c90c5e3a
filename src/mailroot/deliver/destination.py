"""What the pool knows of one next hop, and its rules: how many connections, and whose turn it is. Plain values;
nothing here waits or opens anything.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from mailroot.deliver.connection import Connection, Trouble
from mailroot.deliver.hosts import Host, NoHosts
from mailroot.deliver.route import ToHosts
from mailroot.mail.reply import Reply

FIRST_WINDOW = 4
"""Connections to a destination at first."""
EASY_WINDOW = 20
"""Connections a backlog alone justifies."""
LONG_WAIT = 1.0
"""Seconds of waiting that justify more than that."""


def connections_wanted(*, waiting: int, picky: int, opening: int, standing: int, window: int, room: int) -> int:
    """How many connections to open now.

    `waiting` messages wait for any connection, `picky` more for one that is not like those there are; `standing`
    connections are busy or idle; `room` is what the limits leave.
    """
    wanted = max(min(waiting + picky - opening, window - standing - opening), picky - opening)
    return max(0, min(wanted, room))


def grown(window: int, waited: float, limit: int) -> int:
    """The window after a connection came free while the first message had waited `waited` seconds."""
    return min(window + 1, limit) if window < EASY_WINDOW or waited > LONG_WAIT else window


@dataclass(frozen=True, slots=True)
class Stopped:
    """There are no connections any more: we are shutting down."""


@dataclass(frozen=True, slots=True)
class Crowded:
    """All connections were busy for too long. Nothing was tried; others may use the message's place meanwhile."""

    reply: Reply


Taken = Connection | Trouble | NoHosts | Stopped | Crowded


@dataclass(frozen=True, slots=True)
class Wish:
    """What a message wants of its connection: to a host not in `tried`; `fresh`: opened for it, because an idle
    one was found dead, and those beside it are not to be trusted either."""

    tried: frozenset[Host] = frozenset()
    fresh: bool = False

    @property
    def is_picky(self) -> bool:
        return self.fresh or bool(self.tried)


ANY = Wish()


@dataclass(slots=True, eq=False)
class Waiter:
    """A message that waits for a connection."""

    future: asyncio.Future[Taken]
    wish: Wish
    since: float


@dataclass(slots=True, eq=False)
class Destination:
    """One route's connections and those who wait for one.

    `window` is how many connections there may be for now, not to grow before `still_until`. `failing` is why a
    first connection could not be opened, while others are still being tried: no more are begun then. `refused` is
    why nobody need ask before a certain time. `hosts` are those of the route as last found.
    """

    route: ToHosts
    window: int
    idle: list[Connection] = field(default_factory=list)
    busy: set[Connection] = field(default_factory=set)
    opening: int = 0
    closing: int = 0
    waiters: deque[Waiter] = field(default_factory=deque)
    picky: deque[Waiter] = field(default_factory=deque)
    still_until: float = 0.0
    failing: Trouble | NoHosts | None = None
    refused: tuple[float, Trouble] | None = None
    hosts: tuple[Host, ...] = ()

    @property
    def is_empty(self) -> bool:
        return not (self.idle or self.busy or self.opening or self.closing or self.waiters or self.picky)

    @property
    def standing(self) -> int:
        """Connections that are busy or idle."""
        return len(self.idle) + len(self.busy)

    @property
    def count(self) -> int:
        """Connections in all, being opened or closed included."""
        return len(self.idle) + len(self.busy) + self.opening + self.closing

    def is_alive(self, host: Host) -> bool:
        """Whether there is a connection to this host."""
        return any(connection.host == host for connection in (*self.busy, *self.idle))

    def take_idle(self, tried: frozenset[Host]) -> Connection | None:
        """The idle connection used last, so that the others may grow old."""
        if not tried:
            return self.idle.pop() if self.idle else None
        for n in range(len(self.idle) - 1, -1, -1):
            if self.idle[n].host not in tried:
                return self.idle.pop(n)
        return None

    def line(self, wish: Wish) -> deque[Waiter]:
        """Where a message with this wish waits."""
        return self.picky if wish.is_picky else self.waiters

    def take_waiter(self, connection: Connection) -> Waiter | None:
        """Whose turn it is for this connection; those with fewer to choose from come first."""
        for waiter in self.picky:
            wish = waiter.wish
            fits = connection.host not in wish.tried and not (wish.fresh and connection.messages)
            if fits and not waiter.future.done():
                self.picky.remove(waiter)
                return waiter
        while self.waiters:
            waiter = self.waiters.popleft()
            # One that was cancelled a moment ago may not have left the line yet.
            if not waiter.future.done():
                return waiter
        return None


def answer(waiters: deque[Waiter], result: Taken, which: Callable[[Waiter], bool] = lambda waiter: True) -> None:
    """Tell these waiters that there is no connection for them."""
    for _ in range(len(waiters)):
        waiter = waiters.popleft()
        if not which(waiter):
            waiters.append(waiter)
        elif not waiter.future.done():
            waiter.future.set_result(result)
