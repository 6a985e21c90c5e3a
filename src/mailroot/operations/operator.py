"""The operator's verbs over all virtual servers of the service: servers, sessions, queue, explain.

Every answer is bounded: listings come in pages, and a verb that means many messages works on one batch per call and
says where to go on, so that the mail's own work gets its turn in between.
"""

import asyncio
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, assert_never

from mailroot.clock import Clock
from mailroot.events import Bus, InternalError, MessagesChanged
from mailroot.operations.bans import BanStatus, bans_of, lift_ban, lift_bans
from mailroot.operations.certificates import CertificateStatus, certificates_of
from mailroot.operations.listeners import listeners_of
from mailroot.operations.servers import Invalid, NotFound, OperationError, Reload, Unavailable, VirtualServer
from mailroot.operations.values import (
    Changed,
    Detail,
    Page,
    QueueCounts,
    ServerStatus,
    SessionStatus,
    Skipped,
    detail,
    session_status,
    summary,
)
from mailroot.queue.base import (
    MessageId,
    Queue,
    QueueError,
    Record,
    Search,
    State,
    format_id,
    parse_id,
)

if TYPE_CHECKING:
    from mailroot.operations.explanation import Explanation, Question

MOST = 500
"""The largest page of a listing, and the largest batch of a verb."""

MOST_COUNTED = 1000
"""`matching` counts no further than this."""


class Action(StrEnum):
    """What can be done to messages in the queue."""

    RETRY = "retry"
    HOLD = "hold"
    RELEASE = "release"
    DELETE = "delete"


@dataclass(frozen=True, slots=True)
class Export:
    """A message as it stands in the queue, for a file NAME.eml; `size` octets in all."""

    id: str
    size: int
    chunks: AsyncIterator[bytes]


@dataclass(frozen=True, slots=True)
class Matching:
    """How many messages a verb would mean; `more`: more than that, the count was broken off."""

    count: int
    more: bool


class Operations:
    """What an operator can do. `servers` is the service's own mapping by name, read anew at every call."""

    def __init__(self, servers: Mapping[str, VirtualServer], bus: Bus, clock: Clock, reload: Reload) -> None:
        self._servers = servers
        self._bus = bus
        self._clock = clock
        self._reload = reload
        self._turn = asyncio.Lock()

    # Virtual servers

    async def servers(self, names: Sequence[str] = ()) -> list[ServerStatus]:
        """How the named virtual servers are, or all of them. Raises NotFound."""
        return [await self._status(server) for server in self._named(names)]

    async def start(self, names: Sequence[str] = ()) -> list[ServerStatus]:
        """Start the named virtual servers, or all. Raises NotFound, OperationError (the others are started)."""
        return await self._each(names, lambda server: server.start())

    async def stop(self, names: Sequence[str] = ()) -> list[ServerStatus]:
        """Stop them: no listener, no session, no delivery; the queue can still be worked on."""
        return await self._each(names, lambda server: server.stop())

    async def pause(self, names: Sequence[str] = ()) -> list[ServerStatus]:
        """Refuse new connections; sessions and delivery go on."""
        return await self._each(names, lambda server: server.pause())

    async def resume(self, names: Sequence[str] = ()) -> list[ServerStatus]:
        """Accept connections again."""
        return await self._each(names, lambda server: server.resume())

    async def restart(self, names: Sequence[str] = ()) -> list[ServerStatus]:
        """Stop and start."""

        async def stop_and_start(server: VirtualServer) -> None:
            await server.stop()
            await server.start()

        return await self._each(names, stop_and_start)

    async def reload(self, names: Sequence[str] = ()) -> list[ServerStatus]:
        """Read the configuration again and apply it, whole or not at all. Raises NotFound, OperationError."""
        self._named(names)
        async with self._turn:
            for name in names or (None,):
                await self._reload(name)
        return await self.servers(names)

    # Sessions

    def sessions(self, names: Sequence[str] = ()) -> list[SessionStatus]:
        """The sessions that are open now, oldest first. Raises NotFound."""
        found = [
            session_status(server.name, info) for server in self._named(names) for info in server.sessions.list()
        ]
        return sorted(found, key=lambda session: session.since)

    def end_session(self, id: str) -> None:
        """Close one session. Raises NotFound."""
        for server in self._servers.values():
            if server.sessions.end(id):
                return
        raise NotFound(f"there is no session {id!r}; it may have ended. `mailroot session list` shows them")

    def end_sessions(self, names: Sequence[str] = ()) -> int:
        """Close all sessions; how many. Raises NotFound."""
        return sum(server.sessions.end_all() for server in self._named(names))

    # Bans

    def bans(self, names: Sequence[str] = ()) -> list[BanStatus]:
        """Who is banned after failed logins, the ban that ends first in front. Raises NotFound."""
        return bans_of(self._named(names))

    def lift_ban(self, who: str, names: Sequence[str] = ()) -> int:
        """Lift the bans of an address, network or account; how many. Raises NotFound."""
        return lift_ban(who, self._named(names))

    def lift_bans(self, names: Sequence[str] = ()) -> int:
        """Lift all bans; how many. Raises NotFound."""
        return lift_bans(self._named(names))

    # Certificates

    def certificates(self, names: Sequence[str] = ()) -> list[CertificateStatus]:
        """What TLS is served with, the default of each virtual server in front. Raises NotFound."""
        return certificates_of(self._named(names))

    # The queue

    async def counts(self, names: Sequence[str] = ()) -> list[QueueCounts]:
        """How much each queue holds. Raises NotFound, Unavailable."""
        answer = []
        for server in self._named(names):
            with _queue_words():
                answer.append(QueueCounts(server.name, await _queue(server).counts()))
        return answer

    async def messages(self, search: Search, limit: int = 100, names: Sequence[str] = ()) -> Page:
        """A page of matching messages of all queues, newest first. Raises NotFound, Unavailable."""
        limit = max(1, min(limit, MOST))
        found = await self._find(search, limit + 1, names)
        page = found[:limit]
        now = self._clock.now()
        return Page(
            messages=tuple(summary(server.name, record, now) for server, record in page),
            next=format_id(page[-1][1].id) if len(found) > limit else None,
        )

    async def matching(self, action: Action, search: Search, names: Sequence[str] = ()) -> Matching:
        """How many messages `change` would mean. Raises NotFound, Unavailable."""
        found = await self._find(_only(action, search), MOST_COUNTED + 1, names)
        return Matching(min(len(found), MOST_COUNTED), len(found) > MOST_COUNTED)

    async def message(self, id: str) -> Detail:
        """One message, with its story. Raises NotFound, Unavailable."""
        server, record = await self._record(id)
        with _queue_words():
            story = await _queue(server).story(record.id)
        return detail(server.name, record, story, self._clock.now())

    async def export(self, id: str) -> Export:
        """The message itself, octet by octet as it would be sent. Raises NotFound (also for a finished message,
        whose body is gone), Unavailable; a failure while it is read is raised from `chunks`."""
        server, record = await self._record(id)
        with _queue_words():
            content = await _queue(server).content(record.id)
        if content is None:
            raise NotFound(f"message {format_id(record.id)} is finished; its record is kept, its text is not")
        return Export(format_id(record.id), content.size, content.chunks())

    async def change(self, action: Action, search: Search, limit: int = MOST, names: Sequence[str] = ()) -> Changed:
        """Do `action` to a batch of the messages that `search` means, newest first; each id that is named in
        `search` and is not changed is in `skipped` with the reason. Raises NotFound, Unavailable."""
        limit = max(1, min(limit, MOST))
        if not search.ids:
            search = _only(action, search)
        found = await self._find(search, limit + 1, names)
        batch = found[:limit]
        changed: list[MessageId] = []
        for server in {server.name: server for server, _ in batch}.values():
            ids = tuple(record.id for owner, record in batch if owner is server)
            if action is Action.RETRY:
                server.ask_again()
            with _queue_words():
                done = await _verb(_queue(server), action)(Search(ids=ids))
            if done:
                changed.extend(done)
                self._bus.publish(MessagesChanged(server.name, action, tuple(map(format_id, done))))
        known, left = {record.id for _, record in found}, set(changed)
        return Changed(
            changed=tuple(map(format_id, changed)),
            skipped=(
                *(Skipped(format_id(one), "there is no such message") for one in search.ids if one not in known),
                *(Skipped(format_id(r.id), _why_not(action, r)) for _, r in batch if r.id not in left),
            ),
            next=format_id(batch[-1][1].id) if len(found) > limit else None,
        )

    async def explain(self, question: "Question", name: str = "") -> "Explanation":
        """What would become of a message: every decision, with the rule that makes it. Raises NotFound, Invalid."""
        servers = self._named([name] if name else [])
        if len(servers) != 1:
            raise Invalid(f"there are several virtual servers; say which: {', '.join(self._servers)}")
        # A service that is never asked does not need it.
        from mailroot.operations.explanation import explain

        return await explain(servers[0], question)

    def report_fault(self, where: str, error: Exception) -> None:
        """Tell the log of a fault that was caught at the border of `where`."""
        trace = "".join(traceback.format_exception(error))
        self._bus.publish(InternalError("", where, repr(error), trace))

    # How

    def _named(self, names: Sequence[str]) -> list[VirtualServer]:
        if not names:
            return list(self._servers.values())
        for name in names:
            if name not in self._servers:
                known = ", ".join(self._servers) or "none"
                raise NotFound(f"there is no virtual server {name!r}; there are: {known}")
        return [self._servers[name] for name in names]

    async def _status(self, server: VirtualServer) -> ServerStatus:
        counts = None
        trouble = server.trouble
        if server.queue is not None:
            try:
                counts = await server.queue.counts()
            except QueueError as error:
                trouble = trouble or str(error)
        return ServerStatus(
            name=server.name,
            state=server.state,
            trouble=trouble,
            fqdn=server.fqdn,
            listeners=listeners_of(server),
            folders=server.folders,
            sessions=len(server.sessions.list()),
            counts=counts,
        )

    async def _each(
        self, names: Sequence[str], verb: Callable[[VirtualServer], Awaitable[None]]
    ) -> list[ServerStatus]:
        failures = []
        async with self._turn:
            for server in self._named(names):
                try:
                    await verb(server)
                except OperationError as error:
                    failures.append(error)
        match failures:
            case []:
                return await self.servers(names)
            case [failure]:
                raise failure
            case _:
                raise OperationError("\n".join(map(str, failures)))

    async def _find(self, search: Search, limit: int, names: Sequence[str]) -> list[tuple[VirtualServer, Record]]:
        found: list[tuple[VirtualServer, Record]] = []
        for server in self._named(names):
            if server.queue is None and not names and len(self._servers) > 1:
                continue  # one broken queue does not hide the others
            with _queue_words():
                found += [(server, record) for record in await _queue(server).find(search, limit)]
        found.sort(key=lambda pair: pair[1].id, reverse=True)
        return found[:limit]

    async def _record(self, text: str) -> tuple[VirtualServer, Record]:
        try:
            wanted = parse_id(text)
        except ValueError as error:
            raise Invalid(str(error)) from None
        for server in self._servers.values():
            if server.queue is not None:
                with _queue_words():
                    record = await server.queue.record(wanted)
                if record is not None:
                    return server, record
        raise NotFound(f"there is no message {format_id(wanted)}")


def _queue(server: VirtualServer) -> Queue:
    if server.queue is None:
        raise Unavailable(f"the queue of virtual server {server.name!r} is not open: {server.trouble}")
    return server.queue


@contextmanager
def _queue_words() -> Iterator[None]:
    try:
        yield
    except QueueError as error:
        raise Unavailable(f"the queue cannot do it now: {error}") from error


def _verb(queue: Queue, action: Action) -> Callable[[Search], Awaitable[list[MessageId]]]:
    match action:
        case Action.RETRY:
            return queue.retry
        case Action.HOLD:
            return queue.hold
        case Action.RELEASE:
            return queue.release
        case Action.DELETE:
            return queue.delete
        case _:
            assert_never(action)


def _only(action: Action, search: Search) -> Search:
    """The search, narrowed to the states in which the action means something."""
    match action:
        case Action.RETRY | Action.HOLD:
            means: tuple[State, ...] = (State.QUEUED,)
        case Action.RELEASE:
            means = (State.HELD,)
        case Action.DELETE:
            means = (State.QUEUED, State.HELD)
        case _:
            assert_never(action)
    narrowed = tuple(state for state in means if not search.states or state in search.states)
    if not narrowed:
        raise Invalid(f"{action} means messages that are {' or '.join(means)}, not {' or '.join(search.states)}")
    return replace(search, states=narrowed)


def _why_not(action: Action, record: Record) -> str:
    """Why a verb left a message alone, from its record just before."""
    match record.state:
        case State.FINISHED:
            return "it is finished"
        case State.HELD if action is Action.RETRY:
            return "it is held; release it instead"
        case State.HELD if action is Action.HOLD:
            return "it is held already"
        case State.QUEUED if action is Action.RELEASE:
            return "it is not held"
        case _:
            return "it is being delivered at this moment"
