"""What the writer is asked to do, and how it answers. Nothing is done here."""

import sqlite3
from asyncio import Future
from collections.abc import Callable, Sequence
from typing import Any

from mailroot.queue import rows
from mailroot.queue.base import QueueError


class CommitUnknown(QueueError):
    """The commit failed, but a crash now could still bring the transaction back: nothing may be acknowledged, and
    nothing that it names may be removed."""


class Operation:
    """Something to be done in a transaction. When that is over, `error` or `result` is there, `done` is called with
    the operation in the event loop (whether or not somebody still waits), and then the future is set."""

    __slots__ = ("done", "error", "future", "octets", "result")

    def __init__(self, future: Future[Any], octets: int = 0, done: Callable[[Any], None] | None = None) -> None:
        self.future = future
        self.octets = octets
        self.done = done
        self.result: Any = None
        self.error: BaseException | None = None


class Insert(Operation):
    """Store a new message: its rows, as `rows.insertion` has them."""

    __slots__ = ("rows",)

    def __init__(self, future: Future[Any], rows: rows.New, octets: int, done: Callable[[Any], None]) -> None:
        super().__init__(future, octets, done)
        self.rows = rows


class Settle(Operation):
    """Store the result of an attempt, as `rows.settlement` has it, and reports as new messages, if the lease is
    still ours; else the error is LeaseLost."""

    __slots__ = ("reports", "row")

    def __init__(
        self,
        future: Future[Any],
        row: rows.Row,
        reports: Sequence[rows.New],
        octets: int,
        done: Callable[[Any], None],
    ) -> None:
        super().__init__(future, octets, done)
        self.row = row
        self.reports = reports


class Work(Operation):
    """Anything else: `run` is called with the connection inside the transaction, and again, alone, if the
    transaction had to be taken back. `peek` is asked before there is one: if its answer is not None, that is the
    result, and no transaction is needed."""

    __slots__ = ("peek", "run")

    def __init__(
        self,
        future: Future[Any],
        run: Callable[[sqlite3.Connection], object],
        peek: Callable[[sqlite3.Connection], object] | None = None,
        done: Callable[[Any], None] | None = None,
    ) -> None:
        super().__init__(future, 0, done)
        self.run = run
        self.peek = peek
