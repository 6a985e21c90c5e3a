"""Eight bits to seven: the standard library's parser must read the same out of both."""

from email import message_from_bytes
from email.message import Message

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mailroot.mail.convert import base64_lines, needs_conversion, quoted_printable, to_seven_bit

pytestmark = pytest.mark.quick

GERMAN = "Die Sicherung auf dem Rechner in München ist fehlgeschlagen.\r\n"


def converted(octets: bytes) -> bytes:
    result = to_seven_bit(octets)
    assert result is not None
    assert_seven_bit(result)
    return result


def assert_seven_bit(octets: bytes) -> None:
    assert octets.isascii() and b"\0" not in octets
    for line in octets.split(b"\r\n"):
        assert len(line) <= 998 and b"\r" not in line and b"\n" not in line


def leaves(message: Message) -> list[tuple[str, bytes]]:
    """Type and decoded octets of every part that is no container."""
    found = []
    for part in message.walk():
        if not part.is_multipart():
            payload = part.get_payload(decode=True)
            assert isinstance(payload, bytes)
            found.append((part.get_content_type(), payload))
    return found


def message(*lines: str | bytes) -> bytes:
    return b"".join((line if isinstance(line, bytes) else line.encode()) + b"\r\n" for line in lines)


@pytest.mark.parametrize(
    ("octets", "needs"),
    [
        (b"", False),
        (b"plain\r\n", False),
        (b"no line end", False),
        (b"x" * 998 + b"\r\n", False),
        (b"x" * 999 + b"\r\n", True),
        (b"a\r\n" + b"x" * 999, True),
        (b"bare\nline feed\r\n", True),
        (b"bare\rreturn\r\n", True),
        (b"\r\r\n", True),
        (b"nul\0\r\n", True),
        (b"caf\xe9\r\n", True),
    ],
)
def test_what_needs_conversion(octets: bytes, needs: bool) -> None:
    assert needs_conversion(octets) is needs


def test_a_message_that_needs_none_stays() -> None:
    octets = message("Subject: x", "Content-Transfer-Encoding: 8bit", "", "plain")
    assert to_seven_bit(octets) is octets


def test_text_becomes_quoted_printable_and_nothing_else_changes() -> None:
    octets = message(
        "Subject: x",
        "MIME-Version: 1.0",
        "Content-type: text/plain;",
        "\tcharset=utf-8",
        "content-transfer-encoding:",
        " 8bit (really)",
        "X-Last: y",
        "",
        "an = in Köln ",
        "plain",
    )
    assert converted(octets) == message(
        "Subject: x",
        "MIME-Version: 1.0",
        "Content-type: text/plain;",
        "\tcharset=utf-8",
        "content-transfer-encoding: quoted-printable",
        "X-Last: y",
        "",
        "an =3D in K=C3=B6ln=20",
        "plain",
    )


def test_text_that_is_mostly_above_127_becomes_base64() -> None:
    octets = message("MIME-Version: 1.0", "Content-Type: text/plain; charset=utf-8", "", "Привет, как дела")
    result = converted(octets)
    assert b"Content-Transfer-Encoding: base64\r\n\r\n" in result
    assert leaves(message_from_bytes(result)) == [("text/plain", "Привет, как дела\r\n".encode())]


@pytest.mark.parametrize(
    ("body", "charset"),
    [("Grüße, dies ist Text".encode(), "utf-8"), (b"Gr\xfc\xdfe, dies ist Text", "unknown-8bit")],
)
def test_mail_that_was_just_sent_gets_mime_fields(body: bytes, charset: str) -> None:
    result = message_from_bytes(converted(message("Subject: x", "", body)))
    assert (result["MIME-Version"], result.get_content_charset()) == ("1.0", charset)
    assert result.get_payload(decode=True) == body + b"\r\n"
    assert result["Content-Transfer-Encoding"] == "quoted-printable"


def test_a_content_type_without_mime_version_gets_one() -> None:
    result = message_from_bytes(
        converted(message("Content-Type: text/html; charset=x", "", b"<p>\xe9 and much more"))
    )
    assert (result["MIME-Version"], result.get_content_type()) == ("1.0", "text/html")


MIXED = message(
    "From: a@example.com",
    "MIME-Version: 1.0",
    'Content-Type: multipart/mixed; boundary="a b"',
    "Content-Transfer-Encoding: 8bit",
    "",
    "The preamble",
    "--a b",
    "Content-Type: text/plain; charset=utf-8",
    "Content-Transfer-Encoding: 8bit",
    "",
    GERMAN,
    "--a b  ",
    "",
    "an untouched part without a header",
    "--a b",
    "Content-Type: multipart/alternative; boundary=inner",
    "Content-Transfer-Encoding: binary",
    "",
    "--inner",
    "Content-Type: text/html; charset=utf-8",
    "",
    "<p>" + GERMAN,
    "--inner",
    "Content-Type: image/x",
    "Content-Transfer-Encoding: binary",
    "",
    bytes(range(256)),
    "--inner--",
    "--a b",
    "Content-Type: message/rfc822",
    "Content-Transfer-Encoding: 8bit",
    "",
    "Subject: attached",
    "",
    GERMAN,
    "--a b--",
    "The epilogue",
)


def test_a_nested_message() -> None:
    result = converted(MIXED)
    before, after = message_from_bytes(MIXED), message_from_bytes(result)
    assert leaves(after) == leaves(before)
    encodings = [part["Content-Transfer-Encoding"] for part in after.walk()]
    assert encodings == [
        "7bit",
        "quoted-printable",
        None,
        "7bit",
        "quoted-printable",
        "base64",
        "7bit",
        "quoted-printable",
    ]
    assert (after.preamble, after.epilogue) == (before.preamble, before.epilogue)


def test_comments_and_quotes_in_a_content_type() -> None:
    octets = message(
        "MIME-Version: 1.0 (or so)",
        'Content-Type: (one) Multipart/Mixed (two) ; charset=x; (a (nested) comment) Boundary = "a\\"(b)" ; x',
        "",
        '--a"(b)',
        "",
        GERMAN,
        '--a"(b)--',
    )
    assert b"\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\nDie Sicherung" in converted(octets)


def test_a_clean_signed_part_stays_as_it_is() -> None:
    signed = message("Content-Type: multipart/signed; boundary=s", "", "--s", "", "text", "--s", "", "sig", "--s--")
    octets = message(
        "MIME-Version: 1.0",
        "Content-Type: multipart/mixed; boundary=m",
        "",
        "--m",
        signed,
        "--m",
        "",
        GERMAN,
        "--m--",
    )
    assert signed in converted(octets)


def _with_type(kind: str, *body: str | bytes) -> bytes:
    return message("MIME-Version: 1.0", f"Content-Type: {kind}", "", *body)


@pytest.mark.parametrize(
    "octets",
    [
        message("Subject: Grüße", "MIME-Version: 1.0", "", "text"),
        message("X: " + "x" * 1000, "", GERMAN),
        _with_type("multipart/signed; boundary=b", "--b", "", GERMAN, "--b--"),
        _with_type("multipart/encrypted; boundary=b", "--b", "", GERMAN, "--b--"),
        _with_type("multipart/mixed", "--b", "", GERMAN, "--b--"),
        _with_type("multipart/mixed; boundary=other", "--b", "", GERMAN, "--b--"),
        _with_type("multipart/mixed; boundary=b", "Präambel", "--b", "", "x", "--b--"),
        _with_type("multipart/mixed; boundary=b", "--b", "", "x", "--b--", "Schlußwort"),
        _with_type("multipart/mixed; boundary=b", "--b", "X-Part: ä", "", "x", "--b--"),
        _with_type("message/partial; id=x; number=1", "Subject: y", "", GERMAN),
        _with_type("message/rfc822", "Subject: ä", "", "text"),
        _with_type("text/plain\r\nContent-Transfer-Encoding: quoted-printable", GERMAN),
        _with_type("text/plain\r\nContent-Transfer-Encoding: x-uuencode", GERMAN),
        _with_type("text/plain\r\nContent-Type: text/html", GERMAN),
        "Grüße, und kein Kopf\r\n".encode(),
        b"Subject: x\r\nno field follows \xe9\r\n",
    ],
)
def test_what_cannot_be_done_without_loss_is_not_done(octets: bytes) -> None:
    assert to_seven_bit(octets) is None


def test_nesting_without_end_is_refused() -> None:
    octets = GERMAN.encode()
    for _ in range(100):
        octets = _with_type("message/rfc822", octets)
    assert to_seven_bit(octets) is None


def test_a_line_broken_in_two_never_looks_like_a_delimiter() -> None:
    line = "é" + "--b" * 400
    octets = _with_type("multipart/mixed; boundary=b", "--b", "Content-Type: text/plain", "", line, "--b--")
    result = converted(octets)
    assert leaves(message_from_bytes(result)) == [("text/plain", line.encode())]
    assert all(not one.startswith(b"--b") or one in {b"--b", b"--b--"} for one in result.split(b"\r\n"))


@given(st.binary(max_size=400) | st.text("a =-.\té\r\n", max_size=400).map(str.encode))
def test_encodings_give_back_the_same_octets(octets: bytes) -> None:
    for encoding, encoded in [("quoted-printable", quoted_printable(octets)), ("base64", base64_lines(octets))]:
        assert_seven_bit(encoded)
        assert all(len(line) <= 76 for line in encoded.split(b"\r\n"))
        part = message_from_bytes(b"Content-Transfer-Encoding: " + encoding.encode() + b"\r\n\r\n" + encoded)
        assert part.get_payload(decode=True) == octets


# Messages of any structure

_LINE = st.text("abc =-.\té€ß", max_size=120) | st.sampled_from(["x" * 1200, "--", "--b", "From me", "."])
_TEXT = st.lists(_LINE, max_size=6).map(lambda lines: "".join(line + "\r\n" for line in lines).encode())
_BINARY = st.binary(max_size=200).map(lambda octets: octets.replace(b"\r", b"").replace(b"\n", b"\r\n"))


def _leaf(kind: str, encoding: str, body: bytes) -> bytes:
    fields = [f"Content-Type: {kind}", *([f"Content-Transfer-Encoding: {encoding}"] if encoding else [])]
    return message(*fields, "") + body


_LEAVES = st.builds(_leaf, st.just("text/plain; charset=utf-8"), st.sampled_from(["", "8bit"]), _TEXT) | st.builds(
    _leaf, st.sampled_from(["application/x", "image/png"]), st.sampled_from(["", "binary"]), _BINARY
)


def _container(parts: list[bytes]) -> bytes:
    # A boundary that no part and no part's boundary has: its length is one more than theirs.
    boundary = b"boundary" + b"x" * (1 + max(part.count(b"boundary") for part in parts)) + b"z"
    body = b"".join(b"--" + boundary + b"\r\n" + part + b"\r\n" for part in parts) + b"--" + boundary + b"--\r\n"
    return b"Content-Type: multipart/mixed; boundary=" + boundary + b"\r\n\r\n" + body


def _attached(entity: bytes) -> bytes:
    return b"Content-Type: message/rfc822\r\n\r\nSubject: inner\r\nMIME-Version: 1.0\r\n" + entity


_ENTITIES = st.recursive(
    _LEAVES,
    lambda inner: st.lists(inner, min_size=1, max_size=3).map(_container) | inner.map(_attached),
    max_leaves=6,
)


@settings(max_examples=200)
@given(_ENTITIES)
def test_every_part_of_any_message_decodes_to_the_same(entity: bytes) -> None:
    octets = b"Subject: x\r\nMIME-Version: 1.0\r\n" + entity
    result = converted(octets)
    assert leaves(message_from_bytes(result)) == leaves(message_from_bytes(octets))
    assert to_seven_bit(result) is result


@given(st.binary(max_size=300) | _ENTITIES.flatmap(lambda e: st.integers(0, len(e)).map(lambda n: e[:n] + b"\xe9")))
def test_whatever_comes_the_result_is_seven_bit_or_none(octets: bytes) -> None:
    result = to_seven_bit(octets)
    if result is not None:
        assert_seven_bit(result)
