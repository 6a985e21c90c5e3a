"""Whether somebody is still writing a file: asked of the real system."""

import subprocess
import sys
from pathlib import Path

import pytest

from mailroot.system import is_open_for_writing

pytestmark = pytest.mark.quick


def test_a_file_that_we_write_is_seen_to_be_written(tmp_path: Path) -> None:
    path = tmp_path / "letter.eml"
    with path.open("wb") as file:
        file.write(b"x")
        file.flush()
        assert is_open_for_writing(path) is not False
        if sys.platform == "win32":
            assert is_open_for_writing(path) is True
    assert is_open_for_writing(path) is not True
    with path.open("rb"):
        # On Windows a reader that lets others write looks like any other program that is at the file.
        assert is_open_for_writing(path) is not True or sys.platform == "win32"


def test_a_file_that_another_program_writes_is_seen_to_be_written(tmp_path: Path) -> None:
    path = tmp_path / "letter.eml"
    code = "import sys; f = open(sys.argv[1], 'w'); print('open', flush=True); sys.stdin.read()"
    writer = subprocess.Popen([sys.executable, "-c", code, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert writer.stdout is not None
    assert writer.stdout.readline().strip() == b"open"
    assert is_open_for_writing(path) is not False
    writer.communicate()
    assert is_open_for_writing(path) is not True


@pytest.mark.skipif(sys.platform == "win32", reason="Windows needs no lock to tell")
def test_a_locked_file_is_being_written_even_where_there_are_no_leases(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fcntl

    monkeypatch.delattr(fcntl, "F_SETLEASE", raising=False)
    path = tmp_path / "letter.eml"
    with path.open("wb") as file:
        # .NET holds a shared lock on a file that others may read.
        fcntl.flock(file, fcntl.LOCK_SH)
        assert is_open_for_writing(path) is True
    assert is_open_for_writing(path) is None


def test_a_file_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        is_open_for_writing(tmp_path / "nowhere")
