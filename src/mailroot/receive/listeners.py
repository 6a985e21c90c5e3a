"""The General tab: where a virtual server listens, and as whom. Whoever connects there gets a session."""

import asyncio
import socket
from dataclasses import dataclass
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated

from mailroot.events import ListenerOpened, SessionRefused
from mailroot.net.acceptor import Acceptor, Manner
from mailroot.net.listener import (
    Endpoint,
    Server,
    bind,
    format_endpoint,
    parse_listen,
    second_socket,
    serve,
)
from mailroot.net.proxy import Introduced
from mailroot.net.stream import Stream
from mailroot.net.tls import CertificateFile
from mailroot.policy.listeners import ListenerRules, ListenerSettings, TlsMode
from mailroot.receive.session import SHUTTING_DOWN, TOO_MANY_CONNECTIONS, Session
from mailroot.receive.sessions import Sessions
from mailroot.receive.terms import Terms
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


_Place = tuple[Endpoint, int]
"""An address to listen at. The number tells those apart whose port the system chooses; 0 for all others."""


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What holds at an address. `plain`: nothing there can begin with TLS or a PROXY header, as in `listen`."""

    rules: ListenerRules
    plain: bool


@dataclass(slots=True)
class _Open:
    """A socket that is served as `address` says; `wanted` may be replaced, and holds for who connects from then
    on."""

    address: str
    wanted: _Wanted
    listening: socket.socket
    server: Server | None = None

    @property
    def manner(self) -> Manner:
        rules = self.wanted.rules
        return Manner(rules.proxy_protocol, rules.tls is TlsMode.IMPLICIT)


class Arrangement:
    """Listening sockets that are bound but not served yet: to be applied, or let go."""

    def __init__(
        self,
        listeners: "Listeners",
        most: int,
        wanted: dict[_Place, _Wanted],
        bound: dict[_Place, socket.socket],
    ) -> None:
        self._listeners = listeners
        self._most = most
        self._wanted = wanted
        self._bound = bound

    async def apply(self) -> None:
        """Serve the new addresses, by their rules, and close those no longer wanted; sessions that came through
        these go on, and so do all others as they began."""
        bound, self._bound = self._bound, {}
        await self._listeners._arrange(self._most, self._wanted, bound)

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
        self._open: dict[_Place, _Open] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._paused = False

    @property
    def addresses(self) -> tuple[str, ...]:
        """Where connections are accepted, with the ports really bound: "127.0.0.1:2525", "[::1]:2525"."""
        return tuple(one.address for one in self._open.values())

    @property
    def rules(self) -> dict[str, ListenerRules]:
        """What holds at each of the addresses for whoever connects now."""
        return {one.address: one.wanted.rules for one in self._open.values()}

    async def open(self) -> None:
        """Listen at every address, or at none: raises CannotListen, which names the one that could not be, and
        ValueError for an address that cannot be read, or is there twice with different rules."""
        await self.arrange(self._settings).apply()

    def arrange(self, settings: GeneralSettings) -> Arrangement:
        """Bind what these settings want and is not open yet, all of it or nothing. Raises as `open`."""
        wanted = _wanted(settings)
        bound: dict[_Place, socket.socket] = {}
        try:
            for place, what in wanted.items():
                listening = self._new_socket(place, what)
                if listening is not None:
                    bound[place] = listening
        except BaseException:
            for listening in bound.values():
                listening.close()
            raise
        return Arrangement(self, settings.max_connections, wanted, bound)

    def _new_socket(self, place: _Place, what: _Wanted) -> socket.socket | None:
        """The socket to serve there from now on; None: what is open stays, or the system cannot."""
        there = self._open.get(place)
        if there is None:
            return bind(place[0])
        if there.wanted.plain is what.plain:
            return None
        # Another kind of server, at the same socket.
        listening = second_socket(there.listening)
        if listening is None:
            raise ValueError(
                f"{there.address} cannot move between `listen` and `listeners` while the virtual server listens "
                "there; stop it, reload, and start it"
            )
        return listening

    async def _arrange(self, most: int, wanted: dict[_Place, _Wanted], bound: dict[_Place, socket.socket]) -> None:
        self._most = most
        before, self._open = self._open, {}
        for place, one in before.items():
            if (place not in wanted or place in bound) and one.server is not None:
                # Not waited for: its sessions go on, and only then is a server wholly closed.
                one.server.close()
        for place, what in wanted.items():
            if place in bound:
                self._open[place] = one = await self._serve(bound[place], what)
                if place not in before:
                    self.terms.bus.publish(ListenerOpened(self.terms.server, one.address))
            elif place in before:
                self._open[place] = before[place]
                before[place].wanted = what

    async def _serve(self, listening: socket.socket, what: _Wanted) -> _Open:
        one = _Open(format_endpoint(*listening.getsockname()[:2]), what, listening)

        def connected(stream: Stream, introduced: Introduced | None = None) -> None:
            self._connected(one, stream, introduced)

        if what.plain:
            one.server = await serve(listening, lambda: Stream(connected))
        else:
            one.server = Acceptor(
                listening,
                connected,
                lambda: one.manner,
                trusts=self._is_proxy,
                on_refusal=partial(self._turned_away, one.address),
            )
        return one

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
        servers = [one.server for one in self._open.values() if one.server is not None]
        self._open.clear()
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

    # Who comes

    def _is_proxy(self, peer: str) -> bool:
        return self.terms.access.is_proxy(ip_address(peer.partition("%")[0]))

    def _turned_away(self, address: str, peer: str, reason: str) -> None:
        """By a listener for proxies, without a word: whoever it was does not speak SMTP with us."""
        rule = f"proxy_protocol: {reason}" if reason else "proxies"
        self.terms.bus.publish(SessionRefused(self.terms.server, peer, address, rule, ""))

    def _connected(self, one: _Open, stream: Stream, introduced: Introduced | None) -> None:
        terms, rules = self.terms, one.wanted.rules
        if not stream.peer[0]:
            # Gone before it was accepted.
            stream.abort()
            return
        if self._paused or (self._most and len(self._sessions) >= self._most):
            rule, reply = ("paused", SHUTTING_DOWN) if self._paused else ("max_connections", TOO_MANY_CONNECTIONS)
            client = str(introduced.client) if introduced is not None else stream.peer[0]
            terms.bus.publish(SessionRefused(terms.server, client, one.address, rule, str(reply)))
            if rules.tls is TlsMode.IMPLICIT:
                # It would have to be encrypted first.
                stream.abort()
            else:
                stream.write(encode(reply))
                stream.finish()
            return
        session = Session(self._sessions.new_id(), stream, terms, one.address, rules, introduced)
        self._sessions.add(session)
        task = asyncio.get_running_loop().create_task(self._visit(session))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _visit(self, session: Session) -> None:
        try:
            await session.run()
        finally:
            self._sessions.remove(session)


def _wanted(settings: GeneralSettings) -> dict[_Place, _Wanted]:
    """Where to listen, and what holds there. Raises ValueError."""
    places = [(0, text, _Wanted(ListenerRules(), plain=True)) for text in settings.listen]
    for n, listener in enumerate(settings.listeners, 1):
        places.append((n, listener.address, _Wanted(ListenerRules.of(listener), plain=False)))
    wanted: dict[_Place, _Wanted] = {}
    for n, text, what in places:
        for endpoint in parse_listen(text):
            if wanted.setdefault((endpoint, 0 if endpoint.port else n), what) != what:
                raise ValueError(f"{text!r} is there twice, with different rules; once is right")
    return wanted
