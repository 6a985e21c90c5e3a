"""The files that hold the octets of large messages, written while these arrive.

A file is written and synced, and its name is synced, before the row that names it is inserted; it is removed after the
transaction that no longer needs it. So a row never lacks its file, and a file without a row is the remains of a crash
(or of a message still arriving), which `sqlite` sweeps away when it starts. Everything here blocks and is called in a
thread. Each step of making a file durable is a method of its own, so that a test can stop the process after any.
"""

import errno
import os
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from mailroot.queue.base import CHUNK, MessageId, QueueError, QueueFull, format_id, parse_id
from mailroot.system import sync_folder

_NO_ROOM = {errno.ENOSPC, errno.EFBIG} | {getattr(errno, "EDQUOT", errno.ENOSPC)}


def queue_error(error: OSError) -> QueueError:
    """What an error of the disk is for whoever wanted something stored or read."""
    if error.errno in _NO_ROOM:
        return QueueFull(f"no room on the disk: {error}")
    return QueueError(str(error))


class BodyFiles:
    """The folder of them. A name tells the message and the worker that wrote it: `00HM5DZGP8000-1.body`."""

    SUFFIX = ".body"

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def name(self, id: MessageId, worker: int) -> str:
        """The name of a message's file."""
        return f"{format_id(id)}-{worker}{self.SUFFIX}"

    def create(self, name: str) -> "BodyFile":
        """Start a file."""
        return BodyFile(self.folder / name)

    def pieces(self, name: str) -> Iterator[bytes]:
        """What a file holds, in pieces of at most `CHUNK` octets. Raises OSError."""
        with (self.folder / name).open("rb", buffering=0) as file:
            while piece := file.read(CHUNK):
                yield piece

    def remove(self, names: Sequence[str]) -> list[str]:
        """Remove files; returns those that could not be removed now (on Windows: somebody still reads them)."""
        left = []
        for name in names:
            try:
                (self.folder / name).unlink(missing_ok=True)
            except OSError:
                left.append(name)
        return left

    def written_by(self, worker: int) -> Iterator[tuple[MessageId, str]]:
        """The files that this worker, or an earlier one with its number, wrote. Raises OSError."""
        ending = f"-{worker}{self.SUFFIX}"
        with os.scandir(self.folder) as entries:
            for entry in entries:
                if entry.name.endswith(ending):
                    try:
                        message = parse_id(entry.name.removesuffix(ending))
                    except ValueError:
                        continue  # not ours
                    yield message, entry.name


class BodyFile:
    """One file while its message arrives. Its methods may be called from different threads, one after another:
    each waits for the one before to end. All but `discard` raise OSError."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._turn = threading.Lock()
        self._file = path.open("xb", buffering=0)

    def append(self, pieces: Sequence[bytes]) -> None:
        """Add octets."""
        with self._turn:
            self._write(pieces)

    def seal(self, pieces: Sequence[bytes]) -> None:
        """Add the last octets and make the file durable: its octets, then its name."""
        with self._turn:
            self._write(pieces)
            self._sync()
            self._file.close()
            self._sync_name()

    def discard(self) -> None:
        """Close and remove the file; what cannot be removed now is swept at the next start."""
        with self._turn:
            self._file.close()
            try:
                self.path.unlink(missing_ok=True)
            except OSError:
                return

    def _write(self, pieces: Sequence[bytes]) -> None:
        octets = memoryview(pieces[0] if len(pieces) == 1 else b"".join(pieces))
        while octets:
            octets = octets[self._file.write(octets) :]

    def _sync(self) -> None:
        os.fsync(self._file.fileno())

    def _sync_name(self) -> None:
        sync_folder(self.path.parent)
