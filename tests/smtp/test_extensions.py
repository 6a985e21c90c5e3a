"""Parameters of MAIL and RCPT, and what EHLO offers."""

import pytest

from mailroot.mail.envelope import Body, Notify, Return
from mailroot.smtp.errors import ProtocolError
from mailroot.smtp.extensions import (
    MailParameters,
    RecipientParameters,
    ServerOffer,
    read_mail_parameters,
    read_recipient_parameters,
)

pytestmark = pytest.mark.quick


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", MailParameters()),
        ("SIZE=0", MailParameters(size=0)),
        ("size=12345678901234567890", MailParameters(size=12345678901234567890)),
        ("BODY=7BIT", MailParameters()),
        ("body=8bitmime", MailParameters(body=Body.EIGHT_BIT)),
        ("BODY=BINARYMIME", MailParameters(body=Body.BINARY)),
        ("SMTPUTF8", MailParameters(smtputf8=True)),
        ("RET=full", MailParameters(ret=Return.FULL)),
        ("RET=HDRS ENVID=QQ+2B314", MailParameters(ret=Return.HEADERS, envid="QQ+314")),
        (
            "SIZE=1  BODY=8BITMIME   SMTPUTF8",
            MailParameters(size=1, body=Body.EIGHT_BIT, smtputf8=True),
        ),
    ],
)
def test_mail(text: str, expected: MailParameters) -> None:
    assert read_mail_parameters(text) == expected


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("SIZE", 501),
        ("SIZE=", 501),
        ("SIZE=x", 501),
        ("SIZE=-1", 501),
        ("SIZE=1.5", 501),
        ("SIZE=²", 501),
        ("SIZE=123456789012345678901", 501),
        ("SIZE=1 SIZE=1", 501),
        ("SIZE=1 size=2", 501),
        ("BODY", 501),
        ("BODY=9BIT", 501),
        ("SMTPUTF8=yes", 501),
        ("SMTPUTF8=", 501),
        ("RET=ALL", 501),
        ("RET", 501),
        ("ENVID", 501),
        ("ENVID=", 501),
        ("ENVID=a=b", 501),
        ("ENVID=+0D+0A", 501),
        ("ENVID=" + "x" * 101, 501),
        ("AUTH", 501),
        ("AUTH=", 501),
        ("AUTH=<a@example.com>", 501),
        ("AUTH=nobody", 501),
        ("AUTH=a+0D+0Ab@example.com", 501),
        ("AUTH=a=b@example.com", 501),
        ("AUTH=<> AUTH=<>", 501),
        ("AUTH=a@" + "x" * 500, 501),
        ("NOTIFY=NEVER", 555),
        ("X-THING=1", 555),
        ("=1", 501),
        ("GRÖSSE=1", 501),
    ],
)
def test_mail_refused(text: str, code: int) -> None:
    with pytest.raises(ProtocolError) as caught:
        read_mail_parameters(text)
    assert (caught.value.reply.code, caught.value.reply.status) == (code, "5.5.4")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", RecipientParameters()),
        ("NOTIFY=NEVER", RecipientParameters(Notify.NEVER)),
        ("notify=success", RecipientParameters(Notify.SUCCESS)),
        ("NOTIFY=SUCCESS,FAILURE,DELAY", RecipientParameters(Notify.SUCCESS | Notify.FAILURE | Notify.DELAY)),
        ("ORCPT=rfc822;a+2Bb@example.com", RecipientParameters(None, "rfc822;a+b@example.com")),
        ("ORCPT=RFC822;a@b NOTIFY=DELAY", RecipientParameters(Notify.DELAY, "RFC822;a@b")),
        (r"ORCPT=utf-8;gr\x{E5}@b", RecipientParameters(None, "utf-8;grå@b")),
        ("ORCPT=x400;c+3Dde", RecipientParameters(None, "x400;c=de")),
    ],
)
def test_recipient(text: str, expected: RecipientParameters) -> None:
    assert read_recipient_parameters(text, smtputf8=False) == expected


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("NOTIFY", 501),
        ("NOTIFY=", 501),
        ("NOTIFY=ALWAYS", 501),
        ("NOTIFY=NEVER,DELAY", 501),
        ("NOTIFY=DELAY,", 501),
        ("NOTIFY=NEVER NOTIFY=NEVER", 501),
        ("ORCPT", 501),
        ("ORCPT=rfc822", 501),
        ("ORCPT=rfc822;", 501),
        ("ORCPT=;a@b", 501),
        ("ORCPT=rf c;a", 501),
        ("ORCPT=rfc822;a+0D+0Ab", 501),
        ("ORCPT=rfc822;grå@b", 501),
        ("ORCPT=utf-8;grå@b", 501),
        ("ORCPT=rfc822;" + "x" * 500, 501),
        ("SIZE=1", 555),
    ],
)
def test_recipient_refused(text: str, code: int) -> None:
    with pytest.raises(ProtocolError) as caught:
        read_recipient_parameters(text, smtputf8=False)
    assert caught.value.reply.code == code


def test_utf8_stands_only_where_it_may() -> None:
    assert read_recipient_parameters("ORCPT=utf-8;grå@b", smtputf8=True).original == "utf-8;grå@b"


def test_starttls_is_offered_only_where_it_works() -> None:
    assert "STARTTLS" not in ServerOffer("example.com").lines(secured=False)
    assert "STARTTLS" in ServerOffer("example.com", starttls=True).lines(secured=False)
    assert "STARTTLS" not in ServerOffer("example.com", starttls=True).lines(secured=True)


def test_auth_is_offered_with_its_mechanisms_and_to_nobody_without() -> None:
    offer = ServerOffer("example.com", starttls=True)
    lines = offer.lines(secured=False, mechanisms=("LOGIN", "PLAIN"))
    assert lines[-3:] == ("STARTTLS", "AUTH LOGIN PLAIN", "HELP")
    assert not any(line.startswith("AUTH") for line in offer.lines(secured=False))


def test_login_is_offered_to_old_devices_in_their_way_too() -> None:
    offer = ServerOffer("example.com", early_auth=True)
    lines = offer.lines(secured=False, mechanisms=("SCRAM-SHA-256", "LOGIN", "PLAIN"))
    assert lines[-3:] == ("AUTH SCRAM-SHA-256 LOGIN PLAIN", "AUTH=LOGIN", "HELP")
    assert "AUTH=LOGIN" not in offer.lines(secured=False, mechanisms=("SCRAM-SHA-256",))
    assert "AUTH=LOGIN" not in ServerOffer("example.com").lines(secured=False, mechanisms=("LOGIN",))


def test_xclient_is_offered_to_those_who_may() -> None:
    offer = ServerOffer("example.com")
    xclient = "XCLIENT NAME ADDR PORT PROTO HELO LOGIN DESTADDR DESTPORT"
    assert xclient in offer.lines(secured=True, xclient=True)
    assert not any(line.startswith("XCLIENT") for line in offer.lines(secured=True))


@pytest.mark.parametrize(
    ("text", "auth"),
    [
        ("AUTH=<>", "<>"),
        ("auth=+3C+3E", "<>"),
        ("AUTH=e+3Dmc2@example.com", "e=mc2@example.com"),
        ("AUTH=+22a+20b+22@example.com", '"a b"@example.com'),
        ("AUTH=a@[192.0.2.1]", "a@[192.0.2.1]"),
    ],
)
def test_the_submitter(text: str, auth: str) -> None:
    assert read_mail_parameters(text).auth == auth


def test_size_is_bare_without_a_limit() -> None:
    assert ServerOffer("example.com").lines(secured=False)[0] == "SIZE"
    assert ServerOffer("example.com", 2097152).lines(secured=False)[0] == "SIZE 2097152"
