"""The processes that share a queue: numbers, signs of life, and what becomes of a dead one's messages.

A worker is a number whose lock file it holds for as long as it lives; the operating system lets go of it when the
process dies, however it dies. So who finds the lock free knows, and gives the messages back at once. A process that
lives but does nothing (stopped, or starved) keeps its lock: for that case a worker that shares the queue also
raises a number in the database, its beat. It is not compared with any clock, which may jump or run on while the
machine is suspended: who sees the same beat at `PATIENCE` looks of its own, one after another, takes the messages
over.
"""

import sqlite3
from pathlib import Path

from mailroot.system import FileLock

LOOK = 5.0
"""Seconds between two looks at the others."""

PATIENCE = 6
"""Looks without a beat after which a worker has lost its leases."""


class Worker:
    """This process's number, held until `leave`."""

    def __init__(self, folder: Path) -> None:
        """Take the lowest free number. Raises OSError."""
        self._folder = folder
        self.number = 1
        while (lock := _take(folder, self.number)) is None:
            self.number += 1
        self._lock = lock

    def leave(self) -> None:
        """Give the number up."""
        self._lock.close()

    def vacant(self) -> list[int]:
        """Numbers that somebody had and nobody has now. Raises OSError."""
        vacant = []
        for path in self._folder.glob("worker-*.lock"):
            number = path.name.removeprefix("worker-").removesuffix(".lock")
            if number.isdecimal() and int(number) != self.number and (lock := _take(self._folder, int(number))):
                lock.close()
                vacant.append(int(number))
        return vacant

    def take(self, number: int) -> FileLock | None:
        """Hold another's number while its remains are cleared away; None if it is alive after all."""
        return _take(self._folder, number)


def _take(folder: Path, number: int) -> FileLock | None:
    lock = FileLock(folder / f"worker-{number}.lock")
    if lock.try_acquire():
        return lock
    lock.close()
    return None


class Watch:
    """What this worker saw of the others' beats."""

    def __init__(self) -> None:
        self._seen: dict[int, tuple[int, int]] = {}

    def silent(self, beats: dict[int, int]) -> list[int]:
        """Look once more: who has not moved for `PATIENCE` looks."""
        self._seen = {
            number: (
                beat,
                self._seen[number][1] + 1 if number in self._seen and self._seen[number][0] == beat else 0,
            )
            for number, beat in beats.items()
        }
        return [number for number, (_, looks) in self._seen.items() if looks >= PATIENCE]


def others(connection: sqlite3.Connection, number: int) -> dict[int, int]:
    """The beats of the other workers."""
    return dict(connection.execute("SELECT id, beat FROM worker WHERE id <> ?", (number,)))


def enter(connection: sqlite3.Connection, number: int) -> None:
    """Be known to the others; whatever an earlier worker of this number had leased is free."""
    give_up(connection, number)
    connection.execute("INSERT INTO worker (id, beat) VALUES (?, 0)", (number,))


def beat(connection: sqlite3.Connection, number: int) -> bool:
    """Give a sign of life; False: it came too late, the leases are lost, and we are known anew."""
    if connection.execute("UPDATE worker SET beat = beat + 1 WHERE id = ?", (number,)).rowcount:
        return True
    connection.execute("INSERT INTO worker (id, beat) VALUES (?, 0)", (number,))
    return False


def has_remains(connection: sqlite3.Connection, number: int) -> bool:
    """Whether the database knows this worker or something that it has leased."""
    return bool(
        connection.execute(
            "SELECT EXISTS (SELECT 1 FROM worker WHERE id = :number)"
            " OR EXISTS (SELECT 1 FROM message INDEXED BY place WHERE state = 0 AND worker = :number)",
            {"number": number},
        ).fetchone()[0]
    )


def give_up(connection: sqlite3.Connection, number: int) -> int:
    """Free everything a worker has leased and forget the worker; how many messages that were."""
    connection.execute("DELETE FROM worker WHERE id = ?", (number,))
    return connection.execute(
        "UPDATE message INDEXED BY place SET worker = 0 WHERE state = 0 AND worker = ?", (number,)
    ).rowcount
