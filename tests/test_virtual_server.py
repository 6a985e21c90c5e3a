"""One virtual server on real sockets and a real disk: started, paused, stopped, changed, and in trouble."""

import asyncio
import smtplib
import socket
import sqlite3
import ssl
import stat
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mailroot.clock import ManualClock
from mailroot.config.model import DeliverySettings, DomainSettings, HistorySettings, VirtualServerSettings
from mailroot.deliver.route import AdvancedDelivery
from mailroot.events import (
    Bus,
    ConfigurationWarning,
    Event,
    InternalError,
    ListenerFailed,
    ListenerOpened,
    ServerChanged,
    SessionRefused,
)
from mailroot.net.tls import CertificateFile
from mailroot.operations import Conflict, OperationError, ServerState
from mailroot.policy.access import AccessSettings, Mode, RelayList
from mailroot.policy.auth.settings import AuthenticationSettings, ClientCertificate
from mailroot.policy.limits import MessageSettings
from mailroot.queue.base import Search, State
from mailroot.receive.listeners import GeneralSettings
from mailroot.receive.pickup import Pickup
from mailroot.virtual_server import VirtualServer
from rig.authority import issue
from rig.door import another_certificate_pem, certificate_pem, client_tls
from rig.mail import BODIES, arrived, message
from rig.next_hop import SILENT, NextHop
from rig.relay import free_port
from rig.sink import Sink

pytestmark = pytest.mark.quick

ANY = "127.0.0.1:0"


class Rig:
    """A virtual server with everything it says."""

    def __init__(self, folder: Path) -> None:
        self.clock = ManualClock()
        self.bus = Bus(self.clock)
        self.events: list[Event] = []
        self.bus.subscribe(lambda when, event: self.events.append(event))
        self.settings = VirtualServerSettings(
            "default", GeneralSettings("relay.example.com", (ANY,), mailroot=folder / "mailroot", pickup=False)
        )
        self.server = self.make()

    def make(self) -> VirtualServer:
        self.server = VirtualServer(self.settings, self.bus, self.clock, computer="computer.example.com")
        return self.server

    def general(self, **changes: Any) -> VirtualServerSettings:
        return replace(self.settings, general=replace(self.settings.general, **changes))

    def set_smart_host(self, port: int) -> None:
        advanced = AdvancedDelivery(smart_host=(f"[127.0.0.1]:{port}",))
        self.settings = replace(self.settings, delivery=DeliverySettings(advanced=advanced))

    @property
    def port(self) -> int:
        return int(self.server.listeners[0].rpartition(":")[2])

    def said(self, kind: type[Event]) -> list[Any]:
        return [event for event in self.events if type(event) is kind]

    async def send(self, *names: str) -> None:
        def send() -> None:
            with smtplib.SMTP("127.0.0.1", self.port, timeout=30) as client:
                for name in names:
                    options = [] if BODIES[name].isascii() else ["BODY=8BITMIME"]
                    client.sendmail("ann@example.com", ["bob@example.net"], message(name), mail_options=options)

        await asyncio.to_thread(send)

    async def counts(self, state: State) -> int:
        assert self.server.queue is not None
        return len(await self.server.queue.find(Search(states=(state,)), 100))

    async def until(self, what: Callable[[], Awaitable[bool]]) -> None:
        """Until it is true; the clock of the virtual server stands still meanwhile."""
        async with asyncio.timeout(60):
            while not await what():
                await asyncio.sleep(0.01)


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    made = Rig(tmp_path)
    yield made
    await made.server.close()


async def connect(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    return reader, writer


async def say(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *lines: str) -> list[str]:
    """Each line's last reply line."""
    answers = []
    for line in lines:
        writer.write(f"{line}\r\n".encode())
        answers.append(await answer(reader))
    return answers


async def answer(reader: asyncio.StreamReader) -> str:
    async with asyncio.timeout(30):
        while True:
            line = (await reader.readline()).decode()
            if line[3:4] != "-":
                return line.rstrip()


async def test_a_message_goes_all_the_way_unchanged(rig: Rig, sink: Sink) -> None:
    rig.set_smart_host(sink.port)
    await rig.make().start()
    assert rig.server.state is ServerState.STARTED
    await rig.send(*BODIES)
    received = [one.octets for one in await asyncio.to_thread(sink.wait, len(BODIES))]
    assert [name for name in BODIES if not any(arrived(octets, message(name)) for octets in received)] == []

    async def all_finished() -> bool:
        return await rig.counts(State.FINISHED) == len(BODIES)

    await rig.until(all_finished)


async def test_mail_for_a_dead_smart_host_outlives_a_restart_and_is_delivered_when_its_time_comes(
    rig: Rig,
) -> None:
    port = free_port()
    rig.set_smart_host(port)
    await rig.make().start()
    await rig.send("text")

    async def deferred() -> bool:
        assert rig.server.queue is not None
        return any(record.standings[0].last for record in await rig.server.queue.find(Search(), 10))

    await rig.until(deferred)
    await rig.server.close()
    await rig.make().start()
    assert await rig.counts(State.QUEUED) == 1
    with Sink(port=port) as sink:
        rig.clock.turn(20 * 60)  # the first retry is after 15 minutes, more or less a tenth
        (received,) = await asyncio.to_thread(sink.wait, 1)
    assert arrived(received.octets, message("text"))


async def test_its_folders_are_made_for_its_account_alone_and_left_as_they_are_found(rig: Rig) -> None:
    drop = rig.server.folders.drop
    drop.mkdir(parents=True)
    drop.chmod(0o775)
    await rig.server.start()
    folders = rig.server.folders
    for folder in (folders.pickup, folders.queue, folders.drop, folders.badmail):
        assert folder.is_dir()
    if sys.platform != "win32":
        private = [
            stat.S_IMODE(folder.stat().st_mode) for folder in (folders.pickup, folders.queue, folders.badmail)
        ]
        assert private == [0o700] * 3
        assert stat.S_IMODE(drop.stat().st_mode) == 0o775


async def test_paused_it_turns_new_connections_away_and_finishes_and_delivers_what_there_is(
    rig: Rig, sink: Sink
) -> None:
    rig.set_smart_host(sink.port)
    await rig.make().start()
    reader, writer = await connect(rig.port)
    await answer(reader)
    await rig.server.pause()
    await rig.server.pause()
    assert rig.server.state is ServerState.PAUSED
    other, its_writer = await connect(rig.port)
    assert (await answer(other)).startswith("421 4.3.2")
    assert await other.read() == b""
    assert [event.rule for event in rig.said(SessionRefused)] == ["paused"]
    said = await say(
        reader, writer, "HELO c", "MAIL FROM:<a@b.example>", "RCPT TO:<c@d.example>", "DATA", "x\r\n.", "QUIT"
    )
    assert said[-2].startswith("250 2.6.0")
    (received,) = await asyncio.to_thread(sink.wait, 1)
    assert received.octets.endswith(b"x\r\n")
    await rig.server.resume()
    assert rig.server.state is ServerState.STARTED
    await rig.send("text")
    await asyncio.to_thread(sink.wait, 2)
    writer.close()
    its_writer.close()


async def test_stopped_it_says_goodbye_and_its_queue_can_still_be_worked_on(rig: Rig) -> None:
    rig.set_smart_host(free_port())
    await rig.make().start()
    await rig.send("text")
    port = rig.port
    reader, writer = await connect(port)
    await answer(reader)
    await rig.server.stop()
    assert (await answer(reader)).startswith("421 ")
    assert rig.server.state is ServerState.STOPPED
    assert rig.server.listeners == ()
    assert rig.server.sessions.list() == []
    with pytest.raises(ConnectionRefusedError):
        await connect(port)
    with pytest.raises(Conflict, match="is stopped; only a started one can be paused"):
        await rig.server.pause()
    with pytest.raises(Conflict, match="only a paused one can be continued"):
        await rig.server.resume()
    assert rig.server.queue is not None
    (held,) = await rig.server.queue.hold(Search())
    await rig.server.start()
    assert await rig.counts(State.HELD) == 1
    assert await rig.server.queue.delete(Search(ids=(held,))) == [held]
    writer.close()


async def test_stopped_it_takes_the_message_that_is_coming_in_and_no_other(rig: Rig) -> None:
    await rig.server.start()
    reader, writer = await connect(rig.port)
    await answer(reader)
    await say(reader, writer, "HELO c", "MAIL FROM:<a@b.example>", "RCPT TO:<c@d.example>", "DATA")
    writer.write(b"half of ")
    stopping = asyncio.create_task(rig.server.stop())
    await rig.until(lambda: in_state(rig, ServerState.STOPPING))
    writer.write(b"it\r\n.\r\n")
    assert (await answer(reader)).startswith("250 2.6.0")
    assert (await answer(reader)).startswith("421 4.3.2")
    assert await reader.read() == b""
    await stopping
    assert await rig.counts(State.QUEUED) == 1
    writer.close()


async def in_state(rig: Rig, state: ServerState) -> bool:
    return rig.server.state is state


async def test_in_haste_it_gives_no_grace_and_loses_nothing(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mailroot.virtual_server._SESSION_GRACE", 3600.0)
    monkeypatch.setattr("mailroot.virtual_server._DELIVERY_GRACE", 3600.0)
    async with NextHop({".": SILENT}) as hop:
        rig.set_smart_host(hop.port)
        await rig.make().start()
        await rig.send("text")
        await hop.heard("DATA")
        reader, writer = await connect(rig.port)
        await answer(reader)
        await say(reader, writer, "HELO c", "MAIL FROM:<a@b.example>", "RCPT TO:<c@d.example>", "DATA")
        writer.write(b"half of ")
        stopping = asyncio.create_task(rig.server.stop())
        await rig.until(lambda: in_state(rig, ServerState.STOPPING))
        assert not stopping.done()
        rig.server.hurry()
        async with asyncio.timeout(60):
            await stopping
        assert await reader.read() == b""
        assert rig.server.sessions.list() == []
        writer.close()
    assert rig.server.queue is not None
    (record,) = await rig.server.queue.find(Search(), 10)
    assert (record.state, record.attempts) == (State.QUEUED, 0)
    assert rig.said(InternalError) == []


async def test_what_was_begun_is_carried_through_though_who_asked_for_it_left(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with NextHop({}, hold={".": (go_on := asyncio.Event())}) as hop:
        rig.set_smart_host(hop.port)
        await rig.make().start()
        await rig.send("text")
        await hop.heard("DATA")
        asked = asyncio.create_task(rig.server.stop())
        await rig.until(lambda: in_state(rig, ServerState.STOPPING))
        asked.cancel()
        again = asyncio.create_task(rig.server.start())
        with pytest.raises(asyncio.CancelledError):
            await asked
        assert rig.server.state is ServerState.STOPPING
        go_on.set()
        await again
        assert await rig.counts(State.FINISHED) == 1
    states = [event.state for event in rig.said(ServerChanged)]
    assert states == ["starting", "started", "stopping", "stopped", "starting", "started"]


async def test_closed_it_is_closed_for_good(rig: Rig) -> None:
    await rig.server.start()
    closing, starting = asyncio.create_task(rig.server.close()), asyncio.create_task(rig.server.start())
    await closing
    with pytest.raises(Conflict, match="'default' is closed"):
        await starting
    await rig.server.close()
    assert rig.server.queue is None
    assert rig.server.state is ServerState.STOPPED


async def test_a_fault_while_it_starts_leaves_it_stopped_and_nothing_open(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fault(*_: object) -> object:
        raise ZeroDivisionError("a fault of ours")

    port = free_port()
    rig.settings = rig.general(listen=(f"127.0.0.1:{port}",))
    with monkeypatch.context() as patch:
        patch.setattr(VirtualServer, "_jobs", fault)
        with pytest.raises(ZeroDivisionError):
            await rig.make().start()
    assert rig.server.state is ServerState.STOPPED
    with pytest.raises(ConnectionRefusedError):
        await connect(port)
    await rig.server.start()
    assert rig.server.listeners == (f"127.0.0.1:{port}",)


async def test_a_port_that_is_taken_is_named_and_it_can_be_started_when_it_is_free(rig: Rig) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        rig.settings = rig.general(listen=(ANY, f"127.0.0.1:{port}"))
        rig.make()
        with pytest.raises(OperationError, match=f"cannot listen on 127.0.0.1:{port}: another program"):
            await rig.server.start()
    assert rig.server.state is ServerState.STOPPED
    assert f"127.0.0.1:{port}" in rig.server.trouble
    assert rig.server.listeners == ()
    assert rig.said(ListenerOpened) == []
    (failed,) = rig.said(ListenerFailed)
    assert failed.address == f"127.0.0.1:{port}"
    await rig.server.start()
    assert rig.server.trouble == ""
    assert f"127.0.0.1:{port}" in rig.server.listeners


async def test_a_database_of_another_program_is_refused_and_left_as_it_is(rig: Rig) -> None:
    folder = rig.server.folders.queue
    folder.mkdir(parents=True)
    with sqlite3.connect(folder / "queue.sqlite3") as foreign:
        foreign.execute("CREATE TABLE recipes (name TEXT)")
    foreign.close()
    before = (folder / "queue.sqlite3").read_bytes()
    with pytest.raises(OperationError, match=r"virtual server 'default' cannot start: .*queue\.sqlite3"):
        await rig.server.start()
    assert rig.server.queue is None
    assert "queue.sqlite3" in rig.server.trouble
    assert (folder / "queue.sqlite3").read_bytes() == before


async def test_a_folder_that_cannot_be_made_is_named(rig: Rig) -> None:
    root = rig.server.folders.mailroot
    root.write_text("a file")
    with pytest.raises(OperationError, match="cannot make the folder"):
        await rig.server.start()
    assert str(root) in rig.server.trouble


# Changes


async def test_a_change_binds_what_is_new_closes_what_is_gone_and_keeps_the_rest_open(rig: Rig) -> None:
    stays, goes, comes = (f"127.0.0.1:{free_port()}" for _ in range(3))
    rig.settings = rig.general(listen=(stays, goes))
    await rig.make().start()
    reader, writer = await connect(int(goes.rpartition(":")[2]))
    await answer(reader)
    change = await rig.server.prepare(rig.general(listen=(stays, comes)))
    assert rig.server.listeners == (stays, goes)
    await change.apply()
    assert rig.server.listeners == (stays, comes)
    assert [event.address for event in rig.said(ListenerOpened)] == [stays, goes, comes]
    with pytest.raises(ConnectionRefusedError):
        await connect(int(goes.rpartition(":")[2]))
    assert await say(reader, writer, "NOOP") == ["250 2.0.0 OK"]
    for address in (stays, comes):
        its_reader, its_writer = await connect(int(address.rpartition(":")[2]))
        assert (await answer(its_reader)).startswith("220 relay.example.com")
        its_writer.close()
    writer.close()


async def test_sessions_in_progress_keep_the_settings_they_began_with(rig: Rig) -> None:
    await rig.server.start()
    reader, writer = await connect(rig.port)
    await answer(reader)
    changed = replace(rig.general(fqdn="new.example.com"), messages=MessageSettings(max_recipients=1))
    await (await rig.server.prepare(changed)).apply()
    assert rig.server.fqdn == "new.example.com"
    recipients = ["RCPT TO:<a@d.example>", "RCPT TO:<b@d.example>"]
    old = await say(reader, writer, "HELO c", "MAIL FROM:<a@b.example>", *recipients)
    assert [line[:3] for line in old[2:]] == ["250", "250"]
    its_reader, its_writer = await connect(rig.port)
    assert (await answer(its_reader)).startswith("220 new.example.com")
    new = await say(its_reader, its_writer, "HELO c", "MAIL FROM:<a@b.example>", *recipients)
    assert [line[:3] for line in new[2:]] == ["250", "452"]
    writer.close()
    its_writer.close()


async def test_who_may_relay_is_settled_when_a_session_begins(rig: Rig) -> None:
    await rig.server.start()
    transaction = ("HELO c", "MAIL FROM:<a@b.example>", "RCPT TO:<c@d.example>")
    reader, writer = await connect(rig.port)
    await answer(reader)
    closed = replace(rig.settings, access=AccessSettings(relay=RelayList(Mode.ONLY, ("192.0.2.1",))))
    await (await rig.server.prepare(closed)).apply()
    its_reader, its_writer = await connect(rig.port)
    await answer(its_reader)
    assert (await say(its_reader, its_writer, *transaction))[-1].startswith("550 5.7.1 Unable to relay")
    assert (await say(reader, writer, *transaction))[-1].startswith("250 ")
    writer.close()
    its_writer.close()


async def test_it_is_neither_stopped_nor_started_between_a_change_and_its_end(rig: Rig) -> None:
    await rig.server.start()
    new = f"127.0.0.1:{free_port()}"
    change = await rig.server.prepare(rig.general(listen=(ANY, new)))
    stopping = asyncio.create_task(rig.server.stop())
    await rig.until(lambda: under_way(rig))
    assert rig.server.state is ServerState.STARTED
    await change.apply()
    await stopping
    assert rig.server.state is ServerState.STOPPED
    with socket.create_server(("127.0.0.1", int(new.rpartition(":")[2]))):
        pass


async def under_way(rig: Rig) -> bool:
    return bool(rig.server._under_way)


async def test_delivery_goes_by_the_new_settings_at_once(rig: Rig, sink: Sink) -> None:
    rig.set_smart_host(free_port())
    await rig.make().start()
    rig.set_smart_host(sink.port)
    await (await rig.server.prepare(rig.settings)).apply()
    await rig.send("text")
    await asyncio.to_thread(sink.wait, 1)


async def test_a_change_that_cannot_be_leaves_everything_as_it_was(rig: Rig, tmp_path: Path) -> None:
    await rig.server.start()
    before = rig.server.listeners
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = f"127.0.0.1:{other.getsockname()[1]}"
        new = f"127.0.0.1:{free_port()}"
        for settings, words in (
            (rig.general(listen=(ANY, new, taken)), f"cannot listen on {taken}"),
            (rig.general(certificates=(CertificateFile(tmp_path / "no.pem"),)), "no.pem: cannot be read"),
            (rig.general(mailroot=tmp_path / "other"), "mailroot folder cannot change while the service runs"),
            (replace(rig.settings, domains=DomainSettings(default="a b")), "'a b' is not a domain name"),
        ):
            with pytest.raises(OperationError, match=words):
                await rig.server.prepare(settings)
    assert rig.server.listeners == before
    assert rig.server.fqdn == "relay.example.com"
    assert rig.server.local.default == "relay.example.com"
    with socket.create_server(("127.0.0.1", int(new.rpartition(":")[2]))):
        pass  # what was bound for the change is free again
    await rig.send("text")
    assert [event.state for event in rig.said(ServerChanged)] == ["starting", "started"]


async def test_a_change_that_is_let_go_frees_what_it_had_bound(rig: Rig) -> None:
    await rig.server.start()
    new = f"127.0.0.1:{free_port()}"
    await (await rig.server.prepare(rig.general(listen=(ANY, new)))).discard()
    with socket.create_server(("127.0.0.1", int(new.rpartition(":")[2]))):
        pass


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere both can be open")
async def test_an_address_that_it_holds_itself_in_another_form_is_explained(rig: Rig) -> None:
    port = free_port()
    rig.settings = rig.general(listen=(f"127.0.0.1:{port}",))
    await rig.make().start()
    with pytest.raises(OperationError, match=r"itself, on 127\.0\.0\.1:\d+: stop it, reload, and start it"):
        await rig.server.prepare(rig.general(listen=(f"*:{port}",)))
    await rig.server.stop()
    await (await rig.server.prepare(rig.general(listen=(f"*:{port}",)))).apply()
    await rig.server.start()
    assert f"0.0.0.0:{port}" in rig.server.listeners


async def test_a_stopped_one_starts_with_what_was_changed_meanwhile(rig: Rig) -> None:
    await (await rig.server.prepare(rig.general(fqdn="new.example.com"))).apply()
    assert rig.server.state is ServerState.STOPPED
    await rig.server.start()
    reader, writer = await connect(rig.port)
    assert (await answer(reader)).startswith("220 new.example.com")
    writer.close()


async def test_a_renewed_certificate_is_taken_by_a_change(rig: Rig, tmp_path: Path) -> None:
    file = tmp_path / "server.pem"
    file.write_bytes(certificate_pem())
    await rig.server.start()

    def starttls() -> str:
        with smtplib.SMTP("127.0.0.1", rig.port, timeout=30) as client:
            client.ehlo()
            client.starttls(context=client_tls())
            client.ehlo()
            return str(client.noop()[0])

    with pytest.raises(smtplib.SMTPNotSupportedError):
        await asyncio.to_thread(starttls)
    await (await rig.server.prepare(rig.general(certificates=(CertificateFile(file),)))).apply()
    assert await asyncio.to_thread(starttls) == "250"
    # The file by the same name is another one now; what it said before is in force until it is read again.
    file.write_bytes(another_certificate_pem())
    assert await asyncio.to_thread(starttls) == "250"
    await (await rig.server.prepare(rig.general(certificates=(CertificateFile(file),)))).apply()
    with pytest.raises(ssl.SSLCertVerificationError):
        await asyncio.to_thread(starttls)
    file.write_bytes(b"half a file")
    with pytest.raises(OperationError, match=r"server\.pem"):
        await rig.server.prepare(rig.general(certificates=(CertificateFile(file),)))
    with pytest.raises(ssl.SSLCertVerificationError):
        await asyncio.to_thread(starttls)


async def test_the_authority_of_client_certificates_is_read_again_by_a_change(rig: Rig, tmp_path: Path) -> None:
    first, second = issue("first", authority=True), issue("second", authority=True)
    server, authority = tmp_path / "server.pem", tmp_path / "clients-ca.pem"
    server.write_bytes(certificate_pem())
    authority.write_bytes(first.pem)
    rig.settings = replace(
        rig.general(certificates=(CertificateFile(server),)),
        access=AccessSettings(
            authentication=AuthenticationSettings(
                client_ca=authority, client_certificates=(ClientCertificate("printer7", name="printer7.example"),)
            )
        ),
    )
    await rig.make().start()
    context = client_tls()
    context.load_cert_chain(*issue("printer7.example", by=second).files(tmp_path, "printer7"))

    def hello() -> str:
        with smtplib.SMTP("127.0.0.1", rig.port, timeout=30) as client:
            client.starttls(context=context)
            return client.ehlo()[1].decode()

    with pytest.raises((OSError, smtplib.SMTPServerDisconnected)):
        await asyncio.to_thread(hello)
    authority.write_bytes(second.pem)
    await (await rig.server.prepare(rig.settings)).apply()
    assert "AUTH EXTERNAL" in await asyncio.to_thread(hello)
    authority.write_bytes(b"half a file")
    with pytest.raises(OperationError, match=r"clients-ca\.pem"):
        await rig.server.prepare(rig.settings)
    assert "AUTH EXTERNAL" in await asyncio.to_thread(hello)


# In the background


async def test_records_of_finished_messages_are_forgotten_in_their_time(rig: Rig, sink: Sink) -> None:
    rig.set_smart_host(sink.port)
    rig.settings = replace(rig.settings, history=HistorySettings(keep=3600.0))
    await rig.make().start()
    await rig.send("text")

    async def finished() -> bool:
        return await rig.counts(State.FINISHED) == 1

    async def forgotten() -> bool:
        rig.clock.turn(700.0)
        return await rig.counts(State.FINISHED) == 0

    await rig.until(finished)
    rig.clock.turn(1800.0)
    await asyncio.sleep(0)
    assert await finished()
    await rig.until(forgotten)
    assert rig.clock.now() - ManualClock().now() > 3600.0


async def test_a_fault_in_the_background_is_told_and_the_job_begins_anew(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = []
    again = asyncio.Event()

    async def run(self: Pickup) -> None:
        runs.append(self)
        if len(runs) == 1:
            raise ZeroDivisionError("a fault of ours")
        again.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(Pickup, "run", run)
    rig.settings = rig.general(pickup=True)
    await rig.make().start()
    while not rig.said(InternalError):
        await asyncio.sleep(0)
    (fault,) = rig.said(InternalError)
    assert (fault.where, fault.error) == ("Pickup", "ZeroDivisionError('a fault of ours')")
    assert "a fault of ours" in fault.traceback
    assert len(runs) == 1
    await asyncio.sleep(0)
    rig.clock.turn(60)
    async with asyncio.timeout(30):
        await again.wait()


async def test_a_bare_computer_name_is_advised_against(rig: Rig) -> None:
    rig.settings = rig.general(fqdn="")
    server = VirtualServer(rig.settings, rig.bus, rig.clock, computer="PRINTSRV")
    assert server.fqdn == "PRINTSRV"
    await server.start()
    (warning,) = rig.said(ConfigurationWarning)
    assert "'PRINTSRV', which is no fully-qualified domain name" in warning.warning
    await server.close()
