"""A queue on a disk that really fills up, or really turns read-only; it needs root, or at least POSIX limits."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mailroot.clock import SystemClock
from mailroot.mail.address import Address
from mailroot.mail.envelope import Door, Envelope, Origin, Recipient
from mailroot.mail.outcome import Delivered
from mailroot.mail.reply import Reply
from mailroot.queue.base import CHUNK, Message, MessageId, QueueError, QueueFull, Search, Settlement
from mailroot.queue.sqlite import SqliteQueue, open_queue

MIB = 1024 * 1024
DONE = Settlement(((0, Delivered(Reply(250, "2.0.0", "Ok"), "mx", 1.0)),), 0.0)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 12 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if sys.platform == "win32" or os.geteuid() != 0:
        pytest.skip("only root may mount a small disk")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip(f"no small disk can be mounted here: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


async def put(queue: SqliteQueue, octets: int) -> MessageId:
    draft = queue.draft()
    try:
        for _ in range(0, octets, CHUNK):
            await draft.write(b"x" * min(octets, CHUNK))
        envelope = Envelope(Address("a", "example.com"), (Recipient(Address("b", "example.org")),))
        await draft.commit(Message(envelope, Origin(Door.SMTP, 5.0), b"Received: x\r\n", "<1@x>", "s"))
    except QueueError:
        await draft.abandon()
        raise
    return draft.id


@pytest.mark.parametrize("octets", [60_000, MIB])
async def test_a_full_disk(disk: Path, octets: int) -> None:
    told: list[str | None] = []
    queue = await open_queue(disk / "Queue", SystemClock(), told.append)
    stored: list[MessageId] = []
    with pytest.raises(QueueFull):
        for _ in range(1000):
            stored.append(await put(queue, octets))  # noqa: PERF401
    assert len(stored) > 2
    for _ in range(3):
        with pytest.raises(QueueFull):
            await put(queue, octets)
    assert len(told) == 1
    # What is there is there, and can be read.
    assert sorted(record.id for record in await queue.find(Search(), 1000)) == stored
    # The disk has room again, by and by: nobody has to do anything about the queue.
    subprocess.run(["mount", "-o", "remount,size=40m", str(disk)], check=True)
    stored.append(await put(queue, octets))
    assert len(told) == 2
    assert told[1] is None
    for claim in await queue.claim(1000):
        assert claim.record.id in stored
        assert sum([len(piece) async for piece in claim.content.chunks()]) == claim.record.size
        await queue.settle(claim, DONE)
    assert (await queue.counts()).finished == len(stored)
    await queue.close()
    assert list((disk / "Queue" / "bodies").iterdir()) == []


async def test_a_full_disk_is_emptied_by_delivering(disk: Path) -> None:
    queue = await open_queue(disk / "Queue", SystemClock())
    with pytest.raises(QueueFull):
        for _ in range(1000):
            await put(queue, MIB)
    for claim in await queue.claim(3):
        await queue.settle(claim, DONE)
    await queue._bodies.in_thread(int)  # the files are removed by threads that take turns
    await asyncio.to_thread(queue._bodies._threads.shutdown)
    assert (await queue.counts()).finished == 3
    assert len(list((disk / "Queue" / "bodies").iterdir())) == (await queue.counts()).queued
    await queue.close()


@pytest.mark.parametrize("octets", [1000, 60_000, MIB])
async def test_a_disk_filled_by_the_queue_is_emptied_by_delivering_all_of_it(disk: Path, octets: int) -> None:
    queue = await open_queue(disk / "Queue", SystemClock())
    stored = 0
    refused = 0
    while refused < 20:
        try:
            await put(queue, octets)
            stored += 1
        except QueueFull:
            refused += 1
    settled = 0
    while claims := await queue.claim(50):
        for claim in claims:
            await queue.settle(claim, DONE)
            settled += 1
    assert settled == stored
    await put(queue, octets)
    await queue.close()


async def test_a_disk_that_turns_read_only(disk: Path) -> None:
    told: list[str | None] = []
    queue = await open_queue(disk / "Queue", SystemClock(), told.append)
    await put(queue, 100)
    await queue.close()
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    with pytest.raises(QueueError):
        await open_queue(disk / "Queue", SystemClock())
    subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
    queue = await open_queue(disk / "Queue", SystemClock())
    assert len(await queue.claim(5)) == 1
    await queue.close()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows does not let go of open files")
@pytest.mark.parametrize("name", ["queue.sqlite3", "queue.sqlite3-wal"])
@pytest.mark.parametrize("replaced", [False, True])
async def test_a_file_taken_away_while_it_is_open(tmp_path: Path, name: str, replaced: bool) -> None:
    queue = await open_queue(tmp_path / "Queue", SystemClock())
    before = await put(queue, 1000)
    file, aside = tmp_path / "Queue" / name, tmp_path / "aside"
    file.rename(aside)
    if replaced:
        file.write_bytes(b"")
    word = "replaced" if replaced else "removed"
    with pytest.raises(QueueError, match=f"{name} was {word} while it was in use"):
        await put(queue, 1000)
    with pytest.raises(QueueError, match=word):
        await put(queue, 1000)
    aside.replace(file)
    after = await put(queue, 1000)
    await queue.close()
    again = await open_queue(tmp_path / "Queue", SystemClock())
    assert {claim.record.id for claim in await again.claim(5)} == {before, after}
    await again.close()


LIMITED = """
import asyncio, resource, sys
from pathlib import Path
from mailroot.clock import SystemClock
from mailroot.queue.base import QueueFull, QueueError
from mailroot.queue.sqlite import open_queue
sys.path.insert(0, sys.argv[2])
from test_disk import put

async def main():
    queue = await open_queue(Path(sys.argv[1]), SystemClock())
    resource.setrlimit(resource.RLIMIT_FSIZE, (2 * 1024 * 1024, resource.RLIM_INFINITY))
    stored, refused = 0, 0
    for _ in range(100):
        try:
            await put(queue, 60_000)
            stored += 1
        except QueueError:
            refused += 1
    try:
        await put(queue, 4 * 1024 * 1024)
    except QueueFull:
        print("file refused")
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    await put(queue, 60_000)
    await put(queue, 4 * 1024 * 1024)
    counts = await queue.counts()
    assert counts.queued == stored + 2, counts
    assert refused
    print("stored", stored)
    await queue.close()

asyncio.run(main())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit on the size of files")
async def test_files_that_may_not_grow(tmp_path: Path) -> None:
    child = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tmp_path / "Queue"), str(Path(__file__).parent)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert child.returncode == 0, child.stderr
    assert child.stdout.startswith("file refused\nstored ")
    queue = await open_queue(tmp_path / "Queue", SystemClock())
    claims = await queue.claim(200)
    assert len(claims) == int(child.stdout.split()[-1]) + 2
    for claim in claims:
        assert sum([len(piece) async for piece in claim.content.chunks()]) == claim.record.size
    await queue.close()
