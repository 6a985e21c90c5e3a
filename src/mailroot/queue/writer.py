"""The one thread of this process that writes to the database: group commit.

Whatever sessions and agent want stored while a commit is on its way goes into the next one, all of it in a single
transaction with a single sync. Several processes take turns through a file lock, which wakes the next in line,
where SQLite's own waiting would sleep and guess.

The thread gives up the interpreter whenever it calls SQLite and may get it back late when the event loop is busy.
So it calls seldom: rows travel many at a time, one statement for up to `ROWS` of them. With one statement per row,
a busy event loop made commits wait for seconds.

A database or log that was deleted or replaced while it is open would still take transactions, and they would be
gone with the process: so before each commit it is seen that both are where they were. If not, nothing is stored
until they are back, or the queue is opened anew.

On a disk with little room new messages are refused before the rest is gone, and the log is moved into the
database after each transaction: what is queued can still be delivered, and so makes room.

What fails: an operation that is itself at fault (a duplicate id, a lost lease) fails alone, its neighbours are
stored without it. When disk or database fail, all of a transaction fail, nothing of it is stored, and the next
transaction tries with a fresh connection. A commit that fails after it may have reached the disk is
`CommitUnknown`.
"""

import queue
import sqlite3
import sys
import threading
import time
from asyncio import AbstractEventLoop
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from mailroot.queue import rows, schema
from mailroot.queue.base import LEASE_LOST, LeaseLost, QueueError, QueueFull
from mailroot.queue.bodies import queue_error, see_room
from mailroot.queue.operation import CommitUnknown, Insert, Operation, Settle, Work
from mailroot.system import FileLock, free_disk

MOST_OPERATIONS = 256
"""Operations in one transaction."""

MOST_OCTETS = 8 * 1024 * 1024
"""Octets of bodies in one transaction; what is beyond waits for the next."""

ROWS = 64
"""Rows in one statement at most, and any power of two below, so that few are prepared and all stay so."""

CHECKPOINT = 4 * 1024 * 1024
"""Move the log into the database when about so many octets went into it."""

LOG_LIMIT = 64 * 1024 * 1024
"""A log this large is cut back, and for that waits for those who read it, ..."""

READERS_WAIT = 500
"""... so many milliseconds, ..."""

READERS_AGAIN = 30.0
"""... and if one of them does not finish, tries again after so many seconds: ours are short, others' may not be."""

IDLE = 1.0
"""Seconds without work after which the thread tidies up."""

SHRINK = 16 * 1024 * 1024
"""When idle, give free pages back to the disk if they are more than this, or the disk is short of room."""

_ENVIRONMENT = {
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_PROTOCOL,
    sqlite3.SQLITE_NOTADB,
    sqlite3.SQLITE_PERM,
}


_Which = tuple[int, int]
"""Device and number of a file."""

_WAY_BACK = "nothing is stored until it is back, or the virtual server is restarted"

_UNSYNCED = {sqlite3.SQLITE_IOERR_WRITE, sqlite3.SQLITE_IOERR_READ, sqlite3.SQLITE_IOERR_SHORT_READ}
"""I/O errors after which the mark that commits cannot be in the log."""


class Writer:
    """Runs the thread. `answer` is called in the event loop with a transaction's operations when it is over."""

    def __init__(self, file: Path, turn: FileLock, answer: Callable[[list[Operation]], None]) -> None:
        self._file = file
        self._turn = turn
        self._answer = answer
        self._operations: queue.SimpleQueue[Operation | None] = queue.SimpleQueue()
        self._connection: sqlite3.Connection | None = None
        self._written = 0
        self._cut_after = 0.0
        self._short = False
        self._log = file.with_name(f"{file.name}-wal")
        # Which files these are: the database as it was at first, the log since this connection was made.
        self._is_file: _Which | None = None
        self._is_log: _Which | None = None
        self._tidied = True
        self._busy_since: float | None = None
        self._thread: threading.Thread | None = None

    def start(self, loop: AbstractEventLoop) -> None:
        """Start the thread; it answers into this loop."""
        self._thread = threading.Thread(target=self._run, args=(loop,), name="mailroot-queue-writer", daemon=True)
        self._thread.start()

    def submit(self, operation: Operation) -> None:
        """Have an operation done with the next transaction. Never blocks."""
        self._operations.put(operation)

    def stop(self) -> None:
        """Do what was submitted, then end the thread. Blocks until then."""
        if self._thread is not None:
            self._operations.put(None)
            self._thread.join()
            self._thread = None

    def busy_for(self) -> float:
        """Seconds that the thread has been at its present transaction; 0 if it waits for work."""
        since = self._busy_since
        return 0.0 if since is None else time.monotonic() - since

    # All below runs in the thread.

    def _run(self, loop: AbstractEventLoop) -> None:
        while (batch := self._collect()) is not None:
            if batch:
                self._busy_since = time.monotonic()
                self._store(batch)
                self._deliver(loop, batch)
                if self._written >= CHECKPOINT or (self._short and self._written):
                    self._checkpoint()
                self._busy_since = None
            else:
                self._tidy()
        self._disconnect()

    def _collect(self) -> list[Operation] | None:
        """What is to be stored together; empty: nothing came for a while; None: the end."""
        try:
            first = self._operations.get(timeout=None if self._tidied else IDLE)
        except queue.Empty:
            return []
        if first is None:
            return None
        batch, octets = [first], first.octets
        try:
            while len(batch) < MOST_OPERATIONS and octets < MOST_OCTETS:
                following = self._operations.get_nowait()
                if following is None:
                    self._operations.put(None)
                    break
                batch.append(following)
                octets += following.octets
        except queue.Empty:
            pass
        return batch

    def _deliver(self, loop: AbstractEventLoop, batch: list[Operation]) -> None:
        try:
            loop.call_soon_threadsafe(self._answer, batch)
        except RuntimeError:
            return  # the loop is closed: nobody is waiting any more

    def _store(self, batch: list[Operation]) -> None:
        """Store a batch in one transaction, or what can be stored of it one by one."""
        try:
            self._transact(batch)
        except Exception as error:  # noqa: BLE001 - the border of the thread: every error goes to who waits
            alone = _at_fault_itself(error)
            if len(batch) > 1 and (alone or _code(error) == sqlite3.SQLITE_FULL):
                # On a full disk what frees room goes first: a finished message gives up its body.
                for operation in sorted(batch, key=lambda operation: isinstance(operation, Insert)):
                    self._store([operation])
            else:
                fault = self._translate(error)
                for operation in batch:
                    operation.error = fault
            if not alone and _code(error) != sqlite3.SQLITE_FULL:
                self._disconnect()

    def _translate(self, error: Exception) -> BaseException:
        if isinstance(error, sqlite3.Error):
            code = _code(error)
            if code == sqlite3.SQLITE_FULL or (code == sqlite3.SQLITE_IOERR and self._no_room()):
                return QueueFull(f"no room for {self._file}: {error}")
            return QueueError(f"{self._file}: {error}")
        if isinstance(error, OSError):
            return queue_error(error)
        return error

    def _no_room(self) -> bool:
        try:
            return free_disk(self._file.parent) < CHECKPOINT
        except OSError:
            return False

    def _transact(self, batch: list[Operation]) -> None:
        if self._connection is None:
            self._connection = schema.connect(self._file, write=True)
        connection = self._connection
        works = [operation for operation in batch if isinstance(operation, Work)]
        if len(works) == len(batch) and all(self._peeked(connection, work) for work in works):
            return
        if any(isinstance(operation, Insert) for operation in batch):
            self._see_room(connection)
        self._turn.acquire()
        try:
            connection.execute("BEGIN IMMEDIATE")
            try:
                self._see_in_place()
                self._apply(connection, batch)
            except BaseException:
                self._roll_back(connection)
                raise
            self._commit(connection)
        finally:
            self._turn.release()
        self._written += sum(operation.octets for operation in batch) + 4096 * 8
        self._tidied = False

    def _see_room(self, connection: sqlite3.Connection) -> None:
        """Raises QueueFull when what is left of the disk, or free in the database, is not for new messages."""
        try:
            see_room(self._file.parent)
        except OSError as error:
            self._short = True
            try:
                see_room(self._file.parent, self._free_octets(connection))
            except OSError:
                raise queue_error(error) from error
        else:
            self._short = False

    @staticmethod
    def _free_octets(connection: sqlite3.Connection) -> int:
        """What the database holds in free pages."""
        pages: int = connection.execute("PRAGMA freelist_count").fetchone()[0]
        octets: int = connection.execute("PRAGMA page_size").fetchone()[0]
        return pages * octets

    def _see_in_place(self) -> None:
        """Raises QueueError when the path leads to another file than the one we write to, or to none."""
        if sys.platform == "win32":
            return  # an open file can be neither removed nor replaced there
        self._is_file = self._same(self._file, self._is_file)
        self._is_log = self._same(self._log, self._is_log)

    @staticmethod
    def _same(path: Path, before: "_Which | None") -> "_Which":
        try:
            found = path.stat()
        except FileNotFoundError:
            raise QueueError(f"{path} was removed while it was in use; {_WAY_BACK}") from None
        which = found.st_dev, found.st_ino
        if before is not None and which != before:
            raise QueueError(f"{path} was replaced while it was in use; {_WAY_BACK}")
        return which

    @staticmethod
    def _peeked(connection: sqlite3.Connection, work: Work) -> bool:
        if work.peek is None:
            return False
        work.result = work.peek(connection)
        return work.result is not None

    def _apply(self, connection: sqlite3.Connection, batch: list[Operation]) -> None:
        messages: list[rows.Row] = []
        bodies: list[rows.Row] = []
        settled: list[rows.Row] = []
        for operation in batch:
            if isinstance(operation, Insert):
                messages.append(operation.rows[0])
                bodies.append(operation.rows[1])
            elif isinstance(operation, Settle):
                settled.append(operation.row)
                for row, body in operation.reports:
                    messages.append(row)
                    bodies.append(body)
        if messages:
            for insert, values in _statements(_INSERT_MESSAGE, messages):
                connection.execute(insert, values)
            for insert, values in _statements(_INSERT_BODY, bodies):
                connection.execute(insert, values)
        if settled:
            changed = sum(
                connection.execute(update, values).rowcount for update, values in _statements(_SETTLE, settled)
            )
            if changed != len(settled):
                raise LeaseLost(LEASE_LOST)
            if gone := [(row[4],) for row in settled if row[0] == rows.FINISHED]:
                for delete, values in _statements(_DELETE_BODY, gone):
                    connection.execute(delete, values)
        for operation in batch:
            if isinstance(operation, Work):
                operation.result = operation.run(connection)

    def _commit(self, connection: sqlite3.Connection) -> None:
        """When this returns, the transaction is synced to disk."""
        try:
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            self._roll_back(connection)
            # The mark that commits is the last that is written to the log. If writing failed it is not there; if
            # only the sync failed, it may be.
            if _code(error) == sqlite3.SQLITE_IOERR and getattr(error, "sqlite_errorcode", 0) not in _UNSYNCED:
                raise CommitUnknown(f"{self._file}: {error}") from error
            raise

    @staticmethod
    def _roll_back(connection: sqlite3.Connection) -> None:
        try:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
        except sqlite3.Error:
            return  # it goes with the connection, which is given up after such an error

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        self._is_log = None
        if connection is not None:
            try:
                connection.close()
            except sqlite3.Error:
                return  # nothing more can be done with it

    def _checkpoint(self) -> None:
        """Move the log into the database. With the turn in hand nobody adds to the log meanwhile, so the next
        transaction of anybody can start it again from its beginning."""
        self._written = 0
        if self._connection is None:
            return
        try:
            now = time.monotonic()
            cut = now >= self._cut_after and self._log.stat().st_size >= LOG_LIMIT
            self._turn.acquire()
            try:
                if cut:
                    self._connection.execute(f"PRAGMA busy_timeout = {READERS_WAIT}")
                    busy, *_ = self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
                    self._cut_after = now + READERS_AGAIN if busy else 0.0
                    self._connection.execute(f"PRAGMA busy_timeout = {schema.BUSY}")
                else:
                    self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
            finally:
                self._turn.release()
        except (sqlite3.Error, OSError):
            return  # the messages are safe in the log; what ails the disk is told by the next transaction

    def _tidy(self) -> None:
        """Nothing to do for a while: empty the log, and give back room that is no longer needed."""
        self._tidied = True
        self._checkpoint()
        if self._connection is None:
            return
        try:
            page = self._connection.execute("PRAGMA page_size").fetchone()[0]
            if self._free_octets(self._connection) < (page if self._short else SHRINK):
                return
            self._turn.acquire()
            try:
                # In steps, so that work that comes in waits for one of them at most.
                self._connection.execute(f"PRAGMA incremental_vacuum({SHRINK // 4 // page})").fetchall()
            finally:
                self._turn.release()
        except (sqlite3.Error, OSError):
            return
        self._tidied = False


def _code(error: Exception) -> int:
    """SQLite's primary error code; 0 for any other error."""
    code: int = getattr(error, "sqlite_errorcode", 0)
    return code & 0xFF


def _at_fault_itself(error: Exception) -> bool:
    """Whether one operation is to blame rather than disk or database."""
    if isinstance(error, sqlite3.Error):
        return _code(error) not in _ENVIRONMENT
    return not isinstance(error, (OSError, CommitUnknown))


class _Statement:
    """A statement that takes many rows: `head`, `row` once for each of them, `tail`."""

    def __init__(self, head: str, row: str, tail: str = "") -> None:
        self.text = {}
        count = 1
        while count <= ROWS:
            self.text[count] = f"{head.strip()} {', '.join([row] * count)}{tail}"
            count *= 2


_INSERT_MESSAGE = _Statement(
    f"INSERT INTO message ({', '.join(rows.MESSAGE_COLUMNS)}) VALUES ",  # noqa: S608 - our own words
    f"({', '.join('?' * len(rows.MESSAGE_COLUMNS))})",
)
_INSERT_BODY = _Statement(f"INSERT INTO body ({', '.join(rows.BODY_COLUMNS)}) VALUES ", "(?, ?, ?)")  # noqa: S608
_DELETE_BODY = _Statement("DELETE FROM body WHERE id IN (", "?", ")")
# The statement begins with UPDATE so that the driver counts what it changes.
_SETTLE = _Statement(
    f"""
    UPDATE message SET
        state = settled.column1,
        worker = 0,
        due = settled.column2,
        delay_reported = max(message.delay_reported, settled.column3),
        story = message.story || settled.column4,
        prefix = CASE settled.column1 WHEN {rows.FINISHED} THEN x'' ELSE message.prefix END
    FROM (VALUES """,  # noqa: S608 - our own words
    "(?, ?, ?, ?, ?, ?, ?)",
    f""") AS settled
    WHERE message.id = settled.column5 AND message.worker = settled.column6
        AND message.attempts = settled.column7 AND +message.state = {rows.QUEUED}""",
)


def _statements(statement: _Statement, values: Sequence[rows.Row]) -> Iterator[tuple[str, list[Any]]]:
    """What to execute so that every row is in: as many rows at a time as there is a statement for."""
    start, left, count = 0, len(values), ROWS
    while left:
        while count > left:
            count //= 2
        yield statement.text[count], [value for row in values[start : start + count] for value in row]
        start += count
        left -= count
