"""Addresses to listen on, as they are written."""

import errno
import socket

import pytest

from mailroot.net.listener import CannotListen, Endpoint, bind, parse_listen

pytestmark = pytest.mark.quick


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1:25", (Endpoint("127.0.0.1", 25),)),
        (" 10.0.0.5:2525 ", (Endpoint("10.0.0.5", 2525),)),
        ("[::1]:25", (Endpoint("::1", 25, optional=True),)),
        ("[2001:db8::1]:25", (Endpoint("2001:db8::1", 25),)),
        ("*:25", (Endpoint("0.0.0.0", 25), Endpoint("::", 25, optional=True))),
    ],
)
def test_entries(text: str, expected: tuple[Endpoint, ...]) -> None:
    assert parse_listen(text) == expected


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("", "right would be '127.0.0.1:25'"),
        ("25", "right would be"),
        ("127.0.0.1", "right would be"),
        ("127.0.0.1:", "right would be"),
        ("127.0.0.1:x", "right would be"),
        ("127.0.0.1:65536", "right would be"),
        ("localhost:25", "'localhost' is not an IP address"),
        ("::1:25", r"right would be '\[::1\]:25'"),
        ("[127.0.0.1]:25", r"right would be '127\.0\.0\.1:25'"),
        ("[::1:25", "not an IP address"),
    ],
)
def test_entries_refused(text: str, hint: str) -> None:
    with pytest.raises(ValueError, match=hint):
        parse_listen(text)


def test_an_endpoint_as_text() -> None:
    assert str(Endpoint("127.0.0.1", 25)) == "127.0.0.1:25"
    assert str(Endpoint("::1", 25)) == "[::1]:25"


def test_a_port_that_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        with pytest.raises(CannotListen) as caught:
            bind(Endpoint("127.0.0.1", taken.getsockname()[1]))
        assert caught.value.errno == errno.EADDRINUSE


def test_an_address_that_is_not_ours() -> None:
    with pytest.raises(CannotListen, match=r"cannot listen on 192\.0\.2\.1:25: this computer has no such address"):
        bind(Endpoint("192.0.2.1", 25))


def test_without_ipv6_what_is_optional_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EAFNOSUPPORT, "no IPv6")

    monkeypatch.setattr("socket.socket", refuse)
    assert bind(Endpoint("::1", 25, optional=True)) is None
    with pytest.raises(CannotListen, match="this computer has no IPv6"):
        bind(Endpoint("2001:db8::1", 25))
