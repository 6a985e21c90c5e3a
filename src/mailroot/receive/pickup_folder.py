"""The Pickup folder as files: listing it, taking one out of it, giving it back, removing it, filing it as bad mail.

A file is taken by moving it into the subfolder `.taken`, which proves that we can remove it: what could not be
removed would be sent again and again. The subfolder is there while it is needed. Everything here blocks: call it
in a thread.
"""

import os
import secrets
import stat
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from mailroot import folders, system
from mailroot.queue.base import CHUNK

TAKEN = ".taken"
"""Subfolder of Pickup for the files that are being queued."""

_SENT = ".sent."

_SETTLED_UNKNOWN = 5.0


class NotYet(Exception):
    """Somebody is still at the file, or it is gone."""


class Stays(Exception):
    """The file stays where it is; the text says why."""


@dataclass(frozen=True, slots=True)
class Look:
    """How a file looked, and since when it has (seconds since the epoch)."""

    size: int
    modified: int
    mode: int
    since: float

    def same_as(self, found: os.stat_result) -> bool:
        """Whether the file still looks like that."""
        return (self.size, self.modified, self.mode) == (found.st_size, found.st_mtime_ns, found.st_mode)


@dataclass(frozen=True, slots=True)
class Taken:
    """A file in `.taken`, open. `start` is its first octets; less than `CHUNK` of them are all there are.
    `certain`: the system told us that nobody is writing to it."""

    name: str
    path: Path
    file: BinaryIO
    start: bytes
    look: Look
    certain: bool

    @property
    def is_whole(self) -> bool:
        """Whether `start` is all of it, for certain."""
        return self.certain and len(self.start) < CHUNK

    def more(self) -> bytes:
        """The next octets, b"" at the end. Raises NotYet if somebody has written to the file since it was taken."""
        octets = self.file.read(CHUNK) if len(self.start) == CHUNK else b""
        if not octets and not self.certain and not self.look.same_as(os.fstat(self.file.fileno())):
            raise NotYet
        return octets


class PickupFolder:
    """The folder; methods raise OSError where nothing else is said."""

    def __init__(self, path: Path, badmail: Path) -> None:
        self.path = path
        self._taken = path / TAKEN
        self._badmail = badmail

    def open(self) -> system.FileLock:
        """Create what is missing; the lock, a file beside the folder, is for the one process that serves it."""
        self.path.mkdir(parents=True, exist_ok=True)
        return system.FileLock(self.path.parent / f".{self.path.name}.lock")

    def is_ours(self, lock: system.FileLock) -> bool:
        """Whether no other process serves the folder. Where the file system cannot lock, we take it to be so."""
        try:
            return lock.try_acquire()
        except OSError:
            return True

    def bring_back(self) -> None:
        """Give back what a crash left in `.taken`."""
        with suppress(FileNotFoundError):
            for path in self._taken.iterdir():
                if path.name.startswith(_SENT):
                    path.unlink()
                elif not path.is_dir():
                    self._move_back(path)
        self._tidy()

    def _tidy(self) -> None:
        with suppress(OSError):
            self._taken.rmdir()

    def look(self) -> list[tuple[str, os.stat_result]]:
        """The files that might be mail: not those whose names say that they are not ready."""
        found = []
        with os.scandir(self.path) as entries:
            for entry in entries:
                if entry.name.startswith((".", "~")) or entry.name.lower().endswith(".tmp"):
                    continue
                try:
                    seen = entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue
                if not stat.S_ISDIR(seen.st_mode) and not _is_hidden(seen):
                    found.append((entry.name, seen))
        return found

    def take(self, name: str, look: Look, settled: float) -> Taken:
        """Move a file that has not changed for `settled` seconds into `.taken`, and open it. Raises NotYet,
        Stays."""
        path, target = self.path / name, self._taken / name
        try:
            seen = path.lstat()
            if not stat.S_ISREG(seen.st_mode):
                raise Stays("It is no plain file.")
            if not seen.st_mode & 0o222:
                raise Stays("It is read-only, so it is not sent: it could not be removed and would be sent again.")
            if not look.same_as(seen):
                raise NotYet
            writing = system.is_open_for_writing(path)
            if writing or (writing is None and settled < _SETTLED_UNKNOWN):
                raise NotYet
            if os.path.lexists(target):
                raise Stays(f"There is a file of its name in {TAKEN} that could not be removed.")
            self._move_in(path, target)
        except FileNotFoundError:
            raise NotYet from None
        except OSError as error:
            if getattr(error, "winerror", 0) == 32:  # ERROR_SHARING_VIOLATION
                raise NotYet from None
            raise Stays(f"It cannot be taken out of the folder: {error.strerror or error}.") from None
        try:
            return self._open_taken(name, target, look)
        except BaseException:
            self._move_back(target)
            raise

    def _move_in(self, path: Path, target: Path) -> None:
        for _ in range(100):
            with suppress(FileExistsError):
                target.parent.mkdir(0o700)
            try:
                path.rename(target)
                return
            except FileNotFoundError:
                # Who was done with the last file in there may just have removed the subfolder.
                path.lstat()
        raise NotYet

    def _open_taken(self, name: str, path: Path, look: Look) -> Taken:
        # Who has opened it by its old name did so before the move, so what is seen now is for certain.
        writing = system.is_open_for_writing(path)
        if writing or not look.same_as(path.lstat()):
            raise NotYet
        flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
        file = os.fdopen(os.open(path, flags), "rb")
        try:
            return Taken(name, path, file, file.read(CHUNK), look, certain=writing is False)
        except BaseException:
            file.close()
            raise

    def put_back(self, taken: Taken) -> None:
        """Give a file back to the folder."""
        taken.file.close()
        self._move_back(taken.path)

    def _move_back(self, path: Path) -> None:
        """Under its name, or one like it if there is a new file of that name."""
        target, number = self.path / path.name, 1
        while True:
            try:
                # This empty file is ours for certain; nobody's file is overwritten.
                os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
                break
            except OSError:
                # A full disk may have no room for even that; a move needs none.
                if not os.path.lexists(target):
                    break
                number += 1
                target = self.path / f"{path.stem[:180]}-{number}{path.suffix[:20]}"
        path.replace(target)
        self._tidy()

    def remove(self, taken: Taken) -> None:
        """Remove a file whose message is queued, or mark it so that it is not sent again."""
        taken.file.close()
        try:
            taken.path.unlink()
        except OSError:
            taken.path.rename(self._taken / f"{_SENT}{secrets.token_hex(8)}")
        self._tidy()

    def file_as_bad(self, taken: Taken, reason: str) -> None:
        """Move a file into the Badmail folder as it is, the reason beside it. One call at a time: two files of one
        base name must not get the same set."""
        taken.file.close()
        base = folders.free_base(self._badmail, Path(taken.name).stem)
        properties = {"reason": reason, "file": taken.name, "size": taken.path.stat().st_size, "door": "pickup"}
        text = f"A file in the Pickup folder is no message that could be sent.\n\n{reason}\n\nFile: {taken.name}"
        folders.write_reason(self._badmail, base, text, properties)
        folders.move_whole(taken.path, self._badmail / f"{base}.BAD")
        self._tidy()

    def sync(self) -> None:
        """Make removals durable."""
        with suppress(FileNotFoundError):
            system.sync_folder(self._taken)
        system.sync_folder(self.path)


def _is_hidden(seen: os.stat_result) -> bool:
    """Whether Windows hides the file, as it does with its own (desktop.ini, Thumbs.db)."""
    attributes: int = getattr(seen, "st_file_attributes", 0)
    return bool(attributes & (stat.FILE_ATTRIBUTE_HIDDEN | stat.FILE_ATTRIBUTE_SYSTEM))
