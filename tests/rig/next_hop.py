"""A next hop that does as it is told: good, slow, broken or hostile, at any stage. Runs in the test's own loop.

    async with NextHop({"RCPT": ["250 ok", "550 5.1.1 no"], ".": DROP}) as hop: ...

`replies` maps a verb ("BANNER", "EHLO", "MAIL", "." for the end of the content, …) to what is said: a text (several
lines by "\\n"), octets to be sent as they are, DROP (the connection is cut), SILENT (nothing is said), or a list of
these, one for each time, the last of them for ever after.
"""

import asyncio
import base64
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType

DROP = "drop"
SILENT = "silent"

Said = str | bytes | Sequence[str]


@dataclass
class Arrived:
    """A message that was accepted: the lines of its envelope, and its octets with the dots undone."""

    mail: str
    recipients: list[str]
    octets: bytes
    connection: int


@dataclass
class NextHop:
    """One scripted server on a port of 127.0.0.1 (or another loopback address)."""

    replies: Mapping[str, Said] = field(default_factory=dict)
    extensions: Sequence[str] = ("PIPELINING", "SIZE 0", "8BITMIME", "ENHANCEDSTATUSCODES")
    address: str = "127.0.0.1"
    port: int = 0
    tls: ssl.SSLContext | None = None
    implicit: bool = False
    users: Mapping[str, str] = field(default_factory=dict)
    messages_per_connection: int = 0
    """After so many messages it says 421 to the next MAIL."""
    drop_when_idle: bool = False
    """It closes right after each message."""
    verdict_after: tuple[int, str] | None = None
    """(octets, reply): says the reply when so many octets of content have come, and reads no more."""
    hold: Mapping[str, asyncio.Event] = field(default_factory=dict)
    """Before it answers this verb it waits for the event."""
    messages: list[Arrived] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)
    peers: list[str] = field(default_factory=list)
    connections: int = 0
    open: int = 0
    most_open: int = 0
    tls_connections: int = 0

    async def __aenter__(self) -> "NextHop":
        self._heard = asyncio.Condition()
        self._tasks: set[asyncio.Task[None]] = set()
        self._said: dict[str, int] = {}
        context = self.tls if self.implicit else None
        self._server = await asyncio.start_server(self._serve, self.address, self.port, ssl=context, limit=2**20)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    async def heard(self, verb: str, times: int = 1) -> None:
        """Until a command has come so many times."""
        async with asyncio.timeout(10), self._heard:
            await self._heard.wait_for(lambda: self.count(verb) >= times)

    def count(self, verb: str) -> int:
        return sum(command.upper().startswith(verb) for command in self.commands)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        self.peers.append(writer.get_extra_info("peername")[0])
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        try:
            await self._session(reader, writer, self.connections)
        except (ConnectionError, asyncio.IncompleteReadError, ssl.SSLError):
            pass
        finally:
            self.open -= 1
            self._tasks.discard(task)
            writer.transport.abort()

    def _what(self, verb: str, default: str) -> str | bytes:
        said = self.replies.get(verb, default)
        if isinstance(said, str | bytes):
            return said
        turn = self._said.get(verb, 0)
        self._said[verb] = turn + 1
        return said[min(turn, len(said) - 1)]

    async def _say(self, writer: asyncio.StreamWriter, verb: str, default: str) -> int:
        """Says it; the code, 0 for silence and for nonsense."""
        if verb in self.hold:
            await self.hold[verb].wait()
        text = self._what(verb, default)
        if isinstance(text, bytes):
            writer.write(text)
            return int(text[:3])
        if text == DROP:
            writer.transport.abort()
            raise ConnectionAbortedError
        if text == SILENT:
            return 0
        code, lines = text[:3], text.split("\n")
        wire = "".join(
            f"{line}\r\n" if n == len(lines) - 1 else f"{line[:3]}-{line[4:]}\r\n" for n, line in enumerate(lines)
        )
        writer.write(wire.encode("utf-8", "surrogateescape"))
        sense = code.isdigit() and len(lines) < 500 and all(line.startswith(code) for line in lines)
        return int(code) if sense else 0

    async def _note(self, command: str) -> None:
        self.commands.append(command)
        async with self._heard:
            self._heard.notify_all()

    async def _session(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int) -> None:
        secure = self.implicit
        if secure:
            self.tls_connections += 1
        await self._say(writer, "BANNER", "220 hop ESMTP")
        mail, recipients, taken, chunks = "", [], 0, b""
        while line := await reader.readline():
            command = line.decode("utf-8", "surrogateescape").rstrip("\r\n")
            verb = command.partition(" ")[0].upper()
            await self._note(command)
            match verb:
                case "EHLO":
                    offered = [e for e in self.extensions if not (secure and e == "STARTTLS")]
                    await self._say(writer, verb, "\n".join(f"250 {e}" for e in ("hop", *offered)))
                case "STARTTLS":
                    if await self._say(writer, verb, "220 go") == 220 and self.tls is not None:
                        await writer.start_tls(self.tls)
                        secure = True
                        self.tls_connections += 1
                case "AUTH":
                    await self._login(reader, writer, command)
                case "MAIL":
                    if self.messages_per_connection and taken >= self.messages_per_connection:
                        writer.write(b"421 4.7.0 enough for one connection\r\n")
                        return
                    mail, recipients = command, []
                    if not 200 <= await self._say(writer, verb, "250 2.1.0 ok") < 300:
                        mail = ""
                case "RCPT":
                    if (
                        200
                        <= await self._say(writer, verb, "250 2.1.5 ok" if mail else "503 5.5.1 MAIL first")
                        < 300
                    ):
                        recipients.append(command)
                case "DATA":
                    default = "354 go" if recipients else "554 5.5.1 no valid recipients"
                    if await self._say(writer, verb, default) == 354:
                        octets = await self._content(reader, writer)
                        if 200 <= await self._say(writer, ".", "250 2.0.0 queued") < 300:
                            self.messages.append(Arrived(mail, recipients, octets, number))
                        taken += 1
                        if self.drop_when_idle:
                            return
                case "BDAT":
                    _, size, *last = command.split()
                    chunks += await reader.readexactly(int(size))
                    default = "250 2.0.0 queued" if recipients else "554 5.5.1 no valid recipients"
                    code = await self._say(writer, "." if last else "BDAT", default)
                    if last:
                        if 200 <= code < 300:
                            self.messages.append(Arrived(mail, recipients, chunks, number))
                        chunks = b""
                        taken += 1
                        if self.drop_when_idle:
                            return
                case "QUIT":
                    await self._say(writer, verb, "221 2.0.0 bye")
                    return
                case "HELO" | "RSET":
                    await self._say(writer, verb, "250 ok")
                case _:
                    await self._say(writer, verb, "500 5.5.1 what?")
            await writer.drain()

    async def _content(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        """Reads as strictly as RFC 5321 §4.1.1.4 wants it: only CRLF ends a line."""
        lines: list[bytes] = []
        if self.verdict_after is not None:
            await reader.readexactly(self.verdict_after[0])
            writer.write(self.verdict_after[1].encode() + b"\r\n")
            # Stays open, and reads no more.
            await asyncio.Event().wait()
        while (line := await reader.readuntil(b"\r\n")) != b".\r\n":
            lines.append(line[1:] if line.startswith(b".") else line)
        return b"".join(lines)

    async def _login(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, command: str) -> None:
        _, mechanism, *initial = command.split()
        if mechanism == "PLAIN":
            text = initial[0].encode() if initial else await self._ask(reader, writer, b"")
            _, user, password = base64.b64decode(text).decode().split("\0")
        else:
            user = base64.b64decode(await self._ask(reader, writer, b"Username:")).decode()
            password = base64.b64decode(await self._ask(reader, writer, b"Password:")).decode()
        right = user in self.users and self.users[user] == password
        await self._say(writer, "AUTH", "235 2.7.0 welcome" if right else "535 5.7.8 Authentication unsuccessful")

    async def _ask(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, challenge: bytes) -> bytes:
        writer.write(b"334 " + base64.b64encode(challenge) + b"\r\n")
        return await reader.readline()
