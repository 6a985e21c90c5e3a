"""Behind somebody who speaks for the client: HAProxy with PROXY headers, with and without TLS; XCLIENT by swaks."""

import smtplib
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from rig.mail import message
from rig.relay import Relay, free_port
from rig.sink import Sink

pytestmark = pytest.mark.peer

Program = Callable[[str], str]

# Any address of 127.0.0.0/8 is ours on Linux: so a client comes from one that may relay, or from one that may not.
FRIEND, STRANGER = "127.0.0.9", "127.0.0.10"


@dataclass(frozen=True)
class Proxied:
    """A relay with listeners for PROXY headers, and one for XCLIENT; only FRIEND may relay."""

    relay: Relay
    sink: Sink
    clear: int
    implicit: int
    ca: Path

    def arrived(self) -> bytes:
        (received,) = self.sink.wait()
        self.sink.messages.clear()
        return received.octets

    def logged(self, *words: str, seconds: float = 20) -> bool:
        """Whether a line of the log has all these words, or has them soon: it is written a moment later."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if any(all(word in line for word in words) for line in self.relay.said().splitlines()):
                return True
            time.sleep(0.05)  # another process: there is nothing else to wait on
        return False


@pytest.fixture(scope="module")
def proxied(tmp_path_factory: pytest.TempPathFactory, certificate: tuple[Path, Path]) -> Iterator[Proxied]:
    clear, implicit = free_port(), free_port()
    settings = {
        "service": {"log": {"level": "debug"}},
        "general": {
            "certificates": [{"file": str(certificate[0]), "key": str(certificate[1])}],
            "listeners": [
                {"address": f"127.0.0.1:{clear}", "proxy_protocol": True},
                {"address": f"127.0.0.1:{implicit}", "proxy_protocol": True, "tls": "implicit"},
            ],
        },
        "access": {
            "relay": {"mode": "only the list", "list": [FRIEND, "192.0.2.7"]},
            "proxies": ["127.0.0.1"],
            "xclient": ["127.0.0.1"],
        },
    }
    folder = tmp_path_factory.mktemp("proxied")
    with Sink() as sink, Relay(folder, settings, next_hop=sink.port) as relay:
        yield Proxied(relay, sink, clear, implicit, certificate[0])
        assert "InternalError" not in relay.said()


@pytest.fixture(autouse=True)
def _forget(proxied: Proxied) -> None:
    proxied.sink.messages.clear()


class HAProxy:
    """HAProxy before the relay: a port of its own for each listener and version of the PROXY protocol."""

    def __init__(self, program: str, folder: Path, proxied: Proxied) -> None:
        self.ports = {
            (way, version): free_port()
            for way in ("clear", "implicit")
            for version in ("send-proxy", "send-proxy-v2")
        }
        servers = {"clear": proxied.clear, "implicit": proxied.implicit}
        config = folder / "haproxy.cfg"
        text = "defaults\n mode tcp\n timeout connect 5s\n timeout client 60s\n timeout server 60s\n"
        for (way, version), port in self.ports.items():
            text += f"listen {way}-{version}\n bind 127.0.0.1:{port}\n"
            text += f" server relay 127.0.0.1:{servers[way]} {version} check inter 200ms\n"
        config.write_text(text)
        self._log = folder / "haproxy.log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [program, "-db", "-f", str(config)], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def wait(self) -> None:
        end = time.monotonic() + 20
        for port in self.ports.values():
            while time.monotonic() < end:
                try:
                    socket.create_connection(("127.0.0.1", port), 2).close()
                    break
                except OSError:
                    assert self._process.poll() is None, self._log.read_text()
                    time.sleep(0.05)  # another process: there is nothing else to wait on

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(20)


@pytest.fixture(scope="module")
def haproxy(proxied: Proxied, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HAProxy]:
    from rig.programs import find_program

    one = HAProxy(str(find_program("haproxy")), tmp_path_factory.mktemp("haproxy"), proxied)
    try:
        one.wait()
        yield one
    finally:
        one.stop()


@pytest.mark.needs("haproxy")
@pytest.mark.parametrize("version", ["send-proxy", "send-proxy-v2"])
class TestHAProxy:
    def test_the_client_s_own_address_decides(self, proxied: Proxied, haproxy: HAProxy, version: str) -> None:
        port = haproxy.ports["clear", version]
        with smtplib.SMTP("127.0.0.1", port, source_address=(FRIEND, 0)) as client:
            client.sendmail("a@example.com", ["b@example.net"], message("text"))
        assert f"([{FRIEND}])".encode() in proxied.arrived().split(b"\r\n", 1)[0]
        assert proxied.logged("ClientIntroduced", "proxy=127.0.0.1", f"client={FRIEND}", "how=PROXY")
        with (
            smtplib.SMTP("127.0.0.1", port, source_address=(STRANGER, 0)) as client,
            pytest.raises(smtplib.SMTPRecipientsRefused) as refused,
        ):
            client.sendmail("a@example.com", ["b@example.net"], message("text"))
        assert refused.value.recipients["b@example.net"][0] == 550

    def test_starttls_behind_it(self, proxied: Proxied, haproxy: HAProxy, version: str) -> None:
        context = ssl.create_default_context(cafile=str(proxied.ca))
        with smtplib.SMTP("localhost", haproxy.ports["clear", version], source_address=(FRIEND, 0)) as client:
            client.starttls(context=context)
            client.sendmail("a@example.com", ["b@example.net"], message("text"))
        assert b" with ESMTPS id " in proxied.arrived()

    def test_tls_from_the_first_octet_behind_it(self, proxied: Proxied, haproxy: HAProxy, version: str) -> None:
        """The header comes in the clear, then TLS with the client itself."""
        context = ssl.create_default_context(cafile=str(proxied.ca))
        port = haproxy.ports["implicit", version]
        for _ in range(20):  # header and handshake may come together or not
            with smtplib.SMTP_SSL("127.0.0.1", port, context=context, source_address=(FRIEND, 0)) as client:
                client.noop()
        with smtplib.SMTP_SSL("127.0.0.1", port, context=context, source_address=(FRIEND, 0)) as client:
            client.sendmail("a@example.com", ["b@example.net"], message("text"))
        octets = proxied.arrived()
        assert b" with ESMTPS id " in octets
        assert f"([{FRIEND}])".encode() in octets.split(b"\r\n", 1)[0]

    def test_its_checks_are_no_clients(self, proxied: Proxied, haproxy: HAProxy, version: str) -> None:
        """Every 200 ms it looks whether we are there; that is nobody's session and nobody's fault."""
        assert "SessionRefused" not in proxied.relay.said()
        assert "HandshakeFailed" not in proxied.relay.said()


class TestWithoutAHeader:
    def test_words_first_are_turned_away(self, proxied: Proxied) -> None:
        with socket.create_connection(("127.0.0.1", proxied.clear), 30) as connection:
            connection.sendall(b"EHLO client.example\r\nMAIL FROM:<a@example.com>\r\n")
            assert _rest(connection) == b""
        assert proxied.logged("SessionRefused", "client=127.0.0.1", f"listener=127.0.0.1:{proxied.clear}")

    def test_a_header_where_none_belongs(self, proxied: Proxied) -> None:
        """A client at another listener cannot make itself somebody else."""
        with socket.create_connection(("127.0.0.1", proxied.relay.port), 30) as connection:
            connection.sendall(f"PROXY TCP4 {FRIEND} 127.0.0.1 40000 25\r\n".encode())
            connection.sendall(b"EHLO x\r\nMAIL FROM:<a@example.com>\r\nRCPT TO:<b@example.net>\r\nQUIT\r\n")
            heard = _rest(connection)
        assert b"500 5.3.3 Unrecognized command" in heard
        assert b"550 5.7.1 Unable to relay" in heard

    def test_a_proxy_that_is_not_on_the_list(self, proxied: Proxied) -> None:
        with socket.create_connection(("127.0.0.1", proxied.clear), 30, source_address=(STRANGER, 0)) as connection:
            connection.sendall(f"PROXY TCP4 {FRIEND} 127.0.0.1 40000 25\r\n".encode())
            assert _rest(connection) == b""
        assert proxied.logged("SessionRefused", f"client={STRANGER}")


@pytest.mark.needs("swaks")
class TestXclient:
    def _send(self, proxied: Proxied, program: Program, *options: str, local: str = "127.0.0.1") -> str:
        done = subprocess.run(
            (
                *(program("swaks"), "--server", f"127.0.0.1:{proxied.relay.port}", "--local-interface", local),
                *("--ehlo", "filter.example", "--from", "a@example.com", "--to", "b@example.net", *options),
            ),
            capture_output=True,
            timeout=60,
        )
        return (done.stdout + done.stderr).decode(errors="replace")

    def test_the_introduced_client_decides(self, proxied: Proxied, program: Program) -> None:
        options = ("--xclient-addr", "192.0.2.7", "--xclient-name", "printer.example", "--xclient-helo", "printer")
        said = self._send(proxied, program, *options)
        assert "250-XCLIENT NAME ADDR" in said
        assert "250 2.6.0" in said
        first = proxied.arrived().split(b"\r\n", 1)[0]
        assert b"[192.0.2.7]" in first
        assert b"127.0.0.1" not in first
        assert proxied.logged("ClientIntroduced", "proxy=127.0.0.1", "client=192.0.2.7", "how=XCLIENT")

    def test_a_stranger_introduced_stays_one(self, proxied: Proxied, program: Program) -> None:
        said = self._send(proxied, program, "--xclient-addr", "192.0.2.8")
        assert "550 5.7.1 Unable to relay for b@example.net" in said

    def test_a_login_introduced_may_relay(self, proxied: Proxied, program: Program) -> None:
        self._send(proxied, program, "--xclient-addr", "192.0.2.8", "--xclient-login", "ann")
        assert b" with ESMTPA id " in proxied.arrived()

    def test_not_for_others(self, proxied: Proxied, program: Program) -> None:
        """Who is not on the list is not told of XCLIENT, and refused when he knows of it."""
        said = self._send(proxied, program, "--xclient-addr", "192.0.2.7", "--xclient-optional", local=STRANGER)
        assert "250-XCLIENT" not in said
        assert "550 5.7.1 Unable to relay" in said
        with socket.create_connection(
            ("127.0.0.1", proxied.relay.port), 30, source_address=(STRANGER, 0)
        ) as connection:
            connection.sendall(b"EHLO x\r\nXCLIENT ADDR=192.0.2.7\r\nQUIT\r\n")
            assert b"\r\n550 5.7.0 XCLIENT is not for this client\r\n" in _rest(connection)


def _rest(connection: socket.socket) -> bytes:
    heard = b""
    try:
        while octets := connection.recv(1 << 16):
            heard += octets
    except ConnectionError:
        pass
    return heard
