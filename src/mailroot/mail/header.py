"""The header of a message, as far as a relay needs to know it (RFC 5322 §2.2, RFC 2047).

`scan` stands on the path of every message: it finds the end of the header and the few fields we look at, without
making an object per field. Nothing here changes a message, and no octets whatever make it raise. Lines end with
CRLF and nothing else: a bare CR or LF is part of a line, as it is for the host that gets the message next.
"""

import re
from binascii import a2b_base64, a2b_qp
from dataclasses import dataclass

SUBJECT_LENGTH = 200
"""Characters of a subject that are kept for people."""

MESSAGE_ID_LENGTH = 250
"""Characters of a message identifier that are kept; with the rest of a reply they fit its line."""

# RFC 5322 §2.2: field-name is printable ASCII without the colon; §4.5 allows white space before the colon. The
# quantifiers are possessive, so there is no backtracking and the time is linear, whatever comes.
_LINE_REST = rb"[^\r]*+(?:\r(?!\n)[^\r]*+)*+\r\n"
_FIELD = rb"[!-9;-~]++[ \t]*+:" + _LINE_REST + rb"(?:[ \t]" + _LINE_REST + rb")*+"
_HEADER = re.compile(rb"(?:" + _FIELD + rb")*+")
_ONE_FIELD = re.compile(rb"([!-9;-~]++)[ \t]*+:(" + _LINE_REST + rb"(?:[ \t]" + _LINE_REST + rb")*+)")
_COLON = re.compile(rb"[ \t]*+:")
_VALUE = re.compile(_LINE_REST + rb"(?:[ \t]" + _LINE_REST + rb")*+")

_BRACKETED_ID = re.compile(r"<[^<>\s]+>")


@dataclass(frozen=True, slots=True)
class Head:
    """What a header says that concerns us.

    `end` is where the body starts. `separated` says whether an empty line stands before it; if not, a line that
    is no field ended the header (at 0: there is none, and whoever puts fields in front must add the empty line).
    `hops` counts Received fields (RFC 5321 §6.3). `message_id` has its brackets, if it ever had any, is ASCII
    without controls and at most `MESSAGE_ID_LENGTH` long; None: there is no such field, or it is empty.
    `subject` is decoded for people: one line, at most `SUBJECT_LENGTH` characters, nothing unprintable.
    """

    end: int
    separated: bool
    hops: int
    has_date: bool
    message_id: str | None
    subject: str


def scan(octets: bytes, *, complete: bool = False) -> Head | None:
    """Look at the header of a message whose first octets these are.

    None: the end of the header is not among them; come again with more. With `complete` there is no more (or
    no more will be waited for), and the answer is never None. More octets than needed do not change it.
    """
    matched = _HEADER.match(octets)
    end = matched.end() if matched else 0
    if octets.startswith(b"\r\n", end):
        return _head(octets[:end], end + 2, separated=True)
    if octets.find(b"\r\n", end) >= 0:
        return _head(octets[:end], end, separated=False)
    if not complete:
        return None
    # The last line has no CRLF, or nothing follows it: read it as if it had, and nothing more.
    head = scan(octets + b"\r\n\r\n")
    if head is None or head.end <= len(octets):
        return head
    return Head(len(octets), False, head.hops, head.has_date, head.message_id, head.subject)


def _head(header: bytes, end: int, separated: bool) -> Head:
    # One pass per name with bytes.find costs far less than a regular expression that tries every line.
    lower = b"\r\n" + header.lower()
    hops = 0
    at = lower.find(b"\r\nreceived")
    while at >= 0:
        hops += _COLON.match(lower, at + 10) is not None
        at = lower.find(b"\r\nreceived", at + 10)
    raw_id = _value(header, _find(lower, b"\r\nmessage-id"))
    raw_subject = _value(header, _find(lower, b"\r\nsubject"))
    return Head(
        end=end,
        separated=separated,
        hops=hops,
        has_date=_find(lower, b"\r\ndate") > 0,
        message_id=_message_id(raw_id) if raw_id else None,
        subject=decode_words(raw_subject, SUBJECT_LENGTH) if raw_subject else "",
    )


def _find(lower: bytes, name: bytes) -> int:
    """Where in the header the value of the first field of that name starts, or -1; `lower` is two octets ahead."""
    at = lower.find(name)
    while at >= 0:
        if colon := _COLON.match(lower, at + len(name)):
            return colon.end() - 2
        at = lower.find(name, at + len(name))
    return -1


def _value(header: bytes, start: int) -> bytes:
    value = _VALUE.match(header, start) if start > 0 else None
    return _unfold(value.group()) if value else b""


def split(octets: bytes) -> tuple[bytes, bytes, bytes]:
    """A whole message, or a part of one, as header, empty line and body; together they are `octets` again.

    The empty line is b"" where a line that is no field, or the end, stands instead (see `Head.separated`).
    """
    head = scan(octets, complete=True)
    end = head.end if head else 0
    if head is None or not head.separated:
        return octets[:end], b"", octets[end:]
    return octets[: end - 2], b"\r\n", octets[end:]


def field_values(octets: bytes, name: bytes) -> list[bytes]:
    """The values of all fields of that name, in order, unfolded and without white space around them.

    `octets` is a header, or a message that starts with one; what follows the header is not looked at.
    """
    return [value for found, value in fields(octets) if found.lower() == name.lower()]


def fields(octets: bytes) -> list[tuple[bytes, bytes]]:
    """Every field of a header as name and unfolded value, in order."""
    header = _HEADER.match(octets)
    end = header.end() if header else 0
    found = [(m[1], _unfold(m[2])) for m in _ONE_FIELD.finditer(octets, 0, end)]
    # A header without the CRLF of its last line: what stands there still counts.
    rest = octets[end:]
    if rest and b"\r\n" not in rest and (last := _ONE_FIELD.match(rest + b"\r\n")):
        found.append((last[1], _unfold(last[2])))
    return found


def _unfold(value: bytes) -> bytes:
    """RFC 5322 §2.2.3: a CRLF before white space goes, the white space stays."""
    return value.replace(b"\r\n", b"").strip(b" \t\r\n")


def _message_id(value: bytes) -> str | None:
    text = value.decode("ascii", "replace").replace("\ufffd", "?")
    if bracketed := _BRACKETED_ID.search(text):
        text = bracketed.group()
    return printable(text).strip()[:MESSAGE_ID_LENGTH] or None


# Encoded words (RFC 2047)

# What an encoded word may name. A fixed list, because Python's own look-up of a name that a stranger chose imports
# modules, remembers every miss, and knows codecs that are no character sets.
_CHARSETS = (
    {name: name for name in ("utf-8", "utf-7", "us-ascii", "koi8-r", "koi8-u", "big5", "gbk", "gb18030")}
    | {name: name for name in ("iso-2022-jp", "iso-2022-kr", "euc-jp", "euc-kr", "shift_jis", "tis-620")}
    | {f"iso-8859-{n}": f"iso-8859-{n}" for n in range(1, 17) if n != 12}
    | {f"windows-{n}": f"cp{n}" for n in range(1250, 1259)}
    | {"utf8": "utf-8", "ascii": "us-ascii", "gb2312": "gbk", "ks_c_5601-1987": "cp949", "windows-874": "cp874"}
    | {"windows-31j": "cp932", "ibm437": "cp437", "cp437": "cp437", "ibm850": "cp850", "cp850": "cp850"}
)

_ENCODED_WORD = re.compile(rb"=\?([!-)+->@-~]++)(?:\*[!->@-~]*+)?\?([bBqQ])\?([!->@-~ ]*+)\?=")


def decode_words(value: bytes, limit: int) -> str:
    """A header field's unstructured value as one printable line of at most `limit` characters.

    Encoded words are decoded; one that is broken, or of an unknown character set, is shown as it is. Raw octets
    above 127 are UTF-8 (RFC 6532), or else taken for windows-1252, which is what old Windows programs send.
    """
    # One character never needs more than a dozen octets, so a longer value than this cannot show anyway.
    value = value[: limit * 16]
    if b"=?" not in value:
        return printable(decode(value)).strip()[:limit]
    text: list[str] = []
    done = 0
    # A multi-octet character may be cut between two words (RFC 2047 §5 forbids it, programs do it): octets of
    # neighbours in the same character set are collected and decoded together.
    charset, collected, verbatim = "", b"", b""

    def flush() -> None:
        nonlocal collected
        if collected:
            try:
                text.append(collected.decode(charset))
            except UnicodeError:
                text.append(decode(verbatim))
        collected = b""

    for word in _ENCODED_WORD.finditer(value):
        between = value[done : word.start()]
        known = _CHARSETS.get(word[1].decode("ascii").lower())
        decoded = _word_octets(word[2], word[3]) if known else None
        neighbours = bool(collected) and not between.strip(b" \t")
        if not (neighbours and known == charset and decoded is not None):
            flush()
            # RFC 2047 §6.2: white space between two encoded words is not shown.
            text.append("" if neighbours and decoded is not None else decode(between))
            verbatim = b""
        else:
            verbatim += between
        if known and decoded is not None:
            charset, collected, verbatim = known, collected + decoded, verbatim + word.group()
        else:
            text.append(decode(word.group()))
        done = word.end()
    flush()
    text.append(decode(value[done:]))
    return printable("".join(text)).strip()[:limit]


def _word_octets(encoding: bytes, content: bytes) -> bytes | None:
    """The octets of an encoded word; None if it is broken."""
    if encoding in b"qQ":
        return a2b_qp(content, header=True)
    try:
        # Missing padding is common and does no harm; other characters than base 64's do.
        return a2b_base64(content + b"=" * (-len(content) % 4), strict_mode=True)
    except ValueError:
        return None


def decode(octets: bytes) -> str:
    """Raw octets of a header as text: UTF-8, or else windows-1252."""
    try:
        return octets.decode("utf-8")
    except UnicodeDecodeError:
        return octets.decode("cp1252", "replace")


def printable(text: str) -> str:
    """The text on one line: whatever is not printable (controls, line ends, half surrogates, marks that turn the
    direction of writing) becomes a space, so that it can stand in a log, a table, a reply or a header field."""
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() else " " for character in text)
