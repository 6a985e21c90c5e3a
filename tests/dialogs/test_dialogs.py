"""Plays the conversations of the .txt files beside it, each in three ways; README.md describes the format.

chunk: all the client says goes out as one piece, as far as that is possible. bytes: one octet at a time.
socket: line by line over a real connection.
"""

import asyncio
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from mailroot.net.stream import Stream, connect
from mailroot.policy.access import AccessList, Mode
from mailroot.policy.limits import BareLineEnds, MessageSettings
from mailroot.queue.base import QueueError, QueueFull
from rig.door import FQDN, Door, MemorySession, client_tls, server_tls

pytestmark = pytest.mark.quick

_FOLDER = Path(__file__).parent
_WAYS = ("chunk", "bytes", "socket")
_BANNER = re.compile(
    rf"220 {re.escape(FQDN)} Mailroot ESMTP ready at \w{{3}}, \d+ \w{{3}} \d{{4}} [\d:]{{8}} [+-]\d{{4}}"
)
_STEP = re.compile(r"([CSQETD][:~\\*!=])(?: (.*)|$)")
_SETTING = re.compile(r"([a-z_]+) = (.*)")
_ESCAPE = re.compile(r"\\(r|n|t|\\|x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|\{(.+?)\*(\d+)\})")
_NUMBERS = ("max_message_size", "max_session_size", "max_recipients", "max_hops", "max_errors", "max_header_size")


@dataclass(frozen=True)
class Step:
    """One line of a conversation; `kind` is its first two characters."""

    where: str
    kind: str
    text: str

    def fail(self, why: str) -> None:
        pytest.fail(f"{self.where}: {self.kind} {self.text}\n{why}", pytrace=False)

    @property
    def octets(self) -> bytes:
        return unescape(self.text) if self.kind == "C\\" else self.text.encode() + b"\r\n"


@dataclass
class Conversation:
    """A title, settings and steps."""

    name: str
    settings: dict[str, str] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)

    @property
    def ways(self) -> tuple[str, ...]:
        ways = tuple(self.settings.get("ways", " ".join(_WAYS)).split())
        # Over a real connection the client is who it is.
        return tuple(way for way in ways if way != "socket" or "client" not in self.settings)


def unescape(text: str) -> bytes:
    def one(match: re.Match[str]) -> str:
        code = match[1]
        if code[0] == "{":
            return match[2] * int(match[3])
        if code[0] in "xu":
            return chr(int(code[1:], base=16))
        return {"r": "\r", "n": "\n", "t": "\t", "\\": "\\"}[code]

    # \xNN is an octet; everything else is UTF-8.
    pieces = re.split(r"(\\x[0-9a-fA-F]{2})", text)
    return b"".join(
        bytes.fromhex(p[2:]) if re.fullmatch(r"\\x[0-9a-fA-F]{2}", p) else _ESCAPE.sub(one, p).encode()
        for p in pieces
    )


def expand(step: Step) -> list[Step]:
    """The abbreviations: `T:` is a transaction's envelope, `D:` a DATA with its content; `$` shows a line's end."""

    def steps(*lines: tuple[str, str]) -> list[Step]:
        return [Step(step.where, kind, text) for kind, text in lines]

    if step.kind == "T:":
        sender, *recipients = (address for address in step.text.split() if address != ">")
        bare = sender.removeprefix("<>")
        accepted = [
            line
            for address in recipients
            for line in (("C:", f"RCPT TO:<{address}>"), ("S:", f"250 2.1.5 {address} "))
        ]
        return steps(("C:", f"MAIL FROM:<{bare}>"), ("S:", f"250 2.1.0 {bare or '<>'}....Sender OK"), *accepted)
    if step.kind == "D:":
        start = "354 Start mail input; end with <CRLF>.<CRLF>"
        return steps(("C:", "DATA"), ("S:", start), ("C\\", f"{step.text}\\r\\n.\\r\\n"))
    if step.kind == "S:" and step.text.endswith("$"):
        return steps(("S:", step.text[:-1]))
    return [step]


def read_file(path: Path) -> Iterator[Conversation]:
    """The conversations of a file. A line that is none of ours is an error, not a comment."""
    conversation: Conversation | None = None
    for number, line in enumerate(path.read_text("utf-8").split("\n"), 1):
        where = f"{path.name}:{number}"
        if line.startswith("=== "):
            if conversation is not None:
                yield conversation
            conversation = Conversation(f"{path.stem}:{number} {line[4:].strip()}")
        elif not line.strip() or line.startswith("#"):
            continue
        elif conversation is None:
            raise ValueError(f"{where}: a conversation begins with '=== title'")
        elif step := _STEP.fullmatch(line):
            conversation.steps.extend(expand(Step(where, step[1], step[2] or "")))
        elif (setting := _SETTING.fullmatch(line)) and not conversation.steps:
            conversation.settings[setting[1]] = setting[2].strip()
        else:
            raise ValueError(f"{where}: {line!r} is no step and no setting")
    if conversation is not None:
        yield conversation


def open_door(settings: dict[str, str], folder: Path) -> Door:
    """A front door as the conversation's settings want it."""
    settings = {key: value for key, value in settings.items() if key not in ("ways", "client")}
    numbers = {key: int(settings.pop(key)) for key in _NUMBERS if key in settings}
    bare = BareLineEnds(settings.pop("bare_line_ends", "reject"))
    lists = {
        key: AccessList(Mode.EXCEPT if settings[key].startswith("not") else Mode.ONLY, _words(settings.pop(key)))
        for key in ("relay", "connection")
        if key in settings
    }
    tls = server_tls(folder) if settings.pop("tls", "no") == "yes" else None
    door = Door(
        messages=MessageSettings(bare_line_ends=bare, **numbers),
        relay_domains=_words(settings.pop("relay_domains", "")),
        aliases=_words(settings.pop("aliases", "")),
        default_domain=settings.pop("default_domain", "example.com"),
        tls=tls,
        **lists,
    )
    if trouble := settings.pop("queue", ""):
        error = {"full": QueueFull("the disk is full"), "broken": QueueError("the disk is read-only")}[trouble]

        class Draft:
            id = door.queue.draft().id

            async def write(self, octets: bytes) -> None: ...

            async def commit(self, message: object) -> None:
                raise error

            async def abandon(self) -> None: ...

        door.queue.draft = Draft
    assert not settings, f"unknown settings: {', '.join(settings)}"
    return door


def _words(text: str) -> tuple[str, ...]:
    return tuple(word for word in text.split() if word != "not")


class Wire:
    """What the player has of the server's side: lines, one by one."""

    def __init__(self) -> None:
        self.received = b""

    async def more(self) -> bool:
        """Wait for more octets; False: the connection is closed."""
        raise NotImplementedError

    async def line(self) -> str | None:
        """The next line, None at the connection's end (or where the server waits for us)."""
        while b"\r\n" not in self.received:
            if not await self.more():
                return None
        line, _, self.received = self.received.partition(b"\r\n")
        return line.decode()


class MemoryWire(Wire):
    def __init__(self, session: MemorySession, *, single: bool) -> None:
        super().__init__()
        self.session = session
        self.single = single

    async def send(self, octets: bytes) -> None:
        pieces = [octets[n : n + 1] for n in range(len(octets))] if self.single else [octets]
        for piece in pieces:
            self.received += await self.session.say(piece)

    async def more(self) -> bool:
        await self.session.settle()
        octets = self.session.stream.taken()
        self.received += octets
        return bool(octets)

    async def is_closed(self) -> bool:
        await self.session.settle()
        return self.session.task.done()

    async def start_tls(self) -> None:
        await self.session.settle()
        assert self.session.stream.secured

    async def close(self) -> None:
        await self.session.leave()


class SocketWire(Wire):
    def __init__(self, stream: Stream) -> None:
        super().__init__()
        self.stream = stream

    async def send(self, octets: bytes) -> None:
        self.stream.write(octets)

    async def more(self) -> bool:
        try:
            octets = await self.stream.read(10.0)
        except TimeoutError:
            return False
        self.received += octets
        return bool(octets)

    async def is_closed(self) -> bool:
        return not self.received and not await self.more()

    async def start_tls(self) -> None:
        await self.stream.start_tls(client_tls(), 10.0, server_side=False, server_hostname=FQDN)

    async def close(self) -> None:
        await self.stream.close(10.0)


class Player:
    """Plays one conversation."""

    def __init__(self, conversation: Conversation, door: Door, wire: MemoryWire | SocketWire, way: str) -> None:
        self.steps = conversation.steps
        self.door = door
        self.wire = wire
        self.way = way
        self.last = ""

    async def play(self) -> None:
        first = next((step for step in self.steps if step.kind[0] in "CS"), None)
        if first is None or first.kind[0] == "C":
            banner = await self.wire.line()
            assert banner is not None
            assert _BANNER.fullmatch(banner), f"banner: {banner!r}"
        sent = 0
        for index, step in enumerate(self.steps):
            if step.kind in ("C:", "C\\"):
                if index >= sent:
                    sent = self._end_of_group(index) if self.way == "chunk" else index + 1
                    group = self.steps[index:sent]
                    await self.wire.send(b"".join(s.octets for s in group if s.kind in ("C:", "C\\")))
            else:
                await self._check(step)
        if self.wire.received:
            self.steps[-1].fail(f"after this the server also said {self.wire.received!r}")

    def _end_of_group(self, index: int) -> int:
        """One chunk ends at STARTTLS, where the client must wait, and at whatever is not said on the wire."""
        for n, step in enumerate(self.steps[index:], index):
            if step.kind == "C!" or (step.kind == "C:" and step.text.strip().upper() == "STARTTLS"):
                return n + 1
        return len(self.steps)

    async def _check(self, step: Step) -> None:
        match step.kind:
            case "S:" | "S~":
                line = await self.wire.line()
                fits = line is not None and (
                    line == step.text if step.kind == "S:" else re.fullmatch(step.text, line) is not None
                )
                if not fits:
                    step.fail(f"the server said {line!r}")
            case "S*":
                while (line := await self.wire.line()) is not None and line.startswith(f"{step.text}-"):
                    pass
                if line is None or not line.startswith(f"{step.text} "):
                    step.fail(f"the server said {line!r}")
            case "S!":
                if not await self.wire.is_closed():
                    step.fail("the connection is still open")
            case "C!" if step.text == "tls":
                await self.wire.start_tls()
            case "C!" if step.text == "close":
                await self.wire.close()
                async with asyncio.timeout(10.0):
                    while self.way == "socket" and self.door.sessions.list():
                        await asyncio.sleep(0)
            case "Q:" | "Q~" | "Q=" | "Q!":
                await self._check_queue(step)
            case "E~":
                try:
                    async with asyncio.timeout(10.0):  # what follows a closed connection may come a moment after it
                        while not any(re.search(step.text, repr(event)) for event in self.door.events):
                            await asyncio.sleep(0.001)
                except TimeoutError:
                    step.fail("\n".join(map(repr, self.door.events)))
            case _:
                step.fail("no such step")

    async def _check_queue(self, step: Step) -> None:
        records = await self.door.records()
        envelopes = [
            f"{record.message.envelope.sender or '<>'} > "
            + " ".join(str(recipient.address) for recipient in record.message.envelope.recipients)
            for record in records
        ]
        if step.kind == "Q!":
            if records:
                step.fail(f"the queue has {envelopes}")
            return
        if step.kind == "Q:":
            if step.text not in envelopes:
                step.fail(f"the queue has {envelopes}")
            self.last = step.text
            return
        index = envelopes.index(self.last) if self.last in envelopes else -1
        if not records:
            step.fail("the queue is empty")
        prefix, octets = await self.door.octets(records[index])
        if step.kind == "Q=" and octets != unescape(step.text):
            step.fail(f"the message is {octets!r}")
        if step.kind == "Q~" and re.search(step.text, (prefix + octets).decode("latin-1"), re.MULTILINE) is None:
            step.fail(f"the message is {prefix + octets!r}")


CASES = [
    pytest.param(conversation, way, id=f"{conversation.name} [{way}]")
    for path in sorted(_FOLDER.glob("*.txt"))
    for conversation in read_file(path)
    for way in conversation.ways
]


@pytest.mark.parametrize(("conversation", "way"), CASES)
async def test_dialog(conversation: Conversation, way: str, tmp_path: Path) -> None:
    door = open_door(conversation.settings, tmp_path)
    if way != "socket":
        session = await door.connect(conversation.settings.get("client", "127.0.0.1"), banner=True)
        try:
            await Player(conversation, door, MemoryWire(session, single=way == "bytes"), way).play()
        finally:
            await session.leave()
        return
    listeners = door.listeners()
    await listeners.open()
    stream = await connect("127.0.0.1", int(listeners.addresses[0].rpartition(":")[2]), 10.0)
    try:
        await Player(conversation, door, SocketWire(stream), way).play()
    finally:
        await stream.close(10.0)
        await listeners.close(10.0)


def test_a_wrong_line_is_named(tmp_path: Path) -> None:
    file = tmp_path / "wrong.txt"
    file.write_text("=== one\nC: NOOP\nS: 250 2.0.0 OK\n\n=== two\n# remark\nX: what\n")
    with pytest.raises(ValueError, match=r"wrong\.txt:7"):
        list(read_file(file))


async def test_a_failing_conversation_names_its_line(tmp_path: Path) -> None:
    file = tmp_path / "bad.txt"
    file.write_text("=== one\nC: NOOP\nS: 250 2.0.0 OK\nC: NOOP\nS: 250 2.0.0 Fine\n")
    (conversation,) = read_file(file)
    for way in _WAYS:
        with pytest.raises(pytest.fail.Exception, match=r"bad\.txt:5: S: 250 2\.0\.0 Fine\n.*250 2\.0\.0 OK"):
            await test_dialog(conversation, way, tmp_path)


async def test_what_nobody_expected_is_a_failure(tmp_path: Path) -> None:
    file = tmp_path / "more.txt"
    file.write_text("=== one\nC: NOOP\nC: RSET\nS: 250 2.0.0 OK\n")
    (conversation,) = read_file(file)
    with pytest.raises(pytest.fail.Exception, match=r"the server also said b'250 2\.0\.0 Resetting"):
        await test_dialog(conversation, "chunk", tmp_path)
