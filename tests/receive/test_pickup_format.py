"""What a Pickup file says, in pieces of any size, against the plainest way to do the same."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailroot.receive.pickup_format import BadFile, LineEnds, Opening, Unstuffing, read_header

pytestmark = pytest.mark.quick

texts = st.lists(st.sampled_from([b"\r", b"\n", b"\r\n", b".", b"..", b"a", b"\xff", b"\0"]), max_size=30).map(
    b"".join
)
cuts = st.lists(st.integers(1, 5), max_size=60)


def pieces(octets: bytes, sizes: list[int]) -> list[bytes]:
    cut = []
    for size in sizes:
        cut.append(octets[:size])
        octets = octets[size:]
    return [*cut, octets]


def through(step: LineEnds | Unstuffing, octets: bytes, sizes: list[int]) -> bytes:
    return b"".join([*(step.add(piece) for piece in pieces(octets, sizes)), step.end()])


@given(texts, cuts)
def test_every_line_end_becomes_crlf_however_it_is_cut(text: bytes, sizes: list[int]) -> None:
    assert through(LineEnds(), text, sizes) == re.sub(rb"\r\n|\r|\n", b"\r\n", text)


@given(texts, cuts)
def test_a_byte_order_mark_goes_and_only_in_front(text: bytes, sizes: list[int]) -> None:
    mark = b"\xef\xbb\xbf"
    assert through(LineEnds(), mark + text + mark, sizes) == re.sub(rb"\r\n|\r|\n", b"\r\n", text) + mark


@given(texts, cuts)
def test_doubled_dots_are_halved_however_it_is_cut(text: bytes, sizes: list[int]) -> None:
    text = re.sub(rb"\r\n|\r|\n", b"\r\n", text)
    # What comes out of LineEnds is never cut between CR and LF.
    whole: list[bytes] = []
    for piece in pieces(text, sizes):
        if whole and whole[-1].endswith(b"\r"):
            whole[-1] += piece
        else:
            whole.append(piece)
    step = Unstuffing()
    lines = text.split(b"\r\n")
    expected = b"\r\n".join(line[1:] if line.startswith(b"..") else line for line in lines)
    assert b"".join([*(step.add(piece) for piece in whole), step.end()]) == expected


@given(texts)
def test_what_is_stuffed_comes_back_as_it_was(text: bytes) -> None:
    text = re.sub(rb"\r\n|\r|\n", b"\r\n", text)
    stuffed = b"\r\n".join(b"." + line if line.startswith(b".") else line for line in text.split(b"\r\n"))
    assert through(Unstuffing(), stuffed, []) == text


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_any_header_is_read_or_refused_in_words(header: bytes) -> None:
    header = b"From: a@x.example\r\n" + re.sub(rb"\r\n|\r|\n", b"\r\n", header) + b"\r\n"
    try:
        opening = read_header(header, "corp.example", 100)
    except BadFile as error:
        assert str(error).endswith(".")
        assert str(error).isprintable()
    else:
        assert opening.recipients


@given(
    st.lists(st.sampled_from([b"Subject: x\r\n", b"Bcc: b@x\r\n", b"X-SENDER : a@x\r\n", b"X: y\r\n bcc: z\r\n"]))
)
def test_only_the_envelope_leaves_the_header(lines: list[bytes]) -> None:
    opening = read_header(b"From: a@x\r\nTo: b@x\r\n" + b"".join(lines), "corp.example", 100)
    assert isinstance(opening, Opening)
    kept = [line for line in lines if not line.startswith((b"Bcc", b"X-SENDER"))]
    assert opening.header == b"From: a@x\r\nTo: b@x\r\n" + b"".join(kept)
