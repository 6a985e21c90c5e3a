"""Any octets at all: no reader raises what it does not promise, keeps more than its bound, or answers twice.

`--hypothesis-profile=long` tries many more.
"""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailroot.mail.address import Address
from mailroot.mail.envelope import Body, Envelope, Notify, Recipient, Return
from mailroot.mail.reply import Reply
from mailroot.smtp import shown
from mailroot.smtp.commands import Auth, AuthResponse, Content, ContentEnd, Data, Mail, Mistake, Rcpt, Xclient
from mailroot.smtp.content import DotReader, Message
from mailroot.smtp.errors import ProtocolError
from mailroot.smtp.extensions import MailParameters, ServerOffer, read_mail_parameters, read_recipient_parameters
from mailroot.smtp.grammar import decode_unitext, decode_xtext, parse_mailbox, read_path, read_strict_path
from mailroot.smtp.lines import MAX_LINE, MAX_LOGIN_LINE, LineReader
from mailroot.smtp.offer import Offer, mail_command, recipient_command
from mailroot.smtp.server import ServerProtocol
from mailroot.smtp.stuffing import Stuffing, paired
from mailroot.smtp.xclient import read_attributes

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
                b"AUTH LOGIN\r\n",
                b"auth plain Ym9i\r\n",
                b"AUTH GSSAPI " + b"Ym9i" * 600 + b"\r\n",
                b"AUTH ",
                b"Ym9i\r\n",
                b"*\r\n",
                b"XCLIENT NAME=x ADDR=192.0.2.1\r\n",
                b"EHLO x\r\n",
                b".\r\n",
                b"x" * 3000,
                b"x" * 40_000,
            ]
        ),
    ),
    max_size=20,
)
ADDRESSES = st.text(st.sampled_from('<>@"\\ab.[]: ,;1IPv6%=å\u202e\t'), max_size=30)


@given(PIECES, st.booleans(), st.booleans(), st.booleans())
def test_lines(pieces: list[bytes], strict: bool, login: bool, long_logins: bool) -> None:
    reader = LineReader(strict=strict)
    reader.long_logins = long_logins
    for piece in pieces:
        reader.receive(piece)
        try:
            while (line := reader.line(login=login)) is not None:
                is_long = long_logins and (login or line[:5].upper() == b"AUTH ")
                assert len(line) < (MAX_LOGIN_LINE if is_long else MAX_LINE)
        except ProtocolError as error:
            if error.fatal:
                return
        assert reader.unread <= (MAX_LOGIN_LINE if long_logins else MAX_LINE) + len(piece)


@given(PIECES, st.booleans())
def test_server(pieces: list[bytes], strict: bool) -> None:
    """However the octets are cut, the events are the same, and content is exactly as long as it is said to be."""

    def play(cut: list[bytes]) -> list[object]:
        protocol = ServerProtocol(ServerOffer("example.com", max_size=10_000, repair=True, strict=strict))
        protocol.mechanisms = ("LOGIN",)
        protocol.xclient = True
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
                if isinstance(event, Auth | AuthResponse) and len(events) % 2:
                    protocol.challenge(b"more")
                    continue
                if isinstance(event, Xclient):
                    protocol.introduced()
                reply = event.reply if isinstance(event, Mistake) else Reply(250, "", "ok")
                protocol.answer(Reply(354, "", "go") if isinstance(event, Data) else reply)
            if not protocol.is_closed:
                assert protocol.unread <= MAX_LOGIN_LINE
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


@given(st.text(st.sampled_from("NAMEDRPOTHLIGVU6=+:[]0189.F \\ü\u202e"), max_size=30))
def test_introductions(text: str) -> None:
    with contextlib.suppress(ProtocolError):
        for value in read_attributes(text).values():
            assert value.isprintable()
            assert value


@given(st.one_of(ADDRESSES, st.text(max_size=30)))
def test_strict_paths(text: str) -> None:
    """What is taken strictly is taken otherwise too, and is the same."""
    try:
        path, rest = read_strict_path(text, "default.example")
    except ValueError:
        return
    assert read_path(text, "default.example") == (path, rest)
    assert text.startswith("<")


@given(st.binary(max_size=60), st.booleans())
def test_what_is_shown(line: bytes, login: bool) -> None:
    line = b"AUTH" + line if login else line
    for text in (shown.command(line), shown.first_word(line)):
        assert text.isprintable()
        assert len(text) <= 800
    if login:
        assert shown.command(line) == "AUTH" or shown.command(line)[5:].isupper()


@given(st.text(st.sampled_from("SIZEBODYRTNVFCPH=+;,0189AF \\x{}ü7BIT"), max_size=30))
def test_parameters(text: str) -> None:
    with contextlib.suppress(ProtocolError):
        read_mail_parameters(text)
    with contextlib.suppress(ProtocolError):
        read_recipient_parameters(text, smtputf8=True)
    for decode in (decode_xtext, decode_unitext):
        with contextlib.suppress(ValueError):
            assert decode(text).isprintable()


_LOCALS = st.one_of(
    st.from_regex(r"\A[a-z!#%+=.-]{1,64}\Z"),
    st.text(st.sampled_from('ab @>\\"<;,'), max_size=20).map(
        lambda text: '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
    ),
)
_DOMAINS = st.sampled_from(["example.com", "a.b.c.example", "x_y", "[192.0.2.1]", "[IPv6:2001:db8::1]"])
_ASCII = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), min_size=1, max_size=20)
_RECIPIENTS = st.builds(
    Recipient,
    st.builds(Address, _LOCALS, _DOMAINS),
    st.one_of(st.none(), st.integers(0, 7).map(Notify)),
    st.one_of(st.none(), _ASCII.map(lambda text: f"rfc822;{text}")),
)
_ENVELOPES = st.builds(
    Envelope,
    st.one_of(st.none(), st.builds(Address, _LOCALS, _DOMAINS)),
    st.tuples(_RECIPIENTS),
    st.sampled_from(Body),
    st.booleans(),
    st.one_of(st.none(), st.sampled_from(Return)),
    st.one_of(st.none(), _ASCII),
)
_EVERYTHING = Offer(has_size=True, eight_bit=True, binary=True, chunking=True, smtputf8=True, dsn=True)


@given(_ENVELOPES, st.integers(0, 10**12))
def test_what_a_client_of_ours_says_a_server_of_ours_understands(envelope: Envelope, size: int) -> None:
    said = mail_command(envelope, size, _EVERYTHING) + "".join(
        recipient_command(recipient, envelope, _EVERYTHING) for recipient in envelope.recipients
    )
    protocol = ServerProtocol(ServerOffer("default.example"))
    protocol.answer(Reply(220, "", "hi"))
    protocol.receive(said.encode())
    parameters = MailParameters(size, envelope.body, envelope.smtputf8, envelope.ret, envelope.envid)
    assert protocol.next_event() == Mail(envelope.sender, parameters)
    protocol.answer(Reply(250, "", "ok"))
    assert protocol.next_event() == Rcpt(envelope.recipients[0])


_PARTS = st.lists(
    st.sampled_from([b"\r\n", b"\r\n.", b".", b"..", b"\r\n.\r\n", b"a", b"\x00", b"\xff", b"\r", b"\n"]),
    max_size=12,
)
_CUTS = st.lists(st.integers(1, 4), max_size=20)


def _cut(octets: bytes, cuts: list[int]) -> list[bytes]:
    pieces = []
    for cut in cuts:
        pieces.append(octets[:cut])
        octets = octets[cut:]
    return [piece for piece in (*pieces, octets) if piece]


@given(_PARTS, _CUTS, _CUTS, st.booleans())
def test_what_is_stored_goes_out_and_comes_in_again_the_same(
    parts: list[bytes], stored: list[int], sent: list[int], repair: bool
) -> None:
    """However it was cut on its way, and with a line end at its end and whole ones within, where it had none."""
    octets = b"".join(parts)
    stuffing = Stuffing()
    wire = b"".join([stuffing.add(piece) for piece in _cut(octets, stored)]) + stuffing.end()
    # No host, however it reads line ends, sees the end of the message before its end.
    assert wire.find(b"\r\n.\r\n") in (-1, len(wire) - 5)
    assert paired(wire) == wire
    reader, message = DotReader(), Message(limit=0, repair=repair, binary=False)
    content, rest = b"", None
    for piece in _cut(wire + b"NOOP", sent):
        if rest is None:
            read, rest = reader.read(piece)
            content += message.take(read)
        else:
            rest += piece
    content += message.finish()
    assert message.fault is None
    whole = paired(octets)
    assert content == (whole if not whole or whole.endswith(b"\r\n") else whole + b"\r\n")
    assert rest == b"NOOP"


@given(_PARTS, _CUTS, st.integers(0, 30), st.booleans(), st.booleans())
def test_however_content_is_cut_it_is_the_same_content(
    parts: list[bytes], cuts: list[int], limit: int, repair: bool, binary: bool
) -> None:
    """What is stored, its size, and which fault there is."""

    def take(pieces: list[bytes]) -> tuple[bytes, Reply | None]:
        message = Message(limit=limit, repair=repair, binary=binary)
        content = b"".join([message.take(piece) for piece in pieces]) + message.finish()
        assert message.fault is not None or (message.size == len(content) and len(content) <= (limit or 1000))
        return b"" if message.fault is not None else content, message.fault

    octets = b"".join(parts)
    assert take(_cut(octets, cuts)) == take([octets] if octets else [])
