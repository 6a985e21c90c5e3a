"""Splits what a client sends into command lines, and hands over the rest when content follows.

The one owner of octets that were received and not yet used.

A command line ends with CR LF (RFC 5321 §2.3.8). A client whose *first* line ends with a bare LF (a probe by
netcat, a shell script) is taken for one that ends all its lines so, as the old service took them. In every other
session a bare LF is part of the line that it stands in, and such a line is refused whole: what somebody smuggled
into an address with a line feed is never read as a command of its own. Content is another matter and no business
of ours: there a bare LF ends nothing, ever (see content).

Lines of a login may be longer than others (RFC 4954 §4): the answers to challenges, and AUTH itself. That is the
one command looked for here, and only in a line that is too long for any other.
"""

from mailroot.mail.reply import Reply
from mailroot.smtp import answers
from mailroot.smtp.errors import ProtocolError

MAX_LINE = 2048
"""Octets of a command line with its end. RFC 5321 §4.5.3.1.4 asks for 512; parameters may need more."""

MAX_LOGIN_LINE = 65_536
"""Octets of a line of a login, where logins are offered. RFC 4954 §4 asks for 12,288; Kerberos tickets of accounts
in many groups are larger."""

# RFC 8446 §5.1: a record of type handshake, version 3.x.
_TLS_HANDSHAKE = b"\x16\x03"


class LineReader:
    """Receives octets; gives lines, or everything that is there."""

    __slots__ = ("_at", "_buffer", "_end", "_skipping", "_strict", "long_logins")

    def __init__(self, *, strict: bool = False) -> None:
        """`strict`: a client that ends its first line with a bare LF is refused."""
        self._strict = strict
        # Whether lines of a login may have MAX_LOGIN_LINE octets.
        self.long_logins = False
        self._buffer = b""
        self._at = 0
        self._end = b""  # what ends a line: CR LF or LF, empty before the first line
        # A line that is too long and whose end has not come yet: what to say about it.
        self._skipping: Reply | None = None

    @property
    def unread(self) -> int:
        """Octets received and not handed out."""
        return len(self._buffer) - self._at

    @property
    def ends_with_lf(self) -> bool:
        """Whether this client ends its lines with a bare LF."""
        return self._end == b"\n"

    def receive(self, octets: bytes) -> None:
        if self._at == len(self._buffer):
            self._buffer = octets
        else:
            self._buffer = self._buffer[self._at :] + octets
        self._at = 0

    def line(self, *, login: bool = False) -> bytes | None:
        """The next line without its end, or None: more octets are needed. `login`: it answers a challenge.

        Raises ProtocolError when the line is too long; it has been skipped then. And, fatal, when the first octets
        are no line but a TLS handshake, from a client that was told to use TLS from the start; and when `strict`
        and the first line ends with a bare LF.
        """
        buffer, at = self._buffer, self._at
        if not self._end and buffer.startswith(_TLS_HANDSHAKE):
            raise ProtocolError(answers.TLS_UNEXPECTED, fatal=True)
        end = self._end or b"\n"
        found = buffer.find(end, at)
        if found < 0:
            if len(buffer) - at > MAX_LINE:
                self._skipping = self._skipping or self._excess(at, len(buffer) - at, login)
            if self._skipping is not None:
                # A CR at the very end may belong to the CR LF we look for.
                self._buffer, self._at = buffer[-1:], 0
            return None
        after = found + len(end)
        self._at = after
        if not self._end:
            if found > at and buffer[found - 1] == 13:
                self._end = b"\r\n"
                found -= 1
            elif self._strict:
                raise ProtocolError(answers.BARE_LF, fatal=True)
            else:
                self._end = b"\n"
        elif end == b"\n" and found > at and buffer[found - 1] == 13:
            found -= 1
        excess = self._skipping
        if excess is None and after - at > MAX_LINE:
            excess = self._excess(at, after - at, login)
        if excess is not None:
            self._skipping = None
            raise ProtocolError(excess)
        return buffer[at:found]

    def _excess(self, at: int, size: int, login: bool) -> Reply | None:
        """What is wrong with a line of `size` octets, more than MAX_LINE; None if it may have that many."""
        if not login and self._buffer[at : at + 5].upper() != b"AUTH ":
            return answers.LINE_TOO_LONG
        return None if self.long_logins and size <= MAX_LOGIN_LINE else answers.AUTH_TOO_LONG

    def take(self) -> bytes:
        """Everything that has been received."""
        octets = self._buffer[self._at :] if self._at else self._buffer
        self._buffer, self._at = b"", 0
        return octets

    def put_back(self, octets: bytes) -> None:
        """Return what was taken too much; nothing may have been received in between."""
        self._buffer, self._at = octets, 0
