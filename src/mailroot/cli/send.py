"""`mailroot send`: hands in a message as any program would, by SMTP, and follows it until it is delivered or says
why not. It takes the real path: listener, relay restrictions, queue, route."""

import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from email.message import EmailMessage
from email.policy import SMTP as SMTP_POLICY
from email.utils import format_datetime, localtime, make_msgid
from pathlib import Path
from typing import Any

from mailroot.cli.client import Query, Service, segment
from mailroot.cli.hand_in import Way, Wish, choose, hand_in
from mailroot.cli.tables import Failure, ahead, complain, exact_time, plain, say, say_json

_FIRST_POLL, _LONGEST_POLL = 0.05, 1.0
Tell = Callable[[str], None]


def send(
    service: Service,
    sender: str,
    recipients: Sequence[str],
    subject: str,
    body: str,
    file: Path | None,
    wish: Wish,
    password: Callable[[], str],
    timeout: float,
) -> bool:
    """Hand in, follow, tell. Whether every recipient got it. `password` is asked where `wish` has a user. Raises
    Failure."""
    octets, message_id = _read(file) if file else _compose(sender, recipients, subject, body)
    way = choose(service, wish)
    if wish.user:
        wish = replace(wish, password=password())
    tell = complain if service.json else say
    tell(f"handing in to {way.address} ({_in_words(way, wish)})")
    started = time.time()
    handed_in = hand_in(service, way, wish, sender, recipients, octets, message_id)
    with _accepted_all_the_same():
        record = _find(service, way.server, handed_in.message_id, started)
    known_as = f" as {record['id']}" if record else ""
    tell(f"accepted{known_as}: {plain(handed_in.reply)}")
    for recipient, reply in handed_in.refused.items():
        tell(f"{recipient}: refused: {plain(reply)}")
    result = "accepted"
    detail: dict[str, Any] | None = None
    if timeout > 0:
        if record is None:
            raise Failure("it was accepted, but its record was not found, so it cannot be followed")
        with _accepted_all_the_same():
            detail, result = _follow(service, record["id"], started + timeout, tell)
    if handed_in.refused and result in ("delivered", "accepted"):
        result = "refused for some"
    if service.json:
        say_json(
            {
                "result": result,
                "id": record["id"] if record else None,
                "reply": handed_in.reply,
                "refused": handed_in.refused,
                "message": detail,
            }
        )
    return result in ("delivered", "accepted")


def _in_words(way: Way, wish: Wish) -> str:
    words = [f"virtual server {way.server}"]
    if way.secure:
        words.append("TLS from the start" if way.listener["tls"] == "implicit" else "STARTTLS")
    if wish.user:
        words.append(f"as {plain(wish.user)}")
    return ", ".join(words)


@contextmanager
def _accepted_all_the_same() -> Iterator[None]:
    """What fails after the message was taken must not look as if it had not been: it would be sent twice."""
    try:
        yield
    except Failure as failure:
        raise Failure(
            f"the message was accepted and is safe in the queue, but cannot be followed: {failure}"
        ) from None


def _compose(sender: str, recipients: Sequence[str], subject: str, body: str) -> tuple[bytes, str]:
    message = EmailMessage(policy=SMTP_POLICY.clone(utf8=not all(map(str.isascii, (sender, *recipients)))))
    message_id = make_msgid(domain=sender.rpartition("@")[2] if "@" in sender else "mailroot.invalid")
    try:
        message["From"] = sender or "<>"
        message["To"] = ", ".join(recipients)
        message["Subject"] = subject
    except ValueError as error:
        raise Failure(f"this cannot stand in a header: {error}") from None
    message["Date"] = format_datetime(localtime())
    message["Message-ID"] = message_id
    message.set_content(body)
    return message.as_bytes(), message_id


def _read(file: Path) -> tuple[bytes, str]:
    try:
        octets = file.read_bytes()
    except OSError as error:
        raise Failure(f"{file} cannot be read: {error.strerror or error}") from None
    # A line of a text file on this machine may end in a bare LF; a line of a message may not (RFC 5321 §2.3.8).
    return re.sub(rb"\r\n|\n|\r", b"\r\n", octets), ""


def _find(service: Service, server: str, message_id: str, since: float) -> dict[str, Any] | None:
    if not message_id:
        return None
    query: Query = {"server": server, "message_id": message_id, "since": since - 5, "limit": 1}
    found: list[dict[str, Any]] = service.get("/v1/messages", query)["messages"]
    return found[0] if found else None


class _Told:
    """Says each thing about a recipient once."""

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self._last: dict[str, str] = {}

    def __call__(self, recipient: str, text: str) -> None:
        if self._last.get(recipient) != text:
            self._last[recipient] = text
            self._tell(f"{plain(recipient)}: {plain(text)}")


def _follow(service: Service, id: str, deadline: float, tell: Tell) -> tuple[dict[str, Any], str]:
    """Tell what happens to it until there is nothing more to expect before the deadline."""
    with _waiting(tell) as tell_above:
        return _watch(service, id, deadline, tell_above)


def _watch(service: Service, id: str, deadline: float, tell: Tell) -> tuple[dict[str, Any], str]:
    told = _Told(tell)
    wait = _FIRST_POLL
    trying: dict[str, str] = {}
    while True:
        detail: dict[str, Any] = service.get(f"/v1/messages/{segment(id)}")
        summary = detail["summary"]
        now = time.time()
        for recipient in detail["recipients"]:
            told_of = _standing(recipient, summary, now)
            if told_of:
                told(recipient["address"], told_of)
            elif summary["doing"] == "being delivered":
                address = recipient["address"]
                if address not in trying:
                    trying[address] = _destination(service, summary, address)
                told(address, trying[address])
        if result := _result(detail, now):
            if result == "held":
                tell(f"it is held; `mailroot queue release {id}` lets it go on")
            return detail, result
        if now >= deadline:
            tell(f"still {summary['doing']}; `mailroot queue show {id}` tells how it goes on")
            return detail, "waiting"
        time.sleep(min(wait, max(0.0, deadline - now)))
        wait = min(wait * 1.5, _LONGEST_POLL)


def _standing(recipient: dict[str, Any], summary: dict[str, Any], now: float) -> str:
    """What is known of a recipient; "" while nothing is."""
    by = f" by {recipient['host']}" if recipient["host"] else ""
    match recipient["fate"]:
        case "delivered":
            return f"delivered{by}: {recipient['reply']}"
        case "failed":
            return f"failed{by}: {recipient['reply']}"
        case "deleted":
            return "deleted by an operator"
        case _ if recipient["reply"] and summary["due"] is not None and summary["due"] > now:
            due = summary["due"]
            return f"deferred{by}: {recipient['reply']}; next try {ahead(due, now)}, at {exact_time(due)}"
        case _:
            return ""


def _result(detail: dict[str, Any], now: float) -> str:
    """How it ended, "" while it goes on."""
    summary = detail["summary"]
    if summary["state"] == "finished":
        fates = {recipient["fate"] for recipient in detail["recipients"]}
        return "delivered" if fates == {"delivered"} else "failed"
    if summary["state"] == "held":
        return "held"
    tried = all(recipient["reply"] for recipient in detail["recipients"])
    return "deferred" if tried and summary["due"] is not None and summary["due"] > now else ""


def _destination(service: Service, summary: dict[str, Any], recipient: str) -> str:
    """Where the recipient's mail goes now, as `explain` knows it."""
    with suppress(Failure):
        query = {"server": summary["server"], "from": summary["sender"], "to": recipient}
        explanation = service.get("/v1/explain", query)
        for host in explanation["hosts"]:
            return f"trying {host['name'] or host['address']}, port {host['port']}"
        return f"on its way {explanation['route'].partition(': ')[2]}"
    return "on its way"


@contextmanager
def _waiting(tell: Tell) -> Iterator[Tell]:
    """Shows on a terminal that something is going on; what is told meanwhile stands above it."""
    if not (sys.stderr.isatty() and sys.stdout.isatty()):
        yield tell
        return
    from rich.console import Console

    with Console(stderr=True).status("following it") as status:

        def tell_above(text: str) -> None:
            status.stop()
            tell(text)
            status.start()

        yield tell_above
