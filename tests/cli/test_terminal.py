"""What is different when a person sits at a terminal: fitted tables, questions, progress."""

import io
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.cells import cell_len

from mailroot.cli import main as program
from mailroot.cli.tables import complain, say
from mailroot.mail.outcome import Deferred
from mailroot.mail.reply import Reply
from rig.served import Running

pytestmark = pytest.mark.quick


class Terminal(io.TextIOWrapper):
    """Something that claims to be a terminal and remembers what was written."""

    def __init__(self, keys: str = "") -> None:
        super().__init__(io.BytesIO(keys.encode()), encoding="utf-8", newline="\n")

    def isatty(self) -> bool:
        return True

    @property
    def text(self) -> str:
        self.flush()
        octets = self.buffer
        assert isinstance(octets, io.BytesIO)
        return octets.getvalue().decode()


@pytest.fixture
def sit(running: Running, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, str, str]]:
    """Run `mailroot ARGUMENTS` at a terminal of `columns`, with `keys` typed: exit code, output, errors."""
    monkeypatch.setenv("TERM", "xterm")

    def run(*arguments: str, columns: int = 80, keys: str = "") -> tuple[int, str, str]:
        out, err = Terminal(), Terminal()
        with monkeypatch.context() as patch:
            patch.setenv("COLUMNS", str(columns))
            patch.setattr(sys, "stdout", out)
            patch.setattr(sys, "stderr", err)
            patch.setattr(sys, "stdin", Terminal(keys))
            where = ["--api", running.address, "--token-file", str(running.token_file)]
            code = program.main([*arguments, *where])
        # Bold and the like are ours; anything else that is no text would be a stranger's.
        return code, re.sub(r"\x1b\[[0-9;]*m", "", out.text), err.text

    return run


Sit = Callable[..., tuple[int, str, str]]


@pytest.mark.parametrize("columns", [44, 60, 80, 120, 200])
def test_a_table_fits_the_terminal_and_ids_stay_whole(running: Running, sit: Sit, columns: int) -> None:
    ids = [
        running.do(
            running.relay.accept(
                f"{'long' * n}@example.org", ("recipient" * 4 + "@example.net",), subject="世界" * 40
            )
        )
        for n in range(1, 6)
    ]
    running.do(running.relay.attempt((0, Deferred(Reply(450, "4.2.0", "Greylisted " * 10), "host", 0.0))))
    code, out, _ = sit("queue", "list", columns=columns)
    lines = out.splitlines()
    assert code == 0 and len(lines) == 6
    assert all(cell_len(line) <= columns for line in lines)
    assert [line.split()[0] for line in lines[1:]] == ids[::-1]
    assert ("SUBJECT" in lines[0]) == (columns >= 120)


def test_replies_are_wrapped_where_they_are_the_point(running: Running, sit: Sit) -> None:
    known = running.do(running.relay.accept())
    words = "please come back in a few minutes and do not hurry so much as you do now"
    running.do(running.relay.attempt((0, Deferred(Reply(450, "4.2.0", words), "mx.example.net", 0.0))))
    code, out, _ = sit("queue", "show", known, columns=70)
    tables = out.partition("RECIPIENT")[2]
    assert code == 0 and all(tables.count(word) >= 2 for word in words.split())


@pytest.mark.parametrize(("keys", "left"), [("y\n", 0), ("n\n", 3), ("\n", 3), ("", 3)])
def test_many_messages_are_asked_about(running: Running, sit: Sit, keys: str, left: int) -> None:
    for _ in range(3):
        running.do(running.relay.accept())
    code, out, err = sit("queue", "delete", "--sender", "example", keys=keys)
    assert "This will delete 3 messages. Go on?" in err
    assert (code == 0) == (left == 0)
    assert running.relay.queue is not None
    assert running.do(running.relay.queue.counts()).queued == left
    assert "Traceback" not in out + err


def test_export_with_its_progress_writes_every_octet(running: Running, sit: Sit, tmp_path: Path) -> None:
    known = running.do(running.relay.accept(text=b"x" * 3_000_000))
    code, out, err = sit("queue", "export", known, "-o", str(tmp_path / "x.eml"))
    assert (code, out) == (0, "") and "2.9 MiB written to" in err
    assert (tmp_path / "x.eml").stat().st_size == 3_000_000 + len(b"Received: by relay\r\n")


def test_a_stranger_cannot_paint_the_terminal(running: Running, sit: Sit) -> None:
    known = running.do(running.relay.accept(subject="\x1b[2J[red]x[/red]\x9b1m"))
    for arguments in (("queue", "list"), ("queue", "show", known)):
        _, out, _ = sit(*arguments, columns=200)
        assert "\x1b[2J" not in out and "\x9b" not in out and "[red]x[/red]" in out


def test_lines_go_where_they_belong(capsys: pytest.CaptureFixture[str]) -> None:
    say("for the next program")
    complain("for the person")
    assert capsys.readouterr() == ("for the next program\n", "for the person\n")
