"""What people see of a client's line: enough to understand it, and never a secret."""

import pytest

from mailroot.smtp import shown

pytestmark = pytest.mark.quick


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b"MAIL FROM:<a@b>", "MAIL FROM:<a@b>"),
        (b"MAIL FROM:<a\x00\x1b[31m@b>", r"MAIL FROM:<a\x00\x1b[31m@b>"),
        ("MAIL FROM:<grå@b>".encode(), "MAIL FROM:<grå@b>"),
        (b"MAIL FROM:<\xff@b>", r"MAIL FROM:<\xff@b>"),
        (b"x" * 300, "x" * 200),
        (b"", ""),
        (b"AUTH PLAIN c2VjcmV0", "AUTH PLAIN"),
        (b"auth login", "AUTH LOGIN"),
        (b"AUTH", "AUTH"),
        (b"AUTH c2VjcmV0", "AUTH"),
        (b"AUTH HUNTER2", "AUTH"),
        (b"AUTH scram-sha-256-plus c2VjcmV0", "AUTH SCRAM-SHA-256-PLUS"),
        (b"auth\tplain\tc2VjcmV0", "AUTH PLAIN"),
        (b"AUTHPLAIN c2VjcmV0", "AUTH"),
        (b"AUTH=PLAIN c2VjcmV0", "AUTH"),
        (b"  \x00AUTH PLAIN c2VjcmV0", "AUTH PLAIN"),
        (b'"AUTH PLAIN" c2VjcmV0', "AUTH"),
        ("AUTH PLAIN c2VjcmV0".encode("utf-16-le"), "AUTH"),
        (b"AUTHENTICATE PLAIN c2VjcmV0", "AUTH PLAIN"),
        (b"AUTH \xff\xfe", "AUTH"),
    ],
)
def test_a_command(line: bytes, expected: str) -> None:
    assert shown.command(line) == expected


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b"PASS hunter2", "PASS"),
        (b"GET / HTTP/1.1", "GET"),
        (b"x" * 300, "x" * 40),
        (b"", ""),
        (b" FOO hunter2", " "),
        (b"\x16\x03hunter2", r"\x16"),
        ("größe".encode(), "gr"),
    ],
)
def test_the_first_word(line: bytes, expected: str) -> None:
    assert shown.first_word(line) == expected


@pytest.mark.parametrize("line", [b"", b"A", b"MAIL FROM:<auth@example.com>", b"OAUTH x", b"A UT", b"HELO auth"])
def test_no_login(line: bytes) -> None:
    assert not shown.is_login(line)
