"""The Outbound Connections dialog: how many connections there may be, and keeping them for the next message.

How many are opened. A message takes an idle connection if there is one; otherwise it waits, and connections are
opened while fewer are being opened than messages wait, and the destination's window has room. The window starts
small and grows by one each time a connection comes free and messages are waiting: to EASY_WINDOW as long as there
is a backlog, beyond that only while messages wait longer than a second, which says that the next hop is slow
rather than we. A destination that refuses a further connection gets no more than it has for a while. So a burst
of a hundred messages to a quick smart host flows through a handful of connections, and a slow one gets as many
as the dialog allows.

What to do is decided synchronously, over plain values; coroutines carry it out. A host that could not be connected
to is left alone for a moment that doubles each time, and everybody else is told the same: ten thousand messages
for a dead smart host cost a few connections.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, TypeVar

from mailroot.deliver.connection import Connection, Fault, Manner, Trouble, open_connection
from mailroot.deliver.hosts import Host, Hosts, NoHosts
from mailroot.deliver.route import ToHosts
from mailroot.deliver.security import OutboundSecurity, TlsPolicy, tls_context
from mailroot.mail.reply import Reply
from mailroot.units import MINUTE, Doc, Duration, Port, Range


@dataclass(frozen=True, slots=True)
class OutboundConnections:
    """The Outbound Connections dialog."""

    max_connections: Annotated[
        int, Range(least=1), Doc("Limit number of connections to, all domains together.")
    ] = 1000
    max_connections_per_domain: Annotated[
        int, Range(least=1), Doc("Limit number of connections per domain to (a smart host counts as one domain).")
    ] = 100
    max_messages_per_connection: Annotated[
        int, Range(least=0), Doc("Limit number of messages per connection to; 0: no limit.")
    ] = 20
    timeout: Annotated[Duration, Range(least=1), Doc("Give up on a next hop that is silent for this long.")] = (
        10 * MINUTE
    )
    connect_timeout: Annotated[Duration, Range(least=1), Doc("Give up on a connection not made by then.")] = 30.0
    keep_idle: Annotated[Duration, Doc("Keep an idle connection for the next message for this long.")] = 5.0
    port: Annotated[Port, Doc("TCP port of smart hosts and mail exchangers.")] = 25
    source_address: Annotated[
        str, Doc("Local address to connect from; empty: the system chooses.", example="192.0.2.10")
    ] = ""


FIRST_WINDOW = 4
"""Connections to a destination at first."""
EASY_WINDOW = 20
"""Connections a backlog alone justifies."""
_LONG_WAIT = 1.0
"""Seconds of waiting that justify more than that."""
_FIRST_PAUSE = 2.0
_LONGEST_PAUSE = 30.0
"""Seconds for which a host is left alone after it could not be connected to, at first and at most."""
_CLEAR_FOR = 3600.0
"""Seconds for which we remember that a host's TLS does not work."""
_REMEMBERED = 10_000
_SWEEP = 1.0


def connections_wanted(*, waiting: int, picky: int, opening: int, standing: int, window: int, room: int) -> int:
    """How many connections to open now.

    `waiting` messages wait for any host, `picky` more for another one than those they have tried; `standing`
    connections are busy or idle; `room` is what the limits leave.
    """
    wanted = max(min(waiting + picky - opening, window - standing - opening), picky - opening)
    return max(0, min(wanted, room))


def grown(window: int, waited: float, limit: int) -> int:
    """The window after a connection came free while the first message had waited `waited` seconds."""
    return min(window + 1, limit) if window < EASY_WINDOW or waited > _LONG_WAIT else window


@dataclass(frozen=True, slots=True)
class Stopped:
    """There are no connections any more: we are shutting down."""


_T = TypeVar("_T")

Taken = Connection | Trouble | NoHosts | Stopped

Opener = Callable[..., Awaitable[Connection | Trouble]]


@dataclass(slots=True, eq=False)
class _Waiter:
    """A message that waits for a connection to a host it has not tried."""

    future: asyncio.Future[Taken]
    tried: frozenset[Host]
    since: float


@dataclass(slots=True)
class _Pause:
    """A host that could not be connected to: until when it is left alone, and what to say meanwhile."""

    until: float
    length: float
    trouble: Trouble


_NO_OTHER = Trouble(Reply(451, "4.4.1", "No other host to try"), "")


class _Destination:
    """What the pool knows of one route."""

    __slots__ = (
        "busy",
        "clear",
        "closing",
        "failing",
        "hosts",
        "idle",
        "opening",
        "picky",
        "refused",
        "route",
        "still_until",
        "waiters",
        "window",
    )

    def __init__(self, route: ToHosts, window: int) -> None:
        self.route = route
        self.hosts: tuple[Host, ...] = ()
        """As last found."""
        self.idle: list[Connection] = []
        self.busy: set[Connection] = set()
        self.opening = 0
        self.closing = 0
        self.waiters: deque[_Waiter] = deque()
        self.picky: deque[_Waiter] = deque()
        """Those who have tried hosts already, and so cannot take any connection."""
        self.window = window
        self.still_until = 0.0
        self.failing: Trouble | NoHosts | None = None
        """Why a first connection could not be opened, while others are still being tried; no more are begun."""
        self.refused: _Pause | None = None
        self.clear: dict[Host, float] = {}

    @property
    def is_empty(self) -> bool:
        return not (self.idle or self.busy or self.opening or self.closing or self.waiters or self.picky)

    def take_idle(self, tried: frozenset[Host]) -> Connection | None:
        """The idle connection used last, so that the others may grow old."""
        if not tried:
            return self.idle.pop() if self.idle else None
        for n in range(len(self.idle) - 1, -1, -1):
            if self.idle[n].host not in tried:
                return self.idle.pop(n)
        return None

    def take_waiter(self, host: Host) -> _Waiter | None:
        """The first that waits for a host like this; those with fewer hosts to choose from come first."""
        for waiter in self.picky:
            if host not in waiter.tried:
                self.picky.remove(waiter)
                return waiter
        return self.waiters.popleft() if self.waiters else None


def _since(late: float, waiter: _Waiter) -> bool:
    return waiter.since <= late


class Pool:
    """The connections of a virtual server to all its next hops. `name` is said in EHLO."""

    def __init__(
        self,
        settings: OutboundConnections,
        hosts: Hosts,
        *,
        name: str,
        now: Callable[[], float] | None = None,
        opener: Opener = open_connection,
    ) -> None:
        """`now` and `opener` are the loop's time and the real thing; tests give others."""
        self._settings = settings
        self._hosts = hosts
        self._name = name
        self._now = now or asyncio.get_running_loop().time
        self._opener = opener
        self._limit = min(settings.max_connections, settings.max_connections_per_domain)
        self._destinations: dict[str, _Destination] = {}
        self._total = 0
        self._starved: dict[str, _Destination] = {}
        self._pauses: dict[Host, _Pause] = {}
        self._manners: dict[tuple[OutboundSecurity, bool], Manner] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._stopped = False

    @property
    def connections(self) -> int:
        """How many there are, being opened or closed included."""
        return self._total

    async def take(self, route: ToHosts, tried: frozenset[Host] = frozenset(), *, fresh: bool = False) -> Taken:
        """A connection for one message, to a host not in `tried`; `give` it back. Or why there is none.

        `fresh`: an idle one was found dead just now, so those beside it are not trusted either.
        """
        if self._stopped:
            return Stopped()
        destination = self._destinations.get(route.name)
        if destination is None:
            destination = self._destinations[route.name] = _Destination(route, min(FIRST_WINDOW, self._limit))
        while (connection := destination.take_idle(tried)) is not None:
            if connection.is_usable and not fresh:
                destination.busy.add(connection)
                return connection
            self._retire(destination, connection)
        now = self._now()
        if destination.refused is not None:
            if now < destination.refused.until:
                return destination.refused.trouble
            destination.refused = None
        if tried and destination.hosts and tried.issuperset(destination.hosts):
            return _NO_OTHER
        waiter = _Waiter(asyncio.get_running_loop().create_future(), tried, now)
        line = destination.picky if tried else destination.waiters
        line.append(waiter)
        self._open_more(destination)
        self._start_timer()
        try:
            return await waiter.future
        except asyncio.CancelledError:
            if waiter in line:
                line.remove(waiter)
            elif waiter.future.done() and not waiter.future.cancelled():
                taken = waiter.future.result()
                if isinstance(taken, Connection):
                    self.give(route, taken)
            raise

    def give(self, route: ToHosts, connection: Connection) -> None:
        """Done with it, well or not; it goes to the next message if it can take one."""
        destination = self._destinations[route.name]
        destination.busy.discard(connection)
        most = self._settings.max_messages_per_connection
        if self._stopped or not connection.is_usable or (most and connection.messages >= most):
            self._retire(destination, connection)
        else:
            if destination.waiters:
                now = self._now()
                if now >= destination.still_until:
                    waited = now - destination.waiters[0].since
                    destination.window = grown(destination.window, waited, self._limit)
            self._hand_over(destination, connection)
        self._open_more(destination)

    def stop(self) -> None:
        """Give nothing out any more; who waits is told."""
        self._stopped = True
        for destination in self._destinations.values():
            self._answer(destination.waiters, Stopped())
            self._answer(destination.picky, Stopped())

    async def close(self, timeout: float) -> None:
        """Take leave of all next hops, politely for `timeout` seconds."""
        self.stop()
        for destination in self._destinations.values():
            while destination.idle:
                self._retire(destination, destination.idle.pop())
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._tasks:
            _, left = await asyncio.wait(self._tasks, timeout=timeout)
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)
        for destination in self._destinations.values():
            for connection in destination.busy:
                connection.abort()

    # Decisions

    def _open_more(self, destination: _Destination) -> None:
        picky = destination.picky
        waiting = len(destination.waiters) if destination.failing is None else 0
        if self._stopped or not (waiting or picky):
            return
        standing = len(destination.idle) + len(destination.busy)
        wanted = connections_wanted(
            waiting=waiting,
            picky=len(picky),
            opening=destination.opening,
            standing=standing,
            window=destination.window,
            room=self._limit - standing - destination.opening - destination.closing,
        )
        while wanted and self._total < self._settings.max_connections:
            # Each opening is made for one message, though the first that fits will get it.
            tried = picky[destination.opening].tried if destination.opening < len(picky) else frozenset[Host]()
            destination.opening += 1
            self._total += 1
            wanted -= 1
            task = self._spawn(self._connect(destination, tried))
            task.add_done_callback(partial(self._on_opened, destination, tried))
        if wanted:
            # All connections there may be are in use; the oldest idle one elsewhere gives way.
            self._starved[destination.route.name] = destination
            self._make_room()

    def _make_room(self) -> None:
        idle = [other for other in self._destinations.values() if other.idle]
        if idle:
            oldest = min(idle, key=lambda other: other.idle[0].since)
            self._retire(oldest, oldest.idle.pop(0))

    def _hand_over(self, destination: _Destination, connection: Connection) -> None:
        waiter = destination.take_waiter(connection.host)
        if waiter is not None:
            destination.busy.add(connection)
            waiter.future.set_result(connection)
        elif self._settings.keep_idle > 0 and not self._starved:
            connection.since = self._now()
            destination.idle.append(connection)
            self._start_timer()
        else:
            self._retire(destination, connection)

    def _on_opened(
        self,
        destination: _Destination,
        tried: frozenset[Host],
        task: asyncio.Task[Connection | Trouble | NoHosts],
    ) -> None:
        destination.opening -= 1
        if task.cancelled():
            self._freed()
            return
        if (error := task.exception()) is not None:
            # A fault of ours: the agent, who stands behind every waiter, knows what to do with one.
            self._freed()
            for waiter in (*destination.waiters, *destination.picky):
                if not waiter.future.done():
                    waiter.future.set_exception(error)
            destination.waiters.clear()
            destination.picky.clear()
            return
        result = task.result()
        if not isinstance(result, Connection):
            self._freed()
            self._on_refused(destination, tried, result)
        elif self._stopped:
            self._retire(destination, result)
        else:
            destination.failing = None
            self._hand_over(destination, result)
        self._open_more(destination)

    def _on_refused(self, destination: _Destination, tried: frozenset[Host], result: Trouble | NoHosts) -> None:
        if tried:
            # No other host to be had; they keep the answer they have from the first.
            self._answer(destination.picky, result, lambda waiter: waiter.tried == tried)
        elif destination.busy or destination.idle:
            # It has enough of us: go on with what there is.
            destination.window = max(1, len(destination.busy))
            destination.still_until = self._now() + _LONGEST_PAUSE
        else:
            destination.failing = result
            if isinstance(result, Trouble) and result.fault is Fault.LOGIN:
                destination.refused = _Pause(self._now() + _LONGEST_PAUSE, _LONGEST_PAUSE, result)
        if destination.failing is not None and not destination.opening:
            destination.window = min(FIRST_WINDOW, self._limit)
            self._answer(destination.waiters, destination.failing)
            destination.failing = None

    @staticmethod
    def _answer(
        waiters: deque[_Waiter], result: Taken, which: Callable[[_Waiter], bool] = lambda waiter: True
    ) -> None:
        """Tell those waiters that there is no connection for them."""
        for _ in range(len(waiters)):
            waiter = waiters.popleft()
            if not which(waiter):
                waiters.append(waiter)
            elif not waiter.future.done():
                waiter.future.set_result(result)

    def _freed(self) -> None:
        """A connection less: who found no room before may open one now."""
        self._total -= 1
        if self._starved:
            starved, self._starved = list(self._starved.values()), {}
            for destination in starved:
                self._open_more(destination)

    # What carries them out

    def _spawn(self, coroutine: Coroutine[Any, Any, _T]) -> asyncio.Task[_T]:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _connect(self, destination: _Destination, tried: frozenset[Host]) -> Connection | Trouble | NoHosts:
        """Try the route's hosts in order."""
        route = destination.route
        try:
            manner = self._manner(route)
        except OSError as error:
            text = f"The file of certificate authorities {route.security.ca_file} cannot be used: {error}"
            return Trouble(Reply(451, "4.3.5", text), "", Fault.LOGIN)
        found = await self._hosts.find(route)
        if isinstance(found, NoHosts):
            return found
        destination.hosts = found
        trouble = _NO_OTHER
        for host in found:
            if host in tried:
                continue
            pause = self._pauses.get(host)
            if pause is not None and self._now() < pause.until:
                trouble = pause.trouble
                continue
            result = await self._try(destination, host, manner)
            if isinstance(result, Connection):
                self._pauses.pop(host, None)
                return result
            if result.fault is Fault.LOGIN:
                return result
            self._leave_alone(destination, host, result)
            trouble = result
        return trouble

    async def _try(self, destination: _Destination, host: Host, manner: Manner) -> Connection | Trouble:
        clear = destination.clear.get(host, 0.0) > self._now()
        result = await self._opener(host, manner, clear=clear)
        opportunistic = manner.security.tls is TlsPolicy.OPPORTUNISTIC
        if isinstance(result, Trouble) and result.fault is Fault.TLS and opportunistic:
            # RFC 7435 §3: if TLS does not work, the clear is what there was to be had anyway.
            destination.clear[host] = self._now() + _CLEAR_FOR
            result = await self._opener(host, manner, clear=True)
        return result

    def _leave_alone(self, destination: _Destination, host: Host, trouble: Trouble) -> None:
        if any(connection.host == host for connection in (*destination.busy, *destination.idle)):
            # It is alive, it only wants no more connections.
            return
        before = self._pauses.get(host)
        length = _FIRST_PAUSE if before is None else min(2 * before.length, _LONGEST_PAUSE)
        if before is None and len(self._pauses) >= _REMEMBERED:
            del self._pauses[next(iter(self._pauses))]
        now = self._now()
        if before is None or before.until <= now:
            self._pauses[host] = _Pause(now + length, length, trouble)

    def _manner(self, route: ToHosts) -> Manner:
        """Raises OSError for a CA file that cannot be read."""
        key = (route.security, route.send_helo)
        manner = self._manners.get(key)
        if manner is None:
            settings = self._settings
            manner = self._manners[key] = Manner(
                self._name,
                route.security,
                tls_context(route.security),
                settings.timeout,
                settings.connect_timeout,
                settings.source_address,
                route.send_helo,
            )
        return manner

    def _retire(self, destination: _Destination, connection: Connection) -> None:
        destination.closing += 1
        self._spawn(self._close(destination, connection))

    async def _close(self, destination: _Destination, connection: Connection) -> None:
        try:
            await connection.quit()
        finally:
            destination.closing -= 1
            self._freed()
            self._open_more(destination)

    # Time

    def _start_timer(self) -> None:
        if self._timer is None and not self._stopped:
            self._timer = asyncio.get_running_loop().call_later(_SWEEP, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self.sweep()
        if self._destinations:
            self._start_timer()

    def sweep(self) -> None:
        """Close what was idle too long, answer who waited too long, forget what is over."""
        now = self._now()
        for name, destination in list(self._destinations.items()):
            idle, destination.idle = destination.idle, []
            for connection in idle:
                if now - connection.since >= self._settings.keep_idle or not connection.is_usable:
                    self._retire(destination, connection)
                else:
                    destination.idle.append(connection)
            late = now - self._settings.timeout
            for waiters in (destination.waiters, destination.picky):
                if waiters and waiters[0].since <= late:
                    text = f"All connections for {name} were busy for {self._settings.timeout:.0f} s"
                    self._answer(waiters, Trouble(Reply(451, "4.4.5", text), ""), partial(_since, late))
            if destination.is_empty and (destination.refused is None or destination.refused.until <= now):
                del self._destinations[name]
