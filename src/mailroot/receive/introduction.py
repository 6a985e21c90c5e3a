"""XCLIENT: a filter or proxy says for whom it speaks (Postfix's XCLIENT_README)."""

from dataclasses import replace
from ipaddress import ip_address

from mailroot.policy.networks import unmapped
from mailroot.policy.visit import Visit
from mailroot.smtp.xclient import UNAVAILABLE

_NOBODY = ip_address("0.0.0.0")


def introduce(visit: Visit, attributes: dict[str, str]) -> Visit:
    """The visit of whom the attributes name; those that are not given stay as they are, but for the login.

    `attributes` are those of `smtp.xclient`. DESTADDR, DESTPORT, PORT and PROTO decide nothing here.
    Raises ValueError for an ADDR that is none.
    """
    changes: dict[str, object] = {"proxy": visit.proxy or str(visit.client)}
    address = attributes.get("ADDR")
    if address is not None:
        # Whose address is not known is nobody we know, and not the proxy itself with all that it may do.
        changes["client"] = _NOBODY if address in UNAVAILABLE else unmapped(ip_address(address))
        # The old one's name is not the new one's.
        changes["name"] = None
    for attribute, field, unknown in (("NAME", "name", None), ("HELO", "helo", ""), ("LOGIN", "user", "")):
        value = attributes.get(attribute)
        if value is not None:
            changes[field] = unknown if value in UNAVAILABLE else value
    if "name" in changes and isinstance(changes["name"], str):
        changes["name"] = changes["name"].lower()
    # A login of the proxy itself, or of whom it spoke for before, is not this client's.
    user = changes.setdefault("user", "")
    changes["mechanism"] = "XCLIENT" if user else ""
    return replace(visit, **changes)  # type: ignore[arg-type]
