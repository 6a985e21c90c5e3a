"""The log: one line per event, as text for people or JSON for programs.

An event becomes a line at once, in the event loop; lines are written together by a thread of the log's own, after a
moment or, when something is wrong, after the same turn of the loop. So neither a slow disk nor a terminal that
somebody has stopped holds up mail: what cannot be written in time is counted, given up and said. What came from
outside is escaped: no event can forge a line or move a cursor.
"""

import asyncio
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, BinaryIO

from mailroot.events import Event, InternalError
from mailroot.units import MIB, Doc, Range, Size


class LogFormat(StrEnum):
    """Text for people, JSON for programs."""

    TEXT = "text"
    JSON = "json"


class LogLevel(StrEnum):
    """How much an event matters, least first."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class LogSettings:
    """What is logged, and where to."""

    format: Annotated[LogFormat, Doc("'text' or 'json'.")] = LogFormat.TEXT
    level: Annotated[
        LogLevel, Doc("The least important events that are logged: 'debug', 'info', 'warning' or 'error'.")
    ] = LogLevel.INFO
    file: Annotated[Path | None, Doc("The file to log to; not set: standard error.", example="mailroot.log")] = None
    max_size: Annotated[Size, Doc("The file is rotated when it is larger; 0: never.")] = 50 * MIB
    keep_files: Annotated[int, Range(least=0), Doc("How many rotated files are kept.")] = 5


_LEVELS = {level.value: rank for rank, level in enumerate(LogLevel)}
_AT_ONCE = _LEVELS["warning"]
_INTERVAL = 0.1
"""Seconds that an ordinary line may wait for others."""
_MOST_WAITING = 4 * MIB
"""Octets, roughly, that wait for the thread; what comes while it has not written them is given up."""
_CLOSE_SECONDS = 5.0
_FULL_SECONDS = 0.05


class Log:
    """Subscribes to the bus: call it with the time and the event, in the event loop's thread. Never raises."""

    def __init__(self, settings: LogSettings, stream: BinaryIO | None = None) -> None:
        """`stream` is written to where no file is set; standard error if not given. Raises OSError when the file
        cannot be opened."""
        self._least = _LEVELS[settings.level]
        self._line: Callable[[float, Event], str] = as_json if settings.format is LogFormat.JSON else as_text
        self._lines: list[str] = []
        self._size = 0
        self._timer: asyncio.Handle | None = None
        self._soon = False
        self._writer = _Writer(_Stream(stream) if settings.file is None else _File(settings))

    def __call__(self, now: float, event: Event) -> None:
        rank = _LEVELS[event.level]
        if rank < self._least:
            return
        line = self._line(now, event)
        self._lines.append(line)
        self._size += len(line)
        if rank >= _AT_ONCE or self._size > 64 * 1024:
            self._schedule_now()
        elif self._timer is None:
            self._schedule_later()

    def finish(self) -> None:
        """Take no more; the thread writes what is left, closes the file and ends. Does not wait for it."""
        self._flush()
        self._writer.finish()

    def close(self) -> None:
        """Finish, and wait until that is done, for seconds at most."""
        self.finish()
        self._writer.wait(_CLOSE_SECONDS)

    def _schedule_later(self) -> None:
        try:
            self._timer = asyncio.get_running_loop().call_later(_INTERVAL, self._flush)
        except RuntimeError:
            # No loop is running: before the service runs, or after.
            self._flush()

    def _schedule_now(self) -> None:
        if self._soon:
            return
        if self._timer is not None:
            self._timer.cancel()
        try:
            self._timer = asyncio.get_running_loop().call_soon(self._flush)
            self._soon = True
        except RuntimeError:
            self._flush()

    def _flush(self) -> None:
        """Hand the lines over to the thread."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._soon = False
        if self._lines:
            lines, self._lines, self._size = self._lines, [], 0
            self._writer.put(lines)


# Where lines go


class _Stream:
    """Standard error, or another stream of octets."""

    def __init__(self, stream: BinaryIO | None) -> None:
        # Past the buffer: a thread that waits in it would keep the process from ending.
        buffer = getattr(sys.stderr, "buffer", None)
        self._stream = stream or getattr(buffer, "raw", buffer)

    def write(self, octets: bytes) -> None:
        view = memoryview(octets)
        while self._stream is not None and view:
            written = self._stream.write(view)
            if written is None:
                # Somebody made it non-blocking, and it is full.
                time.sleep(_FULL_SECONDS)
            else:
                view = view[written:]

    def close(self) -> None:
        """It is not ours."""


class _File:
    """A file that is rotated: mailroot.log becomes mailroot.log.1, that one .2, and so on; the oldest goes. If
    another program moves it away, a new one is begun."""

    def __init__(self, settings: LogSettings) -> None:
        assert settings.file is not None
        self._path = settings.file
        self._most = settings.max_size
        self._keep = settings.keep_files
        self._file: BinaryIO | None = self._open()
        self._torn = False

    def write(self, octets: bytes) -> None:
        file = self._file
        if file is None or self._was_moved(file):
            self.close()
            file = self._file = self._open()
        if self._torn:
            octets = b"\n" + octets
        view = memoryview(octets)
        # Until all of it is written: a disk that fills up takes a part of a line.
        self._torn = True
        while view:
            view = view[file.write(view) :]
        self._torn = False
        if self._most and file.tell() > self._most:
            self._rotate()

    def close(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            file.close()

    def _open(self) -> BinaryIO:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        return self._path.open("ab", buffering=0)

    def _was_moved(self, file: BinaryIO) -> bool:
        if sys.platform == "win32":
            return False  # an open file cannot be moved there
        try:
            there, here = self._path.stat(), os.fstat(file.fileno())
        except FileNotFoundError:
            return True
        return (there.st_dev, there.st_ino) != (here.st_dev, here.st_ino)

    def _rotate(self) -> None:
        self.close()
        # What cannot be moved (somebody reads it, on Windows) goes on growing.
        with suppress(OSError):
            for number in range(self._keep, 0, -1):
                newer = self._numbered(number - 1)
                if newer.exists():
                    newer.replace(self._numbered(number))
            if not self._keep:
                self._path.unlink(missing_ok=True)

    def _numbered(self, number: int) -> Path:
        return self._path.with_name(f"{self._path.name}.{number}") if number else self._path


class _Writer:
    """A thread that writes lines, in their order."""

    def __init__(self, target: _Stream | _File) -> None:
        self._target = target
        self._given = threading.Condition()
        self._waiting: list[list[str]] = []
        self._size = 0
        self._lost = 0
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    def put(self, lines: list[str]) -> None:
        """Write these lines soon; they are given up when too many wait already."""
        with self._given:
            if self._size > _MOST_WAITING or self._closed:
                self._lost += len(lines)
                return
            self._waiting.append(lines)
            self._size += sum(map(len, lines))
            self._given.notify()

    def finish(self) -> None:
        with self._given:
            self._closed = True
            self._given.notify()

    def wait(self, seconds: float) -> None:
        self._thread.join(seconds)

    def _run(self) -> None:
        while True:
            with self._given:
                while not (self._waiting or self._closed):
                    self._given.wait()
                batches, self._waiting, self._size = self._waiting, [], 0
                lost, self._lost = self._lost, 0
                closed = self._closed
            lines = [line for batch in batches for line in batch]
            if lost:
                lines.insert(0, f"({lost} lines of the log could not be written)")
            if lines and not self._write(lines):
                with self._given:
                    self._lost += sum(map(len, batches)) + lost
            if closed:
                with suppress(OSError):
                    self._target.close()
                return

    def _write(self, lines: list[str]) -> bool:
        try:
            self._target.write(("\n".join(lines) + "\n").encode("utf-8", "backslashreplace"))
        except (OSError, ValueError):
            # A full disk or a closed stream must not stop mail.
            return False
        return True


# Lines

_LABELS = {"sender": "from", "recipient": "to", "recipients": "to"}
_MOST_LISTED = 20

_Write = Callable[[Any], str]


@dataclass(frozen=True, slots=True)
class _Plan:
    """How events of one kind are written: the words in front, and each field with its label and how to write it."""

    head: str
    fields: tuple[tuple[str, str, _Write], ...]


_PLANS: dict[type[Event], _Plan] = {}


def _plan(kind: type[Event]) -> _Plan:
    """Made once for each kind of event."""
    names = [field.name for field in fields(kind) if field.name not in ("server", "traceback")]
    if "message" in names:
        names.remove("message")
        names.insert(0, "message")
    found = []
    for name in names:
        label = "" if name == "message" else f"{_LABELS.get(name, name)}="
        found.append((name, label, _WRITTEN.get(name, _written)))
    return _Plan(f"{kind.level:7} {kind.__name__}", tuple(found))


def as_text(now: float, event: Event) -> str:
    """`2026-11-23T10:00:00.123+01:00 info    MessageAccepted 01ABC… from=a@b to=c@d size=4096 client=127.0.0.1`.

    A value that is not one plain word stands in quotes; what is empty is left out. The virtual server is named
    unless it is "default". A traceback follows on lines of its own, each behind a bar.
    """
    kind = type(event)
    plan = _PLANS.get(kind)
    if plan is None:
        plan = _PLANS[kind] = _plan(kind)
    parts = [_local_time(now), plan.head]
    for name, label, write in plan.fields:
        value = getattr(event, name)
        if value != "" and value != ():
            parts.append(label + write(value))
        elif name == "sender":
            parts.append(label + "<>")
    if event.server and event.server != "default":
        parts.append("server=" + _quoted(event.server))
    if isinstance(event, InternalError):
        parts[-1] += "".join(f"\n  | {_escaped(line)}" for line in event.traceback.splitlines())
    return " ".join(parts)


def as_json(now: float, event: Event) -> str:
    """One object: time (UTC), level, event, then the event's own fields by their names."""
    record: dict[str, object] = {"time": _utc_time(now), "level": event.level, "event": type(event).__name__}
    for field in _json_names(type(event)):
        record[field] = getattr(event, field)
    text = _encode(record)
    return text if text.isprintable() else json.dumps(record, separators=(",", ":"), default=str)


_JSON_NAMES: dict[type[Event], tuple[str, ...]] = {}


def _json_names(kind: type[Event]) -> tuple[str, ...]:
    names = _JSON_NAMES.get(kind)
    if names is None:
        names = _JSON_NAMES[kind] = tuple(field.name for field in fields(kind))
    return names


_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), default=str).encode


def _written(value: object) -> str:
    match value:
        case str():
            return _quoted(value)
        case bool():
            return "yes" if value else "no"
        case int():
            return str(value)
        case float():
            return f"{value:.3f}"
        case tuple():
            listed = ",".join(_quoted(str(one)) for one in value[:_MOST_LISTED])
            return listed if len(value) <= _MOST_LISTED else f"{listed},+{len(value) - _MOST_LISTED}"
        case _:
            return _quoted(str(value))


def _quoted(text: str) -> str:
    """As it is where it is one plain word, else quoted and escaped."""
    if text.isprintable() and not (" " in text or '"' in text or "=" in text):
        return text
    return '"' + _escaped(text.replace("\\", "\\\\").replace('"', '\\"')) + '"'


def _escaped(text: str) -> str:
    """With everything in it that is not printable as an escape: control characters, line ends, directions."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "replace").decode("ascii") for c in text)


class _Times:
    """Times as text; what changes once a second is kept."""

    def __init__(self, write: Callable[[int], tuple[str, str]]) -> None:
        self._write = write
        self._second = -1
        self._before = ""
        self._after = ""

    def __call__(self, when: float) -> str:
        second = int(when)
        if second != self._second:
            self._before, self._after = self._write(second)
            self._second = second
        return f"{self._before}.{int((when - second) * 1000):03}{self._after}"


def _local(second: int) -> tuple[str, str]:
    moment = datetime.fromtimestamp(second).astimezone()
    offset = moment.strftime("%z")
    return moment.strftime("%Y-%m-%dT%H:%M:%S"), f"{offset[:3]}:{offset[3:5]}"


def _utc(second: int) -> tuple[str, str]:
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S"), "Z"


_local_time = _Times(_local)
_utc_time = _Times(_utc)
_due_time = _Times(_local)
_WRITTEN: dict[str, _Write] = {"due": _due_time, "delay": lambda seconds: f"{seconds:.3f}s"}
