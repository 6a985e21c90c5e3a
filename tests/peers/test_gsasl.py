"""GNU SASL, which is not ours and has SCRAM with channel binding, logs in at a real relay; and `mailroot user`."""

import os
import subprocess
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path

import pytest

from mailroot.smtp.sasl.scram import Verifier
from rig.relay import Relay

pytestmark = [pytest.mark.peer, pytest.mark.needs("gsasl")]

StartRelay = Callable[..., Relay]
Login = Callable[..., str]
PASSWORD = "größe,=\\x"
GRANTED = "235 2.7.0 Authentication successful."
REFUSED = "535 5.7.3 Authentication unsuccessful."
TLS_1_2 = "--priority=NORMAL:-VERS-TLS1.3"


def run(*arguments: str) -> str:
    """What `gsasl` printed."""
    environment = os.environ | {"LC_ALL": "C.UTF-8"}
    command = ["gsasl", *arguments]
    done = subprocess.run(command, input=b"", capture_output=True, timeout=60, env=environment, check=False)
    return (done.stdout + done.stderr).decode()


@pytest.fixture
def relay(start_relay: StartRelay, certificate: tuple[Path, Path]) -> Relay:
    file, key = certificate
    files = {"certificates": [{"file": str(file), "key": str(key)}]}
    relay = start_relay(None, {"general": files})
    # While it runs: the accounts are there at the next EHLO.
    for name in ("ann", "gone"):
        made = relay.command("user", "add", name, "--password-stdin", input=PASSWORD + "\n")
        assert made.returncode == 0, made.stderr
    assert relay.command("user", "disable", "gone").returncode == 0
    return relay


@pytest.fixture
def login(relay: Relay, certificate: tuple[Path, Path]) -> Login:
    """What is said when ann logs in by a mechanism."""

    def log_in(mechanism: str, *options: str, user: str = "ann", password: str = PASSWORD) -> str:
        server = ("--smtp", f"--connect=localhost:{relay.port}", f"--x509-ca-file={certificate[0]}")
        who = (f"--authentication-id={user}", f"--authorization-id={user}", f"--password={password}")
        return run(*server, *who, f"--mechanism={mechanism}", *options)

    return log_in


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN", "SCRAM-SHA-256"])
def test_over_tls_1_3(login: Login, mechanism: str) -> None:
    """Without a channel binding: the one that GNU SASL has for TLS 1.3 is not known to Python."""
    assert GRANTED in login(mechanism, "--no-cb")
    assert REFUSED in login(mechanism, "--no-cb", password="guess")


def test_scram_plus_is_bound_to_the_connection(login: Login) -> None:
    said = login("SCRAM-SHA-256-PLUS", TLS_1_2)
    assert GRANTED in said
    assert "server trusted" in said
    assert REFUSED in login("SCRAM-SHA-256-PLUS", TLS_1_2, password="guess")


def test_scram_on_this_computer_in_the_clear(login: Login) -> None:
    assert GRANTED in login("SCRAM-SHA-256", "--no-starttls")


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN", "SCRAM-SHA-256"])
def test_unknown_and_disabled_users_hear_what_a_wrong_password_hears(login: Login, mechanism: str) -> None:
    assert REFUSED in login(mechanism, "--no-cb", user="gone")
    assert REFUSED in login(mechanism, "--no-cb", user="nobody")


def test_a_verifier_is_the_one_that_gnu_sasl_makes() -> None:
    salt = bytes(range(16))
    made = run(
        "--mkpasswd", "--mechanism=SCRAM-SHA-256", "--iteration-count=5000",
        f"--salt={b64encode(salt).decode()}", f"--password={PASSWORD}",
    )  # fmt: skip
    ours = Verifier.of(PASSWORD, salt, 5000)
    keys = ",".join(b64encode(key).decode() for key in (salt, ours.stored_key, ours.server_key))
    assert made.strip() == f"{{SCRAM-SHA-256}}5000,{keys}"
