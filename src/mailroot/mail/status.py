"""Enhanced status codes (RFC 3463, and RFC 5248's registry): which one a report carries, and what it means.

`advice` says in a sentence what the sender of a message can do about it. It is for people; programs read the code.
"""

import re

from mailroot.mail.reply import Reply

_STATUS = re.compile(r"[245]\.\d{1,3}\.\d{1,3}", re.ASCII)
_QUOTED = re.compile(r"\b[45]\d\d ([45]\.\d{1,3}\.\d{1,3})\b", re.ASCII)

EXPIRED = "4.4.7"
"""Delivery time expired (RFC 3463 §3.5)."""


def failed(reply: Reply) -> str:
    """The status of a failed recipient: the remote host's own where it fits its reply, else 5.5.0 as the old SMTP
    service wrote it. A reply that is not permanent can only have been the last before the message expired."""
    if not reply.is_permanent or reply.status == EXPIRED:
        return EXPIRED
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
    if reply.status == EXPIRED and (quoted := _QUOTED.search(reply.text)):
        return quoted[1]
    return reply.status if is_valid(reply.status) else ""


def is_unreachable(reply: Reply) -> bool:
    """No host answered, or the one that did fell silent."""
    return cause(reply) in {"4.4.0", "4.4.1", "4.4.2", "4.4.3", "5.4.1", "5.4.2"}


_ADVICE = {
    "1.0": "Check the address.",
    "1.1": "The address does not exist there. Check its spelling.",
    "1.2": "The domain of the address does not exist or takes no mail. Check its spelling.",
    "1.3": "The address is not written as a mail address has to be. Correct it.",
    "1.6": "The recipient has moved and left no new address.",
    "1.7": "The sender's address is not accepted. Check the From address the program uses.",
    "1.8": "The sender's domain is not accepted. Check the From address the program uses.",
    "1.10": "The domain of the address takes no mail at all. Check its spelling.",
    "2.1": "The mailbox is disabled. Reach the recipient in another way.",
    "2.2": "The mailbox is full. Send the message again when the recipient has made room.",
    "2.3": "The message is larger than the recipient may receive. Send less, or in several messages.",
    "3.1": "The host that should take the message has no room. Send the message again later.",
    "3.4": "The message is larger than that host takes. Send less, or in several messages.",
    "4.0": "No way to the recipient's host was found. Check the domain of the address, and the smart host.",
    "4.1": "The host did not answer. Check that it is running, that its name is right, and the network between.",
    "4.2": "The connection was lost. Check the host and the network between.",
    "4.3": "DNS could not be asked. Check the DNS servers this machine uses.",
    "4.4": "There is no host to deliver to. Check the domain of the address, and the smart host.",
    "4.6": "The message went round in circles. The administrator must check smart host, host names and DNS.",
    "4.7": "It was tried until its time was over. Send the message again when the cause is removed.",
    "4.8": "The next host is this one itself. The administrator must check smart host, host names and DNS.",
    "6.1": "The host does not take this kind of content. Send it in another form.",
    "6.3": "The host takes only 7-bit mail, and this message cannot be converted without loss.",
    "6.7": "The host takes no internationalized addresses. Use an address of plain ASCII letters.",
    "7.0": "The host refuses the message by its policy. Ask its administrator, and quote the answer.",
    "7.1": "The host does not allow this sender to send to this recipient. Ask its administrator.",
    "7.8": "The login at that host failed. The administrator must check user name and password.",
    "7.26": "Neither SPF nor DKIM proved the sender's domain. The domain's administrator must correct its DNS.",
    "7.60": "The login may not send as this sender. Use its own address, or let it be allowed to.",
}

_FOR_NOW = {
    "1.1": "The host could not check the address just now. If that goes on, check its spelling.",
    "1.7": "The host could not check the sender's address just now. If that goes on, check the From address.",
    "1.8": "The host could not find the sender's domain just now. If that goes on, check the From address.",
    "2.1": "The mailbox takes nothing more for now. Mostly that passes by itself.",
    "3.2": "The host takes no mail for now. Mostly that passes by itself.",
    "7.0": "The host puts the message off by its policy. Mostly that passes by itself.",
    "7.1": "The host puts the message off; many do so with senders new to them. Mostly that passes by itself.",
}
"""What the same details mean with a 4: RFC 3463 tells them apart by the class alone."""

_BY_SUBJECT = {
    "1": "Check the address.",
    "2": "The mailbox cannot take the message now. Reach the recipient in another way.",
    "3": "The host that should take the message has trouble of its own. Send the message again later.",
    "4": "The message could not be brought to its host. The administrator must check routing and network.",
    "5": "The two hosts did not understand each other. The administrators must look at the answer.",
    "6": "The host does not take this content. Send it in another form.",
    "7": "The host refuses the message by its policy. Ask its administrator, and quote the answer.",
}


def advice_on(reply: Reply) -> str:
    """What can be done about a recipient of whom this was said last; never empty."""
    if known := cause(reply):
        return advice(known)
    if reply.is_permanent:
        return "The host refused the message for good. Its answer says why; if not, ask its administrator."
    return (
        "The host does not take the message for now. If that goes on, ask its administrator, and quote its answer."
    )


def advice(status: str) -> str:
    """What can be done about a recipient that failed or is late with this status; never empty."""
    kind, subject, detail = status.split(".")
    return (
        (_FOR_NOW.get(f"{subject}.{detail}") if kind == "4" else None)
        or _ADVICE.get(f"{subject}.{detail}")
        or _BY_SUBJECT.get(subject)
        or "Ask the administrator of that host, and quote its answer."
    )
