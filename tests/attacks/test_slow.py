"""Clients that take their time: one octet now and then, in commands, logins and messages, or never reading."""

import asyncio
import contextlib
from collections.abc import Iterator

import pytest

from attacks.attacker import PATIENCE, Attacker, wait_for_log
from mailroot.events import LimitReached, SessionClosed
from mailroot.policy.limits import LimitSettings, MessageSettings
from mailroot.receive import pace
from rig.door import Door, relay_for_all
from rig.relay import Relay

_INTERVAL = 0.05


@pytest.fixture(scope="module")
def relay(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Relay]:
    """One second for a command; ten minutes for a client that says nothing."""
    settings = {"limits": {"command_time": "1 s"}, "delivery": {"advanced": {"smart_host": ["[127.0.0.1]:9"]}}}
    with Relay(tmp_path_factory.mktemp("slow"), settings) as relay:
        added = relay.command("user", "add", "ann", "--password-stdin", input="correct horse battery\n")
        assert added.returncode == 0, added.stderr
        yield relay
        assert "InternalError" not in relay.said()


@pytest.mark.parametrize(
    ("before", "trickled"),
    [
        ((), b"EHLO client.example"),
        (("EHLO client.example",), b"X"),
        (("EHLO client.example",), b"MAIL FROM:<a@example.com>"),
        (("EHLO client.example", "AUTH LOGIN"), b"YW5u"),
        (("EHLO client.example", "MAIL FROM:<a@example.com>", "RCPT TO:<b@example.net>"), b"DATA   "),
        (("EHLO client.example", "MAIL FROM:<a@example.com>", "RCPT TO:<b@example.net>"), b"BDAT 10 LAST"),
    ],
    ids=["first command", "nonsense", "MAIL", "login", "DATA", "BDAT"],
)
def test_a_command_that_comes_octet_by_octet(relay: Relay, before: tuple[str, ...], trickled: bytes) -> None:
    with Attacker(relay.port) as attacker:
        for line in before:
            assert attacker.say(line)[:1] in "23"
        assert attacker.trickle(trickled + b" " * 100, _INTERVAL).startswith("421 4.4.2 ")
        assert attacker.rest() == []
    wait_for_log(relay, "limits.command_time")


def test_many_slow_clients_hold_up_nobody_and_are_gone_soon(relay: Relay) -> None:
    attackers = [Attacker(relay.port) for _ in range(200)]
    for attacker in attackers:
        attacker.socket.sendall(b"EH")
    with Attacker(relay.port) as client:
        assert client.say("EHLO client.example").startswith("250")
        for _ in range(20):
            assert client.mail().startswith("250 ")
    for attacker in attackers:
        assert attacker.hear().startswith("421 4.4.2 ")
        attacker.socket.close()
    assert relay.ask("session", "list")["sessions"] == []


@pytest.mark.needs("proc")
def test_clients_that_never_read_cost_little_and_hold_up_nobody(relay: Relay) -> None:
    before = relay.resident()
    attackers = []
    for _ in range(20):
        attacker = Attacker(relay.port, receive_buffer=2048)
        attackers.append(attacker)
        attacker.socket.setblocking(False)
        octets = b"EHLO client.example\r\n" * 4000
        try:
            while octets:
                octets = octets[attacker.socket.send(octets) :]
        except (BlockingIOError, ConnectionError):
            pass
    with Attacker(relay.port) as client:
        assert client.say("EHLO client.example").startswith("250")
        assert client.mail().startswith("250 ")
    assert relay.resident() - before < 30 * 1024 * 1024
    for attacker in attackers:
        attacker.socket.close()


async def _slow_message(
    door: Door, monkeypatch: pytest.MonkeyPatch, start: bytes, trickled: bytes
) -> tuple[bytes, list[object]]:
    """What is answered to a message that trickles in, and the limits that were told of."""
    monkeypatch.setattr(pace, "_FIRST", 0.5)
    listeners = door.listeners()
    await listeners.open()
    try:
        host, _, port = listeners.addresses[0].rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"EHLO client.example\r\nMAIL FROM:<a@example.com>\r\nRCPT TO:<b@example.com>\r\n" + start)
        answer = b""

        async def listen() -> None:
            nonlocal answer
            with contextlib.suppress(ConnectionError):
                while octets := await reader.read(1 << 16):
                    answer += octets

        async with asyncio.timeout(PATIENCE):
            listening = asyncio.create_task(listen())
            while not listening.done():
                try:
                    writer.write(trickled)
                    await asyncio.wait((listening,), timeout=_INTERVAL)
                except ConnectionError:
                    break
            await listening
        writer.close()
    finally:
        await listeners.close(0)
    return answer, door.published(LimitReached)


@pytest.mark.parametrize(
    ("start", "trickled"),
    [
        (b"DATA\r\n", b"Subject: y\r\n"),
        (b"DATA\r\nSubject: x\r\n\r\n", b"x"),
        (b"BDAT 1000000\r\n", b"x"),
        (b"BDAT 1\r\nx", b"BDAT 1\r\nx"),
    ],
    ids=["header", "body", "chunk", "chunks"],
)
async def test_a_message_that_comes_slowly(monkeypatch: pytest.MonkeyPatch, start: bytes, trickled: bytes) -> None:
    door = Door(relay=relay_for_all(), limits=LimitSettings(transfer_speed=100_000, commands=10_000))
    answer, told = await _slow_message(door, monkeypatch, start, trickled)
    assert answer.splitlines()[-1].startswith(b"421 4.4.2 ")
    assert [(event.limit, event.value) for event in told] == [("limits.transfer_speed", "100000 octets/s")]
    assert await door.records() == []
    assert [event.why for event in door.published(SessionClosed)] == ["time-out"]


async def test_a_message_in_many_small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    door = Door(relay=relay_for_all(), limits=LimitSettings(transfer_speed=0, commands=20))
    answer, told = await _slow_message(door, monkeypatch, b"", b"BDAT 1\r\nx" * 5)
    assert answer.splitlines()[-1].startswith(b"421 4.7.0 ")
    assert [event.limit for event in told] == ["limits.commands"]
    assert await door.records() == []


async def test_an_honest_message_at_the_least_speed_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    door = Door(
        relay=relay_for_all(),
        limits=LimitSettings(transfer_speed=1000),
        messages=MessageSettings(max_message_size=1 << 20),
    )
    answer, told = await _slow_message(door, monkeypatch, b"DATA\r\n" + b"x" * 2000 + b"\r\n.\r\nQUIT\r\n", b"")
    assert b"\r\n250 2.6.0 " in answer and answer.splitlines()[-1].startswith(b"221 ")
    assert told == []
    assert len(await door.records()) == 1
