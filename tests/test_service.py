"""The process put together: started from a file, reloaded as a whole or not at all, stopped in order."""

import asyncio
import contextlib
import os
import signal
import smtplib
import socket
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mailroot.config.load import ConfigurationError
from mailroot.config.load import load as load_configuration
from mailroot.config.model import Configuration
from mailroot.events import ConfigurationRefused, ConfigurationWarning, Event, ListenerOpened, ServerChanged
from mailroot.operations import Conflict, NotFound, OperationError, ServerState
from mailroot.queue.base import Search, State
from mailroot.queue.sqlite import open_queue
from mailroot.service import Service, command_name, computer_name, welcome
from rig.mail import BODIES, arrived, message
from rig.next_hop import SILENT, NextHop
from rig.relay import free_port, merged, toml
from rig.sink import Sink

pytestmark = pytest.mark.quick


class Running:
    """A service with a file of its own, and everything it says."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "mailroot.toml"
        self.given: Path | None = self.file
        self.port, self.api_port = free_port(), free_port()
        self.sections: dict[str, Any] = {
            "service": {"api": {"port": self.api_port}, "log": {"file": "first.log"}},
            "general": {"fqdn": "relay.example.com", "listen": [f"127.0.0.1:{self.port}"], "pickup": False},
        }
        self.events: list[Event] = []
        self._task: asyncio.Task[int] | None = None
        self.service: Service

    def write(self, **sections: Any) -> None:
        self.sections = merged(self.sections, sections)
        self.file.write_text(toml(self.sections), encoding="utf-8")

    async def start(self, **sections: Any) -> Service:
        """Run it until it has started; raises what it raises."""
        self.write(**sections)
        started = asyncio.Event()
        self.service = Service(self.given, environment={}, started=lambda service: started.set())
        self.service.bus.subscribe(lambda when, event: self.events.append(event))
        self._task = asyncio.create_task(self.service.run())
        waiting = asyncio.create_task(started.wait())
        await asyncio.wait({self._task, waiting}, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        if self._task.done():
            await self._task
        return self.service

    async def stop(self) -> int:
        assert self._task is not None
        self.service.stop()
        return await self._task

    async def ended(self) -> int:
        assert self._task is not None
        async with asyncio.timeout(60):
            return await self._task

    async def close(self) -> None:
        if self._task is not None and not self._task.done():
            with contextlib.suppress(ConfigurationError, OperationError):
                await self.stop()

    def said(self, kind: type[Event]) -> list[Any]:
        return [event for event in self.events if type(event) is kind]

    async def send(self, *names: str, port: int = 0) -> None:
        def send() -> None:
            with smtplib.SMTP("127.0.0.1", port or self.port, timeout=30) as client:
                for name in names:
                    options = [] if BODIES[name].isascii() else ["BODY=8BITMIME"]
                    client.sendmail("ann@example.com", ["bob@example.net"], message(name), mail_options=options)

        await asyncio.to_thread(send)

    async def greets(self, port: int) -> str:
        """The name in the banner."""

        def greeting() -> str:
            with socket.create_connection(("127.0.0.1", port), 30) as connection:
                return connection.recv(100).decode()

        code, name, _ = (await asyncio.to_thread(greeting)).split(" ", 2)
        assert code == "220"
        return name


def smart_host(port: int, retry: str = "15 min") -> dict[str, Any]:
    return {
        "advanced": {"smart_host": [f"[127.0.0.1]:{port}"]},
        "retries": {"first_retry": retry, "second_retry": retry, "third_retry": retry},
    }


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    made = Running(tmp_path)
    yield made
    await made.close()


async def until(what: Callable[[], object]) -> None:
    async with asyncio.timeout(60):
        while not what():
            await asyncio.sleep(0.01)


async def test_a_message_comes_in_is_safe_and_arrives_unchanged(running: Running, sink: Sink) -> None:
    await running.start(delivery=smart_host(sink.port))
    await running.send(*BODIES)
    received = [one.octets for one in await asyncio.to_thread(sink.wait, len(BODIES))]
    assert [name for name in BODIES if not any(arrived(octets, message(name)) for octets in received)] == []
    assert await running.stop() == 0
    assert {event.state for event in running.said(ServerChanged)} == {"starting", "started", "stopping", "stopped"}


async def test_what_could_not_be_delivered_survives_a_restart_and_is_delivered_later(running: Running) -> None:
    port = free_port()
    await running.start(delivery=smart_host(port, "1 s"))
    await running.send("text", "two_megabytes")
    assert await running.stop() == 0
    await running.start()
    queue = running.service.servers["default"].queue
    assert queue is not None
    assert len(await queue.find(Search(states=(State.QUEUED,)), 10)) == 2
    with Sink(port=port) as sink:
        received = [one.octets for one in await asyncio.to_thread(sink.wait, 2)]
    for name in ("text", "two_megabytes"):
        assert any(arrived(octets, message(name)) for octets in received)


async def test_a_file_with_mistakes_starts_nothing(running: Running) -> None:
    with pytest.raises(ConfigurationError, match=r"mailroot\.toml:\d+: \[general\] listen: .*25x"):
        await running.start(general={"listen": ["127.0.0.1:25x"]})
    assert running.events == []
    assert sorted(path.name for path in running.file.parent.iterdir()) == ["mailroot.toml"]


async def test_a_virtual_server_that_cannot_start_says_so_and_the_others_run(running: Running) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = f"127.0.0.1:{other.getsockname()[1]}"
        service = await running.start(
            virtual_server={
                "good": {"general": {"mailroot": "good"}},
                "bad": {"general": {"mailroot": "bad", "listen": [taken]}},
            }
        )
        assert service.servers["good"].state is ServerState.STARTED
        assert service.servers["bad"].state is ServerState.STOPPED
        assert taken in service.servers["bad"].trouble
        assert f"not started  cannot listen on {taken}: another program" in welcome(service, "mailroot")
        assert await running.greets(running.port) == "relay.example.com"


async def test_none_that_can_start_is_the_end(running: Running) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = f"127.0.0.1:{other.getsockname()[1]}"
        with pytest.raises(OperationError, match=f"cannot listen on {taken}: another program listens there"):
            await running.start(general={"listen": [taken]})


async def test_an_api_port_in_use_is_an_error_of_its_own(running: Running) -> None:
    with (
        socket.create_server(("127.0.0.1", running.api_port)),
        pytest.raises(OperationError, match=rf"the API cannot listen on 127\.0\.0\.1:{running.api_port}"),
    ):
        await running.start()
    with pytest.raises(ConnectionRefusedError):
        await running.greets(running.port)


async def test_a_log_that_cannot_be_opened_starts_nothing(running: Running) -> None:
    (running.file.parent / "first.log").mkdir()
    with pytest.raises((OperationError, ConfigurationError), match=r"first\.log"):
        await running.start()
    with pytest.raises(ConnectionRefusedError):
        await running.greets(running.port)


async def test_a_start_that_fails_leaves_no_task_and_no_port(running: Running) -> None:
    before = asyncio.all_tasks()
    with socket.create_server(("127.0.0.1", running.api_port)), pytest.raises(OperationError):
        await running.start()
    await until(lambda: asyncio.all_tasks() <= before)
    assert [event.state for event in running.said(ServerChanged)][-2:] == ["stopping", "stopped"]
    with socket.create_server(("127.0.0.1", running.port)):
        pass
    await running.start()


async def test_told_to_stop_while_it_starts_it_starts_nothing_more(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, answer = asyncio.Event(), asyncio.Event()

    async def name() -> str:
        asked.set()
        await answer.wait()
        return "computer.example.com"

    monkeypatch.setattr("mailroot.service.computer_name", name)
    starting = asyncio.create_task(running.start())
    await asked.wait()
    running.service.stop()
    answer.set()
    await starting
    assert await running.ended() == 0
    assert running.said(ServerChanged) == []


async def test_cancelled_while_it_starts_it_ends_in_order(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    opening, go_on = asyncio.Event(), asyncio.Event()

    async def slowly(*arguments: Any) -> Any:
        opening.set()
        await go_on.wait()
        return await open_queue(*arguments)

    monkeypatch.setattr("mailroot.virtual_server.open_queue", slowly)
    running.write()
    service = Service(running.file, environment={})
    service.bus.subscribe(lambda when, event: running.events.append(event))
    before = asyncio.all_tasks()
    run = asyncio.create_task(service.run())
    await opening.wait()
    run.cancel()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await run
    assert [event.state for event in running.said(ServerChanged)] == ["starting", "started", "stopping", "stopped"]
    await until(lambda: asyncio.all_tasks() <= before)


async def test_told_twice_to_stop_it_gives_no_grace(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mailroot.virtual_server._DELIVERY_GRACE", 3600.0)
    async with NextHop({".": SILENT}) as hop:
        service = await running.start(delivery=smart_host(hop.port))
        await running.send("text")
        await hop.heard("DATA")
        service.stop()
        await until(lambda: any(event.state == "stopping" for event in running.said(ServerChanged)))
        service.stop()
        assert await running.ended() == 0
    await running.start(delivery=smart_host(free_port()))
    queue = running.service.servers["default"].queue
    assert queue is not None
    assert len(await queue.find(Search(states=(State.QUEUED,)), 10)) == 1


# Reload


async def test_a_port_that_another_virtual_server_of_ours_still_has_is_explained(running: Running) -> None:
    service = await running.start(virtual_server={"old": {"general": {"mailroot": "old"}}})
    running.sections["virtual_server"] = {"new": {"general": {"mailroot": "new"}}}
    running.write()
    address = rf"127\.0\.0\.1:{running.port}"
    words = (
        rf"'new' cannot start: cannot listen on {address}.* \(virtual server 'old' listens on {address}, and closes"
    )
    with pytest.raises(OperationError, match=words):
        await service.reload()
    assert list(service.servers) == ["old"]
    await service.operations.stop(["old"])
    await service.reload()
    assert list(service.servers) == ["new"]
    assert await running.greets(running.port) == "relay.example.com"


async def test_a_changed_mailroot_folder_is_refused_and_nothing_else_is_taken(running: Running) -> None:
    service = await running.start()
    before = service.configuration
    running.write(general={"mailroot": "elsewhere", "fqdn": "new.example.com"})
    with pytest.raises(Conflict, match="mailroot folder cannot change while the service runs"):
        await service.reload()
    assert len(running.said(ConfigurationRefused)) == 1
    assert service.configuration is before
    assert await running.greets(running.port) == "relay.example.com"
    assert not (running.file.parent / "elsewhere").exists()


async def test_a_reload_is_carried_through_though_who_asked_for_it_left(running: Running) -> None:
    service = await running.start()
    running.write(general={"fqdn": "new.example.com"})
    asked = asyncio.create_task(service.reload())
    await asyncio.sleep(0)
    asked.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asked
    await until(lambda: service.servers["default"].fqdn == "new.example.com")


async def test_stopping_waits_for_a_reload_and_takes_no_other(running: Running) -> None:
    service = await running.start()
    port = free_port()
    running.write(virtual_server={"added": {"general": {"mailroot": "added", "listen": [f"127.0.0.1:{port}"]}}})
    reloading = asyncio.create_task(service.reload())
    await until(lambda: any(event.server == "added" for event in running.said(ServerChanged)))
    assert await running.stop() == 0
    await reloading
    assert {server.state for server in service.servers.values()} == {ServerState.STOPPED}
    with pytest.raises(ConnectionRefusedError):
        await running.greets(port)
    with pytest.raises(Conflict, match="the service is stopping"):
        await service.reload()


async def test_a_reload_changes_adds_and_removes_virtual_servers_as_the_file_says(running: Running) -> None:
    ports = [free_port() for _ in range(3)]
    servers: dict[str, Any] = {
        f"s{n}": {"general": {"mailroot": f"s{n}", "listen": [f"127.0.0.1:{port}"]}} for n, port in enumerate(ports)
    }
    service = await running.start(virtual_server={name: servers[name] for name in ("s0", "s1")})
    assert list(service.servers) == ["s0", "s1"]
    del running.sections["virtual_server"]["s0"]
    running.write(general={"fqdn": "new.example.com"}, virtual_server={"s2": servers["s2"]})
    await service.reload()
    assert list(service.servers) == ["s1", "s2"]
    assert [await running.greets(port) for port in ports[1:]] == ["new.example.com"] * 2
    with pytest.raises(ConnectionRefusedError):
        await running.greets(ports[0])


async def test_a_file_with_a_mistake_changes_nothing(running: Running) -> None:
    service = await running.start()
    before = service.configuration
    running.write(general={"fqdn": "new.example.com", "connection_timeout": 5})
    with pytest.raises(OperationError, match=r"mailroot\.toml:\d+: \[general\] connection_timeout: 5 has no unit"):
        await service.reload()
    (refused,) = running.said(ConfigurationRefused)
    assert "connection_timeout" in refused.reason
    assert service.configuration is before
    assert await running.greets(running.port) == "relay.example.com"
    running.write(general={"connection_timeout": "5 min"})
    await service.reload()
    assert await running.greets(running.port) == "new.example.com"


async def test_one_virtual_server_that_cannot_change_keeps_all_from_changing(running: Running) -> None:
    port, new = free_port(), free_port()
    first = {"general": {"mailroot": "first"}}
    second = {"general": {"mailroot": "second", "listen": [f"127.0.0.1:{port}"]}}
    service = await running.start(virtual_server={"first": first, "second": second})
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = f"127.0.0.1:{other.getsockname()[1]}"
        running.write(
            general={"fqdn": "new.example.com"},
            virtual_server={
                "first": {"general": {"listen": [f"127.0.0.1:{running.port}", f"127.0.0.1:{new}"]}},
                "second": {"general": {"listen": [taken]}},
                "third": {"general": {"mailroot": "third", "listen": [f"127.0.0.1:{free_port()}"]}},
            },
        )
        with pytest.raises(OperationError, match=f"virtual server 'second': cannot listen on {taken}"):
            await service.reload()
    assert list(service.servers) == ["first", "second"]
    assert await running.greets(running.port) == "relay.example.com"
    assert await running.greets(port) == "relay.example.com"
    with pytest.raises(ConnectionRefusedError):
        await running.greets(new)


async def test_an_added_virtual_server_that_cannot_start_keeps_all_from_changing(running: Running) -> None:
    service = await running.start(virtual_server={"first": {"general": {"mailroot": "first"}}})
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = f"127.0.0.1:{other.getsockname()[1]}"
        running.write(
            general={"fqdn": "new.example.com"},
            virtual_server={"added": {"general": {"mailroot": "added", "listen": [taken]}}},
        )
        with pytest.raises(OperationError, match=f"'added' cannot start: cannot listen on {taken}"):
            await service.reload()
    assert list(service.servers) == ["first"]
    assert service.servers["first"].fqdn == "relay.example.com"


async def test_one_virtual_server_can_be_reloaded_alone(running: Running) -> None:
    port = free_port()
    second = {"general": {"mailroot": "second", "listen": [f"127.0.0.1:{port}"]}}
    service = await running.start(virtual_server={"first": {"general": {"mailroot": "first"}}, "second": second})
    running.write(general={"fqdn": "new.example.com"})
    await service.reload("second")
    assert service.servers["first"].fqdn == "relay.example.com"
    assert service.servers["second"].fqdn == "new.example.com"
    with pytest.raises(NotFound, match="there is no virtual server 'third'"):
        await service.reload("third")


async def test_the_log_changes_with_the_configuration_and_the_api_with_the_next_start(running: Running) -> None:
    service = await running.start()
    running.write(service={"log": {"file": "second.log"}, "api": {"port": free_port()}})
    await service.reload()
    (warning,) = running.said(ConfigurationWarning)
    assert warning.warning == "service.api has changed; that takes effect when the service is started again"
    assert service.api_address == f"127.0.0.1:{running.api_port}"
    await running.stop()
    folder = running.file.parent
    assert "ServerChanged state=started" in (folder / "first.log").read_text()
    assert "state=stopped" not in (folder / "first.log").read_text()
    assert "ServerChanged state=stopped" in (folder / "second.log").read_text()


async def test_a_log_that_cannot_be_opened_changes_nothing(running: Running) -> None:
    service = await running.start()
    (running.file.parent / "file").write_text("")
    running.write(service={"log": {"file": "file/a.log"}}, general={"fqdn": "new.example.com"})
    with pytest.raises(OperationError, match=r"cannot open the log .*a\.log|a\.log cannot be"):
        await service.reload()
    assert service.servers["default"].fqdn == "relay.example.com"


async def test_embedded_defaults_are_not_looked_for_again(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def load(file: Path | None, environment: Mapping[str, str]) -> Configuration:
        calls.append(file)
        return replace(load_configuration(running.file, environment), file=None)

    monkeypatch.setattr("mailroot.service.load", load)
    running.given = None
    service = await running.start()
    await service.reload()
    assert calls == [None]
    assert len(running.said(ListenerOpened)) == 1
    assert await running.greets(running.port) == "relay.example.com"


# Signals


@pytest.mark.skipif(sys.platform == "win32", reason="a signal of Windows ends the process at once")
@pytest.mark.parametrize("number", ["SIGTERM", "SIGINT"])
async def test_a_signal_stops_it_in_order(running: Running, number: str) -> None:
    before = signal.getsignal(getattr(signal, number))
    await running.start()
    os.kill(os.getpid(), getattr(signal, number))
    assert await running.ended() == 0
    assert running.said(ServerChanged)[-1].state == "stopped"
    assert signal.getsignal(getattr(signal, number)) is before


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signal")
async def test_sighup_reads_the_configuration_again(running: Running) -> None:
    service = await running.start()
    running.write(general={"fqdn": "new.example.com"})
    os.kill(os.getpid(), signal.SIGHUP)
    await until(lambda: service.servers["default"].fqdn == "new.example.com")
    running.write(general={"fqdn": "not a name"})
    os.kill(os.getpid(), signal.SIGHUP)
    await until(lambda: running.said(ConfigurationRefused))
    assert await running.greets(running.port) == "new.example.com"


# Words


async def test_who_starts_it_is_told_where_everything_is_and_what_to_type_next(running: Running) -> None:
    service = await running.start(delivery=smart_host(2599))
    said = welcome(service, "bin/mailroot")
    for words in (
        f"127.0.0.1:{running.port}",
        f"127.0.0.1:{running.api_port}",
        str(service.servers["default"].folders.mailroot),
        f"bin/mailroot send --config {running.file} --from me@example.com --to you@relay.example.com",
        f"bin/mailroot queue list --config {running.file}",
        "to smart host [127.0.0.1]:2599",
        f"at host 127.0.0.1, port {running.port}. Ctrl+C stops.",
    ):
        assert words in said


async def test_the_computer_is_called_by_its_dns_name(monkeypatch: pytest.MonkeyPatch) -> None:
    for found, host, name in (
        ("srv.example.com", "srv", "srv.example.com"),
        ("localhost.localdomain", "PRINTSRV", "printsrv"),
        ("localhost", "no name at all", "localhost"),
        ("", "srv", "srv"),
    ):
        monkeypatch.setattr(socket, "getfqdn", lambda found=found: found)
        monkeypatch.setattr(socket, "gethostname", lambda host=host: host)
        assert await computer_name() == name


async def test_a_name_server_that_does_not_answer_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, answer = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def getfqdn() -> str:
        loop.call_soon_threadsafe(asked.set)
        asyncio.run_coroutine_threadsafe(answer.wait(), loop).result(60)
        return "late.example.com"

    monkeypatch.setattr("mailroot.service._NAME_TIMEOUT", 0.01)
    monkeypatch.setattr(socket, "getfqdn", getfqdn)
    monkeypatch.setattr(socket, "gethostname", lambda: "srv")
    assert await computer_name() == "srv"
    await asked.wait()
    answer.set()


def test_the_command_is_named_as_the_user_can_type_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for argument, path, name in (
        ("-c", "", "mailroot"),
        (str(tmp_path / ".venv" / "bin" / "mailroot"), "", str(Path(".venv") / "bin" / "mailroot")),
        (str(tmp_path / "bin" / "mailroot"), str(tmp_path / "bin"), "mailroot"),
        (str(tmp_path.parent / "other" / "mailroot"), "", str(tmp_path.parent / "other" / "mailroot")),
    ):
        monkeypatch.setattr(sys, "argv", [argument])
        monkeypatch.setenv("PATH", path)
        assert command_name() == name
