"""The server protocol by itself: one event, one answer, and what may follow what."""

import pytest

from mailroot.mail.address import Address
from mailroot.mail.envelope import Body, Recipient
from mailroot.mail.reply import Reply
from mailroot.smtp.commands import (
    ChunkEnd,
    Content,
    ContentEnd,
    ContentRefused,
    Data,
    Event,
    Hello,
    Help,
    Mail,
    Mistake,
    Noop,
    Quit,
    Rcpt,
    Rset,
    StartTls,
    Vrfy,
)
from mailroot.smtp.extensions import MailParameters, ServerOffer
from mailroot.smtp.server import ServerProtocol
from mailroot.smtp.states import AFTER_REFUSAL, TABLE, State, Verb

pytestmark = pytest.mark.quick

OFFER = ServerOffer("default.example", max_size=1000)
YES = Reply(250, "2.0.0", "yes")


def started(offer: ServerOffer = OFFER) -> ServerProtocol:
    protocol = ServerProtocol(offer)
    protocol.answer(Reply(220, "", "hello"))
    protocol.outgoing()
    return protocol


def right_answer(event: Event) -> Reply:
    match event:
        case Data():
            return Reply(354, "", "go")
        case Quit():
            return Reply(221, "2.0.0", "bye")
        case Mistake(_, reply) | ContentRefused(_, reply):
            return reply
        case _:
            return YES


def play(protocol: ServerProtocol, octets: bytes, *, single: bool = False) -> list[Event]:
    """All events of these octets, each answered as it wants; neighbouring pieces of content joined."""
    events: list[Event] = []
    pieces = [octets[n : n + 1] for n in range(len(octets))] if single else [octets]
    for piece in pieces:
        protocol.receive(piece)
        while (event := protocol.next_event()) is not None:
            if isinstance(event, Content):
                assert event.octets
                if events and isinstance(events[-1], Content):
                    event = Content(events.pop().octets + event.octets)  # type: ignore[union-attr]
            else:
                protocol.answer(right_answer(event))
            events.append(event)
    return events


A = Address("a", "example.com")
B = Address("b", "example.com")
MAIL = Mail(A, MailParameters())
RCPT = Rcpt(Recipient(B))
BEGIN = b"MAIL FROM:<a@example.com>\r\nRCPT TO:<b@example.com>\r\n"


@pytest.mark.parametrize(
    ("octets", "expected"),
    [
        (b"EHLO x\r\n", [Hello("x", True)]),
        (b"helo\r\n", [Hello("", False)]),
        (b"EHLO  two words \r\n", [Hello("two words", True)]),
        (BEGIN, [MAIL, RCPT]),
        (b"mail from: a@example.com\r\nrcpt to: b@example.com  \r\n", [MAIL, RCPT]),
        (b"MAIL From : <a@example.com>\r\n", [MAIL]),
        (
            b"MAIL FROM:<> BODY=BINARYMIME\r\n",
            [Mail(None, MailParameters(body=Body.BINARY))],
        ),
        (
            BEGIN + b"DATA\r\nx\r\n..y\r\n.\r\nNOOP\r\n",
            [MAIL, RCPT, Data(), Content(b"x\r\n.y\r\n"), ContentEnd(7), Noop()],
        ),
        (BEGIN + b"DATA\r\n.\r\n", [MAIL, RCPT, Data(), ContentEnd(0)]),
        (
            BEGIN + b"BDAT 3\r\nabcBDAT 5 last\r\n\r\n.\r\nQUIT\r\n",
            [MAIL, RCPT, Content(b"abc"), ChunkEnd(3), Content(b"\r\n.\r\n"), ContentEnd(8), Quit()],
        ),
        (BEGIN + b"BDAT 0 LAST\r\n", [MAIL, RCPT, ContentEnd(0)]),
        (
            BEGIN + b"BDAT 0\r\nBDAT 0\r\nBDAT 2 LAST\r\n\r\n",
            [MAIL, RCPT, ChunkEnd(0), ChunkEnd(0), Content(b"\r\n"), ContentEnd(2)],
        ),
        (BEGIN + b"BDAT 1\r\n\rBDAT 1 LAST\r\n\n", [MAIL, RCPT, ChunkEnd(1), Content(b"\r\n"), ContentEnd(2)]),
        (b"RSET\r\nNOOP x\r\nHELP\r\nHELP MAIL\r\n", [Rset(), Noop(), Help(), Help()]),
        (b"VRFY postmaster\r\n", [Vrfy(Address("postmaster", "default.example"))]),
        (b"QUIT\r\nNOOP\r\n", [Quit()]),
    ],
)
def test_events(octets: bytes, expected: list[Event]) -> None:
    assert play(started(), octets) == expected
    assert play(started(), octets, single=True) == expected


@pytest.mark.parametrize(
    ("octets", "code", "text"),
    [
        (b"FOO\r\n", 500, "Unrecognized command"),
        (b"\r\n", 500, "Unrecognized command"),
        (b" NOOP\r\n", 500, "Unrecognized command"),
        (b"TURN\r\n", 500, "Unrecognized command"),
        (b"ETRN example.com\r\n", 500, "Unrecognized command"),
        (b"EXPN list\r\n", 502, "Command not implemented"),
        (b"AUTH\r\n", 501, "Invalid arguments"),
        (b"AUTH PLAIN x\r\n", 501, "Cannot decode"),
        (b"NO\x00OP\r\n", 500, "Control characters"),
        (b"NOOP\tx\r\n", 500, "Control characters"),
        (b"MAIL FROM:<a\x7f@example.com>\r\n", 500, "Control characters"),
        (b"MAIL FROM:<\xff@example.com>\r\n", 500, "neither ASCII nor UTF-8"),
        ("MAIL FROM:<a\u202e@example.com>\r\n".encode(), 500, "Control characters"),
        (b"NOOP " + b"x" * 3000 + b"\r\n", 500, "Line too long"),
        (b"MAIL\r\n", 501, "Invalid arguments"),
        (b"MAIL <a@example.com>\r\n", 501, "Invalid arguments"),
        (b"MAIL TO:<a@example.com>\r\n", 501, "Invalid arguments"),
        (b"MAIL FROM:\r\n", 501, "Invalid Address"),
        (b"MAIL FROM:<a@b@c>\r\n", 501, "Invalid Address"),
        (b"MAIL FROM:<a@example.com> SIZE=1001\r\n", 552, "Message size exceeds"),
        (b"MAIL FROM:<a@example.com> FOO=1\r\n", 555, "Unsupported parameter FOO"),
        ("MAIL FROM:<grå@example.com>\r\n".encode(), 553, "needs SMTPUTF8"),
        (b"RCPT TO:<b@example.com>\r\n", 503, "Need mail command"),
        (b"DATA\r\n", 503, "Need mail command"),
        (b"EHLO " + b"x" * 256 + b"\r\n", 501, "Invalid domain name"),
        (b"STARTTLS\r\n", 454, "TLS not available"),
        (b"VRFY\r\n", 501, "Invalid Address"),
        (b"VRFY <>\r\n", 501, "Invalid Address"),
    ],
)
def test_mistakes(octets: bytes, code: int, text: str) -> None:
    for single in (False, True):
        protocol = started()
        *_, event, after = play(protocol, octets + b"NOOP\r\n", single=single)
        assert isinstance(event, Mistake)
        assert event.reply.code == code
        assert text in event.reply.text
        # Whatever it was, the conversation goes on.
        assert after == Noop()
        assert event.line.isprintable()
        assert len(event.line) <= 800


def test_one_event_one_answer() -> None:
    protocol = ServerProtocol(OFFER)
    with pytest.raises(RuntimeError):
        protocol.next_event()  # the banner is owed
    protocol.answer(Reply(220, "", "hi"))
    with pytest.raises(RuntimeError):
        protocol.answer(YES)
    protocol.receive(b"NOOP\r\nNOOP\r\n")
    assert protocol.next_event() == Noop()
    with pytest.raises(RuntimeError):
        protocol.next_event()
    protocol.answer(YES)
    assert protocol.next_event() == Noop()
    protocol.answer(YES)
    assert protocol.next_event() is None
    assert protocol.outgoing() == b"220 hi\r\n" + b"250 2.0.0 yes\r\n" * 2
    assert protocol.outgoing() == b""


def test_a_refused_banner_ends_it() -> None:
    protocol = ServerProtocol(OFFER)
    protocol.receive(b"EHLO x\r\n")
    protocol.answer(Reply(554, "5.7.1", "no"))
    assert protocol.is_closed
    assert protocol.next_event() is None


def test_recipients_that_were_all_refused() -> None:
    protocol = started()
    no = Reply(550, "5.7.1", "no")
    protocol.receive(
        b"MAIL FROM:<a@example.com>\r\nRCPT TO:<b@example.com>\r\nDATA\r\nRCPT TO:<c@example.com>\r\nDATA\r\n"
    )
    assert isinstance(protocol.next_event(), Mail)
    protocol.answer(YES)
    assert isinstance(protocol.next_event(), Rcpt)
    protocol.answer(no)
    event = protocol.next_event()
    assert isinstance(event, Mistake)
    assert event.reply.code == 554
    protocol.answer(event.reply)
    assert isinstance(protocol.next_event(), Rcpt)
    protocol.answer(YES)
    assert protocol.next_event() == Data()


def test_data_that_was_refused_can_be_tried_again() -> None:
    protocol = started()
    play(protocol, BEGIN)
    protocol.receive(b"DATA\r\n")
    assert protocol.next_event() == Data()
    protocol.answer(Reply(451, "4.3.0", "not now"))
    assert play(protocol, b"DATA\r\n.\r\n") == [Data(), ContentEnd(0)]


@pytest.mark.parametrize("reply", [YES, Reply(451, "4.3.0", "no"), Reply(550, "5.0.0", "no")])
def test_after_the_content_the_transaction_is_over(reply: Reply) -> None:
    protocol = started()
    play(protocol, BEGIN)
    protocol.receive(b"DATA\r\n.\r\nRCPT TO:<c@example.com>\r\n")
    assert protocol.next_event() == Data()
    protocol.answer(Reply(354, "", "go"))
    assert protocol.next_event() == ContentEnd(0)
    protocol.answer(reply)
    event = protocol.next_event()
    assert isinstance(event, Mistake)
    assert event.reply.text == "Need mail command"


@pytest.mark.parametrize(
    ("before", "text"), [(b"", "Need mail command"), (b"MAIL FROM:<a@example.com>\r\n", "Need Rcpt command")]
)
def test_the_octets_of_a_refused_chunk_are_swallowed(before: bytes, text: str) -> None:
    for single in (False, True):
        *_, mistake, noop = play(started(), before + b"BDAT 6 LAST\r\nQUIT\r\nNOOP\r\n", single=single)
        assert isinstance(mistake, Mistake)
        assert mistake.reply.text == text
        assert noop == Noop()


def test_a_chunk_that_is_too_large_is_swallowed() -> None:
    for single in (False, True):
        events = play(started(), BEGIN + b"BDAT 1001 LAST\r\n" + b"x" * 1001 + b"NOOP\r\n", single=single)
        assert [type(event) for event in events] == [Mail, Rcpt, ContentRefused, Noop]
        assert isinstance(refused := events[2], ContentRefused)
        assert (refused.command, refused.reply.code) == ("BDAT", 552)


def test_chunks_that_are_too_large_together() -> None:
    events = play(
        started(), BEGIN + b"BDAT 600\r\n" + b"x" * 600 + b"BDAT 600\r\n" + b"x" * 600 + b"BDAT 1 LAST\r\nxNOOP\r\n"
    )
    assert [type(event) for event in events] == [Mail, Rcpt, Content, ChunkEnd, ContentRefused, Mistake, Noop]


def test_a_chunk_refused_by_its_answer_ends_the_transaction() -> None:
    protocol = started()
    play(protocol, BEGIN)
    protocol.receive(b"BDAT 1\r\nxBDAT 1 LAST\r\nyNOOP\r\n")
    assert protocol.next_event() == Content(b"x")
    assert protocol.next_event() == ChunkEnd(1)
    protocol.answer(Reply(452, "4.3.1", "full"))
    mistake = protocol.next_event()
    assert isinstance(mistake, Mistake)
    assert mistake.reply.text == "Need mail command"
    protocol.answer(mistake.reply)
    assert protocol.next_event() == Noop()


@pytest.mark.parametrize(
    "argument", [b"", b"x", b"-1", b"1 FIRST", b"1 LAST x", b"1LAST", b"123456789012345678901"]
)
def test_a_chunk_of_unknown_size_ends_the_conversation(argument: bytes) -> None:
    protocol = started()
    (*_, event) = play(protocol, BEGIN + b"BDAT " + argument + b"\r\nRSET\r\nNOOP\r\n")
    assert isinstance(event, Mistake)
    assert event.reply.code == 501
    assert protocol.is_closed


@pytest.mark.parametrize("command", [b"MAIL FROM:<x@y>", b"RCPT TO:<x@y>", b"DATA", b"STARTTLS"])
def test_between_chunks_only_chunks(command: bytes) -> None:
    events = play(started(), BEGIN + b"BDAT 1\r\nx" + command + b"\r\nNOOP\r\nBDAT 1 LAST\r\nyQUIT\r\n")
    mistake, noop, content, end, leave = events[4:]
    assert isinstance(mistake, Mistake)
    assert mistake.reply.code == 503
    assert (noop, content, end, leave) == (Noop(), Content(b"y"), ContentEnd(2), Quit())


def test_rset_between_chunks_forgets_them() -> None:
    events = play(started(), BEGIN + b"BDAT 1\r\nxRSET\r\n" + BEGIN + b"BDAT 1 LAST\r\ny")
    assert events[4:] == [Rset(), MAIL, RCPT, Content(b"y"), ContentEnd(1)]


def test_binary_only_by_bdat() -> None:
    events = play(
        started(),
        b"MAIL FROM:<a@example.com> BODY=BINARYMIME\r\nRCPT TO:<b@example.com>\r\nDATA\r\n"
        b"BDAT 4 LAST\r\n\n\r\x00\n",
    )
    assert isinstance(mistake := events[2], Mistake)
    assert mistake.reply.code == 503
    assert events[3:] == [Content(b"\n\r\x00\n"), ContentEnd(4)]


def test_size_is_exact() -> None:
    exact = b"x" * 998 + b"\r\n"
    assert play(started(), BEGIN + b"DATA\r\n" + exact + b".\r\n")[3:] == [Content(exact), ContentEnd(1000)]
    events = play(started(), BEGIN + b"DATA\r\n" + b"x" + exact + b".\r\nNOOP\r\n")
    assert isinstance(refused := events[-2], ContentRefused)
    assert (refused.command, refused.reply.code) == ("DATA", 552)
    assert events[-1] == Noop()


def test_utf8_addresses_with_smtputf8() -> None:
    events = play(started(), "MAIL FROM:<grå@example.com> SMTPUTF8\r\nRCPT TO:<b@bücher.example>\r\n".encode())
    assert events[0] == Mail(Address("grå", "example.com"), MailParameters(smtputf8=True))
    assert events[1] == Rcpt(Recipient(Address("b", "bücher.example")))
    # The permission ends with the transaction.
    events = play(started(), "MAIL FROM:<a@b> SMTPUTF8\r\nRSET\r\nMAIL FROM:<a@b>\r\nRCPT TO:<grå@b>\r\n".encode())
    assert isinstance(events[-1], Mistake)


def test_a_client_of_bare_line_feeds() -> None:
    protocol = started()
    events = play(protocol, b"EHLO x\n" + BEGIN.replace(b"\r\n", b"\n") + b"DATA\nQUIT\n")
    assert [type(event) for event in events] == [Hello, Mail, Rcpt, Mistake, Quit]
    assert isinstance(refused := events[3], Mistake)
    assert refused.reply.status == "5.6.11"


def test_a_line_feed_within_a_command_hides_none() -> None:
    events = play(started(), b"EHLO x\r\nMAIL FROM:<a@b>\nRCPT TO:<c@d>\r\nNOOP\r\n")
    assert [type(event) for event in events] == [Hello, Mistake, Noop]


def test_tls_forgets_everything() -> None:
    protocol = started(ServerOffer("default.example", starttls=True))
    events = play(protocol, b"EHLO x\r\nSTARTTLS now\r\nSTARTTLS\r\n")
    assert isinstance(events[1], Mistake)
    assert events[2] == StartTls()
    assert protocol.state is State.SECURING
    protocol.receive(b"NOOP\r\n")
    # What came too early is seen by its count, and never read.
    assert protocol.unread == 6
    assert protocol.next_event() is None
    protocol.secured()
    assert protocol.unread == 0
    need_hello, noop, again, hello, mail, twice = play(
        protocol,
        b"MAIL FROM:<a@example.com>\r\nNOOP\r\nSTARTTLS\r\nEHLO x\r\nMAIL FROM:<a@example.com>\r\nSTARTTLS\r\n",
    )
    assert isinstance(need_hello, Mistake)
    assert need_hello.reply.text == "Send hello first"
    assert noop == Noop()
    assert isinstance(again, Mistake)
    assert hello == Hello("x", True)
    assert mail == MAIL
    assert isinstance(twice, Mistake)
    assert twice.reply.code == 503


def test_dismissed_at_any_time() -> None:
    bye = Reply(421, "4.3.2", "bye")
    for before in (b"", b"NOOP\r\n", BEGIN + b"DATA\r\n", BEGIN + b"BDAT 10\r\nx"):
        protocol = started()
        play(protocol, before)
        protocol.outgoing()
        protocol.dismiss(bye)
        assert protocol.outgoing() == b"421 4.3.2 bye\r\n"
        assert protocol.is_closed
        protocol.receive(b"x\r\n.\r\nNOOP\r\n")
        assert protocol.next_event() is None


def test_the_table_is_whole() -> None:
    states = {state for state, _ in TABLE}
    assert states == set(State) - {
        State.CONNECTED,
        State.DATA,
        State.AUTHENTICATING,
        State.SECURING,
        State.CLOSED,
    }
    assert {(state, verb) for state in states for verb in Verb} == set(TABLE)
    targets = {target for target in TABLE.values() if isinstance(target, State)} | set(AFTER_REFUSAL.values())
    assert targets | {State.CONNECTED} == set(State)
    for target in TABLE.values():
        assert isinstance(target, State) or target.code in (503, 554)
