"""`mailroot send`: the dialogue with the listener, and the following of what becomes of the message."""

import email
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mailroot.mail.outcome import Deferred, Delivered, Failed, Outcome
from mailroot.mail.reply import Reply
from rig.served import Running, Said
from rig.sink import Received, Sink

Mailroot = Callable[..., Said]

pytestmark = pytest.mark.quick

OK = Reply(250, "2.0.0", "Ok")
LATER = Reply(450, "4.2.0", "Greylisted")
NEVER = Reply(550, "5.1.1", "Unknown user")
HOST = "mx.example.net [192.0.2.10]:25"


class Door:
    """The listener of the virtual server: takes messages into its queue, and does `next_attempt` on each."""

    def __init__(self, running: Running) -> None:
        self.running = running
        self.next_attempt: list[tuple[int, Outcome]] | None = None
        self.sink = Sink(keep=self.keep)
        running.relay.listeners = (f"127.0.0.1:{self.sink.port}",)

    def keep(self, received: Received) -> Received:
        message = email.message_from_bytes(received.octets)
        relay = self.running.relay
        recipients = tuple(_address(text) for text in received.recipients)
        self.running.do(
            relay.accept(
                _address(received.sender),
                recipients,
                text=received.octets,
                message_id=message["Message-ID"] or "<made@relay.example>",
            )
        )
        if not message["Message-ID"]:
            self.sink.replies["."] = b""
        if self.next_attempt is not None:
            self.running.do(relay.attempt(*self.next_attempt))
        return received


def _address(text: str) -> str:
    found = re.search(r"<(.*?)>", text)
    assert found is not None
    return found[1]


@pytest.fixture
def door(running: Running) -> Iterator[Door]:
    one = Door(running)
    yield one
    one.sink.close()


SEND = ("send", "--from", "a@example.org", "--to", "b@example.net")


def test_a_message_is_followed_until_it_is_delivered(running: Running, door: Door, mailroot: Mailroot) -> None:
    door.next_attempt = [(0, Delivered(OK, HOST, 0.0))]
    said = mailroot(*SEND, "--subject", "Grüße", "--body", "Übrigens: ok\n.\nend")
    lines = said.out.splitlines()
    assert said.code == 0 and said.err == ""
    assert lines[0].startswith("handing in to 127.0.0.1:") and lines[0].endswith("(virtual server default)")
    assert re.fullmatch(r"accepted as [0-9A-Z]{13}: 250 2.0.0 taken", lines[1])
    assert lines[2:] == [f"b@example.net: delivered by {HOST}: 250 2.0.0 Ok"]
    (received,) = door.sink.wait()
    message = email.message_from_bytes(received.octets, policy=email.policy.default)
    assert message["Subject"] == "Grüße" and message["From"] == "a@example.org" and message["Date"]
    assert message.get_content().splitlines() == ["Übrigens: ok", ".", "end"]  # type: ignore[attr-defined]


def test_a_deferral_is_said_with_its_reason_and_next_try(running: Running, door: Door, mailroot: Mailroot) -> None:
    door.next_attempt = [(0, Deferred(LATER, HOST, 0.0))]
    said = mailroot(*SEND)
    assert said.code == 1
    assert re.search(
        r"^b@example.net: deferred by .*: 450 4.2.0 Greylisted; next try in 1[45] min, at \d{4}-",
        said.out,
        re.MULTILINE,
    )


def test_a_failure_for_one_of_two_fails(running: Running, door: Door, mailroot: Mailroot) -> None:
    door.next_attempt = [(0, Delivered(OK, HOST, 0.0)), (1, Failed(NEVER, HOST, 0.0))]
    said = mailroot(*SEND, "--to", "c@example.net")
    assert said.code == 1
    assert "b@example.net: delivered" in said.out
    assert "c@example.net: failed by mx.example.net [192.0.2.10]:25: 550 5.1.1 Unknown user" in said.out


def test_json_is_alone_on_standard_output(running: Running, door: Door, mailroot: Mailroot) -> None:
    door.next_attempt = [(0, Delivered(OK, HOST, 0.0))]
    said = mailroot(*SEND, "--json")
    assert said.code == 0 and said.json["result"] == "delivered" and said.json["message"]["summary"]["id"]
    assert "accepted as" in said.err


def test_a_message_under_way_is_told_and_left_at_the_deadline(
    running: Running, door: Door, mailroot: Mailroot
) -> None:
    claims: list[Any] = []

    async def claim() -> None:
        assert running.relay.queue is not None
        claims.extend(await running.relay.queue.claim(1))

    keep = door.keep

    def keep_and_claim(received: Received) -> Received:
        kept = keep(received)
        running.do(claim())
        return kept

    door.sink._keep = keep_and_claim
    said = mailroot(*SEND, "--timeout", "0.3")
    assert said.code == 1 and claims
    assert "b@example.net: trying mx.example.net, port 25" in said.out
    assert re.search(
        r"^still being delivered; `mailroot queue show [0-9A-Z]{13}` tells how it goes on$", said.out, re.MULTILINE
    )


def test_what_was_accepted_is_said_to_be_so_though_the_service_goes_away(
    running: Running, door: Door, mailroot: Mailroot
) -> None:
    keep = door.keep

    def keep_and_lose(received: Received) -> Received:
        kept = keep(received)
        running.relay.queue = None
        return kept

    door.sink._keep = keep_and_lose
    said = mailroot(*SEND)
    assert (
        said.code == 1 and "the message was accepted and is safe in the queue, but cannot be followed: " in said.err
    )


def test_without_following_acceptance_is_enough(running: Running, door: Door, mailroot: Mailroot) -> None:
    said = mailroot(*SEND, "--timeout", "0")
    assert said.code == 0 and len(said.out.splitlines()) == 2


def test_a_file_is_sent_as_it_is(running: Running, door: Door, mailroot: Mailroot, tmp_path: Path) -> None:
    file = tmp_path / "x.eml"
    file.write_bytes(b"Subject: file\nMessage-ID: <f@x.example>\n\n..dots\n.\n\xc3\xbc\n")
    door.next_attempt = [(0, Delivered(OK, HOST, 0.0))]
    door.sink.replies["."] = b""
    del door.sink.replies["."]
    said = mailroot(*SEND, "--file", str(file), "--timeout", "0")
    assert said.code == 0
    (received,) = door.sink.wait()
    assert received.octets == b"Subject: file\r\nMessage-ID: <f@x.example>\r\n\r\n..dots\r\n.\r\n\xc3\xbc\r\n"
    assert any("BODY=8BITMIME" in command for command in door.sink.commands)
    said = mailroot(*SEND, "--file", str(tmp_path / "nowhere"))
    assert said.code == 1 and "cannot be read" in said.err


@pytest.mark.parametrize(
    ("command", "reply", "words"),
    [
        (
            "CONNECT",
            b"421 4.3.2 Service not available",
            "the connection was refused: 421 4.3.2 Service not available",
        ),
        ("MAIL", b"552 5.3.4 Too big", r"MAIL FROM:<a@example.org> was answered: 552 5.3.4 Too big"),
        ("RCPT", b"550 5.7.1 Unable to relay", r"RCPT TO:<b@example.net> was answered: 550 5.7.1 Unable to relay"),
        ("DATA", b"451 4.3.0 No", "DATA was answered: 451 4.3.0 No"),
        (".", b"452 4.3.1 Disk full", "DATA was answered: 452 4.3.1 Disk full"),
        (".", b"", "the dialogue failed: "),
    ],
)
def test_a_refusal_is_said_with_command_and_reply(
    running: Running, door: Door, mailroot: Mailroot, command: str, reply: bytes, words: str
) -> None:
    door.sink.replies[command] = reply
    said = mailroot(*SEND)
    assert said.code == 1 and words in said.err and "Traceback" not in said.err


def test_a_stopped_server_is_said(running: Running, mailroot: Mailroot) -> None:
    running.relay.listeners = ()
    said = mailroot(*SEND)
    assert said.code == 1 and "no virtual server listens: default is started" in said.err
    running.relay.listeners = ("127.0.0.1:1",)
    said = mailroot(*SEND)
    assert said.code == 1 and "127.0.0.1:1 cannot be reached" in said.err


@pytest.mark.parametrize("subject", ["two\nlines", "x\r\nBcc: evil@example.org"])
def test_a_subject_cannot_smuggle_a_field(running: Running, door: Door, mailroot: Mailroot, subject: str) -> None:
    said = mailroot(*SEND, "--subject", subject)
    assert said.code == 1 and "cannot stand in a header" in said.err and door.sink.messages == []
