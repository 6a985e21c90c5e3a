"""`mailroot run` as a process of its own: started, told by signals, ended, and unable to start."""

import json
import os
import signal
import smtplib
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from rig.relay import Relay, free_port
from rig.sink import Sink

Start = Callable[..., Relay]

unix = pytest.mark.skipif(sys.platform == "win32", reason="Windows sends no signals to other processes")


def until(relay: Relay, what: Callable[[], object]) -> None:
    """Until it is true; AssertionError with what the process said after a minute."""
    end = time.monotonic() + 60
    while not what():
        assert time.monotonic() < end, relay.said()[-4000:]
        time.sleep(0.02)  # another process: there is nothing else to wait on


def signal_it(relay: Relay, number: int) -> None:
    assert relay.process is not None
    relay.process.send_signal(number)


def ended(relay: Relay) -> int:
    """Its exit code, when it has ended by itself."""
    process, relay.process = relay.process, None
    assert process is not None
    try:
        return process.wait(60)
    finally:
        process.kill()
        process.wait()


def send(relay: Relay) -> None:
    with smtplib.SMTP(relay.host, relay.port, timeout=30) as client:
        client.sendmail("ann@example.com", ["bob@example.net"], b"Subject: a test\r\n\r\ntext\r\n")


def refused(folder: Path, settings: dict[str, Any]) -> "subprocess.CompletedProcess[str]":
    """`mailroot run` that cannot start: what it said on standard error, for people."""
    done = Relay(folder / "relay", settings).command("run")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done


@contextmanager
def taken() -> Iterator[str]:
    """An address that another program listens at."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        yield f"127.0.0.1:{other.getsockname()[1]}"


# What keeps it from starting


def test_no_address_to_listen_at_is_the_end_with_a_word_for_each(tmp_path: Path) -> None:
    with taken() as first, taken() as second:
        servers = {
            "first": {"general": {"mailroot": "first", "listen": [first]}},
            "second": {"general": {"mailroot": "second", "listen": [second]}},
        }
        said = refused(tmp_path, {"virtual_server": servers}).stderr
    for name, address in (("first", first), ("second", second)):
        assert f"virtual server '{name}' cannot start: cannot listen on {address}: another program listens" in said


def test_one_address_that_is_taken_does_not_keep_the_others_closed(start_relay: Start) -> None:
    with taken() as address:
        relay = start_relay(
            settings={
                "virtual_server": {
                    "bad": {"general": {"mailroot": "bad", "listen": [address]}},
                    "good": {"general": {"mailroot": "good"}},
                }
            }
        )
        until(relay, lambda: "Ctrl+C stops." in relay.said())
        assert f"not started  cannot listen on {address}: another program" in relay.said()
        done = relay.command("server", "list")
        states = {one["name"]: one["state"] for one in relay.ask("server", "list")["servers"]}
    assert states == {"bad": "stopped", "good": "started"}
    assert address in done.stderr
    assert relay.command("server", "start", "bad").returncode == 0
    assert {one["state"] for one in relay.ask("server", "list")["servers"]} == {"started"}


def test_the_port_of_the_api_may_be_taken(tmp_path: Path) -> None:
    with taken() as address:
        port = int(address.rpartition(":")[2])
        said = refused(tmp_path, {"service": {"api": {"port": port}}}).stderr
    assert f"the API cannot listen on {address}: " in said
    assert "Is Mailroot running already? Another port is set as service.api.port" in said


def test_a_file_with_mistakes_is_explained_whole(tmp_path: Path) -> None:
    said = refused(tmp_path, {"general": {"connection_timeout": 5}, "messages": {"max_recipients": "many"}}).stderr
    assert "mailroot.toml:" in said
    assert "[general] connection_timeout: 5 has no unit" in said
    assert "[messages] max_recipients: " in said


def test_no_file_by_that_name_is_an_error(tmp_path: Path) -> None:
    relay = Relay(tmp_path / "relay", {})
    relay.config.unlink()
    done = relay.command("run")
    assert done.returncode == 1
    assert str(relay.config) in done.stderr
    assert "Traceback" not in done.stderr


def test_a_log_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    said = refused(tmp_path, {"service": {"log": {"file": str(tmp_path / "file" / "a.log")}}}).stderr
    assert "a.log" in said


# Signals


@unix
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_in_order(start_relay: Start, sink: Sink, number: int) -> None:
    relay = start_relay(sink.port)
    with smtplib.SMTP(relay.host, relay.port, timeout=30) as client:
        client.ehlo()
        signal_it(relay, number)
        assert ended(relay) == 0
        with pytest.raises(smtplib.SMTPServerDisconnected):
            assert client.noop()[0] == 421
            client.noop()
    assert "ServerChanged state=stopped" in relay.said()
    assert "Traceback" not in relay.said()


@unix
def test_a_second_ctrl_c_waits_for_nothing(start_relay: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections and says nothing
        relay = start_relay(silent.getsockname()[1])
        send(relay)
        connection, _ = silent.accept()
        signal_it(relay, signal.SIGINT)
        until(relay, lambda: "state=stopping" in relay.said())
        assert relay.process is not None and relay.process.poll() is None
        signal_it(relay, signal.SIGINT)
        assert ended(relay) == 0
        connection.close()
    assert "Traceback" not in relay.said()
    relay.start()
    (message,) = relay.messages()
    assert message["state"] == "queued"


@unix
def test_sighup_is_a_reload_whole_or_not_at_all(start_relay: Start, sink: Sink) -> None:
    relay = start_relay(sink.port, {"messages": {"max_recipients": 5}})
    good = relay.config.read_text("utf-8")

    def recipients() -> int:
        with smtplib.SMTP(relay.host, relay.port, timeout=30) as client:
            client.ehlo()
            client.mail("a@example.org")
            return [client.rcpt(f"u{n}@example.net")[0] for n in range(7)].count(250)

    assert recipients() == 5
    relay.config.write_text(good.replace("max_recipients = 5", 'max_recipients = "many"'), "utf-8")
    signal_it(relay, signal.SIGHUP)
    until(relay, lambda: "ConfigurationRefused" in relay.said())
    assert "max_recipients: " in relay.said()
    assert recipients() == 5
    relay.config.write_text(good.replace("max_recipients = 5", "max_recipients = 2"), "utf-8")
    signal_it(relay, signal.SIGHUP)
    until(relay, lambda: "configuration reloaded" in relay.said())
    assert recipients() == 2


# Reload by command


def test_a_refused_reload_is_explained_whole(start_relay: Start, tmp_path: Path) -> None:
    relay = start_relay()
    good = relay.config.read_text("utf-8")
    old = f'listen = ["127.0.0.1:{relay.port}"]'
    assert old in good
    new = free_port()
    with taken() as address:
        relay.config.write_text(good.replace(old, f'listen = ["127.0.0.1:{new}", "{address}"]'), "utf-8")
        done = relay.command("server", "reload")
    assert done.returncode == 1
    assert f"cannot listen on {address}: another program listens there already" in done.stderr
    assert relay.ask("server", "list")["servers"][0]["listeners"][0]["address"] == f"127.0.0.1:{relay.port}"
    mistakes = good.replace(old, 'listen = ["25"]').replace('fqdn = "relay.example"', 'fqdn = "-"')
    relay.config.write_text(mistakes, "utf-8")
    token = str(relay.mailroot / "api-token")
    done = relay.command("server", "reload", "--api", f"127.0.0.1:{relay.api_port}", "--token-file", token)
    assert done.returncode == 1
    assert "[general] listen: " in done.stderr
    assert "[general] fqdn: " in done.stderr
    relay.config.write_text(good.replace(old, f'listen = ["127.0.0.1:{new}"]'), "utf-8")
    assert relay.command("server", "reload").returncode == 0
    assert relay.ask("server", "list")["servers"][0]["listeners"][0]["address"] == f"127.0.0.1:{new}"


# The log


def test_the_log_is_json_in_a_file_if_so_wished_and_nothing_forges_a_line(start_relay: Start, sink: Sink) -> None:
    settings = {"service": {"log": {"file": "events.log", "format": "json", "level": "debug"}}}
    relay = start_relay(sink.port, settings)
    with smtplib.SMTP(relay.host, relay.port, timeout=30) as client:
        client.ehlo()
        client.mail("a@example.org")
        client.rcpt("b@example.net")
        client.data(b"Subject: =?utf-8?q?x=0D=0A=1B[2J=22y=22=E2=80=AEz?=\r\n\r\ntext\r\n")
    sink.wait()
    file = relay.folder / "events.log"
    until(relay, lambda: "RecipientDelivered" in file.read_text("utf-8"))
    lines = file.read_text("utf-8").splitlines()
    assert all(line.isprintable() for line in lines)
    events = [json.loads(line) for line in lines]
    assert {"ServerChanged", "SessionOpened", "MessageAccepted", "RecipientDelivered"} <= {
        event["event"] for event in events
    }
    (accepted,) = [event for event in events if event["event"] == "MessageAccepted"]
    assert "y" in accepted["subject"] and "z" in accepted["subject"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_below_the_log_stops_no_mail(start_relay: Start, sink: Sink) -> None:
    relay = start_relay(sink.port, {"service": {"log": {"file": "/dev/full"}}})
    send(relay)
    sink.wait()
    relay.wait_for(lambda messages: [one["state"] for one in messages] == ["finished"])
    assert relay.stop() == 0 or sys.platform == "win32"


@unix
def test_a_log_that_is_moved_away_is_begun_anew(start_relay: Start, sink: Sink) -> None:
    relay = start_relay(sink.port, {"service": {"log": {"file": "events.log"}}})
    file = relay.folder / "events.log"
    until(relay, lambda: file.exists() and "state=started" in file.read_text("utf-8"))
    file.rename(relay.folder / "moved.log")
    send(relay)
    sink.wait()
    until(relay, lambda: file.exists() and "RecipientDelivered" in file.read_text("utf-8"))
    assert "state=started" not in file.read_text("utf-8")


# What it says and what it costs


def test_it_says_where_everything_is(start_relay: Start) -> None:
    relay = start_relay()
    until(relay, lambda: "Ctrl+C stops." in relay.said())
    for words in (
        str(relay.config),
        f"{relay.host}:{relay.port}",
        f"127.0.0.1:{relay.api_port}",
        str(relay.mailroot),
    ):
        assert words in relay.said()


@unix
@pytest.mark.parametrize("stream", ["a pipe that nobody reads", "closed"])
def test_standard_streams_that_are_lost_stop_nothing(tmp_path: Path, sink: Sink, stream: str) -> None:
    relay = Relay(tmp_path / "relay", {"service": {"log": {"file": "events.log"}}}, next_hop=sink.port)
    reading, writing = os.pipe()
    os.close(reading)
    program = [sys.executable, "-c", "import sys; from mailroot.cli.main import main; sys.exit(main())"]
    shell = ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh"] if stream == "closed" else []
    relay.process = subprocess.Popen(
        [*shell, *program, "run", "--config", str(relay.config)],
        cwd=relay.folder,
        stdout=writing,
        stderr=writing,
    )
    os.close(writing)
    try:
        until(relay, lambda: answers(relay))
        send(relay)
        sink.wait()
        assert relay.stop() == 0
    finally:
        relay.kill()


def answers(relay: Relay) -> bool:
    """Whether its API does. AssertionError if it has ended."""
    assert relay.process is not None
    assert relay.process.poll() is None, "it ended"
    try:
        relay.messages()
    except (OSError, ValueError):
        return False
    return True


@unix
def test_the_server_carries_nothing_of_the_other_commands(start_relay: Start) -> None:
    """What the libraries of the other commands would cost is memory, for as long as it runs."""
    code = (
        "import sys, mailroot.service\n"
        "from mailroot.cli import run\n"
        "run.welcome = lambda service, command: (service.stop(), ' '.join(sorted(sys.modules)))[1]\n"
        "from mailroot.cli.main import main\n"
        "sys.exit(main())\n"
    )
    relay = start_relay()
    relay.stop()
    done = subprocess.run(
        [sys.executable, "-c", code, "run", "--config", str(relay.config)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    loaded = set(done.stdout.split())
    assert {"mailroot.service", "uvicorn", "sqlite3"} <= loaded
    assert loaded & {"typer", "rich", "pydantic", "httpx"} == set()


@unix
def test_ctrl_c_before_anything_runs_is_no_traceback(tmp_path: Path) -> None:
    relay = Relay(tmp_path / "relay", {})
    code = (
        "import os, signal, sys\n"
        "from mailroot.cli import run\n"
        "import mailroot.service\n"
        "load = mailroot.service.load\n"
        "mailroot.service.load = lambda *given: (os.kill(os.getpid(), signal.SIGINT), load(*given))[1]\n"
        "from mailroot.cli.main import main\n"
        "sys.exit(main())\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, "run", "--config", str(relay.config)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        _, said = process.communicate(timeout=50)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 1
    assert said == "mailroot: interrupted\n"
