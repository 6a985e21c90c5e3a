"""The fields that say who a message is from (RFC 5322 §3.6.2, §3.6.6), cut out of a header and written anew.

A header is cut into its fields, which together are its octets again: what is not replaced stays as it came. Whether
an author is the right one is not judged here.
"""

import re
from binascii import b2a_base64
from collections.abc import Sequence
from dataclasses import dataclass

from mailroot.mail.header import printable

_LINE_LENGTH = 998
"""Octets a line may have without its CRLF (RFC 5322 §2.1.1)."""

_USUAL_LENGTH = 76
"""What it should not be longer than, and with encoded words must not be (RFC 2047 §2)."""

_WORD_OCTETS = 42
"""Of text in an encoded word: then the first one fits into the line of its field's name."""

_FIELD = re.compile(
    rb"([!-9;-~]++)[ \t]*+:((?:[^\r]*+(?:\r(?!\n)[^\r]*+)*+\r\n)(?:[ \t][^\r]*+(?:\r(?!\n)[^\r]*+)*+\r\n)*+)"
)


@dataclass(frozen=True, slots=True)
class Field:
    """A field as it stands: its name in lower case, its octets with the last CRLF, and where its value begins."""

    name: bytes
    octets: bytes
    start: int

    @property
    def raw_value(self) -> bytes:
        """Folded as it came, with the CRLF."""
        return self.octets[self.start :]

    @property
    def value(self) -> bytes:
        """Unfolded (RFC 5322 §2.2.3), without white space around it."""
        return self.raw_value.replace(b"\r\n", b"").strip(b" \t")


def cut(header: bytes) -> list[Field]:
    """The fields of a header, whose last line ends with CRLF and which ends with its last field."""
    return [Field(m[1].lower(), m.group(), m.start(2) - m.start()) for m in _FIELD.finditer(header)]


def named_field(name: bytes, display_name: str, address: str) -> bytes:
    """`From: "display name" <address>`, folded; the name in whatever characters, the address in ASCII."""
    phrase = _phrase(display_name) if display_name else b""
    bracketed = b"<" + address.encode("ascii") + b">"
    line = name + b": " + phrase
    if not phrase:
        return line + bracketed + b"\r\n"
    last = len(line) - line.rfind(b"\n") - 1
    return line + (b" " if last + 1 + len(bracketed) <= _USUAL_LENGTH else b"\r\n ") + bracketed + b"\r\n"


def copied_field(name: bytes, sources: Sequence[Field]) -> bytes:
    """A field with the values of others, address lists all of them, one after the other as they came."""
    octets = name + b":" + b",".join(field.raw_value.removesuffix(b"\r\n") for field in sources) + b"\r\n"
    if octets.find(b"\r\n") > _LINE_LENGTH:
        # The new name is longer than the old one, and the line had no room.
        octets = name + b":\r\n " + octets[len(name) + 1 :].lstrip(b" \t")
    return octets


def _phrase(text: str) -> bytes:
    """A display name: quoted (RFC 5322 §3.2.4), or as encoded words (RFC 2047 §5)."""
    text = " ".join(printable(text).split())
    if text.isascii() and "=?" not in text and len(text) < _USUAL_LENGTH:
        return b'"' + re.sub(r'(["\\])', r"\\\1", text).encode() + b'"'
    words: list[bytes] = []
    for character in text:
        octets = character.encode()
        if not words or len(words[-1]) + len(octets) > _WORD_OCTETS:
            words.append(b"")
        words[-1] += octets
    return b"\r\n ".join(b"=?utf-8?B?" + b2a_base64(word, newline=False) + b"?=" for word in words)
