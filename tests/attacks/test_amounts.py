"""More mail than a client may hand in, or than the disk has room for: refused for now, and there in the end."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from attacks.attacker import Attacker, wait_for_log
from mailroot.units import MIB
from rig.relay import Relay, merged
from rig.sink import Sink

CLIENT = "127.0.0.66"
EVERYBODY = {"access": {"relay": {"mode": "all except the list", "list": []}}}


@pytest.fixture
def sink() -> Iterator[Sink]:
    with Sink() as sink:
        yield sink


def relay_with(folder: Path, sink: Sink, settings: dict[str, Any]) -> Relay:
    return Relay(folder, merged(EVERYBODY, settings), next_hop=sink.port)


def greeted(relay: Relay, source: str = CLIENT) -> Attacker:
    attacker = Attacker(relay.port, source)
    assert attacker.say("EHLO client.example").startswith("250")
    return attacker


def change(relay: Relay, old: str, new: str) -> None:
    """Change the configuration in force."""
    text = relay.config.read_text(encoding="utf-8")
    assert text.count(old) == 1, text
    relay.config.write_text(text.replace(old, new), encoding="utf-8")
    relay.ask("server", "reload")


def test_messages_over_the_limit_are_refused_for_now(tmp_path: Path, sink: Sink) -> None:
    with relay_with(tmp_path, sink, {"limits": {"address": {"messages_per_minute": 3}}}) as relay:
        with greeted(relay) as attacker:
            for _ in range(3):
                assert attacker.mail().startswith("250 ")
            refusal = f"450 4.7.1 Too many messages from {CLIENT} in a minute, try again later"
            assert [attacker.mail() for _ in range(20)] == [refusal] * 20
            assert attacker.say("NOOP").startswith("250 ")
        with greeted(relay) as again:
            assert again.mail() == refusal
        with greeted(relay, "127.0.0.67") as other:
            assert other.mail().startswith("250 ")
        with greeted(relay, "127.0.0.1") as own:
            for _ in range(10):
                assert own.mail().startswith("250 ")
        wait_for_log(relay, "limit=limits.address.messages_per_minute")
        assert relay.said().count(" LimitReached ") == 1


def test_recipients_over_the_limit_wait_and_the_others_go(tmp_path: Path, sink: Sink) -> None:
    with (
        relay_with(tmp_path, sink, {"limits": {"network": {"recipients_per_minute": 5}}}) as relay,
        greeted(relay) as client,
    ):
        client.say("MAIL FROM:<a@example.com>")
        replies = [client.say(f"RCPT TO:<user{number}@example.net>") for number in range(90)]
        assert all(reply.startswith("250 ") for reply in replies[:5])
        assert set(replies[5:]) == {
            "450 4.7.1 Too many recipients from network 127.0.0.0/24 in a minute, try again later"
        }
        # So many that are to come later are no reason to hang up.
        assert client.say("DATA", "Subject: x\r\n\r\ntext\r\n.").startswith("250 ")
        assert len(sink.wait(1)[0].recipients) == 5


def test_what_a_real_client_was_refused_arrives_later(tmp_path: Path, sink: Sink) -> None:
    """The client is a relay that tries again, as any mail server does."""
    limited = {"limits": {"exempt": [], "address": {"messages_per_minute": 2}}}
    with relay_with(tmp_path / "limited", sink, limited) as relay:
        patient = {"delivery": {"retries": dict.fromkeys(("first_retry", "second_retry", "third_retry"), "1 s")}}
        with Relay(tmp_path / "client", patient, next_hop=relay.port) as client:
            with Attacker(client.port) as program:
                program.say("EHLO program.example")
                for _ in range(5):
                    assert program.mail().startswith("250 ")
            waiting = client.wait_for(lambda messages: any("450 4.7.1" in message["why"] for message in messages))
            assert len(sink.messages) <= 2 < len(waiting)
            change(relay, "messages_per_minute = 2", "messages_per_minute = 5")
            assert len(sink.wait(5)) == 5
            client.wait_for(lambda messages: all(message["state"] == "finished" for message in messages))


def test_a_days_limit_outlives_a_crash(tmp_path: Path, sink: Sink) -> None:
    settings = {"limits": {"address": {"messages_per_day": 4}, "exempt": []}}
    relay = relay_with(tmp_path, sink, settings)
    permission = '[[access.permissions]]\nnetworks = ["127.0.0.67"]\nquota = { recipients_per_day = 3 }\n'
    relay.config.write_text(relay.config.read_text(encoding="utf-8") + permission, encoding="utf-8")
    with relay:
        for source, most in ((CLIENT, 3), ("127.0.0.67", 2)):
            with greeted(relay, source) as client:
                for _ in range(most):
                    assert client.mail().startswith("250 ")
        relay.kill()
        relay.start()
        with greeted(relay) as client:
            assert client.mail().startswith("250 ")
            assert client.mail() == f"450 4.7.1 Too many messages from {CLIENT} in 24 hours, try again later"
        with greeted(relay, "127.0.0.67") as client:
            assert client.mail().startswith("250 ")
            assert client.mail() == "450 4.7.1 Too many recipients from 127.0.0.67 in 24 hours, try again later"


def test_low_disk_space_refuses_mail_before_the_disk_is_full(tmp_path: Path, sink: Sink) -> None:
    free = shutil.disk_usage(tmp_path).free // 1024
    settings = {
        "limits": {"min_free_disk": f"{2 * free} KiB"},
        "messages": {"max_message_size": 0, "max_session_size": 0},
    }
    with relay_with(tmp_path, sink, settings) as relay:
        with greeted(relay) as client:
            assert client.mail() == "452 4.3.1 Insufficient system storage"
            assert client.say("NOOP").startswith("250 ")
        wait_for_log(relay, " DiskLow ")
        change(relay, f"{2 * free} KiB", f"{free // 2} KiB")
        with greeted(relay) as client:
            assert client.mail().startswith("250 ")
            size = free * 1024 * 3 // 4
            assert client.say(f"MAIL FROM:<a@example.com> SIZE={size}") == "452 4.3.1 Insufficient system storage"
            assert client.say("MAIL FROM:<a@example.com> SIZE=1000").startswith("250 ")
        wait_for_log(relay, " DiskRecovered ")
        assert relay.said().count(" DiskLow ") == 1


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk with 64 MiB, in memory."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("this root may not mount a disk")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.needs("root")
def test_mail_fills_no_disk_and_nothing_that_was_acknowledged_is_lost(small_disk: Path, sink: Sink) -> None:
    sink.replies["CONNECT"] = b"421 not now\r\n"
    settings = {"limits": {"min_free_disk": "16 MiB"}, "messages": {"max_session_size": 0}}
    text = "Subject: x\r\n\r\n" + ("x" * 76 + "\r\n") * 12_000
    with relay_with(small_disk, sink, settings) as relay:
        with greeted(relay) as client:
            taken = 0
            while (reply := client.mail(text=text)).startswith("250 "):
                taken += 1
            assert reply == "452 4.3.1 Insufficient system storage"
            assert 20 < taken < 60
        wait_for_log(relay, " DiskLow ")
        assert len(relay.messages()) == taken
        assert shutil.disk_usage(small_disk).free > 4 * MIB
        assert " QueueTrouble " not in relay.said()
        assert relay.command("queue", "delete", "--all", "--yes").returncode == 0
        wait_for_log(relay, " DiskRecovered ")
        with greeted(relay) as client:
            assert client.mail(text=text).startswith("250 ")
