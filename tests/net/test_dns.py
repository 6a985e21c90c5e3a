"""DNS look-ups against a name server of our own on the loopback."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import cast

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset
import pytest

from mailroot.net import dns as net_dns
from mailroot.net.dns import DnsError, Exchanger, LookupFailed, NoSuchName, Resolver

ZONE: Mapping[tuple[str, str], Sequence[str]] = {
    ("example.com.", "MX"): ["20 B.example.com.", "10 a.example.com."],
    ("null.example.", "MX"): ["0 ."],
    ("a.example.com.", "A"): ["192.0.2.1", "192.0.2.2"],
    ("a.example.com.", "AAAA"): ["2001:db8::1"],
    ("b.example.com.", "AAAA"): ["2001:db8::2"],
    ("empty.example.", "TXT"): ["nothing else"],
    ("1.2.0.192.in-addr.arpa.", "PTR"): ["A.example.com."],
    ("9.2.0.192.in-addr.arpa.", "PTR"): ["a.example.com."],
}
ALIASES = {"alias.example.": "a.example.com.", "mail.alias.example.": "example.com."}


class NameServer(asyncio.DatagramProtocol):
    """Answers from ZONE; "servfail.*" fails, "silent.*" gets nothing, "half.*" fails for AAAA alone."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, peer: tuple[str, int]) -> None:
        query = dns.message.from_wire(data)
        name = query.question[0].name.to_text().lower()
        kind = dns.rdatatype.to_text(query.question[0].rdtype)
        self.asked.append((name, kind))
        if name.startswith("silent."):
            return
        reply = dns.message.make_response(query)
        reply.flags |= dns.flags.RA
        if name.startswith("servfail.") or (name.startswith("half.") and kind == "AAAA"):
            reply.set_rcode(dns.rcode.SERVFAIL)
        elif name.startswith("half."):
            reply.answer.append(dns.rrset.from_text(name, 60, "IN", kind, "192.0.2.3"))
        else:
            owner = ALIASES.get(name, name)
            if owner != name:
                reply.answer.append(dns.rrset.from_text(name, 60, "IN", "CNAME", owner))
            if (owner, kind) in ZONE:
                reply.answer.append(dns.rrset.from_text(owner, 60, "IN", kind, *ZONE[owner, kind]))
            elif not any(known == owner for known, _ in ZONE):
                reply.set_rcode(dns.rcode.NXDOMAIN)
        self.transport.sendto(reply.to_wire(), peer)


@pytest.fixture
async def server() -> AsyncIterator[NameServer]:
    transport, server = await asyncio.get_running_loop().create_datagram_endpoint(
        NameServer, local_addr=("127.0.0.1", 0)
    )
    yield server
    transport.close()


@pytest.fixture
async def resolver(server: NameServer) -> AsyncIterator[Resolver]:
    address, port = server.transport.get_extra_info("sockname")
    resolver = Resolver((f"{address}:{port}",))
    yield resolver
    await resolver.close()


async def test_mail_exchangers(resolver: Resolver) -> None:
    assert sorted(await resolver.mx("Example.COM"), key=str) == [
        Exchanger(10, "a.example.com"),
        Exchanger(20, "b.example.com"),
    ]
    assert await resolver.mx("null.example") == (Exchanger(0, ""),)
    assert await resolver.mx("empty.example") == ()
    assert len(await resolver.mx("mail.alias.example")) == 2


async def test_addresses(resolver: Resolver) -> None:
    assert sorted((await resolver.addresses("a.example.com"))[:2]) == ["192.0.2.1", "192.0.2.2"]
    assert (await resolver.addresses("a.example.com"))[2] == "2001:db8::1"
    assert await resolver.addresses("b.example.com") == ("2001:db8::2",)
    assert len(await resolver.addresses("alias.example")) == 3
    assert await resolver.addresses("empty.example") == ()
    assert await resolver.addresses("b.example.com", of_system=True) == ("2001:db8::2",)
    assert await resolver.addresses("half.example") == ("192.0.2.3",)


async def test_localhost_is_asked_of_nobody(resolver: Resolver, server: NameServer) -> None:
    assert await resolver.addresses("localhost") == ("127.0.0.1", "::1")
    assert not server.asked


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("gone.example", NoSuchName),
        ("servfail.example", LookupFailed),
        ("a..example", NoSuchName),
        ("x" * 64 + ".example", NoSuchName),
        (".".join(["x" * 60] * 5), NoSuchName),
    ],
)
async def test_no_answer(resolver: Resolver, name: str, error: type[DnsError]) -> None:
    for _ in range(2):
        with pytest.raises(error):
            await resolver.mx(name)
        with pytest.raises(error):
            await resolver.addresses(name)


async def test_silence(server: NameServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(net_dns, "_LIFETIME", 0.05)
    address, port = server.transport.get_extra_info("sockname")
    with pytest.raises(LookupFailed, match=r"could not be asked for silent\.example"):
        await Resolver((f"{address}:{port}",)).mx("silent.example")


async def test_names(resolver: Resolver) -> None:
    assert await resolver.name("192.0.2.1") == "a.example.com"
    # The name does not lead back; or there is none.
    assert await resolver.name("192.0.2.9") is None
    assert await resolver.name("192.0.2.77") is None
    assert await resolver.name("2001:db8::1") is None


async def test_each_question_is_asked_once(resolver: Resolver, server: NameServer) -> None:
    answers = await asyncio.gather(*(resolver.mx("example.com") for _ in range(100)))
    assert len(set(answers)) == 1
    await resolver.mx("EXAMPLE.com")
    assert server.asked == [("example.com.", "MX")]


async def test_one_who_leaves_does_not_take_the_answer_along(resolver: Resolver, server: NameServer) -> None:
    first, second = (asyncio.create_task(resolver.mx("example.com")) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    assert len(await second) == 2
    assert first.cancelled() and len(server.asked) == 1


async def test_failures_are_forgotten_soon_and_answers_in_their_time(
    resolver: Resolver, server: NameServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    await resolver.mx("example.com")
    with pytest.raises(LookupFailed):
        await resolver.mx("servfail.example")
    now = time.monotonic()
    asked = len(server.asked)
    monkeypatch.setattr(net_dns.time, "monotonic", lambda: now + 11)
    await resolver.mx("example.com")
    assert len(server.asked) == asked
    with pytest.raises(LookupFailed):
        await resolver.mx("servfail.example")
    assert len(server.asked) > asked
    asked = len(server.asked)
    monkeypatch.setattr(net_dns.time, "monotonic", lambda: now + 61)
    await resolver.mx("example.com")
    assert len(server.asked) == asked + 1


async def test_the_system_knows_names_too() -> None:
    resolver = Resolver()
    assert "127.0.0.1" in await resolver.addresses("localhost", of_system=True)
    with pytest.raises(DnsError, match="cannot be resolved"):
        await resolver.addresses("no such name", of_system=True)


@pytest.mark.quick
@pytest.mark.parametrize("text", ["dns.example.com", "", "192.0.2.1:0", "192.0.2.1:x", "192.0.2.1:65536", "[::1"])
def test_what_is_no_server(text: str) -> None:
    with pytest.raises(ValueError, match="is not the address of a DNS server"):
        Resolver((text, ""))


@pytest.mark.quick
@pytest.mark.parametrize(
    "text", ["192.0.2.1", "192.0.2.1:5353", "2001:db8::1", "[2001:db8::1]", "[2001:db8::1]:53"]
)
def test_what_is_one(text: str) -> None:
    Resolver((text,))
