"""The files that hold the octets of large messages, written while these arrive.

A file is written and synced, and its name is synced, before the row that names it is inserted; it is removed after
the transaction that no longer needs it. So a row never lacks its file, and a file without a row is the remains of a
crash (or of a message still arriving), which is swept away at a later start. Whatever blocks runs in threads of
`Bodies`. Each step of making a file durable is a method of `BodyFile`, so that a test can stop the process after
any.
"""

import asyncio
import contextlib
import errno
import os
import shutil
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from io import FileIO
from itertools import islice
from pathlib import Path
from typing import TypeVar

from mailroot.queue.base import CHUNK, MessageId, QueueError, QueueFull, format_id, parse_id
from mailroot.system import sync_folder

T = TypeVar("T")

THREADS = 4
"""Files that are written, synced or read at the same moment."""

LISTED = 1000
"""Files that `leftovers` looks at in one go."""

_NO_ROOM = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}


RESERVE = 8 * 1024 * 1024
"""Octets of the disk, or the eighth part of a small one, that new messages leave free: what is queued already
needs some of it to be delivered, and only that makes room again."""


def see_room(folder: Path, besides: int = 0) -> None:
    """Raises OSError (ENOSPC) when no more than the reserve is left on the disk. `besides`: octets that are free
    without the disk's knowing."""
    disk = shutil.disk_usage(folder)
    if disk.free + besides < min(RESERVE, disk.total // 8):
        raise OSError(errno.ENOSPC, "what is left is kept for the delivery of what is queued", str(folder))


def queue_error(error: OSError) -> QueueError:
    """What an error of the disk is for whoever wanted something stored or read."""
    if error.errno in _NO_ROOM:
        return QueueFull(f"no room on the disk: {error}")
    return QueueError(str(error))


class BodyFile:
    """One file while its message arrives; it is there with the first octets. Its methods may be called from
    different threads: they take turns. All but `discard` raise OSError."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._turn = threading.Lock()
        self._file: FileIO | None = None
        self._discarded = False

    def append(self, pieces: Sequence[bytes]) -> None:
        """Add octets."""
        with self._turn:
            self._write(pieces)

    def seal(self, pieces: Sequence[bytes]) -> None:
        """Add the last octets and make the file durable: its octets, then its name."""
        with self._turn:
            self._write(pieces)
            self._sync()
            self._close()
            self._sync_name()

    def discard(self) -> None:
        """Close and remove the file; what cannot be removed now is swept at a later start."""
        with self._turn:
            self._discarded = True
            self._close()
            with contextlib.suppress(OSError):
                self._path.unlink(missing_ok=True)

    def _write(self, pieces: Sequence[bytes]) -> None:
        if self._discarded:
            raise FileNotFoundError(errno.ENOENT, "the message was abandoned", str(self._path))
        see_room(self._path.parent)
        if self._file is None:
            self._file = FileIO(self._path, "xb")
        octets = memoryview(pieces[0] if len(pieces) == 1 else b"".join(pieces))
        while octets:
            octets = octets[self._file.write(octets) :]

    def _sync(self) -> None:
        if self._file is not None:
            os.fsync(self._file.fileno())

    def _sync_name(self) -> None:
        sync_folder(self._path.parent)

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()


class _Reading:
    """A file that is being read, by turns as `BodyFile`; opened by the first `next`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._turn = threading.Lock()
        self._file: FileIO | None = None
        self._closed = False

    def next(self) -> bytes:
        with self._turn:
            if self._closed:
                return b""
            if self._file is None:
                self._file = FileIO(self._path, "rb")
            return self._file.read(CHUNK) or b""

    def close(self) -> None:
        with self._turn:
            self._closed = True
            if self._file is not None:
                self._file.close()


class _Listing:
    """The names in a folder, some at a time; by turns as `BodyFile`, and opened by the first `next`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._turn = threading.Lock()
        self._entries: AbstractContextManager[Iterator[os.DirEntry[str]]] | None = None
        self._names: Iterator[str] = iter(())

    def next(self) -> list[str]:
        with self._turn:
            if self._entries is None:
                self._entries = os.scandir(self._folder)
                self._names = (entry.name for entry in self._entries.__enter__())
            return list(islice(self._names, LISTED))

    def close(self) -> None:
        with self._turn:
            if self._entries is None:
                self._entries = contextlib.nullcontext(iter(()))
            self._entries.__exit__(None, None, None)


class Bodies:
    """The folder of the files, for one worker. A file's name tells message and worker: `00HM5DZGP8000-1.body`.

    `trouble` is told of every error of the disk. All methods that wait raise QueueError.
    """

    def __init__(self, folder: Path, worker: int, trouble: Callable[[QueueError], None]) -> None:
        self._folder = folder
        self._worker = worker
        self._trouble = trouble
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="mailroot-queue-body")
        self._arriving: dict[MessageId, BodyFile] = {}
        self._left: set[str] = set()

    def name(self, id: MessageId) -> str:
        """The name of a message's file, as its row has it."""
        return f"{format_id(id)}{_ending(self._worker)}"

    def start(self, id: MessageId) -> None:
        """Begin the file of a message."""
        self._arriving[id] = BodyFile(self._folder / self.name(id))

    async def append(self, id: MessageId, pieces: Sequence[bytes]) -> None:
        """Write octets of a message that was begun."""
        await self.in_thread(self._arriving[id].append, pieces)

    async def seal(self, id: MessageId, pieces: Sequence[bytes]) -> None:
        """Write the last octets; on return the file is durable."""
        await self.in_thread(self._arriving[id].seal, pieces)

    def keep(self, id: MessageId) -> None:
        """The message is in the database."""
        self._arriving.pop(id, None)

    def discard(self, id: MessageId) -> None:
        """The message will not come to be: remove its file, without anybody waiting for that."""
        if file := self._arriving.pop(id, None):
            self._threads.submit(file.discard)

    def remove(self, names: Sequence[str]) -> None:
        """Remove the files of finished messages, without anybody waiting for that."""
        if names:
            self._threads.submit(self._remove, names)

    def remove_left(self) -> None:
        """Try again to remove what could not be removed (on Windows: what somebody was still reading)."""
        left, self._left = self._left, set()
        self.remove(sorted(left))

    def _remove(self, names: Sequence[str]) -> None:
        for name in names:
            try:
                (self._folder / name).unlink(missing_ok=True)
            except OSError:
                self._left.add(name)

    async def pieces(self, name: str) -> AsyncIterator[bytes]:
        """What a file holds, in pieces of at most `CHUNK` octets."""
        reading = _Reading(self._folder / name)
        try:
            while piece := await self.in_thread(reading.next):
                yield piece
        finally:
            reading.close()

    async def leftovers(self, worker: int) -> AsyncIterator[dict[MessageId, str]]:
        """The files that a worker, or an earlier one of that number, wrote and that are not arriving now, some at a
        time: each is in the database already, or not wanted by anybody."""
        ending = _ending(worker)
        with contextlib.closing(_Listing(self._folder)) as listing:
            while part := await self.in_thread(listing.next):
                found = {}
                for name in (name for name in part if name.endswith(ending)):
                    with contextlib.suppress(ValueError):  # not a name that we gave
                        message = parse_id(name.removesuffix(ending))
                        if message not in self._arriving:
                            found[message] = name
                if found:
                    yield found

    async def in_thread(self, work: Callable[..., T], *arguments: object) -> T:
        """Do something with files in a thread."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work, *arguments)
        except OSError as error:
            fault = queue_error(error)
            self._trouble(fault)
            raise fault from error

    def close(self) -> None:
        """Remove what was still arriving, and end the threads. Blocks until then."""
        for file in self._arriving.values():
            self._threads.submit(file.discard)
        self._threads.shutdown()


def _ending(worker: int) -> str:
    return f"-{worker}.body"
