"""Any octets at all: no reader raises what it does not promise, keeps more than its bound, or answers twice."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailroot.mail.address import Address
from mailroot.mail.reply import Reply
from mailroot.smtp.commands import Content, ContentEnd, Data, Mistake
from mailroot.smtp.errors import ProtocolError
from mailroot.smtp.extensions import ServerOffer, read_mail_parameters, read_recipient_parameters
from mailroot.smtp.grammar import decode_unitext, decode_xtext, parse_mailbox, read_path
from mailroot.smtp.lines import MAX_LINE, LineReader
from mailroot.smtp.server import ServerProtocol

pytestmark = pytest.mark.quick

PIECES = st.lists(
    st.one_of(
        st.binary(max_size=40),
        st.sampled_from(
            [
                b"\r\n",
                b"MAIL FROM:<a@b>\r\n",
                b"RCPT TO:<a@b>\r\n",
                b"DATA\r\n",
                b"BDAT 5 LAST\r\n",
                b".\r\n",
                b"x" * 3000,
            ]
        ),
    ),
    max_size=20,
)
ADDRESSES = st.text(st.sampled_from('<>@"\\ab.[]: ,;1IPv6%=å\u202e\t'), max_size=30)


@given(PIECES)
def test_lines(pieces: list[bytes]) -> None:
    reader = LineReader()
    for piece in pieces:
        reader.receive(piece)
        try:
            while (line := reader.line()) is not None:
                assert len(line) < MAX_LINE
        except ProtocolError as error:
            if error.fatal:
                return
        assert reader.unread <= MAX_LINE + len(piece)


@given(PIECES)
def test_server(pieces: list[bytes]) -> None:
    """However the octets are cut, the events are the same, and content is exactly as long as it is said to be."""

    def play(cut: list[bytes]) -> list[object]:
        protocol = ServerProtocol(ServerOffer("example.com", max_size=10_000, repair=True))
        protocol.answer(Reply(220, "", "hi"))
        events: list[object] = []
        content = b""
        for octets in cut:
            protocol.receive(octets)
            while (event := protocol.next_event()) is not None:
                if isinstance(event, Content):
                    content += event.octets
                    continue
                if isinstance(event, ContentEnd):
                    assert event.size == len(content)
                    events.append(content)
                    content = b""
                events.append(event)
                reply = event.reply if isinstance(event, Mistake) else Reply(250, "", "ok")
                protocol.answer(Reply(354, "", "go") if isinstance(event, Data) else reply)
        assert protocol.outgoing().count(b"\r\n") >= 1
        return events

    whole = b"".join(pieces)
    assert play([piece for piece in pieces if piece]) == play([whole] if whole else [])
    assert play([whole[n : n + 1] for n in range(len(whole))][:2000]) is not None


@given(ADDRESSES)
def test_paths(text: str) -> None:
    try:
        path, _ = read_path(text, "default.example")
    except ValueError:
        return
    if path is not None:
        shown = str(path)
        assert len(path.local.encode()) <= 64
        assert path.domain
        # What was understood once is understood the same again.
        assert read_path(f"<{shown}>", "other.example") == (path, "")


@given(st.one_of(ADDRESSES, st.text(max_size=30)))
def test_mailboxes(text: str) -> None:
    try:
        address = parse_mailbox(text, None)
    except ValueError as error:
        assert "is not an e-mail address" in str(error)
        return
    assert isinstance(address, Address)
    assert str(address).isprintable()
    assert parse_mailbox(str(address), None) == address


@given(st.text(st.sampled_from("SIZEBODYRTNVFCPH=+;,0189AF \\x{}ü7BIT"), max_size=30))
def test_parameters(text: str) -> None:
    with contextlib.suppress(ProtocolError):
        read_mail_parameters(text)
    with contextlib.suppress(ProtocolError):
        read_recipient_parameters(text, smtputf8=True)
    for decode in (decode_xtext, decode_unitext):
        with contextlib.suppress(ValueError):
            assert decode(text).isprintable()
