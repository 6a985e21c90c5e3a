"""Runs the API on uvicorn inside the service's own event loop, on a loopback address, without touching signals.

Idle and half-spoken connections are closed after a while, so that no stranger on this machine can hold them all.
"""

import asyncio
import logging
import socket
import sys
from contextlib import AbstractContextManager, nullcontext, suppress
from ipaddress import ip_address
from types import ModuleType

from mailroot.operations import OperationError, Operations
from mailroot.web.api import ApiSettings
from mailroot.web.auth import Guard, is_loopback, open_token
from mailroot.web.routes import application


def _load_uvicorn_without_its_command_line() -> None:
    """The package uvicorn imports its own command line, and with it click and multiprocessing: a twentieth of an
    idle service's memory. What we need is in its modules `config` and `server`, which know nothing of that."""
    name = "uvicorn.main"
    if name in sys.modules:
        return
    nothing = ModuleType(name)
    nothing.__dict__.update(Server=None, main=None, run=None)
    sys.modules[name] = nothing
    with suppress(ImportError):  # one that wants more of it than that is imported as it is, below
        import uvicorn  # noqa: F401
    del sys.modules[name]


_load_uvicorn_without_its_command_line()

from uvicorn.config import Config  # noqa: E402
from uvicorn.server import Server as UvicornServer  # noqa: E402

_MOST_CONNECTIONS = 64
_IDLE_SECONDS = 15.0
_LOOK_SECONDS = 1.0
_CLOSE_SECONDS = 2


class _Uvicorn(UvicornServer):
    """uvicorn without its signal handlers, which belong to the service, and with a deadline for silent clients."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.ready = asyncio.Event()
        self._leaving = asyncio.Event()
        self._silent_since: dict[object, float] = {}

    def capture_signals(self) -> AbstractContextManager[None]:  # type: ignore[override]
        return nullcontext()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        self.ready.set()

    async def main_loop(self) -> None:
        # uvicorn's own looks ten times a second whether it is to end: most of what an idle service would do.
        while not self.should_exit:
            self._close_silent()
            await self.on_tick(0)
            with suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_SECONDS):
                    await self._leaving.wait()

    def leave(self) -> None:
        """Come to the end, now."""
        self.should_exit = True
        self._leaving.set()

    def _close_silent(self) -> None:
        now = asyncio.get_running_loop().time()
        silent: dict[object, float] = {
            connection: self._silent_since.get(connection, now)
            for connection in self.server_state.connections
            if (cycle := getattr(connection, "cycle", None)) is None or cycle.response_complete
        }
        for connection, since in silent.items():
            transport = getattr(connection, "transport", None)
            if now - since > _IDLE_SECONDS and transport is not None:
                transport.close()
        self._silent_since = silent


class Server:
    """The API, open. `address` is where: "127.0.0.1:2580"."""

    def __init__(self, uvicorn_server: _Uvicorn, task: asyncio.Task[None], address: str) -> None:
        self._server = uvicorn_server
        self._task = task
        self.address = address

    async def close(self) -> None:
        """Stop answering; requests under way get a moment to end."""
        self._server.leave()
        await self._task


async def serve(settings: ApiSettings, operations: Operations) -> Server:
    """Open the API; it runs until it is closed. Raises OperationError when it cannot listen or has no token."""
    token = open_token(settings.token_file)
    listener = _listen(settings.address, settings.port)
    # What goes wrong in a request is answered and published on the bus; uvicorn's own log says nothing more.
    log = logging.getLogger("uvicorn")
    log.propagate = False
    if not log.handlers:
        log.addHandler(logging.NullHandler())
    server = _Uvicorn(
        Config(
            Guard(application(operations), token),
            http="h11",
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            limit_concurrency=_MOST_CONNECTIONS,
            timeout_graceful_shutdown=_CLOSE_SECONDS,
            h11_max_incomplete_event_size=16 * 1024,
        )
    )
    host, port = listener.getsockname()[:2]
    task = asyncio.create_task(server.serve(sockets=[listener]), name="api")
    ready = asyncio.create_task(server.ready.wait())
    await asyncio.wait({task, ready}, return_when=asyncio.FIRST_COMPLETED)
    if not ready.done():
        ready.cancel()
        await task
        raise OperationError(f"the API did not start on {host}:{port}")
    return Server(server, task, f"[{host}]:{port}" if ":" in host else f"{host}:{port}")


def _listen(address: str, port: int) -> socket.socket:
    if not is_loopback(address):
        raise OperationError(
            f"the API listens on a loopback address only, not on {address!r}; right would be '127.0.0.1' or '::1'"
        )
    host = "127.0.0.1" if address.lower() == "localhost" else address.removeprefix("[").removesuffix("]")
    family = socket.AF_INET6 if ip_address(host).version == 6 else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    # Windows lets a second process share a port that was not bound exclusively; elsewhere a port that was closed a
    # moment ago may be taken again.
    exclusive = getattr(socket, "SO_EXCLUSIVEADDRUSE", None)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR if exclusive is None else exclusive, 1)
        listener.bind((host, port))
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise OperationError(
            f"the API cannot listen on {host}:{port}: {error.strerror or error}. Is Mailroot running already? "
            "Another port is set as service.api.port"
        ) from error
    return listener
