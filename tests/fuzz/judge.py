"""What has to hold, whatever a client does: every line is of a reply, and what was acknowledged is there, whole."""

import re
from collections.abc import Callable

from fuzz.player import Played

# RFC 5321 §4.2: lines of one reply have one code; §4.5.3.1.5: 512 octets with the line's end. A 334
# has a challenge, which may be longer (RFC 4954 §4).
_REPLY = re.compile(rb"(?:(\d{3})-[^\r\n]*\r\n(?=\1))*(\d{3}) ([^\r\n]*)\r\n")
_ACKNOWLEDGED = re.compile(rb"^250 2\.6\.0  ?([^\r\n]*) Queued mail for delivery\r$", re.MULTILINE)
_LONGEST = 512
_LONGEST_CHALLENGE = 12288


def faults_of_replies(played: Played) -> list[str]:
    """What is wrong with the server's words themselves."""
    heard = played.heard
    if played.reset:
        heard = heard[: heard.rfind(b"\r\n") + 2]
    faults = [played.trouble] if played.trouble else []
    place = 0
    while place < len(heard):
        reply = _REPLY.match(heard, place)
        if reply is None:
            return [*faults, f"not a reply: {bytes(heard[place : place + 200])!r}"]
        place = reply.end()
        for line in reply.group().split(b"\r\n"):
            faults += _faults_of_line(line, international=b"SMTPUTF8" in played.said.upper())
    return faults


def _faults_of_line(line: bytes, *, international: bool) -> list[str]:
    most = _LONGEST_CHALLENGE if line.startswith(b"334 ") else _LONGEST
    if len(line) + 2 > most:
        return [f"a line of {len(line) + 2} octets: {line[:200]!r}"]
    try:
        text = line.decode()
    except UnicodeDecodeError:
        return [f"a line that is no UTF-8: {line!r}"]
    if not text.isprintable():
        return [f"a line with what cannot be printed: {line!r}"]
    if not text.isascii() and not international:
        return [f"a line beyond ASCII without SMTPUTF8: {line!r}"]
    return []


def acknowledged(played: Played) -> list[bytes]:
    """The Message-IDs of the messages that got a 250."""
    return _ACKNOWLEDGED.findall(played.heard)


def is_marked(played: Played, message_id: bytes) -> bool:
    """Whether the Message-ID is one that the session gave, undamaged: nobody else's message has it."""
    return re.fullmatch(rb"<fuzz-%d-\d+@example\.com>" % played.session.number, message_id) is not None


def faults_of_message(played: Played, message_id: bytes, octets: bytes, *, exact: bool) -> list[str]:
    """What is wrong with an acknowledged message as it arrived: it has to be what the client said, to the octet.

    Not `exact`, where bare line ends were made whole: line ends, and dots behind them, do not count then.
    """
    mark = octets.find(b"Message-ID: " + message_id)
    if mark < 0:
        return []  # the Message-ID is written in another way
    arrived, said = octets[mark:], played.said
    chunks = said.upper().count(b"BDAT")
    if not exact:
        arrived, said = (text.translate(None, b"\r\n.") for text in (arrived, said))
    # RFC 5321 §4.5.2: what the server undoes, and with it the end of the message.
    whole = arrived + b"\r\n" in said.replace(b"\r\n.", b"\r\n") or (not exact and arrived in said)
    if whole or (chunks and _pieces(arrived, said, most=chunks)):
        return []
    return [f"{message_id!r} arrived as {octets[mark:]!r}"]


def _pieces(arrived: bytes, said: bytes, *, most: int) -> bool:
    """Whether `arrived` is made of at most so many pieces of what was said, as chunks are."""
    for _ in range(most):
        if arrived in said:
            return True
        length = _longest(len(arrived), lambda length, rest=arrived: rest[:length] in said)  # type: ignore[misc]
        if not length:
            return False
        arrived = arrived[length:]
    return not arrived


def _longest(most: int, fits: Callable[[int], bool]) -> int:
    least = 0
    while least < most:
        middle = (least + most + 1) // 2
        least, most = (middle, most) if fits(middle) else (least, middle - 1)
    return least
