"""What all tests share: programs that may be missing are asked for by name, and never missing in CI.

`@pytest.mark.needs("swaks", "postfix")` skips a test where one of them cannot be found, and says so. With CI set it
fails instead: there, everything that can be installed has to be.
"""

import importlib.util
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from rig.programs import find_program
from rig.relay import Relay
from rig.sink import Sink

# Examples are many or few, never timed. `pytest --hypothesis-profile=long` searches for an afternoon.
settings.register_profile("short", settings(), deadline=None)
settings.register_profile("long", settings(), deadline=None, max_examples=20_000)
settings.load_profile("short")


def _has_ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


def _has_npm_package(name: str) -> bool:
    folder = Path(__file__).parent.parent / ".peers" / "node"
    return (folder / ".installed").exists() and (folder / "node_modules" / name).is_dir()


_NEEDS: dict[str, Callable[[], bool]] = {
    "dotnet": lambda: all(importlib.util.find_spec(name) for name in ("dotnetcore2", "pythonnet")),
    "gssapi": lambda: importlib.util.find_spec("gssapi") is not None,
    "gss-ntlmssp": lambda: any(Path("/usr/lib").glob("*/gssntlmssp/gssntlmssp.so")),
    "net-ssleay": lambda: any(Path("/usr/lib").glob("*/perl5/*/Net/SSLeay.pm")),
    "sasl2-modules": lambda: any(Path("/usr/lib").glob("*/sasl2/libscram.so")),
    "kerberos": lambda: (
        importlib.util.find_spec("gssapi") is not None
        and all(find_program(name) for name in ("krb5kdc", "kdb5_util", "kadmin.local", "kinit"))
    ),
    "mono": lambda: all(find_program(name) for name in ("mono", "mcs")),
    **{name: partial(_has_npm_package, name) for name in ("nodemailer", "oidc-provider")},
    "postfix": lambda: all(find_program(name) for name in ("master", "smtpd", "smtp-sink")),
}

# These no installation can give.
_CONDITIONS: dict[str, Callable[[], bool]] = {
    "root": lambda: sys.platform != "win32" and os.geteuid() == 0,
    "ipv6": _has_ipv6,
    "proc": lambda: Path("/proc/self/smaps_rollup").exists(),
}


def pytest_configure(config: pytest.Config) -> None:
    # Who runs us in the background may have SIGINT ignored, and what we start would inherit that.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    config.addinivalue_line("markers", "needs(*names): programs or conditions without which the test is skipped")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    for mark in item.iter_markers("needs"):
        for name in mark.args:
            if name in _CONDITIONS:
                if not _CONDITIONS[name]():
                    pytest.skip(f"no {name} here")
            elif not (_NEEDS[name]() if name in _NEEDS else find_program(name)):
                reason = f"{name} is not installed (`make test` installs it on Debian as root)"
                # What Debian has, Windows need not have.
                if os.environ.get("CI") and sys.platform != "win32":
                    pytest.fail(f"{reason}, and in CI it has to be")
                pytest.skip(reason)


@pytest.fixture
def program() -> Callable[[str], str]:
    """Where a program is that the test's mark `needs` names."""

    def where(name: str) -> str:
        found = find_program(name)
        assert found is not None
        return str(found)

    return where


@pytest.fixture
def sink() -> Iterator[Sink]:
    """A next hop that takes everything."""
    with Sink() as one:
        yield one


@pytest.fixture
def start_relay(tmp_path: Path) -> Iterator[Callable[..., Relay]]:
    """Starts `mailroot run`: `start_relay(next_hop_port, {settings})`. What it starts ends with the test."""
    running: list[Relay] = []

    def start(next_hop: int | None = None, settings: dict[str, Any] | None = None) -> Relay:
        sections = dict(settings or {})
        relay = Relay(tmp_path / f"relay{len(running)}", sections, next_hop=next_hop)
        running.append(relay)
        relay.start()
        return relay

    yield start
    for relay in running:
        relay.kill()
