"""Replies on the wire: three digits, a hyphen or space, always."""

import re

import pytest

from mailroot.mail.address import Address
from mailroot.mail.reply import Reply
from mailroot.smtp import answers

pytestmark = pytest.mark.quick


@pytest.mark.parametrize(
    ("reply", "octets"),
    [
        (Reply(250, "2.0.0", "OK"), b"250 2.0.0 OK\r\n"),
        (Reply(354, "", "Go"), b"354 Go\r\n"),
        (Reply(250, "", ""), b"250 \r\n"),
        (Reply(250, "", "a\nb\nc"), b"250-a\r\n250-b\r\n250 c\r\n"),
        (Reply(550, "5.7.1", "a\nb"), b"550-5.7.1 a\r\n550 5.7.1 b\r\n"),
        (Reply(550, "", "a\rb\r\nc"), b"550-a b \r\n550 c\r\n"),
        (answers.recipient_ok(Address("grå", "example.com")), "250 2.1.5 grå@example.com \r\n".encode()),
        (answers.sender_ok(None), b"250 2.1.0 <>....Sender OK\r\n"),
        (answers.queued("<a@b>", supplied=True), b"250 2.6.0  <a@b> Queued mail for delivery\r\n"),
        (answers.queued("<a@b>", supplied=False), b"250 2.6.0 <a@b> Queued mail for delivery\r\n"),
    ],
)
def test_wire(reply: Reply, octets: bytes) -> None:
    assert answers.encode(reply) == octets


def test_every_reply_is_one_that_dotnet_reads() -> None:
    replies = [value for value in vars(answers).values() if isinstance(value, Reply)]
    assert len(replies) > 20
    for reply in replies:
        for line in answers.encode(reply).decode().split("\r\n")[:-1]:
            assert re.fullmatch(r"[2-5]\d\d[ -][!-~].*", line)
        # The class of the status is that of the code (RFC 2034 §4).
        assert not reply.status or reply.status[0] == str(reply.code)[0]
