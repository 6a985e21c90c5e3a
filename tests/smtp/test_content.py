"""The content of messages, whole, octet by octet and split at every place; and what must never end it."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailroot.smtp.content import ChunkReader, DotReader, Message

pytestmark = pytest.mark.quick


def read(pieces: list[bytes]) -> tuple[bytes, bytes | None]:
    """All content and what follows its end (None: it has not come)."""
    reader = DotReader()
    content = b""
    for n, piece in enumerate(pieces):
        octets, rest = reader.read(piece)
        content += octets
        if rest is not None:
            return content, rest + b"".join(pieces[n + 1 :])
    return content, None


def single(octets: bytes) -> list[bytes]:
    return [octets[n : n + 1] for n in range(len(octets))]


CASES = [
    (b".\r\n", b"", b""),
    (b"\r\n.\r\n", b"\r\n", b""),
    (b"a\r\n.\r\nQUIT\r\n", b"a\r\n", b"QUIT\r\n"),
    (b"..\r\n.\r\n", b".\r\n", b""),
    (b"..a\r\n...b\r\n.\r\n", b".a\r\n..b\r\n", b""),
    (b".a\r\n.\r\n", b"a\r\n", b""),
    (b"a\r\n..\r\nb\r\n.\r\nrest", b"a\r\n.\r\nb\r\n", b"rest"),
    (b"a.\r\n.\r\n", b"a.\r\n", b""),
    (b"a\r\n.\r\n.\r\n", b"a\r\n", b".\r\n"),
    (b"\x00\xff\r\n.\r\n", b"\x00\xff\r\n", b""),
    # None of these is an end.
    (b"a\n.\nb\r\n.\r\n", b"a\n.\nb\r\n", b""),
    (b"a\n.\r\nb\r\n.\r\n", b"a\n.\r\nb\r\n", b""),
    (b"a\r.\rb\r\n.\r\n", b"a\r.\rb\r\n", b""),
    (b"a\r.\r\nb\r\n.\r\n", b"a\r.\r\nb\r\n", b""),
    (b"a\r\n.\nb\r\n.\r\n", b"a\r\n\nb\r\n", b""),
    (b"a\r\n.\rb\r\n.\r\n", b"a\r\n\rb\r\n", b""),
    (b"a\r\n.\r\r\nb\r\n.\r\n", b"a\r\n\r\r\nb\r\n", b""),
    (b".\nb\r\n.\r\n", b"\nb\r\n", b""),
    (b"a\n\r.\r\nb\r\n.\r\n", b"a\n\r.\r\nb\r\n", b""),
    (b"a\r\n\x00.\r\n.\r\n", b"a\r\n\x00.\r\n", b""),
]


@pytest.mark.parametrize(("octets", "content", "rest"), CASES)
def test_dots(octets: bytes, content: bytes, rest: bytes) -> None:
    assert read([octets]) == (content, rest)
    assert read(single(octets)) == (content, rest)
    for at in range(1, len(octets)):
        assert read([octets[:at], octets[at:]]) == (content, rest)
    for one, two in itertools.combinations(range(1, len(octets)), 2):
        assert read([octets[:one], octets[one:two], octets[two:]]) == (content, rest)


@pytest.mark.parametrize(
    "octets", [b"a\n.\n", b"a\r.\r", b"a\r\n.\r", b"a\r\n.", b"a\n.\r\n", b"\n.\r\n", b"a\r\n.\n"]
)
def test_no_end(octets: bytes) -> None:
    assert read([octets])[1] is None
    assert read(single(octets))[1] is None


def plainly(octets: bytes) -> tuple[bytes, bytes | None]:
    """The rule of RFC 5321 §4.5.2, line by line."""
    content = b""
    while octets:
        line, end, octets = octets.partition(b"\r\n")
        if not end:
            return content, None
        if line == b".":
            return content, octets
        content += line.removeprefix(b".") + end
    return content, None


@given(
    st.lists(st.sampled_from([b"\r", b"\n", b"\r\n", b".", b"..", b"a", b"\r\n.\r\n", b"\r\n."]), max_size=12),
    st.lists(st.integers(1, 4), max_size=20),
)
def test_as_the_rule_says(parts: list[bytes], cuts: list[int]) -> None:
    octets = b"".join(parts) + b"\r\n.\r\nNOOP"
    pieces = []
    rest = octets
    for cut in cuts:
        pieces.append(rest[:cut])
        rest = rest[cut:]
    pieces.append(rest)
    assert read([piece for piece in pieces if piece]) == plainly(octets)


def test_chunks_are_counted() -> None:
    reader = ChunkReader(5)
    assert reader.needs_octets
    assert reader.read(b"ab") == (b"ab", None)
    assert reader.read(b"\r\n.\r\n") == (b"\r\n.", b"\r\n")
    assert not ChunkReader(0).needs_octets
    assert ChunkReader(0).read(b"x") == (b"", b"x")


def take(message: Message, *pieces: bytes) -> bytes:
    taken = b"".join([message.take(piece) for piece in pieces])
    return taken + message.finish()


BARE = [
    b"a\nb\r\n",
    b"a\rb\r\n",
    b"\n",
    b"\r",
    b"a\n.\nb\r\n",
    b"a\r\r\nb\r\n",
    b"a\n\r\n",
    b"a\n\r",
    b"\r\n\r",
    b"\r\n\n",
]


@pytest.mark.parametrize("octets", BARE)
def test_bare_line_ends_are_refused(octets: bytes) -> None:
    for pieces in ([octets], single(octets)):
        message = Message(limit=0, repair=False, binary=False)
        take(message, *pieces)
        assert message.fault is not None
        assert (message.fault.code, message.fault.status) == (550, "5.6.11")


@pytest.mark.parametrize("octets", BARE)
def test_bare_line_ends_are_repaired(octets: bytes) -> None:
    plain = octets.replace(b"\r\n", b"\n").replace(b"\r", b"\n").replace(b"\n", b"\r\n")
    for pieces in ([octets], single(octets)):
        message = Message(limit=0, repair=True, binary=False)
        assert take(message, *pieces) == plain
        assert message.fault is None
        assert message.size == len(plain)


@pytest.mark.parametrize("octets", [*BARE, bytes(range(256))])
def test_binary_is_left_alone(octets: bytes) -> None:
    for pieces in ([octets], single(octets)):
        message = Message(limit=0, repair=False, binary=True)
        assert take(message, *pieces) == octets
        assert message.fault is None


def test_nothing_is_handed_on_past_the_limit() -> None:
    message = Message(limit=10, repair=False, binary=False)
    assert message.take(b"12345678\r\n") == b"12345678\r\n"
    assert message.fault is None
    assert message.take(b"x") == b""
    assert message.fault is not None
    assert message.fault.code == 552
    assert message.take(b"x") == b""


def test_an_announced_chunk_that_cannot_fit() -> None:
    message = Message(limit=10, repair=False, binary=False)
    message.announce(10)
    assert message.fault is None
    message.take(b"12345678\r\n")
    message.announce(1)
    assert message.fault is not None
