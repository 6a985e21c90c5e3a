"""Reads a server's replies out of octets (RFC 5321 §4.2), tolerant of what is merely sloppy, bounded always.

It knows no commands: which reply answers what is the client protocol's business. Its contract in one sentence:
`next` gives a Reply, or None for "more octets, please", or raises ReplyError, and then the connection is of no
further use.
"""

import re

from mailroot.mail.reply import Reply

MAX_LINE = 2048
"""Octets that are kept of one line; RFC 5321 §4.5.3.1.5 allows 512, some banners are longer."""
MAX_LINES = 512
"""Lines of one reply."""
MAX_OCTETS = 64 * 1024
"""Octets of one reply."""
_MAX_UNREAD = 512 * 1024

_STATUS = re.compile(r"([245]\.\d{1,3}\.\d{1,3})(?: |$)")
_CONTROLS = dict.fromkeys((*range(32), *range(127, 160), 8232, 8233), " ")


class ReplyError(Exception):
    """The server does not speak SMTP, or not any more; the text says what it sent."""


class ReplyReader:
    """Holds what has arrived and hands out whole replies."""

    __slots__ = ("_buffer", "_code", "_lines", "_octets", "_position")

    def __init__(self) -> None:
        self._buffer = b""
        self._position = 0
        self._code = 0
        self._lines: list[str] = []
        self._octets = 0

    def receive(self, data: bytes) -> None:
        """Take octets as they came. Raises ReplyError when more wait than any reply may have."""
        if self._position < len(self._buffer):
            data = self._buffer[self._position :] + data
        if len(data) > _MAX_UNREAD:
            raise ReplyError(f"more than {_MAX_UNREAD} octets of replies at once")
        self._buffer = data
        self._position = 0

    @property
    def unread(self) -> bool:
        """Whether octets wait, be it a whole reply or a part of one."""
        return self._position < len(self._buffer) or bool(self._lines)

    def next(self, *, has_status: bool = True) -> Reply | None:
        """The next reply. `has_status`: it may begin with an enhanced status code (RFC 2034); greeting and
        EHLO reply never do (§3)."""
        while True:
            start = self._position
            end = self._buffer.find(b"\n", start)
            if (end if end >= 0 else len(self._buffer)) - start > MAX_OCTETS:
                raise ReplyError(f"a reply line of more than {MAX_OCTETS} octets: {_shown(self._buffer[start:])}")
            if end < 0:
                return None
            self._position = end + 1
            line = self._buffer[start:end]
            if line.endswith(b"\r"):
                line = line[:-1]
            if self._take(line):
                code, lines = self._code, self._lines
                self._code, self._lines, self._octets = 0, [], 0
                return _reply(code, lines, has_status)

    def _take(self, line: bytes) -> bool:
        """Add a line to the reply; True when it was the last one."""
        code, mark = line[:3], line[3:4]
        if len(code) < 3 or not code.isdigit() or not b"200" <= code <= b"599" or mark not in (b" ", b"-", b""):
            raise ReplyError(f"not an SMTP reply: {_shown(line)}")
        number = int(code)
        if self._lines and number != self._code:
            # RFC 5321 §4.2.1: the code is the same on every line; which one would count?
            raise ReplyError(f"a reply of several lines with different codes, {self._code} and {number}")
        self._code = number
        self._octets += len(line)
        # A line that is too long still has its code: giving up on it would send accepted mail again and again.
        text = line[4:MAX_LINE].decode("utf-8", "replace")
        self._lines.append(text if text.isprintable() else text.translate(_CONTROLS))
        if mark != b"-":
            return True
        if len(self._lines) >= MAX_LINES or self._octets > MAX_OCTETS:
            raise ReplyError(f"a reply of more than {MAX_LINES} lines or {MAX_OCTETS} octets")
        return False


def _reply(code: int, lines: list[str], has_status: bool) -> Reply:
    if not has_status:
        return Reply(code, "", "\n".join(lines))
    found = _STATUS.match(lines[0])
    # RFC 2034 §4: the status has the class of the code; anything else is text that looks like one.
    if found is None or found[1][0] != str(code // 100):
        return Reply(code, "", "\n".join(lines).rstrip())
    status = found[1]
    if len(lines) == 1:
        return Reply(code, status, lines[0][len(status) + 1 :].rstrip())
    cut = [line[len(status) + 1 :] if line.startswith(status) else line for line in lines]
    return Reply(code, status, "\n".join(cut).rstrip())


def _shown(octets: bytes) -> str:
    """A bit of what the server sent, fit for a log line."""
    text = octets[:80].decode("utf-8", "replace").translate(_CONTROLS).rstrip()
    return repr(text) + (" …" if len(octets) > 80 else "")
