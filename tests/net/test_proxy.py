"""PROXY headers: those of the specification, those that are wrong, and how much is read of the connection."""

from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mailroot.net.proxy import MOST_OCTETS, NOBODY, Header, More, ProxyError, crc32c, read_header

pytestmark = pytest.mark.quick

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
TCP4 = bytes([192, 0, 2, 1, 198, 51, 100, 1]) + (50123).to_bytes(2, "big") + (25).to_bytes(2, "big")
TCP6 = IPv6Address("2001:db8::1").packed + IPv6Address("2001:db8::2").packed + b"\xc3\xcb\x00\x19"


def version2(body: bytes, *, command: int = 0x21, family: int = 0x11, length: int | None = None) -> bytes:
    said = len(body) if length is None else length
    return SIGNATURE + bytes([command, family]) + said.to_bytes(2, "big") + body


def field(kind: int, value: bytes) -> bytes:
    return bytes([kind]) + len(value).to_bytes(2, "big") + value


def with_checksum(body: bytes) -> bytes:
    whole = version2(body + field(3, bytes(4)))
    return whole[:-4] + crc32c(whole).to_bytes(4, "big")


WHOLE = [
    (b"PROXY TCP4 192.0.2.1 198.51.100.1 50123 25\r\n", "192.0.2.1", 50123),
    (b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n", "255.255.255.255", 65535),
    (b"PROXY TCP6 2001:db8::1 2001:db8::2 50123 0\r\n", "2001:db8::1", 50123),
    (b"PROXY TCP6 ::ffff:192.0.2.1 ::1 50123 25\r\n", "192.0.2.1", 50123),
    (b"PROXY UNKNOWN\r\n", NOBODY, 0),
    (b"PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n", NOBODY, 0),
    (version2(TCP4), "192.0.2.1", 50123),
    (version2(TCP6, family=0x21), "2001:db8::1", 50123),
    (version2(IPv6Address("::ffff:192.0.2.1").packed + TCP6[16:], family=0x21), "192.0.2.1", 50123),
    (version2(TCP4 + field(4, b"") + field(1, b"h2") + field(0x20, bytes(300))), "192.0.2.1", 50123),
    (with_checksum(TCP4 + field(2, b"relay.example.com")), "192.0.2.1", 50123),
    # LOCAL: whatever else is in it has to be skipped.
    (version2(b"", command=0x20, family=0), None, 0),
    (version2(b"\xff" * 7, command=0x20, family=0x99), None, 0),
    # A connection of the proxy's that is not over TCP, or that it says nothing of.
    (version2(b"", family=0), NOBODY, 0),
    (version2(bytes(216), family=0x31), NOBODY, 0),
    (version2(TCP4 + field(4, bytes(MOST_OCTETS - 16 - 12 - 3))), "192.0.2.1", 50123),
]


@pytest.mark.parametrize(("octets", "client", "port"), WHOLE)
def test_whole_headers(octets: bytes, client: str | None, port: int) -> None:
    expected = Header(len(octets), ip_address(client) if client else None, port)
    assert read_header(octets) == expected
    assert read_header(octets + b"EHLO x\r\n") == expected


@pytest.mark.parametrize(("octets", "client", "port"), WHOLE)
def test_no_octet_too_many_is_asked_for(octets: bytes, client: str | None, port: int) -> None:
    """Whoever reads as much as it is told has the header in the end, and nothing of what follows."""
    for step in (1, 7, MOST_OCTETS):
        have = 0
        while isinstance(answer := read_header(octets[:have]), More):
            assert 0 < answer.octets <= len(octets) - have
            have += min(step, answer.octets)
        assert have == answer.size == len(octets)


@pytest.mark.parametrize(
    "octets",
    [
        b"EHLO x\r\n",
        b"\x16\x03\x01\x02\x00",
        b"proxy TCP4 192.0.2.1 198.51.100.1 50123 25\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.1 50123 25\n",
        b"PROXY TCP4 192.0.2.1\r198.51.100.1 50123 25\r\n",
        b"PROXY TCP4  192.0.2.1 198.51.100.1 50123 25\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.1 50123 25 \r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.1 50123\r\n",
        b"PROXY TCP4 2001:db8::1 2001:db8::2 50123 25\r\n",
        b"PROXY TCP6 192.0.2.1 198.51.100.1 50123 25\r\n",
        b"PROXY TCP6 fe80::1%eth0 ::1 50123 25\r\n",
        b"PROXY TCP4 192.0.2.01 198.51.100.1 50123 25\r\n",
        b"PROXY TCP4 192.0.2.1 nobody 50123 25\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.1 65536 25\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.1 050 25\r\n",
        b"PROXY TCP4 192.0.2.1 198.51.100.1 50123 -25\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.1 ５ 25\r\n".encode(),
        b"PROXY UDP4 192.0.2.1 198.51.100.1 50123 25\r\n",
        b"PROXY UNKNOWN " + b"x" * 100 + b"\r\n",
        b"PROXY " + b"x" * 200,
        b"PROXY \r\n       \r\n",
        version2(TCP4, command=0x11),
        version2(TCP4, command=0x22),
        version2(TCP4, family=0x12),
        version2(TCP4, family=0x41),
        version2(TCP4[:11]),
        version2(TCP4, family=0x21),
        version2(bytes(MOST_OCTETS)),
        version2(b"", command=0x20, length=65535),
        version2(TCP4 + b"\x04"),
        version2(TCP4 + b"\x04\x00"),
        version2(TCP4 + b"\x04\x00\x02x"),
        version2(TCP4 + field(3, bytes(4))),
        version2(TCP4 + field(3, b"")),
        with_checksum(TCP4)[:-1] + b"!",
    ],
)
def test_wrong_ones(octets: bytes) -> None:
    with pytest.raises(ProxyError):
        read_header(octets)


def test_the_checksum_is_the_known_one() -> None:
    # RFC 3720, appendix B.4.
    assert crc32c(bytes(32)) == 0x8A9136AA
    assert crc32c(b"123456789") == 0xE3069283


@given(
    st.binary(max_size=300), st.sampled_from([b"", b"PROXY ", b"PROXY TCP4 ", SIGNATURE, SIGNATURE + b"\x21\x11"])
)
@example(b"", SIGNATURE + b"\x21\x11\x00\x00")
def test_whatever_comes_there_is_an_answer(octets: bytes, begin: bytes) -> None:
    try:
        answer = read_header(begin + octets)
    except ProxyError:
        return
    match answer:
        case Header(size, client, port):
            assert size <= len(begin + octets) <= MOST_OCTETS
            assert client is None or isinstance(client, IPv4Address | IPv6Address)
            assert 0 <= port <= 65535
        case More(least):
            assert 0 < least <= MOST_OCTETS


@given(st.sampled_from([whole for whole, _, _ in WHOLE]), st.integers(0, 400), st.binary(min_size=1, max_size=3))
def test_mutated_headers_end(octets: bytes, at: int, other: bytes) -> None:
    at %= len(octets)
    mutated = octets[:at] + other + octets[at + len(other) :]
    try:
        answer = read_header(mutated)
    except ProxyError:
        return
    assert isinstance(answer, More) or answer.size <= len(mutated)
