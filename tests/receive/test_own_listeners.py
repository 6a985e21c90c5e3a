"""Listeners with settings of their own, over real sockets: TLS from the first octet, the oldest TLS, PROXY headers,
and what a changed configuration does to them."""

import asyncio
import logging
import ssl
import warnings
from dataclasses import replace
from pathlib import Path

import pytest

from mailroot.events import (
    ClientIntroduced,
    HandshakeFailed,
    ListenerOpened,
    SessionClosed,
    SessionOpened,
    SessionRefused,
    SessionSecured,
)
from mailroot.net.certificates import Certificates
from mailroot.net.stream import connect
from mailroot.net.tls import CertificateFile, TlsVersion
from mailroot.policy.access import AccessList, Mode
from mailroot.policy.limits import LimitSettings
from mailroot.policy.listeners import ListenerSettings, Profile, RequireTls, TlsMode
from mailroot.receive.listeners import GeneralSettings
from rig.authority import issue
from rig.client import Client, port_of
from rig.door import Door, client_tls, server_tls
from rig.relay import free_port

pytestmark = pytest.mark.quick

FREE = "127.0.0.1:0"
IMPLICIT = ListenerSettings(FREE, tls=TlsMode.IMPLICIT)
PROXIED = ListenerSettings(FREE, proxy_protocol=True)
HEADER = b"PROXY TCP4 192.0.2.7 198.51.100.1 50123 25\r\n"


def settings(*listeners: ListenerSettings, listen: tuple[str, ...] = (), **more: int) -> GeneralSettings:
    return GeneralSettings(listen=listen, listeners=listeners, **more)  # type: ignore[arg-type]


# Implicit TLS


async def test_implicit_tls(tmp_path: Path) -> None:
    door = Door(tls=server_tls(tmp_path))
    listeners = door.listeners(listeners=(IMPLICIT,))
    await listeners.open()
    assert len(listeners.addresses) == 2
    plain, client = await Client.open(listeners), await Client.open_tls(listeners, 1)
    assert b"STARTTLS" in await plain.say(b"EHLO x\r\n")
    hello = await client.say(b"EHLO x\r\n")
    assert hello.startswith(b"250-")
    assert b"STARTTLS" not in hello
    client.stream.write(b"MAIL FROM:<a@example.com>\r\nRCPT TO:<b@example.com>\r\nDATA\r\n\r\nx\r\n.\r\nQUIT\r\n")
    for code in (b"250", b"250", b"354", b"250 2.6.0", b"221"):
        assert (await client.reply()).startswith(code)
    await client.leave()
    await plain.leave()
    await listeners.close(10.0)
    (record,) = await door.records()
    assert b" with ESMTPS id " in record.message.prefix
    (secured,) = door.published(SessionSecured)
    assert secured.protocol == "TLSv1.3"


async def test_who_does_not_speak_tls_leaves_an_event_and_no_other_trace(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    caplog.set_level(logging.INFO)
    door = Door(tls=server_tls(tmp_path))
    listeners = door.listeners(listeners=(IMPLICIT,))
    await listeners.open()
    port = port_of(listeners, 1)
    for said in (b"EHLO x\r\n", b"\x80\x03\x01\x00\x02", b"GET / HTTP/1.0\r\n\r\n", b"\x16\x03\x01\x00\x05hello"):
        client = await connect("127.0.0.1", port, 10.0)
        client.write(said)
        answer = b""
        while octets := await client.read(10.0):
            answer += octets
        assert b"220" not in answer
        client.abort()
    scan = await connect("127.0.0.1", port, 10.0)
    scan.abort()
    monkeypatch.setattr("mailroot.receive.encryption._TIMEOUT", 0.05)
    silent = await connect("127.0.0.1", port, 10.0)
    assert await silent.read(10.0) == b""
    silent.abort()
    await listeners.close(10.0)
    # Who only looks whether the port is open leaves no warning: load balancers do it every second.
    assert len(door.published(HandshakeFailed)) == 5
    assert len(door.published(SessionClosed)) == 6
    assert {failed.client for failed in door.published(HandshakeFailed)} == {"127.0.0.1"}
    assert len(door.sessions) == 0
    assert caplog.records == []
    assert capfd.readouterr() == ("", "")


async def test_an_unfinished_handshake_does_not_hold_up_the_end(tmp_path: Path) -> None:
    door = Door(tls=server_tls(tmp_path))
    listeners = door.listeners(listeners=(IMPLICIT,))
    await listeners.open()
    silent = await connect("127.0.0.1", port_of(listeners, 1), 10.0)
    while not len(door.sessions):
        await asyncio.sleep(0)
    door.sessions.cut_all()
    assert await silent.read(10.0) == b""
    silent.abort()
    await listeners.close(10.0)
    assert len(door.published(SessionClosed)) == 1


@pytest.mark.parametrize("tls", [TlsMode.IMPLICIT, TlsMode.STARTTLS])
async def test_a_server_that_stops_does_not_wait_for_handshakes(tmp_path: Path, tls: TlsMode) -> None:
    door = Door(tls=server_tls(tmp_path))
    listeners = door.listeners(listeners=(replace(IMPLICIT, tls=tls),))
    await listeners.open()
    silent = Client(await connect("127.0.0.1", port_of(listeners, 1), 10.0))
    if tls is TlsMode.STARTTLS:
        assert (await silent.reply()).startswith(b"220 ")
        assert (await silent.say(b"EHLO x\r\n")).startswith(b"250-")
        assert (await silent.say(b"STARTTLS\r\n")).startswith(b"220 ")
    while not len(door.sessions):
        await asyncio.sleep(0)
    async with asyncio.timeout(60):
        await listeners.close(3600.0)
    assert await silent.stream.read(10.0) == b""
    silent.stream.abort()
    (closed,) = door.published(SessionClosed)
    assert closed.why == "server stopped"


async def test_who_is_one_too_many_hears_nothing_in_the_clear(tmp_path: Path) -> None:
    door = Door(tls=server_tls(tmp_path))
    listeners = door.listeners(listeners=(IMPLICIT,), max_connections=1)
    await listeners.open()
    first = await Client.open_tls(listeners, 1)
    second = await connect("127.0.0.1", port_of(listeners, 1), 10.0)
    assert await second.read(10.0) == b""
    (refused,) = door.published(SessionRefused)
    assert refused.rule == "max_connections"
    await first.leave()
    await second.close(10.0)
    await listeners.close(10.0)


# The oldest TLS


def old_client(newest: ssl.TLSVersion) -> ssl.SSLContext:
    """A client that knows nothing newer."""
    context = client_tls()
    context.set_ciphers("ALL:@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
        context.maximum_version = newest
    return context


async def test_the_oldest_tls_is_each_listeners_own(tmp_path: Path) -> None:
    door = Door(tls=server_tls(tmp_path))
    own = (
        ListenerSettings(FREE, profile=Profile.OLD_DEVICES),
        ListenerSettings(FREE, profile=Profile.OLD_DEVICES, min_tls=TlsVersion.TLS_1_1),
        ListenerSettings(FREE, min_tls=TlsVersion.TLS_1_3),
    )
    listeners = door.listeners(listeners=own)
    await listeners.open()
    versions = (ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1, ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3)
    # By listener, how many of the versions, counted from the newest, are taken.
    for n, taken in enumerate((2, 4, 3, 1)):
        for newest in versions:
            client = await Client.open(listeners, n)
            assert (await client.say(b"EHLO x\r\n")).startswith(b"250")
            assert (await client.say(b"STARTTLS\r\n")).startswith(b"220")
            securing = client.stream.start_tls(
                old_client(newest), 10.0, server_side=False, server_hostname="localhost"
            )
            if newest in versions[-taken:]:
                await securing
                assert client.stream.tls is not None
                assert client.stream.tls.version() == newest.name.replace("_", ".")
                assert (await client.say(b"EHLO x\r\n")).startswith(b"250")
            else:
                with pytest.raises((ssl.SSLError, ConnectionError)):
                    await securing
            client.stream.abort()
    await listeners.close(10.0)
    assert len(door.published(SessionSecured)) == 10
    assert len(door.published(HandshakeFailed)) == 6


# PROXY headers


async def test_the_client_is_who_the_proxy_says() -> None:
    door = Door(
        proxies=("127.0.0.0/8",),
        connection=AccessList(Mode.EXCEPT, ("192.0.2.8", "127.0.0.1")),
        limits=LimitSettings(sessions_per_address=1),
    )
    listeners = door.listeners(listeners=(PROXIED,))
    await listeners.open()
    # The connection itself is the proxy's, which is no client.
    client = await Client.open(listeners, 1, first=HEADER)
    assert b"Hello [192.0.2.7]" in await client.say(b"EHLO x\r\n")
    (session,) = door.sessions.list()
    assert session.client == "192.0.2.7"
    assert door.published(SessionOpened)[0].client == "192.0.2.7"
    (introduced,) = door.published(ClientIntroduced)
    assert (introduced.proxy, introduced.client, introduced.how) == ("127.0.0.1", "192.0.2.7", "PROXY")
    # Each of these would be let in if the proxy's address counted.
    for address, code in ((b"192.0.2.8", b"554 5.7.1"), (b"192.0.2.7", b"421 "), (b"192.0.2.9", b"220 ")):
        other = Client(await connect("127.0.0.1", port_of(listeners, 1), 10.0))
        assert (await other.say(HEADER.replace(b"192.0.2.7", address))).startswith(code)
        await other.leave()
    client.stream.write(b"MAIL FROM:<a@example.com>\r\nRCPT TO:<b@example.org>\r\nRCPT TO:<b@example.com>\r\n")
    for code in (b"250", b"550 5.7.1", b"250"):
        assert (await client.reply()).startswith(code)
    assert (await client.say(b"DATA\r\n")).startswith(b"354")
    assert (await client.say(b"Subject: x\r\n\r\nx\r\n.\r\n")).startswith(b"250")
    await client.leave()
    await listeners.close(10.0)
    (record,) = await door.records()
    assert b"from x ([192.0.2.7])" in record.message.prefix
    assert b"127.0.0.1" not in record.message.prefix


async def test_a_proxy_that_asks_for_itself_and_one_that_does_not_say() -> None:
    """Of whom the proxy says nothing it must not be thought that it is the proxy, which may relay here."""
    door = Door(proxies=("127.0.0.1",))
    listeners = door.listeners(listeners=(PROXIED,))
    await listeners.open()
    for first, who, code in (
        (b"\r\n\r\n\x00\r\nQUIT\n\x20\x00\x00\x00", b"127.0.0.1", b"250"),
        (b"PROXY UNKNOWN\r\n", b"0.0.0.0", b"550 5.7.1"),
    ):
        client = await Client.open(listeners, 1, first=first)
        assert b"Hello [%s]" % who in await client.say(b"EHLO x\r\n")
        assert (await client.say(b"MAIL FROM:<a@example.com>\r\n")).startswith(b"250")
        assert (await client.say(b"RCPT TO:<b@example.org>\r\n")).startswith(code)
        await client.leave()
    await listeners.close(10.0)


async def test_xclient_is_not_for_everybody_behind_a_proxy_that_may_say_it_itself() -> None:
    """A proxy and a filter on one computer have one address: what comes behind a header is neither's word."""
    door = Door(proxies=("127.0.0.1",), xclient=("127.0.0.1", "192.0.2.9"))
    listeners = door.listeners(listeners=(PROXIED,))
    await listeners.open()
    for first, offered in (
        (HEADER, False),
        (b"PROXY UNKNOWN\r\n", False),
        (HEADER.replace(b"192.0.2.7", b"192.0.2.9"), True),
        (b"\r\n\r\n\x00\r\nQUIT\n\x20\x00\x00\x00", True),
    ):
        client = await Client.open(listeners, 1, first=first)
        assert (b"250-XCLIENT " in await client.say(b"EHLO x\r\n")) is offered
        answer = await client.say(b"XCLIENT ADDR=192.0.2.8\r\n")
        assert answer.startswith(b"220 " if offered else b"550 5.7.0")
        await client.leave()
    await listeners.close(10.0)


async def test_a_header_and_then_tls(tmp_path: Path) -> None:
    door = Door(proxies=("127.0.0.1",), tls=server_tls(tmp_path))
    own = (replace(PROXIED, tls=TlsMode.IMPLICIT), PROXIED)
    listeners = door.listeners(listeners=own)
    await listeners.open()
    client = await Client.open_tls(listeners, 1, first=HEADER)
    assert b"Hello [192.0.2.7]" in await client.say(b"EHLO x\r\n")
    await client.leave()
    client = await Client.open(listeners, 2, first=HEADER)
    assert (await client.say(b"EHLO x\r\n")).startswith(b"250")
    assert (await client.say(b"STARTTLS\r\n")).startswith(b"220")
    await client.secure()
    assert b"Hello [192.0.2.7]" in await client.say(b"EHLO x\r\n")
    await client.leave()
    await listeners.close(10.0)
    assert [secured.client for secured in door.published(SessionSecured)] == ["192.0.2.7"] * 2


async def test_nobody_else_may_say_who_it_is() -> None:
    door = Door(proxies=("192.0.2.1",))
    listeners = door.listeners(listeners=(PROXIED,))
    await listeners.open()
    client = await connect("127.0.0.1", port_of(listeners, 1), 10.0)
    client.write(HEADER)
    assert await client.read(10.0) == b""
    client.abort()
    (refused,) = door.published(SessionRefused)
    assert (refused.client, refused.listener, refused.rule) == ("127.0.0.1", listeners.addresses[1], "proxies")
    # Where no header belongs it is a command like any other.
    client = (await Client.open(listeners)).stream
    client.write(HEADER)
    assert (await client.read(10.0)).startswith(b"500 ")
    client.abort()
    await listeners.close(10.0)
    assert not door.published(ClientIntroduced)


async def test_a_proxy_without_a_header_is_turned_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mailroot.net.acceptor._HEADER_SECONDS", 0.05)
    door = Door(proxies=("127.0.0.1",))
    listeners = door.listeners(listeners=(PROXIED,), max_connections=1)
    await listeners.open()
    for said in (b"EHLO x\r\n", b"PROXY TCP4 nobody\r\n", b""):
        client = await connect("127.0.0.1", port_of(listeners, 1), 10.0)
        client.write(said)
        assert await client.read(10.0) == b""
        client.abort()
    assert [refused.rule for refused in door.published(SessionRefused)] == [
        "proxy_protocol: the connection does not begin with a PROXY header",
        "proxy_protocol: the PROXY line is not of the form 'PROXY TCP4 CLIENT SERVER PORT PORT'",
        "proxy_protocol: no PROXY header came in time",
    ]
    first = await Client.open(listeners, 1, first=HEADER)
    second = Client(await connect("127.0.0.1", port_of(listeners, 1), 10.0))
    assert (await second.say(HEADER.replace(b"2.7", b"2.8"))).startswith(b"421 4.3.2")
    assert door.published(SessionRefused)[-1].client == "192.0.2.8"
    await first.leave()
    await second.leave()
    await listeners.close(10.0)
    assert not door.published(SessionOpened)[1:]


async def test_close_ends_those_without_a_header_too() -> None:
    door = Door(proxies=("127.0.0.1",))
    listeners = door.listeners(listeners=(PROXIED,))
    await listeners.open()
    client = await connect("127.0.0.1", port_of(listeners, 1), 10.0)
    client.write(HEADER[:9])
    quick = await Client.open(listeners, 1, first=HEADER)
    closing = asyncio.create_task(listeners.close(10.0))
    assert (await quick.reply()).startswith(b"421")
    await closing
    assert await client.read(10.0) == b""
    client.abort()
    await quick.leave()


# Changes


async def closed(port: int) -> None:
    """Return when nobody listens there; what is on its way out may still take a connection from the system."""
    while True:
        try:
            stream = await connect("127.0.0.1", port, 10.0)
        except OSError:
            return
        stream.abort()


async def test_new_rules_at_the_same_socket(tmp_path: Path) -> None:
    door = Door(proxies=("127.0.0.1",), tls=server_tls(tmp_path))
    listeners = door.listeners(listen := FREE, listeners=(ListenerSettings(FREE),))
    await listeners.open()
    addresses = listeners.addresses
    early = await Client.open(listeners, 1)
    steps = (
        (ListenerSettings(FREE, require_tls=RequireTls.MAIL), b""),
        (PROXIED, HEADER),
        (ListenerSettings(FREE, profile=Profile.STRICT), b""),
    )
    for own, first in steps:
        await listeners.arrange(settings(own, listen=(listen,))).apply()
        client = await Client.open(listeners, 1, first=first)
        assert (await client.say(b"EHLO x\r\n")).startswith(b"250")
        code = b"530 5.7.0" if own.require_tls is RequireTls.MAIL else b"250"
        assert (await client.say(b"MAIL FROM:<a@example.com>\r\n")).startswith(code)
        await client.leave()
    await listeners.arrange(settings(IMPLICIT, listen=(listen,))).apply()
    client = await Client.open_tls(listeners, 1)
    await client.leave()
    assert listeners.addresses == addresses
    assert len(door.published(ListenerOpened)) == 2
    # Who came first goes on as it began.
    assert (await early.say(b"EHLO x\r\n")).startswith(b"250")
    assert (await early.say(b"MAIL FROM:<a@example.com>\r\n")).startswith(b"250")
    await early.leave()
    await listeners.arrange(settings(listen=(listen,))).apply()
    assert listeners.addresses == addresses[:1]
    await closed(int(addresses[1].rpartition(":")[2]))
    await listeners.close(10.0)


async def test_an_address_moves_to_settings_of_its_own_and_back() -> None:
    door = Door(proxies=("127.0.0.1",))
    address = f"127.0.0.1:{free_port()}"
    listeners = door.listeners(address)
    await listeners.open()
    early = await Client.open(listeners)
    try:
        moving = listeners.arrange(settings(replace(PROXIED, address=address)))
    except ValueError as error:
        assert "cannot move between `listen` and `listeners`" in str(error)
        await early.leave()
        await listeners.close(10.0)
        return
    # Until it is applied, and also when it is not, everything is as it was.
    moving.discard()
    await (await Client.open(listeners)).leave()
    await listeners.arrange(settings(replace(PROXIED, address=address))).apply()
    await (await Client.open(listeners, first=HEADER)).leave()
    await listeners.arrange(settings(listen=(address,))).apply()
    await (await Client.open(listeners)).leave()
    assert listeners.addresses == (address,)
    assert (await early.say(b"NOOP\r\n")).startswith(b"250")
    await early.leave()
    await listeners.close(10.0)


async def test_one_address_has_one_set_of_rules() -> None:
    door = Door()
    listeners = door.listeners("127.0.0.1:2525", listeners=(ListenerSettings("127.0.0.1:2525"),))
    with pytest.raises(ValueError, match=r"'127\.0\.0\.1:2525' is there twice, with different rules"):
        await listeners.open()
    assert listeners.addresses == ()


async def test_a_certificate_changes_under_open_sessions(tmp_path: Path) -> None:
    first, second = issue("localhost"), issue("localhost")
    certificates = Certificates([CertificateFile(*first.files(tmp_path, "relay"))])
    door = Door(tls=certificates)
    listeners = door.listeners(listeners=(IMPLICIT,))
    await listeners.open()
    shown = []
    clients = []
    for issued in (first, second):
        issued.files(tmp_path, "relay")
        await asyncio.to_thread(certificates.refresh)
        context = ssl.create_default_context(cadata=issued.pem.decode())
        stream = await connect(
            "127.0.0.1", port_of(listeners, 1), 10.0, context=context, server_hostname="localhost"
        )
        client = Client(stream)
        assert (await client.reply()).startswith(b"220")
        clients.append(client)
        assert stream.tls is not None
        shown.append(stream.tls.getpeercert(binary_form=True))
    assert shown == [first.der, second.der]
    for client in clients:
        assert (await client.say(b"NOOP\r\n")).startswith(b"250")
        await client.leave()
    await listeners.close(10.0)
