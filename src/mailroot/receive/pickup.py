"""The Pickup folder: a file that a program puts there is taken within seconds, queued, and removed.

What a file says is pickup_format's business, how it is moved pickup_folder's; here is when, and what becomes of it.

- The folder is listed once a second, which works alike on Windows, Linux and network shares. A file is taken when
  it has not changed between two looks and nobody has it open for writing; where the system cannot tell, when it
  has not changed for five seconds. An empty file is given a minute.
- Any name will do, save those of files that are not ready: a dot or `~` in front, `.tmp` behind, hidden on Windows.
- A read-only file, a link, or a file that cannot be moved out of the folder stays where it is: sent, it would be
  sent again and again. That is said once, and tried again each minute.
- The message is queued before its file is removed. A crash in between sends it twice; it is never lost: what stands
  in the subfolder `.taken` at the start goes back into the folder.
- A file that is no message goes to the Badmail folder as it is, with the reason beside it.
- When the queue can store nothing, the files stay and are tried again.

Relay restrictions do not hold here: whoever may write into the folder may send anywhere.
One process at a time serves the folder; others that try wait until it is gone.
"""

import asyncio
import traceback
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from mailroot import system
from mailroot.clock import Clock
from mailroot.events import Bus, InternalError, PickupRefused
from mailroot.mail.envelope import Body, Door, Envelope, Origin, Recipient
from mailroot.mail.header import scan
from mailroot.policy.domains import LocalDomains
from mailroot.policy.visit import Refuse
from mailroot.queue.base import QueueError
from mailroot.receive.intake import Incoming, Intake
from mailroot.receive.pickup_folder import Look, NotYet, PickupFolder, Stays, Taken
from mailroot.receive.pickup_format import BadFile, LineEnds, Opening, Unstuffing, read_header

T = TypeVar("T")

# Seconds.
_LOOK_EVERY = 1.0
_SETTLED = 1.0
_SETTLED_EMPTY = 60.0
_TRY_AGAIN = 60.0
_QUEUE_PAUSE = 5.0
_GRACE = 10.0

_AT_ONCE = 16
_THREADS = 4


class Pickup:
    """Serves one Pickup folder. `max_size` is octets of a message as it is queued, 0: no limit."""

    def __init__(
        self,
        folder: Path,
        badmail_folder: Path,
        intake: Intake,
        bus: Bus,
        clock: Clock,
        local: LocalDomains,
        *,
        server: str,
        fqdn: str,
        dot_stuffed: bool,
        max_size: int,
        max_recipients: int,
    ) -> None:
        self._folder = PickupFolder(folder, badmail_folder)
        self._intake = intake
        self._bus = bus
        self._clock = clock
        self._local = local
        self._server = server
        self._fqdn = fqdn
        self._dot_stuffed = dot_stuffed
        self._max_size = max_size
        self._max_recipients = max_recipients
        self._looks: dict[str, Look] = {}
        # Why a file stayed, and when it is tried again.
        self._stayed: dict[str, tuple[str, float]] = {}
        self._trouble = ""
        self._paused_until = 0.0
        self._in_hand: dict[str, asyncio.Task[None]] = {}
        self._free = asyncio.Semaphore(_AT_ONCE)
        self._filing = asyncio.Lock()
        self._removed_some = False
        # Its own threads: a folder on a dead network share must not stop anything else that waits for a thread.
        self._threads = ThreadPoolExecutor(_THREADS, "pickup")

    async def run(self) -> None:
        """Serve the folder until cancelled; then finish the files in hand."""
        lock: system.FileLock | None = None
        try:
            while True:
                try:
                    if lock is None:
                        lock = await self._thread(self._folder.open)
                    if await self._thread(self._folder.is_ours, lock):
                        await self._serve()
                except OSError as error:
                    self._say_trouble(error.strerror or str(error))
                    if lock is not None:
                        # The folder may be another one when it is back.
                        lock.close()
                        lock = None
                await self._clock.sleep_until(self._clock.now() + _LOOK_EVERY)
        finally:
            try:
                if self._in_hand:
                    await asyncio.wait(self._in_hand.values(), timeout=_GRACE)
            finally:
                for task in self._in_hand.values():
                    task.cancel()
                if lock is not None:
                    lock.close()
                self._threads.shutdown(wait=False)

    async def _serve(self) -> None:
        """We hold the folder: bring back what a crash left in `.taken`, then look again and again."""
        if self._in_hand:
            await asyncio.wait(self._in_hand.values())
        await self._thread(self._folder.bring_back)
        while True:
            await self._look()
            self._trouble = ""
            await self._clock.sleep_until(self._clock.now() + _LOOK_EVERY)

    async def _look(self) -> None:
        """Look at the folder once, and take what is ready, oldest first."""
        now = self._clock.now()
        before = self._looks
        # What is in hand may come back as it was.
        self._looks = {name: before[name] for name in self._in_hand if name in before}
        ready = []
        for name, seen in await self._thread(self._folder.look):
            look = before.get(name)
            if look is None or not look.same_as(seen):
                look = Look(seen.st_size, seen.st_mtime_ns, seen.st_mode, now)
                self._stayed.pop(name, None)
            self._looks[name] = look
            _, again = self._stayed.get(name, ("", 0.0))
            if now - look.since >= (_SETTLED if look.size else _SETTLED_EMPTY) and now >= again:
                ready.append((look.modified, name))
        self._stayed = {name: stayed for name, stayed in self._stayed.items() if name in self._looks}
        for _, name in sorted(ready):
            await self._free.acquire()
            if self._clock.now() < self._paused_until or name in self._in_hand:
                self._free.release()
                continue
            self._in_hand[name] = asyncio.create_task(self._one_file(name, self._looks[name]))
        if self._removed_some:
            self._removed_some = False
            await self._thread(self._folder.sync)

    async def _one_file(self, name: str, look: Look) -> None:
        """The story of one file; a border: no fault with one file stops the others."""
        try:
            await self._take(name, look)
        except NotYet:
            pass
        except (Stays, OSError) as error:
            self._say_stays(name, str(error))
        except Exception as error:  # noqa: BLE001
            self._stayed[name] = ("", self._clock.now() + _TRY_AGAIN)
            self._bus.publish(InternalError(self._server, f"Pickup, {name}", repr(error), traceback.format_exc()))
        finally:
            del self._in_hand[name]
            self._free.release()

    async def _take(self, name: str, look: Look) -> None:
        """Take a file and see it through. Raises NotYet, Stays, OSError; then it is in its place."""
        taken = await self._thread(self._folder.take, name, look, self._clock.now() - look.since)
        try:
            await self._queue(taken)
        except BadFile as error:
            await self._to_badmail(taken, str(error))
        except QueueError:
            # Intake has said so. Whatever else there is would fare no better now.
            self._paused_until = self._clock.now() + _QUEUE_PAUSE
            await self._thread(self._folder.put_back, taken)
        except OSError as error:
            await self._thread(self._folder.put_back, taken)
            raise Stays(f"It cannot be read: {error.strerror or error}.") from error
        except Exception:
            await self._thread(self._folder.put_back, taken)
            raise
        else:
            try:
                await self._thread(self._folder.remove, taken)
            except OSError as error:
                why = error.strerror or str(error)
                raise Stays(
                    f"It was queued, but cannot be removed ({why}): remove it from {taken.path}."
                ) from error
            self._removed_some = True
        finally:
            taken.file.close()

    async def _queue(self, taken: Taken) -> None:
        """Queue the message. Raises BadFile, NotYet, QueueError, OSError."""
        incoming = self._intake.open()
        try:
            envelope = await self._read(taken, incoming)
            origin = Origin(Door.PICKUP, self._clock.now())
            received = f"from mail pickup service by {self._fqdn}"
            answer = await incoming.commit(envelope, origin, received, taken.name)
        finally:
            await incoming.abandon()
        if isinstance(answer, Refuse):
            raise BadFile(f"It was refused: {answer.reply}.")

    async def _read(self, taken: Taken, incoming: Incoming) -> Envelope:
        """Write the message into the queue as it is read, never all of it in memory; returns its envelope."""
        text = self._text(taken)
        opening, rest = await self._opening(text)
        dots = Unstuffing() if (self._dot_stuffed if opening.dot_stuffed is None else opening.dot_stuffed) else None
        size, seven_bit, ended = 0, True, True

        async def write(octets: bytes) -> None:
            nonlocal size, seven_bit, ended
            size += len(octets)
            if self._max_size and size > self._max_size:
                raise BadFile(f"It is larger than the message size limit of {self._max_size} octets.")
            seven_bit = seven_bit and octets.isascii()
            ended = octets.endswith(b"\n")
            await incoming.write(octets)

        await write(opening.header + b"\r\n" + (dots.add(rest) if dots else rest))
        async for piece in text:
            if octets := dots.add(piece) if dots else piece:
                await write(octets)
        last = dots.end() if dots else b""
        if last or not ended:
            await write(last + b"\r\n")
        addresses = opening.recipients if opening.sender is None else (opening.sender, *opening.recipients)
        return Envelope(
            opening.sender,
            tuple(Recipient(address) for address in opening.recipients),
            Body.SEVEN_BIT if seven_bit else Body.EIGHT_BIT,
            smtputf8=not all(address.is_ascii for address in addresses),
        )

    async def _opening(self, text: AsyncIterator[bytes]) -> tuple[Opening, bytes]:
        """The header, read, and what came behind it."""
        limit = self._intake.messages.max_header_size
        start, head = b"", None
        async for piece in text:
            start += piece
            if start.startswith((b"From ", b">From ")) and b"\n" in start:
                # The first line of a message out of a mailbox file (RFC 4155).
                start = start.partition(b"\n")[2]
            head = scan(start)
            if head is not None or len(start) > limit:
                break
        head = head or scan(start, complete=True)
        if head is None or head.end > limit:
            raise BadFile(f"Its header is larger than the limit of {limit} octets.")
        header, rest = start[: head.end - 2 if head.separated else head.end], start[head.end :]
        if header and not header.endswith(b"\n"):
            header += b"\r\n"
        try:
            return read_header(header, self._local.default, self._max_recipients), rest
        except BadFile as error:
            line = rest.partition(b"\r\n")[0][:80]
            if head.separated or not line:
                raise
            shown = line.decode("utf-8", "replace")
            raise BadFile(f"{error} Its header ends at a line that is no header field: {shown!r}.") from None

    async def _text(self, taken: Taken) -> AsyncIterator[bytes]:
        """The file with its line ends put right, in pieces, none empty."""
        ends = LineEnds()
        octets = taken.start
        while octets:
            if piece := ends.add(octets):
                yield piece
            octets = b"" if taken.is_whole else await self._thread(taken.more)
        if piece := ends.end():
            yield piece

    async def _to_badmail(self, taken: Taken, reason: str) -> None:
        try:
            async with self._filing:
                await self._thread(self._folder.file_as_bad, taken, reason)
        except OSError as error:
            await self._thread(self._folder.put_back, taken)
            why = error.strerror or str(error)
            raise Stays(f"{reason} And the Badmail folder cannot be written: {why}.") from error
        except Exception:
            await self._thread(self._folder.put_back, taken)
            raise
        self._bus.publish(PickupRefused(self._server, taken.name, reason))

    def _say_stays(self, name: str, reason: str) -> None:
        said, _ = self._stayed.get(name, ("", 0.0))
        self._stayed[name] = (reason, self._clock.now() + _TRY_AGAIN)
        if said != reason:
            self._bus.publish(PickupRefused(self._server, name, reason, kept=True))

    def _say_trouble(self, reason: str) -> None:
        if reason != self._trouble:
            self._trouble = reason
            text = f"The folder cannot be served: {reason}."
            self._bus.publish(PickupRefused(self._server, str(self._folder.path), text, kept=True))

    async def _thread(self, function: Callable[..., T], *arguments: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, function, *arguments)
