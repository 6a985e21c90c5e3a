"""Attacks on TLS: commands injected before it, TLS stripped, too old or cut off; what require_tls does about it."""

import base64
import re
import smtplib
import socket
import ssl
import struct
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rig.door import certificate_pem
from rig.relay import Relay, free_port
from rig.sink import Sink

USER, PASSWORD = "ann", "correct horse battery"
_LOGIN = base64.b64encode(f"\0{USER}\0{PASSWORD}".encode())


class Wire:
    """A client's socket: says octets, hears replies."""

    def __init__(self, port: int) -> None:
        self.socket: socket.socket = socket.create_connection(("127.0.0.1", port), 30)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._heard = b""

    def __enter__(self) -> "Wire":
        return self

    def __exit__(self, *exception: object) -> None:
        self.socket.close()

    def hear(self) -> bytes:
        """One reply, with all its lines; b"" when the server has closed."""
        while not (reply := re.match(rb"(?:\d{3}-.*\r\n)*\d{3} .*\r\n", self._heard)):
            try:
                octets = self.socket.recv(1 << 16)
            except ConnectionError:
                return b""
            if not octets:
                return b""
            self._heard += octets
        self._heard = self._heard[reply.end() :]
        return reply.group()

    def say(self, *lines: bytes) -> bytes:
        """The lines in one packet; the reply to the last of them."""
        self.socket.sendall(b"".join(line + b"\r\n" for line in lines))
        reply = b""
        for _ in lines:
            reply = self.hear()
        return reply

    def start_tls(self, **limits: ssl.TLSVersion) -> None:
        self.socket = client_context(**limits).wrap_socket(self.socket)

    def cut(self) -> None:
        """FIN without TLS's goodbye."""
        self.socket.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()


def client_context(
    *, oldest: ssl.TLSVersion = ssl.TLSVersion.TLSv1_2, newest: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3
) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version, context.maximum_version = oldest, newest
    if newest < ssl.TLSVersion.TLSv1_2:
        context.set_ciphers("ALL:@SECLEVEL=0")
    return context


class Doors:
    """A relay with a listener for each question, and the next hop."""

    def __init__(self, relay: Relay, sink: Sink, ports: dict[str, int]) -> None:
        self.relay = relay
        self.sink = sink
        self.ports = ports

    def open(self, door: str) -> Wire:
        """A connection to the listener; its banner has been heard, unless TLS comes first."""
        wire = Wire(self.ports[door])
        if door != "implicit":
            assert wire.hear().startswith(b"220 ")
        return wire

    def secured(self, door: str = "applications") -> Wire:
        """A connection with TLS, after EHLO."""
        wire = self.open(door)
        wire.say(b"EHLO client.example")
        assert wire.say(b"STARTTLS").startswith(b"220 ")
        wire.start_tls()
        assert wire.say(b"EHLO client.example").startswith(b"250-")
        return wire

    def wait_for_event(self, *words: str) -> str:
        """The last line of the log with all these words, as soon as there is one."""
        for _ in range(400):
            for line in reversed(self.relay.said().splitlines()):
                if all(word in line for word in words):
                    return line
            threading.Event().wait(0.05)  # another process: there is nothing else to wait on
        raise AssertionError(f"nothing in the log with {words}:\n{self.relay.said()[-3000:]}")

    def messages(self) -> int:
        """How many messages have ever been accepted."""
        return self.relay.said().count(" MessageAccepted ")


@pytest.fixture(scope="module")
def doors(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Doors]:
    folder = tmp_path_factory.mktemp("doors")
    certificate = folder / "certificate.pem"
    certificate.write_bytes(certificate_pem())
    rules: dict[str, dict[str, object]] = {
        "implicit": {"tls": "implicit"},
        "old devices": {"profile": "old devices"},
        "TLS 1.3": {"min_tls": "1.3"},
        "login": {"require_tls": "login", "require_login": True},
        "mail": {"require_tls": "mail"},
        "off": {"tls": "off"},
    }
    ports = {name: free_port() for name in rules}
    settings = {
        "service": {"log": {"level": "debug"}},
        "general": {
            "certificates": [{"file": str(certificate)}],
            "listeners": [{"address": f"127.0.0.1:{ports[name]}", **rule} for name, rule in rules.items()],
        },
        "access": {"authentication": {"accounts": str(folder / "accounts.json")}},
    }
    with Sink() as sink, Relay(folder / "relay", settings, next_hop=sink.port) as relay:
        added = relay.command("user", "add", USER, "--password-stdin", input=PASSWORD + "\n")
        assert added.returncode == 0, added.stderr
        yield Doors(relay, sink, {"applications": relay.port, **ports})
        assert "InternalError" not in relay.said()


_INJECTED = (b"EHLO evil.example", b"MAIL FROM:<evil@example.com>", b"RCPT TO:<b@example.net>", b"DATA")


class TestInjection:
    """Commands that an attacker puts before TLS, in the clear, to be carried out within it (CVE-2011-0411)."""

    def test_in_the_packet_of_starttls(self, doors: Doors) -> None:
        with doors.open("applications") as wire:
            wire.say(b"EHLO client.example")
            wire.socket.sendall(b"\r\n".join((b"STARTTLS", *_INJECTED, b"")))
            assert wire.hear() == b"554 5.5.1 Commands sent before TLS was started\r\n"
            assert wire.hear() == b""
        doors.wait_for_event("HandshakeFailed", "commands before TLS")

    def test_in_a_packet_of_its_own(self, doors: Doors) -> None:
        """Too late for the first test, too early for TLS: it stands where the handshake is expected."""
        with doors.open("applications") as wire:
            wire.say(b"EHLO client.example")
            assert wire.say(b"STARTTLS").startswith(b"220 ")
            wire.socket.sendall(b"\r\n".join((*_INJECTED, b"")))
            with pytest.raises((ssl.SSLError, OSError)):
                wire.start_tls()

    def test_sent_at_once_in_two_packets(self, doors: Doors) -> None:
        """Whichever comes first, the 220 or the second packet: nobody carries it out."""
        for _ in range(20):
            with doors.open("applications") as wire:
                wire.say(b"EHLO client.example")
                wire.socket.sendall(b"STARTTLS\r\n")
                wire.socket.sendall(b"MAIL FROM:<evil@example.com>\r\n")
                if wire.hear().startswith(b"220 "):
                    with pytest.raises((ssl.SSLError, OSError)):
                        wire.start_tls()
                else:
                    assert wire.hear() == b""
        assert "evil@example.com" not in doors.relay.said()

    @pytest.mark.parametrize("early", [b"\n", b"\r\n", b"\0", b"N"])
    def test_a_single_octet_is_too_many(self, doors: Doors, early: bytes) -> None:
        with doors.open("applications") as wire:
            wire.say(b"EHLO client.example")
            wire.socket.sendall(b"STARTTLS\r\n" + early)
            assert wire.hear().startswith(b"554 ")
            assert wire.hear() == b""

    def test_a_handshake_that_comes_with_starttls(self, doors: Doors) -> None:
        """A client has to wait for the 220 (RFC 3207 §4): what came before it may be anybody's."""
        into, out = ssl.MemoryBIO(), ssl.MemoryBIO()
        early = client_context().wrap_bio(into, out)
        with pytest.raises(ssl.SSLWantReadError):
            early.do_handshake()
        with doors.open("applications") as wire:
            wire.say(b"EHLO client.example")
            wire.socket.sendall(b"STARTTLS\r\n" + out.read())
            assert wire.hear().startswith(b"554 ")

    def test_what_was_said_before_is_forgotten(self, doors: Doors) -> None:
        """Hello, sender and login: all of it came in the clear (RFC 3207 §4.2)."""
        with doors.open("applications") as wire:
            wire.say(b"EHLO before.example")
            assert wire.say(b"AUTH PLAIN " + _LOGIN).startswith(b"235 ")
            assert wire.say(b"STARTTLS").startswith(b"220 ")
            wire.start_tls()
            assert wire.say(b"MAIL FROM:<a@example.com>").startswith(b"503 ")
            # A second login is possible: so the first one is gone.
            assert b"AUTH " in wire.say(b"EHLO after.example")
            assert wire.say(b"AUTH PLAIN " + _LOGIN).startswith(b"235 ")


class TestDowngrade:
    """TLS that is too old, or not there because somebody on the way took it out."""

    @pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
    def test_old_versions_are_refused(self, doors: Doors, version: ssl.TLSVersion) -> None:
        with doors.open("applications") as wire:
            wire.say(b"EHLO client.example")
            assert wire.say(b"STARTTLS").startswith(b"220 ")
            with pytest.raises((ssl.SSLError, OSError)):
                wire.start_tls(oldest=version, newest=version)
        doors.wait_for_event("HandshakeFailed", "PROTOCOL")

    @pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
    def test_but_taken_for_old_devices(self, doors: Doors, version: ssl.TLSVersion) -> None:
        with doors.open("old devices") as wire:
            wire.say(b"EHLO client.example")
            assert wire.say(b"STARTTLS").startswith(b"220 ")
            wire.start_tls(oldest=version, newest=version)
            assert wire.say(b"EHLO client.example").startswith(b"250-")
        name = {ssl.TLSVersion.TLSv1: "TLSv1", ssl.TLSVersion.TLSv1_1: "TLSv1.1"}[version]
        doors.wait_for_event("SessionSecured", f"protocol={name} ")

    def test_min_tls_of_a_listener(self, doors: Doors) -> None:
        with doors.open("TLS 1.3") as wire:
            wire.say(b"EHLO client.example")
            wire.say(b"STARTTLS")
            with pytest.raises((ssl.SSLError, OSError)):
                wire.start_tls(newest=ssl.TLSVersion.TLSv1_2)

    def test_a_stripped_offer_gives_no_password_away(self, doors: Doors) -> None:
        """Without TLS the listener offers no login, so a client that would log in has nothing to answer."""
        with MiddleMan(doors.ports["login"]) as between, smtplib.SMTP("127.0.0.1", between.port) as client:
            client.ehlo()
            assert not client.has_extn("starttls")
            with pytest.raises(smtplib.SMTPNotSupportedError):
                client.login(USER, PASSWORD)
            with pytest.raises(smtplib.SMTPSenderRefused) as refused:
                client.sendmail("a@example.com", ["b@example.net"], b"Subject: x\r\n\r\nx\r\n")
            assert refused.value.smtp_code == 530
            assert b"STARTTLS" in refused.value.smtp_error  # type: ignore[operator]
            # One that logs in without looking is refused, right password or not, and told why.
            assert client.docmd("AUTH", "PLAIN " + _LOGIN.decode())[0] == 538
        assert PASSWORD.encode() not in between.seen

    def test_a_stripped_offer_lets_no_mail_through_where_mail_needs_tls(self, doors: Doors) -> None:
        with MiddleMan(doors.ports["mail"]) as between, smtplib.SMTP("127.0.0.1", between.port) as client:
            with pytest.raises(smtplib.SMTPSenderRefused) as refused:
                client.sendmail("a@example.com", ["b@example.net"], b"Subject: x\r\n\r\nx\r\n")
            assert refused.value.smtp_code == 530
            assert b"STARTTLS" in refused.value.smtp_error  # type: ignore[operator]
        assert b"Subject" not in between.seen

    def test_a_stripped_command_is_an_error_of_its_own(self, doors: Doors) -> None:
        """STARTTLS itself made something else on the way: the client hears an error, not a promise."""
        with doors.open("applications") as wire:
            assert wire.say(b"XTARTTLS").startswith(b"500 ")

    def test_tls_is_not_offered_where_it_is_off(self, doors: Doors) -> None:
        with doors.open("off") as wire:
            assert b"STARTTLS" not in wire.say(b"EHLO client.example")
            assert wire.say(b"STARTTLS").startswith(b"454 ")


class TestTruncation:
    """TLS whose end was cut off: whatever had begun has not happened (RFC 5321 §4.1.1.4)."""

    @pytest.mark.parametrize("end", [Wire.cut, Wire.reset])
    @pytest.mark.parametrize(
        "half",
        [
            (b"DATA", b"Subject: half\r\n\r\nThe first half"),
            (b"DATA", b"Subject: half\r\n\r\nAll but the last line end\r\n."),
            (b"DATA", b"Subject: half\r\n\r\nAll but the last octet\r\n.\r"),
            (b"BDAT 100 LAST\r\nSubject: half", b"\r\n\r\nhalf"),
            (b"BDAT 13\r\nSubject: half", b"BDAT 4\r\n\r\n\r\n"),
        ],
        ids=["half", "no CR LF", "no LF", "chunk", "no last chunk"],
    )
    def test_in_a_message(self, doors: Doors, half: tuple[bytes, bytes], end: Callable[[Wire], None]) -> None:
        before = doors.messages()
        with doors.secured() as wire:
            wire.say(b"MAIL FROM:<a@example.com>", b"RCPT TO:<b@example.net>")
            begin, rest = half
            wire.socket.sendall(begin if begin.startswith(b"BDAT") else begin + b"\r\n")
            if not begin.startswith(b"BDAT 100"):
                assert wire.hear()[:1] in b"23"
            wire.socket.sendall(rest)
            end(wire)
        with doors.secured() as wire:
            wire.say(b"QUIT")
        assert doors.messages() == before
        assert all(b"half" not in one.octets for one in doors.sink.messages)  # type: ignore[attr-defined]

    def test_in_a_command(self, doors: Doors) -> None:
        """RCPT TO:<b@example.net is not RCPT TO:<b@example.network>."""
        with doors.secured() as wire:
            wire.say(b"MAIL FROM:<a@example.com>")
            wire.socket.sendall(b"RCPT TO:<truncated@example.net>")
            wire.cut()
            assert wire.hear() == b""
        assert "truncated@" not in doors.relay.said()

    def test_after_a_message_it_stays(self, doors: Doors) -> None:
        """What got its 250 is kept, however the connection ends."""
        with doors.secured() as wire:
            wire.say(b"MAIL FROM:<a@example.com>", b"RCPT TO:<b@example.net>", b"DATA")
            assert wire.say(b"Subject: whole\r\n\r\nx\r\n.").startswith(b"250 2.6.0")
            wire.reset()
        assert doors.sink.wait(1)

    def test_damage_ends_the_session(self, doors: Doors) -> None:
        """A record that somebody changed on the way is not read at all."""
        with doors.secured() as wire:
            wire.say(b"MAIL FROM:<a@example.com>", b"RCPT TO:<b@example.net>", b"DATA")
            plain = socket.socket(fileno=wire.socket.detach())
            with plain:
                plain.sendall(b"\x17\x03\x03\x00\x20" + bytes(32))
                plain.settimeout(30)
                try:
                    while plain.recv(1 << 16):
                        pass  # an alert
                except ConnectionError:
                    pass
        with doors.secured() as wire:
            assert wire.say(b"NOOP").startswith(b"250 ")


class TestTheWrongDoor:
    """TLS where words are expected, and words where TLS is."""

    def test_words_at_a_listener_for_tls(self, doors: Doors) -> None:
        with doors.open("implicit") as wire:
            wire.socket.sendall(b"EHLO client.example\r\nMAIL FROM:<a@example.com>\r\n")
            try:
                heard = wire.socket.recv(1 << 16)
            except ConnectionError:
                heard = b""
            assert not re.match(rb"\d{3}[ -]", heard)
        doors.wait_for_event("HandshakeFailed")

    def test_tls_at_a_listener_for_words(self, doors: Doors) -> None:
        with doors.open("applications") as wire:
            wire.socket.sendall(bytes.fromhex("16030100b8010000b40303") + bytes(173))
            assert wire.hear() == b"500 5.5.1 TLS handshake where a command was expected: use STARTTLS\r\n"
            assert wire.hear() == b""

    def test_starttls_within_implicit_tls(self, doors: Doors) -> None:
        with doors.open("implicit") as wire:
            wire.start_tls()
            assert wire.hear().startswith(b"220 ")
            assert b"STARTTLS" not in wire.say(b"EHLO client.example")
            assert wire.say(b"STARTTLS").startswith(b"503 ")


class MiddleMan:
    """Somebody on the way, who takes STARTTLS out of what the server offers; `seen` is all the client said."""

    def __init__(self, port: int) -> None:
        self._server = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.seen = b""
        self._thread = threading.Thread(target=self._work)

    def __enter__(self) -> "MiddleMan":
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._thread.join(30)
        self._listener.close()

    def _work(self) -> None:
        client, _ = self._listener.accept()
        with client, socket.create_connection(("127.0.0.1", self._server), 30) as server:
            answers = threading.Thread(target=self._answers, args=(server, client))
            answers.start()
            while octets := client.recv(1 << 16):
                self.seen += octets
                server.sendall(octets)
            server.shutdown(socket.SHUT_WR)
            answers.join(30)

    @staticmethod
    def _answers(server: socket.socket, client: socket.socket) -> None:
        with server.makefile("rb") as lines:
            for line in lines:
                client.sendall(line.replace(b"STARTTLS", b"XXXXXXXX") if line.startswith(b"250-") else line)


def test_the_certificate_is_not_shown_to_words(doors: Doors, tmp_path: Path) -> None:
    """Nothing of the key or the accounts is in what the relay says."""
    said = doors.relay.said()
    assert "PRIVATE KEY" not in said
    assert PASSWORD not in said
    assert _LOGIN.decode() not in said
