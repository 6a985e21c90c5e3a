"""The command line, run in this process, against an API in a thread of it."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mailroot.cli.main import main
from rig.served import Running, Said


@pytest.fixture(autouse=True)
def no_outside_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MAILROOT_CONFIG", raising=False)


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    one = Running(tmp_path)
    yield one
    one.close()


@pytest.fixture
def say(capfd: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    """Run `mailroot ARGUMENTS` in this process."""

    def run(*arguments: str) -> Said:
        capfd.readouterr()
        code = main(list(arguments))
        captured = capfd.readouterr()
        return Said(code, captured.out, captured.err)

    return run


@pytest.fixture
def mailroot(running: Running, say: Callable[..., Said]) -> Callable[..., Said]:
    """Run `mailroot ARGUMENTS` against the running service."""
    return lambda *arguments: say(*arguments, "--api", running.address, "--token-file", str(running.token_file))
