"""How much memory a large message and many idle connections may cost: bounds, not timings."""

import smtplib
import socket
from collections.abc import Callable

import pytest

from rig.mail import arrived, message
from rig.relay import Relay
from rig.sink import Sink

pytestmark = [pytest.mark.slow, pytest.mark.needs("proc")]

MIB = 1024 * 1024
SETTINGS = {
    "general": {"max_connections": 0},
    "messages": {"max_message_size": "100 MiB", "max_session_size": 0},
}


def warm(relay: Relay, sink: Sink) -> int:
    """Let it send a few messages, so that what is loaded on first use is loaded; then what it holds, in octets."""
    with smtplib.SMTP(relay.host, relay.port) as client:
        for _ in range(20):
            client.sendmail("a@example.com", ["b@example.net"], message("block"))
    sink.wait(20)
    sink.messages.clear()
    return relay.resident()


def test_a_50_mb_message_in_flight_costs_less_than_10_mb(start_relay: Callable[..., Relay], sink: Sink) -> None:
    relay = start_relay(sink.port, SETTINGS)
    idle = warm(relay, sink)
    sent = message("large", (b"0123456789abcdef" * 60 + b"\r\n") * 52_000)
    assert len(sent) > 50_000_000 - 100_000
    peaks = []
    sink.on_block = lambda: peaks.append(relay.resident())
    with socket.create_connection((relay.host, relay.port), 60) as connection, connection.makefile("rb") as replies:
        connection.sendall(
            b"EHLO client.example\r\nMAIL FROM:<a@example.com>\r\nRCPT TO:<b@example.net>\r\nDATA\r\n"
        )
        while not replies.readline().startswith(b"354 "):
            pass
        for start in range(0, len(sent), MIB):
            connection.sendall(sent[start : start + MIB])
            peaks.append(relay.resident())
        connection.sendall(b".\r\n")
        assert replies.readline().startswith(b"250 ")
    (received,) = sink.wait()
    assert arrived(received.octets, sent)
    assert len(peaks) > 60
    assert max(peaks) - idle < 10 * MIB


def test_a_thousand_idle_connections_cost_less_than_40_mb(start_relay: Callable[..., Relay], sink: Sink) -> None:
    relay = start_relay(sink.port, SETTINGS)
    idle = warm(relay, sink)
    connections = []
    try:
        for _ in range(1000):
            connection = socket.create_connection((relay.host, relay.port), 60)
            connections.append(connection)
            assert connection.recv(4) == b"220 "
        for connection in connections:  # said hello, and then nothing
            connection.sendall(b"EHLO client.example\r\n")
            while not connection.recv(4096).endswith(b"\r\n"):
                pass
        assert relay.resident() - idle < 40 * MIB
    finally:
        for connection in connections:
            connection.close()
