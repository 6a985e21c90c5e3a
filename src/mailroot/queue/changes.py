"""What the writer does in a transaction besides new messages and settlements (those are in `writer`, for speed).

Each function is called with the writer's connection, in its thread. None of them begins or ends a transaction.
"""

import json
import math
import sqlite3
from collections.abc import Callable, Iterable
from typing import Any

from mailroot.queue import reader, rows
from mailroot.queue.base import LEASE_LOST, LeaseLost, MessageId, State

EAGER_OCTETS = 4 * 1024 * 1024
"""Octets of bodies that a lease brings along at most; the others are read when they are wanted."""

Leased = tuple[list[tuple[Any, ...]], dict[int, bytes], float]
"""Rows of `RECORD_COLUMNS` (as they were before) with the name of the body's file at the end, bodies by id, and
when the next message falls due, infinity if none does."""


def nothing_due(connection: sqlite3.Connection, now: float) -> Leased | None:
    """The answer to `lease` if there is nothing to lease; else None."""
    due = reader.next_due(connection)
    return None if due is not None and due <= now else ([], {}, math.inf if due is None else due)


def lease(connection: sqlite3.Connection, worker: int, now: float, limit: int) -> Leased:
    """Lease due messages to a worker, oldest due first, and count the attempt."""
    found = connection.execute(
        f"SELECT {rows.RECORD_COLUMNS}, body.file FROM message INDEXED BY place"  # noqa: S608 - our own words
        " LEFT JOIN body ON body.id = message.id"
        " WHERE state = 0 AND worker = 0 AND due <= ? ORDER BY due, message.id LIMIT ?",
        (now, limit),
    ).fetchall()
    connection.execute(
        "UPDATE message SET worker = ?, attempts = attempts + 1 WHERE id IN (SELECT value FROM json_each(?))",
        (worker, _list(row[0] for row in found)),
    )
    eager, octets = [], 0
    for row in found:
        octets += row[8]
        if row[-1] is None and octets <= EAGER_OCTETS:
            eager.append(row[0])
    bodies = dict(
        connection.execute(
            "SELECT id, octets FROM body WHERE id IN (SELECT value FROM json_each(?))", (_list(eager),)
        ).fetchall()
    )
    due = reader.next_due(connection)
    return found, bodies, math.inf if due is None else due


def give_back(connection: sqlite3.Connection, worker: int, id: MessageId, attempts: int, due: float) -> None:
    """Undo a lease: due then, not counted. Raises LeaseLost."""
    changed = connection.execute(
        "UPDATE message SET worker = 0, attempts = attempts - 1, due = ?"
        " WHERE id = ? AND worker = ? AND attempts = ? AND state = 0",
        (due, id, worker, attempts),
    ).rowcount
    if not changed:
        raise LeaseLost(LEASE_LOST)


def free(connection: sqlite3.Connection, worker: int, ids: list[MessageId]) -> None:
    """Undo leases in advance: not counted, and due when they were."""
    connection.execute(
        "UPDATE message SET worker = 0, attempts = attempts - 1"
        " WHERE id IN (SELECT value FROM json_each(?)) AND worker = ? AND state = 0",
        (_list(ids), worker),
    )


Changed = tuple[list[MessageId], list[str]]
"""The ids of what an owner's verb changed, newest first, and the body files that nobody needs any more."""

Change = Callable[[sqlite3.Connection, list[MessageId], float], Changed]
"""An owner's verb: changes those of the messages that are in the state it is for, and that nobody is at."""


def retry(connection: sqlite3.Connection, ids: list[MessageId], now: float) -> Changed:
    """Make queued messages due."""
    return _assign(connection, _changeable(connection, ids, State.QUEUED), "due = :now", now), []


def hold(connection: sqlite3.Connection, ids: list[MessageId], now: float) -> Changed:
    """Hold queued messages."""
    return _assign(connection, _changeable(connection, ids, State.QUEUED), f"state = {rows.HELD}", now), []


def release(connection: sqlite3.Connection, ids: list[MessageId], now: float) -> Changed:
    """Let held messages go."""
    chosen = _changeable(connection, ids, State.HELD)
    return _assign(connection, chosen, f"state = {rows.QUEUED}, due = :now", now), []


def delete(connection: sqlite3.Connection, ids: list[MessageId], now: float) -> Changed:
    """Finish messages without delivering them."""
    chosen = _changeable(connection, ids, State.QUEUED, State.HELD)
    _assign(connection, chosen, f"state = {rows.FINISHED}, deleted = 1, due = :now, prefix = x''", now)
    files = connection.execute(
        "SELECT file FROM body WHERE id IN (SELECT value FROM json_each(?)) AND file IS NOT NULL", (_list(chosen),)
    ).fetchall()
    connection.execute("DELETE FROM body WHERE id IN (SELECT value FROM json_each(?))", (_list(chosen),))
    return chosen, [row[0] for row in files]


def forget(connection: sqlite3.Connection, before: float, limit: int) -> int:
    """Remove records of messages finished before a time, the oldest first; how many."""
    return connection.execute(
        "DELETE FROM message WHERE id IN (SELECT id FROM message INDEXED BY place"
        " WHERE state = 2 AND worker = 0 AND due < ? ORDER BY due LIMIT ?)",
        (before, limit),
    ).rowcount


def _changeable(connection: sqlite3.Connection, ids: list[MessageId], *states: State) -> list[MessageId]:
    """Those of the messages that are in one of the states and that nobody is at, newest first."""
    numbers = ", ".join(str(rows.STATE_NUMBERS[state]) for state in states)
    found = connection.execute(
        "SELECT id FROM message WHERE id IN (SELECT value FROM json_each(?))"  # noqa: S608 - our own words
        f" AND state IN ({numbers}) AND worker = 0 ORDER BY id DESC",
        (_list(ids),),
    )
    return [MessageId(row[0]) for row in found.fetchall()]


def _assign(connection: sqlite3.Connection, ids: list[MessageId], assignments: str, now: float) -> list[MessageId]:
    connection.execute(
        f"UPDATE message SET {assignments} WHERE id IN (SELECT value FROM json_each(:ids))",  # noqa: S608
        {"ids": _list(ids), "now": now},
    )
    return ids


def _list(ids: Iterable[int]) -> str:
    """Ids for `json_each`: one value for any number of them."""
    return json.dumps(list(ids))
