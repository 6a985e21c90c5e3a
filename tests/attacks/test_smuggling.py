"""SMTP smuggling in both directions: what becomes of a message with a fake end in it, and which octets go on."""

import binascii
import contextlib
import re
import socket
from collections.abc import Iterator

import pytest

from attacks.smuggling import FAKE_ENDS, SMUGGLED
from rig.relay import Relay, free_port
from rig.sink import EVERYTHING, Received, Sink

_ENVELOPE = b"EHLO client.example\r\nMAIL FROM:<a@example.com>%s\r\nRCPT TO:<b@example.net>\r\n"
_BARE = re.compile(rb"\r(?!\n)|(?<!\r)\n")
_WAYS = ("one piece", "octets", "cut in the fake end")
_TEXT = tuple(offer for offer in EVERYTHING if offer not in ("CHUNKING", "BINARYMIME"))
_SEVEN_BIT = tuple(offer for offer in _TEXT if offer not in ("8BITMIME", "SMTPUTF8"))


class Doors:
    """A relay with a listener for each profile, and the next hop."""

    def __init__(self, relay: Relay, sink: Sink, ports: dict[str, int]) -> None:
        self.relay = relay
        self.sink = sink
        self.ports = ports

    def talk(self, profile: str, *pieces: bytes) -> list[bytes]:
        """Say these, each as a packet of its own, then QUIT; the codes of all that is answered."""
        with socket.create_connection(("127.0.0.1", self.ports[profile]), 30) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            heard = b""
            with contextlib.suppress(ConnectionError):  # it may close before we have said all
                for piece in (*pieces, b"QUIT\r\n"):
                    connection.sendall(piece)
            with contextlib.suppress(ConnectionError):
                while octets := connection.recv(1 << 16):
                    heard += octets
        return re.findall(rb"^(\d{3}) ", heard, re.MULTILINE)

    def forget(self) -> None:
        """Whatever has come to the next hop so far."""
        assert self.sink.wire is not None
        self.sink.messages.clear()
        self.sink.wire.clear()

    def wire(self) -> bytes:
        assert self.sink.wire is not None
        return bytes(self.sink.wire)

    def arrived(self, more: bytes) -> list[Received]:
        """What has come to the next hop when `more`, the last message of the test, is there."""
        assert b"250" in self.talk("applications", _ENVELOPE % b"", b"DATA\r\n", more + b"\r\n.\r\n")
        count = 1
        while not (messages := self.sink.wait(count))[-1].octets.endswith(more + b"\r\n"):
            count = len(messages) + 1
        return messages[:-1]


@pytest.fixture(scope="module")
def doors(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Doors]:
    """Its parameter is what the next hop can."""
    ports = {"strict": free_port(), "old devices": free_port()}
    listeners = [{"address": f"127.0.0.1:{port}", "profile": profile} for profile, port in ports.items()]
    settings = {
        "general": {"listeners": listeners},
        # One connection, one message after the other: what comes last has come last.
        "delivery": {"outbound_connections": {"max_connections": 1}},
    }
    folder = tmp_path_factory.mktemp("doors")
    with (
        Sink(record=True, extensions=request.param) as sink,
        Relay(folder, settings, next_hop=sink.port) as relay,
    ):
        yield Doors(relay, sink, {"applications": relay.port, **ports})
        assert "InternalError" not in relay.said()


def _cut(octets: bytes, fake: bytes, way: str) -> list[bytes]:
    if way == "octets":
        return [octets[n : n + 1] for n in range(len(octets))]
    if way == "one piece":
        return [octets]
    middle = octets.index(fake) + len(fake) // 2
    return [octets[:middle], octets[middle : middle + 1], octets[middle + 1 :]]


def _read_wire(wire: bytes) -> tuple[list[bytes], list[bytes]]:
    """The commands, and the contents of DATA with their stuffing, as a server reads them that goes by the book."""
    commands, contents = [], []
    place = 0
    while place < len(wire):
        end = wire.index(b"\r\n", place)
        commands.append(wire[place:end])
        place = end + 2
        if commands[-1] == b"DATA":
            end = wire.index(b"\r\n.\r\n", place - 2)
            contents.append(wire[place:end])
            place = end + 5
        elif commands[-1].startswith(b"BDAT "):
            place += int(commands[-1].split()[1])
    return commands, contents


def _check_wire(wire: bytes, messages: int) -> None:
    """What the next hop got: so many messages, none from the smuggled sender, and no bare line end in any."""
    commands, contents = _read_wire(wire)
    senders = [command for command in commands if command.startswith(b"MAIL FROM:<a@")]
    assert len(senders) == messages
    assert not any(b"smuggled" in command or b"victim" in command for command in commands)
    for content in contents:
        assert _BARE.search(content) is None
        # RFC 5321 §4.5.2: a line that begins with a dot has a second one, whatever follows.
        assert re.search(rb"^\.(?!\.)", content, re.MULTILINE) is None


@pytest.mark.parametrize("way", _WAYS)
@pytest.mark.parametrize("doors", [_TEXT, _SEVEN_BIT], ids=["8 bit", "7 bit"], indirect=True)
@pytest.mark.parametrize("profile", ["applications", "strict", "old devices"])
def test_a_fake_end_ends_nothing(doors: Doors, profile: str, way: str) -> None:
    """Each is refused, or content of the one message it stands in, here and at the next hop."""
    doors.forget()
    taken = 0
    for number, fake in enumerate(FAKE_ENDS):
        content = b"Message-ID: <%d@example.com>\r\nSubject: x\r\n\r\nfirst" % number + fake + SMUGGLED + b".\r\n"
        codes = doors.talk(profile, _ENVELOPE % b"", b"DATA\r\n", *_cut(content, fake, way))
        assert codes[:5] == [b"220", b"250", b"250", b"250", b"354"]
        # Refused and cut off, or taken as one: then nothing but the end of the session follows.
        assert codes[5:] in ([b"550"], [b"250", b"221"]), (fake, codes)
        taken += codes[5] == b"250"
    messages = doors.arrived(b"the last one of %s, %s" % (profile.encode(), way.encode()))
    assert len(messages) == taken
    assert {one.sender.split()[0] for one in messages} == {"<a@example.com>"}
    assert all(one.octets.endswith(b"evil\r\n") for one in messages)
    _check_wire(doors.wire(), taken + 1)
    # What is no bare line end is no reason to refuse; the bare ones are made whole for old devices only.
    bare = [fake for fake in FAKE_ENDS if _BARE.search(fake)]
    assert taken == len(FAKE_ENDS) - (0 if profile == "old devices" else len(bare))


@pytest.mark.parametrize("doors", [_TEXT], ids=["8 bit"], indirect=True)
@pytest.mark.parametrize("profile", ["applications", "strict", "old devices"])
def test_a_fake_end_in_chunks(doors: Doors, profile: str) -> None:
    """BDAT says how long a chunk is, and nothing in it ends anything; cut within the fake end, mixed with DATA."""
    doors.forget()
    taken = 0
    for number, fake in enumerate(FAKE_ENDS):
        start = b"Message-ID: <%d@example.com>\r\nSubject: x\r\n\r\nfirst" % number
        cut = len(fake) // 2
        first, rest = start + fake[:cut], fake[cut:] + SMUGGLED
        chunks = b"BDAT %d\r\n%sBDAT %d LAST\r\n%s" % (len(first), first, len(rest), rest)
        codes = doors.talk(profile, _ENVELOPE % b"", chunks)
        assert codes[:4] == [b"220", b"250", b"250", b"250"]
        # Refused at the first chunk or the second, and nothing after it is taken; or taken whole.
        refused = codes[4:].index(b"550") if b"550" in codes else 2
        assert codes[4:] == [b"250", b"250", b"221"] or b"250" not in codes[4 + refused :], (fake, codes)
        taken += codes[4:6] == [b"250", b"250"]
        # DATA cannot follow a chunk (RFC 3030 §2): without a 354 no honest client sends the rest as content.
        mixed = b"BDAT %d\r\n%s" % (len(first), first)
        codes = doors.talk(profile, _ENVELOPE % b"", mixed, b"DATA\r\n")
        assert codes[4:6] in ([b"250", b"503"], [b"550", b"503"]), (fake, codes)
    messages = doors.arrived(b"the last one in chunks, %s" % profile.encode())
    assert len(messages) == taken > 5
    _check_wire(doors.wire(), taken + 1)


@pytest.mark.parametrize("doors", [EVERYTHING, _TEXT, _SEVEN_BIT], ids=["BDAT", "8 bit", "7 bit"], indirect=True)
def test_binary_content_never_meets_a_next_hop_that_reads_lines(doors: Doors) -> None:
    """BINARYMIME may hold bare line ends. It goes on with its length in front, or encoded (RFC 3030 §3)."""
    doors.forget()
    sent = []
    for number, fake in enumerate(FAKE_ENDS):
        content = b"Message-ID: <%d@example.com>\r\nSubject: x\r\n\r\nfirst" % number + fake + SMUGGLED
        codes = doors.talk(
            "applications", _ENVELOPE % b" BODY=BINARYMIME", b"BDAT %d LAST\r\n" % len(content) + content
        )
        assert codes == [b"220", b"250", b"250", b"250", b"250", b"221"], fake
        sent.append(content)
    messages = doors.arrived(b"the last one after binary ones")
    senders = [one for one in messages if one.sender.startswith("<a@example.com>")]
    if "CHUNKING" in doors.sink.extensions:
        assert all(any(one.octets.endswith(content) for one in senders) for content in sent)
    else:
        # Made text by quoted-printable: the bare line ends are still in it, but not as line ends.
        assert {len(senders), len(sent)} == {len(FAKE_ENDS)}
        read = [binascii.a2b_qp(one.octets) for one in senders]
        assert all(any(one.endswith(content[content.index(b"first") :]) for one in read) for content in sent)
    _check_wire(doors.wire(), len(senders) + 1)


@pytest.mark.parametrize("doors", [_TEXT], ids=["8 bit"], indirect=True)
@pytest.mark.parametrize("profile", ["applications", "strict", "old devices"])
def test_fake_ends_of_commands(doors: Doors, profile: str) -> None:
    """A bare line end ends no command in a session that knows CR LF, so it can hide none either."""
    for end in (b"\n", b"\r", b"\r\r\n", b"\n\r", b"\x00\r\n", b"\x0b", b"\x85", "\u2028".encode()):
        codes = doors.talk(
            profile, b"EHLO x\r\n", b"MAIL FROM:<a@example.com>" + end + b"RCPT TO:<c@example.net>\r\n"
        )
        assert codes[:2] == [b"220", b"250"]
        assert codes[2][:1] == b"5", (end, codes)
        assert b"250" not in codes[2:], (end, codes)


def test_the_table_is_what_was_published() -> None:
    """The lists of both scanners, of December 2023 and later, are in the table."""
    scanners = "\n.\n \n.\r \r.\n \r.\r \n.\r\n \r.\r\n \r\n.\r\r\n \r\r\n.\r\r\n \r\n\x00.\r\n \r\n.\n \r\n.\r"
    assert {one.encode() for one in scanners.split(" ")} < set(FAKE_ENDS)
    assert b"\r\n.\r\n" not in FAKE_ENDS
