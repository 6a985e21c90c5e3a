"""The conversations of the .txt files with octets lost, doubled and invented, cut into any pieces.

Whatever a client says: one answer to each thing it does, of lines that any client can read, in bounded memory, and
no exception. `--hypothesis-profile=long` tries many more.
"""

import asyncio
import re
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailroot.events import InternalError
from mailroot.mail.reply import Reply
from mailroot.policy.auth.account_file import Account, changing_accounts
from mailroot.policy.auth.passwords import hash_password
from mailroot.policy.auth.settings import AuthenticationSettings
from mailroot.policy.limits import BareLineEnds, LimitSettings, LoginLimits, MessageSettings
from mailroot.policy.listeners import ListenerRules, ListenerSettings, Profile
from mailroot.smtp.commands import (
    Auth,
    AuthResponse,
    Content,
    ContentEnd,
    ContentRefused,
    Data,
    Mistake,
    StartTls,
    Xclient,
)
from mailroot.smtp.extensions import ServerOffer
from mailroot.smtp.lines import MAX_LINE, MAX_LOGIN_LINE
from mailroot.smtp.sasl.scram import Verifier
from mailroot.smtp.server import ServerProtocol
from rig.dialogs import conversations
from rig.door import Door

pytestmark = pytest.mark.quick

# RFC 5321 §4.2: lines of one reply have one code; §4.5.3.1.5: 512 octets with the line's end.
_REPLY = re.compile(r"(?:(\d{3})-[^\r\n]*\r\n(?=\1))*(\d{3}) ([^\r\n]*)\r\n")
_LONGEST = 512
_ENVELOPE = b"EHLO x\r\nMAIL FROM:<a@example.com>\r\nRCPT TO:<b@example.com>\r\n"
_SIGNS = rb"""."@<>:;=\ """
_INVENTED = (
    *(_SIGNS[n : n + 1] for n in range(len(_SIGNS))),
    *(b"\r\n", b"\n", b"\r", b"\x00", b"\t", b"\r\n.\r\n", b"\n.\n", b"\xff", b"\xc3\xbc", "\u202e".encode()),
    *(b"+0A", b"9" * 21, b"x" * 300, b"x" * 2100, b" LAST", b"RSET\r\n", b"DATA\r\n", b"BDAT 3 LAST\r\n"),
    *(b"BDAT 7\r\n", b"STARTTLS\r\n", b"EHLO x\r\n", _ENVELOPE),
    *(b"AUTH LOGIN\r\n", b"AUTH PLAIN AGJvYgBodW50ZXIy\r\n", b"*\r\n", b"XCLIENT ADDR=192.0.2.7\r\n"),
)


@cache
def _said() -> list[bytes]:
    """All that the client says in each conversation."""
    said = [
        b"".join(step.octets for step in conversation.steps if step.kind in ("C:", "C\\"))
        for conversation in conversations()
    ]
    return [octets for octets in said if 0 < len(octets) < 5000]


@st.composite
def mutated(draw: st.DrawFn) -> list[bytes]:
    """The pieces of a conversation that went wrong."""
    octets = draw(st.sampled_from(_said()))
    for _ in range(draw(st.integers(0, 4))):
        start = draw(st.integers(0, len(octets)))
        end = draw(st.integers(start, min(start + 40, len(octets))))
        before, middle, after = octets[:start], octets[start:end], octets[end:]
        match draw(st.sampled_from(("lose", "double", "invent", "replace", "move"))):
            case "lose":
                octets = before + after
            case "double":
                octets = before + middle + middle + after
            case "invent":
                octets = before + draw(st.sampled_from(_INVENTED)) + middle + after
            case "replace":
                octets = before + draw(st.binary(max_size=8)) + after
            case _:
                octets = middle + before + after
    pieces = []
    for cut in draw(st.lists(st.integers(1, 200), max_size=20)):
        pieces.append(octets[:cut])
        octets = octets[cut:]
    return [piece for piece in (*pieces, octets) if piece]


def replies(octets: bytes) -> list[tuple[int, str]]:
    """Code and last text of each reply; octets that are no replies fail."""
    text = octets.decode()
    assert all(len(line.encode()) + 2 <= _LONGEST for line in text.split("\r\n")), text
    assert all(line.isprintable() for line in text.split("\r\n")), text
    found = list(_REPLY.finditer(text))
    assert "".join(match.group() for match in found) == text
    return [(int(match[2]), match[3]) for match in found]


@given(
    mutated(), st.lists(st.sampled_from((0, 0, 0, 334, 451, 550, 421)), max_size=20), st.booleans(), st.booleans()
)
def test_one_answer_to_each_thing(pieces: list[bytes], refusals: list[int], repair: bool, strict: bool) -> None:
    offer = ServerOffer("example.com", max_size=3000, starttls=True, repair=repair, strict=strict)
    protocol = ServerProtocol(offer)
    protocol.mechanisms = ("LOGIN", "PLAIN")
    protocol.xclient = True
    protocol.answer(Reply(220, "", "hi"))
    assert replies(protocol.outgoing()) == [(220, "hi")]
    content = 0
    for piece in pieces:
        protocol.receive(piece)
        while (event := protocol.next_event()) is not None:
            assert not protocol.is_closed
            match event:
                case Content(octets):
                    content += len(octets)
                    assert content <= 3000
                    assert not protocol.owes_answer
                    continue
                case ContentEnd(size):
                    assert size == content
                    content = 0
                    reply = Reply(250, "2.6.0", "queued")
                case ContentRefused(_, reply) | Mistake(_, reply):
                    content = 0 if isinstance(event, ContentRefused) else content
                case Data():
                    reply = Reply(354, "", "go")
                case StartTls():
                    reply = Reply(220, "2.0.0", "go")
                case _:
                    reply = Reply(250, "2.0.0", "ok")
            refusal = refusals.pop() if refusals else 0
            if refusal == 334:
                if isinstance(event, Auth | AuthResponse):
                    protocol.challenge(b"more")
                    assert replies(protocol.outgoing()) == [(334, "bW9yZQ==")]
                    continue
                refusal = 0
            if isinstance(event, Xclient) and not refusal:
                protocol.introduced()
            answer = Reply(refusal, "", "no") if refusal else reply
            before = len(protocol.outgoing())
            assert before == 0
            protocol.answer(answer)
            assert replies(protocol.outgoing())[0][0] == answer.code
            if isinstance(event, StartTls) and not refusal:
                protocol.secured()
            if protocol.state in ("ready", "TLS started"):
                content = 0
        assert protocol.outgoing() == b""
        if not protocol.is_closed:
            assert protocol.unread <= (MAX_LOGIN_LINE if protocol.mechanisms else MAX_LINE)


@pytest.fixture(scope="module")
def accounts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("mutated") / "accounts.json"
    with changing_accounts(path) as file:
        file.put(Account("bob", hash_password("hunter2"), Verifier.of("hunter2", file.salt("bob"), 4096)))
    return path


@given(mutated(), st.sampled_from(("127.0.0.1", "192.0.2.7")), st.booleans(), st.sampled_from(Profile))
def test_the_front_door(accounts: Path, pieces: list[bytes], client: str, repair: bool, profile: Profile) -> None:
    """As many messages are in the queue as were acknowledged, and nothing was our fault."""

    async def play() -> None:
        bare = BareLineEnds.REPAIR if repair else BareLineEnds.REJECT
        door = Door(
            messages=MessageSettings(max_message_size=3000, max_recipients=3, bare_line_ends=bare),
            rules=ListenerRules.of(ListenerSettings("127.0.0.1:0", profile)),
            authentication=AuthenticationSettings(accounts=accounts),
            limits=LimitSettings(logins=LoginLimits(longest_delay=0)),
            xclient=("127.0.0.1",),
        )
        session = await door.connect(client, banner=True)
        octets = session.stream.taken()
        for piece in pieces:
            octets += await session.say(piece)
        await session.leave()
        await door.logins.close()
        said = replies(octets + session.stream.taken())
        assert said[0][0] == 220
        assert sum(text.endswith("Queued mail for delivery") for _, text in said) == len(await door.records())
        assert not door.published(InternalError)

    asyncio.run(play())
