"""Which mailbox logs in for which sender."""

import pytest

from mailroot.deliver.credentials.base import LoginImpossible
from mailroot.deliver.credentials.mailboxes import Mailboxes, MailboxRule
from mailroot.mail.address import Address

pytestmark = pytest.mark.quick

ANN = Address("Ann", "Example.com")


def mailboxes(*rules: MailboxRule, default: str = "") -> Mailboxes:
    return Mailboxes("microsoft: mailboxes", rules, default)


def test_the_senders_own_or_one_for_all() -> None:
    assert mailboxes().of(ANN) == "Ann@Example.com"
    assert mailboxes(default="relay@example.com").of(ANN) == "relay@example.com"
    assert mailboxes(default="relay@example.com").of(None) == "relay@example.com"


def test_the_first_rule_that_fits() -> None:
    chosen = mailboxes(
        MailboxRule(("printer@example.com", "<>"), "devices@example.com"),
        MailboxRule(("example.com",)),
        MailboxRule(("*.example.com", "example.net"), "apps@example.com"),
        default="relay@example.com",
    )
    for sender, mailbox in {
        Address("PRINTER", "EXAMPLE.com"): "devices@example.com",
        ANN: "Ann@Example.com",
        Address("x", "a.b.example.com"): "apps@example.com",
        Address("x", "example.net"): "apps@example.com",
        Address("x", "example.org"): "relay@example.com",
        None: "devices@example.com",
    }.items():
        assert chosen.of(sender) == mailbox


def test_who_has_no_mailbox() -> None:
    with pytest.raises(LoginImpossible, match="under mailboxes") as raised:
        mailboxes().of(None)
    assert raised.value.mailbox
    # The octet that ends a name in XOAUTH2 cannot come from a sender.
    with pytest.raises(LoginImpossible, match="cannot be"):
        mailboxes().of(Address('"a\x01auth=Bearer x"', "example.com"))


@pytest.mark.parametrize(
    ("rule", "default", "text"),
    [
        (MailboxRule(()), "", "fits nobody"),
        (MailboxRule(("*@example.com",)), "", "any address of a domain is written as 'example.com'"),
        (MailboxRule(("mail.*.example.com",)), "", "a star stands only in front"),
        (MailboxRule(("example.com",), "relay"), "", "'relay' is not a mailbox"),
        (MailboxRule(("example.com",)), "a\x01b@example.com", "is not a mailbox"),
    ],
)
def test_rules_that_cannot_be_read(rule: MailboxRule, default: str, text: str) -> None:
    with pytest.raises(ValueError, match=r"^microsoft: mailboxes: ") as raised:
        mailboxes(rule, default=default)
    assert text in str(raised.value)
