"""Certificates, Postfix and smtp-sink for the tests with real peers."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from rig.relay import free_port


def wait_for_greeting(process: subprocess.Popen[bytes], port: int, log: Path, seconds: float = 30) -> None:
    """Return when something on 127.0.0.1:port greets."""
    end = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < end:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 2) as connection:
            if connection.recv(1):
                return
        time.sleep(0.05)  # another process: there is nothing else to wait on
    raise AssertionError(
        f"no greeting on port {port}: {log.read_text(errors='replace')[-3000:] if log.exists() else ''}"
    )


def open_folder(prefix: str) -> Path:
    """A new folder for programs that run as somebody else: pytest's own folders are for root alone."""
    folder = Path(tempfile.mkdtemp(prefix=prefix))
    folder.chmod(0o777)
    return folder


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A self-signed certificate for 127.0.0.1 and localhost, and its key: two PEM files."""
    import datetime as dt
    import ipaddress

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = dt.datetime.now(dt.UTC)
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=30))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    folder = tmp_path_factory.mktemp("certificate")
    certificate_file, key_file = folder / "certificate.pem", folder / "key.pem"
    certificate_file.write_bytes(built.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return certificate_file, key_file


@dataclass
class Postfix:
    """Postfix with a configuration and a queue of its own."""

    folder: Path
    port: int
    process: subprocess.Popen[bytes]
    maildir: Path = field(init=False)

    def __post_init__(self) -> None:
        self.maildir = self.folder / "mail" / "all" / "new"

    @property
    def log(self) -> str:
        file = self.folder / "maillog"
        return file.read_text(errors="replace") if file.exists() else ""

    def wait_for(self, messages: int, seconds: float = 60) -> list[bytes]:
        """What it has put into its maildir, as soon as that many are there."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            files = sorted(self.maildir.glob("*")) if self.maildir.is_dir() else []
            if len(files) >= messages:
                return [file.read_bytes() for file in files]
            time.sleep(0.1)  # a maildir of another process: there is nothing else to wait on
        raise AssertionError(f"Postfix did not deliver {messages} messages; its log:\n{self.log[-3000:]}")

    def wait_for_log(self, text: str, seconds: float = 60) -> str:
        """Its log, as soon as `text` stands in it."""
        end = time.monotonic() + seconds
        while text not in self.log:
            assert time.monotonic() < end, f"no {text!r} in Postfix's log:\n{self.log[-3000:]}"
            time.sleep(0.1)
        return self.log


_SERVICES = """\
{port}    inet  n       -       n       -       -       smtpd
cleanup   unix  n       -       n       -       0       cleanup
qmgr      unix  n       -       n       300     1       qmgr
rewrite   unix  -       -       n       -       -       trivial-rewrite
bounce    unix  -       -       n       -       0       bounce
defer     unix  -       -       n       -       0       bounce
trace     unix  -       -       n       -       0       bounce
proxymap  unix  -       -       n       -       -       proxymap
smtp      unix  -       -       n       -       -       smtp
virtual   unix  -       n       n       -       -       virtual
error     unix  -       -       n       -       -       error
retry     unix  -       -       n       -       -       error
discard   unix  -       -       n       -       -       discard
tlsmgr    unix  -       -       n       1000?   1       tlsmgr
anvil     unix  -       -       n       -       1       anvil
scache    unix  -       -       n       -       1       scache
postlog   unix-dgram n  -       n       -       1       postlogd
"""


@pytest.fixture
def start_postfix(program: Callable[[str], str]) -> Iterator[Callable[..., Postfix]]:
    """Starts Postfix: `start_postfix(setting="value", …)` with further lines of main.cf. It ends with the test.

    It delivers mail for any domain into one maildir, unless a relayhost is set. It runs as root does, with the
    accounts every Debian has instead of its own, so nothing is added to the system.
    """
    running: list[Postfix] = []

    def start(**settings: str) -> Postfix:
        master = Path(program("master"))
        top = master.parents[4]  # TOP/usr/lib/postfix/sbin/master
        folder = open_folder("mailroot-postfix-")
        port = free_port()
        _make_folders(folder)
        values = {
            "compatibility_level": "3.6",
            "queue_directory": f"{folder}/spool",
            "data_directory": f"{folder}/data",
            "command_directory": f"{top}/usr/sbin",
            "daemon_directory": f"{top}/usr/lib/postfix/sbin",
            "shlib_directory": f"{top}/usr/lib/postfix",
            "meta_directory": f"{top}/etc/postfix",
            "mail_owner": "nobody",
            "default_privs": "daemon",
            "setgid_group": "mail",
            "import_environment": f"MAIL_CONFIG MAIL_LOGTAG TZ LANG=C LD_LIBRARY_PATH={top}/usr/lib/postfix",
            "myhostname": "postfix.example",
            "mydestination": "",
            "local_recipient_maps": "",
            "mynetworks": "127.0.0.0/8",
            "inet_interfaces": "127.0.0.1",
            "inet_protocols": "ipv4",
            "alias_maps": "",
            "alias_database": "",
            "smtp_tls_security_level": "none",
            "smtpd_peername_lookup": "no",
            "maillog_file_prefixes": str(folder.parent),
            "maillog_file": f"{folder}/maillog",
            "message_size_limit": "50000000",
            "virtual_mailbox_limit": "0",
        }
        if "relayhost" not in settings:
            values |= {
                "virtual_mailbox_domains": "static:all",
                "virtual_mailbox_maps": "static:all/",
                "virtual_mailbox_base": f"{folder}/mail",
                "virtual_uid_maps": "static:1",
                "virtual_gid_maps": "static:1",
                "virtual_minimum_uid": "1",
            }
        lines = [f"{name} = {value}\n" for name, value in (values | settings).items()]
        (folder / "conf" / "main.cf").write_text("".join(lines))
        (folder / "conf" / "master.cf").write_text(_SERVICES.format(port=port))
        process = subprocess.Popen(
            [str(master), "-c", str(folder / "conf"), "-d"],
            env=os.environ | {"LD_LIBRARY_PATH": f"{top}/usr/lib/postfix"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        postfix = Postfix(folder, port, process)
        running.append(postfix)
        wait_for_greeting(process, port, folder / "maillog")
        return postfix

    yield start
    for postfix in running:
        postfix.process.terminate()  # master ends its own
        try:
            postfix.process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(postfix.process.pid, signal.SIGKILL)
            postfix.process.wait(20)
        shutil.rmtree(postfix.folder, ignore_errors=True)


def _make_folders(folder: Path) -> None:
    """What `postfix set-permissions` would make."""
    for name in ("conf", "data", "mail", "spool"):
        (folder / name).mkdir(parents=True)
    shutil.chown(folder / "data", "nobody")
    shutil.chown(folder / "mail", "daemon", "daemon")
    owned = (
        "active",
        "bounce",
        "corrupt",
        "defer",
        "deferred",
        "flush",
        "hold",
        "incoming",
        "private",
        "saved",
        "trace",
    )
    for name in (*owned, "public", "maildrop", "pid"):
        (folder / "spool" / name).mkdir()
    for name in owned:
        shutil.chown(folder / "spool" / name, "nobody")
        (folder / "spool" / name).chmod(0o700)
    for name, mode in (("maildrop", 0o730), ("public", 0o710)):
        shutil.chown(folder / "spool" / name, "nobody", "mail")
        (folder / "spool" / name).chmod(mode)


class SmtpSink:
    """Postfix's smtp-sink, a next hop that can be told how to behave badly."""

    def __init__(self, executable: str, port: int, folder: Path, options: tuple[str, ...]) -> None:
        self.port = port
        self.folder = folder
        self._command = [executable, *(("-u", "nobody") if os.geteuid() == 0 else ()), *options]
        self._command += ["-d", f"{folder}/message.", f"127.0.0.1:{port}", "100"]
        libraries = Path(executable).parents[1] / "lib" / "postfix"
        self._environment = os.environ | {"LD_LIBRARY_PATH": str(libraries)}
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        log = self.folder / "smtp-sink.log"
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                self._command, env=self._environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )
        end = time.monotonic() + 20
        while self.process.poll() is None and time.monotonic() < end:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 2):
                return
            time.sleep(0.05)
        raise AssertionError(f"smtp-sink did not start: {log.read_text()}")

    def stop(self) -> None:
        process, self.process = self.process, None
        if process is not None:
            process.kill()
            process.wait(20)

    def messages(self) -> list[bytes]:
        """What it has taken whole so far, without its own header and its closing empty line; line ends are LF."""
        return [file.read_bytes() for file in sorted(self.folder.glob("message.*"))]


@pytest.fixture
def start_smtp_sink(program: Callable[[str], str]) -> Iterator[Callable[..., SmtpSink]]:
    """Starts smtp-sink with options: `start_smtp_sink("-f", "RCPT", port=PORT)`. It ends with the test."""
    running: list[SmtpSink] = []

    def start(*options: str, port: int = 0) -> SmtpSink:
        folder = open_folder("mailroot-smtp-sink-")
        sink = SmtpSink(program("smtp-sink"), port or free_port(), folder, options)
        running.append(sink)
        sink.start()
        return sink

    yield start
    for sink in running:
        sink.stop()
        shutil.rmtree(sink.folder, ignore_errors=True)
