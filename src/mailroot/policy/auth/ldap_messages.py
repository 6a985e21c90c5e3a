"""The few messages of LDAP (RFC 4511) that a check of a password needs, as octets; no connection, no waiting.

BER as LDAP restricts it (RFC 4511 §5.1): lengths are definite; long lengths may have leading zeros, and Active
Directory sends such ones. What is read has bounds, and errors show nothing of it.
"""

from dataclasses import dataclass, field

_LARGEST_MESSAGE = 64 * 1024
_LONGEST_SEARCH = 60  # seconds, for the directory; who asks gives up earlier

_INTEGER, _OCTETS, _ENUMERATED, _SEQUENCE, _BOOLEAN, _SET = 0x02, 0x04, 0x0A, 0x30, 0x01, 0x31
# RFC 4511 §4.2 to §4.12: protocolOp.
_BIND_REQUEST, _UNBIND_REQUEST, _SEARCH_REQUEST, _EXTENDED_REQUEST = 0x60, 0x42, 0x63, 0x77
BIND_RESPONSE, SEARCH_ENTRY, SEARCH_DONE, SEARCH_REFERENCE, EXTENDED_RESPONSE = 0x61, 0x64, 0x65, 0x73, 0x78

STARTTLS = "1.3.6.1.4.1.1466.20037"
"""RFC 4511 §4.14."""
WHO_AM_I = "1.3.6.1.4.1.4203.1.11.3"
"""RFC 4532."""

NO_ATTRIBUTES = "1.1"
"""RFC 4511 §4.5.1.8."""


class LdapFormatError(ValueError):
    """The octets are not LDAP."""


@dataclass(frozen=True, slots=True)
class Message:
    """What a directory said. `operation` is one of the constants above. A result has `code`, `diagnostic` and, if
    extended, `value`; an entry `name` and `attributes` (names in lower case)."""

    id: int
    operation: int
    code: int = 0
    diagnostic: str = ""
    value: bytes = b""
    name: str = ""
    attributes: dict[str, tuple[bytes, ...]] = field(default_factory=dict)


# Requests


def bind_request(id: int, name: str, password: str) -> bytes:
    """A simple bind (RFC 4511 §4.2). An empty password would be no check at all (RFC 4513 §5.1.2): ValueError."""
    if not name or not password:
        raise ValueError("a bind without a name or a password proves nothing")
    return _message(id, _tlv(_BIND_REQUEST, _integer(3), _octets(name), _octets(password, 0x80)))


def unbind_request(id: int) -> bytes:
    return _message(id, _tlv(_UNBIND_REQUEST))


def extended_request(id: int, name: str) -> bytes:
    """One without a value: STARTTLS, WHO_AM_I."""
    return _message(id, _tlv(_EXTENDED_REQUEST, _octets(name, 0x80)))


def entry_request(id: int, entry: str, filter: bytes, attributes: tuple[str, ...]) -> bytes:
    """A search (RFC 4511 §4.5.1) of one entry: it and these attributes, if `filter` (made by the functions below)
    is true of it. The entry "" is the directory's own."""
    return _message(
        id,
        _tlv(
            _SEARCH_REQUEST,
            _octets(entry),
            _integer(0, _ENUMERATED),  # this entry, nothing below
            _integer(0, _ENUMERATED),  # aliases are not followed
            _integer(1),
            _integer(_LONGEST_SEARCH),
            _tlv(_BOOLEAN, b"\0"),  # values too, not types alone
            filter,
            _tlv(_SEQUENCE, *map(_octets, attributes)),
        ),
    )


def present(attribute: str) -> bytes:
    """(attribute=*)"""
    return _octets(attribute, 0x87)


def equal(attribute: str, value: str) -> bytes:
    """(attribute=value). The value goes as it is: there is no text of a filter that it could break out of."""
    return _tlv(0xA3, _octets(attribute), _octets(value))


def any_of(*filters: bytes) -> bytes:
    """(|…)"""
    return _tlv(0xA1, *filters)


# Answers


def read_message(octets: bytes) -> tuple[Message, int] | None:
    """The first message and how many octets it took; None: more octets are needed. Raises LdapFormatError."""
    if not octets:
        return None
    if octets[0] != _SEQUENCE:
        raise LdapFormatError("not an LDAP message")
    head = _length(octets, 1)
    if head is None:
        return None
    length, start = head
    if length > _LARGEST_MESSAGE:
        raise LdapFormatError(f"an answer longer than {_LARGEST_MESSAGE // 1024} KiB")
    if len(octets) < start + length:
        return None
    return _read(octets[start : start + length]), start + length


def _read(content: bytes) -> Message:
    parts = _parts(content)
    if len(parts) < 2 or parts[0][0] != _INTEGER:
        raise LdapFormatError("not an LDAP message")
    number, (operation, body) = _number(parts[0][1]), parts[1]
    if operation in (BIND_RESPONSE, SEARCH_DONE, EXTENDED_RESPONSE):
        return _result(number, operation, _parts(body))
    if operation == SEARCH_ENTRY:
        return _entry(number, _parts(body))
    return Message(number, operation)


def _result(id: int, operation: int, parts: list[tuple[int, bytes]]) -> Message:
    """RFC 4511 §4.1.9; matchedDN and referrals are of no use here."""
    if [tag for tag, _ in parts[:3]] != [_ENUMERATED, _OCTETS, _OCTETS]:
        raise LdapFormatError("not the result of an operation")
    value = next((octets for tag, octets in parts[3:] if tag == 0x8B), b"")
    return Message(id, operation, _number(parts[0][1]), parts[2][1].decode(errors="replace"), value)


def _entry(id: int, parts: list[tuple[int, bytes]]) -> Message:
    if [tag for tag, _ in parts[:2]] != [_OCTETS, _SEQUENCE]:
        raise LdapFormatError("not an entry")
    attributes: dict[str, tuple[bytes, ...]] = {}
    for tag, pair in _parts(parts[1][1]):
        described = _parts(pair) if tag == _SEQUENCE else []
        if [inner for inner, _ in described] != [_OCTETS, _SET]:
            raise LdapFormatError("not an attribute")
        name = described[0][1].decode(errors="replace").lower()
        attributes[name] = tuple(value for _, value in _parts(described[1][1]))
    return Message(id, SEARCH_ENTRY, name=parts[0][1].decode(errors="replace"), attributes=attributes)


# BER


def _message(id: int, operation: bytes) -> bytes:
    return _tlv(_SEQUENCE, _integer(id), operation)


def _tlv(tag: int, *contents: bytes) -> bytes:
    length = sum(map(len, contents))
    if length < 0x80:
        return bytes((tag, length)) + b"".join(contents)
    size = length.to_bytes((length.bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(size))) + size + b"".join(contents)


def _integer(value: int, tag: int = _INTEGER) -> bytes:
    return _tlv(tag, value.to_bytes(value.bit_length() // 8 + 1, "big"))


def _octets(value: str, tag: int = _OCTETS) -> bytes:
    return _tlv(tag, value.encode())


def _length(octets: bytes, at: int) -> tuple[int, int] | None:
    """The length that stands at `at`, and where it ends; None: not there yet."""
    if at >= len(octets):
        return None
    first = octets[at]
    if first < 0x80:
        return first, at + 1
    count = first & 0x7F
    if not 1 <= count <= 8:
        raise LdapFormatError("a length that LDAP does not have")
    if at + 1 + count > len(octets):
        return None
    return int.from_bytes(octets[at + 1 : at + 1 + count], "big"), at + 1 + count


def _parts(content: bytes) -> list[tuple[int, bytes]]:
    """The elements of a sequence or set: tag and content of each."""
    parts: list[tuple[int, bytes]] = []
    at = 0
    while at < len(content):
        head = _length(content, at + 1)
        if head is None or head[1] + head[0] > len(content):
            raise LdapFormatError("an element is longer than what it is in")
        length, start = head
        parts.append((content[at], content[start : start + length]))
        at = start + length
    return parts


def _number(content: bytes) -> int:
    if not 1 <= len(content) <= 4:
        raise LdapFormatError("a number that LDAP does not have")
    return int.from_bytes(content, "big", signed=True)
