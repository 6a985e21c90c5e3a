"""The Drop folder: files compared octet for octet, the quota, disk errors, and that nothing half-written shows."""

import asyncio
import hashlib
import os
import threading
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailroot import folders
from mailroot.clock import ManualClock
from mailroot.deliver.drop import Drop, original_arrival_time
from mailroot.mail.address import Address
from mailroot.mail.envelope import Door, Envelope, Origin, Recipient
from mailroot.mail.outcome import Deferred, Delivered, Outcome
from mailroot.queue.base import Message, MessageId, Record, Standing, State, format_id

pytestmark = pytest.mark.quick

ARRIVED = 1_486_103_451.872
HEADER = b"Received: from a by b;\r\n\tdate\r\nFrom: a@example.net\r\nSubject: hello\r\n"
FIELDS = (
    b"Return-Path: a@example.net\r\n"
    b"X-OriginalArrivalTime: 03 Feb 2017 06:30:51.0872 (UTC) FILETIME=[10BA2E00:01D27DE7]\r\n"
)


class Octets:
    """A message in memory: whole, or only in chunks as a large one is."""

    def __init__(self, *chunks: bytes, small: bool = True) -> None:
        self._chunks = chunks
        self._small = small
        self.size = sum(map(len, chunks))

    async def octets(self) -> bytes | None:
        return b"".join(self._chunks) if self._small else None

    async def chunks(self) -> AsyncIterator[bytes]:
        for chunk in self._chunks:
            yield chunk


def record(
    *recipients: str, sender: str | None = "a@example.net", id: int = 0x123456789ABCDEF, size: int = 100
) -> Record:
    addresses = [Recipient(Address(*recipient.rsplit("@", 1))) for recipient in recipients]
    envelope = Envelope(Address(*sender.rsplit("@", 1)) if sender else None, tuple(addresses))
    message = Message(envelope, Origin(Door.SMTP, ARRIVED), b"", "<1@example.net>", "hello")
    standings = tuple(Standing(recipient) for recipient in addresses)
    return Record(MessageId(id), message, size, State.QUEUED, standings, 1, ARRIVED, False, True)


def drop(folder: Path, quota: int = 0, clock: ManualClock | None = None) -> Drop:
    return Drop(folder, quota, clock or ManualClock(), fqdn="relay.example")


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


async def deliver(target: Drop, message: Record, content: Octets, indices: Sequence[int] | None = None) -> Outcome:
    outcomes = await target.deliver(message, indices or range(len(message.standings)), content)
    assert [index for index, _ in outcomes] == list(indices or range(len(message.standings)))
    assert len({outcome for _, outcome in outcomes}) == 1
    return outcomes[0][1]


async def test_a_message_becomes_one_file_in_the_documented_form(tmp_path: Path) -> None:
    message = record("b@corp.example", "c@alias.example")
    outcome = await deliver(drop(tmp_path / "Drop"), message, Octets(HEADER + b"\r\nbody\r\n..\r\n"))
    name = f"{format_id(message.id)}.eml"
    assert outcome == Delivered(outcome.reply, "", 1_800_000_000.0)
    assert str(outcome.reply) == f"250 2.1.5 Written to the Drop folder of relay.example as {name}"
    assert files(tmp_path / "Drop") == {
        name: b"x-sender: a@example.net\r\nx-receiver: b@corp.example\r\nx-receiver: c@alias.example\r\n"
        + HEADER
        + FIELDS
        + b"\r\nbody\r\n..\r\n"
    }
    assert not (tmp_path / "Drop" / folders.PARTIAL).exists()


async def test_only_the_recipients_named_stand_in_the_file(tmp_path: Path) -> None:
    message = record("x@elsewhere.example", "b@corp.example", "c@corp.example", sender=None)
    await deliver(drop(tmp_path), message, Octets(HEADER + b"\r\n"), [1, 2])
    [(name, written)] = files(tmp_path).items()
    assert name == f"{format_id(message.id)}-2.eml"
    assert written.startswith(
        b"x-sender: <>\r\nx-receiver: b@corp.example\r\nx-receiver: c@corp.example\r\nReceived"
    )
    assert b"\r\nReturn-Path: <>\r\nX-Orig" in written


async def test_international_addresses_are_utf_8(tmp_path: Path) -> None:
    await deliver(drop(tmp_path), record("jörg@corp.example", sender="zoë@example.net"), Octets(HEADER + b"\r\n"))
    [written] = files(tmp_path).values()
    assert written.startswith("x-sender: zoë@example.net\r\nx-receiver: jörg@corp.example\r\n".encode())


@pytest.mark.parametrize("small", [True, False])
@pytest.mark.parametrize(
    ("message", "before", "after"),
    [
        (b"Subject: x\r\n\r\nbody", b"Subject: x\r\n", b"\r\nbody"),
        (b"Subject: x\r\n\r\n", b"Subject: x\r\n", b"\r\n"),
        (b"\r\nbody", b"", b"\r\nbody"),
        (b"Subject: x\r\n", b"Subject: x\r\n", b"\r\n"),
        (b"Subject: x", b"Subject: x\r\n", b"\r\n"),
        (b"Subject: x\r\nno field\r\n", b"Subject: x\r\n", b"\r\nno field\r\n"),
        (b"no field at all\r\n", b"", b"\r\nno field at all\r\n"),
        (b"", b"", b"\r\n"),
        (b"A: x\r\n\r\nB: y\r\n\r\n", b"A: x\r\n", b"\r\nB: y\r\n\r\n"),
    ],
)
async def test_our_fields_stand_behind_the_header_and_the_body_is_untouched(
    tmp_path: Path, message: bytes, before: bytes, after: bytes, small: bool
) -> None:
    content = Octets(*(message[at : at + 3] for at in range(0, len(message), 3)), small=small)
    await deliver(drop(tmp_path), record("b@corp.example"), content)
    envelope = b"x-sender: a@example.net\r\nx-receiver: b@corp.example\r\n"
    assert list(files(tmp_path).values()) == [envelope + before + FIELDS + after]


async def test_a_header_without_end_is_not_kept_in_memory_for_ever(tmp_path: Path) -> None:
    line = b"X: " + b"x" * 61 + b"\r\n"
    chunk = line * (256 * 1024 // len(line))
    await deliver(drop(tmp_path), record("b@corp.example"), Octets(*[chunk] * 40, small=False))
    [written] = files(tmp_path).values()
    assert written.replace(FIELDS + b"\r\n", b"").endswith(b"example\r\n" + chunk * 40)
    assert written.index(FIELDS) < 2 * 1024 * 1024


async def test_a_large_message_arrives_unchanged(tmp_path: Path) -> None:
    chunks = [HEADER + b"\r\n", *(os.urandom(256 * 1024) for _ in range(20))]
    await deliver(drop(tmp_path), record("b@corp.example"), Octets(*chunks, small=False))
    [written] = files(tmp_path).values()
    body = written.partition(b"\r\n\r\n")[2]
    assert hashlib.sha256(body).digest() == hashlib.sha256(b"".join(chunks[1:])).digest()


async def test_the_same_message_again_replaces_its_file(tmp_path: Path) -> None:
    target, message = drop(tmp_path), record("b@corp.example", "c@corp.example")
    await deliver(target, message, Octets(HEADER + b"\r\none"))
    await deliver(target, message, Octets(HEADER + b"\r\ntwo"))
    [written] = files(tmp_path).values()
    assert written.endswith(b"two")
    await deliver(target, message, Octets(HEADER + b"\r\nfor the second alone"), [1])
    assert len(files(tmp_path)) == 2


async def test_a_full_folder_is_mailbox_full_until_somebody_empties_it(tmp_path: Path) -> None:
    clock = ManualClock()
    target = drop(tmp_path, quota=1500, clock=clock)
    (tmp_path / "of another program.txt").write_bytes(b"x" * 500)
    content = Octets(HEADER + b"\r\n" + b"x" * 500)
    assert isinstance(await deliver(target, record("b@corp.example", id=1), content), Delivered)
    outcome = await deliver(target, record("b@corp.example", id=2), content)
    assert isinstance(outcome, Deferred)
    assert str(outcome.reply) == "452 4.2.2 Mailbox Full"
    assert len(files(tmp_path)) == 2
    (tmp_path / "of another program.txt").unlink()
    clock.turn(2)
    assert isinstance(await deliver(target, record("b@corp.example", id=2), content), Delivered)


async def test_what_is_being_written_counts_towards_the_quota(tmp_path: Path) -> None:
    content = Octets(HEADER + b"\r\n" + b"x" * 500)
    target = drop(tmp_path, quota=3 * (content.size + 250))
    outcomes = await asyncio.gather(*(deliver(target, record("b@corp.example", id=n), content) for n in range(20)))
    assert sum(isinstance(outcome, Delivered) for outcome in outcomes) == 3
    assert len(files(tmp_path)) == 3


async def test_files_of_others_are_noticed_after_a_while(tmp_path: Path) -> None:
    clock = ManualClock()
    target = drop(tmp_path, quota=3000, clock=clock)
    content = Octets(HEADER + b"\r\nx")
    assert isinstance(await deliver(target, record("b@corp.example", id=1), content), Delivered)
    (tmp_path / "of another program.txt").write_bytes(b"x" * 3000)
    clock.turn(61)
    assert isinstance(await deliver(target, record("b@corp.example", id=2), content), Deferred)


async def test_a_disk_error_defers(tmp_path: Path) -> None:
    (tmp_path / "Drop").write_text("a file where the folder should be")
    outcome = await deliver(drop(tmp_path / "Drop"), record("b@corp.example"), Octets(HEADER + b"\r\n"))
    assert isinstance(outcome, Deferred)
    assert str(outcome.reply).startswith("451 4.3.0 The Drop folder cannot be written: ")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
async def test_a_full_disk_defers_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class OnFullDisk(folders.WholeFile):
        def __init__(self, path: Path) -> None:
            super().__init__(path)
            assert self._file is not None
            self._file.close()
            self._file = open("/dev/full", "wb", buffering=0)  # noqa: SIM115

    monkeypatch.setattr(folders, "WholeFile", OnFullDisk)
    target = drop(tmp_path)
    for small in (True, False):
        outcome = await deliver(target, record("b@corp.example"), Octets(HEADER + b"\r\n", small=small))
        assert isinstance(outcome, Deferred)
        assert str(outcome.reply) == "452 4.3.1 The disk of the Drop folder is full"
    target._threads.shutdown()
    assert files(tmp_path) == {}
    assert not (tmp_path / folders.PARTIAL).exists()
    monkeypatch.undo()
    assert isinstance(await deliver(drop(tmp_path), record("b@corp.example"), Octets(HEADER + b"\r\n")), Delivered)


async def test_a_cancelled_delivery_leaves_nothing(tmp_path: Path) -> None:
    reading, never = asyncio.Event(), asyncio.Event()

    class Endless(Octets):
        async def chunks(self) -> AsyncIterator[bytes]:
            yield HEADER + b"\r\n"
            reading.set()
            await never.wait()

    target = drop(tmp_path)
    task = asyncio.create_task(deliver(target, record("b@corp.example"), Endless(small=False)))
    await reading.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    target._threads.shutdown()
    assert files(tmp_path) == {}
    assert not (tmp_path / folders.PARTIAL).exists()


async def test_many_at_once_are_all_written(tmp_path: Path) -> None:
    target = drop(tmp_path, quota=10_000_000)
    content = Octets(HEADER + b"\r\nx")
    await asyncio.gather(*(deliver(target, record("b@corp.example", id=n), content) for n in range(300)))
    assert len(files(tmp_path)) == 300


def test_arrival_time_is_the_one_of_the_documented_sample() -> None:
    assert original_arrival_time(ARRIVED) == "03 Feb 2017 06:30:51.0872 (UTC) FILETIME=[10BA2E00:01D27DE7]"


@given(st.floats(0, 4e9))
def test_arrival_time_and_filetime_say_the_same(when: float) -> None:
    low, high = original_arrival_time(when).partition("FILETIME=[")[2].rstrip("]").split(":")
    filetime = int(high, 16) << 32 | int(low, 16)
    assert abs(filetime / 1e7 - 11_644_473_600 - when) <= 0.001


# Files that appear whole


def test_an_abandoned_file_may_still_be_written_to_and_is_gone(tmp_path: Path) -> None:
    file = folders.WholeFile(tmp_path / "a")
    file.write(b"x")
    file.abandon()
    file.write(b"y")
    file.finish()
    file.abandon()
    assert list(tmp_path.iterdir()) == []


def test_abandoning_while_another_thread_writes_is_safe(tmp_path: Path) -> None:
    file = folders.WholeFile(tmp_path / "a")
    started = threading.Event()

    def write() -> None:
        for _ in range(200):
            file.write(b"x" * 100_000)
            started.set()

    thread = threading.Thread(target=write)
    thread.start()
    started.wait()
    file.abandon()
    thread.join()
    assert not (tmp_path / folders.PARTIAL).exists()


def test_old_leftovers_are_swept_and_young_ones_are_not(tmp_path: Path) -> None:
    partial = tmp_path / folders.PARTIAL
    partial.mkdir()
    for name, modified in (("old", 1_000_000), ("young", 1_080_000), ("new", 1_090_000)):
        (partial / name).write_text("x")
        os.utime(partial / name, (modified, modified))
    folders.sweep(tmp_path)
    assert sorted(path.name for path in partial.iterdir()) == ["new", "young"]
    folders.sweep(tmp_path / "nowhere")
