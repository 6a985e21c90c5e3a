"""Listeners and sessions over real sockets: the documented session, TLS, and how a server stops."""

import asyncio
import socket
import ssl
from pathlib import Path

import pytest

from mailroot.events import HandshakeFailed, ListenerOpened, SessionClosed, SessionRefused, SessionSecured
from mailroot.net.listener import CannotListen
from mailroot.net.stream import connect
from rig.client import Client, port_of
from rig.door import Door, server_tls

pytestmark = pytest.mark.quick


SESSION = [
    (b"EHLO server\r\n", b"250"),
    (b"MAIL FROM: EmailAddress@outlook.com\r\n", b"250"),
    (b"RCPT TO: someone@example.com\r\n", b"250"),
    (b"DATA\r\n", b"354"),
    (b"Subject: Test Message\r\n\r\nThis is a test message.\r\n.\r\n", b"250"),
    (b"QUIT\r\n", b"221"),
]


@pytest.mark.parametrize("way", ["line by line", "octet by octet", "pipelined"])
async def test_the_documented_session(way: str) -> None:
    door = Door()
    listeners = door.listeners()
    await listeners.open()
    client = await Client.open(listeners)
    if way == "pipelined":
        client.stream.write(b"".join(octets for octets, _ in SESSION))
    for octets, code in SESSION:
        if way == "line by line":
            client.stream.write(octets)
        elif way == "octet by octet":
            for n in range(len(octets)):
                client.stream.write(octets[n : n + 1])
                await asyncio.sleep(0)
        assert (await client.reply()).startswith(code)
    assert await client.reply() == b""
    await client.stream.close(10.0)
    await listeners.close(10.0)
    (record,) = await door.records()
    assert (await door.octets(record))[1] == SESSION[4][0].removesuffix(b".\r\n")


async def test_large_messages_in_both_ways() -> None:
    door = Door()
    listeners = door.listeners()
    await listeners.open()
    client = await Client.open(listeners)
    body = b"".join(b"%06d.\r\n.dot %d\r\n" % (n, n) for n in range(60_000))
    assert 1_000_000 < len(body) < 2_000_000
    begin = b"MAIL FROM:<a@example.com>\r\nRCPT TO:<b@example.com>\r\n"
    client.stream.write(begin + b"DATA\r\n")
    for code in (b"250", b"250", b"354"):
        assert (await client.reply()).startswith(code)
    stuffed = body.replace(b"\r\n.", b"\r\n..")
    assert (await client.say(stuffed + b".\r\n")).startswith(b"250 2.6.0")
    client.stream.write(begin + b"BDAT %d LAST\r\n" % len(body) + body)
    for code in (b"250", b"250", b"250 2.6.0"):
        assert (await client.reply()).startswith(code)
    await client.stream.close(10.0)
    await listeners.close(10.0)
    for record in await door.records():
        assert (await door.octets(record))[1] == body


# TLS


async def test_starttls(tmp_path: Path) -> None:
    door = Door(tls=server_tls(tmp_path))
    listeners = door.listeners()
    await listeners.open()
    client = await Client.open(listeners)
    assert b"250-STARTTLS\r\n" in await client.say(b"EHLO before\r\n")
    assert (await client.say(b"MAIL FROM:<old@example.com>\r\nRSET\r\n")).startswith(b"250")
    assert (await client.reply()).startswith(b"250")
    assert await client.say(b"STARTTLS\r\n") == b"220 2.0.0 SMTP server ready"
    await client.secure()
    assert (await client.say(b"MAIL FROM:<a@example.com>\r\n")) == b"503 5.5.2 Send hello first"
    hello = await client.say(b"EHLO after\r\n")
    assert b"STARTTLS" not in hello
    assert b"PIPELINING" in hello
    (info,) = door.sessions.list()
    assert (info.tls, info.helo) == (True, "after")
    client.stream.write(b"MAIL FROM:<a@example.com>\r\nRCPT TO:<b@example.com>\r\nDATA\r\n\r\nx\r\n.\r\nQUIT\r\n")
    for code in (b"250", b"250", b"354", b"250 2.6.0", b"221"):
        assert (await client.reply()).startswith(code)
    await client.stream.close(10.0)
    await listeners.close(10.0)
    (record,) = await door.records()
    assert b"from after ([127.0.0.1])" in record.message.prefix
    assert b" with ESMTPS id " in record.message.prefix
    (secured,) = door.published(SessionSecured)
    assert secured.protocol.startswith("TLSv1.")
    assert secured.cipher


async def test_commands_behind_starttls_in_one_packet(tmp_path: Path) -> None:
    door = Door(tls=server_tls(tmp_path))
    listeners = door.listeners()
    await listeners.open()
    client = await Client.open(listeners)
    assert (await client.say(b"EHLO x\r\n")).startswith(b"250")
    assert (await client.say(b"STARTTLS\r\nEHLO evil\r\nMAIL FROM:<evil@example.com>\r\n")).startswith(b"554 5.5.1")
    assert await client.reply() == b""
    await client.stream.close(10.0)
    await listeners.close(10.0)
    assert len(door.published(HandshakeFailed)) == 1
    assert door.published(SessionClosed)[0].why == "commands before TLS"


async def test_commands_behind_starttls_in_a_second_packet(tmp_path: Path) -> None:
    """They reach the handshake, which cannot make sense of them; they are never read as commands."""
    door = Door(tls=server_tls(tmp_path))
    listeners = door.listeners()
    await listeners.open()
    client = await Client.open(listeners)
    assert (await client.say(b"EHLO x\r\n")).startswith(b"250")
    assert (await client.say(b"STARTTLS\r\n")).startswith(b"220")
    client.stream.write(b"EHLO evil\r\nMAIL FROM:<evil@example.com>\r\n")
    while octets := await client.stream.read(10.0):
        assert b"250" not in octets
    await client.stream.close(10.0)
    await listeners.close(10.0)
    assert len(door.published(HandshakeFailed)) == 1
    assert door.published(SessionClosed)[0].why == "TLS handshake failed"


async def test_a_client_that_does_not_trust_us(tmp_path: Path) -> None:
    door = Door(tls=server_tls(tmp_path))
    listeners = door.listeners()
    await listeners.open()
    client = await Client.open(listeners)
    assert (await client.say(b"STARTTLS\r\n")).startswith(b"220")
    with pytest.raises(ssl.SSLCertVerificationError):
        await client.stream.start_tls(
            ssl.create_default_context(), 10.0, server_side=False, server_hostname="localhost"
        )
    await client.stream.close(10.0)
    while len(door.sessions):
        await asyncio.sleep(0)
    await listeners.close(10.0)
    # With TLS 1.3 the server may be done before the client says no.
    (closed,) = door.published(SessionClosed)
    assert closed.why in ("TLS handshake failed", "client left")


# Limits and the end


async def test_max_connections() -> None:
    door = Door()
    listeners = door.listeners(max_connections=2)
    await listeners.open()
    first, second = await Client.open(listeners), await Client.open(listeners)
    third = Client(await connect("127.0.0.1", port_of(listeners), 10.0))
    assert await third.reply() == b"421 4.3.2 Too many connections, try again later"
    assert await third.reply() == b""
    assert door.published(SessionRefused)[0].rule == "max_connections"
    assert (await first.say(b"QUIT\r\n")).startswith(b"221")
    assert await first.reply() == b""
    while len(door.sessions) > 1:
        await asyncio.sleep(0)
    fourth = await Client.open(listeners)
    for client in (first, second, third, fourth):
        await client.stream.close(10.0)
    await listeners.close(10.0)
    assert len(door.sessions) == 0


async def test_pause_and_resume() -> None:
    door = Door()
    listeners = door.listeners()
    await listeners.open()
    early = await Client.open(listeners)
    listeners.pause()
    late = Client(await connect("127.0.0.1", port_of(listeners), 10.0))
    assert (await late.reply()).startswith(b"421 4.3.2 ")
    assert (await early.say(b"NOOP\r\n")).startswith(b"250")
    listeners.resume()
    again = await Client.open(listeners)
    for client in (early, late, again):
        await client.stream.close(10.0)
    await listeners.close(10.0)


async def test_close_finishes_what_comes_in() -> None:
    door = Door()
    listeners = door.listeners()
    await listeners.open()
    port = port_of(listeners)
    idle, busy = await Client.open(listeners), await Client.open(listeners)
    busy.stream.write(b"MAIL FROM:<a@example.com>\r\nRCPT TO:<b@example.com>\r\nDATA\r\n")
    for code in (b"250", b"250", b"354"):
        assert (await busy.reply()).startswith(code)
    closing = asyncio.create_task(listeners.close(10.0))
    assert (await idle.reply()).startswith(b"421 4.3.2 ")
    assert await idle.reply() == b""
    with pytest.raises(OSError):
        await connect("127.0.0.1", port, 10.0)
    assert not closing.done()
    assert (await busy.say(b"Subject: x\r\n\r\nx\r\n.\r\n")).startswith(b"250 2.6.0 ")
    assert (await busy.reply()).startswith(b"421 4.3.2 ")
    await closing
    assert len(await door.records()) == 1
    assert listeners.addresses == ()
    await idle.stream.close(10.0)
    await busy.stream.close(10.0)


async def test_close_does_not_wait_for_ever() -> None:
    door = Door()
    listeners = door.listeners()
    await listeners.open()
    client = await Client.open(listeners)
    client.stream.write(b"MAIL FROM:<a@example.com>\r\nRCPT TO:<b@example.com>\r\nDATA\r\n")
    for code in (b"250", b"250", b"354"):
        assert (await client.reply()).startswith(code)
    await listeners.close(0.01)
    assert await client.reply() == b""
    await client.stream.close(10.0)
    assert not await door.records()
    assert len(door.sessions) == 0
    assert door.published(SessionClosed)[0].why == "server stopped"


# Addresses


async def test_every_address_is_opened_or_none() -> None:
    door = Door()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        listeners = door.listeners("127.0.0.1:0", f"127.0.0.1:{port}")
        with pytest.raises(CannotListen, match=rf"cannot listen on 127\.0\.0\.1:{port}: another program"):
            await listeners.open()
    assert listeners.addresses == ()
    assert not door.published(ListenerOpened)


async def test_it_says_where_it_listens() -> None:
    door = Door()
    listeners = door.listeners("127.0.0.1:0", "127.0.0.2:0", "127.0.0.1:0")
    await listeners.open()
    assert [event.address for event in door.published(ListenerOpened)] == list(listeners.addresses)
    assert len(set(listeners.addresses)) == 2
    await listeners.close(1.0)


@pytest.mark.needs("ipv6")
async def test_ipv6() -> None:
    door = Door()
    listeners = door.listeners("[::1]:0")
    await listeners.open()
    client = Client(await connect("::1", port_of(listeners), 10.0))
    assert (await client.reply()).startswith(b"220 ")
    assert b"Hello [::1]" in await client.say(b"EHLO x\r\n")
    await client.stream.close(10.0)
    await listeners.close(1.0)
    assert listeners.addresses == ()
