"""Permissions as a client meets them: at MAIL, at RCPT and when the content is complete."""

from typing import Any

import pytest

from mailroot.events import CommandRefused, SenderRewritten
from mailroot.policy.permissions import Otherwise, Permission
from rig.door import Door, relay_for_all

pytestmark = pytest.mark.quick


def limited(**settings: Any) -> Door:
    """A door where clients of this computer may be the CRM only."""
    entry = Permission((), ("127.0.0.1",), ("crm@corp.example",), **settings)
    return Door(relay=relay_for_all(), permissions=(entry,))


async def test_a_sender_that_is_not_allowed_is_refused_at_mail_or_at_the_end_of_data() -> None:
    door = limited()
    session = await door.connect()
    await session.say(b"EHLO c\r\n")
    answer = await session.say(b"MAIL FROM:<ceo@other.example>\r\n")
    assert answer == (
        b"550 5.7.60 Client does not have permissions to send as this sender: ceo@other.example; "
        b"allowed are crm@corp.example\r\n"
    )
    await session.say(b"MAIL FROM:<crm@corp.example>\r\nRCPT TO:<b@example.net>\r\nDATA\r\n")
    answer = await session.say(b"From: ceo@other.example\r\n\r\nbody\r\n.\r\n")
    assert answer.startswith(b"550 5.7.60 Client does not have permissions to send as this sender: ceo@")
    assert await door.records() == []
    refused = door.published(CommandRefused)
    assert [event.rule for event in refused] == [
        "access.permissions, entry 1: ceo@other.example is no allowed sender",
        "access.permissions, entry 1: ceo@other.example in From is no allowed sender",
    ]
    # The session goes on.
    await session.say(b"MAIL FROM:<>\r\nRCPT TO:<b@example.net>\r\nDATA\r\n")
    answer = await session.say(b"From: crm@corp.example\r\n\r\nbody\r\n.\r\n")
    assert answer.startswith(b"250 ")


async def test_a_wrong_sender_is_rewritten_and_told_once() -> None:
    for sender, author in (("ceo@other.example", "crm@corp.example"), ("ceo@other.example", "ceo@other.example")):
        door = limited(otherwise=Otherwise.REWRITE, rewrite_to="noreply@corp.example")
        session = await door.connect()
        await session.say(f"EHLO c\r\nMAIL FROM:<{sender}>\r\nRCPT TO:<b@example.net>\r\nDATA\r\n".encode())
        answer = await session.say(f"From: {author}\r\n\r\nbody\r\n.\r\n".encode())
        assert answer.startswith(b"250 ")
        (record,) = await door.records()
        assert str(record.message.envelope.sender) == "noreply@corp.example"
        (event,) = door.published(SenderRewritten)
        assert (event.original, event.sender) == ("ceo@other.example", "noreply@corp.example")


async def test_no_field_hides_behind_a_bare_line_end_of_binarymime() -> None:
    for entry in ({}, {"otherwise": Otherwise.REWRITE, "rewrite_to": "noreply@corp.example"}):
        session = await limited(**entry).connect()
        await session.say(b"EHLO c\r\n")
        for header in (
            b"Subject: x\nFrom: ceo@other.example\r\nFrom: crm@corp.example\r\n\r\n",
            b"Subject: x\rFrom: ceo@other.example\r\n\r\n",
            b"Subject: x\nFrom: ceo@other.example\n\n",
            b"From x\nFrom: ceo@other.example\r\nFrom: crm@corp.example\r\n\r\n",
        ):
            await session.say(b"MAIL FROM:<crm@corp.example> BODY=BINARYMIME\r\nRCPT TO:<b@example.net>\r\n")
            answer = await session.say(b"BDAT %d LAST\r\n%sbody\r\n" % (len(header) + 6, header))
            assert answer.startswith(b"550 5.6.11 "), header
        # What is no header may be binary.
        content = b"From: crm@corp.example\r\n\r\nbody\nFrom: ceo@other.example\r\r\n"
        await session.say(b"MAIL FROM:<crm@corp.example> BODY=BINARYMIME\r\nRCPT TO:<b@example.net>\r\n")
        assert (await session.say(b"BDAT %d LAST\r\n%s" % (len(content), content))).startswith(b"250 ")


async def test_recipients_beyond_the_permission_are_refused_also_where_relay_is_allowed() -> None:
    entry = Permission((), ("127.0.0.1",), recipients=("example.net",))
    session = await Door(relay=relay_for_all(), permissions=(entry,)).connect()
    await session.say(b"EHLO c\r\nMAIL FROM:<a@b.example>\r\n")
    assert (await session.say(b"RCPT TO:<b@example.net>\r\n")).startswith(b"250 ")
    assert (await session.say(b"RCPT TO:<b@example.org>\r\n")).startswith(b"550 5.7.1 Client does not have perm")
