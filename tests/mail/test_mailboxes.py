"""Address lists: what programs write is understood, and what two programs would read differently is not trusted."""

from email.utils import getaddresses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailroot.mail.mailboxes import Mailbox, mailboxes, read_originators

pytestmark = pytest.mark.quick


@pytest.mark.parametrize(
    ("value", "addresses"),
    [
        (b"", []),
        (b"a@b", ["a@b"]),
        (b"a@b, c@d;, ", ["a@b", "c@d"]),
        (b'"Foo, Bar" <a@b>', ["a@b"]),
        (b'Team: a@b, "x y"@c (comment (nested, \\) ) "), e@f;, g@h', ["a@b", '"x y"@c', "e@f", "g@h"]),
        (b"undisclosed-recipients:;", []),
        (b"<@a,@b:u@c>", ["u@c"]),
        (b"Bob <a@[IPv6:2001::1]>", ["a@[IPv6:2001::1]"]),
        (b"john . doe @ example . com", ["john.doe@example.com"]),
        (b"Bob bob@x", ["bob@x"]),
        (b"local", ["local"]),
        (b"Bob <local>, x", ["local", "x"]),
        (b"=?utf-8?q?a,_b?= <x@y>, (c) z@w", ["x@y", "z@w"]),
        ("Jürgen <jürgen@bücher.example>".encode(), ["jürgen@bücher.example"]),
        (b"a@b <c@d>", ["c@d"]),
        (b"Bob <>", ["<>"]),
        (b"John Doe", ["John Doe"]),
        (b"<a@b, c@d", ["a@b", "c@d"]),
        (b'"never closed, a@b', ['"never closed, a@b']),
        (b"(never closed, a@b", []),
        (b"a@b\r\n\t, c@d", ["a@b", "c@d"]),
    ],
)
def test_address_lists(value: bytes, addresses: list[str]) -> None:
    assert mailboxes(value) == addresses


_ATOM = st.text("abcXYZ0129-_+!#", min_size=1, max_size=8)
_SIMPLE = st.builds(lambda local, domain: f"{local}@{domain}.example", _ATOM, st.text("abc09", min_size=1))
_NAMED = st.builds(lambda name, address: f'"{name}" <{address}>', st.text("abc, ;:<@", max_size=9), _SIMPLE)


@given(st.lists(_SIMPLE | _NAMED, min_size=1, max_size=6))
def test_address_lists_as_the_standard_library_reads_them(entries: list[str]) -> None:
    text = ", ".join(entries)
    assert mailboxes(text.encode()) == [address for _, address in getaddresses([text])]


@pytest.mark.parametrize(
    ("value", "named"),
    [
        (b"", []),
        (b"   ", []),
        (b"a@b", [("", "a@b")]),
        (b"<a@b>", [("", "a@b")]),
        (b"Bob <a@b>", [("Bob", "a@b")]),
        (b'"Bob, \\"the\\" Boss" <a@b>', [('Bob, "the" Boss', "a@b")]),
        (b"=?utf-8?q?J=C3=BCrgen?= =?utf-8?q?_B?= <a@b>", [("Jürgen B", "a@b")]),
        (b"a@b (Bob (the Boss))", [("Bob (the Boss)", "a@b")]),
        (b"<a@b> (Bob)", [("Bob", "a@b")]),
        (b"Bob <a@b> (not a name)", [("Bob", "a@b")]),
        (b"Bob a@b", [("", "a@b")]),
        (b"a@b, Carl <c@d>", [("", "a@b"), ("Carl", "c@d")]),
        (b"Board: a@b, Carl <c@d>;", [("", "a@b"), ("Carl", "c@d")]),
        (b"Board: a@b;, c@d", [("", "a@b"), ("", "c@d")]),
        (b"Board:;", []),
        (b"<@x,@y:a@b>", [("", "a@b")]),
        (b'"a b"@c', [("", '"a b"@c')]),
        (b"Bob <a@[192.0.2.1]>", [("Bob", "a@[192.0.2.1]")]),
        ("Jürgen <j@bücher.example>".encode(), [("Jürgen", "j@bücher.example")]),
        ("Jürgen <j@b>".encode("latin-1"), [("Jürgen", "j@b")]),
        # An address outside of the brackets is one that people see
        (b"ceo@x <a@b>", [("ceo@x", "a@b"), ("", "ceo@x")]),
        (b"a@b (ceo@x)", [("ceo@x", "a@b")]),
        # What is no address is named as well
        (b"Printer 7", [("", "Printer 7")]),
        (b"root", [("", "root")]),
        (b"Bob <>", [("Bob", "")]),
        (b"a@b c@d", [("", "a@b c@d")]),
    ],
)
def test_whom_a_field_can_be_taken_to_name(value: bytes, named: list[tuple[str, str]]) -> None:
    assert read_originators(value) == tuple(Mailbox(*one) for one in named)


@pytest.mark.parametrize(
    "value",
    [
        b'"Bob <a@b>',
        b"a@b (never closed <c@d>",
        b"a@b (closed (but not the outer one) <c@d>",
        b"<a@b",
        b"<a@b, c@d",
        b"<a@b <c@d>",
        b"<a@b> <c@d>",
        b"<a@b> c@d",
        b"<a@b> Bob",
        b"<a@b>: c@d;",
        b"a@b>",
        b"a@b; c@d",
        b"a@b: c@d;",
        b"One: Two: a@b;",
        b"<a@b>\x00",
        b"a@b\x00c@d",
        b"a@b\r c@d",
        b"a@b\n c@d",
        b"<a@b:c@d>",
        "Jürgen <jürgen@b>".encode("latin-1"),
        "j@bücher.example".encode("latin-1"),
    ],
)
def test_a_field_that_two_programs_would_read_differently_is_not_read(value: bytes) -> None:
    assert read_originators(value) is None


@given(st.lists(_SIMPLE | _NAMED, min_size=1, max_size=6))
def test_authors_as_the_standard_library_reads_them(entries: list[str]) -> None:
    text = ", ".join(entries)
    read = read_originators(text.encode())
    assert read is not None
    assert [one.address for one in read] == [address for _, address in getaddresses([text])]


@given(st.binary(max_size=60) | st.text('<>@,;:"\\()[]. ab=?', max_size=40).map(str.encode))
def test_no_octets_break_them_and_nobody_is_overlooked(octets: bytes) -> None:
    seen_by_the_forgiving = [address for address in mailboxes(octets) if "@" in address]
    read = read_originators(octets)
    if read is not None:
        assert set(seen_by_the_forgiving) <= {one.address for one in read}
