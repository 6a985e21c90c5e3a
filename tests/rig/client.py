"""A client over a real socket, in the test's own event loop."""

from mailroot.net.stream import Stream, connect
from mailroot.receive.listeners import Listeners
from rig.door import FQDN, client_tls


def port_of(listeners: Listeners, n: int = 0) -> int:
    return int(listeners.addresses[n].rpartition(":")[2])


class Client:
    """A client that says something and waits for replies."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.received = b""

    @classmethod
    async def open(cls, listeners: Listeners, n: int = 0, *, first: bytes = b"") -> "Client":
        """Connected to the listener number `n`, and greeted; before that it says `first`."""
        client = cls(await connect("127.0.0.1", port_of(listeners, n), 10.0))
        client.stream.write(first)
        assert (await client.reply()).startswith(b"220 ")
        return client

    @classmethod
    async def open_tls(cls, listeners: Listeners, n: int = 0, *, first: bytes = b"") -> "Client":
        """As `open`, with TLS first of all, or right behind `first`."""
        client = cls(await connect("127.0.0.1", port_of(listeners, n), 10.0))
        client.stream.write(first)
        await client.secure()
        assert (await client.reply()).startswith(b"220 ")
        return client

    async def reply(self) -> bytes:
        """One whole reply; b"" at the end of the connection."""
        while True:
            lines = self.received.split(b"\r\n")
            for n, line in enumerate(lines[:-1]):
                if line[3:4] == b" ":
                    self.received = b"\r\n".join(lines[n + 1 :])
                    return b"\r\n".join(lines[: n + 1])
            octets = await self.stream.read(10.0)
            if not octets:
                return b""
            self.received += octets

    async def say(self, octets: bytes) -> bytes:
        self.stream.write(octets)
        return await self.reply()

    async def secure(self) -> None:
        await self.stream.start_tls(client_tls(), 10.0, server_side=False, server_hostname=FQDN)

    async def leave(self) -> None:
        await self.stream.close(10.0)
