"""Mailboxes and paths as clients write them (RFC 5321 §4.1.2 and §4.1.3, RFC 6531 §3.3), and xtext (RFC 3461 §4).

    Reverse-path   = Path / "<>"
    Path           = "<" [ A-d-l ":" ] Mailbox ">"
    Mailbox        = Local-part "@" ( Domain / address-literal )
    Local-part     = Dot-string / Quoted-string

Taken beyond that, because programs send it and nothing is at stake:

- no brackets, and white space around the path: `MAIL FROM: user@example.com` (telnet recipes, scanners);
- no domain: the default domain is appended (RFC 5321 §4.1.1.3 knows it for postmaster only);
- dots at any place of a local part (`a..b@`, `a.@`: Japanese mobile networks gave such addresses out);
- underscores in domains (Windows computer names), a dot at a domain's end (it is dropped).

A local part is never looked into: `user%other.example`, `other!user` and `"user@other"` are mailboxes of the domain
that follows, and nothing is ever routed by them. Source routes are dropped (RFC 5321 appendix C).

Every function returns a value or raises ValueError with a text for people.
"""

import re
from ipaddress import IPv4Address, IPv6Address

import idna

from mailroot.mail.address import Address

# RFC 5321 §4.5.3.1.1 to §4.5.3.1.3, in octets.
MAX_LOCAL = 64
MAX_DOMAIN = 255
MAX_PATH = 256

_ATEXT = r"A-Za-z0-9!#$%&'*+/=?^_`{|}~\-"
_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
# What nearly every client sends, in one match: <dot-string@domain> and the parameters.
_PLAIN_PATH = re.compile(rf"<([{_ATEXT}.]{{1,64}})@({_LABEL}(?:\.{_LABEL})*)>(?: +(.*))?")
_DOMAIN = re.compile(rf"{_LABEL}(?:\.{_LABEL})*\.?")
_DOT_STRING = re.compile(rf"[{_ATEXT}.\u0080-\U0010ffff]+")
# qtextSMTP and quoted-pairSMTP, RFC 5321 §4.1.2; RFC 6531 §3.3 adds UTF-8.
_QUOTED = re.compile(r'"(?:[^"\\\x00-\x1f\x7f]|\\[\x20-\x7e])*"')
_ROUTE = re.compile(r"(?:@[^@:,<>\"\s]+,)*@[^@:,<>\"\s]+:")
_XTEXT = re.compile(r"(?:[!-*,-<>-~]|\+[0-9A-F]{2})*")
_UTF8_XTEXT = re.compile(r"(?:[!-*,-<>-~\u0080-\U0010ffff]|\+[0-9A-F]{2})*")
_HEXCHAR = re.compile(r"\+([0-9A-F]{2})")
_UNITEXT = re.compile(r"(?:[!-*,-<>-\[\]-~\u0080-\U0010ffff]|\\x\{[0-9A-F]{2,6}\})+")
_EMBEDDED = re.compile(r"\\x\{([0-9A-F]{2,6})\}")


def read_path(text: str, default_domain: str) -> tuple[Address | None, str]:
    """The path at the beginning of what follows `MAIL FROM:` or `RCPT TO:`, and the parameters after it.

    None is the null path `<>`.
    """
    if (plain := _PLAIN_PATH.fullmatch(text)) is not None:
        local, domain, rest = plain.groups()
        if len(local) + len(domain) + 3 <= MAX_PATH and len(domain) <= MAX_DOMAIN:
            return Address(local, domain), rest or ""
    text = text.strip(" ")
    if not text.startswith("<"):
        end = _mailbox_end(text, 0, " ")
        rest = text[end:].strip(" ")
        if rest.startswith("<"):
            raise ValueError("a display name stands before the address")
        return _mailbox(text[:end], default_domain), rest
    start = 1
    route = _ROUTE.match(text, start)
    if route is not None:
        start = route.end()
    end = _mailbox_end(text, start, ">")
    if end == len(text):
        raise ValueError("the closing '>' is missing")
    rest = text[end + 1 :]
    if rest and not rest.startswith(" "):
        raise ValueError("a space is missing after '>'")
    inside = text[start:end].strip(" ")
    if not inside and route is None:
        return None, rest.strip(" ")
    return _mailbox(inside, default_domain), rest.strip(" ")


def read_strict_path(text: str, default_domain: str) -> tuple[Address | None, str]:
    """As `read_path`, and only what RFC 5321 §4.1.2 and RFC 6531 §3.3 write: in brackets, no space within them, a
    domain but for postmaster, and dots of a local part between its atoms."""
    if not text.startswith("<") or text.startswith("< "):
        raise ValueError("an address stands in angle brackets, without spaces")
    route = _ROUTE.match(text, 1)
    path, rest = read_path(text, default_domain)
    if path is None:
        if not text.startswith("<>"):
            raise ValueError("the null path is '<>'")
        return None, rest
    mailbox = text[route.end() if route is not None else 1 :]
    if not mailbox.startswith(f"{path}>"):
        # A domain that was completed, or something that was cut off. RFC 5321 §4.1.1.3: postmaster needs none.
        if route is not None or path.local.lower() != "postmaster" or not mailbox.startswith(f"{path.local}>"):
            raise ValueError("an address has a domain, without a dot at its end")
    elif not path.is_literal and not is_domain(path.domain):
        raise ValueError(f"{path.domain!r} is not a domain name")
    local = path.local
    if not local.startswith('"') and (local.startswith(".") or local.endswith(".") or ".." in local):
        raise ValueError("a dot stands between two parts")
    return path, rest


def is_domain(text: str) -> bool:
    """Whether this is a Domain of RFC 5321 §4.1.2 (or RFC 6531 §3.3), with no underscore and no dot at its end."""
    try:
        return "_" not in text and _domain(text) == text and not text.startswith("[")
    except ValueError:
        return False


def is_host(text: str) -> bool:
    """Whether this is what EHLO wants: a domain in ASCII, or an address literal (RFC 5321 §4.1.1.1)."""
    if text.startswith("["):
        try:
            return _literal(text) == text
        except ValueError:
            return False
    return text.isascii() and is_domain(text)


def parse_mailbox(text: str, default_domain: str | None) -> Address:
    """One address as people write it, with or without angle brackets.

    `default_domain` is appended where there is none; None: an address must have its domain.
    """
    inner = text.strip()
    if inner.startswith("<") and inner.endswith(">"):
        inner = inner[1:-1].strip()
    try:
        if not inner.isprintable():
            raise ValueError("it contains control characters")
        return _mailbox(inner, default_domain)
    except ValueError as error:
        raise ValueError(f"{text.strip()!r} is not an e-mail address: {error}") from None


def _mailbox_end(text: str, start: int, stop: str) -> int:
    """Where the mailbox that begins at `start` ends: at `stop` outside of quotes, or with the text."""
    if text.startswith('"', start):
        quoted = _QUOTED.match(text, start)
        if quoted is None:
            raise ValueError("a quote is not closed")
        start = quoted.end()
    end = text.find(stop, start)
    return len(text) if end < 0 else end


def _mailbox(text: str, default_domain: str | None) -> Address:
    if not text:
        raise ValueError("it is empty")
    if text.startswith('"'):
        quoted = _QUOTED.match(text)
        if quoted is None:
            raise ValueError("a quote is not closed")
        local, rest = quoted.group(), text[quoted.end() :]
        if rest and not rest.startswith("@"):
            raise ValueError("after a quoted local part an '@' must follow")
        separator, domain = rest[:1], rest[1:]
    else:
        local, separator, domain = text.partition("@")
        if not local:
            raise ValueError("the part before the '@' is missing")
        if _DOT_STRING.fullmatch(local) is None:
            raise ValueError("the part before the '@' has characters that must be quoted")
    if not separator:
        if default_domain is None:
            raise ValueError("the domain is missing; right would be 'someone@example.com'")
        domain = default_domain
    else:
        domain = _domain(domain)
    if len(local.encode()) > MAX_LOCAL:
        raise ValueError(f"the part before the '@' is longer than {MAX_LOCAL} octets")
    if len(local.encode()) + len(domain.encode()) + 3 > MAX_PATH:
        raise ValueError(f"it is longer than {MAX_PATH - 2} octets")
    return Address(local, domain)


def _domain(text: str) -> str:
    if text.startswith("["):
        return _literal(text)
    if text.isascii():
        if _DOMAIN.fullmatch(text) is None:
            raise ValueError(f"{text!r} is not a domain name")
    else:
        try:
            idna.encode(text, uts46=True)
        except UnicodeError:
            raise ValueError(f"{text!r} is not an internationalized domain name") from None
    if len(text.encode()) > MAX_DOMAIN:
        raise ValueError(f"the domain is longer than {MAX_DOMAIN} octets")
    return text.rstrip(".")


def _literal(text: str) -> str:
    """RFC 5321 §4.1.3. IPv6 literals carry a tag; no other tag was ever registered."""
    inside = text[1:-1]
    try:
        if not text.endswith("]"):
            raise ValueError
        if inside[:5].upper() == "IPV6:":
            if "%" in inside:
                raise ValueError
            IPv6Address(inside[5:])
        else:
            IPv4Address(inside)
    except ValueError:
        raise ValueError(
            f"{text!r} is not an address literal; right would be '[192.0.2.1]' or '[IPv6:2001:db8::1]'"
        ) from None
    return text


def decode_xtext(text: str) -> str:
    """RFC 3461 §4: `+2B` stands for `+`. What comes out is printable ASCII, as §4.4 wants it: it will stand
    in a report's header, where a line end would be an injection."""
    if _XTEXT.fullmatch(text) is None:
        raise ValueError("not xtext (RFC 3461 §4)")
    decoded = _HEXCHAR.sub(lambda match: chr(int(match[1], 16)), text)
    if not decoded.isascii() or not decoded.isprintable():
        raise ValueError("not printable ASCII")
    return decoded


def decode_utf8_xtext(text: str) -> str:
    """Xtext whose octets are UTF-8, as XCLIENT has it; octets beyond ASCII may also stand as they are."""
    octets = re.sub(rb"\+([0-9A-F]{2})", lambda match: bytes.fromhex(match[1].decode()), text.encode())
    if _UTF8_XTEXT.fullmatch(text) is None:
        raise ValueError("not xtext (RFC 3461 §4)")
    # A UnicodeDecodeError is a ValueError.
    decoded = octets.decode()
    if not decoded.isprintable():
        raise ValueError("not printable")
    return decoded


def decode_unitext(text: str) -> str:
    """RFC 6533 §3, the address of an ORCPT of type utf-8: `\\x{2B}` stands for `+`."""
    if _UNITEXT.fullmatch(text) is None:
        raise ValueError("not utf-8-addr-xtext (RFC 6533 §3)")
    # chr refuses what lies beyond Unicode with a ValueError of its own; half surrogates are not printable.
    decoded = _EMBEDDED.sub(lambda match: chr(int(match[1], 16)), text)
    if not decoded.isprintable():
        raise ValueError("not printable")
    return decoded
