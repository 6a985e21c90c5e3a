"""Reads a message's octets: DATA up to its dot (RFC 5321 §4.5.2), BDAT by count (RFC 3030).

Works in blocks as they come, never by line, and keeps nothing but a few octets that may belong to an end. Only
CR LF "." CR LF ends a message. A CR or LF alone ends neither the message nor a line, whatever stands around it:
a peer that reads it otherwise could be made to see two messages where we see one (SMTP smuggling, CVE-2023-51764
and its kin).
"""

from mailroot.mail.reply import Reply
from mailroot.smtp import answers
from mailroot.smtp.stuffing import paired

_TERMINATOR = b"\r\n.\r\n"


class DotReader:
    """The framing of DATA."""

    __slots__ = ("_at_start", "_held")
    needs_octets = True

    def __init__(self) -> None:
        # The content begins at the beginning of a line, as if CR LF had gone before; that is taken off again.
        self._held = b"\r\n"
        self._at_start = True

    def read(self, octets: bytes) -> tuple[bytes, bytes | None]:
        """Content, its dots unstuffed, and what follows the end: None while the end has not come."""
        octets = self._held + octets
        # From behind, since Python searches a short needle several times faster in that direction; most blocks hold
        # no dot at the beginning of a line, and then there is neither an end nor anything to unstuff.
        dotted = octets.rfind(b"\r\n.") >= 0
        end = octets.find(_TERMINATOR) if dotted else -1
        rest: bytes | None = None
        if end >= 0:
            rest = octets[end + 5 :]
            octets = octets[: end + 2]
            self._held = b""
        else:
            keep = len(octets)
            if octets[-1] in _TERMINATOR:
                # What may turn out to be the beginning of the end is kept; this covers a dot to be unstuffed, too.
                tail = octets[-4:]
                while tail and not _TERMINATOR.startswith(tail):
                    tail = tail[1:]
                keep -= len(tail)
            self._held = octets[keep:]
            octets = octets[:keep]
        if dotted:
            octets = octets.replace(b"\r\n.", b"\r\n")
        if self._at_start and octets:
            octets = octets[2:]
            self._at_start = False
        return octets, rest


class ChunkReader:
    """The framing of one BDAT chunk of `size` octets."""

    __slots__ = ("_left",)

    def __init__(self, size: int) -> None:
        self._left = size

    @property
    def needs_octets(self) -> bool:
        """Whether there is more of the chunk to come."""
        return self._left > 0

    def read(self, octets: bytes) -> tuple[bytes, bytes | None]:
        """Content, and what follows the chunk: None while octets of it are missing."""
        left = self._left
        if len(octets) < left:
            self._left = left - len(octets)
            return octets, None
        return octets[:left], octets[left:]


Framing = DotReader | ChunkReader


class Message:
    """One message's content over all its pieces: watches size and line ends.

    Once there is a `fault` nothing more is handed on; the content is still read to its true end. A bare line end is
    a worse fault than the size, wherever it stands, so that it does not matter how the octets were cut.
    """

    __slots__ = ("_binary", "_cr", "_limit", "_repair", "fault", "size")

    def __init__(self, *, limit: int, repair: bool, binary: bool) -> None:
        """`limit` in octets, 0 for none. `repair`: bare line ends become CR LF instead of a fault. `binary`:
        line ends mean nothing (BODY=BINARYMIME)."""
        self._limit = limit
        self._repair = repair
        self._binary = binary
        self._cr = False
        self.size = 0
        self.fault: Reply | None = None

    def announce(self, size: int) -> None:
        """A chunk of `size` octets follows; one that cannot fit is a fault at once."""
        if self._limit and self.size + size > self._limit:
            self.fault = self.fault or answers.TOO_LARGE

    def take(self, octets: bytes) -> bytes:
        """What of these octets is to be stored."""
        if self.fault is answers.BARE_LINE_END:
            return b""
        if not self._binary:
            octets = self._whole_lines(octets)
        if self.fault is not None:
            return b""
        self.size += len(octets)
        if self._limit and self.size > self._limit:
            self.fault = answers.TOO_LARGE
            return b""
        return octets

    def finish(self) -> bytes:
        """The end has come: what was kept back. Call it once, after the last `take`."""
        if not self._cr:
            return b""
        self._cr = False
        if not self._repair:
            self.fault = answers.BARE_LINE_END
        return self.take(b"\r\n")

    def _whole_lines(self, octets: bytes) -> bytes:
        if self._cr:
            octets = b"\r" + octets
            self._cr = False
        if octets.endswith(b"\r"):
            self._cr = True
            octets = octets[:-1]
        whole = paired(octets)
        if whole is not octets and not self._repair:
            self.fault = answers.BARE_LINE_END
        return whole
