"""Accepting connections, on the loop the service runs on and on Python's own: no octet is lost, or taken for
another's; implicit TLS, PROXY headers, and both together."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from mailroot.net.acceptor import Acceptor, Manner
from mailroot.net.certificates import Certificates
from mailroot.net.listener import Endpoint, Server, bind, second_socket, serve
from mailroot.net.proxy import NOBODY, Introduced
from mailroot.net.stream import Stream, connect
from mailroot.net.tls import CertificateFile, TlsVersion
from mailroot.system import new_event_loop
from rig.authority import issue

pytestmark = pytest.mark.quick

HEADER = b"PROXY TCP4 192.0.2.7 198.51.100.1 50123 25\r\n"
VERSION2 = b"\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c" + bytes([192, 0, 2, 7, 1, 2, 3, 4, 0xC3, 0xCB, 0, 25])
INTRODUCED = Introduced(ip_address("192.0.2.7"), 50123, "127.0.0.1")

Story = Callable[[], Coroutine[Any, Any, None]]


@pytest.fixture(params=[asyncio.new_event_loop, new_event_loop], ids=["Python's loop", "the service's loop"])
def run(request: pytest.FixtureRequest) -> Callable[[Coroutine[Any, Any, None]], None]:
    """Runs a story to its end. What the loop could not tell anybody is a failure."""

    def run_on_loop(story: Coroutine[Any, Any, None]) -> None:
        troubles: list[dict[str, Any]] = []

        async def watched() -> None:
            asyncio.get_running_loop().set_exception_handler(lambda _, trouble: troubles.append(trouble))
            async with asyncio.timeout(60):
                await story
            # What was aborted is closed a little later.
            for _ in range(10):
                await asyncio.sleep(0)

        with asyncio.Runner(loop_factory=request.param) as runner:
            runner.run(watched())
        assert troubles == []

    return run_on_loop


Run = Callable[[Coroutine[Any, Any, None]], None]


@dataclass
class Accepted:
    """A server, and what it accepted and refused."""

    listening: socket.socket
    server: Server
    streams: "asyncio.Queue[tuple[Stream, Introduced | None]]" = field(default_factory=asyncio.Queue)
    refusals: "asyncio.Queue[tuple[str, str]]" = field(default_factory=asyncio.Queue)

    @property
    def port(self) -> int:
        return int(self.listening.getsockname()[1])

    async def client(self, octets: bytes = b"") -> Stream:
        """A client that has said that."""
        stream = await connect("127.0.0.1", self.port, 10)
        stream.write(octets)
        return stream


@asynccontextmanager
async def accepting(
    *, proxied: bool = False, tls: bool = False, trusts: Callable[[str], bool] = lambda _: True
) -> AsyncIterator[Accepted]:
    listening = bind(Endpoint("127.0.0.1", 0))
    assert listening is not None
    streams: asyncio.Queue[tuple[Stream, Introduced | None]] = asyncio.Queue()
    refusals: asyncio.Queue[tuple[str, str]] = asyncio.Queue()
    every: list[Stream] = []

    def connected(stream: Stream, introduced: Introduced | None) -> None:
        every.append(stream)
        streams.put_nowait((stream, introduced))

    server = Acceptor(
        listening,
        connected,
        lambda: Manner(proxied, tls),
        trusts=trusts,
        on_refusal=lambda *refusal: refusals.put_nowait(refusal),
    )
    try:
        yield Accepted(listening, server, streams, refusals)
    finally:
        for stream in every:
            stream.abort()
        server.close()
        await server.wait_closed()
    assert listening.fileno() == -1


async def all_of(stream: Stream, size: int) -> bytes:
    octets = b""
    while len(octets) < size:
        came = await stream.read(10)
        assert came, octets
        octets += came
    return octets


# Implicit TLS


def contexts(folder: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """For the server, and for a client that trusts it as relay.example.com."""
    issued = issue("relay.example.com")
    certificates = Certificates([CertificateFile(*issued.files(folder, "relay"))])
    client = ssl.create_default_context(cadata=issued.pem.decode())
    return certificates.context(TlsVersion.TLS_1_2, ask_client=False), client


def test_tls_has_the_first_octet(run: Run, tmp_path: Path) -> None:
    server_context, client_context = contexts(tmp_path)

    async def story() -> None:
        async with accepting(tls=True) as accepted:
            name = "relay.example.com"
            connecting = asyncio.create_task(
                connect("127.0.0.1", accepted.port, 10, context=client_context, server_hostname=name)
            )
            stream, introduced = await accepted.streams.get()
            assert introduced is None
            assert stream.is_open
            assert stream.peer[0] == "127.0.0.1"
            assert stream.local == ("127.0.0.1", accepted.port)
            # By now the ClientHello may be there; nobody has taken it.
            for _ in range(20):
                await asyncio.sleep(0)
            assert not stream.unread
            assert stream.tls is None
            await stream.start_tls(server_context, 10, server_side=True)
            client = await connecting
            assert stream.tls is not None
            assert stream.peer[0] == "127.0.0.1"
            assert stream.local == ("127.0.0.1", accepted.port)
            client.write(b"EHLO x\r\n")
            assert await all_of(stream, 8) == b"EHLO x\r\n"
            stream.write(b"250 x\r\n")
            assert await all_of(client, 7) == b"250 x\r\n"
            await stream.close(10)
            await client.close(10)

    run(story())


def test_what_does_not_begin_with_tls(run: Run, tmp_path: Path) -> None:
    """Clear text, a port scan, a handshake that is never finished, and one that is cut."""
    server_context, _ = contexts(tmp_path)

    async def story() -> None:
        async with accepting(tls=True) as accepted:

            async def served(octets: bytes = b"") -> tuple[Stream, Stream]:
                client = await accepted.client(octets)
                return client, (await accepted.streams.get())[0]

            client, stream = await served(b"EHLO x\r\n")
            with pytest.raises((ssl.SSLError, ConnectionError)):
                await stream.start_tls(server_context, 10, server_side=True)
            stream.abort()
            # A TLS alert, perhaps, and no reply.
            assert b"EHLO" not in await client.read(10)
            client.abort()
            client, stream = await served()
            client.abort()
            with pytest.raises((ssl.SSLError, ConnectionError)):
                await stream.start_tls(server_context, 10, server_side=True)
            stream.abort()
            client, stream = await served(b"\x16\x03\x01")
            with pytest.raises((TimeoutError, ConnectionError)):
                await stream.start_tls(server_context, 0.05, server_side=True)
            stream.abort()
            assert await client.read(10) == b""
            client.abort()
            client, stream = await served(b"\x16\x03\x01")
            securing = asyncio.create_task(stream.start_tls(server_context, 10, server_side=True))
            for _ in range(5):
                await asyncio.sleep(0)
            stream.abort()
            with pytest.raises(ConnectionError):
                await securing
            assert await client.read(10) == b""
            assert not stream.is_open
            client.abort()
            client, stream = await served()
            securing = asyncio.create_task(stream.start_tls(server_context, 10, server_side=True))
            await asyncio.sleep(0)
            securing.cancel()
            with pytest.raises(asyncio.CancelledError):
                await securing
            assert await client.read(10) == b""
            client.abort()

    run(story())


@pytest.mark.parametrize("way", ["close", "finish", "abort"])
def test_a_stream_that_waits_for_tls_can_be_closed(run: Run, way: str, tmp_path: Path) -> None:
    server_context, _ = contexts(tmp_path)

    async def story() -> None:
        async with accepting(tls=True) as accepted:
            client = await accepted.client()
            stream, _ = await accepted.streams.get()
            stream.write(b"never said in the clear")
            if way == "close":
                await stream.close(10)
            else:
                getattr(stream, way)()
            assert await client.read(10) == b""
            assert not stream.is_open
            assert await stream.read(10) == b""
            with pytest.raises(ConnectionError):
                await stream.start_tls(server_context, 10, server_side=True)
            client.abort()

    run(story())


# PROXY headers


@pytest.mark.parametrize("header", [HEADER, VERSION2], ids=["version 1", "version 2"])
@pytest.mark.parametrize("way", ["in one packet", "octet by octet"])
def test_nothing_behind_the_header_is_lost(run: Run, header: bytes, way: str) -> None:
    async def story() -> None:
        async with accepting(proxied=True) as accepted:
            said = header + b"EHLO x\r\n" + bytes(100_000)
            if way == "in one packet":
                client = await accepted.client(said)
            else:
                client = await accepted.client()
                for n in range(len(header)):
                    client.write(said[n : n + 1])
                    for _ in range(3):
                        await asyncio.sleep(0)
                client.write(said[len(header) :])
            stream, introduced = await accepted.streams.get()
            assert introduced == INTRODUCED
            assert stream.peer[0] == "127.0.0.1"
            assert await all_of(stream, len(said) - len(header)) == said[len(header) :]
            stream.write(b"250 x\r\n")
            assert await all_of(client, 7) == b"250 x\r\n"
            await client.close(10)
            assert await stream.read(10) == b""
            await stream.close(10)
            assert accepted.refusals.empty()

    run(story())


@pytest.mark.parametrize("header", [HEADER, VERSION2], ids=["version 1", "version 2"])
def test_tls_behind_the_header_in_one_packet(run: Run, header: bytes, tmp_path: Path) -> None:
    server_context, client_context = contexts(tmp_path)

    async def story() -> None:
        async with accepting(proxied=True, tls=True) as accepted:
            # A client in memory, so that its ClientHello can stand in the same packet.
            to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
            client = client_context.wrap_bio(to_client, to_server, server_hostname="relay.example.com")
            with pytest.raises(ssl.SSLWantReadError):
                client.do_handshake()
            connection = await accepted.client(header + to_server.read())
            stream, introduced = await accepted.streams.get()
            assert introduced == INTRODUCED
            securing = asyncio.create_task(stream.start_tls(server_context, 10, server_side=True))
            while True:
                to_client.write(await connection.read(10))
                try:
                    client.do_handshake()
                except ssl.SSLWantReadError:
                    connection.write(to_server.read())
                else:
                    break
            client.write(b"EHLO x\r\n")
            connection.write(to_server.read())
            await securing
            assert await all_of(stream, 8) == b"EHLO x\r\n"
            stream.abort()
            connection.abort()

    run(story())


def test_a_proxy_that_speaks_for_itself_or_for_nobody_knows_whom(run: Run) -> None:
    async def story() -> None:
        async with accepting(proxied=True) as accepted:
            for header, whom in ((VERSION2[:12] + b"\x20\x00\x00\x00", None), (b"PROXY UNKNOWN\r\n", NOBODY)):
                client = await accepted.client(header + b"NOOP\r\n")
                stream, introduced = await accepted.streams.get()
                assert (introduced and introduced.client) == whom
                assert await all_of(stream, 6) == b"NOOP\r\n"
                stream.abort()
                client.abort()

    run(story())


def test_who_is_no_proxy_is_closed_at_once(run: Run) -> None:
    async def story() -> None:
        asked = []

        def trusts(peer: str) -> bool:
            asked.append(peer)
            return False

        async with accepting(proxied=True, trusts=trusts) as accepted:
            client = await accepted.client(HEADER + b"EHLO x\r\n")
            assert await client.read(10) == b""
            assert await accepted.refusals.get() == ("127.0.0.1", "")
            assert asked == ["127.0.0.1"]
            assert accepted.streams.empty()
            client.abort()

    run(story())


def test_without_a_header_there_is_no_session(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> None:
        async with accepting(proxied=True) as accepted:
            client = await accepted.client(b"EHLO x\r\n")
            assert await accepted.refusals.get() == (
                "127.0.0.1",
                "the connection does not begin with a PROXY header",
            )
            assert await client.read(10) == b""
            client.abort()
            client = await accepted.client(HEADER[:20])
            client.finish()
            assert await accepted.refusals.get() == (
                "127.0.0.1",
                "the connection ended within its PROXY header",
            )
            # Whoever only looks whether the port is open is not worth a word.
            client = await accepted.client()
            client.finish()
            assert await client.read(10) == b""
            monkeypatch.setattr("mailroot.net.acceptor._HEADER_SECONDS", 0.01)
            client = await accepted.client(HEADER[:20])
            assert await accepted.refusals.get() == ("127.0.0.1", "no PROXY header came in time")
            assert await client.read(10) == b""
            client.abort()
            assert accepted.streams.empty()

    run(story())


def test_slow_ones_hold_up_nobody_and_are_not_many(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mailroot.net.acceptor._MOST_BEGINNING", 3)

    async def story() -> None:
        async with accepting(proxied=True) as accepted:
            slow = [await accepted.client(HEADER[:9]) for _ in range(2)]
            quick = await accepted.client(HEADER + b"1")
            stream, _ = await accepted.streams.get()
            assert await all_of(stream, 1) == b"1"
            slow.append(await accepted.client(HEADER[:9]))
            late = await accepted.client(HEADER + b"2")
            # There is room for it as soon as one of the slow ones has said who is there.
            slow[0].write(HEADER[9:] + b"3")
            for octet in (b"3", b"2"):
                stream, introduced = await accepted.streams.get()
                assert introduced == INTRODUCED
                assert await all_of(stream, 1) == octet
            for client in (*slow, quick, late):
                client.abort()

    run(story())


def test_the_manner_is_asked_for_each_connection(run: Run) -> None:
    async def story() -> None:
        listening = bind(Endpoint("127.0.0.1", 0))
        assert listening is not None
        port = listening.getsockname()[1]
        manner = Manner()
        streams: asyncio.Queue[tuple[Stream, Introduced | None]] = asyncio.Queue()
        server = Acceptor(
            listening,
            lambda *came: streams.put_nowait(came),
            lambda: manner,
            trusts=lambda _: True,
            on_refusal=lambda *_: None,
        )
        for manner, said in ((Manner(), b""), (Manner(proxied=True), HEADER), (Manner(), b"")):
            client = await connect("127.0.0.1", port, 10)
            client.write(said + b"NOOP\r\n")
            stream, introduced = await streams.get()
            assert (introduced is None) is not manner.proxied
            assert await all_of(stream, 6) == b"NOOP\r\n"
            stream.abort()
            client.abort()
        server.close()
        await server.wait_closed()

    run(story())


def test_hundreds_at_once(run: Run) -> None:
    async def story() -> None:
        async with accepting() as accepted:
            clients = await asyncio.gather(*[accepted.client(b"%03d" % n) for n in range(300)])
            said = set()
            for _ in clients:
                stream, _ = await accepted.streams.get()
                said.add(await all_of(stream, 3))
                stream.abort()
            assert len(said) == 300
            for client in clients:
                client.abort()

    run(story())


@pytest.mark.parametrize("first", ["plain", "acceptor"])
def test_another_kind_of_server_at_the_same_socket(run: Run, first: str) -> None:
    async def story() -> None:
        listening = bind(Endpoint("127.0.0.1", 0))
        assert listening is not None
        port = listening.getsockname()[1]
        streams: asyncio.Queue[Stream] = asyncio.Queue()

        async def begin(kind: str, socket: socket.socket) -> Server:
            if kind == "plain":
                return await serve(socket, lambda: Stream(streams.put_nowait))
            return Acceptor(
                socket,
                lambda stream, _: streams.put_nowait(stream),
                Manner,
                trusts=lambda _: True,
                on_refusal=lambda *_: None,
            )

        async def is_served() -> None:
            client = await connect("127.0.0.1", port, 10)
            client.write(b"EHLO x\r\n")
            stream = await streams.get()
            assert await all_of(stream, 8) == b"EHLO x\r\n"
            stream.abort()
            client.abort()

        server = await begin(first, listening)
        await is_served()
        second = second_socket(listening)
        # Not on every system; `receive.Listeners` says so then.
        if second is not None:
            server.close()
            server = await begin({"plain": "acceptor", "acceptor": "plain"}[first], second)
            await is_served()
        server.close()
        await server.wait_closed()
        with pytest.raises(OSError):
            await connect("127.0.0.1", port, 10)

    run(story())
