"""The SQLite queue beyond the contract: restart, several workers, refusals, a disk that fails, and bounds."""

import asyncio
import errno
import hashlib
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from mailroot.clock import ManualClock
from mailroot.mail.address import Address
from mailroot.mail.envelope import Door, Envelope, Origin, Recipient
from mailroot.mail.outcome import Deferred, Delivered
from mailroot.mail.reply import Reply
from mailroot.queue import bodies, fresh, operation, schema, workers, writer
from mailroot.queue.base import (
    SMALL,
    Counts,
    LeaseLost,
    Message,
    MessageId,
    QueueError,
    QueueFull,
    QueueRefused,
    Search,
    Settlement,
    format_id,
)
from mailroot.queue.sqlite import SqliteQueue, open_queue
from mailroot.system import FileLock

pytestmark = pytest.mark.quick

LARGE = b"l" * (SMALL + 1)
DONE = Settlement(((0, Delivered(Reply(250, "2.0.0", "Ok"), "mx", 1.0)),), 0.0)
LATER = Settlement(((0, Deferred(Reply(450, "4.2.0", "busy"), "mx", 1.0)),), 0.0)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


class Opener:
    """Opens queues on one folder and closes them in the end."""

    def __init__(self, folder: Path, clock: ManualClock) -> None:
        self.folder = folder
        self.clock = clock
        self.opened: list[SqliteQueue] = []
        self.told: list[str | None] = []

    async def __call__(self) -> SqliteQueue:
        queue = await open_queue(self.folder, self.clock, self.told.append)
        self.opened.append(queue)
        return queue


@pytest.fixture
async def opener(tmp_path: Path, clock: ManualClock) -> AsyncIterator[Opener]:
    opener = Opener(tmp_path / "Queue", clock)
    yield opener
    for queue in opener.opened:
        await queue.close()


def message(subject: str = "s") -> Message:
    envelope = Envelope(Address("a", "example.com"), (Recipient(Address("b", "example.org")),))
    return Message(envelope, Origin(Door.SMTP, 5.0), b"Received: x\r\n", "<1@x>", subject)


async def put(queue: SqliteQueue, body: bytes = b"body\r\n", subject: str = "s") -> MessageId:
    draft = queue.draft()
    await draft.write(body)
    await draft.commit(message(subject))
    return draft.id


def files(queue_folder: Path) -> list[str]:
    return sorted(path.name for path in (queue_folder / "bodies").iterdir())


# Restart


async def test_all_is_there_after_a_restart(opener: Opener) -> None:
    queue = await opener()
    small, large = await put(queue), await put(queue, LARGE)
    [claimed] = await queue.claim(1)
    await queue.close()
    queue = await opener()
    assert await queue.counts() == Counts(2, 0, 0, 0, 5.0)
    claims = await queue.claim(5)
    assert [claim.record.id for claim in claims] == [small, large]
    # What was claimed counts as an attempt; what only waited in memory for its claim does not.
    assert [claim.record.attempts for claim in claims] == [2, 1]
    assert await claims[0].content.octets() == b"Received: x\r\nbody\r\n"
    pieces = [piece async for piece in claims[1].content.chunks()]
    assert b"".join(pieces) == b"Received: x\r\n" + LARGE
    assert claimed.record.id == small


async def test_a_file_goes_with_its_message(opener: Opener) -> None:
    queue = await opener()
    await put(queue, LARGE)
    deleted = await put(queue, LARGE)
    draft = queue.draft()
    await draft.write(LARGE)
    open_draft = queue.draft()
    await open_draft.write(LARGE)
    assert len(files(opener.folder)) == 4
    await draft.abandon()
    [claim] = await queue.claim(1)
    await queue.settle(claim, DONE)
    assert await queue.delete(Search(ids=(deleted,))) == [deleted]
    await queue.close()
    assert files(opener.folder) == []


async def test_remains_of_a_crash_are_swept(opener: Opener) -> None:
    queue = await opener()
    kept = await put(queue, LARGE)
    await queue.close()
    [name] = files(opener.folder)
    folder = opener.folder / "bodies"
    for other in ("0000000000001-1.body", "0000000000002-7.body", "0000000000003-1.other", "U-1.body"):
        (folder / other).write_bytes(b"x")
    (opener.folder / "worker-7.lock").touch()
    queue = await opener()
    await asyncio.wait(queue._tasks[1:])
    await queue.close()
    assert files(opener.folder) == sorted([name, "0000000000003-1.other", "U-1.body"])
    queue = await opener()
    assert [claim.record.id for claim in await queue.claim(5)] == [kept]


async def test_the_remains_of_a_living_worker_are_not_touched(opener: Opener) -> None:
    first = await opener()
    draft = first.draft()
    await draft.write(LARGE)
    second = await opener()
    await asyncio.wait(second._tasks[1:])
    await asyncio.wait([asyncio.ensure_future(first._sweep())])
    await draft.commit(message())
    [claim] = await first.claim(1)
    assert len([piece async for piece in claim.content.chunks()]) == 2


# Refusals


def digest(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and path.suffix != ".lock"
    }


def foreign(file: Path) -> None:
    connection = sqlite3.connect(file)
    connection.execute("CREATE TABLE message (id INTEGER PRIMARY KEY)")
    connection.commit()
    connection.close()


def text(file: Path) -> None:
    file.write_bytes(b"not a database\n" * 1000)


def short(file: Path) -> None:
    file.write_bytes(b"SQLite format 3\0")


def newer(file: Path) -> None:
    schema.prepare(file)
    octets = bytearray(file.read_bytes())
    octets[60:64] = (schema.VERSION + 1).to_bytes(4, "big")
    file.write_bytes(octets)


def versionless(file: Path) -> None:
    schema.prepare(file)
    octets = bytearray(file.read_bytes())
    octets[60:64] = bytes(4)
    file.write_bytes(octets)


def truncated(file: Path) -> None:
    schema.prepare(file)
    file.write_bytes(file.read_bytes()[:-4096])


def bad_schema(file: Path) -> None:
    schema.prepare(file)
    octets = bytearray(file.read_bytes())
    octets[100:4096] = b"\xaa" * 3996
    file.write_bytes(octets)


def bad_pages(file: Path) -> None:
    schema.prepare(file)
    octets = bytearray(file.read_bytes())
    octets[4096:] = b"\xaa" * (len(octets) - 4096)
    file.write_bytes(octets)


def missing_table(file: Path) -> None:
    schema.prepare(file)
    connection = sqlite3.connect(file)
    connection.execute("PRAGMA journal_mode = DELETE")
    connection.execute("DROP TABLE body")
    connection.commit()
    connection.close()


def log_alone(file: Path) -> None:
    file.with_name(f"{file.name}-wal").write_bytes(b"frames")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (foreign, "not a Mailroot queue"),
        (text, "not a SQLite database"),
        (short, "not a SQLite database"),
        (newer, "newer Mailroot"),
        (versionless, "damaged"),
        (truncated, "4,096 octets are missing"),
        (bad_schema, "damaged"),
        (bad_pages, "damaged"),
        (missing_table, "lacks CREATE TABLE body"),
        (log_alone, "its log"),
    ],
)
async def test_a_database_that_is_not_ours_or_whole_is_left_alone(
    opener: Opener, make: Callable[[Path], None], words: str
) -> None:
    opener.folder.mkdir()
    make(opener.folder / "queue.sqlite3")
    before = digest(opener.folder)
    with pytest.raises(QueueRefused, match=words) as refusal:
        await opener()
    assert "queue.sqlite3" in str(refusal.value)
    assert digest(opener.folder) == before


async def test_a_database_whose_end_is_in_its_log_alone_is_whole(opener: Opener, tmp_path: Path) -> None:
    """A kill while the log was moved: the first page is there and counts pages that are not."""
    queue = await opener()
    file = opener.folder / "queue.sqlite3"
    log = opener.folder / "queue.sqlite3-wal"
    short = file.read_bytes()
    ids = [await put(queue, b"x" * 20_000) for _ in range(20)]
    frames = log.read_bytes()
    await queue.close()
    moved = file.read_bytes()
    assert len(moved) > len(short)
    file.write_bytes(moved[:4096] + short[4096:])
    log.write_bytes(frames)
    again = await opener()
    assert (await again.counts()).queued == len(ids)


async def test_an_empty_file_is_no_database_yet(opener: Opener) -> None:
    opener.folder.mkdir()
    (opener.folder / "queue.sqlite3").touch()
    (opener.folder / "queue.sqlite3.new").write_bytes(b"half made")
    queue = await opener()
    await put(queue)
    assert (await queue.counts()).queued == 1


async def test_an_unreadable_place_is_an_error(opener: Opener) -> None:
    opener.folder.write_bytes(b"a file where the folder should be")
    with pytest.raises(QueueError):
        await opener()


# Workers


async def test_two_workers_never_claim_the_same(opener: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fresh, "MESSAGES", 0)
    first, second = await opener(), await opener()
    ids = [await put(queue) for _ in range(10) for queue in (first, second)]
    one, two = await asyncio.gather(first.claim(12), second.claim(12))
    claimed = [claim.record.id for claim in one + two]
    assert sorted(claimed) == sorted(ids)
    with pytest.raises(LeaseLost):
        await second.settle(one[0], DONE)
    await first.settle(one[0], DONE)


async def test_a_closed_workers_messages_are_free_at_once(opener: Opener) -> None:
    first, second = await opener(), await opener()
    stored = await put(first)
    assert await second.claim(1) == []
    assert (await second.counts()).leased == 1
    await first.close()
    assert [claim.record.id for claim in await second.claim(1)] == [stored]


DIE = """
import asyncio, os, sys
from pathlib import Path
from mailroot.clock import SystemClock
from mailroot.queue.sqlite import open_queue
sys.path.insert(0, sys.argv[2])
from test_sqlite import put
async def main():
    queue = await open_queue(Path(sys.argv[1]), SystemClock())
    for _ in range(3):
        await put(queue)
    await queue.claim(1)
    os._exit(0)
asyncio.run(main())
"""


async def test_a_dead_workers_messages_are_found_by_the_others(opener: Opener) -> None:
    queue = await opener()
    await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", DIE, str(opener.folder), str(Path(__file__).parent)],
        check=True,
        timeout=60,
    )
    assert await queue.claim(5) == []
    queue.wake.clear()
    await queue.look()
    assert queue.wake.is_set()
    assert len(await queue.claim(5)) == 3


async def test_a_silent_worker_loses_its_leases(opener: Opener) -> None:
    silent, other = await opener(), await opener()
    ids = [await put(silent), await put(silent)]
    [claim] = await silent.claim(1)
    for _ in range(workers.PATIENCE):
        await other.look()
    assert await other.claim(5) == []
    await other.look()
    claims = await other.claim(5)
    assert [claim.record.id for claim in claims] == ids
    with pytest.raises(LeaseLost):
        await silent.settle(claim, DONE)
    for taken in claims:
        await other.settle(taken, DONE)
    await silent.look()  # it learns that what it held in memory is somebody else's
    assert await silent.claim(5) == []
    await put(silent)
    assert len(await silent.claim(5)) == 1


async def test_workers_that_look_keep_their_leases(opener: Opener) -> None:
    first, second = await opener(), await opener()
    await put(first)
    [claim] = await first.claim(1)
    for _ in range(3 * workers.PATIENCE):
        await first.look()
        await second.look()
    await first.settle(claim, DONE)


async def test_a_worker_alone_writes_nothing_when_idle(opener: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    queue = await opener()
    await put(queue)
    transactions = counted(monkeypatch)
    for _ in range(10):
        await queue.look()
        await queue.next_due()
    assert transactions == []


async def test_the_others_messages_are_noticed(opener: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fresh, "MESSAGES", 0)
    first, second = await opener(), await opener()
    assert await second.claim(1) == []
    second.wake.clear()
    await put(first)
    opener.clock.turn(workers.LOOK)
    await asyncio.wait_for(second.wake.wait(), 20)
    assert len(await second.claim(1)) == 1


# Group commit


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many operations each transaction had from now on."""
    transactions: list[int] = []
    transact = writer.Writer._transact

    def count(self: writer.Writer, batch: list[operation.Operation]) -> None:
        transactions.append(len(batch))
        transact(self, batch)

    monkeypatch.setattr(writer.Writer, "_transact", count)
    return transactions


class Turn:
    """Somebody else's turn to write, for as long as a test likes."""

    def __init__(self, opener: Opener) -> None:
        self.lock = FileLock(opener.folder / "queue.lock")

    def __enter__(self) -> None:
        self.lock.acquire()

    def __exit__(self, *_: object) -> None:
        self.lock.close()


async def test_what_waits_together_is_committed_together(opener: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    queue = await opener()
    transactions = counted(monkeypatch)
    with Turn(opener):
        commits = [asyncio.ensure_future(put(queue)) for _ in range(100)]
        while len(queue._waiting) < 100:
            await asyncio.sleep(0)
        assert not any(commit.done() for commit in commits)
    await asyncio.gather(*commits)
    assert sum(transactions) == 100
    assert len(transactions) <= 2


async def test_one_bad_operation_spoils_no_neighbour(opener: Opener) -> None:
    queue = await opener()
    taken = await put(queue)
    with Turn(opener):
        drafts = [queue.draft() for _ in range(5)]
        drafts[2]._id = taken
        commits = [asyncio.ensure_future(draft.commit(message())) for draft in drafts]
        while len(queue._waiting) < 5:
            await asyncio.sleep(0)
    results = await asyncio.gather(*commits, return_exceptions=True)
    assert [isinstance(result, QueueError) for result in results] == [False, False, True, False, False]
    assert (await queue.counts()).queued == 5
    assert len(await queue.claim(10)) == 5


async def test_a_cancelled_claim_loses_nothing(opener: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fresh, "MESSAGES", 1)
    queue = await opener()
    ids = [await put(queue) for _ in range(3)]
    with Turn(opener):
        claiming = asyncio.ensure_future(queue.claim(5))
        while not queue._waiting:
            await asyncio.sleep(0)
        claiming.cancel()
        with pytest.raises(asyncio.CancelledError):
            await claiming
    queue.wake.clear()
    await queue.wake.wait()
    assert sorted(claim.record.id for claim in await queue.claim(5)) == ids


async def test_a_cancelled_commit_is_whole_or_not_there(opener: Opener) -> None:
    queue = await opener()
    draft = queue.draft()
    await draft.write(LARGE)
    with Turn(opener):
        committing = asyncio.ensure_future(draft.commit(message()))
        while not queue._waiting:
            await asyncio.sleep(0)
        committing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await committing
        await draft.abandon()
    await queue.wake.wait()
    while not (claims := await queue.claim(1)):
        await queue.wake.wait()
    pieces = [piece async for piece in claims[0].content.chunks()]
    assert b"".join(pieces) == b"Received: x\r\n" + LARGE


async def test_beyond_its_bound_the_memory_is_not_used(opener: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fresh, "OCTETS", 25)
    queue = await opener()
    ids = [await put(queue, b"0123456789") for _ in range(5)]
    assert len(queue._fresh) == 2
    claims = await queue.claim(10)
    assert [claim.record.id for claim in claims] == ids
    assert [await claim.content.octets() for claim in claims] == [b"Received: x\r\n0123456789"] * 5
    assert [claim.record.attempts for claim in claims] == [1] * 5
    assert not queue._fresh._octets


async def test_bodies_that_a_lease_leaves_behind_are_read_when_wanted(
    opener: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fresh, "MESSAGES", 0)
    monkeypatch.setattr("mailroot.queue.changes.EAGER_OCTETS", 30)
    queue = await opener()
    for number in range(3):
        await put(queue, b"body %d" % number)
    claims = await queue.claim(3)
    assert [await claim.content.octets() for claim in claims] == [b"Received: x\r\nbody %d" % n for n in range(3)]
    await queue.settle(claims[2], DONE)
    with pytest.raises(QueueError):
        await claims[2].content.octets()


# When disk or database fail


async def pragma(queue: SqliteQueue, text: str) -> None:
    await queue._write(lambda connection: connection.execute(f"PRAGMA {text}").fetchall())


async def test_a_full_database(opener: Opener) -> None:
    queue = await opener()
    await put(queue, b"x" * 60_000)
    pages = await queue._scanning.run(lambda connection: connection.execute("PRAGMA page_count").fetchone()[0])
    await pragma(queue, f"max_page_count = {pages}")
    storing = [put(queue, b"y" * 60_000) for _ in range(3)]
    for result in await asyncio.gather(*storing, return_exceptions=True):
        assert isinstance(result, QueueFull)
    assert len(opener.told) == 1
    assert "no room" in str(opener.told[0])
    assert await queue.counts() == Counts(1, 0, 0, 0, 5.0)
    await pragma(queue, f"max_page_count = {2 * pages}")
    await put(queue, b"y" * 60_000)
    assert opener.told[1:] == [None]
    assert len(await queue.claim(5)) == 2


async def test_on_a_full_disk_what_frees_room_goes_first(opener: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    queue = await opener()
    await put(queue, b"x" * 60_000)
    [claim] = await queue.claim(1)
    apply = writer.Writer._apply

    def full(self: writer.Writer, connection: sqlite3.Connection, batch: list[operation.Operation]) -> None:
        if any(isinstance(each, operation.Insert) for each in batch):
            raise failure("database or disk is full", sqlite3.SQLITE_FULL)
        apply(self, connection, batch)

    monkeypatch.setattr(writer.Writer, "_apply", full)
    with Turn(opener):
        storing = asyncio.ensure_future(put(queue))
        settling = asyncio.ensure_future(queue.settle(claim, DONE))
        while len(queue._waiting) < 2:
            await asyncio.sleep(0)
    results = await asyncio.gather(storing, settling, return_exceptions=True)
    assert isinstance(results[0], QueueFull)
    assert results[1] is None
    assert (await queue.counts()).finished == 1


async def test_a_read_only_database(opener: Opener) -> None:
    queue = await opener()
    await pragma(queue, "query_only = 1")
    with pytest.raises(QueueError):
        await put(queue)
    await put(queue)
    assert (await queue.counts()).queued == 1
    assert opener.told[1:] == [None]


def failure(text: str, code: int) -> sqlite3.Error:
    error = sqlite3.OperationalError(text)
    error.sqlite_errorcode = code
    return error


class Failing:
    """A connection whose next COMMIT fails."""

    def __init__(self, connection: sqlite3.Connection, error: sqlite3.Error, *, after: bool) -> None:
        self._connection = connection
        self._error: sqlite3.Error | None = error
        self._after = after

    def execute(self, statement: str, *values: Any) -> sqlite3.Cursor:
        if statement == "COMMIT" and self._error is not None:
            error, self._error = self._error, None
            if self._after:
                self._connection.execute("COMMIT")
            raise error
        return self._connection.execute(statement, *values)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)


@pytest.mark.parametrize("body", [b"small", LARGE])
@pytest.mark.parametrize(
    ("code", "after"),
    [
        (sqlite3.SQLITE_IOERR_FSYNC, True),  # only a failed sync may leave a commit behind
        (sqlite3.SQLITE_IOERR_FSYNC, False),
        (sqlite3.SQLITE_IOERR_WRITE, False),
        (sqlite3.SQLITE_FULL, False),
        (sqlite3.SQLITE_BUSY, False),
    ],
)
async def test_a_commit_that_fails_is_never_acknowledged(
    opener: Opener, monkeypatch: pytest.MonkeyPatch, after: bool, body: bytes, code: int
) -> None:
    queue = await opener()
    first = await put(queue, body)
    queue._writer._connection = Failing(  # type: ignore[assignment]
        queue._writer._connection,  # type: ignore[arg-type]
        failure("disk I/O error", code),
        after=after,
    )
    with pytest.raises(QueueError) as error:
        await put(queue, body)
    assert isinstance(error.value, QueueFull) == (code == sqlite3.SQLITE_FULL)
    second = await put(queue, body)
    assert opener.told == [str(error.value), None]
    ids = [claim.record.id for claim in await queue.claim(5)]
    assert ids == [first, second]
    await queue.close()
    # Whatever came back with the log is whole.
    queue = await opener()
    claims = await queue.claim(5)
    assert len(claims) == (3 if after else 2)
    for claim in claims:
        pieces = [piece async for piece in claim.content.chunks()]
        assert b"".join(pieces) == b"Received: x\r\n" + body


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
async def test_a_disk_that_takes_no_file(opener: Opener, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    queue = await opener()
    draft = queue.draft()
    await draft.write(LARGE)

    def fail(self: bodies.BodyFile) -> None:
        raise OSError(number, "no")

    with monkeypatch.context() as patched:
        patched.setattr(bodies.BodyFile, "_sync", fail)
        with pytest.raises(QueueError) as error:
            await draft.commit(message())
    assert isinstance(error.value, QueueFull) == (number == errno.ENOSPC)
    await draft.abandon()
    await put(queue, LARGE)
    assert opener.told == [str(error.value), None]
    assert (await queue.counts()).queued == 1
    assert len(files(opener.folder)) == 1


async def test_nobody_waits_for_ever(opener: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    queue = await opener()
    with Turn(opener):
        storing = asyncio.ensure_future(put(queue))
        while not queue._waiting:
            await asyncio.sleep(0)
        monkeypatch.setattr(queue._writer, "busy_for", lambda: 61.0)
        await queue.look()
        with pytest.raises(QueueError, match="not answered"):
            await storing
        with pytest.raises(QueueError):
            await put(queue)
        monkeypatch.undo()
    while queue._waiting:
        await asyncio.sleep(0)
    await put(queue)
    assert opener.told[1:] == [None]


async def test_after_close_nothing_is_promised(opener: Opener) -> None:
    queue = await opener()
    draft = queue.draft()
    await draft.write(b"x")
    await queue.close()
    with pytest.raises(QueueError):
        await draft.commit(message())


# Bounds


async def test_log_and_file_do_not_grow_with_what_passed_through(
    opener: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "CHECKPOINT", 512 * 1024)
    queue = await opener()
    await queue.find(Search(), 5)  # reading connections stay open
    await queue.next_due()
    for _ in range(40):
        await asyncio.gather(*(put(queue, b"b" * 16_384) for _ in range(20)))
        for claim in await queue.claim(20):
            await queue.settle(claim, DONE)
        await queue.find(Search(text="nothing"), 5)
    assert (await queue.counts()).finished == 800
    assert (opener.folder / "queue.sqlite3-wal").stat().st_size < 4 * 1024 * 1024
    assert (opener.folder / "queue.sqlite3").stat().st_size < 4 * 1024 * 1024


async def test_a_log_that_a_reader_kept_is_cut_back(opener: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "CHECKPOINT", 64 * 1024)
    monkeypatch.setattr(writer, "LOG_LIMIT", 512 * 1024)
    monkeypatch.setattr(writer, "READERS_WAIT", 1)
    monkeypatch.setattr(writer, "READERS_AGAIN", 0.0)
    queue = await opener()
    await put(queue)
    reader = schema.connect(opener.folder / "queue.sqlite3")
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM message").fetchone()
    for _ in range(20):
        await put(queue, b"b" * 60_000)
    log = opener.folder / "queue.sqlite3-wal"
    assert log.stat().st_size > 1024 * 1024
    reader.close()
    for _ in range(3):
        await put(queue, b"b" * 60_000)
    assert log.stat().st_size < 512 * 1024
    await queue.close()
    assert not log.exists()


async def test_free_pages_go_back_to_the_disk(opener: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "IDLE", 0.001)
    monkeypatch.setattr(writer, "SHRINK", 64 * 1024)
    queue = await opener()
    await asyncio.gather(*(put(queue, b"b" * 60_000) for _ in range(20)))
    file = opener.folder / "queue.sqlite3"
    await queue.delete(Search())
    async with asyncio.timeout(30):
        while file.stat().st_size > 256 * 1024:
            await asyncio.sleep(0.001)
    assert (await queue.counts()).finished == 20


async def test_closing_while_remains_are_swept(opener: Opener) -> None:
    await (await opener()).close()
    for number in range(3000):
        (opener.folder / "bodies" / f"{format_id(MessageId(number))}-1.body").touch()
    for turns in range(10):
        queue = await opener()
        for _ in range(turns):
            await asyncio.sleep(0)
        await queue.close()
    queue = await opener()
    await asyncio.wait(queue._tasks[1:])
    await queue.close()
    assert files(opener.folder) == []
