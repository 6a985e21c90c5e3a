"""What operations needs of a virtual server, and the ways in which an operation can fail.

`virtual_server.VirtualServer` keeps the protocol; this module knows nothing of how.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from mailroot.deliver.hosts import Hosts
from mailroot.deliver.route import Router
from mailroot.net.certificates import Certificates
from mailroot.net.dns import Resolver
from mailroot.policy.access import Access
from mailroot.policy.auth.base import Channel
from mailroot.policy.domains import LocalDomains
from mailroot.policy.guard import Guard
from mailroot.policy.limits import LimitSettings
from mailroot.policy.listeners import ListenerRules
from mailroot.policy.permissions import Permissions
from mailroot.queue.base import Queue
from mailroot.receive.sessions import SessionInfo


class ServerState(StrEnum):
    """What a virtual server is doing."""

    STOPPED = "stopped"
    STARTING = "starting"
    STARTED = "started"
    PAUSED = "paused"
    STOPPING = "stopping"


@dataclass(frozen=True, slots=True)
class Folders:
    """Where a virtual server keeps its files, as absolute paths."""

    mailroot: Path
    pickup: Path
    queue: Path
    drop: Path
    badmail: Path


class SessionRegistry(Protocol):
    """The sessions of one virtual server (`receive.sessions.Sessions` is one)."""

    def list(self) -> Sequence[SessionInfo]: ...

    def end(self, id: str) -> bool:
        """Close that session; False: there is none by that id."""
        ...

    def end_all(self) -> int:
        """Close all of them; how many."""
        ...


class VirtualServer(Protocol):
    """What operations needs of a virtual server.

    Paused: no new connections, sessions go on, delivery goes on. Stopped: no listeners, no sessions, no Pickup, no
    delivery; the queue stays open so that it can be seen and worked on.
    """

    @property
    def name(self) -> str: ...

    @property
    def state(self) -> ServerState: ...

    @property
    def trouble(self) -> str:
        """Why it is not as it should be ("127.0.0.1:25: permission denied …"), for people; "" when all is well."""
        ...

    @property
    def fqdn(self) -> str: ...

    @property
    def listeners(self) -> Sequence[str]:
        """Addresses it accepts connections at now, with the port really bound: "127.0.0.1:2525", "[::1]:2525"."""
        ...

    @property
    def folders(self) -> Folders: ...

    @property
    def queue(self) -> Queue | None:
        """None only where it could not be opened; `trouble` says why."""
        ...

    @property
    def sessions(self) -> SessionRegistry: ...

    @property
    def guard(self) -> Guard:
        """Knows who is banned; there in every state."""
        ...

    @property
    def certificates(self) -> Certificates | None:
        """What TLS is served with; None: nothing, as in a stopped virtual server."""
        ...

    # What `explain` asks; these are there in every state.

    @property
    def rules(self) -> Mapping[str, ListenerRules]:
        """What holds at each of `listeners`, by its address; of a stopped virtual server, none."""
        ...

    def mechanisms(self, channel: Channel, rules: ListenerRules) -> Sequence[str]:
        """The SASL mechanisms that such a client would be offered now; of a stopped virtual server, none."""
        ...

    @property
    def offers_tls(self) -> bool:
        """Whether there are certificates."""
        ...

    @property
    def anonymous(self) -> bool:
        """Whether mail is taken without a login."""
        ...

    @property
    def permissions(self) -> Permissions: ...

    @property
    def limits(self) -> LimitSettings: ...

    @property
    def access(self) -> Access: ...

    @property
    def local(self) -> LocalDomains: ...

    @property
    def router(self) -> Router: ...

    @property
    def resolver(self) -> Resolver: ...

    @property
    def hosts(self) -> Hosts:
        """Finds the machines of a route; the same rules (circles noticed, source address) as in delivery."""
        ...

    @property
    def max_message_size(self) -> int:
        """Octets; 0: no limit."""
        ...

    @property
    def expiration(self) -> float:
        """Seconds after which a message is given up."""
        ...

    def ask_again(self) -> None:
        """Hosts that are left alone for a moment after a failure are tried at once."""
        ...

    # Each returns when it is so, raises OperationError with a text for people when it cannot be, and does nothing
    # when it already is so. `stop` gives sessions and attempts a short grace period.

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    async def pause(self) -> None: ...

    async def resume(self) -> None: ...


class OperationError(Exception):
    """An operation could not be done; the text is for people. `code` is stable, for programs."""

    code = "failed"


class NotFound(OperationError):
    """There is no such virtual server, session or message."""

    code = "not_found"


class Invalid(OperationError):
    """The question itself is wrong."""

    code = "invalid"


class Conflict(OperationError):
    """Not in this state."""

    code = "conflict"


class Unavailable(OperationError):
    """Not now: the queue cannot be read or written."""

    code = "unavailable"


Reload = Callable[[str | None], Awaitable[None]]
"""Reads the configuration again and applies it to one virtual server, or (None) to all; whole or not at all.
Raises OperationError with the whole friendly text when it is not taken."""
