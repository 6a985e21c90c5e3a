"""Clients that people really use log in, in every way they can; and go on in peace when they are refused."""

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

USER, PASSWORD = "ann", "pass word+=\\$:x"
PLAIN_PASSWORD = "correct-horse-battery"  # for programs whose options or configuration files do not take the other


@dataclass(frozen=True)
class Open:
    """A relay that takes mail for remote domains from nobody but who has logged in, and the next hop."""

    relay: Relay
    sink: Sink
    implicit: int
    ca: Path
    client_certificate: Path

    def arrived(self) -> bytes:
        """The one message that has come to the next hop."""
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
def opened(tmp_path_factory: pytest.TempPathFactory, certificate: tuple[Path, Path]) -> Iterator[Open]:
    folder = tmp_path_factory.mktemp("logins")
    implicit = free_port()
    device = make_certificate(folder / "device.pem", "printer7")
    settings = {
        "service": {"log": {"level": "debug"}},
        "general": {
            "certificates": [{"file": str(certificate[0]), "key": str(certificate[1])}],
            "listeners": [{"address": f"127.0.0.1:{implicit}", "tls": "implicit"}],
        },
        "access": {
            "relay": {"mode": "only the list", "list": []},
            "authentication": {
                "accounts": str(folder / "accounts.json"),
                "client_certificates": [{"account": "printer7", "file": str(device)}],
            },
        },
        # Nobody has to wait here for the answers that come later and later.
        "limits": {"logins": {"longest_delay": 0}},
    }
    with Sink() as sink, Relay(folder / "relay", settings, next_hop=sink.port) as relay:
        for user, password in ((USER, PASSWORD), ("bob", PLAIN_PASSWORD)):
            added = relay.command("user", "add", user, "--password-stdin", input=password + "\n")
            assert added.returncode == 0, added.stderr
        yield Open(relay, sink, implicit, certificate[0], device)
        assert "InternalError" not in relay.said()
        assert PASSWORD not in relay.said()
        assert PLAIN_PASSWORD not in relay.said()


@pytest.fixture(autouse=True)
def _forget(opened: Open) -> None:
    opened.sink.messages.clear()


def make_certificate(file: Path, name: str) -> Path:
    """A self-signed certificate for a client, with its key, in one PEM file."""
    done = subprocess.run(
        (
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"),
            *("-keyout", f"{file}.key", "-out", str(file), "-days", "30", "-subj", f"/CN={name}"),
        ),
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr
    file.write_bytes(file.read_bytes() + Path(f"{file}.key").read_bytes())
    return file


def run(*command: str, octets: bytes = b"") -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command, input=octets, capture_output=True, timeout=120)
    return subprocess.CompletedProcess(
        command, done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")
    )


def by(octets: bytes) -> bytes:
    """How the message came in: the protocol of its first Received field (RFC 3848)."""
    return octets.split(b" with ", 1)[1].split(b" ", 1)[0]


class TestSmtplib:
    def _tls(self, opened: Open) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(opened.ca))

    def test_in_the_clear_from_this_computer(self, opened: Open) -> None:
        with smtplib.SMTP(opened.relay.host, opened.relay.port) as client:
            client.login(USER, PASSWORD)
            client.sendmail("ann@example.com", ["bob@example.net"], message("text"))
        assert by(opened.arrived()) == b"ESMTPA"

    @pytest.mark.parametrize("initial", [True, False])
    @pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN"])
    def test_each_mechanism(self, opened: Open, mechanism: str, initial: bool) -> None:
        with smtplib.SMTP(opened.relay.host, opened.relay.port) as client:
            client.starttls(context=self._tls(opened))
            client.ehlo()
            assert mechanism in client.esmtp_features["auth"].split()
            client.user, client.password = USER, PASSWORD
            step = client.auth_plain if mechanism == "PLAIN" else client.auth_login
            assert client.auth(mechanism, step, initial_response_ok=initial)[0] == 235
            client.sendmail("ann@example.com", ["bob@example.net"], message("text"))
        assert by(opened.arrived()) == b"ESMTPSA"
        assert opened.logged("LoginSucceeded", f"user={USER}", f"mechanism={mechanism}")

    def test_implicit_tls(self, opened: Open) -> None:
        with smtplib.SMTP_SSL("127.0.0.1", opened.implicit, context=self._tls(opened)) as client:
            client.login(USER, PASSWORD)
            client.sendmail("ann@example.com", ["bob@example.net"], message("text"))
        assert by(opened.arrived()) == b"ESMTPSA"

    def test_a_wrong_password_closes_nothing(self, opened: Open) -> None:
        with smtplib.SMTP(opened.relay.host, opened.relay.port) as client:
            with pytest.raises(smtplib.SMTPAuthenticationError) as refused:
                client.login(USER, "wrong")
            assert refused.value.smtp_code == 535
            with pytest.raises(smtplib.SMTPRecipientsRefused):
                client.sendmail("ann@example.com", ["bob@example.net"], message("text"))
            client.login(USER, PASSWORD)
            client.sendmail("ann@example.com", ["bob@example.net"], message("text"))
        assert opened.arrived()
        assert opened.logged("LoginFailed", f"user={USER}")

    def test_unknown_users_hear_the_same(self, opened: Open) -> None:
        heard = set()
        for user in (USER, "nobody"):
            with smtplib.SMTP(opened.relay.host, opened.relay.port) as client:
                with pytest.raises(smtplib.SMTPAuthenticationError) as refused:
                    client.login(user, "wrong")
                heard.add((refused.value.smtp_code, refused.value.smtp_error))
        assert len(heard) == 1

    def test_a_client_certificate(self, opened: Open) -> None:
        context = self._tls(opened)
        context.load_cert_chain(opened.client_certificate)
        with smtplib.SMTP("localhost", opened.relay.port) as client:
            client.starttls(context=context)
            client.ehlo()
            assert "EXTERNAL" in client.esmtp_features["auth"].split()
            assert client.docmd("AUTH", "EXTERNAL =")[0] == 235
            client.sendmail("printer7@example.com", ["bob@example.net"], message("text"))
        assert by(opened.arrived()) == b"ESMTPSA"
        assert opened.logged("LoginSucceeded", "user=printer7", "mechanism=EXTERNAL")


@pytest.mark.needs("curl")
class TestCurl:
    def _send(
        self, opened: Open, program: Program, tmp_path: Path, *options: str, url: str = ""
    ) -> subprocess.CompletedProcess[str]:
        file = tmp_path / "message"
        file.write_bytes(message("text"))
        url = url or f"smtp://localhost:{opened.relay.port}/client.example"
        return run(
            *(program("curl"), "--silent", "--show-error", "--verbose", "--noproxy", "*", "--ipv4", url),
            *("--mail-from", "ann@example.com", "--mail-rcpt", "bob@example.net", "--upload-file", str(file)),
            *options,
        )

    @pytest.mark.parametrize("tls", [False, True], ids=["clear", "STARTTLS"])
    @pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN"])
    def test_each_mechanism(
        self, opened: Open, program: Program, tmp_path: Path, mechanism: str, tls: bool
    ) -> None:
        options = ["--user", f"{USER}:{PASSWORD}", "--login-options", f"AUTH={mechanism}"]
        if tls:
            options += ["--ssl-reqd", "--cacert", str(opened.ca)]
        done = self._send(opened, program, tmp_path, *options)
        assert done.returncode == 0, done.stderr
        assert f"> AUTH {mechanism}" in done.stderr
        assert by(opened.arrived()) == (b"ESMTPSA" if tls else b"ESMTPA")

    def test_implicit_tls(self, opened: Open, program: Program, tmp_path: Path) -> None:
        url = f"smtps://localhost:{opened.implicit}/client.example"
        options = ("--user", f"{USER}:{PASSWORD}", "--cacert", str(opened.ca))
        done = self._send(opened, program, tmp_path, *options, url=url)
        assert done.returncode == 0, done.stderr
        assert by(opened.arrived()) == b"ESMTPSA"

    def test_a_wrong_password(self, opened: Open, program: Program, tmp_path: Path) -> None:
        done = self._send(opened, program, tmp_path, "--user", f"{USER}:wrong")
        assert done.returncode == 67, done.stderr  # CURLE_LOGIN_DENIED
        assert "< 535 5.7.3 " in done.stderr

    def test_a_client_certificate(self, opened: Open, program: Program, tmp_path: Path) -> None:
        options = ["--ssl-reqd", "--cacert", str(opened.ca), "--cert", str(opened.client_certificate)]
        options += ["--user", "printer7:", "--login-options", "AUTH=EXTERNAL"]
        done = self._send(opened, program, tmp_path, *options)
        assert done.returncode == 0, done.stderr
        assert "> AUTH EXTERNAL" in done.stderr
        assert by(opened.arrived()) == b"ESMTPSA"


@pytest.mark.needs("swaks", "net-ssleay")
class TestSwaks:
    def _send(
        self, opened: Open, program: Program, *options: str, port: int = 0
    ) -> subprocess.CompletedProcess[str]:
        server = ("--server", f"127.0.0.1:{port or opened.relay.port}", "--ehlo", "client.example")
        return run(program("swaks"), *server, "--from", "ann@example.com", "--to", "bob@example.net", *options)

    @pytest.mark.parametrize("tls", [False, True], ids=["clear", "STARTTLS"])
    @pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN"])
    def test_each_mechanism(self, opened: Open, program: Program, mechanism: str, tls: bool) -> None:
        login = ("--auth", mechanism, "--auth-user", "bob", "--auth-password", PLAIN_PASSWORD)
        done = self._send(opened, program, *login, *(("--tls",) if tls else ()))
        assert done.returncode == 0, done.stdout
        assert by(opened.arrived()) == (b"ESMTPSA" if tls else b"ESMTPA")

    def test_implicit_tls(self, opened: Open, program: Program) -> None:
        login = ("--auth", "PLAIN", "--auth-user", "bob", "--auth-password", PLAIN_PASSWORD)
        done = self._send(opened, program, "--tls-on-connect", *login, port=opened.implicit)
        assert done.returncode == 0, done.stdout
        assert by(opened.arrived()) == b"ESMTPSA"

    @pytest.mark.parametrize("mechanism", ["CRAM-MD5", "DIGEST-MD5"])
    def test_what_is_broken_is_not_offered(self, opened: Open, program: Program, mechanism: str) -> None:
        login = ("--auth", mechanism, "--auth-user", "bob", "--auth-password", PLAIN_PASSWORD)
        done = self._send(opened, program, *login)
        assert done.returncode == 28, done.stdout  # "Host does not advertise" it
        assert mechanism not in done.stdout.partition("QUIT")[0].partition("EHLO")[2]

    def test_a_wrong_password(self, opened: Open, program: Program) -> None:
        login = ("--auth", "PLAIN", "--auth-user", "bob", "--auth-password", "wrong")
        done = self._send(opened, program, *login)
        assert done.returncode == 28
        assert "<** 535 5.7.3 Authentication unsuccessful." in done.stdout

    def test_a_client_certificate_alone_is_a_login(self, opened: Open, program: Program) -> None:
        """Most devices that can show a certificate know nothing of AUTH EXTERNAL."""
        certificate = str(opened.client_certificate)
        done = self._send(opened, program, "--tls", "--tls-cert", certificate, "--tls-key", certificate)
        assert done.returncode == 0, done.stdout
        assert by(opened.arrived()) == b"ESMTPSA"
        assert opened.logged("LoginSucceeded", "user=printer7", "mechanism=certificate")

    def test_a_stranger_s_certificate_is_none(self, opened: Open, program: Program, tmp_path: Path) -> None:
        certificate = str(make_certificate(tmp_path / "stranger.pem", "printer7"))
        done = self._send(opened, program, "--tls", "--tls-cert", certificate, "--tls-key", certificate)
        assert "235 " not in done.stdout
        assert "250 2.6.0" not in done.stdout
        assert opened.logged("HandshakeFailed", "CERTIFICATE_VERIFY_FAILED")


@pytest.mark.needs("msmtp")
class TestMsmtp:
    @pytest.mark.parametrize(
        ("auth", "mechanism"), [("plain", "PLAIN"), ("login", "LOGIN"), ("scram-sha-256", "SCRAM-SHA-256")]
    )
    def test_each_mechanism(
        self, opened: Open, program: Program, tmp_path: Path, auth: str, mechanism: str
    ) -> None:
        done = self._send(opened, program, tmp_path, auth, PLAIN_PASSWORD)
        assert done.returncode == 0, done.stderr
        assert by(opened.arrived()) == b"ESMTPSA"
        assert opened.logged("LoginSucceeded", "user=bob", f"mechanism={mechanism}")

    def test_scram_with_a_wrong_password(self, opened: Open, program: Program, tmp_path: Path) -> None:
        done = self._send(opened, program, tmp_path, "scram-sha-256", "wrong")
        assert done.returncode == 77  # EX_NOPERM
        assert "535" in done.stderr

    def _send(
        self, opened: Open, program: Program, tmp_path: Path, auth: str, password: str
    ) -> subprocess.CompletedProcess[str]:
        config = tmp_path / "msmtprc"
        config.write_text(
            f"account relay\nhost localhost\nport {opened.relay.port}\ntls on\ntls_trust_file {opened.ca}\n"
            f"auth {auth}\nuser bob\npassword {password}\nfrom bob@example.com\ndomain client.example\n"
        )
        config.chmod(0o600)
        return run(
            *(program("msmtp"), "--debug", f"--file={config}", "--account=relay", "bob@example.net"),
            octets=message("text").replace(b"\r\n", b"\n"),
        )


@pytest.mark.needs("postfix", "root", "sasl2-modules")
class TestPostfix:
    """Postfix as a client, which logs in by Cyrus SASL."""

    @pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN", "SCRAM-SHA-256"])
    def test_each_mechanism(self, opened: Open, start_postfix: Callable[..., object], mechanism: str) -> None:
        self._send(
            opened,
            start_postfix,
            smtp_sasl_auth_enable="yes",
            smtp_sasl_password_maps=f"static:bob:{PLAIN_PASSWORD}",
            smtp_sasl_security_options="noanonymous",
            smtp_sasl_mechanism_filter=mechanism.lower(),
            smtp_tls_security_level="encrypt",
        )
        assert by(opened.arrived()) == b"ESMTPSA"
        assert opened.logged("LoginSucceeded", "user=bob", f"mechanism={mechanism}")

    @pytest.mark.parametrize("level", ["may", "encrypt", "verify", "secure"])
    def test_each_level_of_tls(self, opened: Open, start_postfix: Callable[..., object], level: str) -> None:
        postfix = self._send(
            opened,
            start_postfix,
            smtp_sasl_auth_enable="yes",
            smtp_sasl_password_maps=f"static:bob:{PLAIN_PASSWORD}",
            smtp_sasl_security_options="noanonymous",
            smtp_tls_security_level=level,
            smtp_tls_CAfile=str(opened.ca),
            smtp_tls_loglevel="1",
            smtp_tls_verify_cert_match="nexthop",
            smtp_tls_secure_cert_match="nexthop",
        )
        assert by(opened.arrived()) == b"ESMTPSA"
        kind = {"may": "Trusted", "encrypt": "Trusted"}.get(level, "Verified")
        assert f"{kind} TLS connection established to localhost" in postfix.log

    def _send(self, opened: Open, start_postfix: Callable[..., object], **settings: str) -> object:
        settings = {"relayhost": f"[localhost]:{opened.relay.port}", "smtp_host_lookup": "native", **settings}
        postfix = start_postfix(**settings)
        with smtplib.SMTP("127.0.0.1", postfix.port) as client:  # type: ignore[attr-defined]
            client.sendmail("ann@example.com", ["bob@example.net"], message("text"))
        try:
            opened.sink.wait(seconds=20)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{postfix.log[-3000:]}") from None  # type: ignore[attr-defined]
        return postfix


def test_a_client_without_a_login_is_refused_in_words(opened: Open) -> None:
    with socket.create_connection(("127.0.0.1", opened.relay.port), 30) as wire, wire.makefile("rb") as replies:
        wire.sendall(b"HELO x\r\nMAIL FROM:<a@example.com>\r\nRCPT TO:<b@example.net>\r\nQUIT\r\n")
        heard = replies.read()
    assert b"550 5.7.1 Unable to relay for b@example.net\r\n" in heard
