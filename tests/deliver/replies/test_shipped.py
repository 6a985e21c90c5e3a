"""The table that comes with Mailroot: that it is whole, and that it explains what hosts really say."""

import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailroot.deliver.replies.base import LOOKED_AT, Effect, Entry, Fault, Table
from mailroot.deliver.replies.shipped import FILES, effect_of, explain, read_entries, table
from mailroot.mail.reply import Reply

pytestmark = pytest.mark.quick

ROOT = Path(__file__).parent.parent.parent.parent
FOLDER = ROOT / "src" / "mailroot" / "deliver" / "replies"
_REPLY = re.compile(r"(\d{3}) (?:([245]\.\d{1,3}\.\d{1,3}) )?(.+)")


def reply(text: str) -> Reply:
    """'550 5.1.1 words' as a reply."""
    found = _REPLY.fullmatch(text)
    assert found, text
    return Reply(int(found[1]), found[2] or "", found[3])


def outlook(text: str, *, smart_host: bool = True) -> tuple[Effect, Fault]:
    """What Microsoft's submission host's reply leads to."""
    said, host = reply(text), "smtp.office365.com [192.0.2.1]:587"
    return effect_of(said, host, smart_host=smart_host), explain(said, host).fault


ENTRIES = table().entries


def test_every_file_is_read() -> None:
    assert sorted(FILES) == sorted(path.stem for path in FOLDER.glob("*.toml"))
    assert all(read_entries((FOLDER / f"{name}.toml").read_text("utf-8")) for name in FILES)


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.reply[:60])
def test_every_example_is_explained_by_its_own_entry(entry: Entry) -> None:
    host = f"a.{entry.match.hosts[0]} [192.0.2.1]:25" if entry.match.hosts else ""
    assert explain(reply(entry.reply), host) is entry


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.reply[:60])
def test_every_entry_is_of_a_piece(entry: Entry) -> None:
    assert len(re.findall(r"\.(?: [A-Z]|$)", entry.meaning)) == 1, "the meaning is one sentence"
    assert entry.source.startswith("https://") or entry.source == "known from practice"
    match entry.effect:
        case Effect.PAUSE_ROUTE | Effect.RENEW_TOKEN:
            assert entry.fault is Fault.ROUTE
        case Effect.THROTTLE:
            assert entry.fault is Fault.ROUTE and entry.retry_after
        case Effect.FAIL:
            assert entry.fault is not Fault.NOBODY and entry.retry_after is None
        case Effect.RETRY | None:
            assert entry.effect or entry.retry_after is None


UNMISTAKABLE = {"5.7.68", "5.7.0"}
"""What holds a message also where a recipient's own host says it: Direct Send, and STARTTLS that is required."""


def test_what_pauses_a_route_counts_for_smart_hosts_only_but_for_what_is_unmistakable() -> None:
    everywhere = [entry for entry in ENTRIES if entry.effect is Effect.PAUSE_ROUTE and not entry.smart_host]
    assert {reply(entry.reply).status for entry in everywhere} == UNMISTAKABLE
    assert all(entry.match.texts for entry in everywhere)
    assert all(entry.smart_host for entry in ENTRIES if entry.effect is Effect.RENEW_TOKEN)


BASIC = "[AM6PR0732CA0001.eurprd07.prod.outlook.com 2026-11-24T08:00:00.000Z 08DE2B0011223344]"
ROUTE = (Effect.PAUSE_ROUTE, Fault.ROUTE)
TOKEN = (Effect.RENEW_TOKEN, Fault.ROUTE)
PACE = (Effect.THROTTLE, Fault.ROUTE)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (f"535 5.7.139 Authentication unsuccessful, basic authentication is disabled. {BASIC}", ROUTE),
        (
            (
                "535 5.7.139 Authentication unsuccessful, SmtpClientAuthentication is disabled for the Tenant. "
                "Visit https://aka.ms/smtp_auth_disabled for more information."
            ),
            ROUTE,
        ),
        ("535 5.7.139 Authentication unsuccessful, SmtpClientAuthentication is disabled for the Mailbox.", ROUTE),
        (
            "535 5.7.139 Authentication unsuccessful, user is locked by its security defaults policy.",
            ROUTE,
        ),
        (
            (
                "535 5.7.139 Authentication unsuccessful, the request did not meet the criteria to be "
                f"authenticated successfully. Contact your administrator. {BASIC}"
            ),
            ROUTE,
        ),
        (f"535 5.7.3 Authentication unsuccessful {BASIC}", TOKEN),
        ("550 5.7.30 Basic authentication is not supported for Client Submission.", ROUTE),
        ("530 5.7.57 Client not authenticated to send mail.", ROUTE),
        ("535 5.7.57 SMTP; Client was not authenticated to send anonymous mail during MAIL FROM", ROUTE),
        ("501 5.5.127 Invalid XOAUTH2 auth data - Token will expire soon", TOKEN),
        (
            "430 4.2.0 STOREDRV; mailbox logon failure; Failed to process message due to a transient exception",
            ROUTE,
        ),
        ("432 4.3.2 Concurrent connections limit exceeded. Visit https://aka.ms/concurrent_sending", PACE),
        ("432 4.3.2 STOREDRV.ClientSubmit; sender thread limit exceeded [Hostname=DM5SPR00MB2471]", PACE),
        ("432 4.3.2 STOREDRV.Deliver; recipient thread limit exceeded", (Effect.RETRY, Fault.NOBODY)),
        ("451 4.3.111 Temporary server error. Please try again later ATTR3", (Effect.RETRY, Fault.NOBODY)),
        ("421 4.3.2 Service not available. MRH2", (Effect.RETRY, Fault.NOBODY)),
        ("451 4.7.0 Temporary server error. Please try again later. PRX4", (Effect.RETRY, Fault.NOBODY)),
        ("454 4.7.0 Temporary authentication failure", (Effect.RETRY, Fault.NOBODY)),
        ("451 4.7.500 Server busy. Please try again later from [192.0.2.1]. (AS77712)", PACE),
        (
            "451 4.7.650 The mail server [192.0.2.1] has been temporarily rate limited due to IP reputation.",
            PACE,
        ),
        (
            "451 4.7.651 The mail server [192.0.2.1] has been temporarily rate limited due to IP reputation.",
            PACE,
        ),
        ("450 4.7.3 Organization queue quota exceeded.", (Effect.RETRY, Fault.RECIPIENT)),
        (
            "550 5.7.60 SMTP; Client does not have permissions to send as this sender",
            (Effect.FAIL, Fault.SENDER),
        ),
        (
            (
                "554 5.2.0 STOREDRV.Submission.Exception:SendAsDeniedException.MapiExceptionSendAsDenied; Failed "
                "to process message due to a permanent exception with message Cannot submit message."
            ),
            (Effect.FAIL, Fault.SENDER),
        ),
        (
            "554 5.2.252 SendAsDenied; a@contoso.com not allowed to send as b@contoso.com",
            (Effect.FAIL, Fault.SENDER),
        ),
        ("550 5.7.64 TenantAttribution; Relay Access Denied SMTP.", ROUTE),
        (
            (
                "550 5.7.68 TenantInboundAttribution; Direct Send not allowed for this organization from "
                "unauthorized sources"
            ),
            ROUTE,
        ),
        (
            (
                "550 5.7.233 - Your message can't be sent because your tenant has exceeded its daily limit for "
                "sending email to external recipients (tenant external recipient rate limit)."
            ),
            ROUTE,
        ),
        ("550 5.7.705 Access denied, tenant has exceeded threshold", ROUTE),
        ("550 5.7.708 Service unavailable. Access denied, traffic not accepted from this IP.", ROUTE),
        ("550 5.1.8 Access denied, bad outbound sender AS(42004)", ROUTE),
        (
            "550 5.7.133 RESOLVER.RST.SenderNotAuthenticatedForGroup; authentication required",
            (Effect.FAIL, Fault.RECIPIENT),
        ),
        (
            "550 5.7.134 RESOLVER.RST.SenderNotAuthenticatedForMailbox; authentication required",
            (Effect.FAIL, Fault.RECIPIENT),
        ),
        ("550 5.7.136 RESOLVER.RST.SenderNotAuthenticatedForMailUser", (Effect.FAIL, Fault.RECIPIENT)),
        ("550 5.7.12 Sender was not authenticated by organization", (Effect.FAIL, Fault.RECIPIENT)),
        (
            "550 5.5.105 External sending is not supported for High Volume Email accounts",
            (Effect.FAIL, Fault.MESSAGE),
        ),
        ("552 5.3.4 Message size exceeds fixed maximum message size", (Effect.FAIL, Fault.MESSAGE)),
        ("552 Message size exceeds fixed maximum message size", (Effect.FAIL, Fault.MESSAGE)),
        ("452 4.3.4 Message size exceeds fixed limit", (Effect.FAIL, Fault.MESSAGE)),
        ("554 ErrorMessageSizeExceeded: The message exceeds the maximum size.", (Effect.FAIL, Fault.MESSAGE)),
        ("554 413 Request Entity Too Large", (Effect.FAIL, Fault.MESSAGE)),
        ('535 5.7.8 {"status":"400","schemes":"Bearer","scope":"https://mail.google.com/"}', TOKEN),
        ("550 5.4.5 Daily user sending limit exceeded. For more information gsmtp", ROUTE),
        ("550 5.4.5 Daily SMTP relay limit exceeded for user. gsmtp", ROUTE),
        ("550 5.7.1 Daily SMTP relay limit exceeded for customer. gsmtp", ROUTE),
        ("454 Throttling failure: Daily message quota exceeded.", ROUTE),
        ("454 Throttling failure: Maximum sending rate exceeded.", PACE),
        ("450 4.2.1 Peak SMTP relay limit exceeded for customer. This is a temporary error. gsmtp", PACE),
        ("454 4.7.8 invalid_client: AADSTS7000215: Invalid client secret provided.", ROUTE),
        ("454 4.7.8 invalid_client: AADSTS7000222: The provided client secret keys for app are expired.", ROUTE),
        ("454 4.7.8 invalid_grant: AADSTS70000: Provided grant is invalid or malformed.", ROUTE),
        ("454 4.7.8 invalid_grant: AADSTS700082: The refresh token has expired due to inactivity.", ROUTE),
        ("454 4.7.8 invalid_grant: AADSTS50173: The provided grant has expired due to it being revoked.", ROUTE),
        ("454 4.7.8 invalid_request: AADSTS90002: Tenant 'contoso' not found.", ROUTE),
        ("454 4.7.8 unauthorized_client: AADSTS700016: Application was not found in the directory.", ROUTE),
        ("454 4.7.8 invalid_grant: AADSTS65001: The user or administrator has not consented.", ROUTE),
        ("454 4.7.0 temporarily_unavailable: the token endpoint answers 503", (Effect.RETRY, Fault.NOBODY)),
    ],
)
def test_what_services_say(said: str, expected: tuple[Effect, Fault]) -> None:
    assert outlook(said) == expected


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("535 5.7.139 Authentication unsuccessful, basic authentication is disabled.", "another password changes"),
        ("535 5.7.139 SmtpClientAuthentication is disabled for the Tenant.", "Set-TransportConfig"),
        ("535 5.7.139 SmtpClientAuthentication is disabled for the Tenant.", "aka.ms/smtp_auth_disabled"),
        ("535 5.7.139 SmtpClientAuthentication is disabled for the Mailbox.", "Set-CASMailbox"),
        ("535 5.7.3 Authentication unsuccessful", "New-ServicePrincipal"),
        ("430 4.2.0 STOREDRV; mailbox logon failure", "Add-MailboxPermission"),
        ("550 5.7.64 TenantAttribution; Relay Access Denied", "Get-InboundConnector"),
        ("550 5.7.68 TenantInboundAttribution; Direct Send not allowed for this organization", "RejectDirectSend"),
        ("454 4.7.8 invalid_client: AADSTS7000222: expired.", "secret of the application has expired"),
        ("454 4.7.8 invalid_client: AADSTS7000215: invalid.", "secret is wrong"),
        # A number that only begins like another.
        ("454 4.7.8 invalid_grant: AADSTS70000: no", "not valid, or not for this"),
        ("454 4.7.8 invalid_grant: AADSTS700082: no", "not used for too long"),
        ("454 4.7.8 invalid_client: AADSTS70000999: no", "does not accept the client"),
    ],
)
def test_what_to_do_is_named(said: str, words: str) -> None:
    assert words in explain(reply(said)).words


def test_the_text_of_a_reply_of_many_lines_is_one() -> None:
    said = Reply(550, "5.4.5", "Daily user sending\nlimit   exceeded. For more\ninformation")
    assert explain(said).service == "Google"


# Whose word counts


@pytest.mark.parametrize(
    "said",
    [
        "550 5.7.64 TenantAttribution; Relay Access Denied",
        "550 5.7.708 Service unavailable. Access denied, traffic not accepted from this IP.",
        "554 5.7.1 <x@example.net>: Relay access denied",
        "530 5.7.57 Client not authenticated to send mail.",
        "530 5.7.0 Authentication required",
        "535 5.7.8 Error: authentication failed",
        "550 5.7.1 Daily SMTP relay limit exceeded for customer.",
        "554 5.7.1 Service unavailable; Client host [192.0.2.1] blocked using zen.spamhaus.org",
    ],
)
def test_what_only_a_smart_host_can_mean_so(said: str) -> None:
    assert outlook(said, smart_host=True) == ROUTE
    assert outlook(said, smart_host=False)[0] is Effect.FAIL


@pytest.mark.parametrize("smart_host", [True, False])
@pytest.mark.parametrize(
    "said",
    [
        "550 5.1.1 <x@example.net>: Recipient address rejected: User unknown in local recipient table",
        "550 5.1.10 RESOLVER.ADR.RecipientNotFound; Recipient not found by SMTP address lookup",
        "550 5.4.1 Recipient address rejected: Access denied.",
        "550 5.7.1 Delivery not authorized, message refused",
        "550 5.7.1 TRANSPORT.RULES.RejectMessage; the message was rejected by organization policy",
        "550 5.7.1 Message contains a URL listed at dbl.spamhaus.org",
        "554 5.7.1 Spam message rejected",
        "550 5.7.26 Your email has been blocked because the sender is unauthenticated.",
        "550 no",
        "554 5.3.2 no",
        "500 what?",
    ],
)
def test_an_ordinary_no_is_a_no(said: str, smart_host: bool) -> None:
    assert outlook(said, smart_host=smart_host)[0] is Effect.FAIL


@pytest.mark.parametrize("smart_host", [True, False])
@pytest.mark.parametrize(
    ("said", "effect"),
    [
        # A 5yz that passes, and that is never the message's fault.
        ("550 5.2.121 Recipient's per hour message receive limit from specific sender exceeded", Effect.RETRY),
        ("550 5.2.1 The user is receiving mail at a rate that prevents additional messages", Effect.RETRY),
        ("550 5.7.68 TenantInboundAttribution; Direct Send not allowed for this organization", Effect.PAUSE_ROUTE),
        ("530 5.7.0 Must issue a STARTTLS command first", Effect.PAUSE_ROUTE),
        # A 4yz that never gets better.
        (
            "421 4.7.1 [TSS09] All messages from 192.0.2.1 will be permanently deferred; Retrying will NOT succeed",
            Effect.FAIL,
        ),
        ("452 4.3.4 Message size exceeds fixed limit", Effect.FAIL),
        # What stands beside them, and does pass.
        ("452 4.3.1 Insufficient system storage", Effect.RETRY),
        ("421 4.7.0 [TSS04] Messages from 192.0.2.1 temporarily deferred due to user complaints", Effect.THROTTLE),
        ("450 4.1.1 User unknown in local recipient table", Effect.RETRY),
        ("450 4.2.0 Recipient address rejected: Greylisted", Effect.RETRY),
    ],
)
def test_where_code_and_truth_differ(said: str, effect: Effect, smart_host: bool) -> None:
    assert outlook(said, smart_host=smart_host)[0] is effect


def test_what_only_one_host_means_so() -> None:
    said = reply("535 Authentication Credentials Invalid")
    assert explain(said, "email-smtp.eu-west-1.amazonaws.com [192.0.2.1]:587").service == "Amazon SES"
    assert explain(said, "amazonaws.com").service == "Amazon SES"
    for other in ("smtp.example.com [192.0.2.1]:587", "notamazonaws.com [192.0.2.1]:587", ""):
        assert explain(said, other).service == "Any mail server"


# Replies of our own


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (
            (
                "454 4.7.8 Login as robot@contoso.com was refused by smtp.office365.com [192.0.2.1]:587: "
                "535 5.7.139 Authentication unsuccessful, basic authentication is disabled."
            ),
            "switched off by policy",
        ),
        (
            (
                "451 4.4.7 Not delivered within 48 hours. The last answer was: 454 4.7.8 Login as r was refused by "
                "[192.0.2.1]:587: 535 5.7.139 Authentication unsuccessful, basic authentication is disabled."
            ),
            "switched off by policy",
        ),
        ("451 4.3.2 mx.example.net [192.0.2.1]:25 said: 421 Too many connections", "more connections"),
        ("451 4.3.2 mx.example.net [192.0.2.1]:25 said: 554 go away", "takes no mail for now"),
        ("451 4.4.7 Not delivered within 48 hours. The last answer was: 450 no", "until its time was over"),
        ("451 4.4.7 Not delivered within 48 hours. The last answer was: 452 4.2.2 full", "mailbox is full"),
        ("451 4.3.0 Failed, but nobody could be told so far. The last answer was: 550 5.1.1 no", "does not exist"),
        ("451 4.4.1 Connecting to mx.example.net [192.0.2.1]:25 failed: Connection refused", "did not answer"),
    ],
)
def test_what_a_reply_of_ours_quotes_is_explained(said: str, words: str) -> None:
    assert words in explain(reply(said)).words


# What nobody has described


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (Reply(550, "5.1.1", "xyzzy"), "does not exist"),
        (Reply(450, "4.1.1", "xyzzy"), "could not check the address"),
        (Reply(450, "4.2.2", "xyzzy"), "mailbox is full"),
        (Reply(450, "4.2.1", "xyzzy"), "passes by itself"),
        (Reply(550, "5.2.1", "xyzzy"), "disabled"),
        (Reply(450, "4.7.1", "xyzzy"), "new to them"),
        (Reply(550, "5.7.999", "xyzzy"), "by its policy"),
        (Reply(450, "4.7.999", "xyzzy"), "puts the message off"),
        (Reply(550, "5.6.200", "xyzzy"), "content"),
        (Reply(550, "5.9.9", "xyzzy"), "for good"),
        # Hosts without enhanced status codes: their code says whether there is hope, and no more.
        (Reply(450, "", "xyzzy"), "for now"),
        (Reply(550, "", "xyzzy"), "for good"),
        # RFC 2034: the classes agree; where they do not, the code decides.
        (Reply(450, "5.1.1", "xyzzy"), "could not check the address"),
        (Reply(550, "4.1.1", "xyzzy"), "does not exist there"),
        (Reply(550, "5.1", "xyzzy"), "for good"),
    ],
)
def test_an_unknown_reply_has_the_plain_words_of_its_status(said: Reply, words: str) -> None:
    assert words in explain(said).words
    expected = Effect.FAIL if said.is_permanent else Effect.RETRY
    assert effect_of(said, "mx.example.net [192.0.2.1]:25", smart_host=True) is expected


PIECES = sorted({piece for entry in ENTRIES for pieces in entry.match.texts for piece in pieces})
STATUSES = st.one_of(
    st.sampled_from(["", "5.1", "x", "5.7.139", "4.4.7"]), st.from_regex(r"\A[245]\.[0-9]{1,3}\.[0-9]{1,3}\Z")
)
TEXTS = st.lists(
    st.one_of(st.text(max_size=40), st.sampled_from([*PIECES, "\n", " said: 550 5.1.1 "])), max_size=12
)


@given(st.integers(200, 599), STATUSES, TEXTS, st.text(max_size=60), st.booleans())
def test_there_is_an_explanation_of_everything(
    code: int, status: str, texts: list[str], host: str, smart_host: bool
) -> None:
    said = Reply(code, status, "".join(texts))
    entry = explain(said, host)
    assert entry.meaning and entry.next
    assert entry.effect_of(said, smart_host=smart_host) in Effect
    # Nothing a stranger wrote is in what we say.
    assert entry in ENTRIES


def test_no_more_is_looked_at_than_a_reply_may_be_long() -> None:
    known = "Service unavailable. Client blocked from sending; bad outbound sender"
    assert explain(Reply(550, "5.0.0", known)).service == "Microsoft 365"
    assert explain(Reply(550, "5.0.0", "x" * LOOKED_AT + known)).service == "Any mail server"
    assert explain(Reply(550, "5.0.0", known + "x" * 10_000_000)).service == "Microsoft 365"


def test_quotes_in_quotes_come_to_an_end() -> None:
    text = "The last answer was: 451 4.4.7 " * 1000
    assert explain(Reply(451, "4.4.7", text)).meaning.startswith("It was tried until")


# The files


GOOD = """
service = "Example"
[[reply]]
reply = "550 5.1.1 no"
status = ["5.1.1"]
meaning = "It is so."
fault = "recipient"
next = "Do it."
seen = 2026-11-24
source = "https://example.com/"
"""


def test_a_file_is_read() -> None:
    [entry] = read_entries(GOOD)
    assert (entry.service, entry.effect, entry.general, entry.smart_host) == ("Example", None, False, False)
    assert entry.seen.isoformat() == "2026-11-24"


@pytest.mark.parametrize(
    ("before", "after", "why"),
    [
        ('service = "Example"\n', "", "`service`"),
        ("[[reply]]", "other = 1\n[[reply]]", "other"),
        ('status = ["5.1.1"]\n', "", "fits every reply"),
        ('["5.1.1"]', '["5.1"]', "form"),
        ('status = ["5.1.1"]', 'code = ["600"]', "form"),
        ('status = ["5.1.1"]', 'text = ["Upper"]', "lower case"),
        ('status = ["5.1.1"]', 'text = [["two  spaces"]]', "single spaces"),
        ('status = ["5.1.1"]', 'text = [""]', "lower case"),
        ('status = ["5.1.1"]', "pattern = 'a*b'", "bound"),
        ('status = ["5.1.1"]', "pattern = 'a+b'", "bound"),
        ('status = ["5.1.1"]', "pattern = 'a{1,}b'", "bound"),
        ('status = ["5.1.1"]', "pattern = 'a{1,300}b'", "bound"),
        ('status = ["5.1.1"]', "pattern = '(a{1,9}){1,9}b'", "group"),
        ('status = ["5.1.1"]', "pattern = '(ab'", "position"),
        ('"recipient"', '"everybody"', "everybody"),
        ('"It is so."', '"It is so"', "meaning"),
        ('"Do it."', '""', "next"),
        ("seen = 2026-11-24\n", "", "seen"),
        ('source = "https://example.com/"\n', "", "source"),
        ("seen =", 'effect = "explode"\nseen =', "explode"),
        ("seen =", "colour = 1\nseen =", "colour"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(before: str, after: str, why: str) -> None:
    assert before in GOOD
    with pytest.raises(ValueError, match=why):
        read_entries(GOOD.replace(before, after))


def test_a_table_of_ones_own() -> None:
    entries = read_entries(GOOD + GOOD.replace('service = "Example"', "").replace("5.1.1 no", "5.1.1 no again"))
    mine = Table(entries)
    assert mine.explain(Reply(550, "5.1.1", "x")) is entries[0], "of equals the first"


# The page


def _script() -> Any:
    spec = importlib.util.spec_from_file_location("replies_page", ROOT / "scripts" / "replies_page.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    return script


def test_the_page_shows_the_table_as_it_is() -> None:
    page = (ROOT / "docs" / "replies.md").read_text("utf-8")
    assert _script().with_replies(page) == page, "run scripts/replies_page.py"
    assert page.count("\n| `") == len(ENTRIES)
