"""What the operating systems do differently does the same for us."""

import asyncio
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from mailroot.system import FileLock, free_disk, make_private, new_event_loop, sync_folder

pytestmark = pytest.mark.quick

HOLD = """
import sys
from pathlib import Path
from mailroot.system import FileLock
lock = FileLock(Path(sys.argv[1]))
lock.acquire()
print("held", flush=True)
sys.stdin.readline()
"""


def test_a_lock_has_one_holder(tmp_path: Path) -> None:
    one, two = FileLock(tmp_path / "lock"), FileLock(tmp_path / "lock")
    assert one.try_acquire()
    assert not two.try_acquire()
    one.release()
    assert two.try_acquire()
    two.close()
    two.close()
    one.acquire()
    one.close()
    with pytest.raises(ValueError, match="closed"):
        one.acquire()


def test_a_lock_waits_for_its_holder(tmp_path: Path) -> None:
    one, two = FileLock(tmp_path / "lock"), FileLock(tmp_path / "lock")
    one.acquire()
    order = []

    def wait() -> None:
        two.acquire()
        order.append("second")
        two.close()

    thread = threading.Thread(target=wait)
    thread.start()
    order.append("first")
    one.close()
    thread.join(20)
    assert order == ["first", "second"]


def test_a_dead_process_holds_no_lock(tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "lock")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        lock = FileLock(tmp_path / "lock")
        assert not lock.try_acquire()
    finally:
        holder.kill()
        holder.communicate()
    lock.acquire()
    lock.close()


def test_what_is_private_can_still_be_used(tmp_path: Path) -> None:
    folder, file = tmp_path / "folder", tmp_path / "folder" / "file"
    folder.mkdir()
    make_private(folder)
    file.write_bytes(b"x")
    make_private(file)
    assert file.read_bytes() == b"x"
    file.unlink()
    sync_folder(folder)


@pytest.mark.skipif(sys.platform == "win32", reason="modes are POSIX's")
def test_private_means_the_owner_alone(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch(0o644)
    make_private(file)
    make_private(tmp_path)
    assert file.stat().st_mode & 0o777 == 0o600
    assert tmp_path.stat().st_mode & 0o777 == 0o700


def test_free_disk(tmp_path: Path) -> None:
    assert free_disk(tmp_path) > 0


def test_the_event_loop_runs() -> None:
    loop = new_event_loop()
    try:
        assert loop.run_until_complete(asyncio.sleep(0, 5)) == 5
    finally:
        loop.close()
