"""A delivery agent with everything around it, in memory: a queue, a clock that stands still, DNS as plain maps."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from mailroot.clock import ManualClock
from mailroot.deliver.agent import Agent
from mailroot.deliver.attempt import Courier
from mailroot.deliver.badmail import Badmail
from mailroot.deliver.bounce import Bounce, ReportSettings
from mailroot.deliver.drop import Drop
from mailroot.deliver.hosts import Hosts, Itself
from mailroot.deliver.pool import OutboundConnections, Pool
from mailroot.deliver.route import AdvancedDelivery, RemoteDomain, Router
from mailroot.deliver.schedule import Schedule, ScheduleSettings
from mailroot.deliver.security import OutboundSecurity, TlsPolicy
from mailroot.events import Bus, Event
from mailroot.mail.address import Address
from mailroot.mail.envelope import Body, Door, Envelope, Origin, Recipient
from mailroot.net.dns import Exchanger, LookupFailed, NoSuchName
from mailroot.policy.domains import LocalDomains
from mailroot.queue.base import Message, MessageId, Record
from mailroot.queue.memory import MemoryQueue


class Names:
    """DNS as plain maps: what is in neither does not exist; a name in `failing` gets no answer."""

    def __init__(
        self,
        mx: Mapping[str, Sequence[tuple[int, str]]] | None = None,
        addresses: Mapping[str, Sequence[str]] | None = None,
        failing: Sequence[str] = (),
    ) -> None:
        self._mx = mx or {}
        self._addresses = addresses or {}
        self._failing = failing
        self.asked: list[str] = []

    async def mx(self, domain: str) -> tuple[Exchanger, ...]:
        self.asked.append(domain)
        self._check(domain, self._mx)
        return tuple(Exchanger(preference, host) for preference, host in self._mx.get(domain, ()))

    async def addresses(self, host: str, *, of_system: bool = False) -> tuple[str, ...]:
        self.asked.append(host)
        self._check(host, self._addresses)
        return tuple(self._addresses.get(host, ()))

    def _check(self, name: str, known: Mapping[str, object]) -> None:
        if name in self._failing:
            raise LookupFailed(f"DNS could not be asked for {name}")
        if name not in self._mx and name not in self._addresses:
            raise NoSuchName(f"the name {name} does not exist")


class Delivery:
    """The way out of a virtual server. `connections`, `security` and so on change single settings."""

    def __init__(
        self,
        folder: Path,
        *smart_hosts: str,
        names: Names | None = None,
        itself: Itself | None = None,
        advanced: Mapping[str, Any] | None = None,
        connections: Mapping[str, Any] | None = None,
        security: OutboundSecurity | None = None,
        remote: tuple[RemoteDomain, ...] = (),
        schedule: Mapping[str, Any] | None = None,
        copy_to: str = "",
        grace: float = 5.0,
    ) -> None:
        self.clock = ManualClock()
        self.queue = MemoryQueue(self.clock)
        self.bus = Bus(self.clock)
        self.events: list[Event] = []
        self._changed = asyncio.Condition()
        self._waiting: set[asyncio.Future[None]] = set()
        self.bus.subscribe(self._on_event)
        settings = replace(OutboundConnections(), **{"timeout": 5.0, "connect_timeout": 5.0, **(connections or {})})
        security = security or OutboundSecurity(tls=TlsPolicy.NONE)
        local = LocalDomains("local.example")
        self.router = Router(
            replace(AdvancedDelivery(smart_host=smart_hosts), **(advanced or {})),
            remote,
            local,
            security,
            settings.port,
        )
        hosts = Hosts(
            names or Names(), itself or Itself(), source=settings.source_address, shuffle=lambda equals: None
        )
        self.pool = Pool(settings, hosts, name="relay.example.com")
        for name in ("Drop", "Badmail"):
            (folder / name).mkdir(exist_ok=True)
        self.drop = Drop(folder / "Drop", 0, self.clock, fqdn="relay.example.com")
        self.badmail_folder = folder / "Badmail"
        self.agent = Agent(
            self.queue,
            self.bus,
            self.clock,
            server="default",
            courier=Courier(self.router, self.pool, self.drop, self.clock),
            schedule=Schedule(replace(ScheduleSettings(), **(schedule or {}))),
            bounce=Bounce(
                ReportSettings(copy_to=copy_to),
                self.clock,
                fqdn="relay.example.com",
                default_domain="local.example",
            ),
            badmail=Badmail(self.badmail_folder),
            grace=grace,
            spread=lambda: 0.0,
        )

    def _on_event(self, at: float, event: Event) -> None:
        self.events.append(event)
        for waiting in self._waiting:
            if not waiting.done():
                waiting.set_result(None)

    def seen(self, kind: type[Event]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]

    async def until(self, holds: Callable[[], bool]) -> None:
        """Until that holds; looked at after every event."""
        async with asyncio.timeout(15):
            while not holds():
                waiting = asyncio.get_running_loop().create_future()
                self._waiting.add(waiting)
                try:
                    await waiting
                finally:
                    self._waiting.discard(waiting)

    async def until_seen(self, kind: type[Event], times: int = 1) -> list[Any]:
        await self.until(lambda: len(self.seen(kind)) >= times)
        return self.seen(kind)

    async def send(
        self,
        octets: bytes,
        *recipients: str | Recipient,
        sender: str | None = "s@example.com",
        body: Body = Body.SEVEN_BIT,
        smtputf8: bool = False,
        **envelope: Any,
    ) -> MessageId:
        """Put a message into the queue."""
        to = tuple(r if isinstance(r, Recipient) else Recipient(address(r)) for r in recipients)
        draft = self.queue.draft()
        await draft.write(octets)
        await draft.commit(
            Message(
                Envelope(address(sender) if sender else None, to, body, smtputf8, **envelope),
                Origin(Door.SMTP, self.clock.now(), "192.0.2.1"),
                b"Received: by relay.example.com\r\n",
                "<1@example.com>",
                "subject",
            )
        )
        return draft.id

    async def record(self, id: MessageId) -> Record:
        record = await self.queue.record(id)
        assert record is not None
        return record

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Delivery"]:
        task = asyncio.create_task(self.agent.run())
        try:
            yield self
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            if not task.cancelled() and (error := task.exception()) is not None:
                raise error


def address(text: str) -> Address:
    local, _, domain = text.rpartition("@")
    return Address(local, domain)
