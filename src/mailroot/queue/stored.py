"""A message's octets on their way into the SQLite queue and out of it: in memory while few, else in a file.

It must not know rows or transactions; the queue it belongs to does that.
"""

from collections.abc import AsyncIterator, Awaitable, Callable

from mailroot.queue.base import CHUNK, SMALL, Content, Message, MessageId, QueueError
from mailroot.queue.bodies import Bodies

Insert = Callable[[MessageId, Message, int, bytes | None], Awaitable[None]]
"""Makes a message durable: its id, itself, how many octets it has, and these, or None if its file is sealed."""

Fetch = Callable[[MessageId], Awaitable[Content | None]]
"""Looks a message's content up."""


class StoredDraft:
    """A message while it arrives."""

    def __init__(self, id: MessageId, bodies: Bodies, insert: Insert) -> None:
        self._id = id
        self._bodies = bodies
        self._insert = insert
        self._pieces: list[bytes] = []
        self._held = 0
        self._size = 0
        self._in_file = False
        self._over = False

    @property
    def id(self) -> MessageId:
        return self._id

    async def write(self, octets: bytes) -> None:
        self._pieces.append(octets)
        self._held += len(octets)
        self._size += len(octets)
        if self._size > SMALL and (not self._in_file or self._held >= CHUNK):
            if not self._in_file:
                self._bodies.start(self._id)
                self._in_file = True
            await self._bodies.append(self._id, self._taken())

    async def commit(self, message: Message) -> None:
        if self._over:
            raise QueueError("the message was committed or abandoned before")
        if self._in_file:
            await self._bodies.seal(self._id, self._taken())
            self._over = True  # from here the row decides whether the file stays, whether or not we still wait
            await self._insert(self._id, message, self._size, None)
        else:
            self._over = True
            pieces = self._taken()
            await self._insert(self._id, message, self._size, pieces[0] if len(pieces) == 1 else b"".join(pieces))

    def _taken(self) -> list[bytes]:
        pieces, self._pieces, self._held = self._pieces, [], 0
        return pieces

    async def abandon(self) -> None:
        if not self._over:
            self._over = True
            self._pieces = []
            if self._in_file:
                self._bodies.discard(self._id)


class StoredContent:
    """The octets of a stored message: prefix, and a body at hand, in the database, or in a file."""

    def __init__(
        self,
        id: MessageId,
        size: int,
        prefix: bytes,
        file: str | None,
        body: bytes | None,
        bodies: Bodies,
        fetch: Fetch,
    ) -> None:
        self._id = id
        self._size = size
        self._prefix = prefix
        self._file = file
        self._body = body
        self._bodies = bodies
        self._fetch = fetch

    @property
    def size(self) -> int:
        return self._size

    @property
    def file(self) -> str | None:
        """The name of the file with the body, if it is in one."""
        return self._file

    @property
    def held(self) -> int:
        """Octets of the body that are in memory."""
        return 0 if self._body is None else len(self._body)

    async def octets(self) -> bytes | None:
        if self._body is not None:
            return self._prefix + self._body
        if self._file is not None:
            return None
        content = await self._fetch(self._id)
        if content is None:
            raise QueueError("the message is finished: its octets are gone")
        return await content.octets()

    async def chunks(self) -> AsyncIterator[bytes]:
        if self._file is not None:
            if self._prefix:
                yield self._prefix
            async for piece in self._bodies.pieces(self._file):
                yield piece
        elif octets := await self.octets():
            for start in range(0, len(octets), CHUNK):
                yield octets[start : start + CHUNK]
