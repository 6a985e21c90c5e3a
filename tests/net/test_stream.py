"""The stream: it keeps nothing back, every wait ends, and clear text never crosses into TLS."""

import asyncio
import datetime as dt
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from mailroot.net.stream import EarlyData, Stream, StreamClosed, connect

pytestmark = pytest.mark.quick


@asynccontextmanager
async def pair(limit: int = 256 * 1024) -> AsyncIterator[tuple[Stream, Stream]]:
    """A client stream and the server stream it is connected to."""
    accepted: asyncio.Future[Stream] = asyncio.get_running_loop().create_future()
    server = await asyncio.get_running_loop().create_server(
        lambda: Stream(accepted.set_result, limit=limit), "127.0.0.1", 0
    )
    client = await connect("127.0.0.1", server.sockets[0].getsockname()[1], 5)
    served = await accepted
    try:
        yield client, served
    finally:
        client.abort()
        served.abort()
        server.close()
        await server.wait_closed()


@pytest.fixture(scope="module")
def contexts(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """TLS contexts for client and server, with a certificate for "localhost"."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    file: Path = tmp_path_factory.mktemp("tls") / "server.pem"
    file.write_bytes(
        certificate.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(file)
    client = ssl.create_default_context(cafile=str(file))
    return client, server


async def test_read_hands_over_all_that_came() -> None:
    async with pair() as (client, served):
        client.write(b"EHLO a\r\n")
        client.write(b"MAIL FROM:<a@b>\r\n")
        data = b""
        while len(data) < 25:
            data += await served.read(5)
        assert data == b"EHLO a\r\nMAIL FROM:<a@b>\r\n"
        assert not served.unread


async def test_read_gives_up_at_the_deadline_and_can_go_on() -> None:
    async with pair() as (client, served):
        for _ in range(2):
            with pytest.raises(TimeoutError):
                await served.read(0.01)
        client.write(b"late")
        assert await served.read(5) == b"late"


async def test_a_longer_wait_after_a_shorter_one_is_not_cut_short() -> None:
    async with pair() as (client, served):
        with pytest.raises(TimeoutError):
            await served.read(0.01)
        reading = asyncio.ensure_future(served.read(60))
        await asyncio.sleep(0)
        client.write(b"x")
        assert await reading == b"x"


async def test_the_end_of_the_peer_is_an_empty_read_every_time() -> None:
    async with pair() as (client, served):
        client.write(b"QUIT\r\n")
        client.finish()
        assert await served.read(5) == b"QUIT\r\n"
        assert await served.read(5) == b""
        assert await served.read(5) == b""


async def test_a_peer_that_closed_its_side_still_gets_the_answer() -> None:
    accepted: asyncio.Future[Stream] = asyncio.get_running_loop().create_future()
    server = await asyncio.get_running_loop().create_server(lambda: Stream(accepted.set_result), "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection("127.0.0.1", server.sockets[0].getsockname()[1])
    served = await accepted
    writer.write(b"QUIT\r\n")
    writer.write_eof()
    assert await served.read(5) == b"QUIT\r\n"
    assert await served.read(5) == b""
    served.write(b"221 bye\r\n")
    await served.close(5)
    assert await reader.read() == b"221 bye\r\n"
    writer.close()
    await writer.wait_closed()
    server.close()
    await server.wait_closed()


async def test_an_unread_flood_stops_at_the_limit() -> None:
    async with pair(limit=64 * 1024) as (client, served):
        flood = b"x" * (8 * 1024 * 1024)
        client.write(flood)
        with pytest.raises(TimeoutError):
            await client.drain(0.2)
        received = 0
        while received < len(flood):
            received += len(await served.read(5))
        assert received == len(flood)
        await client.drain(5)


async def test_an_interrupt_reaches_who_waits_for_a_peer_that_does_not_read() -> None:
    async with pair() as (client, served):
        served.write(b"x" * (16 * 1024 * 1024))
        waiting = asyncio.create_task(served.drain(60))
        await asyncio.sleep(0)
        served.interrupt()
        await asyncio.wait_for(waiting, 5)
        assert served.is_open
        assert client.is_open


async def test_drain_tells_that_the_peer_is_gone() -> None:
    async with pair() as (client, served):
        served.abort()
        assert await client.read(5) == b""
        client.abort()
        client.write(b"into the void")
        with pytest.raises(StreamClosed):
            await client.drain(5)


async def test_abort_wakes_the_reader() -> None:
    async with pair() as (_, served):
        reading = asyncio.ensure_future(served.read(60))
        await asyncio.sleep(0)
        served.abort()
        assert await reading == b""


async def test_close_waits_until_all_is_sent() -> None:
    async with pair() as (client, served):
        served.write(b"221 bye\r\n")
        closing = asyncio.ensure_future(served.close(5))
        assert await client.read(5) == b"221 bye\r\n"
        client.finish()
        await closing
        assert not served.is_open


async def test_starttls(contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    async with pair() as (client, served):
        await asyncio.gather(
            client.start_tls(contexts[0], 10, server_side=False, server_hostname="localhost"),
            served.start_tls(contexts[1], 10, server_side=True),
        )
        assert client.tls is not None
        client.write(b"secret")
        assert await served.read(5) == b"secret"


async def test_clear_text_before_starttls_cuts_the_connection(
    contexts: tuple[ssl.SSLContext, ssl.SSLContext],
) -> None:
    async with pair() as (client, served):
        client.write(b"STARTTLS\r\n")
        assert await served.read(5) == b"STARTTLS\r\n"
        client.write(b"RCPT TO:<injected@example.com>\r\n")
        while not served.unread:
            await asyncio.sleep(0)
        with pytest.raises(EarlyData):
            await served.start_tls(contexts[1], 5, server_side=True)
        assert not served.is_open
        assert await client.read(5) == b""


async def test_clear_text_instead_of_a_handshake_ends_it(
    contexts: tuple[ssl.SSLContext, ssl.SSLContext],
) -> None:
    async with pair() as (client, served):
        upgrading = asyncio.ensure_future(served.start_tls(contexts[1], 5, server_side=True))
        await asyncio.sleep(0)
        client.write(b"RCPT TO:<injected@example.com>\r\n")
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await upgrading


async def test_a_silent_peer_cannot_hold_the_handshake(
    contexts: tuple[ssl.SSLContext, ssl.SSLContext],
) -> None:
    async with pair() as (_, served):
        with pytest.raises((TimeoutError, ConnectionError)):
            await served.start_tls(contexts[1], 0.05, server_side=True)


@pytest.mark.parametrize("who", ["we", "they"])
async def test_a_connection_cut_during_its_handshake_is_not_secured_and_closed_at_once(
    contexts: tuple[ssl.SSLContext, ssl.SSLContext], who: str
) -> None:
    async with pair() as (client, served):
        securing = asyncio.ensure_future(served.start_tls(contexts[1], 60, server_side=True))
        for _ in range(5):
            await asyncio.sleep(0)
        (served if who == "we" else client).abort()
        with pytest.raises((ConnectionError, ssl.SSLError)):
            await securing
        assert not served.is_open
        async with asyncio.timeout(30):
            await served.close(3600)
