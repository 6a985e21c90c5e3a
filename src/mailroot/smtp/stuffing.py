"""Message content on its way out: line ends, leading dots, the end of it (RFC 5321 §4.5.2, §4.1.1.4).

What leaves here for DATA holds CR and LF as pairs only: a CR or LF that stood alone becomes CRLF. So whatever
was in the queue, no next hop, however it reads line ends, can see the end of the message earlier than we do, and
nothing in a message can pose as a command (SMTP smuggling, CVE-2023-51764). Content checked at the door has no
such octets and passes unchanged; content declared BINARYMIME goes by BDAT, which counts octets and needs none of
this (RFC 3030).
"""


class Stuffing:
    """Prepares the content of one message for DATA, in pieces of any size."""

    __slots__ = ("_at_line_start", "_held_cr")

    def __init__(self) -> None:
        self._at_line_start = True
        self._held_cr = False

    def add(self, octets: bytes) -> bytes:
        """The octets that stand for these on the wire."""
        if self._held_cr:
            octets = b"\r" + octets
            self._held_cr = False
        if octets.endswith(b"\r"):
            # Whether it stands alone is seen in the next piece.
            self._held_cr = True
            octets = octets[:-1]
        if not octets:
            return b""
        octets = paired(octets)
        # From behind, since Python searches a short needle several times faster in that direction.
        dotted = octets.rfind(b"\r\n.") >= 0
        stuffed = octets.replace(b"\r\n.", b"\r\n..") if dotted else octets
        if self._at_line_start and stuffed.startswith(b"."):
            stuffed = b"." + stuffed
        self._at_line_start = stuffed.endswith(b"\n")
        return stuffed

    def end(self) -> bytes:
        """What ends the content: a missing line end, then the dot on a line of its own."""
        return b".\r\n" if self._at_line_start and not self._held_cr else b"\r\n.\r\n"


def paired(octets: bytes) -> bytes:
    """The octets with each CR or LF that stands alone made CRLF; the same object if there is none."""
    pairs = octets.count(b"\r\n")
    if octets.count(b"\n") == pairs and octets.count(b"\r") == pairs:
        return octets
    return octets.replace(b"\r\n", b"\n").replace(b"\r", b"\n").replace(b"\n", b"\r\n")
