"""kill -9 at random moments under load: whatever was answered 250 arrives, whole, at least once.

Twenty kills; KILLS=100 in the environment for more. KILLS_SEED repeats the moments of an earlier run, as far as the
machine does. A message may arrive twice: when the kill fell between the next hop's 250 and its being settled. How
often is counted and printed, not judged.
"""

import collections
import os
import random
import smtplib
import threading
import time
from collections.abc import Callable

import pytest

from rig.mail import digest
from rig.relay import Relay
from rig.sink import Received, Sink

pytestmark = [pytest.mark.slow]

KILLS = int(os.environ.get("KILLS", "20"))
SEED = int(os.environ.get("KILLS_SEED", "20261103"))
CLIENTS = 6
SETTINGS = {
    # What a dead next hop connection or a kill delays is tried again within the test.
    "delivery": {
        "retries": {"first_retry": "1 s", "second_retry": "1 s", "third_retry": "1 s", "subsequent_retry": "1 s"}
    },
    "messages": {"max_message_size": "10 MiB", "max_session_size": 0},
}


def name_and_digest(received: Received) -> tuple[str, str]:
    """The message's name (its first line of ours) and the hash from there on."""
    start = received.octets.find(b"X-Name: ")
    name = received.octets[start : received.octets.find(b"\r\n", start)].decode()
    return name, digest(received.octets[start:])


class Load:
    """Clients that send without pause, start again when they are thrown out, and note each 250."""

    def __init__(self, relay: Relay) -> None:
        self.acknowledged: dict[str, str] = {}
        self.sent: dict[str, str] = {}
        self._relay = relay
        self._ending = threading.Event()
        self._threads = [threading.Thread(target=self._client, args=(number,)) for number in range(CLIENTS)]

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._ending.set()
        for thread in self._threads:
            thread.join(60)

    def _client(self, number: int) -> None:
        dice = random.Random(SEED * 100 + number)
        count = 0
        while not self._ending.is_set():
            try:
                with smtplib.SMTP(self._relay.host, self._relay.port, timeout=30) as client:
                    while not self._ending.is_set():
                        count += 1
                        self._send(client, f"X-Name: {number}-{count}", dice)
            except (OSError, smtplib.SMTPException):
                self._ending.wait(0.02)  # it was killed; it comes back

    def _send(self, client: smtplib.SMTP, name: str, dice: random.Random) -> None:
        # Most are small; some are kept in a file because they do not fit into the queue's row.
        size = dice.choice((500, 4000, 4000, 4000, 20_000, 200_000))
        octets = f"{name}\r\nSubject: load\r\n\r\n".encode() + (dice.randbytes(size // 2).hex().encode() + b"\r\n")
        self.sent[name] = digest(octets)
        client.sendmail("ann@example.com", ["bob@example.net", "eve@example.org"], octets)
        self.acknowledged[name] = digest(octets)


def test_nothing_acknowledged_is_lost_when_it_is_killed(
    start_relay: Callable[..., Relay], capsys: pytest.CaptureFixture[str]
) -> None:
    dice = random.Random(SEED)
    with Sink(keep=name_and_digest) as sink:
        relay = start_relay(sink.port, SETTINGS)
        with Load(relay) as load:
            for _ in range(KILLS):
                time.sleep(dice.uniform(0.0, 1.0))  # the moment of the kill is what is being tried
                relay.kill()
                relay.start()
        arrived: collections.Counter[str] = collections.Counter()

        def missing() -> set[str]:
            arrived.clear()
            arrived.update(name for name, _ in list(sink.messages))  # type: ignore[misc]
            return load.acknowledged.keys() - arrived.keys()

        end = time.monotonic() + 120
        while missing() and time.monotonic() < end:
            time.sleep(0.2)  # the relay is another process
        lost = missing()
        damaged = [name for name, content in sink.messages if load.sent.get(name) != content]  # type: ignore[misc]

    extra = sum(arrived.values()) - len(arrived)
    unacknowledged = len(arrived.keys() - load.acknowledged.keys())
    with capsys.disabled():
        print(
            f"\n{KILLS} kills (seed {SEED}): {len(load.acknowledged)} messages got a 250, {len(lost)} of them lost,"
            f" {len(damaged)} damaged; {extra} arrivals more than needed, {unacknowledged} without a 250"
        )
    assert len(load.acknowledged) > KILLS, "there was no load"
    assert lost == set()
    assert damaged == []
