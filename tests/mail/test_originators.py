"""Fields cut out of a header and written anew: every octet accounted for, and any display name safe."""

from email import message_from_bytes, policy
from email.message import EmailMessage

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailroot.mail.header import decode_words, field_values, fields, scan
from mailroot.mail.originators import copied_field, cut, named_field

pytestmark = pytest.mark.quick


def test_a_header_is_cut_into_its_octets() -> None:
    header = b"Received: a\r\n b\r\nfrom : c@d\r\n\t(e)\r\nX:\r\nSUBJECT:y\rz\r\n"
    found = cut(header)
    assert [(field.name, field.value) for field in found] == [
        (b"received", b"a b"),
        (b"from", b"c@d\t(e)"),
        (b"x", b""),
        (b"subject", b"y\rz"),
    ]
    assert b"".join(field.octets for field in found) == header
    assert found[1].raw_value == b" c@d\r\n\t(e)\r\n"


@given(st.binary(max_size=80) | st.text("From: \r\n\tx@y.z", max_size=80).map(str.encode))
def test_every_header_is_cut_as_it_is_scanned(octets: bytes) -> None:
    head = scan(octets + b"\r\n\r\n", complete=True)
    assert head is not None
    header = (octets + b"\r\n\r\n")[: head.end - (2 if head.separated else 0)]
    found = cut(header)
    assert b"".join(field.octets for field in found) == header
    # There a bare CR or LF at the end of a value counts as white space; here nothing but white space does.
    cut_values = [(field.name, field.value.strip(b" \t\r\n")) for field in found]
    assert cut_values == [(name.lower(), value) for name, value in fields(header)]


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("", b"From: <noreply@example.com>\r\n"),
        ("Bob", b'From: "Bob" <noreply@example.com>\r\n'),
        ("ceo@other.example", b'From: "ceo@other.example" <noreply@example.com>\r\n'),
        ('Bob "the" \\ Boss', b'From: "Bob \\"the\\" \\\\ Boss" <noreply@example.com>\r\n'),
        ("Jürgen", b"From: =?utf-8?B?SsO8cmdlbg==?= <noreply@example.com>\r\n"),
        ("=?utf-8?q?x?=", b"From: =?utf-8?B?PT91dGYtOD9xP3g/PQ==?= <noreply@example.com>\r\n"),
        ("a\r\nBcc: b", b'From: "a Bcc: b" <noreply@example.com>\r\n'),
        ("x" * 60, b'From: "' + b"x" * 60 + b'"\r\n <noreply@example.com>\r\n'),
    ],
)
def test_a_name_and_an_address(name: str, written: bytes) -> None:
    assert named_field(b"From", name, "noreply@example.com") == written


@given(st.text(max_size=200))
def test_any_display_name_comes_out_as_it_went_in(name: str) -> None:
    octets = named_field(b"From", name, "noreply@example.com")
    assert octets.isascii()
    assert all(len(line) <= 76 for line in octets.split(b"\r\n"))
    assert len(cut(octets)) == 1
    wanted = " ".join("".join(c if c.isprintable() else " " for c in name).split())
    message = message_from_bytes(octets + b"\r\n", EmailMessage, policy=policy.default)
    (mailbox,) = message["From"].addresses
    assert mailbox.addr_spec == "noreply@example.com"
    (value,) = field_values(octets, b"from")
    if b"=?" in value:
        phrase = value.removesuffix(b"<noreply@example.com>")
        assert decode_words(phrase, 1000) == wanted
    else:
        assert mailbox.display_name == wanted


def test_a_copy_keeps_the_octets_and_the_length_of_lines() -> None:
    sources = cut(b"From: Bob <a@b>,\r\n c@d\r\nfrom:e@f\r\n")
    assert copied_field(b"Reply-To", sources) == b"Reply-To: Bob <a@b>,\r\n c@d,e@f\r\n"
    long = cut(b"From: " + b"x" * 992 + b"\r\n a@b\r\n")
    assert copied_field(b"Reply-To", long) == b"Reply-To:\r\n " + b"x" * 992 + b"\r\n a@b\r\n"
