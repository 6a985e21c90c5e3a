"""What accounts and networks may send: which entry holds, which senders and recipients it allows, what it says."""

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailroot.mail.address import Address
from mailroot.policy.access import Access, AccessSettings
from mailroot.policy.domains import LocalDomains
from mailroot.policy.limits import Quota
from mailroot.policy.permissions import Grant, Otherwise, Permission, Permissions, Rewrite, SenderRule
from mailroot.policy.visit import Accept, Refuse, Visit
from mailroot.smtp.answers import encode
from mailroot.smtp.grammar import parse_mailbox

pytestmark = pytest.mark.quick

LOCAL = LocalDomains("corp.example", ("alias.example",))
FIXED = Address("noreply", "corp.example")


def visit(user: str = "", client: str = "10.1.2.3", name: str | None = None) -> Visit:
    return Visit(ip_address(client), "127.0.0.1:25", name=name, user=user)


def grant(*senders: str, user: str = "crm", rewrite_to: str = "") -> Grant:
    otherwise = Otherwise.REWRITE if rewrite_to else Otherwise.REFUSE
    entry = Permission(("*",) if user else (), ("10.0.0.0/8",), senders, otherwise, rewrite_to)
    return Permissions((entry,), LOCAL).of(visit(user))


def may(senders: tuple[str, ...], sender: str, user: str = "crm") -> bool:
    decision = grant(*senders, user=user).may_send_as(parse_mailbox(sender, None))
    assert isinstance(decision, Accept | Refuse)
    return isinstance(decision, Accept)


# Which entry holds


def test_without_entries_everything_is_allowed() -> None:
    free = Permissions((), LOCAL).of(visit("crm"))
    assert isinstance(free.may_send_as(Address("anybody", "elsewhere.example")), Accept)
    assert isinstance(free.may_send_to(Address("anybody", "elsewhere.example")), Accept)
    assert (free.senders, free.quota) == (None, None)


def test_the_first_entry_that_fits_holds_alone() -> None:
    permissions = Permissions(
        (
            Permission(("crm",), (), ("crm@corp.example",)),
            Permission(("crm", "erp"), ("10.0.0.0/8",), ("erp@corp.example",)),
            Permission((), ("10.0.0.0/8", "printers.example"), ("printer@corp.example",)),
            Permission(("*",), (), ("own domain",)),
        ),
        LOCAL,
    )

    def entry(user: str, client: str = "10.1.2.3", name: str | None = None) -> str:
        return permissions.of(visit(user, client, name)).rule

    assert entry("crm") == "access.permissions, entry 1"
    assert entry("CRM") == "access.permissions, entry 1", "accounts are compared without regard to case"
    assert entry("erp") == "access.permissions, entry 2"
    assert entry("erp", "192.0.2.1") == "access.permissions, entry 4", "both must fit where both are given"
    assert entry("") == "access.permissions, entry 3"
    assert entry("other") == "access.permissions, entry 3"
    assert entry("", "::ffff:10.1.2.3") == "access.permissions, entry 3"
    assert entry("", "192.0.2.1", "p7.printers.example") == "access.permissions, entry 3"
    assert entry("other", "192.0.2.1") == "access.permissions, entry 4"
    assert entry("", "192.0.2.1") == "access.permissions: no entry fits this client"


def test_a_star_is_no_account_for_who_has_not_logged_in() -> None:
    permissions = Permissions((Permission(("*",), (), ("crm@corp.example",)),), LOCAL)
    assert permissions.of(visit()).senders is None
    assert permissions.of(visit("*")).senders is not None


def test_an_entry_about_nobody_cannot_be_read() -> None:
    with pytest.raises(ValueError, match="about nobody; right would be accounts, networks or both"):
        Permissions((Permission(),), LOCAL)


# Senders


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        (
            "crm@corp.example",
            [
                "crm@corp.example",
                "CRM@CORP.EXAMPLE",
                '"crm"@corp.example',
                '"c\\rm"@corp.example',
                "crm@corp.example.",
            ],
            ["crm2@corp.example", "crm@sub.corp.example", "crm@corp.example.net", '"crm "@corp.example'],
        ),
        ("corp.example", ["anybody@corp.example", "a%b@corp.example"], ["a@sub.corp.example", "a@xcorp.example"]),
        ("*.corp.example", ["a@sub.corp.example", "a@b.c.corp.example"], ["a@corp.example", "a@xcorp.example"]),
        ("own address", ["crm@corp.example"], ["erp@corp.example", "crm@alias.example"]),
        ("own domain", ["anybody@corp.example"], ["a@alias.example", "a@sub.corp.example"]),
        ("any", ["a@b.example", '"a@b"@c.example', "a@[192.0.2.1]"], []),
        ("bücher.example", ["a@xn--bcher-kva.example", "a@BÜCHER.example"], ["a@bucher.example"]),
        ("straße@corp.example", ["straße@corp.example"], ["strasse@corp.example", "STRASSE@corp.example"]),
    ],
)
def test_patterns_of_senders(pattern: str, yes: list[str], no: list[str]) -> None:
    for sender in yes:
        assert may((pattern,), sender), sender
    for sender in no:
        assert not may((pattern,), sender), sender
        assert may(("other.example", pattern, sender), sender), "listed as it is"


@pytest.mark.parametrize(
    ("user", "address"),
    [
        ("crm@other.example", "crm@other.example"),
        ("crm", "crm@corp.example"),
        ("CORP\\crm", "crm@corp.example"),
        ("", None),
        ("Some Body", None),
    ],
)
def test_an_accounts_own_address_and_domain(user: str, address: str | None) -> None:
    for sender in ("crm@other.example", "crm@corp.example", "somebody@corp.example"):
        assert may(("own address",), sender, user) is (sender == address)
    domain = address.partition("@")[2] if address else "corp.example"
    for sender in ("x@other.example", "x@corp.example", "x@else.example"):
        assert may(("own domain",), sender, user) is sender.endswith(f"@{domain}")


def test_a_domain_does_not_allow_what_is_there_to_be_misread() -> None:
    for sender in ('"ceo@other.example"@corp.example', '"ceo@other.example,"@corp.example', '"a b"@corp.example'):
        assert not may(("corp.example", "own domain"), sender)
        assert may((sender,), sender)
    # Homographs are other domains, whatever they look like: here a Cyrillic о and е.
    assert not may(("corp.example",), "ceo@c\u043erp.example")
    assert not may(("corp.example",), "ceo@corp.\u0435xample")
    assert not may(("corp.example",), "ceo@[192.0.2.1]")
    # The Kelvin sign is no k.
    assert not may(("k@corp.example",), "\u212a@corp.example")


def test_the_null_sender_is_for_everybody() -> None:
    assert isinstance(grant("crm@corp.example").may_send_as(None), Accept)
    assert isinstance(grant().may_send_as(None), Accept)


def test_a_refusal_says_who_and_what_would_be_allowed() -> None:
    decision = grant("crm@corp.example", "own domain").may_send_as(Address("ceo", "other.example"))
    assert isinstance(decision, Refuse)
    assert str(decision.reply) == (
        "550 5.7.60 Client does not have permissions to send as this sender: ceo@other.example; "
        "allowed are crm@corp.example, corp.example"
    )
    assert decision.rule == "access.permissions, entry 1: ceo@other.example is no allowed sender"
    decision = grant().may_send_as(Address("ceo", "other.example"))
    assert isinstance(decision, Refuse)
    assert decision.reply.text.endswith("ceo@other.example; none is allowed")


def test_no_refusal_is_longer_than_a_reply_may_be() -> None:
    far = Address("a" * 64, ".".join(["b" * 60] * 3))
    many = tuple(f"{'c' * 60}@{'d' * 60}.{'e' * 60}.{n}.example" for n in range(100))
    for one in (
        grant(*many).may_send_as(far),
        Permissions((Permission(("*",), recipients=tuple("d" * 60 + f".{n}.example" for n in range(9))),), LOCAL)
        .of(visit("crm"))
        .may_send_to(far),
    ):
        assert isinstance(one, Refuse)
        assert len(encode(one.reply)) <= 512
        assert "more" in one.reply.text


def test_another_sender_is_rewritten_where_the_entry_says_so() -> None:
    one = grant("crm@corp.example", rewrite_to="noreply@corp.example")
    assert isinstance(one.may_send_as(Address("crm", "corp.example")), Accept)
    assert isinstance(one.may_send_as(FIXED), Accept), "the fixed sender is an allowed one"
    decision = one.may_send_as(Address("ceo", "other.example"))
    assert isinstance(decision, Rewrite)
    assert decision.sender == FIXED
    assert decision.rule == "access.permissions, entry 1: ceo@other.example is rewritten to noreply@corp.example"
    assert isinstance(one.may_send_as(None), Accept)


def test_a_rewritten_sender_can_go_everywhere() -> None:
    decision = grant("crm@corp.example", rewrite_to="noreply@bücher.example").may_send_as(Address("a", "b.example"))
    assert isinstance(decision, Rewrite)
    assert decision.sender == Address("noreply", "xn--bcher-kva.example")
    with pytest.raises(ValueError, match="is not ASCII before the @"):
        grant("crm@corp.example", rewrite_to="grüße@corp.example")


@pytest.mark.parametrize(
    ("sender", "words"),
    [
        ("@corp.example", "any address of a domain is written as 'corp.example'"),
        ("*@corp.example", "any address of a domain is written as 'corp.example'"),
        ("a@b@corp.example", "is not an e-mail address"),
        ("own adress", "is not a domain name; right would be 'example.com'; also 'someone@example.com'"),
        ("co*.example", "a star stands only in front"),
        ("", "is not a domain name"),
    ],
)
def test_a_sender_that_cannot_be_read_is_told(sender: str, words: str) -> None:
    with pytest.raises(ValueError) as caught:
        grant(sender)
    assert words in str(caught.value)


def test_rewrite_needs_an_address() -> None:
    with pytest.raises(ValueError, match=r'right would be rewrite_to = "noreply@example\.com"'):
        Permissions((Permission(("*",), (), ("own domain",), Otherwise.REWRITE),), LOCAL)


# Recipients


def test_recipients_by_domain() -> None:
    entry = Permission(("*",), recipients=("corp.example", "*.partner.example"))
    one = Permissions((entry,), LOCAL).of(visit("crm"))
    for recipient in ("a@corp.example", "a@CORP.example", "a@x.partner.example"):
        assert isinstance(one.may_send_to(parse_mailbox(recipient, None)), Accept)
    for recipient in ("a@partner.example", "a@other.example", "a%corp.example@other.example", "a@[192.0.2.1]"):
        assert isinstance(one.may_send_to(parse_mailbox(recipient, None)), Refuse), recipient
    refusal = one.may_send_to(Address("a", "other.example"))
    assert isinstance(refusal, Refuse)
    assert str(refusal.reply) == (
        "550 5.7.1 Client does not have permissions to send to a@other.example; "
        "allowed are corp.example, *.partner.example"
    )


# Quotas


def test_a_quota_is_counted_for_each_account_or_address_of_an_entry() -> None:
    quota = Quota(messages_per_minute=3)
    entries = (Permission(("crm", "erp"), quota=quota), Permission((), ("10.0.0.0/8",), quota=quota))
    permissions = Permissions(entries, LOCAL)
    keys = [
        permissions.of(visit(user, client)).quota_key
        for user, client in (("crm", "10.0.0.1"), ("CRM", "10.0.0.2"), ("erp", "10.0.0.1"), ("", "10.0.0.1"))
    ]
    assert keys == [
        "permission 1, account crm",
        "permission 1, account crm",
        "permission 1, account erp",
        "permission 2, client 10.0.0.1",
    ]
    assert permissions.of(visit("crm")).quota == quota


# Names


def test_a_name_in_a_network_list_wants_a_reverse_look_up() -> None:
    for network, needed in (("printers.example", True), ("10.0.0.0/8", False)):
        settings = AccessSettings(permissions=(Permission((), (network,)),))
        assert Access(settings, LOCAL, ()).needs_name is needed


# Whatever comes

LOCALS = st.one_of(
    st.from_regex(r"[a-z.@%!]{1,8}", fullmatch=True),
    st.from_regex(r'"([a-z@ .,<>]|\\[\\"a@]){0,8}"', fullmatch=True),
    st.text(min_size=1, max_size=6),
)


@given(LOCALS, st.sampled_from(["corp.example", "other.example", "CORP.example", "corp.example.", "[192.0.2.1]"]))
def test_no_local_part_leads_out_of_an_allowed_domain(local: str, domain: str) -> None:
    rule = grant("corp.example", "own domain").senders
    assert isinstance(rule, SenderRule)
    sender = Address(local, domain)
    if rule.allows(sender):
        assert sender.domain_key == "corp.example"
    assert grant("a@other.example").senders.allows(sender) is (  # type: ignore[union-attr]
        sender.domain_key == "other.example" and local.lower() in ("a", '"a"', '"\\a"') and local.isascii()
    )
