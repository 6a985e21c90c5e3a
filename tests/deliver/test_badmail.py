"""The Badmail folder: three files that a person and a program can read, and what if it cannot be written."""

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from mailroot.deliver.badmail import Badmail
from mailroot.mail.address import Address
from mailroot.mail.envelope import Door, Envelope, Origin, Recipient
from mailroot.mail.outcome import Failed
from mailroot.mail.reply import Reply
from mailroot.queue.base import Fate, Message, MessageId, Record, Standing, State, format_id

pytestmark = pytest.mark.quick

ARRIVED = 1_486_103_451.872
ID = MessageId(0x123456789ABCDEF)
BASE = format_id(ID)


class Octets:
    """A message in memory."""

    def __init__(self, *chunks: bytes) -> None:
        self._chunks = chunks
        self.size = sum(map(len, chunks))

    async def octets(self) -> bytes | None:
        return None

    async def chunks(self) -> AsyncIterator[bytes]:
        for chunk in self._chunks:
            yield chunk


def record() -> Record:
    no = Failed(Reply(550, "5.1.1", "No such user\nReally"), "mx.example [192.0.2.1]:25", ARRIVED + 60)
    recipients = tuple(Recipient(Address("someone", f"{name}.example")) for name in "abc")
    standings = (
        Standing(recipients[0], Fate.DELIVERED),
        Standing(recipients[1], Fate.FAILED, no),
        Standing(recipients[2], Fate.FAILED, replace(no, host="")),
    )
    origin = Origin(Door.SMTP, ARRIVED, "192.0.2.7", "sql01", "")
    message = Message(Envelope(None, recipients), origin, b"", "<1@example.net>", "Grüße")
    return Record(ID, message, 1234, State.QUEUED, standings, 3, None, False, True)


async def test_a_set_is_the_message_the_reason_and_the_properties(tmp_path: Path) -> None:
    octets = b"From: x@example.net\r\n\r\n.hidden\r\n..\r\n.\r\n\x00\xff"
    base = await Badmail(tmp_path / "Badmail").write(
        record(), Octets(octets[:9], octets[9:]), "Nobody to tell.", [1, 2]
    )
    assert base == f"{BASE}-2"
    written = {path.name: path.read_bytes() for path in (tmp_path / "Badmail").iterdir() if path.is_file()}
    assert set(written) == {f"{base}.BAD", f"{base}.BDR", f"{base}.BDP"}
    assert (
        written[f"{base}.BAD"]
        == b"x-sender: <>\r\nx-receiver: someone@b.example\r\nx-receiver: someone@c.example\r\n"
        b"x-dot-stuffed: no\r\n" + octets
    )
    assert written[f"{base}.BDR"].decode().split("\r\n") == [
        "Nobody to tell.",
        "",
        f"Message:    {BASE}",
        "From:       <>",
        "Subject:    Grüße",
        "Message-ID: <1@example.net>",
        "Arrived:    2017-02-03T06:30:51Z through smtp from 192.0.2.7",
        "Attempts:   3",
        "",
        "Not delivered to:",
        "  someone@b.example",
        "    2017-02-03T06:31:51Z at mx.example [192.0.2.1]:25: 550 5.1.1 No such user Really",
        "  someone@c.example",
        "    2017-02-03T06:31:51Z: 550 5.1.1 No such user Really",
        "",
    ]
    properties = json.loads(written[f"{base}.BDP"])
    assert properties["id"] == BASE
    assert properties["reason"] == "Nobody to tell."
    assert properties["sender"] == ""
    assert [recipient["address"] for recipient in properties["recipients"]] == [
        "someone@b.example",
        "someone@c.example",
    ]
    assert properties["recipients"][0]["last"]["reply"] == "550 5.1.1 No such user Really"
    assert (properties["subject"], properties["client"], properties["attempts"]) == ("Grüße", "192.0.2.7", 3)


async def test_the_same_set_again_replaces_itself_and_another_one_does_not(tmp_path: Path) -> None:
    badmail = Badmail(tmp_path)
    assert await badmail.write(record(), Octets(b"one"), "one", [0]) == BASE
    assert await badmail.write(record(), Octets(b"two"), "two", [0]) == BASE
    assert await badmail.write(record(), Octets(b"three"), "three", [2]) == f"{BASE}-3"
    assert (tmp_path / f"{BASE}.BAD").read_bytes().endswith(b"two")
    assert (tmp_path / f"{BASE}.BDR").read_text().startswith("two\n")
    assert len([path for path in tmp_path.iterdir() if path.is_file()]) == 6


async def test_a_message_without_recipients_has_a_set_too(tmp_path: Path) -> None:
    base = await Badmail(tmp_path).write(record(), Octets(b"x"), "No recipients.", [])
    assert "It has no recipients." in (tmp_path / f"{base}.BDR").read_text()


async def test_a_folder_that_cannot_be_written_is_an_error_for_the_caller(tmp_path: Path) -> None:
    (tmp_path / "Badmail").write_text("a file where the folder should be")
    with pytest.raises(OSError, match=r"."):
        await Badmail(tmp_path / "Badmail").write(record(), Octets(b"x"), "why", [1])


async def test_a_message_that_cannot_be_read_leaves_no_half_message(tmp_path: Path) -> None:
    class Broken(Octets):
        async def chunks(self) -> AsyncIterator[bytes]:
            yield b"half"
            raise RuntimeError("the queue is gone")

    badmail = Badmail(tmp_path)
    with pytest.raises(RuntimeError, match="the queue is gone"):
        await badmail.write(record(), Broken(), "why", [1])
    badmail._threads.shutdown()
    assert not list(tmp_path.rglob("*.BAD"))
    assert not list(tmp_path.rglob("*.tmp"))
