"""The client's side of SMTP as a table of conversations: what is said, what that means, what is said next."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailroot.mail.address import Address
from mailroot.mail.envelope import Body, Envelope, Notify, Recipient, Return
from mailroot.mail.reply import Reply
from mailroot.smtp.client import ClientProtocol
from mailroot.smtp.client_events import (
    Closing,
    ContentWanted,
    Finished,
    LoggedIn,
    LoginRefused,
    Quit,
    Ready,
    Refused,
    SecurityOffered,
    SecurityRefused,
)
from mailroot.smtp.offer import Offer, xtext
from mailroot.smtp.reply_reader import MAX_LINE, MAX_LINES, MAX_OCTETS, ReplyError, ReplyReader
from mailroot.smtp.stuffing import Stuffing, paired

pytestmark = pytest.mark.quick

A, B, C = (Recipient(Address(name, "example.net")) for name in "abc")
SENDER = Address("s", "example.com")


def greeted(*extensions: str) -> ClientProtocol:
    protocol = ClientProtocol("relay.example.com")
    protocol.receive(b"220 hop ESMTP\r\n")
    assert protocol.next_event() is None
    assert protocol.outgoing() == b"EHLO relay.example.com\r\n"
    lines = ["hop greets you", *extensions]
    text = "".join(f"250{'-' if n < len(lines) - 1 else ' '}{line}\r\n" for n, line in enumerate(lines))
    protocol.receive(text.encode())
    assert protocol.next_event() == Ready()
    return protocol


def hear(protocol: ClientProtocol, text: str) -> object:
    protocol.receive(text.encode())
    return protocol.next_event()


# The beginning


def test_ehlo_refused_is_followed_by_helo() -> None:
    protocol = ClientProtocol("relay")
    assert hear(protocol, "220 old\r\n") is None
    protocol.outgoing()
    assert hear(protocol, "502 what?\r\n") is None
    assert protocol.outgoing() == b"HELO relay\r\n"
    assert hear(protocol, "250 hello\r\n") == Ready()
    assert protocol.offer == Offer()


def test_helo_where_configured() -> None:
    protocol = ClientProtocol("relay", send_helo=True)
    assert hear(protocol, "220 old\r\n") is None
    assert protocol.outgoing() == b"HELO relay\r\n"
    assert hear(protocol, "550 no\r\n") == Refused(Reply(550, "", "no"))


@pytest.mark.parametrize("banner", ["554 no service", "421 busy", "450 later"])
def test_refused_at_the_door(banner: str) -> None:
    event = hear(ClientProtocol("relay"), banner + "\r\n")
    assert isinstance(event, Refused)
    assert str(event.reply) == banner


def test_closed_at_the_door() -> None:
    protocol = ClientProtocol("relay")
    protocol.receive(b"")
    with pytest.raises(ReplyError, match="closed while we waited for the reply to the connection"):
        protocol.next_event()


def test_offer_is_read_whatever_its_case_and_order() -> None:
    offer = greeted(
        "pipelining",
        "SIZE 1000",
        "auth=LOGIN",
        "AUTH PLAIN LOGIN XOAUTH2",
        "DSN",
        "SMTPUTF8",
        "CHUNKING",
        "BINARYMIME",
    ).offer
    assert offer.pipelining and offer.dsn and offer.smtputf8 and offer.chunking and offer.binary
    assert offer.size == 1000 and offer.has_size
    assert set(offer.mechanisms) == {"LOGIN", "PLAIN", "XOAUTH2"}
    assert not offer.eight_bit and not offer.starttls
    assert greeted("SIZE", "BINARYMIME").offer == Offer(has_size=True)
    assert greeted("SIZE ²³", "").offer.size == 0


def test_starttls_forgets_what_was_offered_in_the_clear() -> None:
    protocol = greeted("STARTTLS", "AUTH PLAIN")
    protocol.start_tls()
    assert protocol.outgoing() == b"STARTTLS\r\n"
    assert hear(protocol, "220 go\r\n") == SecurityOffered()
    protocol.secured()
    assert protocol.offer == Offer()
    assert protocol.outgoing() == b"EHLO relay.example.com\r\n"
    assert hear(protocol, "250-hop\r\n250 SIZE\r\n") == Ready()
    assert protocol.offer == Offer(has_size=True)


def test_starttls_refused() -> None:
    protocol = greeted("STARTTLS")
    protocol.start_tls()
    assert hear(protocol, "454 4.7.0 no certificate\r\n") == SecurityRefused(Reply(454, "4.7.0", "no certificate"))


def test_replies_injected_before_tls_are_refused() -> None:
    protocol = greeted("STARTTLS")
    protocol.start_tls()
    protocol.receive(b"220 go\r\n250-evil\r\n250 AUTH PLAIN\r\n")
    with pytest.raises(ReplyError, match="in the clear"):
        protocol.next_event()


def test_login_prefers_plain() -> None:
    protocol = greeted("AUTH LOGIN PLAIN")
    assert protocol.login("user", "pässword")
    command = protocol.outgoing()
    assert base64.b64decode(command.removeprefix(b"AUTH PLAIN ")) == "\0user\0pässword".encode()
    assert hear(protocol, "235 2.7.0 welcome\r\n") == LoggedIn()


def test_login_by_login() -> None:
    protocol = greeted("AUTH LOGIN")
    assert protocol.login("user", "secret")
    assert protocol.outgoing() == b"AUTH LOGIN\r\n"
    assert hear(protocol, "334 VXNlcm5hbWU6\r\n") is None
    assert base64.b64decode(protocol.outgoing()) == b"user"
    assert hear(protocol, "334 not base64 at all!\r\n") is None
    assert base64.b64decode(protocol.outgoing()) == b"secret"
    assert hear(protocol, "535 5.7.8 no\r\n") == LoginRefused(Reply(535, "5.7.8", "no"))


def test_a_long_login_waits_for_the_challenge() -> None:
    protocol = greeted("AUTH PLAIN")
    assert protocol.login("user", "x" * 500)
    assert protocol.outgoing() == b"AUTH PLAIN\r\n"
    assert hear(protocol, "334 \r\n") is None
    assert base64.b64decode(protocol.outgoing()) == b"\0user\0" + b"x" * 500


def test_no_mechanism_in_common() -> None:
    protocol = greeted("AUTH NTLM GSSAPI")
    assert not protocol.login("user", "secret")
    assert protocol.outgoing() == b""


def test_a_login_without_end() -> None:
    protocol = greeted("AUTH LOGIN")
    protocol.login("user", "secret")
    with pytest.raises(ReplyError, match="AUTH"):
        for _ in range(20):
            assert hear(protocol, "334 more\r\n") is None


def test_secrets_are_in_no_repr() -> None:
    protocol = greeted("AUTH LOGIN PLAIN")
    protocol.login("user", "secret")
    mechanism = protocol._mechanism
    for shown in (repr(protocol), repr(mechanism)):
        assert "secret" not in shown and base64.b64encode(b"\0user\0secret").decode() not in shown


# A message


def test_pipelined_in_two_writes() -> None:
    protocol = greeted("PIPELINING", "SIZE")
    protocol.begin(Envelope(SENDER, (A, B)), 7, b"a\r\n.b\r\n")
    assert protocol.outgoing() == (
        b"MAIL FROM:<s@example.com> SIZE=7\r\nRCPT TO:<a@example.net>\r\nRCPT TO:<b@example.net>\r\nDATA\r\n"
    )
    assert hear(protocol, "250 ok\r\n250 ok\r\n550 5.1.1 no b\r\n354 go\r\n") is None
    assert protocol.outgoing() == b"a\r\n..b\r\n.\r\n"
    done = Reply(250, "2.0.0", "queued as 1")
    assert hear(protocol, "250 2.0.0 queued as 1\r\n") == Finished((done, Reply(550, "5.1.1", "no b")), (1,))
    assert protocol.is_usable


def test_chunked_in_one_write() -> None:
    protocol = greeted("PIPELINING", "CHUNKING", "8BITMIME")
    protocol.begin(Envelope(None, (A,), Body.EIGHT_BIT), 6, b".\xe4\r\n.\r")
    assert protocol.outgoing() == (
        b"MAIL FROM:<> BODY=8BITMIME\r\nRCPT TO:<a@example.net>\r\nBDAT 7 LAST\r\n.\xe4\r\n.\r\n"
    )
    assert hear(protocol, "250 ok\r\n250 ok\r\n250 done\r\n") == Finished((Reply(250, "", "done"),))


def test_in_lockstep_without_pipelining() -> None:
    protocol = greeted("CHUNKING")
    protocol.begin(Envelope(SENDER, (A, B)), 3, b"x\r\n")
    for said, heard in [
        (b"MAIL FROM:<s@example.com>\r\n", "250 ok\r\n"),
        (b"RCPT TO:<a@example.net>\r\n", "450 later\r\n"),
        (b"RCPT TO:<b@example.net>\r\n", "251 forwarded\r\n"),
        (b"DATA\r\n", "354 go\r\n"),
    ]:
        assert protocol.outgoing() == said
        assert hear(protocol, heard) is None
    assert protocol.outgoing() == b"x\r\n.\r\n"
    assert hear(protocol, "250 ok\r\n") == Finished((Reply(450, "", "later"), Reply(250, "", "ok")), (0,))


def test_mail_refused() -> None:
    no = Reply(550, "5.7.60", "not as this sender")
    protocol = greeted("PIPELINING")
    protocol.begin(Envelope(SENDER, (A, B)), 3, b"x\r\n")
    assert hear(protocol, "550 5.7.60 not as this sender\r\n503 no\r\n503 no\r\n503 no\r\n") == Finished((no, no))
    protocol = greeted()
    protocol.begin(Envelope(SENDER, (A, B)), 3, b"x\r\n")
    assert hear(protocol, "550 5.7.60 not as this sender\r\n") == Finished((no, no))
    protocol.outgoing()
    protocol.begin(Envelope(SENDER, (A,)), 3, b"x\r\n")
    assert protocol.outgoing().startswith(b"MAIL FROM")


def test_all_refused_but_data_accepted_ends_with_a_lone_dot() -> None:
    protocol = greeted("PIPELINING")
    protocol.begin(Envelope(SENDER, (A, B)), 6, b"secret")
    protocol.outgoing()
    assert hear(protocol, "250 ok\r\n550 no\r\n450 no\r\n354 go\r\n") is None
    assert protocol.outgoing() == b".\r\n"
    assert not protocol.is_usable
    event = hear(protocol, "554 no valid recipients\r\n")
    assert event == Finished((Reply(550, "", "no"), Reply(450, "", "no")), (0, 1))
    assert protocol.is_usable


def test_a_server_that_forgets_its_refusal_gets_no_content() -> None:
    no = Reply(451, "", "no")
    protocol = greeted("PIPELINING")
    protocol.begin(Envelope(SENDER, (A,)), 6, b"secret")
    protocol.outgoing()
    assert hear(protocol, "451 no\r\n250 ok\r\n354 go\r\n") is None
    assert protocol.outgoing() == b".\r\n"
    assert hear(protocol, "250 thanks\r\n") == Finished((no,))


def test_all_refused_in_lockstep_is_tidied_up_with_the_next_message() -> None:
    protocol = greeted()
    protocol.begin(Envelope(SENDER, (A,)), 3, b"x\r\n")
    assert hear(protocol, "250 ok\r\n") is None
    assert hear(protocol, "550 no\r\n") == Finished((Reply(550, "", "no"),), (0,))
    protocol.outgoing()
    protocol.begin(Envelope(SENDER, (B,)), 3, b"x\r\n")
    assert protocol.outgoing() == b"RSET\r\nMAIL FROM:<s@example.com>\r\n"
    assert hear(protocol, "250 ok\r\n") is None
    assert protocol.outgoing() == b""
    assert hear(protocol, "250 ok\r\n") is None
    assert protocol.outgoing() == b"RCPT TO:<b@example.net>\r\n"


def test_data_refused_is_tidied_up_too() -> None:
    protocol = greeted("PIPELINING")
    protocol.begin(Envelope(SENDER, (A,)), 3, b"x\r\n")
    protocol.outgoing()
    event = hear(protocol, "250 ok\r\n250 ok\r\n451 4.3.0 not now\r\n")
    assert event == Finished((Reply(451, "4.3.0", "not now"),))
    protocol.begin(Envelope(SENDER, (A,)), 3, b"x\r\n")
    assert protocol.outgoing().startswith(b"RSET\r\nMAIL")
    protocol.receive(b"500 what\r\n")
    with pytest.raises(ReplyError, match="RSET"):
        protocol.next_event()


@pytest.mark.parametrize("before", ["", "250 ok\r\n", "250 ok\r\n250 ok\r\n", "250 ok\r\n" * 3])
def test_421_at_any_time_ends_it(before: str) -> None:
    protocol = greeted("PIPELINING")
    protocol.begin(Envelope(SENDER, (A, B)), 3, b"x\r\n")
    event = hear(protocol, before + "421 4.3.2 bye\r\n")
    assert event == Finished((Reply(421, "4.3.2", "bye"),) * 2)
    assert not protocol.is_usable


def test_421_keeps_what_was_said_before() -> None:
    protocol = greeted("PIPELINING")
    protocol.begin(Envelope(SENDER, (A, B)), 3, b"x\r\n")
    event = hear(protocol, "250 ok\r\n550 5.1.1 never\r\n421 4.3.2 bye\r\n")
    assert event == Finished((Reply(550, "5.1.1", "never"), Reply(421, "4.3.2", "bye")), (0,))


def test_421_out_of_the_blue() -> None:
    protocol = greeted()
    assert hear(protocol, "421 4.4.2 idle too long\r\n") == Closing(Reply(421, "4.4.2", "idle too long"))
    assert not protocol.is_usable


def test_a_reply_to_nothing() -> None:
    protocol = greeted()
    protocol.receive(b"250 surprise\r\n")
    assert not protocol.is_usable
    with pytest.raises(ReplyError, match="a reply to nothing"):
        protocol.next_event()


@pytest.mark.parametrize(
    "heard",
    ["354 go\r\n", "250 ok\r\n354 ok\r\n", "250 ok\r\n250 ok\r\n250 why not\r\n", "250 ok\r\n250 ok\r\n334 eh\r\n"],
)
def test_replies_that_make_no_sense(heard: str) -> None:
    protocol = greeted("PIPELINING")
    protocol.begin(Envelope(SENDER, (A,)), 3, b"x\r\n")
    protocol.receive(heard.encode())
    with pytest.raises(ReplyError, match="not a reply to"):
        while protocol.next_event() is None:
            pass


def test_large_content_is_asked_for() -> None:
    protocol = greeted("PIPELINING")
    protocol.begin(Envelope(SENDER, (A,)), 9)
    protocol.outgoing()
    assert hear(protocol, "250 ok\r\n250 ok\r\n354 go\r\n") == ContentWanted()
    for piece in (b".a\r", b"\n.", b"b\n"):
        protocol.content(piece)
    protocol.end_content()
    assert protocol.outgoing() == b"..a\r\n..b\r\n.\r\n"
    assert hear(protocol, "250 ok\r\n") == Finished((Reply(250, "", "ok"),))


def test_an_early_verdict_ends_the_connection() -> None:
    protocol = greeted("PIPELINING")
    protocol.begin(Envelope(SENDER, (A,)), 100)
    assert hear(protocol, "250 ok\r\n250 ok\r\n354 go\r\n") == ContentWanted()
    protocol.content(b"a\r\n")
    assert hear(protocol, "552 5.3.4 enough\r\n") == Finished((Reply(552, "5.3.4", "enough"),))
    assert not protocol.is_usable


def test_an_early_success_is_nonsense() -> None:
    protocol = greeted("PIPELINING")
    protocol.begin(Envelope(SENDER, (A,)), 100)
    assert hear(protocol, "250 ok\r\n250 ok\r\n354 go\r\n") == ContentWanted()
    protocol.receive(b"250 got it\r\n")
    with pytest.raises(ReplyError, match="before the content was complete"):
        protocol.next_event()


def test_binary_goes_by_chunk_as_it_is() -> None:
    protocol = greeted("CHUNKING", "BINARYMIME")
    protocol.begin(Envelope(SENDER, (A,), Body.BINARY), 6)
    assert protocol.outgoing() == b"MAIL FROM:<s@example.com> BODY=BINARYMIME\r\n"
    assert hear(protocol, "250 ok\r\n") is None
    assert hear(protocol, "250 ok\r\n") == ContentWanted()
    protocol.outgoing()
    protocol.content(b"\n.\r")
    protocol.content(b"\0\n\n")
    protocol.end_content()
    assert protocol.outgoing() == b"\n.\r\0\n\n"


def test_a_chunk_of_the_wrong_size_is_never_completed() -> None:
    protocol = greeted("CHUNKING", "BINARYMIME")
    protocol.begin(Envelope(SENDER, (A,), Body.BINARY), 6)
    hear(protocol, "250 ok\r\n")
    assert hear(protocol, "250 ok\r\n") == ContentWanted()
    protocol.content(b"abc")
    with pytest.raises(ValueError, match="wrong by -3"):
        protocol.end_content()


def test_giving_up() -> None:
    why = Reply(451, "4.4.2", "lost")
    protocol = greeted("PIPELINING")
    protocol.begin(Envelope(SENDER, (A, B)), 3, b"x\r\n")
    assert protocol.give_up(why) == Finished((why, why), (), answered=False, doubtful=False)
    protocol = greeted("PIPELINING")
    protocol.begin(Envelope(SENDER, (A, B)), 3, b"x\r\n")
    assert hear(protocol, "250 ok\r\n550 no\r\n250 ok\r\n354 go\r\n") is None
    no = Reply(550, "", "no")
    assert protocol.give_up(why) == Finished((no, why), (0,), answered=True, doubtful=True)
    assert not protocol.is_usable


def test_dsn_parameters_only_where_offered() -> None:
    recipient = Recipient(Address("a", "example.net"), Notify.SUCCESS | Notify.DELAY, "rfc822;a+b@example.net")
    never = Recipient(Address("b", "example.net"), Notify.NEVER, "utf-8;ü@example.net")
    envelope = Envelope(SENDER, (recipient, never), ret=Return.HEADERS, envid="id=1+1 ü")
    protocol = greeted("PIPELINING", "DSN")
    protocol.begin(envelope, 3, b"x\r\n")
    assert protocol.outgoing() == (
        b"MAIL FROM:<s@example.com> RET=HDRS ENVID=id+3D1+2B1+20+C3+BC\r\n"
        b"RCPT TO:<a@example.net> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;a+2Bb@example.net\r\n"
        b"RCPT TO:<b@example.net> NOTIFY=NEVER ORCPT=utf-8;\\x{FC}@example.net\r\nDATA\r\n"
    )
    protocol = greeted("PIPELINING")
    protocol.begin(envelope, 3, b"x\r\n")
    assert b"NOTIFY" not in protocol.outgoing()


def test_smtputf8_is_said_where_wanted_and_offered() -> None:
    envelope = Envelope(Address("ä", "example.com"), (A,), Body.EIGHT_BIT, smtputf8=True)
    protocol = greeted("SMTPUTF8", "8BITMIME")
    protocol.begin(envelope, 3, b"x\r\n")
    assert protocol.outgoing() == "MAIL FROM:<ä@example.com> BODY=8BITMIME SMTPUTF8\r\n".encode()


@pytest.mark.parametrize("local", ["a>\r\nRCPT TO:<evil", "a\nb", "a\rb"])
@pytest.mark.parametrize("extensions", [(), ("PIPELINING",)])
def test_no_address_breaks_out_of_its_line(local: str, extensions: tuple[str, ...]) -> None:
    bad = Address(local, "example.net")
    protocol = greeted(*extensions)
    with pytest.raises(ValueError, match="line end"):
        protocol.begin(Envelope(bad, (A,)), 3, b"x\r\n")
    protocol = greeted(*extensions)
    with pytest.raises(ValueError, match="line end"):
        protocol.begin(Envelope(SENDER, (Recipient(bad),)), 3, b"x\r\n")
        hear(protocol, "250 ok\r\n")
    assert b"evil" not in protocol.outgoing()
    assert not protocol.is_usable


def test_quit() -> None:
    protocol = greeted()
    protocol.quit()
    assert protocol.outgoing() == b"QUIT\r\n"
    assert hear(protocol, "221 bye\r\n") == Quit()


# Replies


@pytest.mark.parametrize(
    ("octets", "reply"),
    [
        (b"250\r\n", Reply(250, "", "")),
        (b"250-\r\n250\r\n", Reply(250, "", "")),
        (b"250 \n", Reply(250, "", "")),
        (b"250 2.1.0 ok\r\n", Reply(250, "2.1.0", "ok")),
        (b"250 2.1.0\r\n", Reply(250, "2.1.0", "")),
        (b"550-5.1.1 not\r\n550-5.1.1 here\r\n550 5.1.1 at all\r\n", Reply(550, "5.1.1", "not\nhere\nat all")),
        (b"550-5.1.1 one\r\n550 two\r\n", Reply(550, "5.1.1", "one\ntwo")),
        (b"550 2.1.0 the class differs\r\n", Reply(550, "", "2.1.0 the class differs")),
        (b"451 \xff\xfe caf\xc3\xa9 \x1b[31m\r\n", Reply(451, "", "\ufffd\ufffd café  [31m")),
        (b"250 " + b"x" * 2000 + b"\r\n", Reply(250, "", "x" * 2000)),
    ],
)
def test_replies_are_read_whole_and_in_pieces(octets: bytes, reply: Reply) -> None:
    reader = ReplyReader()
    reader.receive(octets)
    assert reader.next() == reply
    assert reader.next() is None and not reader.unread
    for octet in octets:
        assert reader.next() is None
        reader.receive(bytes([octet]))
    assert reader.next() == reply


@pytest.mark.parametrize(
    "octets",
    [
        b"HTTP/1.1 400 Bad Request\r\n",
        b"\r\n",
        b"25\r\n",
        b"250_ok\r\n",
        b"150 early\r\n",
        b"600 late\r\n",
        b"\xb2\xb3\xb2 no digits\r\n",
        b"250-one\r\n550 other\r\n",
        b"x" * (MAX_OCTETS + 1),
        b"250 " + b"x" * MAX_OCTETS + b"\r\n",
        b"250-more\r\n" * MAX_LINES,
        b"250-" + b"\r\n250-".join([b"x" * 1000] * 100) + b"\r\n",
        b"250 ok\r\n" * 100_000,
    ],
)
def test_what_is_no_reply(octets: bytes) -> None:
    reader = ReplyReader()
    with pytest.raises(ReplyError):
        reader.receive(octets)
        while reader.next() is not None:
            pass
        pytest.fail("more was asked for")


def test_a_line_that_is_too_long_is_cut_and_still_an_answer() -> None:
    """Taken for no answer, the one to the content would make us send a message again that was accepted."""
    octets = b"250-" + b"x" * 3000 + b"\r\n250 ok\r\n221 bye\r\n"
    for step in (100, len(octets)):
        reader, replies = ReplyReader(), []
        for start in range(0, len(octets), step):
            reader.receive(octets[start : start + step])
            while (reply := reader.next()) is not None:
                replies.append(reply)
        assert replies == [Reply(250, "", "x" * (MAX_LINE - 4) + "\nok"), Reply(221, "", "bye")]


# Content


@pytest.mark.parametrize(
    ("content", "wire"),
    [
        (b"", b".\r\n"),
        (b"a", b"a\r\n.\r\n"),
        (b"a\r\n", b"a\r\n.\r\n"),
        (b".", b"..\r\n.\r\n"),
        (b".\r\n", b"..\r\n.\r\n"),
        (b"a\r\n.\r\nMAIL FROM:<evil>\r\n", b"a\r\n..\r\nMAIL FROM:<evil>\r\n.\r\n"),
        (b"a\n.\nb", b"a\r\n..\r\nb\r\n.\r\n"),
        (b"a\r.\rb", b"a\r\n..\r\nb\r\n.\r\n"),
        (b"a\r\r\n.\r\r\nb", b"a\r\n\r\n..\r\n\r\nb\r\n.\r\n"),
        (b"a\n.\r\nb", b"a\r\n..\r\nb\r\n.\r\n"),
        (b"a\r", b"a\r\n.\r\n"),
        (b"\0\x80\xff\r\n", b"\0\x80\xff\r\n.\r\n"),
    ],
)
def test_content_on_the_wire(content: bytes, wire: bytes) -> None:
    for step in (1, 2, 3, 100):
        stuffing = Stuffing()
        out = b"".join(stuffing.add(content[n : n + step]) for n in range(0, len(content), step))
        assert out + stuffing.end() == wire


@given(st.lists(st.binary(max_size=5) | st.sampled_from([b"\r", b"\n", b".", b"\r\n.", b"\n.\r\n"]), max_size=30))
def test_no_reader_sees_the_end_too_early(pieces: list[bytes]) -> None:
    stuffing = Stuffing()
    wire = b"".join(stuffing.add(piece) for piece in pieces) + stuffing.end()
    # However line ends are read: the first line with only a dot is the last.
    loose = wire.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    assert (b"\n" + loose).index(b"\n.\n") == len(loose) - 2
    assert wire.count(b"\r") == wire.count(b"\n") == wire.count(b"\r\n")
    text = paired(b"".join(pieces))
    lines = wire.removesuffix(b".\r\n").split(b"\r\n")
    seen = b"\r\n".join(line[1:] if line.startswith(b".") else line for line in lines)
    assert seen in (text, text + b"\r\n")


# Anything at all

_FRAGMENTS = st.sampled_from(
    [b"220 hi\r\n", b"250 ok\r\n", b"250-x\r\n", b"354 go\r\n", b"334 \r\n", b"235 in\r\n", b"421 bye\r\n",
     b"550 no\r\n",
     b"250-hop\r\n250-PIPELINING\r\n250-CHUNKING\r\n250-AUTH PLAIN LOGIN\r\n250 STARTTLS\r\n", b"221 bye\r\n"]
)  # fmt: skip


@given(
    st.lists(st.binary(max_size=40) | _FRAGMENTS, max_size=40),
    st.lists(st.sampled_from(["begin", "large", "tls", "login", "quit"]), max_size=8),
)
def test_whatever_is_heard_it_ends_well(heard: list[bytes], orders: list[str]) -> None:
    protocol = ClientProtocol("relay")
    begun = finished = 0
    try:
        for data in [*heard, b"", b""]:
            protocol.receive(data)
            for _ in range(10_000):
                event = protocol.next_event()
                protocol.outgoing()
                match event:
                    case None:
                        break
                    case Finished(replies):
                        finished += 1
                        assert len(replies) == 2
                    case SecurityOffered():
                        protocol.secured()
                    case ContentWanted():
                        protocol.content(b"x\r\n")
                        protocol.end_content()
                    case _:
                        pass
                if protocol.is_usable and orders and not isinstance(event, SecurityOffered):
                    match orders.pop():
                        case "begin":
                            protocol.begin(Envelope(SENDER, (A, B)), 3, b"x\r\n")
                            begun += 1
                        case "large":
                            protocol.begin(Envelope(SENDER, (A, B)), 3)
                            begun += 1
                        case "tls":
                            protocol.start_tls()
                        case "login":
                            protocol.login("user", "secret")
                        case _:
                            protocol.quit()
            else:
                pytest.fail("events without end")
    except ReplyError as error:
        assert "secret" not in str(error)
        if begun > finished:
            assert len(protocol.give_up(Reply(451, "4.4.2", "lost")).replies) == 2
    else:
        pytest.fail("it did not notice the end")


def test_xtext() -> None:
    assert xtext("a+b=c") == "a+2Bb+3Dc"
    assert xtext("plain") == "plain"
    assert xtext("ü x") == "+C3+BC+20x"
