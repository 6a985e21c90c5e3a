"""Messages whose every octet matters, and the question whether one arrived as it was."""

import hashlib
import random

_HEADER = (
    b"From: Ann <ann@example.com>\r\n"
    b"To: bob@example.net\r\n"
    b"Subject: a message whose octets matter\r\n"
    b"Date: Tue, 03 Nov 2026 10:00:00 +0000\r\n"
    b"Message-ID: <%s@example.com>\r\n"
    b"\r\n"
)


def _lines(seed: int, size: int) -> bytes:
    """Lines of up to 200 octets, all but NUL, CR and LF, every tenth beginning with a dot."""
    dice = random.Random(seed)
    octets = bytes(set(range(1, 256)) - {10, 13})
    lines, left = [], size
    while left > 2:
        length = min(left - 2, dice.randrange(200))
        line = bytes(dice.choices(octets, k=length))
        lines.append(b"." + line[1:] if dice.randrange(10) == 0 and length else line)
        left -= length + 2
    return b"\r\n".join(lines) + b"\r\n"


BODIES: dict[str, bytes] = {
    "text": b"A line.\r\n\r\nAnd another.\r\n",
    "empty": b"",
    "dots": b".\r\n..\r\n...\r\n.text\r\n\r\n.\r\n.\r\n",
    "eight_bit": "Grüße aus Köln: 15 €\r\n".encode() + bytes(range(128, 256)) + b"\r\n",
    "long_lines": b"x" * 998 + b"\r\n" + b"." + b"y" * 996 + b"\r\n" + b"z" * 800 + b"\r\n",
    "blanks": b" \r\n\t\r\ntrailing blanks  \r\n\r\n\r\n\r\n",
    "block": _lines(7, 70_000),  # more than is kept in the queue's row
    "two_megabytes": _lines(8, 1_990_000),
}

SEVEN_BIT = tuple(name for name, body in BODIES.items() if body.isascii())


def message(name: str, body: bytes | None = None) -> bytes:
    """A whole message with that body, ending in CRLF unless the body does not."""
    return _HEADER % name.encode() + (BODIES[name] if body is None else body)


def digest(octets: bytes) -> str:
    return hashlib.sha256(octets).hexdigest()


def arrived(octets: bytes, sent: bytes) -> bool:
    """Whether `octets` are what was sent with nothing but trace fields before it, by hash of the whole."""
    prefix, rest = octets[: len(octets) - len(sent)], octets[len(octets) - len(sent) :]
    return digest(rest) == digest(sent) and prefix.startswith(b"Received: ") and prefix.endswith(b"\r\n")
