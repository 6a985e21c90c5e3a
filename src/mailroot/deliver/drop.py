"""The Drop folder: mail for the local domains, one file per message, whichever of the domains it is for.

A file is `ID.eml`, ID being the message's id as people see it (`ID-N.eml` where recipient N is the first it is
for and not the message's first). The same message for the same recipients is the same file, so what is delivered
again after a crash replaces its file and makes no second one, unless a program has taken the first already.
A file holds:

    x-sender: the envelope sender, or <>
    x-receiver: an envelope recipient, one line each
    the message's header as it came, with the fields Mailroot added in front
    Return-Path: the envelope sender, or <>
    X-OriginalArrivalTime: when the message arrived
    (empty line and body, unchanged)

Nothing here removes a file: the programs that read the folder do.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, TypeVar

from mailroot import folders
from mailroot.clock import Clock
from mailroot.mail.header import scan
from mailroot.mail.outcome import Deferred, Delivered, Outcome
from mailroot.mail.reply import Reply
from mailroot.queue.base import Content, MessageId, Record, format_id
from mailroot.units import Doc, Size

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class DropSettings:
    """Where mail for local domains goes."""

    folder: Annotated[
        Path | None, Doc("The Drop directory; not set: Drop below the mailroot folder.", example="mailroot/Drop")
    ] = None
    quota: Annotated[
        Size | None,
        Doc(
            "Limit of the Drop directory; 0: no limit; not set: ten times the message size limit.", example="20 MiB"
        ),
    ] = None


# A header that has not ended by then gets its last two fields at the place where we stopped looking for its end.
_LONGEST_HEADER = 1024 * 1024

_THREADS = 4


class Drop:
    """Writes messages into the folder. `quota` is octets of all files in it together, 0: no limit; programs that
    empty the folder are noticed when it seems full, and otherwise once a minute."""

    _LOOK_AGAIN_FULL = 1.0
    _LOOK_AGAIN = 60.0

    def __init__(self, folder: Path, quota: int, clock: Clock, *, fqdn: str) -> None:
        self._folder = folder
        self._quota = quota
        self._clock = clock
        self._fqdn = fqdn
        self._used = 0
        self._reserved = 0
        self._looked: float | None = None
        self._looking = asyncio.Lock()
        # Its own threads: a folder on a dead network share must not stop anything else that waits for a thread.
        self._threads = ThreadPoolExecutor(_THREADS, "drop")

    async def deliver(self, record: Record, indices: Sequence[int], content: Content) -> list[tuple[int, Outcome]]:
        """Write one file for these recipients; every one has the same outcome: Delivered when the file is safe on
        disk, Deferred when the folder is full (452 4.2.2) or cannot be written. Raises QueueError when the
        content cannot be read."""
        outcome = await self._deliver(record, indices, content)
        return [(index, outcome) for index in indices]

    async def _deliver(self, record: Record, indices: Sequence[int], content: Content) -> Outcome:
        name = f"{file_base(record.id, indices)}.eml"
        envelope, after = envelope_lines(record, indices), _last_fields(record)
        size = content.size + len(envelope) + len(after)
        try:
            if not await self._reserve(size):
                return Deferred(Reply(452, "4.2.2", "Mailbox Full"), "", self._clock.now())
            try:
                await self._write(self._folder / name, envelope, after, content)
            finally:
                self._reserved -= size
            self._used += size
        except OSError as error:
            return Deferred(folders.trouble(error, "Drop"), "", self._clock.now())
        return Delivered(
            Reply(250, "2.1.5", f"Written to the Drop folder of {self._fqdn} as {name}"), "", self._clock.now()
        )

    async def _write(self, path: Path, envelope: bytes, after: bytes, content: Content) -> None:
        octets = await content.octets()
        if octets is not None:
            await self._thread(folders.write_whole, path, [envelope, *_with_fields(octets, after)])
            return
        file = await self._thread(folders.WholeFile, path)
        try:
            await self._thread(file.write, envelope)
            async for piece in _chunks_with_fields(content.chunks(), after):
                await self._thread(file.write, piece)
            await self._thread(file.finish)
        finally:
            # Not awaited: after a cancellation a write may still be going on, and it ends by itself.
            self._threads.submit(file.abandon)

    async def _reserve(self, size: int) -> bool:
        """Whether the quota leaves room for so many octets; they count from now on."""
        if self._quota or self._looked is None:
            async with self._looking:
                age = float("inf") if self._looked is None else self._clock.now() - self._looked
                full = self._used + self._reserved + size > self._quota
                if age >= self._LOOK_AGAIN or (full and age >= self._LOOK_AGAIN_FULL):
                    self._used = await self._thread(self._look)
                    self._looked = self._clock.now()
                if self._quota and self._used + self._reserved + size > self._quota:
                    return False
        self._reserved += size
        return True

    def _look(self) -> int:
        """Octets in the folder."""
        self._folder.mkdir(parents=True, exist_ok=True)
        folders.sweep(self._folder)
        used = 0
        with os.scandir(self._folder) as entries:
            for entry in entries:
                try:
                    if entry.is_file(follow_symlinks=False):
                        used += entry.stat(follow_symlinks=False).st_size
                except FileNotFoundError:
                    continue  # taken while we looked
        return used

    async def _thread(self, function: Callable[..., T], *arguments: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, function, *arguments)


def file_base(id: MessageId, indices: Sequence[int]) -> str:
    """The base name of the files of a message, as far as it is for these recipients: see above."""
    first = min(indices, default=0)
    return f"{format_id(id)}-{first + 1}" if first else format_id(id)


def envelope_lines(record: Record, indices: Sequence[int]) -> bytes:
    """The x-sender and x-receiver lines of Drop, Badmail and Pickup files."""
    envelope = record.message.envelope
    lines = [f"x-sender: {envelope.sender or '<>'}\r\n"]
    lines += [f"x-receiver: {envelope.recipients[index].address}\r\n" for index in indices]
    return "".join(lines).encode()


def _last_fields(record: Record) -> bytes:
    sender = record.message.envelope.sender or "<>"
    arrived = original_arrival_time(record.message.origin.arrived)
    return f"Return-Path: {sender}\r\nX-OriginalArrivalTime: {arrived}\r\n".encode()


_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_FILETIME_OF_EPOCH = 116_444_736_000_000_000


def original_arrival_time(when: float) -> str:
    """The value of X-OriginalArrivalTime: UTC, milliseconds with four digits, and the same as a Windows FILETIME
    (100 ns since 1601), low half first: `03 Feb 2017 06:30:51.0872 (UTC) FILETIME=[10BA2E00:01D27DE7]`."""
    milliseconds = round(when * 1000)
    time = datetime.fromtimestamp(milliseconds // 1000, UTC)
    filetime = _FILETIME_OF_EPOCH + milliseconds * 10_000
    return (
        f"{time.day:02} {_MONTHS[time.month - 1]} {time.year} {time:%H:%M:%S}.{milliseconds % 1000:04} (UTC) "
        f"FILETIME=[{filetime & 0xFFFFFFFF:08X}:{filetime >> 32:08X}]"
    )


def _with_fields(octets: bytes, fields: bytes) -> list[bytes]:
    """A message, or its beginning, with fields put behind those of its header."""
    head = scan(octets, complete=True)
    if head is None or not head.separated:
        # No empty line ends this header: either nothing follows it, or a line that is no field. The fields need
        # the empty line to be seen for what they are.
        end = len(octets) if head is None else head.end
        ended = not end or octets.startswith(b"\r\n", end - 2)
        return [octets[:end], b"" if ended else b"\r\n", fields, b"\r\n", octets[end:]]
    return [octets[: head.end - 2], fields, octets[head.end - 2 :]]


async def _chunks_with_fields(chunks: AsyncIterator[bytes], fields: bytes) -> AsyncIterator[bytes]:
    start: bytes | None = b""
    async for chunk in chunks:
        if start is None:
            yield chunk
            continue
        start += chunk
        if len(start) >= _LONGEST_HEADER or scan(start) is not None:
            for piece in _with_fields(start, fields):
                yield piece
            start = None
    if start is not None:
        for piece in _with_fields(start, fields):
            yield piece
