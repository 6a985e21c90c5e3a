"""The server protocol's logins (RFC 4954), introductions (XCLIENT) and strictness."""

from base64 import b64encode

import pytest

from mailroot.mail.address import Address
from mailroot.mail.reply import Reply
from mailroot.smtp import answers
from mailroot.smtp.commands import (
    Auth,
    AuthCancelled,
    AuthResponse,
    Data,
    Event,
    Hello,
    Mail,
    Mistake,
    Noop,
    Rcpt,
    StartTls,
    Xclient,
)
from mailroot.smtp.extensions import ServerOffer
from mailroot.smtp.lines import MAX_LINE, MAX_LOGIN_LINE
from mailroot.smtp.server import ServerProtocol
from mailroot.smtp.shown import HIDDEN
from mailroot.smtp.states import State

pytestmark = pytest.mark.quick

YES = Reply(250, "2.0.0", "yes")
SECRET = b64encode(b"\0bob\0hunter2")
STRICT = ServerOffer("default.example", strict=True)


def started(offer: ServerOffer | None = None) -> ServerProtocol:
    protocol = ServerProtocol(offer or ServerOffer("default.example", starttls=True))
    protocol.answer(Reply(220, "", "hello"))
    protocol.mechanisms = ("PLAIN", "LOGIN")
    protocol.outgoing()
    return protocol


def ask(protocol: ServerProtocol, line: bytes) -> Event:
    """What a line means; the same if it comes octet by octet."""
    if len(line) < 200:
        for n in range(len(line)):
            protocol.receive(line[n : n + 1])
            assert protocol.next_event() is None
    else:
        protocol.receive(line)
    protocol.receive(b"\r\n")
    event = protocol.next_event()
    assert event is not None
    return event


def say(protocol: ServerProtocol, *lines: bytes, reply: Reply = YES) -> list[Event]:
    """The events of these lines; what is right is answered with `reply`."""
    events = []
    for line in lines:
        event = ask(protocol, line)
        protocol.answer(event.reply if isinstance(event, Mistake) else reply)
        events.append(event)
    return events


def refusal(protocol: ServerProtocol, line: bytes) -> Reply:
    (event,) = say(protocol, line)
    assert isinstance(event, Mistake), event
    return event.reply


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b"AUTH PLAIN", Auth("PLAIN", None)),
        (b"auth login", Auth("LOGIN", None)),
        (b"AUTH Login Ym9i", Auth("LOGIN", b"bob")),
        (b"AUTH PLAIN =", Auth("PLAIN", b"")),
        (b"AUTH PLAIN  Ym9i \t", Auth("PLAIN", b"bob")),
        (b"AUTH SCRAM-SHA-256-PLUS biws", Auth("SCRAM-SHA-256-PLUS", b"n,,")),
        (b"AUTH X_Y", Auth("X_Y", None)),
        (b"AUTH PLAIN " + SECRET, Auth("PLAIN", b"\0bob\0hunter2")),
        (b"AUTH GSSAPI " + b"Ym9i" * 10_000, Auth("GSSAPI", b"bob" * 10_000)),
    ],
)
def test_auth(line: bytes, expected: Auth) -> None:
    assert say(started(), line) == [expected]


@pytest.mark.parametrize(
    ("line", "reply"),
    [
        (b"AUTH", answers.SYNTAX),
        (b"AUTH \xc3\xa5", answers.SYNTAX),
        (b"AUTH PL/AIN", answers.SYNTAX),
        (b"AUTH " + b"X" * 21, answers.SYNTAX),
        (b"AUTH PLAIN Ym9", answers.AUTH_SYNTAX),
        (b"AUTH PLAIN Ym9i=", answers.AUTH_SYNTAX),
        (b"AUTH PLAIN Ym9i====", answers.AUTH_SYNTAX),
        (b"AUTH PLAIN Ym8=Ym9i", answers.AUTH_SYNTAX),
        (b"AUTH PLAIN Ym9i extra", answers.AUTH_SYNTAX),
        (b"AUTH PLAIN Ym9-", answers.AUTH_SYNTAX),
        (b"AUTH PLAIN ==", answers.AUTH_SYNTAX),
        (b"AUTH PLAIN *", answers.AUTH_SYNTAX),
        ("AUTH PLAIN Ym9å".encode(), answers.AUTH_SYNTAX),
        (b"AUTH\tPLAIN", answers.BAD_CHARACTERS),
        (b"AUTH PLAIN Ym\x009i", answers.BAD_CHARACTERS),
        (b"AUTH PLAIN " + b"Ym9i" * 20_000, answers.AUTH_TOO_LONG),
    ],
)
def test_auth_refused(line: bytes, reply: Reply) -> None:
    protocol = started()
    (event,) = say(protocol, line)
    assert isinstance(event, Mistake)
    assert event.reply == reply
    assert event.line in ("", "AUTH", "AUTH PLAIN")
    assert say(protocol, b"NOOP") == [Noop()]


def test_an_exchange() -> None:
    protocol = started()
    assert ask(protocol, b"AUTH LOGIN") == Auth("LOGIN", None)
    protocol.challenge(b"Username:")
    assert protocol.outgoing() == b"334 VXNlcm5hbWU6\r\n"
    assert protocol.state is State.AUTHENTICATING
    assert ask(protocol, b"Ym9i") == AuthResponse(b"bob")
    protocol.challenge(b"Password:")
    assert protocol.outgoing() == b"334 UGFzc3dvcmQ6\r\n"
    assert ask(protocol, b"") == AuthResponse(b"")
    protocol.challenge(b"")
    assert protocol.outgoing() == b"334 \r\n"
    assert ask(protocol, b"aHVudGVyMg== \t") == AuthResponse(b"hunter2")
    assert not protocol.authenticated
    protocol.answer(answers.AUTH_OK)
    assert protocol.authenticated
    assert protocol.state is State.READY
    assert refusal(protocol, b"AUTH PLAIN " + SECRET) == answers.AUTH_AGAIN
    assert isinstance(say(protocol, b"MAIL FROM:<a@b>")[0], Mail)


@pytest.mark.parametrize("before", [(), (b"=",)])
@pytest.mark.parametrize("reply", [answers.AUTH_FAILED, answers.AUTH_UNAVAILABLE, answers.AUTH_UNKNOWN])
def test_a_refused_login_may_be_tried_again(before: tuple[bytes, ...], reply: Reply) -> None:
    protocol = started()
    for _ in range(2):
        ask(protocol, b"AUTH LOGIN")
        if before:
            protocol.challenge(b"")
            ask(protocol, b"")
        protocol.answer(reply)
        assert not protocol.authenticated
        assert protocol.state is State.READY
    assert isinstance(say(protocol, b"MAIL FROM:<a@b>")[0], Mail)


@pytest.mark.parametrize("line", [b"*", b"* "])
def test_a_login_broken_off(line: bytes) -> None:
    protocol = started()
    ask(protocol, b"AUTH LOGIN")
    protocol.challenge(b"")
    assert ask(protocol, line) == AuthCancelled()
    # Even a wrong answer logs nobody in.
    protocol.answer(YES)
    assert not protocol.authenticated
    assert say(protocol, b"NOOP") == [Noop()]


@pytest.mark.parametrize(
    ("line", "reply"),
    [
        (b"Ym9", answers.AUTH_SYNTAX),
        (b"=", answers.AUTH_SYNTAX),
        (b"Ym9i Ym9i", answers.AUTH_SYNTAX),
        (b"\xff", answers.AUTH_SYNTAX),
        (b"Ym\x009i", answers.AUTH_SYNTAX),
        (b"Ym9i\nYm9i", answers.AUTH_SYNTAX),
        (b"**", answers.AUTH_SYNTAX),
        (b"hunter2", answers.AUTH_SYNTAX),
        (b"MAIL FROM:<a@b>", answers.AUTH_SYNTAX),
        (b"Ym9i" * (MAX_LOGIN_LINE // 4), answers.AUTH_TOO_LONG),
    ],
)
def test_a_response_that_is_none_ends_the_exchange(line: bytes, reply: Reply) -> None:
    protocol = started()
    say(protocol, b"NOOP")
    ask(protocol, b"AUTH LOGIN")
    protocol.challenge(b"")
    (event,) = say(protocol, line)
    assert event == Mistake("AUTH", reply)
    assert protocol.state is State.READY
    # What the client sends next believing that it goes on is a mistake, and not shown.
    assert say(protocol, b"aHVudGVyMg==") == [Mistake(HIDDEN, answers.UNRECOGNIZED)]


def test_an_empty_line_that_is_no_answer_is_passed_over_once() -> None:
    protocol = started()
    ask(protocol, b"AUTH GSSAPI")
    protocol.challenge(b"layers", skip_empty=True)
    protocol.receive(b"\r\n")
    assert protocol.next_event() is None
    assert ask(protocol, b"Ym9i") == AuthResponse(b"bob")
    protocol.challenge(b"", skip_empty=True)
    protocol.receive(b"\r\nYm9i\r\n")
    assert protocol.next_event() == AuthResponse(b"bob"), "both in one packet"
    protocol.challenge(b"", skip_empty=True)
    protocol.receive(b"\r\n\r\n")
    assert protocol.next_event() == AuthResponse(b""), "one line, not two"
    protocol.challenge(b"")
    assert ask(protocol, b"") == AuthResponse(b"")
    protocol.answer(answers.AUTH_FAILED)
    assert (
        protocol.outgoing() == b"334 bGF5ZXJz\r\n" + b"334 \r\n" * 3 + b"535 5.7.3 Authentication unsuccessful.\r\n"
    )


def test_long_lines_are_for_logins_only_and_only_where_there_are_any() -> None:
    most = b"Ym9i" * ((MAX_LOGIN_LINE - 2) // 4)
    protocol = started()
    ask(protocol, b"AUTH GSSAPI")
    protocol.challenge(b"")
    assert ask(protocol, most) == AuthResponse(b"bob" * (len(most) // 4))
    protocol.answer(answers.AUTH_FAILED)
    assert refusal(protocol, b"NOOP " + most) == answers.LINE_TOO_LONG
    protocol.mechanisms = ()
    assert refusal(protocol, b"AUTH PLAIN " + most) == answers.AUTH_TOO_LONG
    # Nothing of a line that is too long is kept while it comes.
    protocol.receive(b"AUTH PLAIN " + b"x" * MAX_LINE)
    assert protocol.next_event() is None
    assert protocol.unread == 1


def test_one_event_one_answer_in_a_login() -> None:
    protocol = started()
    with pytest.raises(RuntimeError):
        protocol.challenge(b"")
    ask(protocol, b"NOOP")
    with pytest.raises(RuntimeError):
        protocol.challenge(b"")
    with pytest.raises(RuntimeError):
        protocol.next_event()
    protocol.answer(YES)
    ask(protocol, b"AUTH LOGIN")
    with pytest.raises(RuntimeError):
        protocol.answer(Reply(334, "", ""))


def test_pipelined_commands_are_no_responses_and_responses_no_commands() -> None:
    protocol = started()
    protocol.receive(b"AUTH LOGIN\r\nYm9i\r\n*\r\nNOOP\r\n")
    assert protocol.next_event() == Auth("LOGIN", None)
    protocol.challenge(b"")
    assert protocol.next_event() == AuthResponse(b"bob")
    protocol.challenge(b"")
    assert protocol.next_event() == AuthCancelled()
    protocol.answer(answers.AUTH_CANCELLED)
    assert protocol.next_event() == Noop()


@pytest.mark.parametrize(
    ("before", "reply"),
    [
        ([b"MAIL FROM:<a@b>"], answers.IN_TRANSACTION),
        ([b"MAIL FROM:<a@b>", b"RCPT TO:<c@d>"], answers.IN_TRANSACTION),
    ],
)
@pytest.mark.parametrize("line", [b"AUTH LOGIN", b"AUTH", b"XCLIENT NAME=x"])
def test_not_within_a_transaction(before: list[bytes], reply: Reply, line: bytes) -> None:
    protocol = started()
    protocol.xclient = True
    say(protocol, *before)
    assert refusal(protocol, line) == reply
    say(protocol, b"RSET")
    assert refusal(protocol, b"AUTH") == answers.SYNTAX


def test_not_between_chunks() -> None:
    protocol = started()
    protocol.xclient = True
    say(protocol, b"MAIL FROM:<a@b>", b"RCPT TO:<c@d>", b"BDAT 0")
    assert refusal(protocol, b"AUTH LOGIN") == answers.BDAT_GOES_ON
    assert refusal(protocol, b"XCLIENT NAME=x") == answers.BDAT_GOES_ON


def test_tls_forgets_a_login() -> None:
    protocol = started()
    say(protocol, b"EHLO x", b"AUTH PLAIN " + SECRET)
    assert protocol.authenticated
    assert say(protocol, b"STARTTLS") == [StartTls()]
    protocol.secured()
    assert not protocol.authenticated
    assert protocol.mechanisms == ()
    assert refusal(protocol, b"AUTH LOGIN") == answers.NEED_HELLO
    say(protocol, b"EHLO x")
    assert say(protocol, b"AUTH LOGIN") == [Auth("LOGIN", None)]


@pytest.mark.parametrize("strict", [False, True])
def test_tls_from_the_first_octet(strict: bool) -> None:
    protocol = ServerProtocol(ServerOffer("default.example", starttls=True, strict=strict))
    protocol.secured()
    protocol.answer(Reply(220, "", "hi"))
    assert protocol.state is (State.GREETED if strict else State.READY)
    say(protocol, b"EHLO x")
    assert refusal(protocol, b"STARTTLS") == answers.ALREADY_TLS


# Secrets


def test_nothing_shows_a_secret() -> None:
    auth = Auth("PLAIN", b"\0bob\0hunter2")
    assert "hunter2" not in repr(auth)
    assert "hunter2" not in repr(AuthResponse(b"hunter2"))
    assert auth.command == "AUTH PLAIN"
    assert Auth("HUNTER2", None).command == "AUTH"


@pytest.mark.parametrize(
    "line",
    [
        b"AUTH PLAIN hunter2 extra",
        b"AUTH hunter2!",
        b"auth\tplain\thunter2",
        b"AUTHPLAIN hunter2",
        b"AUTHENTICATE hunter2",
        b" AUTH PLAIN hunter2",
        b"\x00AUTH PLAIN hunter2",
        b"AUTH PLAIN hunter2\x00",
        b"AUTH PLAIN \xffhunter2",
        b"PASS hunter2",
        b"LOGIN bob hunter2",
        b"AUTH " + b"hunter2" * 10_000,
        b"x" * 3000 + b"hunter2",
    ],
)
def test_no_mistake_shows_a_secret(line: bytes) -> None:
    (event,) = say(started(), line)
    assert isinstance(event, Mistake)
    assert "hunter2" not in event.line


@pytest.mark.parametrize("first", [b"AUTH LOGIN", b"AUTH LOGIN!", b"AUTHLOGIN", b"auth\tlogin", b"AUTH LOGIN Ym9"])
@pytest.mark.parametrize("follows", [b"hunter2", b"hunter2 hunter2", b"hunter2\x00", b"\xffhunter2", b"\thunter2"])
def test_a_password_behind_a_login_that_failed_is_not_shown(first: bytes, follows: bytes) -> None:
    protocol = started()
    say(protocol, first, reply=answers.AUTH_UNKNOWN)
    for _ in range(2):
        (event,) = say(protocol, follows)
        assert isinstance(event, Mistake)
        assert event.line == HIDDEN
    # The next command is a sign that the client has understood.
    say(protocol, b"NOOP")
    assert say(protocol, b"FOO bar") == [Mistake("FOO", answers.UNRECOGNIZED)]


def test_a_command_behind_a_login_is_shown() -> None:
    protocol = started()
    say(protocol, b"AUTH LOGIN", reply=answers.AUTH_FAILED)
    (event,) = say(protocol, b"MAIL FROM:<a@b@c>")
    assert isinstance(event, Mistake)
    assert event.line == "MAIL FROM:<a@b@c>"


# XCLIENT


def test_xclient() -> None:
    protocol = started()
    assert refusal(protocol, b"XCLIENT NAME=x") == answers.NO_XCLIENT
    protocol.xclient = True
    say(protocol, b"EHLO proxy", b"AUTH PLAIN " + SECRET)
    assert ask(protocol, b"XCLIENT NAME=a.example ADDR=IPV6:2001:db8::1") == Xclient(
        {"NAME": "a.example", "ADDR": "2001:db8::1"}
    )
    protocol.introduced()
    protocol.answer(Reply(220, "", "hello again"))
    assert not protocol.authenticated
    assert say(protocol, b"AUTH LOGIN", reply=answers.AUTH_FAILED) == [Auth("LOGIN", None)]


def test_whoever_is_introduced_may_have_logged_in() -> None:
    protocol = started()
    protocol.xclient = True
    ask(protocol, b"XCLIENT LOGIN=bob")
    protocol.introduced(authenticated=True)
    protocol.answer(Reply(220, "", "hello again"))
    assert refusal(protocol, b"AUTH LOGIN") == answers.AUTH_AGAIN


def test_xclient_refused_changes_nothing() -> None:
    protocol = started()
    protocol.xclient = True
    say(protocol, b"AUTH PLAIN " + SECRET)
    assert refusal(protocol, b"XCLIENT FOO=x") == answers.SYNTAX
    assert refusal(protocol, b"XCLIENT") == answers.SYNTAX
    assert refusal(protocol, b"XCLIENT ADDR=x").text == "Invalid parameter ADDR"
    say(protocol, b"XCLIENT ADDR=192.0.2.1", reply=Reply(550, "5.7.0", "no"))
    assert protocol.authenticated
    with pytest.raises(RuntimeError):
        protocol.introduced()


def test_a_client_introduced_to_a_strict_server_greets_again() -> None:
    protocol = started(STRICT)
    protocol.xclient = True
    say(protocol, b"EHLO proxy")
    ask(protocol, b"XCLIENT NAME=x")
    protocol.introduced()
    protocol.answer(Reply(220, "", "hello again"))
    assert refusal(protocol, b"MAIL FROM:<a@example.com>") == answers.NEED_HELLO


# Strictness


def strict_session() -> ServerProtocol:
    protocol = started(STRICT)
    say(protocol, b"EHLO client.example")
    return protocol


@pytest.mark.parametrize(
    "line", [b"MAIL FROM:<a@b>", b"RCPT TO:<a@b>", b"DATA", b"AUTH LOGIN", b"STARTTLS", b"BDAT 0 LAST"]
)
def test_a_strict_server_wants_a_greeting(line: bytes) -> None:
    protocol = started(STRICT)
    assert refusal(protocol, line) == answers.NEED_HELLO
    say(protocol, b"RSET", b"NOOP", b"HELP")
    assert refusal(protocol, line) == answers.NEED_HELLO


def test_a_refused_greeting_is_none() -> None:
    protocol = started(STRICT)
    say(protocol, b"EHLO x", reply=Reply(550, "5.7.1", "no"))
    assert refusal(protocol, b"MAIL FROM:<a@b>") == answers.NEED_HELLO


@pytest.mark.parametrize(
    "name", [b"client.example", b"x", b"[192.0.2.1]", b"[IPv6:2001:db8::1]", b"xn--bcher-kva.de"]
)
@pytest.mark.parametrize("verb", [b"HELO ", b"ehlo "])
def test_names_a_strict_server_takes(verb: bytes, name: bytes) -> None:
    assert say(started(STRICT), verb + name) == [Hello(name.decode(), verb == b"ehlo ")]


@pytest.mark.parametrize(
    "name",
    [
        b"",
        b"two words",
        b" x",
        b"a_b",
        b"example.com.",
        b"-x",
        b"x-",
        b"a..b",
        b"192.0.2.1:25",
        b"[192.0.2.300]",
        b"[2001:db8::1]",
        b"[x]",
        b"[",
        b"<x>",
        "bücher.example".encode(),
        b"x" * 64,
        b"x." * 128 + b"x",
    ],
)
def test_names_a_strict_server_refuses(name: bytes) -> None:
    (event,) = say(started(STRICT), b"EHLO " + name)
    assert isinstance(event, Mistake)
    assert event.reply.code == 501


@pytest.mark.parametrize(
    ("path", "address"),
    [
        (b"<b@example.com>", Address("b", "example.com")),
        (b"<@a.example,@b.example:b@example.com>", Address("b", "example.com")),
        (b'<"b c"@example.com>', Address('"b c"', "example.com")),
        (b"<b@[192.0.2.1]>", Address("b", "[192.0.2.1]")),
        (b"<b@[IPv6:2001:db8::1]>", Address("b", "[IPv6:2001:db8::1]")),
        (b"<postmaster>", Address("postmaster", "default.example")),
        (b"<PostMaster>", Address("PostMaster", "default.example")),
        (b"<b@example.com> NOTIFY=NEVER", Address("b", "example.com")),
    ],
)
def test_paths_a_strict_server_takes(path: bytes, address: Address) -> None:
    protocol = strict_session()
    say(protocol, b"MAIL FROM:<>")
    (event,) = say(protocol, b"rcpt to:" + path)
    assert isinstance(event, Rcpt)
    assert event.recipient.address == address


@pytest.mark.parametrize(
    "argument",
    [
        b"TO: <b@example.com>",
        b"TO :<b@example.com>",
        b" TO:<b@example.com>",
        b"TO:b@example.com",
        b"TO:<b>",
        b"TO:<b@>",
        b"TO:< b@example.com>",
        b"TO:<b@example.com >",
        b"TO:<b@example.com.>",
        b"TO:<b@a_b.example>",
        b"TO:<.b@example.com>",
        b"TO:<b.@example.com>",
        b"TO:<b..c@example.com>",
        b"TO:<@a.example:postmaster>",
        b"TO:<@a.example:b>",
        b"TO:<postmaster >",
        b'TO:<"postmaster">',
        b"TO:<b@example.com",
        b"TO:<>",
        b"TO:< >",
        b"TO:postmaster",
        b"TO:",
    ],
)
def test_paths_a_strict_server_refuses(argument: bytes) -> None:
    protocol = strict_session()
    say(protocol, b"MAIL FROM:<a@example.com>")
    assert refusal(protocol, b"RCPT " + argument).code == 501
    say(protocol, b"RSET")
    assert refusal(protocol, b"MAIL " + argument.replace(b"TO", b"FROM").replace(b"<>", b"<>>")).code == 501


def test_a_strict_server_takes_internationalized_addresses() -> None:
    protocol = strict_session()
    (event,) = say(protocol, "MAIL FROM:<grå@bücher.example> SMTPUTF8".encode())
    assert isinstance(event, Mail)
    assert event.sender == Address("grå", "bücher.example")


@pytest.mark.parametrize(
    ("line", "reply"),
    [
        (b"AUTH PLAIN Ym9i ", answers.SYNTAX),
        (b"AUTH PLAIN ", answers.SYNTAX),
        (b"AUTH  PLAIN", answers.SYNTAX),
        (b"AUTH PLAIN  Ym9i", answers.AUTH_SYNTAX),
    ],
)
def test_logins_a_strict_server_refuses(line: bytes, reply: Reply) -> None:
    assert refusal(strict_session(), line) == reply


def test_a_strict_login() -> None:
    protocol = strict_session()
    ask(protocol, b"AUTH PLAIN")
    protocol.challenge(b"")
    assert refusal(protocol, b"Ym9i ") == answers.AUTH_SYNTAX
    assert say(protocol, b"AUTH PLAIN Ym9i") == [Auth("PLAIN", b"bob")]
    protocol = started(STRICT)
    say(protocol, b"HELO x")
    assert refusal(protocol, b"AUTH PLAIN Ym9i") == answers.NEED_EHLO


@pytest.mark.parametrize("before", [b"", b"EHLO x\r\n"])
def test_a_strict_server_reads_no_bare_line_ends(before: bytes) -> None:
    protocol = started(STRICT)
    protocol.receive(before + b"EHLO y\nRCPT TO:<a@b>\r\n")
    if before:
        assert protocol.next_event() == Hello("x", True)
        protocol.answer(YES)
    event = protocol.next_event()
    assert isinstance(event, Mistake)
    assert event.reply == (answers.BAD_CHARACTERS if before else answers.BARE_LF)
    protocol.answer(event.reply)
    # Nobody knows what such a client means by what follows its first line.
    assert protocol.is_closed is not bool(before)
    assert protocol.next_event() is None


def test_a_sloppy_server_logs_in_who_never_greeted() -> None:
    for before in ([], [b"HELO x"]):
        protocol = started()
        say(protocol, *before)
        assert say(protocol, b"AUTH LOGIN Ym9i") == [Auth("LOGIN", b"bob")]


def test_after_a_login_mail_goes_on_as_ever() -> None:
    protocol = strict_session()
    say(protocol, b"AUTH PLAIN " + SECRET)
    events = say(protocol, b"MAIL FROM:<a@example.com> AUTH=<>", b"RCPT TO:<b@example.com>")
    assert [type(event) for event in events] == [Mail, Rcpt]
    assert ask(protocol, b"DATA") == Data()
