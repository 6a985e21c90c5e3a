"""A next hop in plain Python that takes every message and remembers it, octet for octet.

A thread with a blocking conversation for each connection, so that it shares nothing with what it is testing. It
reads DATA and BDAT, and removes the dots that DATA doubles and nothing else: `Received.octets` is what the client
meant.
"""

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

EVERYTHING = (
    "PIPELINING",
    "8BITMIME",
    "SIZE 100000000",
    "ENHANCEDSTATUSCODES",
    "DSN",
    "SMTPUTF8",
    "CHUNKING",
    "BINARYMIME",
)


@dataclass(frozen=True, slots=True)
class Received:
    """One message: the arguments of MAIL and RCPT as they came, and the content."""

    sender: str
    recipients: tuple[str, ...]
    octets: bytes
    helo: str
    tls: bool = False


class Sink:
    """Listens from the moment it is made until `close`.

    `replies` are given instead of the usual ones, by command ("CONNECT", "MAIL", "RCPT", "DATA", "." …); b"" hangs
    up. They, and `extensions`, may be changed at any time. `keep` turns a message into what is remembered of it.
    With `record`, `wire` has every octet of all connections as they came.
    """

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        extensions: Sequence[str] = EVERYTHING,
        replies: dict[str, bytes] | None = None,
        tls: ssl.SSLContext | None = None,
        keep: Callable[[Received], object] = lambda received: received,
        record: bool = False,
    ) -> None:
        self.extensions = tuple(extensions)
        self.replies = dict(replies or {})
        self.tls = tls
        self.messages: list[object] = []
        self.commands: list[str] = []
        self.wire: bytearray | None = bytearray() if record else None
        self.connections = 0
        self.on_block: Callable[[], object] = lambda: None  # called for each block of octets that comes
        self._keep = keep
        self._changed = threading.Condition()
        self._open: set[socket.socket] = set()
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listener = socket.create_server((host, port), family=family, backlog=200)
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, name="sink", daemon=True).start()

    def __enter__(self) -> "Sink":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop listening and drop every connection."""
        # A thread in accept() is woken by shutdown on Linux, by the closing itself on Windows.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._changed:
            for connection in self._open:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def wait(self, messages: int = 1, seconds: float = 60) -> list[Received]:
        """What has arrived, as soon as that many are there; AssertionError after `seconds`."""
        with self._changed:
            there = self._changed.wait_for(lambda: len(self.messages) >= messages, seconds)
            count = len(self.messages)
            assert there, (
                f"{count} of {messages} messages arrived within {seconds} s; last commands: {self.commands[-20:]}"
            )
            return list(self.messages)  # type: ignore[arg-type]

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with self._changed:
                self.connections += 1
                self._open.add(connection)
            threading.Thread(target=self._serve, args=(connection,), name="sink", daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        conversation = _Conversation(self, connection)
        try:
            conversation.run()
        except (OSError, EOFError):
            pass  # the client went away, or the test is over
        finally:
            with self._changed:
                self._open.discard(connection)
            conversation.socket.close()
            connection.close()

    def take(self, received: Received) -> None:
        """Called by a conversation before it says 250."""
        kept = self._keep(received)
        with self._changed:
            self.messages.append(kept)
            self._changed.notify_all()


class _Conversation:
    def __init__(self, sink: Sink, connection: socket.socket) -> None:
        self.sink = sink
        self.socket: socket.socket = connection
        self.buffer = bytearray()
        self.helo = ""
        self.secure = False
        self.reset()

    def reset(self) -> None:
        self.sender: str | None = None
        self.recipients: list[str] = []
        self.chunks: list[bytes] = []

    def more(self) -> None:
        block = self.socket.recv(1 << 18)
        if not block:
            raise EOFError
        self.buffer += block
        if self.sink.wire is not None:
            self.sink.wire += block
        self.sink.on_block()

    def take(self, size: int) -> bytes:
        while len(self.buffer) < size:
            self.more()
        octets = bytes(self.buffer[:size])
        del self.buffer[:size]
        return octets

    def line(self) -> str:
        while (end := self.buffer.find(b"\n")) < 0:
            self.more()
        return self.take(end + 1).rstrip(b"\r\n").decode("utf-8", "surrogateescape")

    def content(self) -> bytes:
        """Up to the line with a single dot, with RFC 5321 §4.5.2 undone."""
        self.buffer[:0] = b"\r\n"  # so that a message without a line ends like any other
        seen = 0
        while (end := self.buffer.find(b"\r\n.\r\n", seen)) < 0:
            seen = max(0, len(self.buffer) - 4)
            self.more()
        return self.take(end + 5)[:-3].replace(b"\r\n.", b"\r\n")[2:]

    def say(self, reply: bytes) -> None:
        if not reply:
            raise EOFError
        self.socket.sendall(reply + b"\r\n")

    def run(self) -> None:
        self.say(self.sink.replies.get("CONNECT", b"220 sink ESMTP"))
        while True:
            command = self.line()
            self.sink.commands.append(command)
            verb = command.split(" ", 1)[0].upper()
            if verb == "BDAT":
                self.bdat(command)
                continue
            if verb in self.sink.replies:
                self.say(self.sink.replies[verb])
                continue
            match verb:
                case "EHLO":
                    self.helo = command[5:]
                    offers = [*self.sink.extensions]
                    if self.sink.tls is not None and not self.secure:
                        offers.append("STARTTLS")
                    lines = ["sink", *offers]
                    self.say(
                        "\r\n".join(
                            f"250{'-' if n + 1 < len(lines) else ' '}{text}" for n, text in enumerate(lines)
                        ).encode()
                    )
                case "HELO":
                    self.helo = command[5:]
                    self.say(b"250 sink")
                case "STARTTLS" if self.sink.tls is not None:
                    self.say(b"220 2.0.0 go ahead")
                    assert not self.buffer, "the client talked between STARTTLS and its reply"
                    self.socket = self.sink.tls.wrap_socket(self.socket, server_side=True)
                    self.secure = True
                    self.reset()
                case "MAIL":
                    self.reset()
                    self.sender = command.split(":", 1)[1].strip()
                    self.say(b"250 2.1.0 ok")
                case "RCPT":
                    self.recipients.append(command.split(":", 1)[1].strip())
                    self.say(b"250 2.1.5 ok")
                case "DATA":
                    self.say(b"354 go ahead")
                    self.finish(self.content())
                case "RSET" | "NOOP":
                    self.reset()
                    self.say(b"250 2.0.0 ok")
                case "QUIT":
                    self.say(b"221 2.0.0 bye")
                    return
                case _:
                    self.say(b"500 5.5.1 what?")

    def bdat(self, command: str) -> None:
        _, size, *last = command.split()
        self.chunks.append(self.take(int(size)))
        if "BDAT" in self.sink.replies:
            self.say(self.sink.replies["BDAT"])
        elif last:
            self.finish(b"".join(self.chunks))
        else:
            self.say(b"250 2.0.0 ok")

    def finish(self, octets: bytes) -> None:
        if "." in self.sink.replies:
            self.say(self.sink.replies["."])
        else:
            self.sink.take(Received(self.sender or "", tuple(self.recipients), octets, self.helo, self.secure))
            self.say(b"250 2.0.0 taken")
        self.reset()
