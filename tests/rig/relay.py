"""A real `mailroot run` in a process of its own: started, asked, killed, started again.

Everything it needs is below one folder: the configuration, the mailroot folders, the log. Ports are free ones, kept
from one start to the next.
"""

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

_MAIN = "import sys; from mailroot.cli.main import main; sys.exit(main())"


def free_port(host: str = "127.0.0.1") -> int:
    """A port that nobody listens on at the moment."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def clean_environment() -> dict[str, str]:
    """This process's environment without what would configure Mailroot from outside."""
    return {name: value for name, value in os.environ.items() if not name.startswith("MAILROOT")}


class Relay:
    """One service with one virtual server, whose smart host is `next_hop` on 127.0.0.1 if that is given.

    `settings` are further TOML sections, as dictionaries within dictionaries.
    """

    def __init__(self, folder: Path, settings: dict[str, Any], *, next_hop: int | None = None) -> None:
        self.folder = folder
        self.host = "127.0.0.1"
        self.port = free_port()
        self.api_port = free_port()
        self.mailroot = folder / "mailroot"
        self.config = folder / "mailroot.toml"
        self.log = folder / "mailroot.log"
        self.process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)
        sections: dict[str, Any] = {
            "service": {"api": {"port": self.api_port, "token_file": str(self.mailroot / "api-token")}},
            "general": {
                "fqdn": "relay.example",
                "listen": [f"{self.host}:{self.port}"],
                "mailroot": str(self.mailroot),
            },
        }
        if next_hop is not None:
            sections["delivery"] = {"advanced": {"smart_host": [f"[127.0.0.1]:{next_hop}"]}}
        self.config.write_text(toml(merged(sections, settings)), encoding="utf-8")

    def __enter__(self) -> "Relay":
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.kill()

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    @property
    def pickup(self) -> Path:
        return self.mailroot / "Pickup"

    @property
    def badmail(self) -> Path:
        return self.mailroot / "Badmail"

    @property
    def drop(self) -> Path:
        return self.mailroot / "Drop"

    def start(self, seconds: float = 60) -> None:
        """Start it and return when it greets; AssertionError with its log when it does not within `seconds`."""
        assert self.process is None
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", _MAIN, "run", "--config", str(self.config)],
                cwd=self.folder,
                env=clean_environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        end = time.monotonic() + seconds
        while self.process.poll() is None and time.monotonic() < end:
            if self._greets():
                return
            time.sleep(0.05)  # another process: there is nothing else to wait on
        code = self.process.poll()
        self.kill()
        raise AssertionError(f"mailroot run did not greet (exit code {code}); it said:\n{self.said()[-4000:]}")

    def _greets(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection((self.host, self.port), 2) as connection:
            return connection.recv(4) == b"220 "
        return False

    def said(self) -> str:
        """Everything it printed and logged so far."""
        return self.log.read_text(encoding="utf-8", errors="replace")

    def wait_until_said(self, text: str, seconds: float = 60) -> None:
        """Return when `text` stands in what it printed and logged: what an event says is written a moment later."""
        end = time.monotonic() + seconds
        while text not in self.said():
            assert time.monotonic() < end, f"no {text!r} in:\n{self.said()[-4000:]}"
            time.sleep(0.05)  # another process: there is nothing else to wait on

    def kill(self) -> None:
        """End it at once, with no chance to tidy up: SIGKILL, on Windows TerminateProcess. May be called twice."""
        process, self.process = self.process, None
        if process is not None:
            process.kill()
            process.wait(30)

    def stop(self, seconds: float = 60) -> int:
        """Ask it to end (SIGTERM) and wait; its exit code."""
        process, self.process = self.process, None
        assert process is not None
        process.terminate()
        try:
            return process.wait(seconds)
        finally:
            process.kill()
            process.wait(30)

    def command(self, *arguments: str, seconds: float = 60, input: str = "") -> subprocess.CompletedProcess[str]:
        """Run `mailroot ARGUMENTS --config …` against it, with `input` on its standard input."""
        return subprocess.run(
            [sys.executable, "-c", _MAIN, *arguments, "--config", str(self.config)],
            cwd=self.folder,
            env=clean_environment() | {"PYTHONIOENCODING": "utf-8"},
            input=input,
            capture_output=True,
            encoding="utf-8",
            timeout=seconds,
        )

    def ask(self, *arguments: str) -> Any:
        """The JSON that `mailroot ARGUMENTS --json` prints; AssertionError when it fails."""
        done = self.command(*arguments, "--json")
        assert done.returncode == 0, (
            f"mailroot {' '.join(arguments)}: {done.stdout}{done.stderr}\n{self.said()[-2000:]}"
        )
        return json.loads(done.stdout)

    def api(self, method: str, path: str, body: object = None) -> Any:
        """The JSON that its API answers; raises urllib.error.HTTPError."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.api_port}{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"Bearer {(self.mailroot / 'api-token').read_text().strip()}"},
        )
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30) as answer:
            return json.loads(answer.read())

    def messages(self) -> list[dict[str, Any]]:
        """What its queue and history hold (the first page), newest first."""
        return list(self.api("GET", "/v1/messages?state=queued&state=held&state=finished&limit=500")["messages"])

    def wait_for(self, what: Callable[[list[dict[str, Any]]], bool], seconds: float = 60) -> list[dict[str, Any]]:
        """The messages, as soon as `what` is true of them; AssertionError after `seconds`."""
        end = time.monotonic() + seconds
        while not what(messages := self.messages()):
            assert time.monotonic() < end, f"still so: {json.dumps(messages, indent=1)}\n{self.said()[-3000:]}"
            time.sleep(0.1)  # another process: there is nothing else to wait on
        return messages

    def resident(self) -> int:
        """Octets of memory that it holds itself: PSS, from /proc."""
        for line in Path(f"/proc/{self.pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
        raise AssertionError("no Pss in smaps_rollup")


def merged(base: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    """`base` with the sections and keys of `more` put over it."""
    result = dict(base)
    for key, value in more.items():
        both = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = merged(result[key], value) if both else value
    return result


def toml(sections: dict[str, Any], path: str = "") -> str:
    """The dictionaries as TOML. JSON's strings, numbers, truths and arrays are TOML's too."""
    plain = {key: value for key, value in sections.items() if not isinstance(value, dict) and not _tables(value)}
    text = (f"[{path}]\n" if path and plain else "") + "".join(
        f"{key} = {json.dumps(value, ensure_ascii=False)}\n" for key, value in plain.items()
    )
    for key, value in sections.items():
        below = f"{path}.{key}" if path else key
        if isinstance(value, dict):
            text += toml(value, below)
        elif _tables(value):
            for table in value:
                assert not any(isinstance(inner, dict) for inner in table.values()), "one level is enough here"
                text += f"[[{below}]]\n" + toml(table)
    return text


def _tables(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(one, dict) for one in value)
