"""XCLIENT: a proxy or filter says for whom it speaks (https://www.postfix.org/XCLIENT_README.html).

Reads the command's attributes. Who may say this at all, and what follows from it, is the session's business.
"""

import re
from ipaddress import IPv4Address, IPv6Address

from mailroot.smtp import answers, grammar
from mailroot.smtp.errors import ProtocolError

NAMES = ("NAME", "ADDR", "PORT", "PROTO", "HELO", "LOGIN", "DESTADDR", "DESTPORT")
"""The attributes there are, in the order of the EHLO line."""

UNAVAILABLE = frozenset(("[UNAVAILABLE]", "[TEMPUNAVAIL]"))
"""Values of attributes that are not known, or not known at the moment."""

_MAX_VALUE = 255
_HOST = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.:-]*[A-Za-z0-9_.])?")


def read_attributes(argument: str) -> dict[str, str]:
    """The attributes by their names in capitals, decoded and checked; an IPv6 address without its
    prefix, and an IPv4 address as what it is.

    Raises ProtocolError: 501.
    """
    attributes: dict[str, str] = {}
    for word in argument.split(" "):
        if not word:
            continue
        name, equals, value = word.partition("=")
        name = name.upper()
        if name not in NAMES or not equals or not value or name in attributes:
            raise ProtocolError(answers.SYNTAX)
        try:
            attributes[name] = _read(name, value)
        except ValueError:
            raise ProtocolError(answers.bad_parameter(name)) from None
    if not attributes:
        raise ProtocolError(answers.SYNTAX)
    return attributes


def _read(name: str, value: str) -> str:
    if (unavailable := value.upper()) in UNAVAILABLE:
        return unavailable
    value = grammar.decode_utf8_xtext(value)
    if len(value.encode()) > _MAX_VALUE:
        raise ValueError("too long")
    match name:
        case "ADDR" | "DESTADDR":
            return _read_address(value)
        case "PORT" | "DESTPORT":
            if not (value.isascii() and value.isdecimal() and len(value) <= 5 and int(value) < 65536):
                raise ValueError("no port")
        case "PROTO":
            value = value.upper()
            if value not in ("SMTP", "ESMTP"):
                raise ValueError("no protocol")
        case "NAME":
            if _HOST.fullmatch(value) is None:
                raise ValueError("no host name")
        case _:
            pass
    return value


def _read_address(value: str) -> str:
    if value[:5].upper() != "IPV6:":
        return str(IPv4Address(value))
    if "%" in value:
        # A zone says something about the proxy's interfaces, and nothing about the client.
        raise ValueError("a zone")
    address = IPv6Address(value[5:])
    return str(address.ipv4_mapped or address)
