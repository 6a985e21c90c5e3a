"""The Badmail folder: messages that can be neither delivered nor returned, kept for a person to look at.

A message is a set of three files with one base name, its id as people see it (`ID-N` where recipient N is the
first that failed and not the message's first; a set that is written again replaces itself):

    ID.BAD  the message, with x-sender, x-receiver and x-dot-stuffed lines in front: moved into the Pickup folder it
            goes to the failed recipients once more
    ID.BDR  why, in words: the recipients and what was last said about each
    ID.BDP  the same and the rest of the record as JSON

Nothing here removes a file.
"""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from mailroot import folders
from mailroot.deliver.drop import envelope_lines, file_base
from mailroot.queue.base import Content, Record, format_id

T = TypeVar("T")

_THREADS = 2


class Badmail:
    """Writes sets into the folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._threads = ThreadPoolExecutor(_THREADS, "badmail")

    async def write(self, record: Record, content: Content, reason: str, failed: Sequence[int]) -> str:
        """Write the set of a message whose recipients `failed` will not get it; `reason` is one sentence. Returns
        the base name. Safe on disk on return; raises OSError, and QueueError when the content cannot be read."""
        base = file_base(record.id, failed)
        properties = _properties(record, reason, failed)
        await self._thread(folders.write_reason, self._folder, base, _reason(record, reason, failed), properties)
        file = await self._thread(folders.WholeFile, self._folder / f"{base}.BAD")
        try:
            # The message stands here with its dots as they are, whatever Pickup takes for granted of its files.
            await self._thread(file.write, envelope_lines(record, failed) + b"x-dot-stuffed: no\r\n")
            async for chunk in content.chunks():
                await self._thread(file.write, chunk)
            await self._thread(file.finish)
        finally:
            # Not awaited: after a cancellation a write may still be going on, and it ends by itself.
            self._threads.submit(file.abandon)
        return base

    async def _thread(self, function: Callable[..., T], *arguments: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, function, *arguments)


def _time(when: float) -> str:
    return datetime.fromtimestamp(when, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _reason(record: Record, reason: str, failed: Sequence[int]) -> str:
    """What the administrator reads."""
    message = record.message
    lines = [
        reason,
        "",
        f"Message:    {format_id(record.id)}",
        f"From:       {message.envelope.sender or '<>'}",
        f"Subject:    {message.subject}",
        f"Message-ID: {message.message_id}",
        f"Arrived:    {_time(message.origin.arrived)} through {message.origin.door}"
        + (f" from {message.origin.client}" if message.origin.client else ""),
        f"Attempts:   {record.attempts}",
        "",
        "Not delivered to:" if failed else "It has no recipients.",
    ]
    for index in failed:
        standing = record.standings[index]
        lines.append(f"  {standing.recipient.address}")
        if standing.last is not None:
            at = f" at {standing.last.host}" if standing.last.host else ""
            lines.append(f"    {_time(standing.last.at)}{at}: {standing.last.reply}")
    return "\n".join(lines)


def _properties(record: Record, reason: str, failed: Sequence[int]) -> dict[str, object]:
    message = record.message
    recipients = []
    for index in failed:
        standing = record.standings[index]
        last = standing.last and {
            "at": _time(standing.last.at),
            "host": standing.last.host,
            "reply": str(standing.last.reply),
        }
        recipients.append({"address": str(standing.recipient.address), "last": last})
    return {
        "id": format_id(record.id),
        "reason": reason,
        "sender": str(message.envelope.sender or ""),
        "recipients": recipients,
        "subject": message.subject,
        "message_id": message.message_id,
        "size": record.size,
        "arrived": _time(message.origin.arrived),
        "door": message.origin.door.value,
        "client": message.origin.client,
        "helo": message.origin.helo,
        "user": message.origin.user,
        "attempts": record.attempts,
    }
