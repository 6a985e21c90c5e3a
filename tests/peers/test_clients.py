"""Clients that people really use hand in mail; what they sent arrives octet for octet."""

import smtplib
import socket
import ssl
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from rig.mail import BODIES, arrived, message
from rig.relay import Relay
from rig.sink import Received, Sink

pytestmark = pytest.mark.peer

StartRelay = Callable[..., Relay]
Program = Callable[[str], str]

LARGE = {"messages": {"max_message_size": "50 MiB", "max_session_size": 0}}


def run(*command: str, octets: bytes = b"") -> str:
    """What the client printed; AssertionError when it failed."""
    done = subprocess.run(command, input=octets, capture_output=True, timeout=120)
    printed = (done.stdout + done.stderr).decode(errors="replace")
    assert done.returncode == 0, printed
    return printed


def by_message_id(messages: list[Received]) -> dict[bytes, bytes]:
    """The content of each by the name that rig.mail.message gave it."""
    found = {}
    for received in messages:
        start = received.octets.index(b"Message-ID: <") + len(b"Message-ID: <")
        found[received.octets[start : received.octets.index(b"@example.com>", start)]] = received.octets
    return found


class TestSmtplib:
    def test_every_body_arrives_as_it_was(self, start_relay: StartRelay, sink: Sink) -> None:
        relay = start_relay(sink.port, LARGE)
        with smtplib.SMTP(relay.host, relay.port) as client:
            for name in BODIES:
                options = [] if BODIES[name].isascii() else ["BODY=8BITMIME"]
                client.sendmail("ann@example.com", ["bob@example.net"], message(name), mail_options=options)
        octets = by_message_id(sink.wait(len(BODIES)))
        assert [name for name in BODIES if not arrived(octets[name.encode()], message(name))] == []

    def test_starttls_and_smtputf8(
        self, start_relay: StartRelay, sink: Sink, certificate: tuple[Path, Path]
    ) -> None:
        relay = start_relay(
            sink.port, {"general": {"certificates": [{"file": str(certificate[0]), "key": str(certificate[1])}]}}
        )
        with smtplib.SMTP(relay.host, relay.port) as client:
            client.starttls(context=ssl.create_default_context(cafile=str(certificate[0])))
            sent = "From: ä@example.com\r\nSubject: Grüße\r\n\r\nText\r\n".encode()
            client.sendmail("ä@example.com", ["ü@example.net"], sent, mail_options=["SMTPUTF8", "BODY=8BITMIME"])
        (received,) = sink.wait()
        assert received.sender.startswith("<ä@example.com>")
        assert "SMTPUTF8" in received.sender
        assert received.recipients[0].startswith("<ü@example.net>")
        head = received.octets.split(b"\r\n\r\n", 1)[0]
        assert b"UTF8SMTPS" in head  # RFC 6531 §4.3: the protocol of the Received field

    def test_dsn_parameters_go_through(self, start_relay: StartRelay, sink: Sink) -> None:
        relay = start_relay(sink.port)
        with smtplib.SMTP(relay.host, relay.port) as client:
            client.sendmail(
                "ann@example.com",
                ["bob@example.net"],
                message("text"),
                mail_options=["RET=HDRS", "ENVID=QQ314159"],
                rcpt_options=["NOTIFY=SUCCESS,FAILURE", "ORCPT=rfc822;robert@example.net"],
            )
        (received,) = sink.wait()
        assert {"RET=HDRS", "ENVID=QQ314159"} < set(received.sender.split())
        assert {"NOTIFY=SUCCESS,FAILURE", "ORCPT=rfc822;robert@example.net"} < set(received.recipients[0].split())

    def test_refused_recipients_are_named_and_the_others_served(self, start_relay: StartRelay, sink: Sink) -> None:
        relay = start_relay(
            sink.port,
            {
                "access": {"relay": {"mode": "only the list", "list": []}},
                "domains": {"remote": [{"name": "example.net", "allow_relay": True}]},
            },
        )
        with smtplib.SMTP(relay.host, relay.port) as client:
            refused = client.sendmail("a@example.com", ["b@example.net", "c@elsewhere.example"], message("text"))
        assert {name: code for name, (code, _) in refused.items()} == {"c@elsewhere.example": 550}
        (received,) = sink.wait()
        assert received.recipients[0].startswith("<b@example.net>")


@pytest.mark.needs("swaks")
class TestSwaks:
    @pytest.mark.parametrize(
        "options", [(), ("--pipeline",), ("--protocol", "SMTP")], ids=["ESMTP", "pipelining", "HELO"]
    )
    def test_sends(
        self, start_relay: StartRelay, sink: Sink, program: Program, tmp_path: Path, options: tuple[str, ...]
    ) -> None:
        relay = start_relay(sink.port)
        # It makes line ends itself, and takes the last lone dot for its own.
        sent = message("dots", BODIES["dots"] + b"end\r\n")
        file = tmp_path / "message"
        file.write_bytes(sent.replace(b"\r\n", b"\n"))
        server = ("--server", relay.host, "--port", str(relay.port), "--ehlo", "client.example")
        addresses = ("--from", "ann@example.com", "--to", "bob@example.net,eve@example.net")
        printed = run(program("swaks"), *server, *addresses, "--data", f"@{file}", *options)
        assert "<-  250 " in printed
        (received,) = sink.wait()
        assert len(received.recipients) == 2
        assert arrived(received.octets, sent) or arrived(received.octets, sent + b"\r\n")


@pytest.mark.needs("curl")
class TestCurl:
    def test_sends_every_body(self, start_relay: StartRelay, sink: Sink, program: Program, tmp_path: Path) -> None:
        relay = start_relay(sink.port, LARGE)
        for name in BODIES:
            file = tmp_path / name
            file.write_bytes(message(name))
            run(
                *(
                    program("curl"),
                    "--silent",
                    "--show-error",
                    "--noproxy",
                    "*",
                    f"smtp://{relay.host}:{relay.port}/client.example",
                ),
                *("--mail-from", "ann@example.com", "--mail-rcpt", "bob@example.net", "--upload-file", str(file)),
            )
        octets = by_message_id(sink.wait(len(BODIES)))
        assert [name for name in BODIES if not arrived(octets[name.encode()], message(name))] == []

    def test_insists_on_tls(
        self, start_relay: StartRelay, sink: Sink, program: Program, tmp_path: Path, certificate: tuple[Path, Path]
    ) -> None:
        relay = start_relay(
            sink.port, {"general": {"certificates": [{"file": str(certificate[0]), "key": str(certificate[1])}]}}
        )
        file = tmp_path / "message"
        file.write_bytes(message("text"))
        run(
            *(
                program("curl"),
                "--silent",
                "--show-error",
                "--noproxy",
                "*",
                "--ssl-reqd",
                "--cacert",
                str(certificate[0]),
            ),
            *(f"smtp://{relay.host}:{relay.port}", "--mail-from", "a@example.com", "--mail-rcpt", "b@example.net"),
            *("--upload-file", str(file)),
        )
        (received,) = sink.wait()
        assert arrived(received.octets, message("text"))


@pytest.mark.needs("telnet")
def test_telnet_types_the_documented_session(start_relay: StartRelay, sink: Sink, program: Program) -> None:
    """The session as Microsoft's documentation prints it: a space after the colon, no angle brackets."""
    relay = start_relay(sink.port)
    session = [
        ("EHLO server", b"250 "),
        ("MAIL FROM: EmailAddress@outlook.com", b"250 "),
        ("RCPT TO: someone@example.com", b"250 "),
        ("DATA", b"354 "),
        ("Subject: Test Message", b""),
        ("", b""),
        ("This is a test message you will not see a response from this command.", b""),
        (".", b"250 "),
        ("QUIT", b"221 "),
    ]
    command = [program("telnet"), relay.host, str(relay.port)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as client:
        assert client.stdin is not None
        assert client.stdout is not None
        try:
            while not (line := client.stdout.readline()).startswith(b"220 "):
                assert line, "telnet ended before the greeting"
            for typed, code in session:
                client.stdin.write(typed.encode() + b"\n")
                client.stdin.flush()
                line = b"000-" if code else b""
                while line[3:4] == b"-":  # a reply of several lines
                    line = client.stdout.readline()
                assert line.startswith(code), f"{typed}: {line!r}"
            assert client.stdout.read() == b""
        finally:
            client.kill()
    (received,) = sink.wait()
    assert received.sender.split()[0] == "<EmailAddress@outlook.com>"
    assert received.recipients[0].split()[0] == "<someone@example.com>"
    assert b"\r\nSubject: Test Message\r\n" in received.octets
    assert received.octets.endswith(
        b"\r\n\r\nThis is a test message you will not see a response from this command.\r\n"
    )


def test_a_message_without_a_last_line_end_arrives_by_bdat(start_relay: StartRelay, sink: Sink) -> None:
    """No client here speaks BDAT, so the octets are written by hand, in three chunks and all in one piece."""
    relay = start_relay(sink.port)
    sent = message("open", b"\x00binary\xff\r\n.\r\nlast line without an end")
    chunks = b"".join(
        b"BDAT %d%s\r\n%s" % (len(part), last, part)
        for part, last in ((sent[:50], b""), (sent[50:], b""), (b"", b" LAST"))
    )
    with socket.create_connection((relay.host, relay.port), 30) as connection, connection.makefile("rb") as replies:
        assert replies.readline().startswith(b"220 ")
        connection.sendall(b"EHLO client.example\r\n")
        while replies.readline()[3:4] == b"-":
            pass
        connection.sendall(
            b"MAIL FROM:<a@example.com> BODY=BINARYMIME\r\nRCPT TO:<b@example.net>\r\n" + chunks + b"QUIT\r\n"
        )
        assert [replies.readline()[:4] for _ in range(6)] == [b"250 "] * 5 + [b"221 "]
    (received,) = sink.wait()
    assert arrived(received.octets, sent)
    assert "BODY=BINARYMIME" in received.sender


@pytest.mark.needs("postfix", "root")
class TestPostfix:
    """Postfix hands its mail to Mailroot: pipelined, with SIZE and DSN, several messages over one connection."""

    def test_every_body_arrives_as_it_was(
        self, start_relay: StartRelay, sink: Sink, start_postfix: Callable[..., object]
    ) -> None:
        relay = start_relay(sink.port, LARGE)
        postfix = start_postfix(relayhost=f"[{relay.host}]:{relay.port}", smtp_line_length_limit="0")
        with smtplib.SMTP("127.0.0.1", postfix.port) as client:  # type: ignore[attr-defined]
            for name in BODIES:
                options = [] if BODIES[name].isascii() else ["BODY=8BITMIME"]
                client.sendmail(
                    "ann@example.com", ["bob@example.net", "eve@example.net"], message(name), mail_options=options
                )
        octets = by_message_id(sink.wait(len(BODIES)))
        assert [name for name in BODIES if not arrived(octets[name.encode()], message(name))] == []

    def test_its_dsn_requests_go_through(
        self, start_relay: StartRelay, sink: Sink, start_postfix: Callable[..., object]
    ) -> None:
        relay = start_relay(sink.port)
        postfix = start_postfix(relayhost=f"[{relay.host}]:{relay.port}")
        with smtplib.SMTP("127.0.0.1", postfix.port) as client:  # type: ignore[attr-defined]
            client.sendmail(
                "ann@example.com",
                ["bob@example.net"],
                message("text"),
                mail_options=["ENVID=E1", "RET=FULL"],
                rcpt_options=["NOTIFY=SUCCESS"],
            )
        (received,) = sink.wait()
        assert "ENVID=E1" in received.sender
        assert "NOTIFY=SUCCESS" in received.recipients[0]
