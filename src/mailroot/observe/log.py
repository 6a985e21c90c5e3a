"""The log: one line per event, as text for people or JSON for programs.

Lines are collected and written together in the next turn of the event loop, so a busy server does not pay a
write per event; `close` writes what is left. What came from outside is escaped: no event can forge a line. What
cannot be written (disk full) is given up, and mail goes on.
"""

import asyncio
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, TextIO

from mailroot.events import Event
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


_LEVELS = list(LogLevel)
_MOST_PENDING = 10_000
"""Lines that wait to be written; beyond, the event that would add one writes them itself."""


class Log:
    """Subscribes to the bus: call it with the time and the event."""

    def __init__(self, settings: LogSettings, stream: TextIO | None = None) -> None:
        """`stream` is written to where no file is set; standard error if not given. Raises OSError when the file
        cannot be opened."""
        self._settings = settings
        self._least = _LEVELS.index(settings.level)
        self._line = _as_json if settings.format is LogFormat.JSON else _as_text
        self._pending: list[str] = []
        self._scheduled = False
        self._size = 0
        self._file: TextIO | None = None
        self._stream = stream or sys.stderr
        if settings.file is not None:
            self._open(settings.file)

    def __call__(self, now: float, event: Event) -> None:
        level = event.level
        if level == "debug" and self._least > 0:
            return
        if _LEVELS.index(LogLevel(level)) < self._least:
            return
        self._pending.append(self._line(now, event))
        if len(self._pending) >= _MOST_PENDING:
            self.flush()
        elif not self._scheduled:
            try:
                asyncio.get_running_loop().call_soon(self.flush)
                self._scheduled = True
            except RuntimeError:
                # No loop is running: before the service runs, or after.
                self.flush()

    def flush(self) -> None:
        """Write what is pending."""
        self._scheduled = False
        if not self._pending:
            return
        text = "\n".join(self._pending) + "\n"
        self._pending.clear()
        try:
            if self._file is None:
                self._stream.write(text)
                self._stream.flush()
            else:
                self._file.write(text)
                self._file.flush()
                self._size += len(text)
                if self._settings.max_size and self._size > self._settings.max_size:
                    self._rotate()
        except (OSError, ValueError):
            # A full disk or a closed stream must not stop mail; what could not be written is gone.
            return

    def close(self) -> None:
        """Write what is left and close the file."""
        self.flush()
        if self._file is not None:
            self._file.close()
            self._file = None

    def _open(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a", encoding="utf-8", newline="\n", errors="replace")
        self._size = self._file.tell()

    def _rotate(self) -> None:
        """mailroot.log becomes mailroot.log.1, that one .2, and so on; the oldest goes."""
        path, keep = self._settings.file, self._settings.keep_files
        assert path is not None
        assert self._file is not None
        self._file.close()
        try:
            for number in range(keep, 0, -1):
                older = path.with_name(f"{path.name}.{number}")
                newer = path.with_name(f"{path.name}.{number - 1}") if number > 1 else path
                if newer.exists():
                    newer.replace(older)
            if not keep:
                path.unlink(missing_ok=True)
        finally:
            self._open(path)


def _names(kind: type[Event]) -> tuple[str, ...]:
    """The fields of an event's kind, looked up once."""
    if kind not in _NAMES:
        _NAMES[kind] = tuple(field.name for field in fields(kind))
    return _NAMES[kind]


_NAMES: dict[type[Event], tuple[str, ...]] = {}


def _as_text(now: float, event: Event) -> str:
    """`2026-11-23T10:00:00.123+01:00 info    MessageAccepted server=default message=01… sender=a@b …`"""
    parts = [_local_time(now), f"{event.level:7}", type(event).__name__]
    for name in _names(type(event)):
        value = getattr(event, name)
        if isinstance(value, tuple):
            value = ",".join(map(str, value))
        elif isinstance(value, float):
            value = _local_time(value) if name == "due" else f"{value:.3f}"
        elif value == "":
            continue
        parts.append(f"{name}={_quoted(str(value))}")
    return " ".join(parts)


def _as_json(now: float, event: Event) -> str:
    """One object: time (UTC), level, event, then the event's own fields."""
    record: dict[str, object] = {
        "time": datetime.fromtimestamp(now, UTC).isoformat(timespec="milliseconds"),
        "level": event.level,
        "event": type(event).__name__,
    }
    for name in _names(type(event)):
        record[name] = getattr(event, name)
    return _encode(record)


_encode: Callable[[object], str] = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), default=str).encode

_second = 0
_prefix = ""
_suffix = ""


def _local_time(now: float) -> str:
    """ISO 8601 in local time with milliseconds; the parts that change once a second are kept."""
    global _second, _prefix, _suffix
    second = int(now)
    if second != _second:
        local = datetime.fromtimestamp(second).astimezone()
        _second, _prefix = second, local.strftime("%Y-%m-%dT%H:%M:%S")
        offset = local.strftime("%z")
        _suffix = f"{offset[:3]}:{offset[3:5]}"
    return f"{_prefix}.{int(now % 1 * 1000):03}{_suffix}"


def _quoted(text: str) -> str:
    """As it is where it is one plain word, else quoted, with anything that is not printable escaped."""
    if text.isprintable() and not (" " in text or '"' in text or "=" in text or not text):
        return text
    return json.dumps(text, ensure_ascii=not text.isprintable())
