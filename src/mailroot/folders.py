"""Files in the mailroot folders that other programs look into: each appears whole, and safe on disk, or not at all.

A file is written in the subfolder `.partial` of its folder, synced, and renamed into place, so a program that
takes whatever it finds in Drop or Badmail never sees half of one. The subfolder is there while it is needed.
Everything here blocks: call it in a thread.
"""

import errno
import json
import os
import secrets
import threading
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from mailroot import system
from mailroot.mail.reply import Reply

PARTIAL = ".partial"
"""Subfolder in which files are written until they are complete."""

_LEFT_OVER = 24 * 3600.0
_LONGEST_STEM = 180


class WholeFile:
    """A file that gets its name, in place of an older one, when it is finished. Methods may be called from any
    thread, also at once (`abandon` while a write is still going on); they raise OSError, save `abandon`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._temporary = path.parent / PARTIAL / f"{secrets.token_hex(8)}.tmp"
        self._lock = threading.Lock()
        self._file: BinaryIO | None = self._create()

    def _create(self) -> BinaryIO:
        partial = self._temporary.parent
        partial.parent.mkdir(parents=True, exist_ok=True)
        for _ in range(100):
            with suppress(FileExistsError):
                partial.mkdir()
            # Who finished the last file in there may just have removed the subfolder.
            with suppress(FileNotFoundError):
                return self._temporary.open("xb", buffering=0)
        raise FileNotFoundError(errno.ENOENT, "The subfolder for unfinished files vanishes", str(partial))

    def _tidy(self) -> None:
        with suppress(OSError):
            self._temporary.parent.rmdir()

    def write(self, octets: bytes) -> None:
        """Append octets; after `abandon` they go nowhere."""
        with self._lock:
            view = memoryview(octets)
            while self._file is not None and view:
                view = view[self._file.write(view) :]

    def finish(self) -> None:
        """Sync the file, give it its name, sync the folder."""
        with self._lock:
            if self._file is None:
                return
            os.fsync(self._file.fileno())
            self._file.close()
            self._file = None
            try:
                self._temporary.replace(self.path)
                system.sync_folder(self.path.parent)
            except OSError:
                self._temporary.unlink(missing_ok=True)
                raise
            finally:
                self._tidy()

    def abandon(self) -> None:
        """Forget it; safe to call at any time, also after `finish` (then it does nothing)."""
        with self._lock:
            if self._file is not None:
                self._file.close()
                self._file = None
                with suppress(OSError):
                    self._temporary.unlink(missing_ok=True)
                self._tidy()


def write_whole(path: Path, pieces: Iterable[bytes]) -> None:
    """Write a file at once. Raises OSError."""
    file = WholeFile(path)
    try:
        for piece in pieces:
            file.write(piece)
        file.finish()
    finally:
        file.abandon()


def move_whole(source: Path, target: Path) -> None:
    """Move a file, also to another disk; the source goes only when the target is safe. Raises OSError."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        source.replace(target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        with source.open("rb") as file:
            write_whole(target, iter(lambda: file.read(256 * 1024), b""))
        source.unlink()
    system.sync_folder(target.parent)


def sweep(folder: Path) -> None:
    """Remove what crashes left half-written in a folder more than a day before its last sign of life there."""
    with suppress(OSError):
        found = [(entry.stat().st_mtime, entry.path) for entry in os.scandir(folder / PARTIAL)]
        newest = max((modified for modified, _ in found), default=0.0)
        for modified, path in found:
            if modified < newest - _LEFT_OVER:
                Path(path).unlink(missing_ok=True)


# Badmail (one set of files with one base name for each message that can be neither delivered nor returned):
# NAME.BAD is the message as text, NAME.BDR the reason for people, NAME.BDP the properties for programs (JSON).
# NAME.BAD is written last, so whoever sees it finds the other two.


def free_base(folder: Path, wish: str) -> str:
    """A base name like the wish that no set in the folder has yet."""
    wish = wish[:_LONGEST_STEM]
    base, number = wish, 1
    while any((folder / f"{base}{extension}").exists() for extension in (".BAD", ".BDR", ".BDP")):
        number += 1
        base = f"{wish}-{number}"
    return base


def write_reason(folder: Path, base: str, reason: str, properties: Mapping[str, object]) -> None:
    """Write NAME.BDR and NAME.BDP of a set. Raises OSError."""
    text = reason.rstrip("\n").replace("\n", "\r\n") + "\r\n"
    # A file name, on Linux, may hold octets that are no text.
    write_whole(folder / f"{base}.BDR", [text.encode("utf-8", "backslashreplace")])
    written = json.dumps(properties, ensure_ascii=False, indent=2) + "\n"
    write_whole(folder / f"{base}.BDP", [written.encode("utf-8", "backslashreplace")])


def trouble(error: OSError, folder: str) -> Reply:
    """What a disk error in that folder ("Drop", "Badmail") is to a message: a reply of ours, to be tried again."""
    if error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)):
        return Reply(452, "4.3.1", f"The disk of the {folder} folder is full")
    return Reply(451, "4.3.0", f"The {folder} folder cannot be written: {error.strerror or error}")
