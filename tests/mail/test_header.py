"""Finding the end of a header and the fields we look at, in anything whatever."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mailroot.mail.header import Head, decode_words, field_values, fields, printable, scan

pytestmark = pytest.mark.quick

MESSAGE = (
    b"Received: from a by b; date\r\n"
    b"received : from c\r\n\tby d; date\r\n"
    b"X-Received: not one\r\n"
    b"Message-ID:\r\n <one@example.com>\r\n"
    b"DATE: now\r\n"
    b"From: me@example.com\r\n"
    b"Subject: Test\r\n\tMessage\r\n"
    b"\r\n"
    b"Received: in the body\r\n"
)


def scanned(octets: bytes, complete: bool = True) -> Head:
    head = scan(octets, complete=complete)
    assert head is not None
    return head


def test_a_plain_message() -> None:
    assert scan(MESSAGE) == Head(
        end=MESSAGE.index(b"\r\n\r\n") + 4,
        separated=True,
        hops=2,
        has_date=True,
        message_id="<one@example.com>",
        subject="Test\tMessage".replace("\t", " "),
    )


def test_the_end_is_awaited() -> None:
    end = MESSAGE.index(b"\r\n\r\n") + 4
    for length in range(end):
        assert scan(MESSAGE[:length]) is None
    assert scan(MESSAGE[:end]) == scan(MESSAGE)


def test_no_header_at_all() -> None:
    assert scanned(b"Hello, this is text\r\nSubject: no\r\n\r\n") == Head(0, False, 0, False, None, "")
    assert scanned(b" folded: first\r\n\r\n").end == 0
    assert (scanned(b"\r\nSubject: body\r\n").end, scanned(b"\r\nbody\r\n").separated) == (2, True)
    assert scanned(b"").end == 0


def test_a_line_that_is_no_field_ends_the_header() -> None:
    head = scanned(b"Subject: one\r\nno field here\r\nDate: x\r\n\r\n", complete=False)
    assert (head.end, head.separated, head.subject, head.has_date) == (14, False, "one", False)


def test_a_message_that_is_only_header() -> None:
    octets = b"Subject: one\r\nDate: x\r\n"
    assert scan(octets) is None
    head = scanned(octets)
    assert (head.end, head.separated, head.has_date, head.subject) == (len(octets), False, True, "one")
    assert scanned(b"Subject: unfinished").subject == "unfinished"


def test_only_crlf_ends_a_line() -> None:
    head = scanned(b"Subject: one\nDate: hidden\rFrom: hidden\r\n\r\n", complete=False)
    assert (head.has_date, head.subject) == (False, "one Date: hidden From: hidden")


@pytest.mark.parametrize(
    ("value", "seen"),
    [
        (b"<a@b>", "<a@b>"),
        (b" <a@b> (comment)", "<a@b>"),
        (b"no brackets", "no brackets"),
        (b"", None),
        (b"   ", None),
        (b"<a b@c>", "<a b@c>"),
        (b"<\x07a@b>", "< a@b>"),
        ("<ä@b>".encode(), "<??@b>"),
        (b"x" * 300, "x" * 250),
    ],
)
def test_message_identifiers(value: bytes, seen: str | None) -> None:
    assert scanned(b"Message-ID:" + value + b"\r\n\r\n").message_id == seen


@pytest.mark.parametrize(
    ("value", "seen"),
    [
        (b"plain", "plain"),
        ("Grüße".encode(), "Grüße"),
        ("Grüße".encode("cp1252"), "Grüße"),
        (b"=?utf-8?B?R3LDvMOfZQ==?=", "Grüße"),
        (b"=?UTF-8?q?Gr=C3=BC=C3=9Fe_da?= x", "Grüße da x"),
        (b"=?iso-8859-1*de?Q?Gr=FC=DFe?=", "Grüße"),
        (b"=?utf-8?q?Gr=C3?= =?utf-8?q?=BC=C3=9Fe?=", "Grüße"),
        (b"=?utf-8?q?a?=  =?iso-8859-1?q?b?=", "ab"),
        (b"=?utf-8?q?a?= b =?utf-8?q?c?=", "a b c"),
        (b"=?utf-8?B?R3LDvMOfZQ?=", "Grüße"),
        (b"=?utf-8?B?!!!!?=", "=?utf-8?B?!!!!?="),
        (b"=?utf-8?B?R3LDv?=", "=?utf-8?B?R3LDv?="),
        (b"=?rot13?Q?abc?=", "=?rot13?Q?abc?="),
        (b"=?unicode_escape?Q?=5Cd?=", "=?unicode_escape?Q?=5Cd?="),
        (b"=?utf-8?Q?=FF?= rest", "=?utf-8?Q?=FF?= rest"),
        (b"=?utf-8?q?one=0D=0ABcc:_x?=", "one  Bcc: x"),
        (b"=?utf-8?q?=E2=80=AEevil?=", "evil"),
        (b"=?broken", "=?broken"),
        (b"x" * 5000, "x" * 200),
    ],
)
def test_subjects(value: bytes, seen: str) -> None:
    assert scanned(b"Subject: " + value + b"\r\n\r\n").subject == seen


def test_field_values_are_unfolded() -> None:
    octets = b"To: a,\r\n  b\r\nX: y\r\ntO:c\r\n\r\nTo: body\r\n"
    assert field_values(octets, b"to") == [b"a,  b", b"c"]
    assert field_values(b"To: no line end", b"TO") == [b"no line end"]
    assert fields(b"A: 1\r\nB : 2\r\n") == [(b"A", b"1"), (b"B", b"2")]
    assert fields(b"no field\r\nA: 1\r\n") == []


_LINE = [b"Received: x", b"Subject: =?utf-8?q?=C3?=", b"Message-ID:", b" <a@b>", b"\tfold", b"", b"no field"]
_ODD_LINE = [b"\r", b"Date : \n", b"From:\xff", b"\x00: x", b": x", b"Subject"]
_LINES = st.lists(st.sampled_from(_LINE + _ODD_LINE) | st.binary(max_size=12))
_ENDS = st.sampled_from([b"\r\n", b"\r\n", b"\r\n", b"\n", b"\r", b""])
_OCTETS = st.binary(max_size=200) | st.builds(
    lambda lines, end: b"".join(line + end for line in lines), _LINES, _ENDS
)


@given(_OCTETS, _OCTETS)
@example(b"\r\n", b"\r\n")
def test_any_octets_are_read_and_more_of_them_change_nothing(octets: bytes, more: bytes) -> None:
    head = scan(octets)
    if head is None:
        assert 0 <= scanned(octets).end <= len(octets)
        return
    assert 0 <= head.end <= len(octets)
    assert scan(octets + more) == head
    assert scan(octets + more, complete=True) == head
    assert head.subject.isprintable() and len(head.subject) <= 200
    assert head.message_id is None or (head.message_id.isprintable() and head.message_id.isascii())
    found = [name.lower() for name, _ in fields(octets[: head.end])]
    assert found.count(b"received") == head.hops
    assert (b"date" in found) == head.has_date


@given(_OCTETS)
def test_no_octets_break_the_smaller_parsers(octets: bytes) -> None:
    assert len(decode_words(octets, 50)) <= 50
    assert printable(octets.decode("latin-1")).isprintable()
