"""`mailroot send`: hands in a message as any program would, by SMTP, and follows it until it is delivered or says
why not. It takes the real path: listener, relay restrictions, queue, route."""

import re
import smtplib
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from email.message import EmailMessage
from email.policy import SMTP as SMTP_POLICY
from email.utils import format_datetime, localtime, make_msgid
from pathlib import Path
from typing import Any

from mailroot.cli.client import Query, Service, segment
from mailroot.cli.tables import Failure, ahead, complain, exact_time, plain, say, say_json

_SMTP_SECONDS = 60.0
_FIRST_POLL, _LONGEST_POLL = 0.05, 1.0
Tell = Callable[[str], None]
_MESSAGE_ID = re.compile(r"<[^<>\s]+>")


@dataclass(frozen=True, slots=True)
class _HandedIn:
    """The server's answer to a message; `refused` are recipients that it did not take, with its reply."""

    reply: str
    message_id: str
    refused: dict[str, str]


def send(
    service: Service,
    sender: str,
    recipients: Sequence[str],
    subject: str,
    body: str,
    file: Path | None,
    server: str,
    timeout: float,
) -> bool:
    """Hand in, follow, tell. Whether every recipient got it. Raises Failure."""
    octets, message_id = _read(file) if file else _compose(sender, recipients, subject, body)
    name, address = _listener(service, server)
    tell = complain if service.json else say
    tell(f"handing in to {address[0]}:{address[1]} (virtual server {name})")
    started = time.time()
    handed_in = _hand_in(address, sender, recipients, octets, message_id)
    with _accepted_all_the_same():
        record = _find(service, name, handed_in.message_id, started)
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


def _listener(service: Service, server: str) -> tuple[str, tuple[str, int]]:
    """The virtual server to hand in to and where it can be reached from here."""
    servers = service.get("/v1/servers", {"server": server})["servers"]
    open_now = [one for one in servers if one["listeners"]]
    if not open_now:
        states = ", ".join(f"{one['name']} is {one['state']}" for one in servers)
        raise Failure(f"no virtual server listens: {states or 'there is none'}")
    chosen = open_now[0]
    listener = min(chosen["listeners"], key=lambda address: not address.startswith("127."))
    host, _, port = listener.rpartition(":")
    here = {"": "127.0.0.1", "*": "127.0.0.1", "0.0.0.0": "127.0.0.1", "[::]": "::1"}
    return chosen["name"], (here.get(host, host.strip("[]")), int(port))


def _hand_in(
    address: tuple[str, int], sender: str, recipients: Sequence[str], octets: bytes, message_id: str
) -> _HandedIn:
    """The dialogue. Raises Failure with the command and the reply that ended it."""
    try:
        client = smtplib.SMTP(*address, local_hostname="localhost", timeout=_SMTP_SECONDS)
        try:
            return _talk(client, sender, recipients, octets, message_id)
        finally:
            with suppress(smtplib.SMTPException, OSError):
                client.quit()
    except smtplib.SMTPConnectError as error:
        raise Failure(f"the connection was refused: {_reply(error.smtp_code, error.smtp_error)}") from None
    except (smtplib.SMTPException, UnicodeEncodeError) as error:
        raise Failure(f"the dialogue failed: {error}") from None
    except OSError as error:
        raise Failure(f"{address[0]}:{address[1]} cannot be reached: {error.strerror or error}") from None


def _talk(
    client: smtplib.SMTP, sender: str, recipients: Sequence[str], octets: bytes, message_id: str
) -> _HandedIn:
    client.ehlo_or_helo_if_needed()
    options = [f"SIZE={len(octets)}"] if client.has_extn("size") else []
    if not octets.isascii() and client.has_extn("8bitmime"):
        options.append("BODY=8BITMIME")
    if not all(map(str.isascii, (sender, *recipients))) and client.has_extn("smtputf8"):
        client.command_encoding = "utf-8"
        options.append("SMTPUTF8")
    _expect(f"MAIL FROM:<{sender}>", *client.mail(sender, options))
    refused = {}
    for recipient in recipients:
        code, text = client.rcpt(recipient)
        if not 200 <= code < 300:
            refused[recipient] = _reply(code, text)
    if len(refused) == len(recipients):
        lines = "\n".join(f"RCPT TO:<{recipient}> was answered: {reply}" for recipient, reply in refused.items())
        raise Failure(f"{lines}\n`mailroot explain` says which rule decides")
    try:
        code, text = client.data(octets)
    except smtplib.SMTPDataError as error:
        code, text = error.smtp_code, error.smtp_error if isinstance(error.smtp_error, bytes) else b""
    reply = _expect("DATA", code, text)
    named = _MESSAGE_ID.search(reply)
    return _HandedIn(reply, message_id or (named[0] if named else ""), refused)


def _expect(command: str, code: int, text: bytes) -> str:
    reply = _reply(code, text)
    if not 200 <= code < 300:
        raise Failure(f"{command} was answered: {plain(reply)}")
    return reply


def _reply(code: int, text: bytes | str) -> str:
    words = text if isinstance(text, str) else text.decode("utf-8", "replace")
    return f"{code} {words}".replace("\n", " ")


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
