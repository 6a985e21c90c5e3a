"""TLS as other programs do it, with a certificate that `mailroot certificate make` made: openssl's s_client, and
Python's smtplib."""

import contextlib
import re
import smtplib
import socket
import ssl
import subprocess
import time
from collections.abc import Callable
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest

from rig.authority import issue
from rig.relay import Relay, free_port
from rig.sink import Sink

pytestmark = pytest.mark.peer

NAMES = ["--name", "localhost", "--name", "127.0.0.1"]


class House:
    """A relay with two certificates and a listener of each kind. `ports` by kind."""

    def __init__(self, start_relay: Callable[..., Relay], sink: Sink, folder: Path) -> None:
        self.ports = {kind: free_port() for kind in ("implicit", "old", "newest", "proxied")}
        self.folder = folder
        self.other = issue("other.example.com", key="rsa2048")
        (folder / "other.pfx").write_bytes(self.other.pkcs12("secret"))
        # Made by the command, before there is a service.
        self.relay = Relay(folder / "before", {})
        made = self.relay.command("certificate", "make", *NAMES, "--folder", str(folder))
        assert made.returncode == 0, made.stderr
        self.relay = start_relay(
            sink.port,
            {
                "general": {
                    "certificates": [
                        {"file": str(folder / "relay.pem"), "key": str(folder / "relay.key")},
                        {"file": str(folder / "other.pfx"), "password": "secret"},
                    ],
                    "listeners": [
                        self._listener("implicit", tls="implicit"),
                        self._listener("old", profile="old devices"),
                        self._listener("newest", min_tls="1.3"),
                        self._listener("proxied", tls="implicit", proxy_protocol=True),
                    ],
                },
                "access": {"proxies": ["127.0.0.1"]},
            },
        )
        self.ports["starttls"] = self.relay.port

    def _listener(self, kind: str, **settings: Any) -> dict[str, Any]:
        return {"address": f"127.0.0.1:{self.ports[kind]}"} | settings

    @property
    def authority(self) -> Path:
        return self.folder / "ca.pem"


@pytest.fixture
def house(start_relay: Callable[..., Relay], sink: Sink, tmp_path: Path) -> House:
    return House(start_relay, sink, tmp_path)


@pytest.fixture
def s_client(house: House, program: Callable[[str], str]) -> Callable[..., str]:
    """What `openssl s_client` says; it says `said` over TLS, and with QUIT good-bye."""

    def run(kind: str, *options: str, said: bytes = b"EHLO client\r\n") -> str:
        starttls = () if kind in ("implicit", "proxied") else ("-starttls", "smtp")
        done = subprocess.run(
            [
                program("openssl"),
                *("s_client", "-connect", f"127.0.0.1:{house.ports[kind]}", "-ign_eof", *starttls),
                *("-CAfile", str(house.authority), *options),
            ],
            input=said + b"QUIT\r\n",
            capture_output=True,
            timeout=60,
        )
        return (done.stdout + done.stderr).decode(errors="replace")

    return run


def protocol(said: str) -> str:
    """The version that was agreed upon, "" where there was none."""
    found = re.search(r"^New, (\S+), Cipher is (\S+)", said, re.MULTILINE)
    if found is None or found[2] == "(NONE)":
        return ""
    found = re.search(r"^ *Protocol *: (\S+)", said, re.MULTILINE) or found
    return found[1]


@pytest.mark.needs("openssl")
@pytest.mark.parametrize("kind", ["implicit", "starttls", "old", "newest"])
def test_openssl_trusts_what_it_is_shown(house: House, s_client: Callable[..., str], kind: str) -> None:
    said = s_client(kind, "-verify_return_error", "-verify_hostname", "localhost")
    assert "Verify return code: 0 (ok)" in said
    assert protocol(said) == "TLSv1.3"
    assert "Compression: NONE" in said
    assert "250-relay.example Hello [127.0.0.1]" in said
    assert "221 2.0.0" in said
    said = s_client(kind, "-verify_hostname", "nobody.example.com")
    assert "Verify return code: 62 (hostname mismatch)" in said


@pytest.mark.needs("openssl")
def test_the_name_that_openssl_asks_for_chooses(house: House, s_client: Callable[..., str]) -> None:
    for kind in ("implicit", "starttls"):
        assert "subject=CN = other.example.com" in s_client(kind, "-servername", "other.example.com")
        for name in (("-servername", "nobody.example.com"), ("-noservername",)):
            said = s_client(kind, *name)
            assert "subject=CN = localhost" in said
            assert "221 2.0.0" in said


@pytest.mark.needs("openssl")
def test_old_versions_are_for_old_devices(house: House, s_client: Callable[..., str]) -> None:
    for option, version in (("-tls1", "TLSv1"), ("-tls1_1", "TLSv1.1"), ("-tls1_2", "TLSv1.2")):
        said = s_client("old", option, "-cipher", "DEFAULT:@SECLEVEL=0")
        assert protocol(said) == version, said
        assert "221 2.0.0" in said
        # As the oldest know it: the key exchange is RSA's own.
        said = s_client("old", option, "-cipher", "AES128-SHA:@SECLEVEL=0")
        assert "Cipher is AES128-SHA" in said
        for kind in ("implicit", "starttls"):
            said = s_client(kind, option, "-cipher", "DEFAULT:@SECLEVEL=0")
            assert protocol(said) == ("TLSv1.2" if option == "-tls1_2" else ""), said
        assert protocol(s_client("newest", option, "-cipher", "DEFAULT:@SECLEVEL=0")) == ""
    for ciphers in ("aNULL", "eNULL", "EXPORT:LOW:RC4"):
        said = s_client("old", "-tls1_2", "-cipher", f"{ciphers}:@SECLEVEL=0")
        assert protocol(said) == ""


@pytest.mark.needs("openssl")
def test_nobody_may_negotiate_anew(house: House, program: Callable[[str], str]) -> None:
    # `R` on a line of its own makes s_client ask for it; it ends by itself when it is refused.
    address = f"127.0.0.1:{house.ports['implicit']}"
    with subprocess.Popen(
        [program("openssl"), "s_client", "-connect", address, "-tls1_2"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as running:
        assert running.stdin is not None
        assert running.stdout is not None
        running.stdin.write(b"R\n")
        running.stdin.flush()
        said = running.stdout.read()
    assert b"RENEGOTIATING" in said
    assert b"no renegotiation" in said


def client_context(house: House) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(house.authority))


def message(number: int) -> EmailMessage:
    one = EmailMessage()
    one["From"], one["To"], one["Subject"] = "a@example.com", "b@example.net", f"Number {number}"
    one.set_content("x\n" * 1000)
    return one


def test_smtplib(house: House, sink: Sink) -> None:
    context = client_context(house)
    for kind in ("implicit", "starttls", "old", "newest"):
        if kind == "implicit":
            client: smtplib.SMTP = smtplib.SMTP_SSL("localhost", house.ports[kind], timeout=60, context=context)
        else:
            client = smtplib.SMTP("localhost", house.ports[kind], timeout=60)
            client.starttls(context=context)
        with client:
            for number in range(3):
                assert client.send_message(message(number)) == {}
    assert len(sink.wait(12)) == 12


def test_a_header_and_tls_in_one_packet_to_the_real_service(house: House) -> None:
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_context(house).wrap_bio(to_client, to_server, server_hostname="localhost")
    with contextlib.suppress(ssl.SSLWantReadError):
        client.do_handshake()
    first = b"PROXY TCP4 192.0.2.7 127.0.0.1 50123 465\r\n" + to_server.read()
    with socket.create_connection(("127.0.0.1", house.ports["proxied"]), 60) as connection:
        connection.sendall(first)
        heard = b""
        said = False
        while b" OK\r\n" not in heard:
            octets = connection.recv(65536)
            assert octets, heard
            to_client.write(octets)
            with contextlib.suppress(ssl.SSLWantReadError):
                client.do_handshake()
                if not said:
                    said = bool(client.write(b"EHLO x\r\n"))
                while True:
                    heard += client.read(65536)
            connection.sendall(to_server.read())
    assert b"Hello [192.0.2.7]" in heard


def test_who_does_not_speak_tls_is_told_once_and_leaves_nothing(house: House) -> None:
    """Whoever says nothing at all, to see whether the port is open, is not even told."""
    for said in (b"EHLO x\r\n", b"GET / HTTP/1.0\r\n\r\n", b""):
        with socket.create_connection(("127.0.0.1", house.ports["implicit"]), 60) as connection:
            connection.sendall(said)
            connection.shutdown(socket.SHUT_WR)
            with contextlib.suppress(ConnectionError):
                while octets := connection.recv(65536):
                    assert b"220" not in octets
    end = time.monotonic() + 60
    while house.relay.said().count("HandshakeFailed") < 2:
        assert time.monotonic() < end, house.relay.said()
        time.sleep(0.05)  # another process: there is nothing else to wait on
    assert "Traceback" not in house.relay.said()
    assert "InternalError" not in house.relay.said()
    assert house.relay.ask("session", "list")["sessions"] == []
    assert house.relay.said().count("HandshakeFailed") == 2


def test_a_renewed_certificate_is_taken_and_sessions_go_on(house: House) -> None:
    relay, context = house.relay, client_context(house)

    def fingerprint() -> str:
        return str(relay.ask("certificate", "show")["certificates"][0]["fingerprint"])

    with smtplib.SMTP_SSL("localhost", house.ports["implicit"], timeout=60, context=context) as early:
        assert early.noop()[0] == 250
        before = fingerprint()
        made = relay.command("certificate", "make", "--folder", str(house.folder))
        assert "the same as before, clients need nothing new" in made.stdout
        reloaded = relay.command("server", "reload")
        assert reloaded.returncode == 0, reloaded.stderr
        after = fingerprint()
        assert after != before
        with smtplib.SMTP_SSL("localhost", house.ports["implicit"], timeout=60, context=context) as late:
            assert isinstance(late.sock, ssl.SSLSocket)
            der = late.sock.getpeercert(binary_form=True)
            assert der == ssl.PEM_cert_to_DER_cert((house.folder / "relay.pem").read_text())
            assert late.noop()[0] == 250
        assert early.noop()[0] == 250
    # A file that is spoiled takes nothing away.
    (house.folder / "relay.pem").write_bytes(b"")
    assert fingerprint() == after
    with smtplib.SMTP_SSL("localhost", house.ports["implicit"], timeout=60, context=context) as client:
        assert client.noop()[0] == 250
