"""An attacker's socket: from an address of its choice on the loopback net, it says octets and hears replies."""

import base64
import contextlib
import re
import select
import socket
import time

from rig.relay import Relay

PATIENCE = 60.0
"""Seconds after which a server that does not react has failed the test."""

_REPLY = re.compile(rb"(?:\d{3}-.*\r\n)*\d{3} .*\r\n")


def wait_for_log(relay: Relay, text: str) -> None:
    """Until the relay's log, which a thread of its own writes, has this in it."""
    end = time.monotonic() + PATIENCE
    while text not in relay.said():
        assert time.monotonic() < end, f"no {text!r} in the log:\n{relay.said()[-3000:]}"
        time.sleep(0.02)  # another process: there is nothing else to wait on


class Attacker:
    """One connection; the banner is heard already."""

    def __init__(self, port: int, source: str = "127.0.0.1", *, receive_buffer: int = 0) -> None:
        self.socket = socket.socket()
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(PATIENCE)
        self.socket.bind((source, 0))
        self.socket.connect(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._heard = b""
        self.banner = self.hear()

    def __enter__(self) -> "Attacker":
        return self

    def __exit__(self, *exception: object) -> None:
        self.socket.close()

    def hear(self) -> str:
        """One reply with all its lines, "" when the server has closed."""
        while not (reply := _REPLY.match(self._heard)):
            try:
                octets = self.socket.recv(1 << 16)
            except ConnectionError:
                octets = b""
            if not octets:
                assert not self._heard, f"closed within a reply: {self._heard!r}"
                return ""
            self._heard += octets
        self._heard = self._heard[reply.end() :]
        return reply.group().decode().rstrip("\r\n")

    def say(self, *lines: str) -> str:
        """The lines, one after the other; the reply to the last one."""
        reply = ""
        for line in lines:
            with contextlib.suppress(ConnectionError):
                self.socket.sendall(line.encode() + b"\r\n")
            reply = self.hear()
        return reply

    def rest(self) -> list[str]:
        """Every reply from here to the end of the connection."""
        replies = []
        while reply := self.hear():
            replies.append(reply)
        return replies

    def flood(self, octets: bytes) -> None:
        """Send all of it, unless the server closes before; replies are kept for `hear`."""
        left = memoryview(octets)
        self.socket.setblocking(False)
        end = time.monotonic() + PATIENCE
        try:
            while left and time.monotonic() < end:
                readable, writable, _ = select.select([self.socket], [self.socket], [], PATIENCE)
                if readable:
                    more = self.socket.recv(1 << 16)
                    if not more:
                        return
                    self._heard += more
                if writable:
                    left = left[self.socket.send(left[:1024]) :]
        except ConnectionError:
            return
        finally:
            self.socket.settimeout(PATIENCE)

    def trickle(self, octets: bytes, interval: float) -> str:
        """One octet per interval, over and over, until the server says something; what it says."""
        end = time.monotonic() + PATIENCE
        number = 0
        while time.monotonic() < end:
            with contextlib.suppress(ConnectionError):
                self.socket.sendall(octets[number % len(octets) :][:1])
            number += 1
            if select.select([self.socket], [], [], interval)[0]:
                return self.hear()
        raise AssertionError(f"after {number} octets, one each {interval} s, the server still waits")

    def plain(self, user: str, password: str) -> str:
        """The reply to a login by PLAIN."""
        return self.say("AUTH PLAIN " + base64.b64encode(f"\0{user}\0{password}".encode()).decode())

    def login(self, user: str, password: str) -> list[str]:
        """All replies to a login by LOGIN, as far as it goes."""
        replies = [self.say("AUTH LOGIN")]
        for word in (user, password):
            if replies[-1].startswith("334"):
                replies.append(self.say(base64.b64encode(word.encode()).decode()))
        return replies

    def mail(self, recipient: str = "b@example.net", text: str = "Subject: x\r\n\r\ntext") -> str:
        """Hand in a message; the first reply that is no success, or the last one."""
        reply = ""
        for line in ("MAIL FROM:<a@example.com>", f"RCPT TO:<{recipient}>", "DATA", text + "\r\n."):
            reply = self.say(line)
            if reply[:1] not in "23":
                break
        return reply
