"""The Outbound Connections dialog: how many connections there may be, and keeping them for the next message.

How many are opened. A message takes an idle connection if there is one; otherwise it waits, and connections are
opened while fewer are being opened than messages wait, and the destination's window has room. The window starts
small and grows by one each time a connection comes free and messages are waiting: to EASY_WINDOW as long as there
is a backlog, beyond that only while messages wait longer than a second, which says that the next hop is slow
rather than we. A destination that refuses a further connection gets no more than it has for a while. So a burst
of a hundred messages to a quick smart host flows through a handful of connections, and a slow one gets as many
as the dialog allows.

What to do is decided synchronously, over plain values (`destination`); coroutines carry it out (`opening`,
`connection`).
"""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, TypeVar

from mailroot.deliver.connection import Connection, Fault, Manner, Trouble, open_connection
from mailroot.deliver.destination import (
    ANY,
    FIRST_WINDOW,
    Crowded,
    Destination,
    Stopped,
    Taken,
    Waiter,
    Wish,
    answer,
    connections_wanted,
    grown,
)
from mailroot.deliver.hosts import Hosts, NoHosts
from mailroot.deliver.opening import LONGEST_PAUSE, NO_OTHER, Open, Opening
from mailroot.deliver.route import ToHosts
from mailroot.deliver.security import OutboundSecurity, tls_context
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


_SWEEP = 1.0
"""Seconds between looks for what has been idle or waiting too long."""

PATIENCE = 30.0
"""Seconds that a message waits for a connection before it lets others have its place."""

_T = TypeVar("_T")


class Pool:
    """The connections of a virtual server to all its next hops. `name` is said in EHLO."""

    def __init__(
        self,
        settings: OutboundConnections,
        hosts: Hosts,
        *,
        name: str,
        now: Callable[[], float] | None = None,
        opener: Open = open_connection,
    ) -> None:
        """`now` and `opener` are the loop's time and the real thing; tests give others."""
        self._settings = settings
        self._name = name
        self._now = now or asyncio.get_running_loop().time
        self._opening = Opening(hosts, opener, self._now, self._manner)
        self._limit = min(settings.max_connections, settings.max_connections_per_domain)
        self._destinations: dict[str, Destination] = {}
        self._total = 0
        self._starved: dict[str, Destination] = {}
        self._manners: dict[tuple[OutboundSecurity, bool], Manner] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._stopped = False

    @property
    def connections(self) -> int:
        """How many there are, being opened or closed included."""
        return self._total

    def ask_again(self) -> None:
        """Try what is left alone for a moment at once: an operator wants it, and may have mended it."""
        self._opening.ask_again()
        for destination in self._destinations.values():
            destination.refused = None

    async def take(self, route: ToHosts, wish: Wish = ANY) -> Taken:
        """A connection for one message; `give` it back. Or why there is none."""
        if self._stopped:
            return Stopped()
        destination = self._destinations.get(route.name)
        if destination is None:
            destination = self._destinations[route.name] = Destination(route, min(FIRST_WINDOW, self._limit))
        while (connection := destination.take_idle(wish.tried)) is not None:
            if connection.is_usable and not wish.fresh:
                destination.busy.add(connection)
                return connection
            self._retire(destination, connection)
        now = self._now()
        if destination.refused is not None:
            until, trouble = destination.refused
            if now < until:
                return trouble
            destination.refused = None
        if wish.tried and destination.hosts and wish.tried.issuperset(destination.hosts):
            return NO_OTHER
        waiter = Waiter(asyncio.get_running_loop().create_future(), wish, now)
        line = destination.line(wish)
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
            answer(destination.waiters, Stopped())
            answer(destination.picky, Stopped())

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

    def _open_more(self, destination: Destination) -> None:
        picky = destination.picky
        waiting = len(destination.waiters) if destination.failing is None else 0
        if self._stopped or not (waiting or picky):
            return
        wanted = connections_wanted(
            waiting=waiting,
            picky=len(picky),
            opening=destination.opening,
            standing=destination.standing,
            window=destination.window,
            room=self._limit - destination.count,
        )
        while wanted and self._total < self._settings.max_connections:
            # Each opening is made for one message, though the first that fits will get it.
            wish = picky[destination.opening].wish if destination.opening < len(picky) else ANY
            destination.opening += 1
            self._total += 1
            wanted -= 1
            task = self._spawn(self._opening.open(destination, wish.tried))
            task.add_done_callback(partial(self._on_opened, destination, wish))
        if wanted:
            # All connections there may be are in use; the oldest idle one elsewhere gives way.
            self._starved[destination.route.name] = destination
            self._make_room()

    def _make_room(self) -> None:
        idle = [other for other in self._destinations.values() if other.idle]
        if idle:
            oldest = min(idle, key=lambda other: other.idle[0].since)
            self._retire(oldest, oldest.idle.pop(0))

    def _hand_over(self, destination: Destination, connection: Connection) -> None:
        """To whoever waits for it; else it is kept, unless it stands in the way of another one."""
        waiter = destination.take_waiter(connection)
        if waiter is not None:
            destination.busy.add(connection)
            waiter.future.set_result(connection)
        elif self._settings.keep_idle <= 0 or self._starved or destination.picky:
            self._retire(destination, connection)
        else:
            connection.since = self._now()
            destination.idle.append(connection)
            self._start_timer()

    def _on_opened(
        self, destination: Destination, wish: Wish, task: asyncio.Task[Connection | Trouble | NoHosts]
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
            self._on_refused(destination, wish, result)
        elif self._stopped:
            self._retire(destination, result)
        else:
            destination.failing = None
            self._hand_over(destination, result)
        self._open_more(destination)

    def _on_refused(self, destination: Destination, wish: Wish, result: Trouble | NoHosts) -> None:
        if wish.is_picky:
            # There is no such connection to be had; they keep the answer they have.
            answer(destination.picky, result, lambda waiter: waiter.wish == wish)
        elif destination.standing:
            # It has enough of us: go on with what there is.
            destination.window = max(1, len(destination.busy))
            destination.still_until = self._now() + LONGEST_PAUSE
        else:
            destination.failing = result
            if isinstance(result, Trouble) and result.fault is Fault.LOGIN:
                destination.refused = (self._now() + LONGEST_PAUSE, result)
        if destination.failing is not None and not destination.opening:
            destination.window = min(FIRST_WINDOW, self._limit)
            answer(destination.waiters, destination.failing)
            destination.failing = None

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

    def _retire(self, destination: Destination, connection: Connection) -> None:
        destination.closing += 1
        self._spawn(self._close(destination, connection))

    async def _close(self, destination: Destination, connection: Connection) -> None:
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
            # Where a connection stands, others are merely before us; where none does, it is hoped for in vain.
            busy = destination.standing > 0
            longest = min(PATIENCE, self._settings.timeout) if busy else self._settings.timeout
            reply = Reply(451, "4.4.5", f"No connection for {name} came free within {longest:.0f} s")
            for waiters in (destination.waiters, destination.picky):
                if waiters and waiters[0].since <= now - longest:
                    why = Crowded(reply) if busy else Trouble(reply, "")
                    answer(waiters, why, partial(_since, now - longest))
            if destination.is_empty and (destination.refused is None or destination.refused[0] <= now):
                del self._destinations[name]


def _since(late: float, waiter: Waiter) -> bool:
    return waiter.since <= late
