"""The database file: made whole or not at all, and looked at before it is touched.

A file that is damaged, that belongs to somebody else, or that a newer Mailroot made is refused and stays byte for
byte as it is, with nothing put beside it. The look costs the same however much the queue holds.
"""

import os
import sqlite3
from importlib import resources
from pathlib import Path

from mailroot.queue.base import QueueRefused
from mailroot.system import make_private, sync_folder

APPLICATION_ID = 0x4D414C52
"""In the file's header (octets 68 to 71): "MALR"."""

VERSION = 1
"""`PRAGMA user_version`: of the schema."""

BUSY = 5000
"""Milliseconds to wait for somebody who has the database to himself. Our own writers take turns without that; it is
for recovery after a crash, and for whoever else opens the file."""

LOG_KEPT = 16 * 1024 * 1024
"""Octets the write-ahead log keeps when it starts again from its beginning: to overwrite is cheaper than to grow,
and a log that a burst made larger is cut back."""

_HEADER = 100
_MAGIC = b"SQLite format 3\0"
_WAY_OUT = "Move the file away to start with an empty queue, or put a good copy in its place"


def connect(file: Path, *, write: bool = False) -> sqlite3.Connection:
    """A connection to an existing database, for one thread at a time. Raises sqlite3.Error.

    The writer syncs at every commit. It leaves checkpoints to `writer`, which knows when they do not disturb.
    """
    connection = sqlite3.connect(
        f"{file.absolute().as_uri()}?mode={'rw' if write else 'ro'}",
        uri=True,
        isolation_level=None,
        check_same_thread=False,
        cached_statements=256,
    )
    try:
        connection.execute(f"PRAGMA busy_timeout = {BUSY}")
        connection.execute("PRAGMA temp_store = MEMORY")
        connection.execute("PRAGMA trusted_schema = OFF")
        connection.execute(f"PRAGMA cache_size = {-8192 if write else -2048}")
        if write:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA wal_autocheckpoint = 0")
            connection.execute(f"PRAGMA journal_size_limit = {LOG_KEPT}")
    except BaseException:
        connection.close()
        raise
    return connection


def prepare(file: Path) -> None:
    """Make the database if there is none; else see that it is ours and whole. Only one process may do this at a
    time. Raises QueueRefused, OSError, sqlite3.Error."""
    if not file.exists() or file.stat().st_size == 0:
        _create(file)
        return
    refuse_foreign(file)
    # Killed while the log was moved into the database, its first page may count pages that are in the log alone
    # yet. To SQLite that is damage as long as it is not shown the log, so then only `_look_through` can tell.
    if not _missing_octets(file):
        _look_at_tables(file)
    _look_through(file)


def _create(file: Path) -> None:
    log = file.with_name(f"{file.name}-wal")
    if log.exists() and log.stat().st_size:
        raise QueueRefused(
            f"{file} is missing or empty, but its log {log.name} is there and may hold messages. Put the database"
            " back beside it, or move the log away to start with an empty queue."
        )
    # Made under another name, so that a crash on the way leaves no half of a database.
    fresh = file.with_name(f"{file.name}.new")
    fresh.unlink(missing_ok=True)
    fresh.touch(0o600)
    make_private(fresh)
    connection = sqlite3.connect(fresh, isolation_level=None)
    try:
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        connection.execute("BEGIN")
        for statement in _statements():
            connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {VERSION}")
        connection.execute("COMMIT")
        connection.execute("PRAGMA journal_mode = WAL")
    finally:
        connection.close()
    with fresh.open("rb+") as made:
        os.fsync(made.fileno())
    fresh.replace(file)
    sync_folder(file.parent)


def _statements() -> list[str]:
    text = resources.files("mailroot.queue").joinpath("sql/schema.sql").read_text(encoding="utf-8")
    statements, lines = [], ""
    for line in text.splitlines(keepends=True):
        lines += line
        if sqlite3.complete_statement(lines):
            statements.append(lines.strip())
            lines = ""
    return statements


def refuse_foreign(file: Path) -> None:
    """See that a file, if there is one, begins like a database of ours. Raises QueueRefused, OSError."""
    if not file.exists() or file.stat().st_size == 0:
        return
    with file.open("rb") as database:
        header = database.read(_HEADER)
    if not header.startswith(_MAGIC) or len(header) < _HEADER:
        raise QueueRefused(f"{file} is not a SQLite database, or its beginning is damaged. {_WAY_OUT}.")
    application, version = int.from_bytes(header[68:72], "big"), int.from_bytes(header[60:64], "big")
    if application != APPLICATION_ID:
        raise QueueRefused(
            f"{file} is a SQLite database, but not a Mailroot queue. Give the queue a folder of its own, or move"
            " the file away."
        )
    if version > VERSION:
        raise QueueRefused(
            f"{file} was made by a newer Mailroot (queue version {version}; this one knows {VERSION}). Start that"
            " Mailroot, or move the file away to start with an empty queue."
        )
    if version < 1:
        raise QueueRefused(f"{file} is damaged: it says it is queue version {version}. {_WAY_OUT}.")
    log = file.with_name(f"{file.name}-wal")
    if (missing := _missing_octets(file)) and not (log.exists() and log.stat().st_size):
        raise QueueRefused(f"{file} is damaged: {missing:,} octets are missing at its end. {_WAY_OUT}.")


def _missing_octets(file: Path) -> int:
    """How much shorter the database is than its first page says."""
    with file.open("rb") as database:
        header = database.read(_HEADER)
    page = int.from_bytes(header[16:18], "big")
    octets = int.from_bytes(header[28:32], "big") * (65536 if page == 1 else page)
    return max(0, octets - file.stat().st_size)


def _look_at_tables(file: Path) -> None:
    # immutable: neither locks nor a log nor any other file. The schema was never in a log (see `_create`).
    try:
        connection = sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro&immutable=1", uri=True)
        try:
            found = {row[0] for row in connection.execute("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL")}
        finally:
            connection.close()
    except sqlite3.Error as error:
        raise QueueRefused(f"{file} is damaged ({error}). {_WAY_OUT}.") from error
    if missing := {_plain(statement) for statement in _statements()} - {_plain(statement) for statement in found}:
        what = ", ".join(sorted(" ".join(statement.split()[:3]) for statement in missing))
        raise QueueRefused(f"{file} is damaged: it lacks {what}. {_WAY_OUT}.")


def _plain(statement: str) -> str:
    """A statement without comments and line breaks, to compare with what SQLite remembers of it."""
    lines = (line.partition("--")[0] for line in statement.splitlines())
    return " ".join(" ".join(lines).removesuffix(";").rstrip("; ").split())


def _look_through(file: Path) -> None:
    """Go down both edges of each tree, with the log taken into account."""
    beside = [file.with_name(file.name + suffix) for suffix in ("-wal", "-shm")]
    before = [path.exists() for path in beside]
    try:
        connection = connect(file)  # read-only: it would not move the log into the database when it closes
        try:
            for column, source in (
                ("id", "message"),
                ("due", "message INDEXED BY place WHERE state = 0"),
                ("due", "message INDEXED BY place WHERE state = 2"),
                ("id", "body"),
                ("id", "worker"),
            ):
                connection.execute(f"SELECT min({column}) FROM {source}").fetchone()  # noqa: S608 - our own words
                connection.execute(f"SELECT max({column}) FROM {source}").fetchone()  # noqa: S608
        finally:
            connection.close()
    except sqlite3.DatabaseError as error:
        if getattr(error, "sqlite_errorcode", 0) & 0xFF not in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            raise
        for path, was_there in zip(beside, before, strict=True):
            if not was_there:
                path.unlink(missing_ok=True)
        raise QueueRefused(f"{file} is damaged ({error}). {_WAY_OUT}.") from error
