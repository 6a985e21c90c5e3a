"""A web page that makes the visitor's browser say SMTP to a relay that trusts the visitor's computer."""

import socket
from collections.abc import Callable

from rig.relay import Relay
from rig.sink import Sink

_REQUEST = (
    b"POST / HTTP/1.1\r\nHost: localhost:2525\r\nConnection: keep-alive\r\nContent-Length: 130\r\n"
    b"User-Agent: Mozilla/5.0\r\nContent-Type: text/plain\r\nAccept: */*\r\nOrigin: https://evil.example\r\n\r\n"
    b"EHLO x\r\nMAIL FROM:<boss@example.com>\r\nRCPT TO:<victim@example.net>\r\nDATA\r\n"
    b"Subject: pay this\r\n\r\nNow\r\n.\r\nQUIT\r\n"
)


def test_a_form_that_is_posted_to_the_relay(start_relay: Callable[..., Relay], sink: Sink) -> None:
    """The request's header is a dozen mistakes, which many servers forgive; its body would be a mail."""
    relay = start_relay(sink.port)
    for pieces in (
        [_REQUEST],
        [_REQUEST[:200], _REQUEST[200:]],
        [*(line + b"\n" for line in _REQUEST.split(b"\n"))],
    ):
        with socket.create_connection((relay.host, relay.port), 30) as connection:
            heard = b""
            try:
                for piece in pieces:
                    connection.sendall(piece)
                while octets := connection.recv(1 << 16):
                    heard += octets
            except ConnectionError:
                pass  # it hung up before we had said all
        assert heard.count(b"\r\n") <= 2
        assert b"250" not in heard.partition(b"\r\n")[2]
    assert "MessageAccepted" not in relay.said()
    assert sink.messages == []
