"""The PROXY protocol, versions 1 and 2 (haproxy's proxy-protocol.txt): who a proxy says its client is.

Pure: octets in, a header out, or how many more octets are surely part of it, so that whoever reads never takes one
that belongs to the client. Whose header is believed is the caller's business.
"""

from dataclasses import dataclass
from functools import cache
from ipaddress import IPv4Address, IPv6Address

MOST_OCTETS = 4096
"""A longer header is refused."""

NOBODY = IPv4Address("0.0.0.0")
"""Whom nobody knows. The proxy's own address would give a stranger its rights; one on this computer may relay."""

_V1 = b"PROXY "
_V1_SHORTEST = len(b"PROXY UNKNOWN\r\n")
_V1_LONGEST = 107
_V2 = b"\r\n\r\n\x00\r\nQUIT\n"
_V2_FIXED = 16
_CRC32C = 0x03


class ProxyError(Exception):
    """What came is no PROXY header, or one that cannot be right; the text is for the log."""


@dataclass(frozen=True, slots=True)
class Introduced:
    """For whom a proxy speaks: the `client`'s address (an IPv4-mapped IPv6 address already unmapped) and port, and
    the `proxy`'s own address as text."""

    client: IPv4Address | IPv6Address
    port: int
    proxy: str


@dataclass(frozen=True, slots=True)
class Header:
    """A whole header of `size` octets. `client` is None where the proxy speaks for itself (LOCAL), and NOBODY where
    it speaks for somebody and does not say for whom."""

    size: int
    client: IPv4Address | IPv6Address | None
    port: int


@dataclass(frozen=True, slots=True)
class More:
    """The header is not whole: at least so many more octets belong to it."""

    octets: int


def read_header(octets: bytes) -> Header | More:
    """The header that `octets` begin with. Raises ProxyError as soon as it cannot become one."""
    if octets.startswith(_V1[: len(octets)]):
        return _read_v1(octets)
    if octets.startswith(_V2[: len(octets)]):
        return _read_v2(octets)
    raise ProxyError("the connection does not begin with a PROXY header")


# Version 1: a line of text


def _read_v1(octets: bytes) -> Header | More:
    end = octets.find(b"\n", 0, _V1_LONGEST)
    if end < 0:
        if len(octets) >= _V1_LONGEST:
            raise ProxyError(f"the PROXY line is longer than {_V1_LONGEST} octets")
        if len(octets) < _V1_SHORTEST:
            return More(_V1_SHORTEST - len(octets))
        return More(1 if octets.endswith(b"\r") else 2)
    line = octets[: end - 1]
    if octets[end - 1 : end] != b"\r" or b"\r" in line:
        raise ProxyError("the PROXY line does not end with CR LF")
    words = line.split(b" ")
    if words[1] == b"UNKNOWN":
        # Whatever follows has to be ignored.
        return Header(end + 1, NOBODY, 0)
    if len(words) != 6 or words[1] not in (b"TCP4", b"TCP6"):
        raise ProxyError("the PROXY line is not of the form 'PROXY TCP4 CLIENT SERVER PORT PORT'")
    client, _ = (_address(word, 4 if words[1] == b"TCP4" else 6) for word in words[2:4])
    port, _ = (_port(word) for word in words[4:])
    return Header(end + 1, _unmapped(client), port)


def _address(word: bytes, version: int) -> IPv4Address | IPv6Address:
    try:
        text = word.decode("ascii")
        if "%" in text:
            raise ValueError(text)
        return IPv4Address(text) if version == 4 else IPv6Address(text)
    except ValueError:
        raise ProxyError(f"the PROXY line has something else than an IPv{version} address in it") from None


def _port(word: bytes) -> int:
    if word.isdigit() and len(word) <= 5 and (word == b"0" or word[:1] != b"0") and int(word) <= 65535:
        return int(word)
    raise ProxyError("the PROXY line has something else than a port in it")


def _unmapped(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    return (address.ipv4_mapped or address) if isinstance(address, IPv6Address) else address


# Version 2: binary

_FAMILIES = {0x00: 0, 0x11: 12, 0x21: 36, 0x31: 216}
"""Octets of the addresses, by family and protocol: unspecified, TCP over IPv4, over IPv6, and a UNIX stream."""


def _read_v2(octets: bytes) -> Header | More:
    if len(octets) < _V2_FIXED:
        # No shorter than version 1, which it may still be when there is nothing yet.
        return More((_V2_FIXED if octets else _V1_SHORTEST) - len(octets))
    version, command = divmod(octets[12], 16)
    if version != 2 or command > 1:
        raise ProxyError(f"the PROXY header is of version {version}, command {command}, which nobody knows")
    size = _V2_FIXED + int.from_bytes(octets[14:16], "big")
    if size > MOST_OCTETS:
        raise ProxyError(f"the PROXY header says it is longer than {MOST_OCTETS} octets")
    if len(octets) < size:
        return More(size - len(octets))
    if command == 0:
        # LOCAL: the proxy itself, to see whether we are there; what else is in it has to be ignored.
        return Header(size, None, 0)
    length = _FAMILIES.get(octets[13])
    if length is None:
        raise ProxyError(f"the PROXY header is for another kind of connection than TCP (0x{octets[13]:02x})")
    if _V2_FIXED + length > size:
        raise ProxyError("the PROXY header is too short for its addresses")
    _check_fields(octets[:size], _V2_FIXED + length)
    match octets[13]:
        case 0x11:
            return Header(size, IPv4Address(octets[16:20]), int.from_bytes(octets[24:26], "big"))
        case 0x21:
            return Header(size, _unmapped(IPv6Address(octets[16:32])), int.from_bytes(octets[48:50], "big"))
        case _:
            return Header(size, NOBODY, 0)


def _check_fields(header: bytes, at: int) -> None:
    """What stands behind the addresses: type, length and value; of these we look at the checksum alone."""
    while at < len(header):
        start = at + 3
        end = start + int.from_bytes(header[at + 1 : start], "big")
        if start > len(header) or end > len(header):
            raise ProxyError("a field of the PROXY header is longer than the header")
        if header[at] == _CRC32C:
            if end - start != 4:
                raise ProxyError("the checksum of the PROXY header does not have 4 octets")
            # Computed with the checksum itself taken as zero.
            found = crc32c(header[:start] + bytes(4) + header[end:])
            if found != int.from_bytes(header[start:end], "big"):
                raise ProxyError("the checksum of the PROXY header is wrong")
        at = end


def crc32c(octets: bytes) -> int:
    """The checksum of RFC 9260, appendix A."""
    table = _crc_table()
    crc = 0xFFFFFFFF
    for octet in octets:
        crc = table[(crc ^ octet) & 0xFF] ^ (crc >> 8)
    return crc ^ 0xFFFFFFFF


@cache
def _crc_table() -> tuple[int, ...]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = (value >> 1) ^ 0x82F63B78 if value & 1 else value >> 1
        table.append(value)
    return tuple(table)
