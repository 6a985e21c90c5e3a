"""The Pickup folder from the outside: files in, messages in the queue, octets compared; and all that goes wrong."""

import asyncio
import hashlib
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from mailroot import system
from mailroot.clock import ManualClock
from mailroot.deliver.badmail import Badmail
from mailroot.events import Bus, Event, InternalError, MessageAccepted, PickupRefused
from mailroot.mail.address import Address
from mailroot.mail.envelope import Body, Door
from mailroot.policy.domains import LocalDomains
from mailroot.policy.limits import MessageSettings
from mailroot.queue.base import CHUNK, Message, QueueFull, Record, Search, Settlement
from mailroot.queue.memory import MemoryDraft, MemoryQueue
from mailroot.receive.intake import Intake
from mailroot.receive.pickup import Pickup
from mailroot.receive.pickup_folder import TAKEN

pytestmark = pytest.mark.quick

LETTER = (
    b"x-sender: sqlmail@example.com\r\n"
    b"x-receiver: ops@example.net\r\n"
    b"x-receiver: boss@example.org\r\n"
    b'From: "SQL Alerts" <sqlmail@example.com>\r\n'
    b"To: ops@example.net\r\n"
    b"Subject: job failed\r\n"
    b"Date: Mon, 23 Nov 2026 10:00:00 +0100\r\n"
    b"\r\n"
    b"Step 3 returned 1.\r\n"
)


class StepClock(ManualClock):
    """Says when somebody waits for it."""

    def __init__(self) -> None:
        super().__init__()
        self.asleep = asyncio.Event()

    async def sleep_until(self, when: float) -> None:
        self.asleep.set()
        await super().sleep_until(when)


class TroubledQueue(MemoryQueue):
    """Stores nothing while `full`."""

    full = False

    def insert(self, id: object, message: Message, octets: bytes) -> None:
        if self.full:
            raise QueueFull("no room")
        super().insert(id, message, octets)  # type: ignore[arg-type]


@dataclass
class Scene:
    """A served Pickup folder, its clock, its queue and what was said."""

    folder: Path
    badmail: Path
    clock: StepClock
    queue: TroubledQueue
    pickup: Pickup
    events: list[Event] = field(default_factory=list)

    async def step(self, seconds: float = 1) -> None:
        """Let time pass, and what it brings come to its end."""
        self.clock.asleep.clear()
        self.clock.turn(seconds)
        await asyncio.wait_for(self.clock.asleep.wait(), 20)
        while self.pickup._in_hand:
            await asyncio.wait(self.pickup._in_hand.values(), timeout=20)

    async def settle(self) -> None:
        """Two looks: enough for a file that is not touched any more."""
        await self.step()
        await self.step()

    def put(self, name: str, octets: bytes) -> Path:
        path = self.folder / name
        path.write_bytes(octets)
        return path

    def left(self) -> list[str]:
        """Names of the files in the folder."""
        return sorted(path.name for path in self.folder.iterdir() if path.is_file())

    def taken(self) -> list[str]:
        """Names of the files in hand; the subfolder is there only while there are some."""
        taken = self.folder / TAKEN
        names = sorted(path.name for path in taken.iterdir()) if taken.exists() else []
        assert bool(names) is taken.exists()
        return names

    async def records(self) -> list[Record]:
        return list(reversed(await self.queue.find(Search(), 100_000)))

    async def message(self, record: Record) -> bytes:
        """What is queued, without what Mailroot put in front."""
        content = await self.queue.content(record.id)
        assert content is not None
        octets = b"".join([chunk async for chunk in content.chunks()])
        assert octets.startswith(record.message.prefix)
        return octets[len(record.message.prefix) :]

    async def only(self) -> tuple[Record, bytes]:
        """The one message that there is; the folder is empty."""
        assert [event for event in self.events if isinstance(event, PickupRefused)] == []
        [record] = await self.records()
        assert (self.left(), self.taken()) == ([], [])
        return record, await self.message(record)

    def refusals(self) -> list[PickupRefused]:
        return [event for event in self.events if isinstance(event, PickupRefused)]

    def bad(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in self.badmail.iterdir() if path.is_file()}


@asynccontextmanager
async def serving(
    tmp_path: Path,
    *,
    dot_stuffed: bool = True,
    max_size: int = 0,
    max_recipients: int = 100,
    messages: MessageSettings | None = None,
    start: bool = True,
) -> AsyncIterator[Scene]:
    folder, badmail = tmp_path / "Pickup", tmp_path / "Badmail"
    folder.mkdir(exist_ok=True)
    badmail.mkdir(exist_ok=True)
    clock = StepClock()
    bus, queue = Bus(clock), TroubledQueue(clock)
    settings = messages or MessageSettings()
    intake = Intake(queue, bus, clock, server="default", fqdn="relay.example", messages=settings)
    pickup = Pickup(
        folder,
        badmail,
        intake,
        bus,
        clock,
        LocalDomains("corp.example"),
        server="default",
        fqdn="relay.example",
        dot_stuffed=dot_stuffed,
        max_size=max_size,
        max_recipients=max_recipients,
    )
    scene = Scene(folder, badmail, clock, queue, pickup)
    bus.subscribe(lambda _, event: scene.events.append(event))
    task = asyncio.create_task(pickup.run())
    try:
        if start:
            await asyncio.wait_for(clock.asleep.wait(), 20)
        yield scene
    finally:
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert not [event for event in scene.events if isinstance(event, InternalError)]


async def test_a_file_becomes_a_message_and_is_gone(tmp_path: Path) -> None:
    async with serving(tmp_path) as scene:
        scene.put("alert.eml", LETTER)
        await scene.settle()
        record, octets = await scene.only()
        envelope = record.message.envelope
        assert envelope.sender == Address("sqlmail", "example.com")
        assert [str(r.address) for r in envelope.recipients] == ["ops@example.net", "boss@example.org"]
        assert (envelope.body, envelope.smtputf8) == (Body.SEVEN_BIT, False)
        assert octets == LETTER.partition(b"boss@example.org\r\n")[2]
        assert record.message.origin.door is Door.PICKUP
        received = record.message.prefix.replace(b"\r\n\t", b" ")
        assert received.startswith(b"Received: from mail pickup service by relay.example id ")
        [accepted] = [event for event in scene.events if isinstance(event, MessageAccepted)]
        assert accepted.session == "alert.eml"
        assert accepted.subject == "job failed"


ENVELOPES = [
    (
        "lines in front",
        b"x-sender: a@x.example\nx-receiver: b@y.example\nFrom: c@z.example\nTo: d@z.example\n\n",
        "a@x.example",
        "b@y.example",
        b"From: c@z.example\r\nTo: d@z.example\r\n\r\n",
    ),
    (
        "any case",
        b"X-SENDER: a@x.example\nX-Receiver: b@y.example\nFrom: c@z.example\n\n",
        "a@x.example",
        "b@y.example",
        b"From: c@z.example\r\n\r\n",
    ),
    (
        "display names, as .NET writes",
        b'X-Sender: "SQL, x" <a@x.example>\nX-Receiver: =?utf-8?Q?J=C3=B6?= <b@y.example>\nFrom: c@z.example\n\n',
        "a@x.example",
        "b@y.example",
        b"From: c@z.example\r\n\r\n",
    ),
    (
        "brackets alone",
        b"x-sender: <a@x.example>\nx-receiver: <b@y.example>\nFrom: c@z.example\n\n",
        "a@x.example",
        "b@y.example",
        b"From: c@z.example\r\n\r\n",
    ),
    (
        "null sender",
        b"x-sender: <>\nx-receiver: b@y.example\nFrom: c@z.example\n\n",
        None,
        "b@y.example",
        b"From: c@z.example\r\n\r\n",
    ),
    (
        "no From but x-sender",
        b"x-sender: a@x.example\nx-receiver: b@y.example\nSubject: x\n\n",
        "a@x.example",
        "b@y.example",
        b"Subject: x\r\n\r\n",
    ),
    (
        "behind other fields",
        b"From: c@z.example\nx-receiver: b@y.example\nSubject: x\n\n",
        "c@z.example",
        "b@y.example",
        b"From: c@z.example\r\nSubject: x\r\n\r\n",
    ),
    (
        "x-sender alone",
        b"x-sender: a@x.example\nFrom: c@z.example\nTo: b@y.example\n\n",
        "a@x.example",
        "b@y.example",
        b"From: c@z.example\r\nTo: b@y.example\r\n\r\n",
    ),
    (
        "Sender beats From",
        b"From: c@z.example\nSender: s@z.example\nTo: b@y.example\n\n",
        "s@z.example",
        "b@y.example",
        b"From: c@z.example\r\nSender: s@z.example\r\nTo: b@y.example\r\n\r\n",
    ),
    (
        "first of two in From",
        b"From: c@z.example, e@z.example\nTo: b@y.example\n\n",
        "c@z.example",
        "b@y.example",
        b"From: c@z.example, e@z.example\r\nTo: b@y.example\r\n\r\n",
    ),
    (
        "To, Cc, Bcc, each once",
        b"From: c@z.example\nTo: B <b@y.example>, d@y.ex\nCc: b@Y.EXAMPLE\nBcc: e@y.example,\n f@y.example\n\n",
        "c@z.example",
        "b@y.example d@y.ex e@y.example f@y.example",
        b"From: c@z.example\r\nTo: B <b@y.example>, d@y.ex\r\nCc: b@Y.EXAMPLE\r\n\r\n",
    ),
    (
        "Bcc alone",
        b"From: c@z.example\nTo: undisclosed-recipients:;\nBCC : b@y.example\nResent-Bcc: q@y.example\n\n",
        "c@z.example",
        "b@y.example",
        b"From: c@z.example\r\nTo: undisclosed-recipients:;\r\n\r\n",
    ),
    (
        "Resent fields are no envelope",
        b"From: c@z.example\nTo: b@y.example\nResent-From: r@z.example\nResent-To: s@z.example\n\n",
        "c@z.example",
        "b@y.example",
        b"From: c@z.example\r\nTo: b@y.example\r\nResent-From: r@z.example\r\nResent-To: s@z.example\r\n\r\n",
    ),
    ("no domain", b"From: c\nTo: b\n\n", "c@corp.example", "b@corp.example", b"From: c\r\nTo: b\r\n\r\n"),
    (
        "folded lines",
        b"x-sender:\n a@x.example\nx-receiver:\n\tb@y.example\nFrom: c@z.example\n\n",
        "a@x.example",
        "b@y.example",
        b"From: c@z.example\r\n\r\n",
    ),
    (
        "no empty line",
        b"From: c@z.example\nTo: b@y.example\nhello there\n",
        "c@z.example",
        "b@y.example",
        b"From: c@z.example\r\nTo: b@y.example\r\n\r\nhello there\r\n",
    ),
    (
        "no body",
        b"From: c@z.example\nTo: b@y.example",
        "c@z.example",
        "b@y.example",
        b"From: c@z.example\r\nTo: b@y.example\r\n\r\n",
    ),
    (
        "no last line end",
        b"From: c@z.example\nTo: b@y.example\n\nhello",
        "c@z.example",
        "b@y.example",
        b"From: c@z.example\r\nTo: b@y.example\r\n\r\nhello\r\n",
    ),
    (
        "byte order mark",
        b"\xef\xbb\xbfFrom: c@z.example\nTo: b@y.example\n\n",
        "c@z.example",
        "b@y.example",
        b"From: c@z.example\r\nTo: b@y.example\r\n\r\n",
    ),
    (
        "out of a mailbox file",
        b"From c@z.example Mon Nov 23 10:00:00 2026\nFrom: c@z.example\nTo: b@y.example\n\n",
        "c@z.example",
        "b@y.example",
        b"From: c@z.example\r\nTo: b@y.example\r\n\r\n",
    ),
    (
        "lines in the body are body",
        b"From: c@z.example\nTo: b@y.example\n\nBcc: x\nx-sender: y\n",
        "c@z.example",
        "b@y.example",
        b"From: c@z.example\r\nTo: b@y.example\r\n\r\nBcc: x\r\nx-sender: y\r\n",
    ),
    (
        "every line end",
        b"From: c@z.example\r\nTo: b@y.example\n\r\na\rb\nc\r\nd\n\r",
        "c@z.example",
        "b@y.example",
        b"From: c@z.example\r\nTo: b@y.example\r\n\r\na\r\nb\r\nc\r\nd\r\n\r\n",
    ),
]


@pytest.mark.parametrize(
    ("octets", "sender", "recipients", "message"),
    [case[1:] for case in ENVELOPES],
    ids=[case[0] for case in ENVELOPES],
)
async def test_envelope_and_message(
    tmp_path: Path, octets: bytes, sender: str | None, recipients: str, message: bytes
) -> None:
    async with serving(tmp_path) as scene:
        scene.put("email.txt", octets)
        await scene.settle()
        record, queued = await scene.only()
        envelope = record.message.envelope
        assert (str(envelope.sender) if envelope.sender else None) == sender
        assert " ".join(str(recipient.address) for recipient in envelope.recipients) == recipients
        assert queued == message


BAD = [
    ("empty header", b"\n\nhello\n", "It names no sender"),
    ("no From", b"To: b@y.example\n\nhello\n", "It names no sender"),
    ("an empty From", b"From:\nTo: b@y.example\n\n", "It names no sender"),
    ("no recipient", b"From: a@x.example\n\nhello\n", "It names no recipient"),
    ("an empty To", b"From: a@x.example\nTo: undisclosed-recipients:;\n\n", "It names no recipient"),
    (
        "no letter at all",
        b"hello there, no header here\n",
        "Its header ends at a line that is no header field: 'hello there, no header here'",
    ),
    (
        "a broken header",
        b"From: a@x.example\nthis is nothing\nTo: b@y.example\n\n",
        "address. Its header ends at a line that is no header field: 'this is nothing'",
    ),
    ("a bad sender", b"From: a@@x.example\nTo: b@y.example\n\n", "From: 'a@@x.example' is not an e-mail address"),
    ("a bad recipient", b"From: a@x.example\nTo: b@y.example, Bob\x01by <>\n\n", "To: "),
    (
        "a bad x-receiver",
        b"x-sender: a@x.example\nx-receiver: b y\nFrom: a@x.example\nTo: b@y.example\n\n",
        "X-receiver: ",
    ),
    (
        "two in x-sender",
        b"x-sender: a@x.example, b@x.example\nTo: b@y.example\n\n",
        "x-sender must hold one address",
    ),
    ("an empty x-sender", b"x-sender:\nFrom: a@x.example\nTo: b@y.example\n\n", "x-sender must hold one address"),
    ("latin-1 in an address", b"From: a@x.example\nTo: j\xf6@y.example\n\n", "neither ASCII nor UTF-8"),
    ("UTF-16", "From: a@x.example\nTo: b@y.example\n\n".encode("utf-16"), "UTF-16"),
    (
        "too many recipients",
        b"From: a@x.example\nTo: a@y.example, b@y.example, c@y.example, d@y.example\n\n",
        "It has 4 recipients; the limit is 3.",
    ),
    (
        "too large",
        b"From: a@x.example\nTo: b@y.example\n\n" + b"x" * 500_000,
        "message size limit of 400000 octets",
    ),
    (
        "a header too large",
        b"From: a@x.example\nTo: b@y.example\n" + b"X: y\n" * 60_000 + b"\n",
        "Its header is larger than the limit of 262144 octets",
    ),
    (
        "a header line without end",
        b"From: a@x.example\nTo: b@y.example\nX: " + b"y" * 399_000,
        "Its header is larger than the limit of 262144 octets",
    ),
    ("in a loop", b"Received: x\n" * 16 + b"From: a@x.example\nTo: b@y.example\n\n", "It was refused: 550 5.4.6"),
    ("nulls", b"\0" * 5000, "It names no sender"),
]


@pytest.mark.parametrize(("octets", "reason"), [case[1:] for case in BAD], ids=[case[0] for case in BAD])
async def test_what_is_no_message_goes_to_badmail_as_it_is_with_the_reason(
    tmp_path: Path, octets: bytes, reason: str
) -> None:
    async with serving(tmp_path, max_size=400_000, max_recipients=3) as scene:
        scene.put("strange.eml", octets)
        await scene.settle()
        assert await scene.records() == []
        assert (scene.left(), scene.taken()) == ([], [])
        bad = scene.bad()
        assert set(bad) == {"strange.BAD", "strange.BDR", "strange.BDP"}
        assert bad["strange.BAD"] == octets
        assert reason in bad["strange.BDR"].decode()
        assert b"File: strange.eml\r\n" in bad["strange.BDR"]
        assert json.loads(bad["strange.BDP"])["file"] == "strange.eml"
        [refused] = scene.refusals()
        assert (refused.file, refused.kept) == ("strange.eml", False)
        assert reason in refused.reason


@pytest.mark.skipif(sys.platform != "linux", reason="names are octets on Linux alone")
async def test_a_bad_file_whose_name_is_no_text(tmp_path: Path) -> None:
    async with serving(tmp_path) as scene:
        name = os.fsdecode(b"\xff\xfe.eml")
        scene.put(name, b"no message\r\n")
        await scene.settle()
        [refused] = scene.refusals()
        assert (refused.file, refused.kept) == (name, False)
        base = os.fsdecode(b"\xff\xfe")
        assert (scene.badmail / f"{base}.BAD").read_bytes() == b"no message\r\n"
        assert b"\\udcff" in (scene.badmail / f"{base}.BDR").read_bytes()


async def test_bad_files_of_one_name_do_not_overwrite_each_other(tmp_path: Path) -> None:
    async with serving(tmp_path) as scene:
        for number in range(3):
            for extension in ("eml", "txt", "msg"):
                scene.put(f"report.{extension}", b"%d %s" % (number, extension.encode()))
            await scene.settle()
        bad = scene.bad()
        expected = {b"%d %s" % (number, name) for number in range(3) for name in (b"eml", b"txt", b"msg")}
        assert {octets for name, octets in bad.items() if name.endswith(".BAD")} == expected
        assert len(bad) == 27


async def test_a_file_that_cannot_even_be_filed_as_bad_stays(tmp_path: Path) -> None:
    async with serving(tmp_path) as scene:
        scene.badmail.rmdir()
        scene.badmail.write_text("a file where the folder should be")
        scene.put("bad.eml", b"nothing")
        for _ in range(10):
            await scene.step()
        assert scene.left() == ["bad.eml"]
        [refused] = scene.refusals()
        assert refused.kept
        assert "the Badmail folder cannot be written" in refused.reason
        scene.badmail.unlink()
        await scene.step(61)
        assert scene.left() == []
        assert "bad.BAD" in scene.bad()


# Dots


@pytest.mark.parametrize(
    ("stuffed", "written", "queued"),
    [
        (True, b"..hidden\r\n", b".hidden\r\n"),
        (True, b"..\r\n", b".\r\n"),
        (True, b"...\r\n", b"..\r\n"),
        (True, b"text..\r\n", b"text..\r\n"),
        (True, b".single\r\n", b".single\r\n"),
        (True, b"a\r\n.\r\nb\r\n", b"a\r\n.\r\nb\r\n"),
        (True, b"a\n..\n.\n..b", b"a\r\n.\r\n.\r\n.b\r\n"),
        (True, b".", b".\r\n"),
        (True, b"a\r\n.", b"a\r\n.\r\n"),
        (False, b"..hidden\r\n..\r\n.\r\n", b"..hidden\r\n..\r\n.\r\n"),
    ],
)
async def test_doubled_dots(tmp_path: Path, stuffed: bool, written: bytes, queued: bytes) -> None:
    header = b"From: a@x.example\r\nTo: b@y.example\r\n\r\n"
    async with serving(tmp_path, dot_stuffed=stuffed) as scene:
        scene.put("dots.eml", header + written)
        await scene.settle()
        assert (await scene.only())[1] == header + queued


@pytest.mark.parametrize("stuffed", [True, False])
async def test_a_badmail_file_moved_back_is_sent_again_as_it_was(tmp_path: Path, stuffed: bool) -> None:
    body = b"From: a@x.example\r\nSubject: x\r\n\r\n..\r\n.hidden\r\n.\r\n...\r\n"
    async with serving(tmp_path, dot_stuffed=stuffed) as scene:
        scene.put("first.eml", b"x-sender: <>\r\nx-receiver: b@y.example\r\nx-dot-stuffed: no\r\n" + body)
        await scene.settle()
        [claim] = await scene.queue.claim(10)
        base = await Badmail(scene.badmail).write(claim.record, claim.content, "Nobody to tell.", [0])
        await scene.queue.settle(claim, Settlement((), scene.clock.now() + 1_000_000))
        (scene.badmail / f"{base}.BAD").rename(scene.folder / f"{base}.BAD")
        await scene.settle()
        first, again = await scene.records()
        assert again.message.envelope.sender is None
        assert [str(r.address) for r in again.message.envelope.recipients] == ["b@y.example"]
        assert await scene.message(again) == first.message.prefix + body


# Content


async def test_eight_bit_content_and_international_addresses_are_declared(tmp_path: Path) -> None:
    async with serving(tmp_path) as scene:
        scene.put("eight.eml", b"From: a@x.example\r\nTo: b@y.example\r\n\r\nGr\xfc\xdfe\r\n")
        await scene.settle()
        record, octets = await scene.only()
        assert (record.message.envelope.body, record.message.envelope.smtputf8) == (Body.EIGHT_BIT, False)
        assert octets.endswith(b"Gr\xfc\xdfe\r\n")
    async with serving(tmp_path) as scene:
        scene.put("utf8.eml", "From: a@x.example\r\nTo: jörg@y.example\r\n\r\nx\r\n".encode())
        await scene.settle()
        record, _ = await scene.only()
        assert (record.message.envelope.body, record.message.envelope.smtputf8) == (Body.EIGHT_BIT, True)


async def test_a_large_file_arrives_unchanged_and_in_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    largest = 0
    write = MemoryDraft.write

    async def watched(self: MemoryDraft, octets: bytes) -> None:
        nonlocal largest
        largest = max(largest, len(octets))
        await write(self, octets)

    monkeypatch.setattr(MemoryDraft, "write", watched)
    line = b"0123456789" * 7 + b"\r\n"
    body = b"".join(b"%d " % n + line for n in range(300_000))
    async with serving(tmp_path) as scene:
        scene.put("large.eml", b"From: a@x.example\r\nTo: b@y.example\r\n\r\n" + body)
        await scene.settle()
        _, octets = await scene.only()
    assert len(body) > 20_000_000
    assert hashlib.sha256(octets.partition(b"\r\n\r\n")[2]).digest() == hashlib.sha256(body).digest()
    assert largest <= 2 * CHUNK


# Files that are being written


async def test_a_file_written_in_place_step_by_step_is_waited_for(tmp_path: Path) -> None:
    async with serving(tmp_path) as scene:
        with (scene.folder / "slow.eml").open("wb") as file:
            for at in range(0, len(LETTER), 20):
                file.write(LETTER[at : at + 20])
                file.flush()
                await scene.step(3)
            # The writer pauses, and holds the file open.
            await scene.step(30)
            await scene.step(30)
            assert await scene.records() == []
        await scene.settle()
        assert (await scene.only())[1] == LETTER.partition(b"boss@example.org\r\n")[2]


async def test_a_file_appended_to_by_a_script_is_waited_for(tmp_path: Path) -> None:
    async with serving(tmp_path) as scene:
        for number, line in enumerate(LETTER.splitlines(keepends=True)):
            with (scene.folder / "script.eml").open("ab") as file:
                file.write(line)
            os.utime(scene.folder / "script.eml", (number, number))
            await scene.step()
            assert await scene.records() == []
        await scene.settle()
        assert (await scene.only())[1] == LETTER.partition(b"boss@example.org\r\n")[2]


async def test_where_the_system_cannot_tell_a_file_is_given_five_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(system, "is_open_for_writing", lambda path: None)
    async with serving(tmp_path) as scene:
        scene.put("unknown.eml", LETTER)
        for _ in range(5):
            await scene.step()
            assert await scene.records() == []
        await scene.step()
        await scene.only()


async def test_a_file_that_somebody_opens_just_before_it_is_moved_is_given_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Free when asked before the move, in use when asked behind it.
    monkeypatch.setattr(system, "is_open_for_writing", lambda path: path.parent.name == TAKEN)
    async with serving(tmp_path) as scene:
        scene.put("raced.eml", LETTER)
        await scene.settle()
        assert await scene.records() == []
        assert (scene.left(), scene.taken()) == (["raced.eml"], [])
        monkeypatch.undo()
        await scene.settle()
        await scene.only()


async def test_a_file_that_changes_while_it_is_read_is_given_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(system, "is_open_for_writing", lambda path: None)
    write = MemoryDraft.write
    async with serving(tmp_path) as scene:
        path = scene.put("busy.eml", LETTER + b"x" * 600_000)

        async def meanwhile(self: MemoryDraft, octets: bytes) -> None:
            with (scene.folder / TAKEN / path.name).open("ab") as file:
                file.write(b"the end\r\n")
            monkeypatch.setattr(MemoryDraft, "write", write)
            await write(self, octets)

        monkeypatch.setattr(MemoryDraft, "write", meanwhile)
        await scene.step(1)
        await scene.step(5)
        assert await scene.records() == []
        assert scene.left() == ["busy.eml"]
        await scene.step(1)
        await scene.step(5)
        assert (await scene.only())[1].endswith(b"xxx" + b"the end\r\n")


async def test_an_empty_file_is_given_a_minute(tmp_path: Path) -> None:
    async with serving(tmp_path) as scene:
        scene.put("empty.eml", b"")
        await scene.step(30)
        await scene.step(30)
        assert (scene.left(), scene.refusals()) == (["empty.eml"], [])
        await scene.step(30)
        assert (scene.left(), len(scene.refusals())) == ([], 1)


@pytest.mark.parametrize("name", [".hidden", "~$letter.eml", "letter.tmp", "LETTER.TMP", ".letter.eml.swp"])
async def test_files_that_say_they_are_not_ready_are_left_alone(tmp_path: Path, name: str) -> None:
    async with serving(tmp_path) as scene:
        scene.put(name, LETTER)
        (scene.folder / "folder").mkdir()
        for _ in range(5):
            await scene.step(60)
        assert (scene.left(), await scene.records(), scene.refusals()) == ([name], [], [])
        (scene.folder / name).rename(scene.folder / "letter.eml")
        await scene.settle()
        await scene.only()


@pytest.mark.parametrize("name", ["a", "email.txt", "alert.EML", "with blanks (1).eml", "ümlaut.eml", "x" * 240])
async def test_any_other_name_will_do(tmp_path: Path, name: str) -> None:
    async with serving(tmp_path) as scene:
        scene.put(name, LETTER)
        await scene.settle()
        await scene.only()


# Files that cannot be removed


async def test_a_read_only_file_is_never_sent_and_said_once(tmp_path: Path) -> None:
    async with serving(tmp_path) as scene:
        path = scene.put("readonly.eml", LETTER)
        path.chmod(0o444)
        for _ in range(200):
            await scene.step()
        assert (scene.left(), await scene.records()) == (["readonly.eml"], [])
        [refused] = scene.refusals()
        assert (refused.file, refused.kept) == ("readonly.eml", True)
        assert "read-only" in refused.reason
        path.chmod(0o644)
        await scene.settle()
        assert len(await scene.records()) == 1
        assert scene.left() == []


async def test_a_file_that_cannot_be_moved_is_never_sent_and_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = Path.rename

    def refuse(self: Path, target: Path) -> Path:
        if target.parent.name == TAKEN:
            raise PermissionError(13, "Permission denied")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse)
    async with serving(tmp_path) as scene:
        scene.put("kept.eml", LETTER)
        for _ in range(200):
            await scene.step()
        assert (scene.left(), await scene.records()) == (["kept.eml"], [])
        [refused] = scene.refusals()
        assert refused.kept
        assert refused.reason == "It cannot be taken out of the folder: Permission denied."
        monkeypatch.undo()
        await scene.step(60)
        await scene.step()
        assert scene.left() == []
        assert len(await scene.records()) == 1


async def test_a_queued_file_that_cannot_be_removed_is_not_sent_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Path, missing_ok: bool = False) -> None:
        raise PermissionError(13, "Permission denied")

    async with serving(tmp_path) as scene:
        scene.put("alert.eml", LETTER)
        with monkeypatch.context() as patched:
            patched.setattr(Path, "unlink", refuse)
            await scene.settle()
        assert len(await scene.records()) == 1
        assert len(scene.taken()) == 1
    async with serving(tmp_path) as scene:
        await scene.settle()
        assert (await scene.records(), scene.left(), scene.taken()) == ([], [], [])


@pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege on Windows")
async def test_a_link_shows_nobody_what_it_points_to(tmp_path: Path) -> None:
    secret = tmp_path / "secret.eml"
    secret.write_bytes(LETTER)
    async with serving(tmp_path) as scene:
        (scene.folder / "link.eml").symlink_to(secret)
        (scene.folder / "dangling.eml").symlink_to(tmp_path / "nowhere")
        for _ in range(5):
            await scene.step()
        assert await scene.records() == []
        assert sorted(refused.file for refused in scene.refusals()) == ["dangling.eml", "link.eml"]
        assert all(refused.kept for refused in scene.refusals())
        assert secret.read_bytes() == LETTER


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes in folders here")
async def test_a_pipe_blocks_nothing(tmp_path: Path) -> None:
    async with serving(tmp_path) as scene:
        os.mkfifo(scene.folder / "pipe")
        scene.put("alert.eml", LETTER)
        for _ in range(62):
            await scene.step()
        assert len(await scene.records()) == 1
        [refused] = scene.refusals()
        assert (refused.file, refused.kept) == ("pipe", True)


# Trouble


async def test_while_the_queue_is_full_files_stay_and_nothing_is_lost(tmp_path: Path) -> None:
    async with serving(tmp_path) as scene:
        scene.queue.full = True
        for number in range(50):
            scene.put(f"{number}.eml", LETTER)
        for _ in range(20):
            await scene.step()
            assert (len(scene.left()), scene.taken()) == (50, [])
        assert await scene.records() == []
        assert scene.refusals() == []
        scene.queue.full = False
        await scene.step(10)
        await scene.step()
        assert len(await scene.records()) == 50
        assert scene.left() == []


async def test_files_given_back_overwrite_no_new_file_of_their_name(tmp_path: Path) -> None:
    async with serving(tmp_path) as scene:
        scene.queue.full = True
        insert = scene.queue.insert

        def meanwhile(id: object, message: Message, octets: bytes) -> None:
            if not (scene.folder / "alert.eml").exists():
                scene.put("alert.eml", LETTER.replace(b"job failed", b"another job"))
            insert(id, message, octets)

        scene.queue.insert = meanwhile  # type: ignore[method-assign]
        scene.put("alert.eml", LETTER)
        await scene.settle()
        assert scene.left() == ["alert-2.eml", "alert.eml"]
        scene.queue.full = False
        await scene.step(10)
        await scene.settle()
        subjects = {record.message.subject for record in await scene.records()}
        assert {"job failed", "another job"} <= subjects


async def test_a_crash_loses_no_file(tmp_path: Path) -> None:
    taken = tmp_path / "Pickup" / TAKEN
    taken.mkdir(parents=True)
    (taken / "alert.eml").write_bytes(LETTER)
    (taken / ".sent.0123456789abcdef").write_bytes(LETTER)
    (tmp_path / "Pickup" / "alert.eml").write_bytes(LETTER.replace(b"job failed", b"another job"))
    async with serving(tmp_path) as scene:
        await scene.settle()
        subjects = sorted(record.message.subject for record in await scene.records())
        assert subjects == ["another job", "job failed"]
        assert (scene.left(), scene.taken()) == ([], [])


async def test_a_folder_that_goes_away_is_said_once_and_served_when_it_is_back(tmp_path: Path) -> None:
    async with serving(tmp_path) as scene:
        away = tmp_path / "away"
        scene.folder.rename(away)
        scene.folder.write_text("a file where the folder should be")
        for _ in range(5):
            await scene.step()
        refused = scene.refusals()
        assert {(one.file, one.kept) for one in refused} == {(str(scene.folder), True)}
        # Windows has two words for it, one when it is read and one when it is made anew; each is said once.
        assert len({one.reason for one in refused}) == len(refused)
        scene.folder.unlink()
        away.rename(scene.folder)
        scene.put("alert.eml", LETTER)
        for _ in range(3):
            await scene.step()
        assert len(await scene.records()) == 1


async def test_two_processes_do_not_serve_one_folder(tmp_path: Path) -> None:
    taken = tmp_path / "Pickup" / TAKEN
    taken.mkdir(parents=True)
    other = system.FileLock(tmp_path / ".Pickup.lock")
    assert other.try_acquire()
    (taken / "in its hands.eml").write_bytes(LETTER)
    async with serving(tmp_path) as scene:
        scene.put("alert.eml", LETTER)
        for _ in range(5):
            await scene.step()
        assert (scene.left(), scene.taken()) == (["alert.eml"], ["in its hands.eml"])
        other.close()
        for _ in range(3):
            await scene.step()
        assert len(await scene.records()) == 2


async def test_what_is_in_hand_is_finished_when_the_service_stops(tmp_path: Path) -> None:
    async with serving(tmp_path) as scene:
        for number in range(40):
            scene.put(f"{number}.eml", LETTER)
        await scene.step()
        scene.clock.turn(1)
        while not scene.pickup._in_hand:
            await asyncio.sleep(0)
    assert scene.taken() == []
    assert len(await scene.records()) + len(scene.left()) == 40


async def test_a_burst_flows_several_at_once_and_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = MemoryDraft.commit
    busy = most = 0

    async def slow(self: MemoryDraft, message: Message) -> None:
        nonlocal busy, most
        busy += 1
        most = max(most, busy)
        for _ in range(50):
            await asyncio.sleep(0)
        await commit(self, message)
        busy -= 1

    monkeypatch.setattr(MemoryDraft, "commit", slow)
    async with serving(tmp_path) as scene:
        for number in range(1000):
            path = scene.put(f"{(number * 7919) % 1000}.eml", LETTER.replace(b"job failed", b"%04d" % number))
            os.utime(path, ns=(number * 10**9, number * 10**9))
        await scene.settle()
        numbers = [int(record.message.subject) for record in await scene.records()]
        assert sorted(numbers) == list(range(1000))
        assert all(abs(number - place) < 100 for place, number in enumerate(numbers))
        assert (scene.left(), scene.taken()) == ([], [])
    assert 4 <= most <= 16
