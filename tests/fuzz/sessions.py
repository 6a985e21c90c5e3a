"""Sessions to fuzz with: real dialogues, and what a damaged client, a damaged network or an attacker makes of them.

Session number N of a seed is always the same, so a failing one can be played again alone.
"""

import base64
import random
import re
import struct
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cache
from ipaddress import IPv4Address, IPv6Address

from rig.dialogs import conversations

USER, PASSWORD = "fuzz", "a password for the fuzzer"


class Act(StrEnum):
    """What a client does, one after the other."""

    SAY = "say"
    LISTEN = "listen"
    TLS = "tls"
    DAMAGE = "damage"
    HALF_CLOSE = "half-close"
    RESET = "reset"


@dataclass(frozen=True, slots=True)
class Step:
    """SAY `octets` (through TLS where it is on); LISTEN for replies a moment; do a TLS handshake; DAMAGE: `octets`
    go out beside TLS; close our half of the connection; end it with a TCP reset."""

    act: Act
    octets: bytes = b""


@dataclass(frozen=True, slots=True)
class Session:
    """What is done in one connection. `door` is the name of the listener, `introduction` goes before all else."""

    number: int
    door: str
    introduction: bytes
    steps: tuple[Step, ...]


def say(*lines: str) -> list[Step]:
    return [Step(Act.SAY, line.encode() + b"\r\n") for line in lines]


_SIGNS = rb"""."@<>:;=+*!%[]\ """
_ENVELOPE = b"EHLO x\r\nMAIL FROM:<a@example.com>\r\nRCPT TO:<b@example.com>\r\n"
CLIENT_HELLO = bytes.fromhex("16030100b8010000b40303") + bytes(range(173))  # the beginning of a TLS ClientHello
INVENTED = (
    *(_SIGNS[n : n + 1] for n in range(len(_SIGNS))),
    *(b"\r\n", b"\n", b"\r", b"\x00", b"\t", b"\r\n.\r\n", b"\n.\n", b"\r.\r", b"\r\n.\n", b"\n.\r\n", b"\xff"),
    *(b"\xc3\xbc", "\u202e".encode(), "пример".encode(), b"+0A", b"9" * 21, b"x" * 300, b"x" * 2100),
    *(b" LAST", b"RSET\r\n", b"DATA\r\n", b"BDAT 3 LAST\r\n", b"BDAT 7\r\n", b"STARTTLS\r\n", b"EHLO x\r\n"),
    *(b"NOOP\r\n", b"QUIT\r\n", b"AUTH PLAIN\r\n", b"AUTH LOGIN\r\n", b"*\r\n", b"=\r\n", b"AUTH=<>", b"SMTPUTF8"),
    *(
        b"XCLIENT ADDR=192.0.2.7\r\n",
        b"PROXY UNKNOWN\r\n",
        b"BDAT 0 LAST\r\n",
        _ENVELOPE,
        CLIENT_HELLO,
        b"x" * 9000,
    ),
    *(b"A" * 13000 + b"\r\n", b"BDAT 99999999999999999999\r\n", b"\x15\x03\x03\x00\x02\x01\x00"),
)


def _b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def proxy_v1(client: str, server: str = "192.0.2.1") -> bytes:
    return f"PROXY TCP{6 if ':' in client else 4} {client} {server} 40000 25\r\n".encode()


def proxy_v2(client: str, server: str, *, command: int = 1, more: bytes = b"") -> bytes:
    """The binary header of version 2, for TCP over IPv4 or IPv6; `more` are further fields behind the addresses."""
    if ":" in client:
        family, body = 0x21, IPv6Address(client).packed + IPv6Address(server).packed
    else:
        family, body = 0x11, IPv4Address(client).packed + IPv4Address(server).packed
    body += struct.pack("!HH", 40000, 25) + more
    return b"\r\n\r\n\0\r\nQUIT\n" + struct.pack("!BBH", 0x20 | command, family, len(body)) + body


INTRODUCTIONS = (
    proxy_v1("192.0.2.7"),
    proxy_v1("2001:db8::7", "2001:db8::1"),
    b"PROXY UNKNOWN\r\n",
    proxy_v2("192.0.2.7", "192.0.2.1"),
    proxy_v2("2001:db8::7", "2001:db8::1", more=b"\x04\x00\x03abc"),
    proxy_v2("192.0.2.7", "192.0.2.1", command=0),
)


def _logins() -> list[list[Step]]:
    right, wrong = _b64(f"\0{USER}\0{PASSWORD}"), _b64(f"\0{USER}\0wrong")
    first = _b64(f"n,,n={USER},r=fyko+d2lbbFgONRv9qkxdawL")
    tail = ["MAIL FROM:<a@example.com>", "RCPT TO:<b@example.net>", "DATA", "Subject: x\r\n\r\nx\r\n.", "QUIT"]
    talks = [
        ["EHLO x", f"AUTH PLAIN {right}", *tail],
        ["EHLO x", "AUTH PLAIN", right, *tail],
        ["EHLO x", f"AUTH PLAIN {wrong}", f"AUTH PLAIN {wrong}", *tail],
        ["EHLO x", f"auth login {_b64(USER)}", _b64(PASSWORD), *tail],
        ["EHLO x", "AUTH LOGIN", _b64(USER), _b64("no"), *tail],
        ["EHLO x", "AUTH LOGIN", "*", "AUTH LOGIN", "not base64!", *tail],
        ["EHLO x", f"AUTH SCRAM-SHA-256 {first}", _b64("c=biws,r=fyko+d2lbbFgONRv9qkxdawLx,p=AAAA"), *tail],
        ["EHLO x", "AUTH SCRAM-SHA-256", first, "*", "AUTH SCRAM-SHA-256 =", "AUTH XOAUTH2 dXNlcj0=", *tail],
        ["EHLO x", "AUTH EXTERNAL =", "AUTH GSSAPI", "AUTH NTLM TlRMTVNTUAABAAAA", "AUTH CRAM-MD5", *tail],
        ["AUTH PLAIN " + right, "HELO x", "AUTH LOGIN", *tail],
        ["EHLO x", "AUTH PLAIN " + "A" * 12288, "AUTH LOGIN " + "A" * 60000, *tail],
    ]
    return [say(*talk) for talk in talks]


def _introduced() -> list[list[Step]]:
    tail = [
        "EHLO y",
        "MAIL FROM:<a@example.com>",
        "RCPT TO:<b@example.net>",
        "DATA",
        "Subject: x\r\n\r\nx\r\n.",
        "QUIT",
    ]
    return [
        say("EHLO x", "XCLIENT NAME=spike.example ADDR=192.0.2.7 PROTO=ESMTP HELO=+5Bx+5D", *tail),
        say("EHLO x", "XCLIENT ADDR=IPV6:2001:db8::7 LOGIN=fuzz", "XCLIENT NAME=[UNAVAILABLE]", *tail),
        say("EHLO x", "XCLIENT ADDR=not.an.address", "XCLIENT LOGIN=a+0D+0AQUIT", "XCLIENT", "XCLIENT =", *tail),
    ]


def _encrypted() -> list[list[Step]]:
    mail = say("EHLO y", "MAIL FROM:<a@example.com>", "RCPT TO:<b@example.net>", "DATA", "Subject: x\r\n\r\nx\r\n.")
    start = [*say("EHLO x", "STARTTLS"), Step(Act.TLS)]
    login = say("EHLO y", "AUTH PLAIN " + _b64(f"\0{USER}\0{PASSWORD}"))
    return [
        start + mail,
        start + login + mail,
        [*start, *mail[:-1], *say("half of it"), Step(Act.HALF_CLOSE)],
        [*start, *mail[:-1], Step(Act.SAY, b"half of it"), Step(Act.DAMAGE, b"\x17\x03\x03\x00\x05abcde")],
        [*say("EHLO x"), Step(Act.SAY, b"STARTTLS\r\nMAIL FROM:<evil@example.com>\r\n"), Step(Act.TLS), *mail],
        [*say("EHLO x"), Step(Act.TLS), *mail],
        [*start, *say("EHLO y", "STARTTLS"), Step(Act.TLS), *mail],
    ]


def _chunked() -> list[list[Step]]:
    content = b"Message-ID: <chunks@example.com>\r\nSubject: x\r\n\r\n" + bytes(range(256)) + b"\r\n.\r\nend"
    binary = [*say("EHLO x", "MAIL FROM:<a@example.com> BODY=BINARYMIME", "RCPT TO:<b@example.net>")]
    chunks = [
        Step(Act.SAY, b"BDAT %d%s\r\n%s" % (len(part), last, part))
        for part, last in ((content[:60], b""), (content[60:200], b""), (content[200:], b" LAST"))
    ]
    large = [Step(Act.SAY, b"BDAT 200000 LAST\r\n" + b"y" * 199_998 + b"\r\n")]
    return [binary + chunks, binary + chunks[:2] + say("RSET") + binary[1:] + chunks, binary + large + say("NOOP")]


@cache
def material() -> tuple[tuple[Step, ...], ...]:
    """The dialogues that sessions are made of: those of tests/dialogs, and those a memory session cannot have."""
    found: list[list[Step]] = []
    for conversation in conversations():
        steps: list[Step] = []
        for step in conversation.steps:
            if step.kind in ("C:", "C\\"):
                steps.append(Step(Act.SAY, step.octets))
            elif step.kind == "C!":
                steps.append(Step(Act.TLS if step.text == "tls" else Act.HALF_CLOSE))
        if steps:
            found.append(steps)
    special = _logins() + _introduced() + _encrypted() + _chunked()
    return tuple(tuple(steps) for steps in found + special * 3)


class Mutator:
    """Makes session number N of a seed, for one of the doors."""

    def __init__(self, seed: int, number: int, doors: tuple[str, ...]) -> None:
        self._dice = random.Random(f"{seed}:{number}")
        self._number = number
        self._doors = doors

    def session(self) -> Session:
        dice = self._dice
        door = dice.choice(self._doors)
        steps = [*dice.choice(material())]
        if dice.random() < 0.25:
            steps += dice.choice(material())
        if door == "implicit TLS" and dice.random() < 0.9:
            steps.insert(0, Step(Act.TLS))
        if dice.random() < 0.3 and door in ("applications", "strict", "old devices"):
            steps = [*say("EHLO x", "STARTTLS"), Step(Act.TLS), *steps]
        steps = self._named(steps)
        for _ in range(dice.choice((0, 0, 1, 1, 1, 2, 3, 5, 8))):
            steps = self._mutate(steps)
        introduction = dice.choice(INTRODUCTIONS) if door == "proxy" else b""
        if introduction and dice.random() < 0.2:
            introduction = self._damage(introduction)
        return Session(self._number, door, introduction, tuple(self._cut(steps)))

    def _named(self, steps: list[Step]) -> list[Step]:
        """Each message gets a Message-ID of its own, so that what became of it can be seen."""
        named: list[Step] = []
        for place, step in enumerate(steps):
            begins = place and steps[place - 1].octets.strip().upper() == b"DATA" and step.act is Act.SAY
            mark = b"Message-ID: <fuzz-%d-%d@example.com>\r\n" % (self._number, place) if begins else b""
            named.append(replace(step, octets=mark + step.octets))
        return named

    def _mutate(self, steps: list[Step]) -> list[Step]:
        dice = self._dice
        talking = [place for place, step in enumerate(steps) if step.act is Act.SAY and step.octets]
        if not talking:
            return [*steps, *dice.choice(material())]
        place = dice.choice(talking)
        before, step, after = steps[:place], steps[place], steps[place + 1 :]
        match dice.randrange(12):
            case 0:
                return before + after
            case 1:
                return [*before, step, step, *after]
            case 2:
                other = dice.choice(talking)
                steps = [*steps]
                steps[place], steps[other] = steps[other], steps[place]
                return steps
            case 3:
                other_talk = dice.choice(material())
                return [*before, *other_talk[dice.randrange(len(other_talk)) :]]
            case 4:
                return [*before, *[step] * dice.choice((5, 40, 200 if len(step.octets) < 200 else 3)), *after]
            case 5:
                return [*before, replace(step, octets=self._lie(step.octets)), *after]
            case 6:
                start = say("STARTTLS") if dice.random() < 0.6 else []
                return [*before, *start, Step(Act.TLS), step, *after]
            case 7:
                rare = dice.choice((Act.HALF_CLOSE, Act.RESET, Act.LISTEN, Act.DAMAGE))
                octets = dice.randbytes(dice.randrange(1, 40)) if rare is Act.DAMAGE else b""
                return [*before, Step(rare, octets), step, *after]
            case _:
                return [*before, replace(step, octets=self._damage(step.octets)), *after]

    def _lie(self, octets: bytes) -> bytes:
        """Another length than there is, in BDAT and SIZE; else something invented at the end."""
        dice = self._dice
        length = b"%d" % dice.choice((0, 1, 2, dice.randrange(300), 65_536, 10_000_000, 2**31, 2**63, 2**64 + 1))
        told, count = re.subn(rb"(?i)(?<=BDAT )\d+|(?<=SIZE=)\d+", length, octets, count=1)
        return told if count else octets + dice.choice(INVENTED)

    def _damage(self, octets: bytes) -> bytes:
        dice = self._dice
        start = dice.randrange(len(octets) + 1)
        end = min(len(octets), start + dice.choice((1, 1, 2, 5, 40)))
        before, middle, after = octets[:start], octets[start:end], octets[end:]
        match dice.randrange(7):
            case 0:
                return before + after
            case 1:
                return before + middle + middle + after
            case 2:
                return before + dice.choice(INVENTED) + middle + after
            case 3:
                return before + dice.randbytes(dice.randrange(1, 9)) + after
            case 4:
                return middle + before + after
            case 5:
                return before + bytes(octet ^ (1 << dice.randrange(8)) for octet in middle) + after
            case _:
                return before + middle.swapcase() + after

    def _cut(self, steps: list[Step]) -> list[Step]:
        """As it leaves: line by line, all in one piece, or in pieces of any length."""
        dice = self._dice
        way = dice.choice(("lines", "one piece", "one piece", "pieces", "pieces", "octets"))
        if way == "lines":
            return [one for step in steps for one in (step, Step(Act.LISTEN))]
        joined: list[Step] = []
        for step in steps:
            if joined and step.act is Act.SAY and joined[-1].act is Act.SAY:
                joined[-1] = Step(Act.SAY, joined[-1].octets + step.octets)
            else:
                joined.append(step)
        if way == "one piece":
            return joined
        most = 3 if way == "octets" else 700
        cut: list[Step] = []
        for step in joined:
            octets = step.octets
            if step.act is not Act.SAY:
                cut.append(step)
                continue
            while octets and len(cut) < 400:
                length = dice.randrange(1, most)
                cut.append(Step(Act.SAY, octets[:length]))
                if dice.random() < 0.1:
                    cut.append(Step(Act.LISTEN))
                octets = octets[length:]
            if octets:
                cut.append(Step(Act.SAY, octets))
        return cut
