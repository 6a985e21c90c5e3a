"""A front door over a queue in memory: sessions on a stream without a network, or behind real listeners."""

import asyncio
import ssl
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cache
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from mailroot.clock import ManualClock
from mailroot.events import Bus, Event
from mailroot.net.certificates import Certificates
from mailroot.net.stream import EarlyData, Stream
from mailroot.net.tls import CertificateFile
from mailroot.policy.access import Access, AccessList, AccessSettings, Mode, RelayList
from mailroot.policy.auth.logins import Logins
from mailroot.policy.auth.settings import AuthenticationSettings
from mailroot.policy.domains import LocalDomains
from mailroot.policy.guard import Guard
from mailroot.policy.limits import LimitSettings, MessageSettings
from mailroot.policy.listeners import ListenerRules
from mailroot.policy.networks import ClientList
from mailroot.policy.permissions import Permission, Permissions
from mailroot.queue.base import Record, Search
from mailroot.queue.memory import MemoryQueue
from mailroot.receive.intake import Intake
from mailroot.receive.listeners import GeneralSettings, Listeners
from mailroot.receive.session import Session
from mailroot.receive.sessions import Sessions
from mailroot.receive.terms import Terms

FQDN = "relay.example.com"


@cache
def certificate_pem() -> bytes:
    """A key and a self-signed certificate for FQDN, localhost and 127.0.0.1, in one PEM."""
    return another_certificate_pem()


def another_certificate_pem() -> bytes:
    """As `certificate_pem`, but each time a new one, which nobody trusts."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, FQDN)])
    now = datetime.now(UTC)
    names = x509.SubjectAlternativeName(
        [x509.DNSName(FQDN), x509.DNSName("localhost"), x509.IPAddress(ip_address("127.0.0.1"))]
    )
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=30))
        .add_extension(names, critical=False)
        .sign(key, hashes.SHA256())
    )
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ) + certificate.public_bytes(serialization.Encoding.PEM)


def server_tls(folder: Path, *, client_anchors: tuple[Path, ...] = ()) -> Certificates:
    """A server's certificates: that one."""
    file = folder / "server.pem"
    file.write_bytes(certificate_pem())
    return Certificates((CertificateFile(file),), client_anchors=client_anchors)


def client_tls() -> ssl.SSLContext:
    """A client's context that trusts that certificate."""
    return ssl.create_default_context(cadata=certificate_pem().split(b"-----END PRIVATE KEY-----\n")[1].decode())


class _Transport(asyncio.Transport):
    def __init__(self, peer: tuple[str, int]) -> None:
        super().__init__({"peername": peer, "sockname": ("127.0.0.1", 25)})
        self.stream: Stream
        self.sent = bytearray()
        self.writes = 0
        self.closed = False

    def write(self, data: Any) -> None:
        if not self.closed:
            self.sent += data
            self.writes += 1

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            asyncio.get_running_loop().call_soon(self.stream.connection_lost, None)

    abort = close

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


class MemoryStream(Stream):
    """A stream whose other end is the test. TLS is believed, not done."""

    __slots__ = ("secured", "transport")

    def __init__(self, client: str = "127.0.0.1") -> None:
        super().__init__()
        self.transport = _Transport((client, 50000))
        self.transport.stream = self
        self.secured = False
        self.connection_made(self.transport)

    async def start_tls(self, context: Any, timeout: float, **_: Any) -> None:
        if self.unread:
            self.abort()
            raise EarlyData("early")
        self.secured = True

    @property
    def is_waiting(self) -> bool:
        """Whether the session has used up what was sent and waits for more."""
        return self._waiter is not None and not self._waiter.done() and not self.unread

    def taken(self) -> bytes:
        """What was written since it was last asked for."""
        sent = bytes(self.transport.sent)
        self.transport.sent.clear()
        return sent


class MemorySession:
    """A session being played to from a test."""

    def __init__(self, door: "Door", client: str, rules: ListenerRules) -> None:
        self.stream = MemoryStream(client)
        self.session = Session(door.sessions.new_id(), self.stream, door.terms, "127.0.0.1:25", rules)
        door.sessions.add(self.session)
        self.task = asyncio.get_running_loop().create_task(self.session.run())

    async def settle(self) -> None:
        """Until the session waits for the client, or is over."""
        while not (self.stream.is_waiting or self.task.done()):
            await asyncio.sleep(0)

    async def say(self, octets: bytes) -> bytes:
        """Send, and get all that is answered."""
        if self.is_open:
            self.stream.data_received(octets)
        await self.settle()
        return self.stream.taken()

    async def leave(self) -> None:
        """Close the client's side, and wait for the end."""
        self.stream.eof_received()
        await self.task

    @property
    def is_open(self) -> bool:
        return not self.task.done() and self.stream.is_open


class Door:
    """A virtual server's front door with nothing behind it but a queue in memory."""

    def __init__(
        self,
        *,
        messages: MessageSettings | None = None,
        relay: RelayList | None = None,
        connection: AccessList | None = None,
        relay_domains: tuple[str, ...] = (),
        aliases: tuple[str, ...] = (),
        default_domain: str = "example.com",
        queue: Any = None,
        rules: ListenerRules | None = None,
        limits: LimitSettings | None = None,
        authentication: AuthenticationSettings | None = None,
        permissions: tuple[Permission, ...] = (),
        xclient: tuple[str, ...] = (),
        proxies: tuple[str, ...] = (),
        tls: Certificates | None = None,
        **terms: Any,
    ) -> None:
        self.clock = ManualClock()
        self.bus = Bus(self.clock)
        self.events: list[Event] = []
        self.bus.subscribe(lambda _, event: self.events.append(event))
        self.queue = queue if queue is not None else MemoryQueue(self.clock)
        self.sessions = Sessions()
        settings = AccessSettings(proxies=proxies)
        settings = replace(settings, relay=relay or settings.relay, connection=connection or settings.connection)
        messages, limits = messages or MessageSettings(), limits or LimitSettings()
        authentication = authentication or AuthenticationSettings()
        local = LocalDomains(default_domain, aliases)
        self.rules = rules or ListenerRules()
        self.logins = Logins(authentication, self.clock, fqdn=FQDN, bus=self.bus, server="default")
        self.guard = Guard(limits, self.bus, self.clock, server="default")
        self.intake = Intake(self.queue, self.bus, self.clock, server="default", fqdn=FQDN, messages=messages)
        self.terms = Terms(
            server="default",
            fqdn=FQDN,
            default_domain=default_domain,
            idle_timeout=terms.pop("idle_timeout", 30.0),
            messages=messages,
            limits=limits,
            access=Access(settings, local, relay_domains),
            permissions=Permissions(permissions, local),
            logins=self.logins,
            guard=self.guard,
            intake=self.intake,
            bus=self.bus,
            clock=self.clock,
            anonymous=authentication.anonymous,
            login_timeout=authentication.timeout,
            certificates=tls,
            xclient=ClientList(xclient),
            **terms,
        )

    async def connect(self, client: str = "127.0.0.1", *, banner: bool = False) -> MemorySession:
        """A new session; its banner is dropped, unless the test wants it."""
        session = MemorySession(self, client, self.rules)
        await session.settle()
        if not banner:
            session.stream.taken()
        return session

    def listeners(self, *listen: str, **general: Any) -> Listeners:
        """Real listeners; by default one at a free port of 127.0.0.1."""
        settings = GeneralSettings(listen=listen or ("127.0.0.1:0",), **general)
        return Listeners(settings, self.terms, self.sessions)

    async def records(self) -> list[Record]:
        """What is in the queue, oldest first."""
        return (await self.queue.find(Search(), 10_000))[::-1]

    async def octets(self, record: Record) -> tuple[bytes, bytes]:
        """A message as prefix and what the client sent."""
        content = await self.queue.content(record.id)
        assert content is not None
        whole = b"".join([chunk async for chunk in content.chunks()])
        prefix = record.message.prefix
        assert whole.startswith(prefix)
        return prefix, whole[len(prefix) :]

    def published(self, kind: type) -> list[Any]:
        """The events of a kind, oldest first."""
        return [event for event in self.events if isinstance(event, kind)]


def relay_for_all() -> RelayList:
    return RelayList(Mode.EXCEPT)
