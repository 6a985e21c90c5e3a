"""Whom a header names, against a rule: refused, rewritten, or left as it is to the last octet."""

from ipaddress import IPv4Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailroot.mail.header import field_values, scan
from mailroot.mail.mailboxes import mailboxes
from mailroot.policy.domains import LocalDomains
from mailroot.policy.permissions import Otherwise, Permission, Permissions, SenderRule
from mailroot.policy.visit import Refuse, Visit
from mailroot.receive.senders import Rewritten, check
from mailroot.smtp.grammar import parse_mailbox

pytestmark = pytest.mark.quick


def rule(*senders: str, rewrite: bool = False) -> SenderRule:
    otherwise = Otherwise.REWRITE if rewrite else Otherwise.REFUSE
    entry = Permission(("*",), senders=senders, otherwise=otherwise, rewrite_to="noreply@corp.example")
    permissions = Permissions((entry,), LocalDomains("corp.example"))
    found = permissions.of(Visit(IPv4Address("10.0.0.1"), "127.0.0.1:25", user="crm")).senders
    assert found is not None
    return found


REFUSE = rule("crm@corp.example", "erp@corp.example", "dept.example")
REWRITE = rule("crm@corp.example", "erp@corp.example", "dept.example", rewrite=True)

GOOD = [
    b"",
    b"Subject: x\r\n",
    b"From: crm@corp.example\r\n",
    b"FROM:<CRM@CORP.EXAMPLE>\r\n",
    b"From : CRM System <crm@corp.example>\r\n",
    b'From: "ceo@other.example" <crm@corp.example>\r\n',
    b"From: =?utf-8?q?J=C3=BCrgen?= <crm@corp.example>\r\n",
    "From: Jürgen <crm@corp.example>\r\n".encode(),
    "From: Jürgen <crm@corp.example>\r\n".encode("latin-1"),
    b"From: CRM\r\n\t<crm@corp.example>\r\n (the one)\r\n",
    b"From: crm@corp.example, ERP <erp@corp.example>, anybody@dept.example\r\n",
    b"From: Systems: crm@corp.example, erp@corp.example;\r\n",
    b"From: crm@corp.example\r\nFrom: erp@corp.example\r\n",
    b"From: crm@corp.example\r\nSender: erp@corp.example\r\n",
    b"From: crm@corp.example <crm@corp.example>\r\n",
    b"From:\r\nSubject: an empty From claims nothing\r\n",
    b"X-From: ceo@other.example\r\nReply-To: ceo@other.example\r\nTo: ceo@other.example\r\n",
    b"Resent-From: crm@corp.example\r\nFrom: erp@corp.example\r\nDKIM-Signature: v=1\r\n",
]

BAD = [
    (b"From: ceo@other.example\r\n", "ceo@other.example in From"),
    (b"from : The Boss <ceo@other.example>\r\n", "ceo@other.example in From"),
    (b"Subject: x\r\nFrom: crm@corp.example, ceo@other.example\r\n", "ceo@other.example in From"),
    (b"From: crm@corp.example\r\nFrom: ceo@other.example\r\n", "ceo@other.example in From"),
    (b"From: Board: crm@corp.example, ceo@other.example;\r\n", "ceo@other.example in From"),
    (b"From: The Boss:;\r\n", "The Boss:; in From"),
    (b"From: crm\r\n\t@other\r\n .example\r\n", "crm@other.example in From"),
    (b"From: ceo@other.example <crm@corp.example>\r\n", "ceo@other.example in From"),
    (b"From: <ceo@other.example> <crm@corp.example>\r\n", "<ceo@other.example> <crm@corp.example> in From"),
    (b'From: "The Boss <crm@corp.example>\r\n', '"The Boss <crm@corp.example> in From'),
    (b"From: crm@corp.example (<ceo@other.example>\r\n", "crm@corp.example (<ceo@other.example> in From"),
    (b"From: crm@corp.example\x00\r\n", "crm@corp.example in From"),
    (b'From: "ceo@other.example,"@dept.example\r\n', '"ceo@other.example,"@dept.example in From'),
    (b"From: Printer 7\r\n", "Printer 7 in From"),
    (b"From: root\r\n", "root in From"),
    (b"From: =?utf-8?q?crm=40corp.example?=\r\n", "=?utf-8?q?crm=40corp.example?= in From"),
    ("From: crm@cоrp.example\r\n".encode(), "crm@c\\u043erp.example in From"),
    ("From: chef@bücher.example\r\n".encode(), "chef@b\\xfccher.example in From"),
    ("From: chef@bücher.example\r\n".encode("latin-1"), "chef@b\\xfccher.example in From"),
    (b"From: crm@corp.example\r\nSender: ceo@other.example\r\n", "ceo@other.example in Sender"),
    (b"From: crm@corp.example\r\nResent-From: ceo@other.example\r\n", "ceo@other.example in Resent-From"),
    (b"Resent-Sender: ceo@other.example\r\n", "ceo@other.example in Resent-Sender"),
]


@pytest.mark.parametrize("header", GOOD)
def test_what_names_only_allowed_senders_stays_as_it_is(header: bytes) -> None:
    assert check(header, REFUSE) is None
    assert check(header, REWRITE) is None


@pytest.mark.parametrize(("header", "shown"), BAD)
def test_what_names_another_is_refused_and_says_whom(header: bytes, shown: str) -> None:
    refused = check(header, REFUSE)
    assert isinstance(refused, Refuse)
    said = str(refused.reply)
    if "=?" not in shown:
        assert said.startswith(
            f"550 5.7.60 Client does not have permissions to send as this sender: {shown}; allowed are crm@"
        )
    assert said.isascii()


@pytest.mark.parametrize("header", [header for header, _ in BAD])
def test_what_names_another_is_rewritten_to_the_fixed_sender(header: bytes) -> None:
    changed = check(header + b"To: x@y.example\r\n", REWRITE)
    assert isinstance(changed, Rewritten)
    assert check(changed.header, REFUSE_ALL_BUT_FIXED) is None
    assert changed.header.endswith(b"To: x@y.example\r\n")
    head = scan(changed.header + b"\r\n")
    assert head is not None
    assert head.end == len(changed.header) + 2


REFUSE_ALL_BUT_FIXED = rule("crm@corp.example", "erp@corp.example", "noreply@corp.example")


@pytest.mark.parametrize(
    ("header", "rewritten"),
    [
        (
            b"Received: x\r\nFrom: The Boss <ceo@other.example>\r\nSubject: y\r\n",
            (
                b'Received: x\r\nFrom: "The Boss" <noreply@corp.example>\r\n'
                b"Reply-To: The Boss <ceo@other.example>\r\nSubject: y\r\n"
            ),
        ),
        (
            b"From: ceo@other.example\r\nREPLY-TO: office@other.example\r\n",
            b'From: "ceo@other.example" <noreply@corp.example>\r\nREPLY-TO: office@other.example\r\n',
        ),
        (
            "From: Jürgen\r\n <ceo@other.example>\r\n".encode(),
            b"From: =?utf-8?B?SsO8cmdlbg==?= <noreply@corp.example>\r\n"
            + "Reply-To: Jürgen\r\n <ceo@other.example>\r\n".encode(),
        ),
        (
            b"From: crm@corp.example\r\nSubject: x\r\nFrom: CEO <ceo@other.example>\r\n",
            (
                b'From: "crm@corp.example" <noreply@corp.example>\r\n'
                b"Reply-To: crm@corp.example, CEO <ceo@other.example>\r\nSubject: x\r\n"
            ),
        ),
        (b"From: Printer 7\r\n", b'From: "Printer 7" <noreply@corp.example>\r\n'),
        (b"From: The Boss:;\r\n", b'From: "The Boss:;" <noreply@corp.example>\r\n'),
        (
            b'From: "Boss <ceo@other.example>\r\n',
            b'From: "\\"Boss <ceo@other.example>" <noreply@corp.example>\r\n',
        ),
        (
            b"DKIM-Signature: v=1;\r\n b=abc\r\nSender: ceo@other.example\r\nFrom: ceo@other.example\r\nX: y\r\n",
            b'From: "ceo@other.example" <noreply@corp.example>\r\nReply-To: ceo@other.example\r\nX: y\r\n',
        ),
        (
            b"From: ceo@other.example\r\nSender: crm@corp.example\r\n",
            (
                b'From: "ceo@other.example" <noreply@corp.example>\r\nReply-To: ceo@other.example\r\n'
                b"Sender: crm@corp.example\r\n"
            ),
        ),
        (
            b"From: CRM <crm@corp.example>\r\nSender: a@b\r\nresent-from: a@b\r\nResent-Sender: a@b\r\n",
            (
                b"From: CRM <crm@corp.example>\r\nSender: <noreply@corp.example>\r\n"
                b"Resent-From: <noreply@corp.example>\r\nResent-Sender: <noreply@corp.example>\r\n"
            ),
        ),
    ],
)
def test_a_rewritten_header(header: bytes, rewritten: bytes) -> None:
    changed = check(header, REWRITE)
    assert isinstance(changed, Rewritten)
    assert changed.header == rewritten
    assert check(changed.header, REWRITE) is None, "once is enough"


def test_the_original_is_told() -> None:
    changed = check(b"From: crm@corp.example, The Boss <ceo@other.example>\r\n", REWRITE)
    assert isinstance(changed, Rewritten)
    assert changed.original == "ceo@other.example"


def test_thousands_of_authors_are_not_read_but_refused() -> None:
    for header in (
        b"From: crm@corp.example\r\n" * 10_000,
        b"From: " + b"crm@corp.example, " * 1000 + b"crm@corp.example\r\n",
        b"From: " + b"(" * 100_000 + b"\r\n",
    ):
        assert isinstance(check(header, REFUSE), Refuse)
        changed = check(header, REWRITE)
        assert isinstance(changed, Rewritten)
        assert len(changed.header) < 1000
        assert check(changed.header, REWRITE) is None


_WORDS = st.sampled_from(
    [
        b"ceo@other.example",
        b"crm@corp.example",
        b"<",
        b">",
        b'"',
        b"(",
        b")",
        b",",
        b";",
        b":",
        b"\\",
        b" ",
        b"Boss",
        b"\r\n ",
        b"\x00",
        b"\xff",
        "ö".encode(),
        b"=?utf-8?q?",
        b"?=",
        b"@",
        b"\r",
    ]
)


@given(st.lists(_WORDS, max_size=12), st.sampled_from([b"From", b"Sender", b"from ", b"Resent-From"]))
def test_nothing_gets_another_sender_through(words: list[bytes], name: bytes) -> None:
    header = name + b":" + b"".join(words) + b"\r\n"
    head = scan(header + b"\r\n")
    if head is None or head.end != len(header) + 2 or b"=?" in header:
        return
    for one in (REFUSE, REWRITE):
        match check(header, one):
            case None:
                passed = header
            case Rewritten(octets, _):
                passed = octets
            case Refuse():
                continue
        # A reader that makes the best of it sees nobody else either.
        for value in field_values(passed, name.strip()):
            for address in mailboxes(value):
                if "@" in address:
                    assert one.allows(parse_mailbox(address, None)), (header, passed)
