"""The .NET clients: Microsoft's own, which Database Mail is made of, and Mono's with TLS."""

import base64
import email
import email.policy
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rig.mail import digest
from rig.programs import find_program
from rig.relay import Relay, free_port, merged
from rig.sink import Sink

pytestmark = pytest.mark.peer

StartRelay = Callable[..., Relay]

USER, PASSWORD = "svc-sql", "Passw0rd für SQL"

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


def wait_for_log(relay: Relay, *words: str, seconds: float = 20) -> str:
    """The first line of the log with all these words, as soon as there is one; "" after `seconds`."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for line in relay.said().splitlines():
            if all(word in line for word in words):
                return line
        time.sleep(0.05)  # another process: there is nothing else to wait on
    return ""


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


def with_accounts(start_relay: StartRelay, sink: Sink, settings: dict[str, Any], **relay_list: Any) -> Relay:
    """A relay with the account svc-sql, whose `relay` list is that."""
    relay = start_relay(
        sink.port,
        merged({"service": {"log": {"level": "debug"}}, "access": {"relay": {"list": [], **relay_list}}}, settings),
    )
    added = relay.command("user", "add", USER, "--password-stdin", input=PASSWORD + "\n")
    assert added.returncode == 0, added.stderr
    return relay


@pytest.mark.needs("dotnet")
class TestBasicAuthentication:
    """SmtpClient with Credentials, as Database Mail with Basic authentication: AUTH LOGIN, and nothing else."""

    def _send(self, relay: Relay, password: str = PASSWORD, count: int = 2, **order: Any) -> list[str]:
        login = {"user": USER, "password": password}
        return dotnet({"host": relay.host, "port": relay.port, "messages": order_of(count), **login, **order})

    def test_the_login_is_what_lets_it_relay(self, start_relay: StartRelay, sink: Sink) -> None:
        relay = with_accounts(start_relay, sink, {}, mode="only the list")
        assert self._send(relay) == ["", ""]
        assert all(b" with ESMTPA id " in received.octets for received in sink.wait(2))
        assert wait_for_log(relay, "LoginSucceeded", f"user={USER}", "mechanism=LOGIN")

    def test_a_wrong_password_without_a_right_to_relay(self, start_relay: StartRelay, sink: Sink) -> None:
        """The client goes on as if nothing had happened, and then hears what it may not."""
        relay = with_accounts(start_relay, sink, {}, mode="only the list")
        fates = self._send(relay, "wrong")
        assert [fate.partition(":")[0] for fate in fates] == ["GeneralFailure", "GeneralFailure"]
        assert "Unable to send to all recipients" in fates[0]
        assert wait_for_log(relay, "LoginFailed", f"user={USER}")
        assert wait_for_log(relay, "CommandRefused", "Unable to relay")
        assert sink.messages == []

    def test_a_wrong_password_with_the_right_to_relay_by_address(self, start_relay: StartRelay, sink: Sink) -> None:
        """As with the old service: the refused login closes nothing, and the address may relay."""
        relay = with_accounts(start_relay, sink, {}, mode="only the list", list=["127.0.0.1"])
        assert self._send(relay, "wrong") == ["", ""]
        assert all(b" with ESMTP id " in received.octets for received in sink.wait(2))

    def test_a_wrong_password_where_a_login_is_needed(self, start_relay: StartRelay, sink: Sink) -> None:
        relay = with_accounts(
            start_relay, sink, {"access": {"authentication": {"anonymous": False}}}, list=["127.0.0.1"]
        )
        (fate,) = self._send(relay, "wrong", 1)
        assert fate.startswith("MustIssueStartTlsFirst")  # that is what .NET calls every 530
        assert "5.7.0 Authentication required" in fate
        assert self._send(relay, PASSWORD, 1) == [""]
        assert len(sink.wait()) == 1

    def test_a_domain_before_the_name(self, start_relay: StartRelay, sink: Sink) -> None:
        """NetworkCredential with a domain says DOMAIN\\user, which is no account here."""
        relay = with_accounts(start_relay, sink, {}, mode="only the list")
        fates = self._send(relay, count=1, domain="CORP")
        assert fates[0].startswith("GeneralFailure")
        assert wait_for_log(relay, "LoginFailed", USER)


@pytest.fixture(scope="module")
def mono_client(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Sends a message with Mono's client: `mono_client(relay)`, or `mono_client(relay, "tls", user, password)`."""
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

    def send(relay: Relay, *options: str, port: int = 0) -> subprocess.CompletedProcess[str]:
        arguments = [
            relay.host,
            str(port or relay.port),
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
            sink.port, {"general": {"certificates": [{"file": str(certificate[0]), "key": str(certificate[1])}]}}
        )
        done = mono_client(relay, "tls")
        assert done.returncode == 1
        assert "Authentication failed" in done.stderr
        # The event says why, for who wonders what is wrong with the device.
        assert wait_for_log(relay, "HandshakeFailed", "client=127.0.0.1", "PROTOCOL")
        assert mono_client(relay).stdout == "sent\n"  # the service goes on
        assert len(sink.wait()) == 1

    @pytest.mark.parametrize("login", [(), (USER, PASSWORD)], ids=["anonymous", "login"])
    def test_its_tls_1_0_is_taken_by_a_listener_for_old_devices(
        self,
        start_relay: StartRelay,
        sink: Sink,
        mono_client: Callable[..., Any],
        certificate: tuple[Path, Path],
        login: tuple[str, ...],
    ) -> None:
        port = free_port()
        general = {
            "certificates": [{"file": str(certificate[0]), "key": str(certificate[1])}],
            "listeners": [{"address": f"127.0.0.1:{port}", "profile": "old devices"}],
        }
        allowed = [] if login else ["127.0.0.1"]
        relay = with_accounts(start_relay, sink, {"general": general}, mode="only the list", list=allowed)
        done = mono_client(relay, "tls", *login, port=port)
        assert done.stdout == "sent\n", done.stderr
        (received,) = sink.wait()
        assert (b" with ESMTPSA id " if login else b" with ESMTPS id ") in received.octets
        assert wait_for_log(relay, "SessionSecured", "protocol=TLSv1 ")

    def test_basic_authentication_in_the_clear(
        self, start_relay: StartRelay, sink: Sink, mono_client: Callable[..., Any]
    ) -> None:
        relay = with_accounts(start_relay, sink, {}, mode="only the list")
        assert mono_client(relay, "clear", USER, PASSWORD).stdout == "sent\n"
        assert b" with ESMTPA id " in sink.wait()[0].octets
        assert mono_client(relay, "clear", USER, "wrong").returncode == 1
