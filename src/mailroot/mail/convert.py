"""From eight bits to seven, without loss, for a next hop that takes no more (RFC 6152 §3, RFC 2045 §6).

The structure of the message is walked on its octets. Parts with content that a 7-bit host cannot take are encoded:
text as quoted-printable (base64 if that is shorter), anything else as base64. Every other octet stays, but for the
Content-Transfer-Encoding of the parts that change and of the containers around them.

What cannot be done without loss is not done: octets above 127 in a header, before the first or after the last part
of a multipart, in a signed or encrypted multipart (RFC 1847 §2.1), in a message type that may not be encoded (RFC
2046 §5.2), or in content that is already encoded. An attached message is a message again and converted within.

A DKIM signature over the body does not survive the conversion. We convert nevertheless: the alternative is that
the mail does not arrive, and a signature that fails counts as none (RFC 6376 §6.1); the signer was told to sign
only what needs no conversion (§5.3).

The whole message is held in memory, about three times: it is for the caller to bound the size.
"""

import re
from binascii import b2a_base64

from mailroot.mail.header import field_values, split

LINE_LENGTH = 998
"""Octets a line may have without its CRLF (RFC 5322 §2.1.1)."""

_DEEPEST = 40
"""Parts within parts; deeper nesting is an attack and not a letter."""

_SHORT_LINES = re.compile(rb"(?:[^\r\n\0]{0,998}+\r\n)*+[^\r\n\0]{0,998}+\Z")


def needs_conversion(octets: bytes) -> bool:
    """Whether these octets are anything but "7bit" data (RFC 2045 §2.7): an octet above 127, a NUL, a line of more
    than 998 octets, or a CR or LF that stands alone."""
    return not octets.isascii() or _SHORT_LINES.match(octets) is None


def to_seven_bit(octets: bytes) -> bytes | None:
    """The message as 7-bit data, meaning the same; None if that cannot be done without loss.

    A message that needs no conversion comes back as it is.
    """
    return octets if not needs_conversion(octets) else _message(octets, 0)


def _message(octets: bytes, depth: int) -> bytes | None:
    """A message: an entity whose header must say MIME-Version for its other MIME fields to hold (RFC 2045 §4)."""
    header, empty_line, body = split(octets)
    if field_values(header, b"mime-version"):
        return _entity(octets, b"text/plain", depth)
    added = b"MIME-Version: 1.0\r\n"
    if not field_values(header, b"content-type"):
        # RFC 1428 §3: mail that was "just sent" with eight bits; its character set is unknown, unless it shows.
        added += b"Content-Type: text/plain; charset=" + (b"utf-8" if _is_utf8(body) else b"unknown-8bit") + b"\r\n"
    return _entity(header + added + empty_line + body, b"text/plain", depth) if empty_line else None


def _entity(octets: bytes, default_type: bytes, depth: int) -> bytes | None:
    """A message or a part of one that is not 7-bit data: converted, or None."""
    header, empty_line, body = split(octets)
    types = field_values(header, b"content-type")
    encodings = field_values(header, b"content-transfer-encoding")
    if depth > _DEEPEST or needs_conversion(header) or not empty_line or len(types) > 1 or len(encodings) > 1:
        return None
    encoding = _without_comments(encodings[0]).lower() if encodings else b"7bit"
    kind, parameters = _content_type(types[0]) if types else (default_type, {})
    if not needs_conversion(body):
        return (_with_encoding(header, b"7bit") if encoding in {b"8bit", b"binary"} else header) + empty_line + body
    if encoding not in {b"7bit", b"8bit", b"binary"}:
        return None
    converted: bytes | None
    match kind.partition(b"/")[0], kind:
        case _, b"multipart/signed" | b"multipart/encrypted":
            return None
        case b"multipart", _:
            part_type = b"message/rfc822" if kind == b"multipart/digest" else b"text/plain"
            encoding, converted = b"7bit", _multipart(body, parameters.get(b"boundary", b""), part_type, depth + 1)
        case _, b"message/rfc822":
            encoding, converted = b"7bit", _message(body, depth + 1)
        case b"message", _ if not kind.startswith(b"message/global"):  # RFC 6532 §3.7: these may be encoded
            return None
        case b"text", _ if not _is_shorter_in_base64(body):
            encoding, converted = b"quoted-printable", quoted_printable(body)
        case _:
            encoding, converted = b"base64", base64_lines(body)
    if converted is None:
        return None
    relabelled = header if encoding == b"7bit" and not encodings else _with_encoding(header, encoding)
    return relabelled + empty_line + converted


def _multipart(body: bytes, boundary: bytes, part_type: bytes, depth: int) -> bytes | None:
    if not boundary:
        return None
    # RFC 2046 §5.1.1: the CRLF before a delimiter belongs to it. A delimiter of an outer multipart was already
    # found by the caller and cannot be in here.
    delimiter = re.compile(rb"(?:\A|\r\n)--" + re.escape(boundary) + rb"(--)?[ \t]*(?=\r\n|\Z)")
    done: list[bytes] = []
    at, in_parts = 0, False
    for found in delimiter.finditer(body):
        part = (
            _part(body[at : found.start()], part_type, depth) if in_parts else _untouched(body[at : found.start()])
        )
        if part is None:
            return None
        done += (part, found.group())
        at, in_parts = found.end(), True
        if found[1]:
            in_parts = False
            break
    rest = _part(body[at:], part_type, depth) if in_parts else _untouched(body[at:])
    return None if rest is None else b"".join((*done, rest))


def _part(octets: bytes, default_type: bytes, depth: int) -> bytes | None:
    """What stands between two delimiters: the CRLF that ends the first one's line, and an entity."""
    if not octets.startswith(b"\r\n"):
        return _untouched(octets)
    entity = _entity(octets[2:], default_type, depth) if needs_conversion(octets) else _relabelled(octets[2:])
    return None if entity is None else b"\r\n" + entity


def _relabelled(octets: bytes) -> bytes:
    """A part that is 7-bit data, and says so if it said otherwise."""
    header, empty_line, body = split(octets)
    encodings = field_values(header, b"content-transfer-encoding")
    if len(encodings) == 1 and _without_comments(encodings[0]).lower() in {b"8bit", b"binary"}:
        return _with_encoding(header, b"7bit") + empty_line + body
    return octets


def _untouched(octets: bytes) -> bytes | None:
    return None if needs_conversion(octets) else octets


# Fields

_ENCODING_FIELD = re.compile(
    rb"^(content-transfer-encoding)[ \t]*:[^\n]*\n(?:[ \t][^\n]*\n)*", re.IGNORECASE | re.MULTILINE
)
_TYPE = re.compile(rb"[ \t]*([!#-'*+.0-9A-Z^-~-]+)[ \t]*/[ \t]*([!#-'*+.0-9A-Z^-~-]+)", re.IGNORECASE)
_PARAMETER = re.compile(rb'[ \t]*;[ \t]*(?:([^\s=;"]+)[ \t]*=[ \t]*("(?:[^"\\]|\\.)*+"|[^\s;"]*))?')
_COMMENT = re.compile(rb'("(?:[^"\\]|\\.)*+")|\((?:[^()\\]|\\.)*+\)')


def _with_encoding(header: bytes, encoding: bytes) -> bytes:
    """The header with its one Content-Transfer-Encoding replaced, or added at its end."""
    if _ENCODING_FIELD.search(header):
        return _ENCODING_FIELD.sub(rb"\1: " + encoding + b"\r\n", header)
    return header + b"Content-Transfer-Encoding: " + encoding + b"\r\n"


def _without_comments(value: bytes) -> bytes:
    """Comments (RFC 5322 §3.2.2) removed, inner ones first; quoted strings stay."""
    for _ in range(4):
        value, comments = _COMMENT.subn(lambda found: found[1] or b" ", value)
        if not comments:
            break
    return value.strip()


def _content_type(value: bytes) -> tuple[bytes, dict[bytes, bytes]]:
    """Type in lower case and parameters (names in lower case); what cannot be read is unknown binary data."""
    value = _without_comments(value)
    found = _TYPE.match(value)
    if not found:
        return b"application/octet-stream", {}
    parameters: dict[bytes, bytes] = {}
    at = found.end()
    while parameter := _PARAMETER.match(value, at):
        at = parameter.end()
        if parameter[1]:
            text = parameter[2]
            if text.startswith(b'"'):
                text = re.sub(rb"\\(.)", rb"\1", text[1:-1])
            parameters.setdefault(parameter[1].lower(), text.rstrip())
    return (found[1] + b"/" + found[2]).lower(), parameters


# Encodings

_CODED_LINE = 74
"""Octets of an encoded line before its "="; RFC 2045 §6.7 (5) allows 76 with it."""

# RFC 2045 §6.7 (2): everything printable but "=" may stand for itself, and (3) white space within a line.
_PLAIN = bytes((*range(32, 61), *range(62, 127), 9))
_QUOTED = [bytes((octet,)) if octet in _PLAIN else b"=%02X" % octet for octet in range(256)]


def quoted_printable(octets: bytes) -> bytes:
    """Octets as quoted-printable text; each CRLF stays one, a CR or LF that stands alone is encoded."""
    return b"\r\n".join(map(_quoted_line, octets.split(b"\r\n")))


def _quoted_line(line: bytes) -> bytes:
    if line.translate(None, _PLAIN):
        line = b"".join([_QUOTED[octet] for octet in line])
    if line.endswith((b" ", b"\t")):
        line = line[:-1] + _QUOTED_SPACE[line[-1]]
    if len(line) <= _CODED_LINE:
        return line
    pieces: list[bytes] = []
    at = 0
    while at < len(line):
        cut = min(at + _CODED_LINE - 2, len(line))
        if cut < len(line):
            # An encoded octet is not cut in two.
            cut -= 1 if line[cut - 1] == 0x3D else 2 if line[cut - 2] == 0x3D else 0
        piece = line[at:cut]
        # What was in the middle of a line now starts one: there it must not look like a delimiter.
        pieces.append(b"=2D" + piece[1:] if at and piece.startswith(b"-") else piece)
        at = cut
    return b"=\r\n".join(pieces)


_QUOTED_SPACE = {0x20: b"=20", 0x09: b"=09"}


def base64_lines(octets: bytes) -> bytes:
    """Octets as base64 in lines of 76, each ended with CRLF."""
    return b"".join([b2a_base64(octets[at : at + 57])[:-1] + b"\r\n" for at in range(0, len(octets), 57)])


def _is_shorter_in_base64(octets: bytes) -> bool:
    # Three octets for each one that is not plain, against four for three.
    return len(octets.translate(None, _PLAIN + b"\r\n")) * 6 > len(octets)


def _is_utf8(octets: bytes) -> bool:
    try:
        octets.decode()
    except UnicodeDecodeError:
        return False
    return True
