"""One virtual server: its parts put together from its settings, started, paused, stopped and changed.

The only place that chooses a queue engine. A changed configuration is known to be whole before anything of it is
applied: `prepare` builds and binds all that is new, `Change.apply` cannot fail. What was begun is carried through,
even if who asked for it leaves.
"""

import asyncio
import contextlib
import errno
import traceback
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any

from mailroot.clock import Clock
from mailroot.config.model import VirtualServerSettings
from mailroot.deliver.agent import Agent
from mailroot.deliver.attempt import Courier
from mailroot.deliver.badmail import Badmail
from mailroot.deliver.bounce import Bounce
from mailroot.deliver.drop import Drop
from mailroot.deliver.hosts import Hosts
from mailroot.deliver.pool import Pool
from mailroot.deliver.route import Router
from mailroot.events import (
    Bus,
    ConfigurationWarning,
    InternalError,
    ListenerFailed,
    QueueRecovered,
    QueueTrouble,
    ServerChanged,
)
from mailroot.front_door import FrontDoor, Proofs
from mailroot.net.certificates import Certificates
from mailroot.net.dns import Resolver
from mailroot.net.listener import CannotListen
from mailroot.net.tls import CertificateError
from mailroot.operations import Conflict, Folders, OperationError, ServerState
from mailroot.plan import Plan, make_folders
from mailroot.policy.access import Access
from mailroot.policy.auth.base import Channel
from mailroot.policy.domains import LocalDomains
from mailroot.policy.guard import Guard
from mailroot.policy.limits import LimitSettings
from mailroot.policy.listeners import ListenerRules
from mailroot.policy.permissions import Permissions
from mailroot.queue.base import Queue, QueueError
from mailroot.queue.sqlite import open_queue
from mailroot.receive.intake import Intake
from mailroot.receive.listeners import Arrangement, Listeners
from mailroot.receive.pickup import Pickup
from mailroot.receive.sessions import Sessions

_SESSION_GRACE = 10.0
_DELIVERY_GRACE = 10.0
_TIDY_EVERY = 600.0
_TIDY_AT_ONCE = 1000
_PAUSE_AFTER_FAULT = 5.0
_DROP_QUOTA_MESSAGES = 10

_Job = tuple[str, Callable[[], Awaitable[None]]]


class Change:
    """A changed configuration of one virtual server, ready to be applied or let go: one of the two has to be done,
    for until then the virtual server is neither started nor stopped."""

    def __init__(
        self,
        server: "VirtualServer",
        plan: Plan,
        arrangement: Arrangement | None = None,
        proofs: Proofs | None = None,
    ) -> None:
        """`arrangement` and `proofs` are None where the virtual server is stopped."""
        self._server = server
        self._plan = plan
        self._arrangement = arrangement
        self._proofs = proofs

    async def apply(self) -> None:
        """Go by the new settings from now on; sessions that are open keep the old ones."""
        try:
            await self._server._apply(self._plan, self._arrangement, self._proofs)
        finally:
            self._server._turn.release()

    async def discard(self) -> None:
        """Leave everything as it is."""
        if self._arrangement is not None:
            self._arrangement.discard()
        if self._proofs is not None:
            await self._server._front.drop(self._proofs)
        self._server._turn.release()


class VirtualServer:
    """See `operations.VirtualServer` for what its states mean."""

    def __init__(self, settings: VirtualServerSettings, bus: Bus, clock: Clock, *, computer: str) -> None:
        """Raises ValueError for settings that do not fit together."""
        self._plan = Plan.of(settings, computer)
        self._bus = bus
        self._clock = clock
        self._computer = computer
        self._state = ServerState.STOPPED
        self._trouble = ""
        self._queue_trouble = ""
        self._queue: Queue | None = None
        self._front = FrontDoor(self._plan, bus, clock)
        self._listeners: Listeners | None = None
        self._pool: Pool | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._retiring: set[asyncio.Task[None]] = set()
        self._turn = asyncio.Lock()
        self._under_way: set[asyncio.Task[None]] = set()
        self._haste = asyncio.Event()
        self._closed = False

    # How it stands

    @property
    def name(self) -> str:
        return self._plan.settings.name

    @property
    def state(self) -> ServerState:
        return self._state

    @property
    def trouble(self) -> str:
        return self._trouble or self._queue_trouble

    @property
    def fqdn(self) -> str:
        return self._plan.fqdn

    @property
    def listeners(self) -> tuple[str, ...]:
        return self._listeners.addresses if self._listeners is not None else ()

    @property
    def folders(self) -> Folders:
        return self._plan.folders

    @property
    def queue(self) -> Queue | None:
        return self._queue

    @property
    def sessions(self) -> Sessions:
        return self._front.sessions

    @property
    def guard(self) -> Guard:
        return self._front.guard

    @property
    def certificates(self) -> Certificates | None:
        return self._front.certificates

    @property
    def rules(self) -> Mapping[str, ListenerRules]:
        return self._listeners.rules if self._listeners is not None else {}

    def mechanisms(self, channel: Channel, rules: ListenerRules) -> tuple[str, ...]:
        proofs = self._front.proofs
        return proofs.logins.offered(channel, rules) if proofs is not None else ()

    @property
    def offers_tls(self) -> bool:
        return bool(self._plan.settings.general.certificates)

    @property
    def anonymous(self) -> bool:
        return self._plan.settings.access.authentication.anonymous

    @property
    def permissions(self) -> Permissions:
        return self._plan.permissions

    @property
    def limits(self) -> LimitSettings:
        return self._plan.settings.limits

    @property
    def access(self) -> Access:
        return self._plan.access

    @property
    def local(self) -> LocalDomains:
        return self._plan.local

    @property
    def router(self) -> Router:
        return self._plan.router

    @property
    def resolver(self) -> Resolver:
        return self._plan.resolver

    @property
    def hosts(self) -> Hosts:
        return self._plan.hosts

    @property
    def max_message_size(self) -> int:
        return self._plan.settings.messages.max_message_size

    @property
    def expiration(self) -> float:
        return self._plan.settings.delivery.retries.expiration

    # What can be done with it

    async def start(self) -> None:
        """Open the queue, listen, watch Pickup, deliver. Raises OperationError, and then nothing of it is done."""
        await self._carry_through(self._start())

    async def stop(self) -> None:
        """Sessions finish the message they hand in, deliveries their attempt, for a short grace; the queue stays
        open for operators."""
        await self._carry_through(self._stop())

    async def close(self) -> None:
        """Stop for good, and close the queue."""
        self._closed = True
        await self._carry_through(self._close())

    def hurry(self) -> None:
        """Give no grace from now on: sessions are cut off, attempts under way are given up."""
        self._haste.set()

    async def pause(self) -> None:
        async with self._turn:
            if self._state is ServerState.PAUSED:
                return
            if self._state is not ServerState.STARTED or self._listeners is None:
                raise Conflict(
                    f"virtual server {self.name!r} is {self._state.value}; only a started one can be paused"
                )
            self._listeners.pause()
            self._become(ServerState.PAUSED)

    async def resume(self) -> None:
        async with self._turn:
            if self._state is ServerState.STARTED:
                return
            if self._state is not ServerState.PAUSED or self._listeners is None:
                raise Conflict(
                    f"virtual server {self.name!r} is {self._state.value}; only a paused one can be continued"
                )
            self._listeners.resume()
            self._become(ServerState.STARTED)

    async def prepare(self, settings: VirtualServerSettings) -> Change:
        """Make ready to go by other settings: all that may fail is tried here. Raises OperationError, and then the
        old ones are in force, untouched."""
        await self._turn.acquire()
        try:
            return await self._prepare(settings)
        except BaseException:
            self._turn.release()
            raise

    async def _prepare(self, settings: VirtualServerSettings) -> Change:
        try:
            plan = Plan.of(settings, self._computer)
            if plan.folders.mailroot != self._plan.folders.mailroot and self._queue is not None:
                raise Conflict(
                    f"virtual server {self.name!r}: the mailroot folder cannot change while the service runs; "
                    "stop the service and start it again"
                )
            if self._listeners is None:
                return Change(self, plan)
            await asyncio.to_thread(make_folders, plan.folders)
            arrangement = self._listeners.arrange(settings.general)
            try:
                proofs = await self._front.read(plan)
            except BaseException:
                arrangement.discard()
                raise
            return Change(self, plan, arrangement, proofs)
        except CannotListen as error:
            raise OperationError(f"virtual server {self.name!r}: {error}{self._advice(error)}") from error
        except (OSError, ValueError, CertificateError) as error:
            raise OperationError(f"virtual server {self.name!r}: {error}") from error

    def _advice(self, error: CannotListen) -> str:
        """What to do if it is we who are in the way: `*:25` cannot be opened while 127.0.0.1:25 is."""
        port = error.address.rpartition(":")[2]
        ours = next((address for address in self.listeners if address.rpartition(":")[2] == port), None)
        if error.errno != errno.EADDRINUSE or ours is None:
            return ""
        return f" (it may be this virtual server itself, on {ours}: stop it, reload, and start it)"

    def ask_again(self) -> None:
        if self._pool is not None:
            self._pool.ask_again()

    # How it is done

    def _become(self, state: ServerState, why: str = "") -> None:
        self._state = state
        self._bus.publish(ServerChanged(self.name, state.value, why))

    async def _carry_through(self, work: Coroutine[Any, Any, None]) -> None:
        """Do it to its end, also when who waits for it is cancelled."""
        task = asyncio.create_task(work)
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        await asyncio.shield(task)

    async def _start(self) -> None:
        async with self._turn:
            if self._state is not ServerState.STOPPED:
                return
            if self._closed:
                raise Conflict(f"virtual server {self.name!r} is closed: the service ends, or goes on without it")
            self._become(ServerState.STARTING)
            try:
                await self._open(self._plan)
            except (OSError, ValueError, QueueError, CertificateError) as error:
                self._trouble = str(error)
                if isinstance(error, CannotListen):
                    self._bus.publish(ListenerFailed(self.name, error.address, str(error)))
                self._become(ServerState.STOPPED, str(error))
                raise OperationError(f"virtual server {self.name!r} cannot start: {error}") from error
            except BaseException as error:
                self._become(ServerState.STOPPED, repr(error))
                raise
            self._trouble = ""
            self._become(ServerState.STARTED)

    async def _stop(self) -> None:
        async with self._turn:
            if self._state is ServerState.STOPPED:
                return
            self._become(ServerState.STOPPING)
            listeners, self._listeners = self._listeners, None
            if listeners is not None:
                closing = asyncio.create_task(listeners.close(_SESSION_GRACE))
                await self._in_grace(closing, self.sessions.cut_all)
            await self._end(self._tasks)
            self._tasks = []
            if self._retiring:
                await asyncio.wait(self._retiring)
            await self._front.close()
            await self._plan.resolver.close()
            self._become(ServerState.STOPPED)

    async def _close(self) -> None:
        await self._stop()
        queue, self._queue = self._queue, None
        if queue is not None:
            await queue.close()

    async def _in_grace(self, ending: "asyncio.Future[Any]", cut: Callable[[], None]) -> None:
        """Wait for it; when there is haste, cut it short."""
        haste = asyncio.create_task(self._haste.wait())
        await asyncio.wait((ending, haste), return_when=asyncio.FIRST_COMPLETED)
        haste.cancel()
        if not ending.done():
            cut()
        await ending

    async def _open(self, plan: Plan) -> None:
        await asyncio.to_thread(make_folders, plan.folders)
        if self._queue is None:
            self._queue = await open_queue(plan.folders.queue, self._clock, self._on_queue_trouble)
        self._advise(plan)
        intake = self._intake(plan, self._queue)
        await self._front.remember(plan, self._queue)
        terms = self._front.terms(plan, await self._front.read(plan), intake)
        await self._front.disk.look()
        jobs = self._jobs(plan, self._queue, intake)
        listeners = Listeners(plan.settings.general, terms, self.sessions)
        await listeners.open()
        self._listeners = listeners
        self._tasks = self._begin(jobs)

    async def _apply(self, plan: Plan, arrangement: Arrangement | None, proofs: Proofs | None) -> None:
        old, self._plan = self._plan, plan
        if self._listeners is None or self._queue is None or arrangement is None or proofs is None:
            return
        self._advise(plan)
        intake = self._intake(plan, self._queue)
        before = self._front.proofs
        self._listeners.terms = self._front.terms(plan, proofs, intake)
        await arrangement.apply()
        tasks, self._tasks = self._tasks, self._begin(self._jobs(plan, self._queue, intake))
        # Attempts under way come to their end by the old settings, beside the new ones.
        leave_takings = [self._retire(tasks, old)]
        if before is not None and before.logins is not proofs.logins:
            leave_takings.append(self._front.retire(before))
        for leave_taking in leave_takings:
            retiring = asyncio.create_task(leave_taking)
            self._retiring.add(retiring)
            retiring.add_done_callback(self._retiring.discard)
        self._bus.publish(ServerChanged(self.name, self._state.value, "configuration reloaded"))

    async def _retire(self, tasks: list[asyncio.Task[None]], plan: Plan) -> None:
        await self._end(tasks)
        await plan.resolver.close()

    async def _end(self, tasks: list[asyncio.Task[None]]) -> None:
        def cancel() -> None:
            for task in tasks:
                task.cancel()

        cancel()
        # Whoever is cancelled once more gives up what it still wanted to bring to an end.
        await self._in_grace(asyncio.gather(*tasks, return_exceptions=True), cancel)

    def _on_queue_trouble(self, reason: str | None) -> None:
        self._queue_trouble = reason or ""
        self._bus.publish(QueueRecovered(self.name) if reason is None else QueueTrouble(self.name, reason))

    def _advise(self, plan: Plan) -> None:
        if "." not in plan.fqdn and not plan.settings.general.fqdn:
            self._bus.publish(
                ConfigurationWarning(
                    self.name,
                    f"this computer calls itself {plan.fqdn!r}, which is no fully-qualified domain name; many "
                    "servers refuse mail from such a name. Set general.fqdn",
                )
            )

    def _intake(self, plan: Plan, queue: Queue) -> Intake:
        return Intake(
            queue, self._bus, self._clock, server=self.name, fqdn=plan.fqdn, messages=plan.settings.messages
        )

    def _jobs(self, plan: Plan, queue: Queue, intake: Intake) -> list[_Job]:
        """What goes on in the background, each with its name."""
        settings, folders = plan.settings, plan.folders
        quota = settings.domains.drop.quota
        if quota is None:
            quota = _DROP_QUOTA_MESSAGES * settings.messages.max_message_size

        async def deliver() -> None:
            # A pool serves one agent: it is closed with it.
            connections = settings.delivery.outbound_connections
            self._pool = pool = Pool(connections, plan.hosts, name=settings.delivery.advanced.fqdn or plan.fqdn)
            drop = Drop(folders.drop, quota, self._clock, fqdn=plan.fqdn)
            agent = Agent(
                queue,
                self._bus,
                self._clock,
                server=self.name,
                courier=Courier(plan.router, pool, drop, self._clock),
                schedule=plan.schedule,
                bounce=Bounce(settings.reports, self._clock, fqdn=plan.fqdn, default_domain=plan.local.default),
                badmail=Badmail(folders.badmail),
                grace=_DELIVERY_GRACE,
            )
            await agent.run()

        async def tidy() -> None:
            while True:
                now = self._clock.now()
                with contextlib.suppress(QueueError):  # the queue itself tells of trouble; there is a next time
                    while await queue.forget(now - settings.history.keep, _TIDY_AT_ONCE) == _TIDY_AT_ONCE:
                        await asyncio.sleep(0)
                await self._clock.sleep_until(now + _TIDY_EVERY)

        jobs: list[_Job] = [("delivery", deliver), ("history", tidy), *self._front.jobs()]
        if settings.general.pickup:
            pickup = Pickup(
                folders.pickup,
                folders.badmail,
                intake,
                self._bus,
                self._clock,
                plan.local,
                server=self.name,
                fqdn=plan.fqdn,
                dot_stuffed=settings.general.pickup_dot_stuffed,
                max_size=settings.messages.max_message_size,
                max_recipients=settings.messages.max_recipients,
            )
            jobs.append(("Pickup", pickup.run))
        return jobs

    def _begin(self, jobs: list[_Job]) -> list[asyncio.Task[None]]:
        return [asyncio.create_task(self._keep_running(where, job), name=where) for where, job in jobs]

    async def _keep_running(self, where: str, job: Callable[[], Awaitable[None]]) -> None:
        """A fault of ours in one job must not end it for good: it is told, and the job begins anew."""
        while True:
            try:
                await job()
            except Exception as error:  # noqa: BLE001 - the border of our own faults
                self._bus.publish(InternalError(self.name, where, repr(error), traceback.format_exc()))
            await self._clock.sleep_until(self._clock.now() + _PAUSE_AFTER_FAULT)
