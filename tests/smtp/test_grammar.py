"""Addresses as clients write them."""

import pytest

from mailroot.mail.address import Address
from mailroot.smtp.grammar import decode_unitext, decode_xtext, parse_mailbox, read_path

pytestmark = pytest.mark.quick

D = "default.example"


@pytest.mark.parametrize(
    ("text", "local", "domain", "rest"),
    [
        ("<user@example.com>", "user", "example.com", ""),
        ("<user@example.com> SIZE=5  BODY=7BIT", "user", "example.com", "SIZE=5  BODY=7BIT"),
        ("user@example.com", "user", "example.com", ""),
        ("user@example.com SIZE=5", "user", "example.com", "SIZE=5"),
        ("  <user@example.com>  ", "user", "example.com", ""),
        ("< user@example.com >", "user", "example.com", ""),
        ("<User.Name+tag@EXAMPLE.com>", "User.Name+tag", "EXAMPLE.com", ""),
        ("<!#$%&'*+-/=?^_`{|}~@example.com>", "!#$%&'*+-/=?^_`{|}~", "example.com", ""),
        # Without a domain
        ("<user>", "user", D, ""),
        ("user", "user", D, ""),
        ("<postmaster>", "postmaster", D, ""),
        ("<PostMaster> NOTIFY=NEVER", "PostMaster", D, "NOTIFY=NEVER"),
        # Never routed by what stands in the local part
        ("<user%other.example>", "user%other.example", D, ""),
        ("<user%other.example@example.com>", "user%other.example", "example.com", ""),
        ("<other!user>", "other!user", D, ""),
        ('<"user@other.example">', '"user@other.example"', D, ""),
        ('<"user@other.example"@example.com>', '"user@other.example"', "example.com", ""),
        # Quoted
        ('<"a b"@example.com>', '"a b"', "example.com", ""),
        ('<"a>b"@example.com> SIZE=1', '"a>b"', "example.com", "SIZE=1"),
        (r'<"a\"b\\"@example.com>', r'"a\"b\\"', "example.com", ""),
        ('<""@example.com>', '""', "example.com", ""),
        ('"a b"@example.com SIZE=1', '"a b"', "example.com", "SIZE=1"),
        # Source routes are dropped
        ("<@a.example,@b.example:user@example.com>", "user", "example.com", ""),
        ("<@a.example:user@example.com>", "user", "example.com", ""),
        ("<@[192.0.2.1]:user@example.com>", "user", "example.com", ""),
        # Literals
        ("<user@[192.0.2.1]>", "user", "[192.0.2.1]", ""),
        ("<user@[IPv6:2001:db8::1]>", "user", "[IPv6:2001:db8::1]", ""),
        ("<user@[ipv6:::1]>", "user", "[ipv6:::1]", ""),
        # Taken although the RFC would not
        ("<a..b@example.com>", "a..b", "example.com", ""),
        ("<.a.@example.com>", ".a.", "example.com", ""),
        ("<user@my_server.local>", "user", "my_server.local", ""),
        ("<user@example.com.>", "user", "example.com", ""),
        ("<user@localhost>", "user", "localhost", ""),
        ("<user@1.2.3.4>", "user", "1.2.3.4", ""),
        # Internationalized
        ("<grå@example.com>", "grå", "example.com", ""),
        ("<user@bücher.example>", "user", "bücher.example", ""),
        ('<"grå b"@bücher.example>', '"grå b"', "bücher.example", ""),
        ("<user@xn--bcher-kva.example>", "user", "xn--bcher-kva.example", ""),
        # To the octet
        ("<" + "x" * 64 + "@example.com>", "x" * 64, "example.com", ""),
    ],
)
def test_paths(text: str, local: str, domain: str, rest: str) -> None:
    assert read_path(text, D) == (Address(local, domain), rest)


def test_the_longest_path() -> None:
    domain = ".".join(["d" * 61] * 4)[:189]
    local = "x" * 64
    assert len(f"<{local}@{domain}>") == 256
    assert read_path(f"<{local}@{domain}>", D)[0] == Address(local, domain)
    with pytest.raises(ValueError, match="longer than 254 octets"):
        read_path(f"<{local}@{domain}d>", D)


@pytest.mark.parametrize("text", ["<>", "< >", " <> "])
def test_the_null_path(text: str) -> None:
    assert read_path(text, D) == (None, "")
    assert read_path(text.rstrip() + " SIZE=3", D) == (None, "SIZE=3")


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "<user@example.com",
        "user@example.com>",
        "<user@example.com>x",
        "<user@example.com>SIZE=3",
        "<<user@example.com>>",
        "<@example.com>",
        "<user@>",
        "<user@@example.com>",
        "<a@b@example.com>",
        "<user@exa mple.com>",
        "<us er@example.com>",
        "<user@-example.com>",
        "<user@example-.com>",
        "<user@example..com>",
        "<user@.example.com>",
        "<user@exam(ple.com>",
        "<us(er)@example.com>",
        "<user,other@example.com>",
        "<user;other@example.com>",
        "<user:x@example.com>",
        "<user\\@example.com>",
        '<"user@example.com>',
        '<"user"x@example.com>',
        '<us"er"@example.com>',
        "<@a.example>",
        "<@a.example:>",
        "<@a.example,b.example:user@example.com>",
        "<user@[192.0.2.256]>",
        "<user@[192.0.2.1>",
        "<user@[192.0.2.1]x>",
        "<user@[2001:db8::1]>",
        "<user@[IPv6:192.0.2.1]>",
        "<user@[IPv6:fe80::1%eth0]>",
        "<user@[X-tag:thing]>",
        "<user@[]>",
        "<" + "x" * 65 + "@example.com>",
        "<user@" + "d" * 64 + ".example>",
        "<user@" + "d." * 130 + "example>",
        "<" + "å" * 33 + "@example.com>",
        "<user@b\u00fccher\u2028.example>",
        "<user@--\u00fc.example>",
        "Bob <bob@example.com>",
        '"Bob" <bob@example.com>',
    ],
)
def test_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        read_path(text, D)


@pytest.mark.parametrize("text", ["someone@example.com", " someone@example.com ", "<someone@example.com>"])
def test_mailboxes_of_people(text: str) -> None:
    assert parse_mailbox(text, None) == Address("someone", "example.com")


def test_a_mailbox_without_domain() -> None:
    assert parse_mailbox("someone", "example.com") == Address("someone", "example.com")
    with pytest.raises(ValueError, match="'someone' is not an e-mail address: the domain is missing"):
        parse_mailbox("someone", None)


@pytest.mark.parametrize(
    "text", ["", "<>", "a b@example.com", "a@b\r\nc", "a\x00@example.com", "a@example.com,b@x"]
)
def test_mailboxes_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not an e-mail address"):
        parse_mailbox(text, "example.com")


@pytest.mark.parametrize(
    ("text", "decoded"), [("abc", "abc"), ("a+2Bb+3Dc", "a+b=c"), ("+20", " "), ("", ""), ("rfc822;a", "rfc822;a")]
)
def test_xtext(text: str, decoded: str) -> None:
    assert decode_xtext(text) == decoded


@pytest.mark.parametrize("text", ["a+", "a+2", "a+2b", "a=b", "a b", "+0D+0A", "+00", "+FF", "\u00fc", "+7F"])
def test_xtext_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        decode_xtext(text)


def test_unitext() -> None:
    assert decode_unitext(r"gr\x{E5}@b\x{2B}") == "grå@b+"
    assert decode_unitext("grå@x") == "grå@x"
    for text in (r"\x{D800}", r"\x{110000}", r"\x{0D}\x{0A}", r"a\b", "a+b", r"\x{zz}", ""):
        with pytest.raises(ValueError, match=r"."):
            decode_unitext(text)


@pytest.mark.parametrize(
    "evil", ["<" + '"\\' * 1000, "<" + "@a," * 700, "<" + "a." * 1000 + "@", "<a@" + "b-" * 1000]
)
def test_no_pattern_takes_its_time(evil: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        read_path(evil, D)
