"""The log: what a line looks like, that it gets written, and that nothing about it can stop mail."""

import asyncio
import io
import json
import os
import sys
import threading
from pathlib import Path

import pytest

from mailroot.clock import ManualClock
from mailroot.events import (
    Bus,
    ConfigurationWarning,
    Event,
    InternalError,
    MessageAccepted,
    RecipientDeferred,
    RecipientDelivered,
    ServerChanged,
    SessionOpened,
)
from mailroot.observe.log import Log, LogFormat, LogLevel, LogSettings, as_json, as_text

pytestmark = pytest.mark.quick

NOW = 1_800_000_000.25
ACCEPTED = MessageAccepted(
    server="default",
    message="0AMHM5MN4SC00",
    session="9fd9b516",
    client="192.0.2.1",
    door="smtp",
    sender="ann@example.com",
    recipients=("bob@example.net", "eve@example.net"),
    size=4096,
    message_id="<1@example.com>",
    subject="Two words",
)
DEFERRED = RecipientDeferred(
    server="partners",
    message="0AMHM5MN4SC00",
    sender="",
    recipient="bob@example.net",
    route="smart host",
    host="",
    reply="450 4.7.1 Later",
    attempts=2,
    due=NOW + 60,
)


def text_of(event: Event) -> str:
    """The line without its time."""
    time, _, rest = as_text(NOW, event).partition(" ")
    assert time.startswith("2027-01-1")
    assert ".250" in time
    assert time[-6] in "+-"
    return rest


def written(settings: LogSettings, *events: Event) -> str:
    stream = io.BytesIO()
    log = Log(settings, stream)
    for event in events:
        log(NOW, event)
    log.close()
    return stream.getvalue().decode()


def test_a_line_of_text_is_for_people() -> None:
    assert text_of(ACCEPTED) == (
        "info    MessageAccepted 0AMHM5MN4SC00 session=9fd9b516 client=192.0.2.1 door=smtp from=ann@example.com "
        'to=bob@example.net,eve@example.net size=4096 message_id=<1@example.com> subject="Two words"'
    )
    line = text_of(DEFERRED)
    assert line.startswith('warning RecipientDeferred 0AMHM5MN4SC00 from=<> to=bob@example.net route="smart host" ')
    assert "host= " not in line
    assert 'reply="450 4.7.1 Later" attempts=2 due=2027-01-1' in line
    assert line.endswith(" server=partners")


def test_many_recipients_do_not_make_a_line_without_end() -> None:
    many = RecipientDelivered("default", "M", "a@b", "c@d", "", "", "250 ok", 0.5, 1)
    assert "delay=0.500s" in text_of(many)
    crowd = MessageAccepted(
        "default", "M", "s", "", "smtp", "", tuple(f"u{n}@example.com" for n in range(100)), 1, "<1@x>", ""
    )
    assert ",u19@example.com,+80 " in text_of(crowd)


def test_a_line_of_json_has_every_field_by_its_name() -> None:
    record = json.loads(as_json(NOW, ACCEPTED))
    assert record == {
        "time": "2027-01-15T08:00:00.250Z",
        "level": "info",
        "event": "MessageAccepted",
        "server": "default",
        "message": "0AMHM5MN4SC00",
        "session": "9fd9b516",
        "client": "192.0.2.1",
        "door": "smtp",
        "sender": "ann@example.com",
        "recipients": ["bob@example.net", "eve@example.net"],
        "size": 4096,
        "message_id": "<1@example.com>",
        "subject": "Two words",
    }


NASTY = 'x\r\n2027-01-15T08:00:00.250+00:00 error forged\x1b[2J\x85\u202eb "q" \\ \ud800'


def test_nothing_from_outside_forges_a_line_or_moves_the_cursor() -> None:
    event = MessageAccepted("default", "M", "s", "", "smtp", NASTY, (NASTY,), 1, NASTY, NASTY)
    for line in (as_text(NOW, event), as_json(NOW, event)):
        assert line.isprintable()
    assert json.loads(as_json(NOW, event))["subject"] == NASTY
    assert '\\r\\n2027-01-15T08:00:00.250+00:00 error forged\\x1b[2J\\x85\\u202eb \\"q\\" \\\\ \\ud800' in text_of(
        event
    )
    assert written(LogSettings(), event).count("\n") == 1


def test_a_traceback_stands_below_its_line_behind_bars() -> None:
    event = InternalError("default", "delivery", "ValueError('x')", 'Traceback:\n  File "a"\x1b\nValueError: x\n')
    first, *below = text_of(event).split("\n")
    assert first == "error   InternalError where=delivery error=ValueError('x')"
    assert below == ["  | Traceback:", '  |   File "a"\\x1b', "  | ValueError: x"]


@pytest.mark.parametrize(
    ("level", "count"), [(LogLevel.DEBUG, 3), (LogLevel.INFO, 2), (LogLevel.WARNING, 1), (LogLevel.ERROR, 0)]
)
def test_what_matters_less_than_the_level_is_left_out(level: LogLevel, count: int) -> None:
    opened = SessionOpened("default", "s", "192.0.2.1", "127.0.0.1:25")
    assert written(LogSettings(level=level), opened, ACCEPTED, DEFERRED).count("\n") == count


def test_lines_are_written_in_order_and_in_the_format_that_is_set(tmp_path: Path) -> None:
    file = tmp_path / "new" / "folder" / "a.log"
    log = Log(LogSettings(LogFormat.JSON, file=file))
    for size in range(1000):
        log(NOW, MessageAccepted("default", "M", "s", "", "smtp", "é", (), size, "<1@x>", ""))
    log.close()
    assert [json.loads(line)["size"] for line in file.read_text(encoding="utf-8").splitlines()] == list(range(1000))
    more = Log(LogSettings(LogFormat.JSON, file=file))
    more(NOW, ACCEPTED)
    more.close()
    assert file.read_text(encoding="utf-8").count("\n") == 1001


class Counting(io.BytesIO):
    """A stream that tells what it was given, write by write."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []
        self.wrote = threading.Event()

    def write(self, octets: object) -> int:
        self.writes.append(bytes(octets))  # type: ignore[call-overload]
        self.wrote.set()
        return len(self.writes[-1])


async def test_in_the_loop_lines_are_written_together_after_a_moment() -> None:
    stream = Counting()
    log = Log(LogSettings(), stream)
    for _ in range(50):
        log(NOW, ACCEPTED)
        await asyncio.sleep(0)
    assert await asyncio.to_thread(stream.wrote.wait, 10)
    assert [octets.count(b"\n") for octets in stream.writes] == [50]
    log.close()


async def test_what_is_wrong_is_written_in_the_same_turn_with_what_came_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("mailroot.observe.log._INTERVAL", 3600.0)
    stream = Counting()
    log = Log(LogSettings(), stream)
    log(NOW, ACCEPTED)
    log(NOW, DEFERRED)
    assert await asyncio.to_thread(stream.wrote.wait, 10)
    assert stream.writes[0].count(b"\n") == 2
    log.close()


def test_a_file_is_rotated_and_the_oldest_goes(tmp_path: Path) -> None:
    file = tmp_path / "a.log"
    settings = LogSettings(file=file, max_size=1000, keep_files=2)
    for number in range(8):
        log = Log(settings)  # each close is a write of its own
        log(NOW, ServerChanged("default", f"state{number}", "x" * 1000))
        log.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.log.1", "a.log.2"]
    assert "state7" in (tmp_path / "a.log.1").read_text()
    assert "state6" in (tmp_path / "a.log.2").read_text()


def test_rotated_files_need_not_be_kept(tmp_path: Path) -> None:
    log = Log(LogSettings(file=tmp_path / "a.log", max_size=10, keep_files=0))
    log(NOW, ACCEPTED)
    log.close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="an open file cannot be moved on Windows")
async def test_a_file_that_another_program_moves_away_is_begun_anew(tmp_path: Path) -> None:
    file = tmp_path / "a.log"
    log = Log(LogSettings(file=file))
    log(NOW, ServerChanged("default", "first"))
    log(NOW, DEFERRED)
    while not (file.exists() and file.read_bytes()):
        await asyncio.sleep(0)
    file.rename(tmp_path / "moved")
    log(NOW, ServerChanged("default", "second"))
    log.close()
    assert "first" in (tmp_path / "moved").read_text()
    assert "second" in file.read_text()
    assert "first" not in file.read_text()


def test_a_log_file_that_cannot_be_opened_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(OSError):
        Log(LogSettings(file=tmp_path))


class Full(Counting):
    """A stream whose disk is full for the first writes."""

    def __init__(self, failures: int) -> None:
        super().__init__()
        self.failures = failures

    def write(self, octets: object) -> int:
        if self.failures:
            self.failures -= 1
            self.wrote.set()
            raise OSError(28, "No space left on device")
        return super().write(octets)


async def test_a_full_disk_stops_nothing_and_what_is_lost_is_counted() -> None:
    stream = Full(2)
    bus = Bus(ManualClock())
    log = Log(LogSettings(), stream)
    bus.subscribe(log)
    heard: list[Event] = []
    bus.subscribe(lambda when, event: heard.append(event))
    for _ in range(2):
        bus.publish(ACCEPTED)
        bus.publish(DEFERRED)
        assert await asyncio.to_thread(stream.wrote.wait, 10)
        stream.wrote.clear()
    bus.publish(ConfigurationWarning("", "the last"))
    log.close()
    assert heard.count(ACCEPTED) == 2, "the bus still carries everything"
    assert not any(isinstance(event, InternalError) for event in heard)
    lines = b"".join(stream.writes).decode().splitlines()
    assert lines[0] == "(4 lines of the log could not be written)"
    assert "the last" in lines[1]


class Torn(io.RawIOBase):
    """A file whose disk fills up in the middle of a line, and has room again."""

    def __init__(self) -> None:
        self.octets = b""
        self.room = 20
        self.wrote = threading.Event()

    def write(self, octets: object) -> int:
        given = bytes(octets)[: self.room]  # type: ignore[call-overload]
        self.room -= len(given)
        self.wrote.set()
        if not given:
            raise OSError(28, "No space left on device")
        self.octets += given
        return len(given)

    def tell(self) -> int:
        return len(self.octets)

    def fileno(self) -> int:
        return 0

    def close(self) -> None:
        pass


async def test_a_line_that_was_cut_by_a_full_disk_is_not_continued_by_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Torn()
    monkeypatch.setattr("mailroot.observe.log._File._open", lambda self: disk)
    monkeypatch.setattr("mailroot.observe.log._File._was_moved", lambda self, file: False)
    log = Log(LogSettings(file=tmp_path / "a.log"))
    log(NOW, DEFERRED)
    while disk.room:
        await asyncio.to_thread(disk.wrote.wait, 10)
    disk.room = 100_000
    log(NOW, ConfigurationWarning("", "the last"))
    log.close()
    torn, lost, last = disk.octets.decode().splitlines()
    assert as_text(NOW, DEFERRED).startswith(torn)
    assert lost == "(1 lines of the log could not be written)"
    assert "the last" in last


class Stopped(Counting):
    """A terminal that somebody has stopped."""

    def __init__(self) -> None:
        super().__init__()
        self.go_on = threading.Event()

    def write(self, octets: object) -> int:
        self.wrote.set()
        assert self.go_on.wait(60)
        return super().write(octets)


def test_a_stopped_terminal_holds_up_nobody_and_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mailroot.observe.log._MOST_WAITING", 10_000)
    stream = Stopped()
    log = Log(LogSettings(), stream)
    log(NOW, ACCEPTED)
    assert stream.wrote.wait(10)
    for _ in range(1000):
        log(NOW, ACCEPTED)  # returns, though nothing can be written
    stream.go_on.set()
    log.close()
    lines = b"".join(stream.writes).decode().splitlines()
    (lost,) = [line for line in lines if line.startswith("(")]
    assert int(lost[1:].split()[0]) + len(lines) - 1 == 1001
    assert len(lines) < 100


def test_who_finishes_a_log_does_not_wait_for_it() -> None:
    stream = Stopped()
    log = Log(LogSettings(), stream)
    log(NOW, ACCEPTED)
    assert stream.wrote.wait(10)
    log.finish()
    log(NOW, DEFERRED)
    stream.go_on.set()
    log.close()
    line, late = b"".join(stream.writes).decode().splitlines()
    assert "MessageAccepted" in line
    assert late == "(1 lines of the log could not be written)"


@pytest.mark.skipif(not hasattr(os, "set_blocking") or sys.platform == "win32", reason="pipes of Windows block")
def test_a_pipe_that_was_made_non_blocking_gets_every_line() -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    received = bytearray()

    def read() -> None:
        while piece := os.read(reading, 65536):
            received.extend(piece)

    reader = threading.Thread(target=read)
    with open(writing, "wb", buffering=0) as stream:
        log = Log(LogSettings(), stream)  # type: ignore[arg-type]
        for _ in range(2000):
            log(NOW, ACCEPTED)
        reader.start()
        log.close()
    reader.join()
    os.close(reading)
    assert received.count(b"\n") == 2000
