"""A real relay, and clients that do anything at all.

Whatever they do: the server never dies, says nothing but replies, has every message that it acknowledged, ends
every session, needs no more memory than before, and finds no fault in itself. FUZZ_SECONDS is how long (20),
FUZZ_SEED what comes (1), FUZZ_SESSION=N plays session N of the seed alone and prints it.
"""

import os
import re
import smtplib
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import quote

import pytest

from fuzz import judge
from fuzz.player import Played, play
from fuzz.sessions import PASSWORD, USER, Mutator
from rig.door import certificate_pem
from rig.relay import Relay, free_port
from rig.sink import Received, Sink

pytestmark = [pytest.mark.slow, pytest.mark.needs("proc")]

SECONDS = float(os.environ.get("FUZZ_SECONDS", "20"))
SEED = int(os.environ.get("FUZZ_SEED", "1"))
MIB = 1024 * 1024
_BATCH = 200
_WARM = 2
_CLIENTS = 8
# A fault of ours is an event of this name; a traceback besides would be one that nobody caught.
_FAULT = re.compile(r"^.*(?:InternalError|QueueTrouble|Traceback|Exception ignored).*(?:\n *\|.*)*", re.MULTILINE)
# What the Drop folder adds at the end of the header.
_DROP_FIELDS = re.compile(rb"Return-Path: [^\r\n]*\r\nX-OriginalArrivalTime: [^\r\n]*\r\n")


class Fuzzed:
    """The relay with all its doors, the next hop, and what has been found wrong so far."""

    def __init__(self, relay: Relay, sink: Sink, doors: dict[str, int]) -> None:
        self.relay = relay
        self.sink = sink
        self.doors = doors
        self._read = 0
        self._pid = relay.pid

    def batch(self, first: int, count: int) -> tuple[list[str], Counter[str]]:
        """Play sessions `first` to `first + count - 1`; what is wrong, each with its session, and what was seen."""
        sessions = [Mutator(SEED, number, tuple(self.doors)).session() for number in range(first, first + count)]
        with ThreadPoolExecutor(_CLIENTS) as clients:
            played = [*clients.map(lambda session: play(session, "127.0.0.1", self.doors[session.door]), sessions)]
        faults = [
            f"session {one.session.number} ({one.session.door}): {fault}"
            for one in played
            for fault in (*judge.faults_of_replies(one), *self._faults_of_messages(one, played))
        ]
        faults += self._faults_of_server()
        seen = Counter(f"door {one.session.door}" for one in played)
        seen["acknowledged"] = sum(len(judge.acknowledged(one)) for one in played)
        seen["TLS"] = sum(b"220 2.0.0" in one.heard for one in played)
        seen["logged in"] = sum(b"235 2.7.0" in one.heard for one in played)
        seen["login refused"] = sum(b"535 5.7.3" in one.heard for one in played)
        seen["introduced"] = sum(one.heard.count(b"220 relay.example ") > 1 for one in played)
        self._forget()
        return faults, seen

    def _faults_of_messages(self, one: Played, played: list[Played]) -> list[str]:
        faults = []
        for message_id, times in Counter(judge.acknowledged(one)).items():
            marked = judge.is_marked(one, message_id)
            arrived = self._arrived(message_id, times if marked else 0)
            if len(arrived) < times and marked:
                faults.append(f"{message_id!r} was acknowledged {times} times, and arrived {len(arrived)} times")
            elif not arrived and not self._is_recorded(message_id):
                faults.append(f"{message_id!r} was acknowledged, and nothing is known of it")
            for octets, exact in arrived[:3] if marked else ():
                exact = exact and one.session.door != "old devices"
                faults += judge.faults_of_message(one, message_id, octets, exact=exact)
        return faults

    def _arrived(self, message_id: bytes, times: int) -> list[tuple[bytes, bool]]:
        """The messages with that Message-ID at the next hop and in the Drop folder, waited for until there are
        that many; and whether each is as it came, to the octet: the Drop folder adds what a header lacks."""
        end = time.monotonic() + 20
        while True:
            arrived = [(one.octets, True) for one in self._taken() if message_id in one.octets]
            arrived += [(octets, False) for octets in self._dropped() if message_id in octets]
            # One whose Message-ID is written in another way (folded, not ASCII) is not found like this.
            if len(arrived) >= times or time.monotonic() > end:
                return arrived
            time.sleep(0.05)  # another process: there is nothing else to wait on

    def _taken(self) -> list[Received]:
        return list(self.sink.messages)  # type: ignore[arg-type]

    def _dropped(self) -> Iterator[bytes]:
        for file in self.relay.drop.glob("*.eml"):
            yield _DROP_FIELDS.sub(b"", file.read_bytes(), count=1)

    def _is_recorded(self, message_id: bytes) -> bool:
        found = self.relay.api("GET", f"/v1/messages?state=queued&state=finished&message_id={quote(message_id)}")
        return bool(found["messages"])

    def _faults_of_server(self) -> list[str]:
        relay = self.relay
        if relay.process is None or relay.process.poll() is not None or relay.pid != self._pid:
            return [f"the server ended; it said {relay.said()[-3000:]}"]
        with smtplib.SMTP("127.0.0.1", relay.port, timeout=30) as client:
            code, text = client.ehlo("alive.example")
        faults = [] if code == 250 else [f"a fresh EHLO is answered {code} {text!r}"]
        with relay.log.open("rb") as log:
            log.seek(self._read)
            said = log.read()
        self._read += len(said)
        return faults + [f"the log has {fault.group()}" for fault in _FAULT.finditer(said.decode())]

    def _forget(self) -> None:
        self.sink.messages.clear()
        self.sink.commands.clear()
        for file in self.relay.drop.glob("*.eml"):
            file.unlink(missing_ok=True)


@pytest.fixture
def fuzzed(tmp_path: Path) -> Iterator[Fuzzed]:
    """A relay with a listener of each kind; the longest waits are short, so that nobody waits for them."""
    names = ("strict", "old devices", "implicit TLS", "proxy")
    doors = {name: free_port() for name in names}
    listeners = [
        {"address": f"127.0.0.1:{doors['strict']}", "profile": "strict"},
        {"address": f"127.0.0.1:{doors['old devices']}", "profile": "old devices"},
        {"address": f"127.0.0.1:{doors['implicit TLS']}", "tls": "implicit"},
        {"address": f"127.0.0.1:{doors['proxy']}", "proxy_protocol": True},
    ]
    certificate = tmp_path / "certificate.pem"
    certificate.write_bytes(certificate_pem())
    settings = {
        "general": {"listeners": listeners, "certificates": [{"file": str(certificate)}]},
        "access": {
            "proxies": ["127.0.0.1"],
            "xclient": ["127.0.0.1"],
            "relay": {"mode": "only the list", "list": ["127.0.0.1", "192.0.2.0/24"]},
            "authentication": {"accounts": str(tmp_path / "accounts.json")},
        },
        "messages": {"max_message_size": "300 KiB", "max_session_size": "2 MiB"},
        "limits": {"logins": {"longest_delay": 0, "failures": 1_000_000}, "sessions_per_address": 0},
        "domains": {"drop": {"quota": 0}},
        "delivery": {"outbound_connections": {"max_connections": 20}},
    }
    with Sink() as sink, Relay(tmp_path / "relay", settings, next_hop=sink.port) as relay:
        added = relay.command("user", "add", USER, "--password-stdin", input=PASSWORD + "\n")
        assert added.returncode == 0, added.stderr
        yield Fuzzed(relay, sink, {"applications": relay.port, **doors})


@pytest.mark.timeout(SECONDS + 300)
def test_whatever_clients_do(fuzzed: Fuzzed) -> None:
    if (number := os.environ.get("FUZZ_SESSION")) is not None:
        _play_one(fuzzed, int(number))
        return
    end = time.monotonic() + SECONDS
    warm, number, seen = 0, 0, Counter[str]()
    while time.monotonic() < end or number < (_WARM + 1) * _BATCH:
        faults, more = fuzzed.batch(number, _BATCH)
        assert not faults, f"FUZZ_SEED={SEED}, {number} sessions before these:\n" + "\n".join(faults[:20])
        number += _BATCH
        seen += more
        if number == _WARM * _BATCH:
            warm = fuzzed.relay.resident()
    used = fuzzed.relay.resident()
    print(
        f"{number} sessions, {dict(seen)}; PSS {warm / MIB:.1f} MiB after warming up, {used / MIB:.1f} at the end"
    )
    # What is kept on purpose (pages of the database, counts of clients) is full after some 30,000 sessions.
    assert used - warm < 60 * MIB
    # A fuzzer whose sessions all stumble at the first step would find nothing.
    assert seen["acknowledged"] > number / 10
    assert min(seen[what] for what in ("TLS", "logged in", "login refused", "introduced")) > number / 200


def _play_one(fuzzed: Fuzzed, number: int) -> None:
    session = Mutator(SEED, number, tuple(fuzzed.doors)).session()
    print(session.door, session.introduction, *session.steps, sep="\n")
    played = play(session, "127.0.0.1", fuzzed.doors[session.door])
    print(*played.heard.split(b"\r\n"), sep="\n")
    print(fuzzed.relay.said())
    faults, _ = fuzzed.batch(number, 1)
    assert not faults, "\n".join(faults)
