"""The command line against `mailroot run` in a process of its own, with real mail to a real next hop."""

import json
import re
import smtplib
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from rig.relay import Relay
from rig.sink import Sink

Start = Callable[..., Relay]


def lines(done: "subprocess.CompletedProcess[str]") -> list[str]:
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()


def test_a_message_is_handed_in_and_followed_to_the_next_hop(start_relay: Start, sink: Sink) -> None:
    relay = start_relay(sink.port)
    done = relay.command("send", "--from", "a@example.org", "--to", "b@example.net", "--subject", "Test 1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^accepted as [0-9A-Z]{13}: 250 2\.6\.0 ", done.stdout, re.MULTILINE)
    assert re.search(
        rf"^b@example\.net: delivered by .*127\.0\.0\.1.*:{sink.port}: 250 ", done.stdout, re.MULTILINE
    )
    (received,) = sink.wait()
    assert b"Subject: Test 1\r\n" in received.octets
    (message,) = relay.ask("queue", "list", "--finished")["messages"]
    assert message["doing"] == "delivered"
    detail = relay.ask("queue", "show", message["id"])
    assert [line["outcome"] for line in detail["story"]] == ["delivered"]
    assert "delivered" in relay.command("queue", "show", message["id"]).stdout


def test_a_next_hop_that_defers_is_seen_and_can_be_tried_again(
    start_relay: Start, sink: Sink, tmp_path: Path
) -> None:
    sink.replies["."] = b"450 4.2.0 Come back later"
    relay = start_relay(sink.port)
    done = relay.command("send", "--from", "a@example.org", "--to", "b@example.net", "--body", "kept octets")
    assert done.returncode == 1
    deferred = r"^b@example\.net: deferred by .*450 4\.2\.0 Come back later; next try in 1\d min"
    assert re.search(deferred, done.stdout, re.MULTILINE)
    (message,) = relay.ask("queue", "list")["messages"]
    known = message["id"]
    assert message["doing"] == "deferred" and "450 4.2.0 Come back later" in message["why"]
    assert lines(relay.command("queue", "hold", known)) == ["1 message held"]
    file = tmp_path / "out.eml"
    lines(relay.command("queue", "export", known, "--output", str(file)))
    assert b"kept octets" in file.read_bytes() and file.read_bytes().startswith(b"Received: from ")
    assert relay.ask("queue", "count")["queues"][0]["counts"]["held"] == 1
    assert relay.command("queue", "retry", known).returncode == 1
    del sink.replies["."]
    assert lines(relay.command("queue", "release", known)) == ["1 message released"]
    (received,) = sink.wait()
    assert b"kept octets" in received.octets


def test_deleted_messages_never_leave(start_relay: Start, sink: Sink) -> None:
    sink.replies["MAIL"] = b"451 4.3.0 Not now"
    relay = start_relay(sink.port)
    for n in range(3):
        relay.command("send", "--from", f"a{n}@example.org", "--to", "b@example.net")
    assert len(relay.ask("queue", "delete", "--sender", "a1@")["changed"]) == 1
    assert lines(relay.command("queue", "delete", "--all", "--yes")) == ["2 messages deleted"]
    assert relay.ask("queue", "list")["messages"] == []
    assert {one["doing"] for one in relay.ask("queue", "list", "--finished")["messages"]} == {"deleted"}


def test_virtual_servers_stop_pause_and_go_on(start_relay: Start, sink: Sink) -> None:
    relay = start_relay(sink.port)

    def greeting() -> bytes:
        try:
            with smtplib.SMTP(relay.host, relay.port, "client.example", timeout=10) as client:
                return client.noop()[1]
        except smtplib.SMTPConnectError as error:
            return str(error.smtp_code).encode()
        except OSError:
            return b"closed"

    (server,) = relay.ask("server", "list")["servers"]
    (listener,) = server["listeners"]
    assert server["state"] == "started" and listener["address"] == f"{relay.host}:{relay.port}"
    lines(relay.command("server", "pause"))
    assert relay.ask("server", "list")["servers"][0]["state"] == "paused"
    assert greeting() in (b"421", b"closed")
    lines(relay.command("server", "continue"))
    assert b"OK" in greeting()
    lines(relay.command("server", "stop"))
    assert greeting() == b"closed"
    assert relay.ask("queue", "list")["messages"] == []
    lines(relay.command("server", "start"))
    assert b"OK" in greeting()
    lines(relay.command("server", "restart"))
    assert b"OK" in greeting()


def test_a_session_is_listed_and_ended(start_relay: Start, sink: Sink) -> None:
    relay = start_relay(sink.port)
    client = smtplib.SMTP(relay.host, relay.port, "client.example", timeout=30)
    client.ehlo("listed.example")
    (session,) = relay.ask("session", "list")["sessions"]
    assert (session["client"], session["helo"]) == ("127.0.0.1", "listed.example")
    assert lines(relay.command("session", "end", session["id"])) == ["1 session ended"]
    with pytest.raises((smtplib.SMTPServerDisconnected, smtplib.SMTPResponseException, OSError)):
        code, _ = client.noop()
        assert code == 421
        client.noop()
    client.close()
    assert relay.ask("session", "list")["sessions"] == []


def test_explain_knows_the_configuration(start_relay: Start, sink: Sink) -> None:
    relay = start_relay(sink.port)
    answer = relay.ask("explain", "--from", "a@example.org", "--to", "b@example.net")
    assert answer["accepted"] and answer["hosts"][0]["port"] == sink.port
    done = relay.command(
        "explain", "--from", "a@example.org", "--to", "b@example.net", "--client", "192.0.2.1", "--json"
    )
    assert done.returncode == 1 and json.loads(done.stdout)["accepted"] is False
    with smtplib.SMTP(relay.host, relay.port, "client.example", timeout=30) as client:
        client.ehlo()
        client.mail("a@example.org")
        assert client.rcpt("b@example.net")[0] == 250


def test_reload_is_whole_or_not_at_all(start_relay: Start, sink: Sink) -> None:
    relay = start_relay(sink.port, {"messages": {"max_recipients": 5}})
    good = relay.config.read_text(encoding="utf-8")
    relay.config.write_text(good.replace("max_recipients = 5", 'max_recipients = "many"'), encoding="utf-8")
    # The commands are told where the API is by the token file and address, since the file cannot be read.
    api, token = relay_api(good)
    done = relay.command("server", "reload", "--api", api, "--token-file", token)
    assert done.returncode == 1 and "max_recipients" in done.stderr and "mailroot.toml" in done.stderr
    relay.config.write_text(good.replace("max_recipients = 5", "max_recipients = 1"), encoding="utf-8")
    lines(relay.command("server", "reload"))
    with smtplib.SMTP(relay.host, relay.port, "client.example", timeout=30) as client:
        client.ehlo()
        client.mail("a@example.org")
        assert client.rcpt("b@example.net")[0] == 250
        assert client.rcpt("c@example.net")[0] in (452, 552)


def relay_api(config: str) -> tuple[str, str]:
    port = re.search(r"^port = (\d+)$", config, re.MULTILINE)
    token = re.search(r'^token_file = "(.*)"$', config, re.MULTILINE)
    assert port is not None and token is not None
    return f"127.0.0.1:{port[1]}", json.loads(f'"{token[1]}"')
