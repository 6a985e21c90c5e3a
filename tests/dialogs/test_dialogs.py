"""Plays the conversations of the .txt files beside it, each in three ways; README.md describes the format.

chunk: all the client says goes out as one piece, as far as that is possible. bytes: one octet at a time.
socket: line by line over a real connection.
"""

import asyncio
import re
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from mailroot.net.stream import Stream, connect
from mailroot.policy.access import Mode, RelayList
from mailroot.policy.auth.account_file import Account, changing_accounts
from mailroot.policy.auth.passwords import hash_password
from mailroot.policy.auth.settings import AuthenticationSettings
from mailroot.policy.limits import BareLineEnds, LimitSettings, LoginLimits, MessageSettings
from mailroot.policy.listeners import ListenerRules, ListenerSettings, Profile, RequireTls
from mailroot.queue.base import QueueError, QueueFull
from mailroot.receive.listeners import GeneralSettings, Listeners
from mailroot.smtp.sasl.scram import Verifier
from rig.dialogs import WAYS, Conversation, Step, conversations, read_file, unescape
from rig.door import FQDN, Door, MemorySession, client_tls, server_tls

pytestmark = pytest.mark.quick

_BANNER = re.compile(
    rf"220 {re.escape(FQDN)} Mailroot ESMTP ready at \w{{3}}, \d+ \w{{3}} \d{{4}} [\d:]{{8}} [+-]\d{{4}}"
)
_LISTENER = ("profile", "require_tls", "require_login")
# Nobody turns a conversation's clock: a refused login is answered at once.
_LIMITS = LimitSettings(logins=LoginLimits(longest_delay=0))
_NUMBERS = ("max_message_size", "max_session_size", "max_recipients", "max_hops", "max_errors", "max_header_size")


def open_door(settings: dict[str, str], folder: Path) -> Door:
    """A front door as the conversation's settings want it."""
    rules = ListenerRules.of(listener(settings))
    settings = {key: value for key, value in settings.items() if key not in ("ways", "client", *_LISTENER)}
    numbers = {key: int(settings.pop(key)) for key in _NUMBERS if key in settings}
    bare = BareLineEnds(settings.pop("bare_line_ends", "reject"))
    lists = {
        key: RelayList(Mode.EXCEPT if settings[key].startswith("not") else Mode.ONLY, _words(settings.pop(key)))
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
        rules=rules,
        limits=_LIMITS,
        authentication=AuthenticationSettings(
            anonymous=settings.pop("anonymous", "yes") == "yes",
            accounts=accounts_file(folder, _words(settings.pop("accounts", ""))),
        ),
        xclient=_words(settings.pop("xclient", "")),
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


def listener(settings: dict[str, str]) -> ListenerSettings:
    """The listener that a conversation wants."""
    wanted = ListenerSettings(
        "127.0.0.1:0",
        profile=Profile(settings.get("profile", "applications")),
        require_login=settings.get("require_login", "no") == "yes",
    )
    if "require_tls" in settings:
        wanted = replace(wanted, require_tls=RequireTls(settings["require_tls"]))
    return wanted


def accounts_file(folder: Path, accounts: tuple[str, ...]) -> Path:
    """The accounts of a conversation, each as "name:password"; one that cannot log in ends with a "!"."""
    path = folder / "accounts.json"
    if accounts:
        with changing_accounts(path) as file:
            for account in accounts:
                name, _, password = account.removesuffix("!").partition(":")
                verifier = Verifier.of(password, file.salt(name), 4096)
                file.put(Account(name, _hashed(password), verifier, disabled=account.endswith("!")))
    return path


@cache
def _hashed(password: str) -> str:
    return hash_password(password)


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
            case "E!":
                for event in self.door.events:
                    if re.search(step.text, repr(event)):
                        step.fail(repr(event))
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
    for conversation in conversations()
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
            await door.logins.close()
        return
    settings = GeneralSettings(listen=(), listeners=(listener(conversation.settings),))
    listeners = Listeners(settings, door.terms, door.sessions)
    await listeners.open()
    stream = await connect("127.0.0.1", int(listeners.addresses[0].rpartition(":")[2]), 10.0)
    try:
        await Player(conversation, door, SocketWire(stream), way).play()
    finally:
        await stream.close(10.0)
        await listeners.close(10.0)
        await door.logins.close()


def test_a_wrong_line_is_named(tmp_path: Path) -> None:
    file = tmp_path / "wrong.txt"
    file.write_text("=== one\nC: NOOP\nS: 250 2.0.0 OK\n\n=== two\n# remark\nX: what\n")
    with pytest.raises(ValueError, match=r"wrong\.txt:7"):
        list(read_file(file))


async def test_a_failing_conversation_names_its_line(tmp_path: Path) -> None:
    file = tmp_path / "bad.txt"
    file.write_text("=== one\nC: NOOP\nS: 250 2.0.0 OK\nC: NOOP\nS: 250 2.0.0 Fine\n")
    (conversation,) = read_file(file)
    for way in WAYS:
        with pytest.raises(pytest.fail.Exception, match=r"bad\.txt:5: S: 250 2\.0\.0 Fine\n.*250 2\.0\.0 OK"):
            await test_dialog(conversation, way, tmp_path)


async def test_what_nobody_expected_is_a_failure(tmp_path: Path) -> None:
    file = tmp_path / "more.txt"
    file.write_text("=== one\nC: NOOP\nC: RSET\nS: 250 2.0.0 OK\n")
    (conversation,) = read_file(file)
    with pytest.raises(pytest.fail.Exception, match=r"the server also said b'250 2\.0\.0 Resetting"):
        await test_dialog(conversation, "chunk", tmp_path)
