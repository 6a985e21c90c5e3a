"""Command lines, however their octets come."""

import pytest

from mailroot.smtp.errors import ProtocolError
from mailroot.smtp.lines import MAX_LINE, LineReader

pytestmark = pytest.mark.quick


def lines(*pieces: bytes) -> list[bytes | int]:
    """Every line that is found; a refused one as the code of its reply."""
    reader = LineReader()
    found: list[bytes | int] = []
    for piece in pieces:
        reader.receive(piece)
        while True:
            try:
                line = reader.line()
            except ProtocolError as error:
                found.append(error.reply.code)
                continue
            if line is None:
                break
            found.append(line)
    return found


def single(octets: bytes) -> list[bytes]:
    return [octets[n : n + 1] for n in range(len(octets))]


@pytest.mark.parametrize(
    ("octets", "expected"),
    [
        (b"NOOP\r\n", [b"NOOP"]),
        (b"A\r\nB\r\n\r\n", [b"A", b"B", b""]),
        (b"A\r\nB", [b"A"]),
        # The first line decides what ends one.
        (b"A\nB\n", [b"A", b"B"]),
        (b"A\nB\r\nC\n", [b"A", b"B", b"C"]),
        (b"\nB\n", [b"", b"B"]),
        (b"A\r\nB\nC\r\n", [b"A", b"B\nC"]),
        (b"A\r\nB\rC\r\n", [b"A", b"B\rC"]),
        (b"A\r\r\nB\r\n", [b"A\r", b"B"]),
        # Too long, to the octet.
        (b"x" * (MAX_LINE - 2) + b"\r\nB\r\n", [b"x" * (MAX_LINE - 2), b"B"]),
        (b"x" * (MAX_LINE - 1) + b"\r\nB\r\n", [500, b"B"]),
        (b"A\r\n" + b"x" * (MAX_LINE - 2) + b"\r\nB\r\n", [b"A", b"x" * (MAX_LINE - 2), b"B"]),
        (b"A\r\n" + b"x" * (MAX_LINE - 1) + b"\r\nB\r\n", [b"A", 500, b"B"]),
        (b"A\r\n" + b"x" * 100_000 + b"\nNOOP\r\nB\r\n", [b"A", 500, b"B"]),
        (b"x" * 100_000 + b"\r\nB\r\n", [500, b"B"]),
    ],
)
def test_lines(octets: bytes, expected: list[bytes | int]) -> None:
    assert lines(octets) == expected
    assert lines(*single(octets)) == expected
    for at in {1, 2, len(octets) // 2, len(octets) - 2, len(octets) - 1}:
        assert lines(octets[:at], octets[at:]) == expected


@pytest.mark.parametrize("pieces", [[b"\x16\x03\x01\x02\n"], [b"\x16", b"\x03"]])
def test_a_tls_handshake_is_no_line(pieces: list[bytes]) -> None:
    reader = LineReader()
    for piece in pieces[:-1]:
        reader.receive(piece)
        assert reader.line() is None
    reader.receive(pieces[-1])
    with pytest.raises(ProtocolError) as caught:
        reader.line()
    assert caught.value.fatal


def test_an_endless_line_is_not_kept() -> None:
    reader = LineReader()
    for _ in range(1000):
        reader.receive(b"x" * 10_000)
        assert reader.line() is None
        assert reader.unread <= MAX_LINE


def test_what_is_taken_too_much_comes_back() -> None:
    reader = LineReader()
    reader.receive(b"DATA\r\ncontent.NOOP\r\n")
    assert reader.line() == b"DATA"
    assert reader.unread == 14
    assert reader.take() == b"content.NOOP\r\n"
    assert reader.unread == 0
    reader.put_back(b"NOOP\r\n")
    reader.receive(b"QUIT\r\n")
    assert reader.line() == b"NOOP"
    assert reader.line() == b"QUIT"
