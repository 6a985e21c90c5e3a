"""Plays a session over a socket, and hears all that the server says. It never waits longer than it says.

TLS is done in memory, so that the octets of the connection itself can be damaged, cut off or reset.
"""

import select
import socket
import ssl
import struct
import time
from dataclasses import dataclass

from fuzz.sessions import CLIENT_HELLO, Act, Session, Step

PATIENCE = 20.0
"""Seconds within which the server has to take what we say, and to end after we have ended."""

_MOMENT = 0.02
"""How long a client that listens waits for a first reply."""


@dataclass(frozen=True, slots=True)
class Played:
    """What each side said, all of it above TLS. `reset`: the connection ended with a TCP reset, ours or the
    server's, so its last words may be missing. `trouble`: the server did not take or did not end, "" if all is
    well."""

    session: Session
    said: bytes
    heard: bytes
    reset: bool
    trouble: str


class _Closed(Exception):
    """The server has closed, or reset, the connection."""


class _Client:
    def __init__(self, host: str, port: int) -> None:
        self.socket = socket.create_connection((host, port), PATIENCE)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        self.said = bytearray()
        self.heard = bytearray()
        self.reset = False
        self.ended = False
        self._tls: ssl.SSLObject | None = None
        self._secure = False
        self._in = ssl.MemoryBIO()
        self._out = ssl.MemoryBIO()

    def exchange(self, octets: bytes, patience: float) -> None:
        """Put `octets` on the wire as they are, and hear what comes meanwhile; then for `patience` seconds more, or
        until something has come."""
        end = time.monotonic() + PATIENCE
        left = memoryview(octets)
        heard = False
        while left or not heard:
            wait = PATIENCE if left else patience
            readable, writable, _ = select.select([self.socket], [self.socket] if left else [], [], wait)
            if left and time.monotonic() > end:
                raise TimeoutError(f"the server did not take {len(left)} octets within {PATIENCE:g} s")
            if not readable and not writable:
                return
            if writable:
                try:
                    left = left[self.socket.send(left) :]
                except BlockingIOError:
                    pass
                except OSError:
                    self.reset = True
                    left = memoryview(b"")
            if readable:
                heard = True
                self._hear()

    def _hear(self) -> None:
        try:
            octets = self.socket.recv(1 << 16)
        except BlockingIOError:
            return
        except OSError:
            self.reset = True
            raise _Closed from None
        if not octets:
            raise _Closed
        if self._tls is None:
            self.heard += octets
            return
        self._in.write(octets)
        if self._secure:
            self._decrypt()

    def _decrypt(self) -> None:
        assert self._tls is not None
        try:
            while octets := self._tls.read(1 << 16):
                self.heard += octets
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError:
            # The server's goodbye, an alert about what we damaged, or words in the clear: nothing more to hear.
            self._secure = False

    def start_tls(self, session: Session) -> None:
        """A handshake; where the server is not ready for one, only the beginning of it."""
        if self._tls is not None:
            return
        if session.door != "implicit TLS" and not self._hears(b"220 2.0.0 SMTP server ready\r\n"):
            self.said += CLIENT_HELLO
            self.exchange(CLIENT_HELLO, _MOMENT)
            return
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        self._tls = context.wrap_bio(self._in, self._out, server_hostname="relay.example")
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                self.exchange(self._out.read(), 1.0)
            except ssl.SSLError:
                return  # what came was no TLS: something was damaged
            else:
                self._secure = True
                self.exchange(self._out.read(), 0.0)
                self._decrypt()
                return

    def _hears(self, reply: bytes) -> bool:
        """Whether that has been said, or is within a moment."""
        end = time.monotonic() + 5 * _MOMENT
        while reply not in self.heard and (left := end - time.monotonic()) > 0:
            self.exchange(b"", left)
        return reply in self.heard

    def do(self, step: Step, session: Session) -> None:
        match step.act:
            case Act.SAY if self._secure and self._tls is not None:
                self.said += step.octets
                self._tls.write(step.octets)
                self.exchange(self._out.read(), 0.0)
            case Act.SAY | Act.DAMAGE:
                if self._tls is None:
                    self.said += step.octets
                self.exchange(step.octets, 0.0)
            case Act.LISTEN:
                self.exchange(b"", _MOMENT)
            case Act.TLS:
                self.start_tls(session)
            case Act.HALF_CLOSE:
                self.half_close()
            case Act.RESET:
                self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.reset = True
                raise _Closed

    def half_close(self) -> None:
        if not self.ended:
            self.ended = True
            try:
                self.socket.shutdown(socket.SHUT_WR)
            except OSError:
                self.reset = True
                raise _Closed from None

    def finish(self) -> None:
        """Say no more, and hear the rest."""
        self.half_close()
        end = time.monotonic() + PATIENCE
        while (left := end - time.monotonic()) > 0:
            self.exchange(b"", left)
        raise TimeoutError(f"the server did not end within {PATIENCE:g} s after we had")


def play(session: Session, host: str, port: int) -> Played:
    """Do all that the session says, and hear the server to its end."""
    client = _Client(host, port)
    trouble = ""
    try:
        if session.introduction:
            client.exchange(session.introduction, 0.0)
        for step in session.steps:
            if client.ended:
                break
            client.do(step, session)
        client.finish()
    except _Closed:
        pass
    except TimeoutError as error:
        trouble = str(error)
    finally:
        client.socket.close()
    return Played(session, bytes(client.said), bytes(client.heard), client.reset, trouble)
