"""The General tab: where a virtual server listens, and as whom. Whoever connects there gets a session."""

import asyncio
import socket
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

from mailroot.events import ListenerOpened, SessionRefused
from mailroot.net.listener import CannotListen, Endpoint, bind, format_endpoint, parse_listen, serve
from mailroot.net.stream import Stream
from mailroot.net.tls import CertificateFile
from mailroot.policy.listeners import ListenerSettings
from mailroot.receive.session import SHUTTING_DOWN, TOO_MANY_CONNECTIONS, Session, Terms
from mailroot.receive.sessions import Sessions
from mailroot.smtp.answers import encode
from mailroot.units import MINUTE, Doc, Duration, Range


@dataclass(frozen=True, slots=True)
class GeneralSettings:
    """The General tab."""

    fqdn: Annotated[
        str,
        Doc(
            "Fully-qualified domain name: banner, EHLO, Received, Message-ID. Empty: the computer's own name.",
            example="relay.example.com",
        ),
    ] = ""
    listen: Annotated[
        tuple[str, ...],
        Doc("Addresses and ports to listen on, for applications; '*:25' is every address, IPv4 and IPv6."),
    ] = ("127.0.0.1:25", "[::1]:25")
    listeners: Annotated[
        tuple[ListenerSettings, ...],
        Doc("Further addresses and ports, with settings of their own: for submission, TLS, old devices, proxies."),
    ] = ()
    certificates: Annotated[
        tuple[CertificateFile, ...],
        Doc("Certificates for TLS, which is offered where there are any. `mailroot certificate make` makes one."),
    ] = ()
    max_connections: Annotated[
        int, Range(least=0), Doc("Limit number of connections to; 0: no limit. Further ones get a 421.")
    ] = 1000
    connection_timeout: Annotated[Duration, Range(least=1), Doc("An idle session is closed after this time.")] = (
        10 * MINUTE
    )
    mailroot: Annotated[
        Path,
        Doc(
            "The folder that holds Pickup, Queue, Drop and Badmail. Relative paths start at the configuration file."
        ),
    ] = Path("mailroot")
    pickup: Annotated[bool, Doc("Watch the Pickup folder.")] = True
    pickup_dot_stuffed: Annotated[
        bool,
        Doc("Files in Pickup have a leading dot doubled, as .NET and CDO write them; one dot is removed."),
    ] = True


class Arrangement:
    """Listening sockets that are bound but not served yet: to be applied, or let go."""

    def __init__(
        self,
        listeners: "Listeners",
        most: int,
        endpoints: tuple[Endpoint, ...],
        bound: dict[Endpoint, socket.socket],
    ) -> None:
        self._listeners = listeners
        self._most = most
        self._endpoints = endpoints
        self._bound = bound

    async def apply(self) -> None:
        """Serve the new addresses and close those no longer wanted; sessions that came through these go on."""
        bound, self._bound = self._bound, {}
        await self._listeners._arrange(self._most, self._endpoints, bound)

    def discard(self) -> None:
        """Close the new sockets; everything stays as it is."""
        for listening in self._bound.values():
            listening.close()
        self._bound = {}


class Listeners:
    """A virtual server's listeners and the sessions that came through them.

    `terms` may be replaced at any time: sessions that open from then on go by the new ones.
    """

    def __init__(self, settings: GeneralSettings, terms: Terms, sessions: Sessions) -> None:
        self.terms = terms
        self._settings = settings
        self._sessions = sessions
        self._most = 0
        self._servers: dict[Endpoint, tuple[asyncio.Server, str]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._paused = False

    @property
    def addresses(self) -> tuple[str, ...]:
        """Where connections are accepted, with the ports really bound: "127.0.0.1:2525", "[::1]:2525"."""
        return tuple(address for _, address in self._servers.values())

    async def open(self) -> None:
        """Listen at every address, or at none: raises CannotListen, which names the one that could not be, and
        ValueError for an entry of `listen` that cannot be read."""
        await self.arrange(self._settings).apply()

    def arrange(self, settings: GeneralSettings) -> Arrangement:
        """Bind what these settings want and is not open yet, all of it or nothing. Raises as `open`."""
        endpoints = tuple(dict.fromkeys(endpoint for text in settings.listen for endpoint in parse_listen(text)))
        bound: dict[Endpoint, socket.socket] = {}
        try:
            for endpoint in endpoints:
                if endpoint not in self._servers and (listening := bind(endpoint)) is not None:
                    bound[endpoint] = listening
        except CannotListen:
            for listening in bound.values():
                listening.close()
            raise
        return Arrangement(self, settings.max_connections, endpoints, bound)

    async def _arrange(
        self, most: int, endpoints: tuple[Endpoint, ...], bound: dict[Endpoint, socket.socket]
    ) -> None:
        self._most = most
        for endpoint in [open_one for open_one in self._servers if open_one not in endpoints]:
            # Not waited for: its sessions go on, and only then is a server wholly closed.
            self._servers.pop(endpoint)[0].close()
        for endpoint, listening in bound.items():
            address = format_endpoint(*listening.getsockname()[:2])
            self._servers[endpoint] = (await serve(listening, partial(self._connected, address)), address)
            self.terms.bus.publish(ListenerOpened(self.terms.server, address))

    def pause(self) -> None:
        """Turn new connections away with a 421; open sessions go on."""
        self._paused = True

    def resume(self) -> None:
        self._paused = False

    async def close(self, grace: float) -> None:
        """Stop listening and end the sessions: idle ones at once, one that is handing in a message after it, all of
        them after `grace` seconds."""
        # What was accepted a moment ago and comes now is turned away.
        self._paused = True
        servers = [server for server, _ in self._servers.values()]
        self._servers.clear()
        for server in servers:
            server.close()
        self._sessions.end_all("server stopped", finish_message=True)
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=grace)
        if self._tasks:
            self._sessions.cut_all()
            for task in self._tasks:
                task.cancel()
            await asyncio.wait(self._tasks)
        for server in servers:
            await server.wait_closed()

    def _connected(self, address: str, stream: Stream) -> None:
        terms = self.terms
        if not stream.peer[0]:
            # Gone before it was accepted.
            stream.abort()
            return
        if self._paused or (self._most and len(self._sessions) >= self._most):
            rule, reply = ("paused", SHUTTING_DOWN) if self._paused else ("max_connections", TOO_MANY_CONNECTIONS)
            terms.bus.publish(SessionRefused(terms.server, stream.peer[0], address, rule, str(reply)))
            stream.write(encode(reply))
            stream.finish()
            return
        session = Session(self._sessions.new_id(), stream, terms, address)
        self._sessions.add(session)
        task = asyncio.get_running_loop().create_task(self._visit(session))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _visit(self, session: Session) -> None:
        try:
            await session.run()
        finally:
            self._sessions.remove(session)
