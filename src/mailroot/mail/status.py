"""Enhanced status codes (RFC 3463): which one a report carries, and which one says most about the cause.

What they mean in words, and what to do, stands in deliver.replies.
"""

import re

from mailroot.mail.reply import Reply

_STATUS = re.compile(r"[245]\.\d{1,3}\.\d{1,3}", re.ASCII)
_OURS = re.compile(
    r"(?:[^:]{0,120}?The last answer was"
    r"|\S{1,300}(?: \[[^\s\]]{1,60}\]:\d{1,5})? said"
    r"|Login as .{1,300}? was refused by \S{1,300}(?: \[[^\s\]]{1,60}\]:\d{1,5})?"
    r"|TLS is required, but \S{1,300}(?: \[[^\s\]]{1,60}\]:\d{1,5})? refused STARTTLS)"
    r": ([45]\d\d)(?: ([45]\.\d{1,3}\.\d{1,3})(?=\s|$))? ?",
    re.ASCII,
)
"""How replies of ours begin that quote another one (deliver.connection, deliver.agent)."""

EXPIRED = "4.4.7"
"""Delivery time expired (RFC 3463 §3.5)."""


def failed(reply: Reply) -> str:
    """The status of a failed recipient: the remote host's own where it fits its reply, else 5.5.0 as the old SMTP
    service wrote it. It is a failure also where the host only said "later" and meant never (RFC 3463 §2: the class
    is that of what became of the message)."""
    if reply.status == EXPIRED:
        return EXPIRED
    if reply.is_transient and (own := _own(reply, "4")):
        return "5" + own[1:]
    return _own(reply, "5") or "5.5.0"


def delayed(reply: Reply) -> str:
    """The status of a recipient that is still being tried."""
    return _own(reply, "4") or EXPIRED


def succeeded(reply: Reply) -> str:
    """The status of a recipient that has the message."""
    return _own(reply, "2") or "2.0.0"


def is_valid(code: str) -> bool:
    """Whether it has the form of an enhanced status code."""
    return _STATUS.fullmatch(code) is not None


def _own(reply: Reply, kind: str) -> str:
    return reply.status if is_valid(reply.status) and reply.status[0] == kind else ""


def is_loop(status: str) -> bool:
    """Routing loops, and hosts that are ourselves."""
    return status[1:] in {".4.6", ".4.8"}


def cause(reply: Reply) -> str:
    """The status that says most about the cause, or "". An expired message's reply quotes the last one it got,
    and that one's status says more."""
    if reply.status == EXPIRED and (inner := quoted(reply)) is not None and inner.status:
        return inner.status
    return reply.status if is_valid(reply.status) else ""


def quoted(reply: Reply) -> Reply | None:
    """The reply that one of our own quotes: what a host said when it would not have us, or the last answer of those
    that a message waited for. None if it quotes none."""
    found = _OURS.match(reply.text)
    return Reply(int(found[1]), found[2] or "", reply.text[found.end() :]) if found else None


def is_unreachable(reply: Reply) -> bool:
    """No host answered, or the one that did fell silent."""
    return cause(reply) in {"4.4.0", "4.4.1", "4.4.2", "4.4.3", "5.4.1", "5.4.2"}
