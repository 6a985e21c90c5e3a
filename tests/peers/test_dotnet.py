"""The .NET clients: Microsoft's own, which Database Mail is made of, and Mono's with TLS."""

import base64
import email
import email.policy
import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rig.mail import digest
from rig.programs import find_program
from rig.relay import Relay
from rig.sink import Sink

pytestmark = pytest.mark.peer

StartRelay = Callable[..., Relay]

_ATTACHMENT = random.Random(1).randbytes(1_200_000)  # 1.6 MB when it is encoded


def dotnet(order: dict[str, Any]) -> list[str]:
    """What Microsoft's client says became of each message."""
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("dotnet_client.py")],
        input=json.dumps(order).encode(),
        capture_output=True,
        timeout=120,
        env=os.environ | {"DOTNET_SYSTEM_GLOBALIZATION_INVARIANT": "1", "DOTNET_CLI_TELEMETRY_OPTOUT": "1"},
    )
    assert done.returncode == 0, done.stderr.decode(errors="replace")[-3000:]
    return list(json.loads(done.stdout))


def order_of(count: int) -> list[dict[str, Any]]:
    """Messages as an application writes them; the last has an attachment."""
    messages: list[dict[str, Any]] = [
        {
            "from": "reports@example.com",
            "to": [f"user{number}@example.net", "boss@example.net"],
            "subject": f"Lagerbestand für Köln {number}",
            "body": "Sehr geehrte Damen,\r\n.eine Zeile mit Punkt\r\n..und zwei\r\nüäö €\r\n",
        }
        for number in range(count)
    ]
    messages[-1]["attachment"] = base64.b64encode(_ATTACHMENT).decode()
    return messages


def check(octets: bytes, ordered: dict[str, Any]) -> None:
    """The message reads as it was ordered."""
    read = email.message_from_bytes(octets, policy=email.policy.default)
    assert read["Subject"] == ordered["subject"]
    assert read["From"] == ordered["from"]
    body = read.get_body(("plain",))
    assert body is not None
    assert body.get_content().replace("\n", "\r\n").replace("\r\r", "\r").strip() == ordered["body"].strip()
    attachments = [part.get_content() for part in read.iter_attachments()]
    wanted = [base64.b64decode(ordered["attachment"])] if "attachment" in ordered else []
    assert [digest(part) for part in attachments] == [digest(part) for part in wanted]
    assert read["Message-ID"], "System.Net.Mail writes none, so we do"
    assert read["Date"]


@pytest.mark.needs("dotnet")
def test_smtp_client_sends_many_over_one_connection(start_relay: StartRelay, sink: Sink) -> None:
    relay = start_relay(sink.port)
    ordered = order_of(5)
    assert dotnet({"host": relay.host, "port": relay.port, "messages": ordered}) == [""] * 5
    by_first = {received.recipients[0].split(">")[0]: received for received in sink.wait(5)}
    for number, one in enumerate(ordered):
        received = by_first[f"<user{number}@example.net"]
        assert received.sender.startswith("<reports@example.com>")
        assert len(received.recipients) == 2
        check(received.octets, one)


@pytest.mark.needs("dotnet")
def test_smtp_client_is_told_what_is_refused_and_goes_on(start_relay: StartRelay, sink: Sink) -> None:
    relay = start_relay(sink.port, {"messages": {"max_recipients": 2, "max_message_size": "100 KiB"}})
    small, large = order_of(2)
    many = small | {"to": [f"user{number}@example.net" for number in range(3)]}
    fates = dotnet({"host": relay.host, "port": relay.port, "messages": [small, large, many, small]})
    assert [bool(fate) for fate in fates] == [False, True, True, False]
    assert "ExceededStorageAllocation" in fates[1]  # 552
    # It sends to those recipients that were taken, and reports the other one.
    assert [len(received.recipients) for received in sink.wait(3)] == [2, 2, 2]


@pytest.mark.needs("dotnet")
def test_smtp_client_writes_into_the_pickup_folder(start_relay: StartRelay, sink: Sink) -> None:
    relay = start_relay(sink.port)
    ordered = order_of(3)
    assert dotnet({"pickup": str(relay.pickup), "messages": ordered}) == [""] * 3
    for received in sink.wait(3):
        first = received.recipients[0].split("@")[0].removeprefix("<user")
        check(received.octets, ordered[int(first)])
    assert list(relay.pickup.iterdir()) == []
    assert list(relay.badmail.iterdir()) == []


@pytest.fixture(scope="module")
def mono_client(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Sends a message with Mono's client: `mono_client(relay)`, or `mono_client(relay, "tls")`."""
    mono, compiler = find_program("mono"), find_program("mcs")
    executable = tmp_path_factory.mktemp("mono") / "SmtpClientMono.exe"
    source = Path(__file__).with_name("SmtpClientMono.cs")
    built = subprocess.run(
        [str(compiler), "-nowarn:618", f"-out:{executable}", str(source)],
        capture_output=True,
        encoding="utf-8",
        timeout=120,
    )
    assert built.returncode == 0, built.stdout + built.stderr

    def send(relay: Relay, *options: str) -> subprocess.CompletedProcess[str]:
        arguments = [
            relay.host,
            str(relay.port),
            "a@example.com",
            "b@example.net",
            "Grüße",
            ".dot\n..dots\n",
            *options,
        ]
        return subprocess.run(
            [str(mono), str(executable), *arguments], capture_output=True, timeout=120, encoding="utf-8"
        )

    return send


@pytest.mark.needs("mono")
class TestMono:
    def test_sends(self, start_relay: StartRelay, sink: Sink, mono_client: Callable[..., Any]) -> None:
        relay = start_relay(sink.port)
        done = mono_client(relay)
        assert done.stdout == "sent\n", done.stderr
        (received,) = sink.wait()
        read = email.message_from_bytes(received.octets, policy=email.policy.default)
        assert read["Subject"] == "Grüße"
        assert read.get_content().split() == [".dot", "..dots"]

    def test_its_tls_1_0_is_refused_and_nothing_is_sent_in_the_clear(
        self, start_relay: StartRelay, sink: Sink, mono_client: Callable[..., Any], certificate: tuple[Path, Path]
    ) -> None:
        """Its SmtpClient offers TLS 1.0 alone, whatever it is told, and that is no protection (RFC 8996)."""
        relay = start_relay(
            sink.port, {"general": {"tls": {"certificate": str(certificate[0]), "key": str(certificate[1])}}}
        )
        done = mono_client(relay, "tls")
        assert done.returncode == 1
        assert "Authentication failed" in done.stderr
        assert mono_client(relay).stdout == "sent\n"  # the service goes on
        assert len(sink.wait()) == 1
