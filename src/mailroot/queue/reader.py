"""Reading beside the writer: a thread with a read-only connection of its own.

Reading never blocks writing, but an open read keeps the log from starting again: so no statement here looks at more
than `SLICE` messages, and memory stays bounded however many there are.
"""

import asyncio
import json
import sqlite3
from collections.abc import Callable, Container, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from mailroot.queue import rows, schema
from mailroot.queue.base import (
    MOST_ARRIVALS,
    QUARTER,
    Arrivals,
    Attempt,
    Counts,
    MessageId,
    QueueError,
    Record,
    Search,
    State,
)
from mailroot.queue.search import has_text, matches_text

T = TypeVar("T")

SLICE = 20_000
"""Messages that one statement looks at."""

FEW = 10_000
"""So many unfinished messages are looked up through the index rather than by going through the table."""


class Reader:
    """A thread that reads."""

    def __init__(self, file: Path, name: str) -> None:
        self._file = file
        self._executor = ThreadPoolExecutor(1, thread_name_prefix=f"mailroot-queue-{name}")
        self._connection: sqlite3.Connection | None = None

    async def run(self, read: Callable[..., T], *arguments: object) -> T:
        """The result of `read(connection, *arguments)`, called in the thread. Raises QueueError."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, self._read, read, arguments)

    async def close(self) -> None:
        """Wait for what is being read, and close."""
        await asyncio.get_running_loop().run_in_executor(self._executor, self._disconnect)
        self._executor.shutdown()

    def _read(self, read: Callable[..., T], arguments: tuple[object, ...]) -> T:
        try:
            if self._connection is None:
                self._connection = schema.connect(self._file)
            return read(self._connection, *arguments)
        except sqlite3.Error as error:
            self._disconnect()
            raise QueueError(f"{self._file}: {error}") from error

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


def next_due(connection: sqlite3.Connection) -> float | None:
    """When the next message falls due that nobody has leased."""
    row = connection.execute(
        "SELECT due FROM message INDEXED BY place WHERE state = 0 AND worker = 0 ORDER BY due LIMIT 1"
    ).fetchone()
    return row[0] if row else None


def counts(connection: sqlite3.Connection) -> Counts:
    """How many messages there are; from the index alone."""
    queued, leased, held, finished, oldest = connection.execute(
        """
        SELECT
            (SELECT count(*) FROM message INDEXED BY place WHERE state = 0 AND worker = 0),
            (SELECT count(*) FROM message INDEXED BY place WHERE state = 0 AND worker > 0),
            (SELECT count(*) FROM message INDEXED BY place WHERE state = 1),
            (SELECT count(*) FROM message INDEXED BY place WHERE state = 2),
            (SELECT arrived FROM message
             WHERE id = (SELECT min(id) FROM message INDEXED BY place WHERE state IN (0, 1)))
        """
    ).fetchone()
    return Counts(queued, leased, held, finished, oldest)


def arrivals(connection: sqlite3.Connection, since: float) -> list[Arrivals]:
    """What came in by SMTP since then, by quarter of an hour, client and login, newest first."""
    found: dict[tuple[float, str, str], tuple[int, int]] = {}
    above = (1 << 63) - 1
    while len(found) < MOST_ARRIVALS:
        lowest, latest = connection.execute(
            "SELECT min(id), max(arrived)"
            " FROM (SELECT id, arrived FROM message WHERE id < ? ORDER BY id DESC LIMIT ?)",
            (above, SLICE),
        ).fetchone()
        # Ids rise with time, if not to the second: a slice that is too old as a whole ends it.
        if lowest is None or latest < since:
            break
        for arrived, client, user, messages, recipients in connection.execute(
            """
            SELECT CAST(arrived / :quarter AS INTEGER) * :quarter AS quarter,
                json_extract(origin, '$[1]') AS client, json_extract(origin, '$[3]') AS user,
                count(*), sum(json_array_length(envelope, '$[1]'))
            FROM message
            WHERE id < :above AND id >= :lowest AND arrived >= :since AND json_extract(origin, '$[0]') = 'smtp'
            GROUP BY quarter, client, user
            """,
            {"quarter": QUARTER, "above": above, "lowest": lowest, "since": since},
        ).fetchall():
            before = found.get((arrived, client, user), (0, 0))
            found[arrived, client, user] = (before[0] + messages, before[1] + recipients)
        above = lowest
    newest = sorted(found.items(), reverse=True)[:MOST_ARRIVALS]
    return [Arrivals(client, user, arrived, *numbers) for (arrived, client, user), numbers in newest]


def record(connection: sqlite3.Connection, id: MessageId, unclaimed: Container[MessageId]) -> Record | None:
    """A message's record."""
    row = connection.execute(
        f"SELECT {rows.RECORD_COLUMNS} FROM message WHERE id = ?",  # noqa: S608 - our own words
        (id,),
    ).fetchone()
    return rows.record(row, unclaimed) if row else None


def story(connection: sqlite3.Connection, id: MessageId) -> list[Attempt]:
    """Every attempt of a message, oldest first."""
    row = connection.execute("SELECT story FROM message WHERE id = ?", (id,)).fetchone()
    return rows.story(row[0]) if row else []


def body(connection: sqlite3.Connection, id: MessageId) -> tuple[int, bytes, str | None, bytes | None] | None:
    """Size of a message, prefix, and its body's file or octets, while it has one."""
    row: tuple[int, bytes, str | None, bytes | None] | None = connection.execute(
        "SELECT message.size, message.prefix, body.file, body.octets"
        " FROM message JOIN body ON body.id = message.id WHERE message.id = ?",
        (id,),
    ).fetchone()
    return row


def with_body(connection: sqlite3.Connection, ids: list[MessageId]) -> list[MessageId]:
    """Those of the messages that still have a body."""
    found = connection.execute(
        "SELECT id FROM body WHERE id IN (SELECT value FROM json_each(?))", (json.dumps(ids),)
    )
    return [MessageId(row[0]) for row in found.fetchall()]


def find(
    connection: sqlite3.Connection, search: Search, limit: int, unclaimed: Container[MessageId]
) -> list[Record]:
    """The newest `limit` messages that match, newest first."""
    found: list[Record] = []
    for row in _scan(connection, search, rows.RECORD_COLUMNS):
        if len(found) == limit:
            break
        candidate = rows.record(row, unclaimed)
        if matches_text(search, candidate):
            found.append(candidate)
    return found


def ids(connection: sqlite3.Connection, search: Search, states: tuple[State, ...], limit: int) -> list[MessageId]:
    """The newest `limit` matching messages in one of these states, newest first."""
    wanted = tuple(state for state in states if not search.states or state in search.states)
    if not wanted:
        return []
    search = replace(search, states=wanted)
    if has_text(search):
        return [match.id for match in find(connection, search, limit, ())]
    found: list[MessageId] = []
    for row in _scan(connection, search, "message.id"):
        if len(found) == limit:
            break
        found.append(MessageId(row[0]))
    return found


def _scan(connection: sqlite3.Connection, search: Search, columns: str) -> Iterator[tuple[Any, ...]]:
    """Rows that may match, newest first: texts are only looked for roughly."""
    conditions, values = _conditions(search)
    where = "".join(f" AND {condition}" for condition in conditions)
    few = search.ids or _few(connection, search)
    if few is not None:
        for start in range(0, len(chosen := sorted(few, reverse=True)), SLICE):
            yield from connection.execute(
                f"SELECT {columns} FROM message WHERE id IN (SELECT value FROM json_each(?)){where}"  # noqa: S608
                " ORDER BY id DESC",
                [json.dumps(chosen[start : start + SLICE]), *values],
            ).fetchmany(SLICE)
        return
    above = search.before if search.before is not None else (1 << 63) - 1
    while True:
        row = connection.execute(
            "SELECT min(id), count(*) FROM (SELECT id FROM message WHERE id < ? ORDER BY id DESC LIMIT ?)",
            (above, SLICE),
        ).fetchone()
        if not row[1]:
            return
        cursor = connection.execute(
            f"SELECT {columns} FROM message WHERE id < ? AND id >= ?{where} ORDER BY id DESC",  # noqa: S608
            [above, row[0], *values],
        )
        try:
            while part := cursor.fetchmany(100):
                yield from part
        finally:
            cursor.close()
        above = row[0]


def _few(connection: sqlite3.Connection, search: Search) -> list[MessageId] | None:
    """The unfinished messages in question, if these are few: a long history need not be gone through for them."""
    if not search.states or State.FINISHED in search.states:
        return None
    found: list[MessageId] = []
    for state in search.states:
        found += (
            MessageId(row[0])
            for row in connection.execute(
                "SELECT id FROM message INDEXED BY place WHERE state = ? LIMIT ?",
                (rows.STATE_NUMBERS[state], FEW + 1 - len(found)),
            )
        )
        if len(found) > FEW:
            return None
    return found


def _conditions(search: Search) -> tuple[list[str], list[object]]:
    conditions: list[str] = []
    values: list[object] = []

    def add(condition: str, *given: object) -> None:
        conditions.append(condition)
        values.extend(given)

    if search.states:
        # "+": not through the index, which would be gone through whole for every slice.
        add(f"+state IN ({', '.join(str(rows.STATE_NUMBERS[state]) for state in search.states)})")
    if search.before is not None:
        add("id < ?", search.before)
    if search.since is not None:
        add("arrived >= ?", search.since)
    if search.until is not None:
        add("arrived < ?", search.until)
    for text, columns in (
        (search.sender, ("envelope",)),
        (search.recipient, ("envelope",)),
        (search.subject, ("subject",)),
        (search.message_id, ("message_id",)),
        (search.text, ("envelope", "subject", "message_id")),
    ):
        if text:
            pattern = _pattern(text)
            alternatives = " OR ".join(f"{column} LIKE ? ESCAPE '~'" for column in columns)
            add(f"({alternatives})", *[pattern] * len(columns))
    return conditions, values


def _pattern(text: str) -> str:
    """A LIKE pattern for all that contains the text, and perhaps a little more: SQLite knows upper and lower case
    of ASCII alone, and JSON writes some characters differently."""
    characters = []
    for character in text:
        if not character.isascii() or not character.isprintable() or character in '"\\':
            characters.append("%")
        elif character in "%_~":
            characters.append(f"~{character}")
        else:
            characters.append(character)
    return f"%{''.join(characters)}%"
