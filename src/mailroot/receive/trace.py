"""The first half of a Received field: whence and how a message came (RFC 5321 §4.4, RFC 3848, RFC 6531 §4.3)."""

import re
from ipaddress import IPv6Address

from mailroot.policy.visit import IPAddress, Visit

_HELO = re.compile(r"[A-Za-z0-9._-]+|\[[A-Za-z0-9.:]+\]")
_UNFIT = re.compile(r"[^A-Za-z0-9._:\[\]-]+")


def address_literal(address: IPAddress) -> str:
    """ "[192.0.2.1]", "[IPv6:2001:db8::1]" (RFC 5321 §4.1.3)."""
    return f"[IPv6:{address}]" if isinstance(address, IPv6Address) else f"[{address}]"


def received_from(visit: Visit, *, mark: bool, fqdn: str) -> str:
    """ "from HELO (name [address]) by FQDN". `mark`: add `unverified` where the client's name is not its HELO.

    What a client calls itself is its own invention: all but letters, digits and a few signs become "?", so that
    it can neither end the field nor pose as a comment.
    """
    literal = address_literal(visit.client)
    helo = visit.helo
    if _HELO.fullmatch(helo) is None:
        helo = _UNFIT.sub("?", helo) or literal
    name = visit.name.rstrip(".") if visit.name else ""
    name = name if _HELO.fullmatch(name) else ""
    fits = (name and helo.lower().rstrip(".") == name.lower()) or helo.lower() == literal.lower()
    info = f"{name} {literal}" if name else literal
    return f"from {helo} ({info}{'' if fits or not mark else ' unverified'}) by {fqdn}"


def transmission(*, extended: bool, tls: bool, login: bool, smtputf8: bool) -> str:
    """The "with" keyword: SMTP, ESMTP with S for TLS and A for a login (RFC 3848), UTF8SMTP likewise (RFC 6531)."""
    if not (extended or smtputf8 or login):
        return "SMTP"
    return f"{'UTF8SMTP' if smtputf8 else 'ESMTP'}{'S' if tls else ''}{'A' if login else ''}"
