"""Any commands in any order, in any pieces: each gets one reply, nothing is accepted that was not sent, and nobody
is logged in who did not say the right thing last."""

import re
from base64 import b64encode

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from mailroot.mail.reply import Reply
from mailroot.smtp import answers
from mailroot.smtp.commands import (
    Auth,
    AuthCancelled,
    AuthResponse,
    Content,
    ContentEnd,
    ContentRefused,
    Data,
    Mistake,
    Quit,
    StartTls,
    Xclient,
)
from mailroot.smtp.extensions import ServerOffer
from mailroot.smtp.server import ServerProtocol

LINES = st.sampled_from(
    [
        b"EHLO x",
        b"HELO",
        b"MAIL FROM:<a@example.com>",
        b"MAIL FROM:<a@example.com> BODY=BINARYMIME",
        b"MAIL FROM: a@example.com SIZE=999999",
        b"MAIL FROM:<>",
        b"RCPT TO:<b@example.com>",
        b"RCPT TO: refused@example.com",
        b"RCPT TO:<>",
        b"RSET",
        b"NOOP",
        b"HELP",
        b"VRFY x",
        b"EXPN x",
        b"AUTH",
        b"AUTH LOGIN",
        b"AUTH LOGIN !",
        b"AUTH PLAIN " + b64encode(b"wrong"),
        b"auth external =",
        b"AUTH GSSAPI " + b"YmFk" * 1000,
        b"XCLIENT NAME=x",
        b"XCLIENT FOO=x",
        b"MAIL FROM:<a@example.com> AUTH=<>",
        b64encode(b"right"),
        b"*",
        b"FOO",
        b"",
        b"\x00",
        b"x" * 3000,
    ]
)
_CODE = re.compile(rb"(?:\d{3}-[^\r\n]*\r\n)*(\d{3}) [^\r\n]*\r\n")


class Server(RuleBasedStateMachine):
    """A client that knows what it must get: one reply for each thing it does."""

    @initialize(repair=st.booleans(), strict=st.booleans(), xclient=st.booleans())
    def connect(self, repair: bool, strict: bool, xclient: bool) -> None:
        offer = ServerOffer("example.com", max_size=500, starttls=True, repair=repair, strict=strict)
        self.protocol = ServerProtocol(offer)
        self.protocol.xclient = xclient
        self.protocol.mechanisms = ("PLAIN",)
        self.logged_in = False
        self.protocol.answer(Reply(220, "", "hi"))
        self.replies: list[int] = []
        self.content = b""
        self.accepted: list[bytes] = []
        self.drain()
        assert self.replies == [220]

    def drain(self) -> None:
        protocol = self.protocol
        while (event := protocol.next_event()) is not None:
            match event:
                case Content(octets):
                    self.content += octets
                    continue
                case ContentEnd(size):
                    assert size == len(self.content)
                    self.accepted.append(self.content)
                    self.content = b""
                    reply = Reply(250, "2.6.0", "queued")
                case ContentRefused(_, reply):
                    self.content = b""
                case Data():
                    reply = Reply(354, "", "go")
                case Quit():
                    reply = Reply(221, "2.0.0", "bye")
                case StartTls():
                    reply = Reply(220, "2.0.0", "go")
                case Auth(_, octets) | AuthResponse(octets):
                    # "more" asks for more; what is right logs in.
                    assert not self.logged_in
                    if octets is None or octets == b"more":
                        protocol.challenge(b"more")
                        assert protocol.state == "logging in"
                        continue
                    self.logged_in = octets == b"right"
                    reply = answers.AUTH_OK if self.logged_in else answers.AUTH_FAILED
                case AuthCancelled():
                    reply = answers.AUTH_CANCELLED
                case Xclient():
                    protocol.introduced()
                    self.logged_in = False
                    reply = Reply(220, "", "hello again")
                case Mistake(_, reply):
                    pass
                case _ if "refused" in repr(event):
                    reply = Reply(550, "5.7.1", "no")
                case _:
                    reply = Reply(250, "2.0.0", "ok")
            protocol.answer(reply)
        octets = protocol.outgoing()
        while octets:
            found = _CODE.match(octets)
            assert found is not None
            self.replies.append(int(found[1]))
            octets = octets[found.end() :]

    def say(self, octets: bytes, cuts: list[int]) -> list[int]:
        """The replies to these octets, which come in pieces."""
        self.replies = []
        for cut in [*cuts, len(octets)]:
            if octets[:cut]:
                self.protocol.receive(octets[:cut])
                self.drain()
            octets = octets[cut:]
        return self.replies

    cuts = st.lists(st.integers(1, 50), max_size=4)

    @precondition(lambda self: not self.protocol.is_closed)
    @rule(lines=st.lists(LINES, min_size=1, max_size=6), cuts=cuts)
    def commands(self, lines: list[bytes], cuts: list[int]) -> None:
        replies = self.say(b"\r\n".join([*lines, b""]), cuts)
        assert len(replies) == len(lines)
        if self.protocol.state == "logging in":
            assert self.say(b"*\r\n", []) == [501]

    @precondition(lambda self: not self.protocol.is_closed)
    @rule(before=st.sampled_from([b"", b"AUTH LOGIN\r\n"]), verb=st.sampled_from([b"AUTH X ", b"NOOP ", b""]))
    def line_too_long(self, before: bytes, verb: bytes) -> None:
        replies = self.say(before + verb + b"x" * 70_000 + b"\r\n", [])
        assert replies[-1] == 500
        assert len(replies) == 1 + bool(before)

    @precondition(lambda self: not self.protocol.is_closed)
    @rule(
        size=st.integers(0, 600),
        last=st.booleans(),
        octets=st.binary(max_size=600),
        cuts=cuts,
    )
    def chunk(self, size: int, last: bool, octets: bytes, cuts: list[int]) -> None:
        octets = octets[:size]
        line = b"BDAT %d%s\r\n" % (len(octets), b" LAST" if last else b"")
        assert len(self.say(line + octets, cuts)) == 1

    @precondition(lambda self: not self.protocol.is_closed)
    @rule(
        parts=st.lists(st.sampled_from([b"a", b"\r\n", b".", b"\n", b"\r", b"..", b"x" * 200]), max_size=8),
        cuts=cuts,
    )
    def data(self, parts: list[bytes], cuts: list[int]) -> None:
        replies = self.say(b"DATA\r\n", cuts)
        assert len(replies) == 1
        if replies != [354]:
            return
        content = b"".join(parts)
        # A client's own stuffing: a dot after CR LF, and at the beginning.
        stuffed = (b"\r\n" + content).replace(b"\r\n.", b"\r\n..")[2:]
        before = len(self.accepted)
        replies = self.say(stuffed + b"\r\n.\r\n", cuts)
        assert len(replies) == 1
        if replies == [250]:
            sent = content + b"\r\n"
            plain = sent.replace(b"\r\n", b"\n").replace(b"\r", b"\n").replace(b"\n", b"\r\n")
            assert self.accepted[before:] == [plain]

    @precondition(lambda self: not self.protocol.is_closed)
    @rule(cuts=cuts)
    def tls(self, cuts: list[int]) -> None:
        replies = self.say(b"STARTTLS\r\n", cuts)
        assert len(replies) == 1
        if replies == [220]:
            self.protocol.secured()
            self.logged_in = False

    @precondition(lambda self: not self.protocol.is_closed)
    @rule(
        initial=st.sampled_from([None, b"right", b"wrong", b"more", b""]),
        responses=st.lists(st.sampled_from([b"right", b"wrong", b"more", b"", b"*", b"!", b"NOOP"]), max_size=4),
        cuts=cuts,
    )
    def login(self, initial: bytes | None, responses: list[bytes], cuts: list[int]) -> None:
        line = b"AUTH X"
        if initial is not None:
            line += b" " + (b64encode(initial) or b"=")
        replies = self.say(line + b"\r\n", cuts)
        for response in responses:
            if replies != [334]:
                break
            octets = response if response in (b"*", b"!") else b64encode(response)
            replies = self.say(octets + b"\r\n", cuts)
            assert len(replies) == 1
            match response:
                case b"right":
                    assert replies == [235]
                case b"more":
                    assert replies == [334]
                case b"*" | b"!":
                    assert replies == [501]
                case _:
                    assert replies == [535]
        if replies == [334]:
            assert self.say(b"*\r\n", cuts) == [501]
        assert (replies == [235]) <= self.logged_in

    @invariant()
    def who_is_logged_in_has_logged_in(self) -> None:
        if hasattr(self, "protocol"):
            assert self.protocol.authenticated is self.logged_in
            assert self.protocol.is_closed or self.protocol.state != "logging in"

    @precondition(lambda self: not self.protocol.is_closed)
    @rule(cuts=cuts)
    def leave(self, cuts: list[int]) -> None:
        assert self.say(b"QUIT\r\n", cuts) == [221]
        assert self.protocol.is_closed

    @precondition(lambda self: self.protocol.is_closed)
    @rule(octets=st.binary(max_size=50))
    def after_the_end(self, octets: bytes) -> None:
        assert self.say(octets, []) == []

    @invariant()
    def nothing_is_kept_back(self) -> None:
        if hasattr(self, "protocol") and not self.protocol.is_closed:
            assert self.protocol.unread == 0


TestServer = pytest.mark.quick(Server.TestCase)
TestServer.settings = settings(stateful_step_count=30)
