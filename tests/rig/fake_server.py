"""A virtual server without sockets: real rules, routes and hosts over a queue in memory, and sessions as told."""

from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path

from mailroot.clock import Clock
from mailroot.deliver.hosts import Hosts, Itself
from mailroot.deliver.route import AdvancedDelivery, RemoteDomain, Router
from mailroot.deliver.security import OutboundSecurity, TlsPolicy
from mailroot.events import Bus
from mailroot.mail.address import Address
from mailroot.mail.envelope import Door, Envelope, Origin, Recipient
from mailroot.mail.outcome import Outcome
from mailroot.net.certificates import Certificates
from mailroot.net.dns import Exchanger, LookupFailed, NoSuchName
from mailroot.operations import Folders, OperationError, ServerState
from mailroot.policy.access import Access, AccessList, AccessSettings, Mode, RelayList
from mailroot.policy.auth.base import Channel
from mailroot.policy.domains import LocalDomains
from mailroot.policy.guard import Guard
from mailroot.policy.limits import LimitSettings
from mailroot.policy.listeners import ListenerRules, RequireTls
from mailroot.policy.permissions import Permission, Permissions
from mailroot.queue.base import Message, Settlement, format_id
from mailroot.queue.memory import MemoryQueue


@dataclass
class FakeSession:
    """What the front door says of a session."""

    id: str
    client: str = "192.0.2.1"
    helo: str = "client.example"
    user: str = ""
    tls: bool = False
    since: float = 0.0
    messages: int = 0
    state: str = "idle"
    listener: str = "127.0.0.1:2525"
    proxy: str = ""


class FakeSessions:
    """The sessions of the server."""

    def __init__(self) -> None:
        self.open: dict[str, FakeSession] = {}

    def add(self, session: FakeSession) -> None:
        self.open[session.id] = session

    def list(self) -> "list[FakeSession]":
        return [*self.open.values()]

    def end(self, id: str) -> bool:
        return self.open.pop(id, None) is not None

    def end_all(self) -> int:
        count = len(self.open)
        self.open.clear()
        return count


@dataclass
class FakeDns:
    """Knows what it is given; other names do not exist, and those in `broken` cannot be asked for now."""

    exchangers: dict[str, tuple[Exchanger, ...]] = field(default_factory=dict)
    hosts: dict[str, tuple[str, ...]] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    broken: set[str] = field(default_factory=set)

    async def mx(self, domain: str) -> tuple[Exchanger, ...]:
        self._ask(domain)
        if domain not in self.exchangers and domain not in self.hosts:
            raise NoSuchName(f"the name {domain} does not exist")
        return self.exchangers.get(domain, ())

    async def addresses(self, host: str, *, of_system: bool = False) -> tuple[str, ...]:
        self._ask(host)
        if host not in self.hosts:
            raise NoSuchName(f"the name {host} does not exist")
        return self.hosts[host]

    async def name(self, ip: str) -> str | None:
        return self.names.get(ip)

    def _ask(self, name: str) -> None:
        if name in self.broken:
            raise LookupFailed(f"DNS could not be asked for {name}")


class FakeServer:
    """Keeps the protocol `mailroot.operations.VirtualServer`."""

    def __init__(self, name: str, clock: Clock, folder: Path = Path("mailroot")) -> None:
        self.name = name
        self.clock = clock
        self.state = ServerState.STARTED
        self.trouble = ""
        self.fqdn = f"{name}.relay.example"
        self.listeners: tuple[str, ...] = ("127.0.0.1:2525",)
        self.folders = Folders(folder, *(folder / part for part in ("Pickup", "Queue", "Drop", "Badmail")))
        self.queue: MemoryQueue | None = MemoryQueue(clock)
        self.sessions = FakeSessions()
        self.certificates: Certificates | None = None
        self.guard = Guard(LimitSettings(), Bus(clock), clock, server=name)
        self.max_message_size = 2 * 1024 * 1024
        self.expiration = 2 * 86400.0
        self.rules: dict[str, ListenerRules] = {"127.0.0.1:2525": ListenerRules()}
        self.offered: tuple[str, ...] = ("LOGIN", "PLAIN")
        self.offers_tls = True
        self.anonymous = True
        self.limits = LimitSettings()
        self.fails_with = ""
        self.asked_again = 0
        self.dns = FakeDns(
            exchangers={"example.net": (Exchanger(20, "backup.example.net"), Exchanger(10, "mx.example.net"))},
            hosts={
                "mx.example.net": ("192.0.2.10", "2001:db8::10"),
                "backup.example.net": ("192.0.2.20",),
                "smtp.example.com": ("192.0.2.30",),
            },
        )
        self.resolver = self.dns
        self.hosts = Hosts(self.dns, Itself())
        self.configure()

    def configure(
        self,
        *,
        connection: AccessList | None = None,
        relay: RelayList | None = None,
        advanced: AdvancedDelivery | None = None,
        remote: tuple[RemoteDomain, ...] = (),
        security: OutboundSecurity | None = None,
        permissions: tuple[Permission, ...] = (),
    ) -> None:
        """Other rules and routes."""
        self.local = LocalDomains("local.example", ())
        self.access = Access(
            AccessSettings(
                connection=connection or AccessList(Mode.EXCEPT),
                relay=relay or RelayList(Mode.ONLY, ("127.0.0.1", "::1")),
            ),
            self.local,
            tuple(domain.name for domain in remote if domain.allow_relay),
        )
        self.permissions = Permissions(permissions, self.local)
        self.router = Router(
            advanced or AdvancedDelivery(),
            remote,
            self.local,
            security or OutboundSecurity(tls=TlsPolicy.OPPORTUNISTIC),
            25,
        )

    def mechanisms(self, channel: Channel, rules: ListenerRules) -> tuple[str, ...]:
        return self.offered if channel.tls or rules.require_tls is RequireTls.NO else ()

    def ask_again(self) -> None:
        self.asked_again += 1

    async def start(self) -> None:
        self._may_fail()
        self.state, self.listeners = ServerState.STARTED, ("127.0.0.1:2525",)

    async def stop(self) -> None:
        self._may_fail()
        self.state, self.listeners = ServerState.STOPPED, ()

    async def pause(self) -> None:
        self._may_fail()
        self.state = ServerState.PAUSED

    async def resume(self) -> None:
        self._may_fail()
        self.state = ServerState.STARTED

    def _may_fail(self) -> None:
        if self.fails_with:
            raise OperationError(self.fails_with)

    async def accept(
        self,
        sender: str = "a@example.org",
        recipients: tuple[str, ...] = ("b@example.net",),
        *,
        subject: str = "Hello",
        text: bytes = b"Subject: Hello\r\n\r\nHi\r\n",
        message_id: str = "<1@example.org>",
    ) -> str:
        """A message that came in by SMTP; its id."""
        assert self.queue is not None
        draft = self.queue.draft()
        await draft.write(text)
        envelope = Envelope(
            _address(sender) if sender else None, tuple(Recipient(_address(text)) for text in recipients)
        )
        origin = Origin(Door.SMTP, self.clock.now(), "192.0.2.7", "client.example")
        await draft.commit(Message(envelope, origin, b"Received: by relay\r\n", message_id, subject))
        return format_id(draft.id)

    def ban(self, client: str, user: str = "") -> None:
        """Failed logins, so many that who made them is banned."""
        for _ in range(10):
            self.guard.login_failed("s", ip_address(client), user, "PLAIN", "wrong password")

    async def attempt(self, *outcomes: tuple[int, Outcome], wait: float = 900.0) -> None:
        """One attempt at the oldest due message, with these outcomes."""
        assert self.queue is not None
        (claim,) = await self.queue.claim(1)
        await self.queue.settle(claim, Settlement(outcomes, due=self.clock.now() + wait))


def _address(text: str) -> Address:
    return Address(*text.rsplit("@", 1))
