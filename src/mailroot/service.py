"""The process: configuration, bus, log, virtual servers, API and signals, put together, run, reloaded, stopped."""

import asyncio
import contextlib
import errno
import os
import socket
import sys
from collections.abc import Callable, Coroutine, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mailroot.clock import Clock, SystemClock
from mailroot.config.load import ConfigurationError, load
from mailroot.config.model import Configuration, VirtualServerSettings
from mailroot.events import Bus, ConfigurationRefused, ConfigurationWarning
from mailroot.mail.address import Address
from mailroot.net.listener import CannotListen
from mailroot.observe.log import Log
from mailroot.operations import Conflict, NotFound, OperationError, Operations
from mailroot.policy.domains import read_domain
from mailroot.system import on_signals
from mailroot.virtual_server import Change, VirtualServer

if TYPE_CHECKING:
    from mailroot.web.app import Server

_NAME_TIMEOUT = 5.0


class Service:
    """One process of Mailroot. `file` is the configuration file, None: the embedded defaults. `started` is called
    once everything that can run runs."""

    def __init__(
        self,
        file: Path | None = None,
        *,
        environment: Mapping[str, str] = os.environ,
        clock: Clock | None = None,
        started: Callable[["Service"], None] = lambda service: None,
    ) -> None:
        self._file = file
        self._environment = environment
        self._started = started
        self._clock = clock or SystemClock()
        self._bus = Bus(self._clock)
        self._servers: dict[str, VirtualServer] = {}
        self._operations = Operations(self._servers, self._bus, self._clock, self.reload)
        self._stop = asyncio.Event()
        self._reloading = asyncio.Lock()
        self._reloads: set[asyncio.Task[None]] = set()
        self._computer = ""
        self._log: Log | None = None
        self._forget_log: Callable[[], None] = lambda: None
        self._api: Server | None = None
        self.configuration: Configuration | None = None
        self.api_address = ""

    @property
    def servers(self) -> Mapping[str, VirtualServer]:
        """The virtual servers by name."""
        return self._servers

    @property
    def bus(self) -> Bus:
        return self._bus

    @property
    def operations(self) -> Operations:
        return self._operations

    def stop(self) -> None:
        """Have `run` come to its end: sessions and deliveries get a short grace. Said again: they get none."""
        if self._stop.is_set():
            for server in self._servers.values():
                server.hurry()
        self._stop.set()

    async def run(self) -> int:
        """Run until stopped; the process's exit code. Raises ConfigurationError, OperationError when it cannot
        start at all; a virtual server that cannot start says so in the log, and the others run."""
        configuration = load(self._file, self._environment)
        self.configuration = configuration
        with on_signals(stop=self.stop, reload=self._on_reload):
            try:
                async with self._reloading:
                    await self._start(configuration)
                if not self._stop.is_set():
                    self._started(self)
                await self._stop.wait()
            finally:
                await self._end()
        return 0

    async def _start(self, configuration: Configuration) -> None:
        self._change_log(configuration)
        self._computer = await computer_name()
        self._make_servers(configuration.virtual_servers)
        troubles = await self._start_all()
        if self._stop.is_set():
            return
        if len(troubles) == len(self._servers):
            raise OperationError("\n".join(troubles))
        # Imported here: who has no use for the API does not pay for it.
        from mailroot.web.app import serve

        self._api = await serve(configuration.service.api, self._operations)
        self.api_address = self._api.address
        for warning in configuration.warnings:
            self._bus.publish(ConfigurationWarning("", warning))

    async def _end(self) -> None:
        """Whatever of it runs comes to its end, in order. Raises what went wrong with it."""
        self._stop.set()
        if self._api is not None:
            await self._api.close()
        if self._reloads:
            await asyncio.wait(self._reloads)
        closed = await asyncio.gather(
            *(server.close() for server in self._servers.values()), return_exceptions=True
        )
        if self._log is not None:
            self._log.close()
        for fault in closed:
            if fault is not None:
                raise fault

    async def reload(self, name: str | None = None) -> None:
        """Read the configuration again and go by it, in one virtual server or (None) in all; whole or not at all.
        Raises OperationError with the reason, and then the old one is in force."""
        # In a task of its own: it is carried through even if who asked for it leaves.
        await asyncio.shield(self._keep(self._reload_or_say_why_not(name)))

    def _keep(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._reloads.add(task)
        task.add_done_callback(self._reloads.discard)
        return task

    async def _reload_or_say_why_not(self, name: str | None) -> None:
        async with self._reloading:
            if self._stop.is_set():
                raise Conflict("the service is stopping")
            try:
                await self._reload(name)
            except (ConfigurationError, OperationError, OSError, ValueError) as error:
                text = str(error) + self._advice(error)
                self._bus.publish(ConfigurationRefused(name or "", text))
                if isinstance(error, NotFound | Conflict):
                    raise
                raise OperationError(text) from error

    def _advice(self, error: BaseException) -> str:
        """What to do if another virtual server of this service is in the way."""
        cause = error.__cause__
        if not isinstance(cause, CannotListen) or cause.errno != errno.EADDRINUSE:
            return ""
        for server in self._servers.values():
            # A virtual server that is in its own way says so itself.
            if f"virtual server {server.name!r}" in str(error):
                continue
            for address in server.listeners:
                if _overlap(address, cause.address):
                    return (
                        f" (virtual server {server.name!r} listens on {address}, and closes that only when the "
                        "change is made: stop it first, or make the change in two steps)"
                    )
        return ""

    async def _reload(self, name: str | None) -> None:
        if self._file is None and self.configuration is not None:
            # The embedded defaults cannot have changed; and asked again, they would find our own port taken.
            configuration = self.configuration
        else:
            configuration = await asyncio.to_thread(load, self._file, self._environment)
        wanted = {settings.name: settings for settings in configuration.virtual_servers}
        if name is not None and (name not in wanted or name not in self._servers):
            where = "the configuration" if name not in wanted else "the running service"
            raise NotFound(f"there is no virtual server {name!r} in {where}")
        chosen = {name: wanted[name]} if name is not None else wanted
        changes: list[Change] = []
        added: list[VirtualServer] = []
        try:
            for settings in chosen.values():
                if settings.name in self._servers:
                    # One by one: when a later one fails, those before are to be discarded.
                    changes.append(await self._servers[settings.name].prepare(settings))  # noqa: PERF401
            for settings in chosen.values():
                if settings.name not in self._servers:
                    added.append(self._make_server(settings))
                    await added[-1].start()
            if name is None:
                self._change_log(configuration)
        except BaseException:
            for change in changes:
                await change.discard()
            for server in added:
                await server.close()
            raise
        for change in changes:
            await change.apply()
        if name is None:
            self._servers.update({server.name: server for server in added})
            for gone in [name for name in self._servers if name not in wanted]:
                await self._servers[gone].close()
                del self._servers[gone]
            old = self.configuration
            if old is not None and old.service.api != configuration.service.api:
                text = "service.api has changed; that takes effect when the service is started again"
                self._bus.publish(ConfigurationWarning("", text))
            self.configuration = configuration
        for warning in configuration.warnings:
            self._bus.publish(ConfigurationWarning("", warning))

    def _on_reload(self) -> None:
        async def reload() -> None:
            with contextlib.suppress(OperationError):  # it is in the log
                await self._operations.reload()

        self._keep(reload())

    def _change_log(self, configuration: Configuration) -> None:
        """Raises OSError when the log's file cannot be opened."""
        now = self.configuration
        if self._log is not None and now is not None and now.service.log == configuration.service.log:
            return
        try:
            log = Log(configuration.service.log)
        except OSError as error:
            raise OperationError(f"cannot open the log {configuration.service.log.file}: {error}") from error
        old, self._log = self._log, log
        self._forget_log()
        self._forget_log = self._bus.subscribe(log)
        if old is not None:
            old.finish()

    def _make_server(self, settings: VirtualServerSettings) -> VirtualServer:
        try:
            return VirtualServer(settings, self._bus, self._clock, computer=self._computer)
        except ValueError as error:
            raise OperationError(f"virtual server {settings.name!r}: {error}") from error

    def _make_servers(self, all_settings: Iterable[VirtualServerSettings]) -> None:
        for settings in all_settings:
            self._servers[settings.name] = self._make_server(settings)

    async def _start_all(self) -> list[str]:
        """Why which did not start."""
        troubles: list[str] = []
        for server in self._servers.values():
            if self._stop.is_set():
                break
            try:
                await server.start()
            except OperationError as error:
                troubles.append(str(error))
        return troubles


def _overlap(one: str, other: str) -> bool:
    """Whether two listening addresses are in each other's way."""
    (host, _, port), (other_host, _, other_port) = one.rpartition(":"), other.rpartition(":")
    every = ("0.0.0.0", "[::]")
    return port == other_port and (host == other_host or host in every or other_host in every)


async def computer_name() -> str:
    """This computer's DNS name, as the old service took it; its plain name where DNS does not answer in time."""
    try:
        async with asyncio.timeout(_NAME_TIMEOUT):
            name = await asyncio.to_thread(socket.getfqdn)
    except TimeoutError:
        name = socket.gethostname()
    # What hosts files make of it in practice is no name for the outside.
    if name.startswith("localhost") or not name:
        name = socket.gethostname()
    try:
        return read_domain(name)
    except ValueError:
        return "localhost"


def welcome(service: Service, command: str) -> str:
    """What a person who has just started it wants to know: where it listens, where its folders are, what next."""
    from mailroot import __version__

    configuration = service.configuration
    assert configuration is not None
    lines = [f"Mailroot {__version__}, process {os.getpid()}"]
    lines.append(f"  configuration  {configuration.file or 'embedded defaults'}")
    at = ""
    for server in service.servers.values():
        lines.append(f"  {server.name}")
        if server.trouble:
            lines.append(f"    not started  {server.trouble}")
            continue
        at = at or next(iter(server.listeners), "")
        folders = server.folders
        lines.append(f"    listens on   {', '.join(server.listeners) or 'no address'}")
        lines.append(f"    folders      {folders.mailroot} (Pickup, Queue, Drop, Badmail)")
        lines.append(f"    local        {server.local.default} goes to {folders.drop}")
        elsewhere = server.router.route(Address("", "the recipient's domain"))
        lines.append(f"    other mail   {elsewhere.describe()}")
    option = f" --config {_quoted(str(configuration.file))}" if configuration.file else ""
    host, _, port = at.rpartition(":")
    lines += [
        f"  API            {service.api_address}",
        "Next, in another terminal:" if configuration.file else "Next, in another terminal, from the same folder:",
        f"  {command} send{option} --from me@example.com --to you@{_a_local_domain(service)}",
        f"  {command} queue list{option}",
    ]
    if not configuration.file:
        lines.append(f"  {command} config sample > mailroot.toml")
        lines.append(f"  {command} run --config mailroot.toml    (after you have edited it)")
    if at:
        lines.append(f"Programs hand in mail by SMTP at host {host.strip('[]')}, port {port}. Ctrl+C stops.")
    return "\n".join(lines)


def _a_local_domain(service: Service) -> str:
    return next((server.local.default for server in service.servers.values()), "example.com")


def _quoted(text: str) -> str:
    """As a shell takes it for one word."""
    return f'"{text}"' if " " in text else text


def command_name() -> str:
    """How this program is called from where the user stands."""
    program = Path(sys.argv[0])
    if program.name in ("-c", "__main__.py", "-m") or not program.name:
        return "mailroot"
    folders = os.environ.get("PATH", "").split(os.pathsep)
    if any(folder and Path(folder) == program.parent for folder in folders):
        return "mailroot"
    with contextlib.suppress(ValueError):
        return str(program.relative_to(Path.cwd()))
    return str(program)
