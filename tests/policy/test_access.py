"""Connection control and relay restrictions: both modes, every kind of entry, and the tricks that open nothing."""

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailroot.mail.address import Address
from mailroot.policy.access import Access, AccessList, AccessSettings, Mode, RelayList
from mailroot.policy.domains import LocalDomains
from mailroot.policy.networks import read_entry
from mailroot.policy.visit import Accept, Hangup, Refuse, Visit

pytestmark = pytest.mark.quick

LOCAL = LocalDomains("corp.example", ("alias.example",))
OTHER = Address("someone", "elsewhere.example")


def visit(client: str, name: str | None = None) -> Visit:
    return Visit(ip_address(client), "127.0.0.1:25", name=name)


def access(
    relay: tuple[str, ...] = ("127.0.0.1", "::1"),
    *,
    mode: Mode = Mode.ONLY,
    connection: AccessList | None = None,
    relay_domains: tuple[str, ...] = (),
    reverse_dns: bool = False,
) -> Access:
    settings = AccessSettings(connection or AccessList(Mode.EXCEPT), RelayList(mode, relay), reverse_dns)
    return Access(settings, LOCAL, relay_domains)


def relays(entries: tuple[str, ...], client: str, name: str | None = None) -> bool:
    """Whether the client is on the list, seen from outside, in both modes."""
    listed = isinstance(access(entries).may_relay(visit(client, name), OTHER), Accept)
    assert isinstance(access(entries, mode=Mode.EXCEPT).may_relay(visit(client, name), OTHER), Accept) is not listed
    return listed


def test_by_default_only_this_computer_may_relay_and_everybody_may_connect() -> None:
    default = Access(AccessSettings(), LOCAL, ())
    for client in ("127.0.0.1", "::1"):
        assert isinstance(default.may_relay(visit(client), OTHER), Accept)
    for client in ("127.0.0.2", "10.0.0.1", "192.0.2.1", "2001:db8::1", "::2", "0.0.0.1"):
        decision = default.may_relay(visit(client), OTHER)
        assert isinstance(decision, Refuse)
        assert str(decision.reply) == "550 5.7.1 Unable to relay for someone@elsewhere.example"
        assert isinstance(default.may_connect(visit(client)), Accept)
    assert not default.needs_name


def test_the_rule_says_what_decided_in_an_administrators_words() -> None:
    few = access(("127.0.0.1", "10.0.0.0/8", "example.com"))
    assert few.may_relay(visit("127.0.0.1"), OTHER).rule == "relay restrictions: 127.0.0.1 is on the list"
    assert (
        few.may_relay(visit("10.1.2.3"), OTHER).rule == "relay restrictions: 10.1.2.3 is on the list as 10.0.0.0/8"
    )
    assert (
        few.may_relay(visit("192.0.2.1", "pc.example.com"), OTHER).rule
        == "relay restrictions: 192.0.2.1 is on the list as example.com"
    )
    assert (
        few.may_relay(visit("192.0.2.1"), OTHER).rule
        == "relay restrictions: 192.0.2.1 is not on the list (only the list)"
    )
    most = access(("127.0.0.1", "10.0.0.0/8"), mode=Mode.EXCEPT)
    assert (
        most.may_relay(visit("10.1.2.3"), OTHER).rule
        == "relay restrictions: 10.1.2.3 is on the list as 10.0.0.0/8 (all except the list)"
    )
    assert (
        most.may_relay(visit("192.0.2.1"), OTHER).rule
        == "relay restrictions: 192.0.2.1 is not on the list (all except the list)"
    )


def test_connection_control_hangs_up() -> None:
    closed = access(connection=AccessList(Mode.ONLY, ("10.0.0.0/8",)))
    assert isinstance(closed.may_connect(visit("10.9.9.9")), Accept)
    decision = closed.may_connect(visit("192.0.2.1"))
    assert isinstance(decision, Hangup)
    assert str(decision.reply) == "554 5.7.1 Connections from 192.0.2.1 are not accepted here"
    assert decision.rule == "connection control: 192.0.2.1 is not on the list (only the list)"
    barred = access(connection=AccessList(Mode.EXCEPT, ("192.0.2.1",)))
    assert isinstance(barred.may_connect(visit("192.0.2.1")), Hangup)
    assert isinstance(barred.may_connect(visit("192.0.2.2")), Accept)


def test_an_empty_list_is_nobody_or_everybody() -> None:
    assert isinstance(access(()).may_relay(visit("127.0.0.1"), OTHER), Refuse)
    assert isinstance(access((), mode=Mode.EXCEPT).may_relay(visit("192.0.2.1"), OTHER), Accept)


@pytest.mark.parametrize(
    ("entry", "inside", "outside"),
    [
        ("10.0.0.5", ["10.0.0.5", "::ffff:10.0.0.5"], ["10.0.0.6", "::10.0.0.5", "2001:db8::a00:5"]),
        ("::ffff:10.0.0.5", ["10.0.0.5", "::ffff:10.0.0.5"], ["10.0.0.6"]),
        ("10.0.0.0/8", ["10.0.0.0", "10.255.255.255"], ["9.255.255.255", "11.0.0.0"]),
        ("10.0.0.0/255.0.0.0", ["10.0.0.0", "10.255.255.255"], ["9.255.255.255", "11.0.0.0"]),
        ("10.1.2.0/255.255.255.252", ["10.1.2.3"], ["10.1.2.4"]),
        ("::ffff:10.0.0.0/104", ["10.0.0.0", "::ffff:10.255.255.255"], ["11.0.0.0"]),
        ("0.0.0.0/0", ["0.0.0.0", "255.255.255.255", "::ffff:1.2.3.4"], ["::1", "2001:db8::1"]),
        ("::/0", ["::1", "2001:db8::1"], ["127.0.0.1", "::ffff:127.0.0.1"]),
        ("::1", ["::1", "0:0:0:0:0:0:0:1"], ["127.0.0.1", "::2"]),
        ("2001:DB8::/32", ["2001:db8::1", "2001:db8:ffff::"], ["2001:db9::"]),
        ("fe80::/10", ["fe80::1", "fe80::1%eth0"], ["fec0::1"]),
        ("10.0.0.5/32", ["10.0.0.5"], ["10.0.0.4"]),
    ],
)
def test_addresses_and_networks(entry: str, inside: list[str], outside: list[str]) -> None:
    for client in inside:
        assert relays((entry,), client)
    for client in outside:
        assert not relays((entry,), client)


@pytest.mark.parametrize(
    ("name", "listed"),
    [
        ("example.com", True),
        ("pc.example.com", True),
        ("a.b.example.com", True),
        ("PC.Example.COM.", True),
        ("anexample.com", False),
        ("example.com.evil.example", False),
        ("com", False),
        ("", False),
        (None, False),
    ],
)
def test_a_domain_name_is_the_clients_verified_name_and_all_below(name: str | None, listed: bool) -> None:
    assert relays(("example.com",), "192.0.2.1", name) is listed


def test_the_name_in_helo_is_worth_nothing() -> None:
    lying = Visit(ip_address("192.0.2.1"), "127.0.0.1:25", helo="pc.example.com")
    assert isinstance(access(("example.com",)).may_relay(lying, OTHER), Refuse)


def test_names_are_wanted_only_where_a_list_has_some() -> None:
    assert not access().needs_name
    assert access(("example.com",)).needs_name
    assert access(connection=AccessList(Mode.EXCEPT, ("example.com",))).needs_name
    assert access(reverse_dns=True).needs_name


v4_networks = st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 32)).map(
    lambda pair: ip_network((pair[0], pair[1]), strict=False)
)
v6_networks = st.tuples(st.integers(0, 2**128 - 1), st.integers(0, 128)).map(
    lambda pair: ip_network((pair[0], pair[1]), strict=False)
)
networks = st.lists(v4_networks | v6_networks, max_size=8)


@st.composite
def cases(draw: st.DrawFn) -> tuple[list[IPv4Network | IPv6Network], IPv4Address | IPv6Address]:
    """Networks, and a client that is as often as not in or just beside one of them."""
    listed = draw(networks)
    anywhere = st.integers(0, 2**32 - 1).map(IPv4Address) | st.integers(0, 2**128 - 1).map(IPv6Address)
    if not listed or draw(st.booleans()):
        return listed, draw(anywhere)
    near = draw(st.sampled_from(listed))
    first, last = int(near.network_address), int(near.broadcast_address)
    number = draw(st.sampled_from([first - 1, first, last, last + 1]) | st.integers(first, last))
    width = 2**32 if near.version == 4 else 2**128
    return listed, type(near.network_address)(number % width)


def written(network: IPv4Network | IPv6Network, masks: bool) -> str:
    if network.prefixlen == network.max_prefixlen and masks:
        return str(network.network_address)
    return network.with_netmask if masks and network.version == 4 else str(network)


@given(cases(), st.booleans())
def test_lists_agree_with_the_standard_library(
    case: tuple[list[IPv4Network | IPv6Network], IPv4Address | IPv6Address], masks: bool
) -> None:
    listed, client = case
    entries = tuple(written(network, masks) for network in listed)
    expected = any(client in network for network in listed if network.version == client.version)
    if client.version == 6 and client.ipv4_mapped is not None:
        plain = client.ipv4_mapped
        expected = any(plain in network for network in listed if network.version == 4) or any(
            client in network for network in listed if network.version == 6 and network.prefixlen >= 96
        )
    assert relays(entries, str(client)) is expected


@pytest.mark.parametrize(
    ("entry", "advice"),
    [
        ("10.1.2.3/8", "right would be '10.0.0.0/8' for the network, or '10.1.2.3' for the single address"),
        ("10.0.0.0/33", "right would be '10.0.0.0/8'"),
        ("10.0.0.0/255.0.255.0", "right would be '10.0.0.0/8'"),
        ("10.0.0.0/", "right would be '10.0.0.0/8'"),
        ("2001:db8::/129", "'2001:db8::/32'"),
        ("10.0.0.256", "right would be '10.0.0.5'"),
        ("10.0.0", "right would be '10.0.0.5'"),
        ("10", "right would be '10.0.0.5'"),
        ("10.0.0.*", "right would be '10.0.0.5'"),
        ("010.0.0.1", "right would be '10.0.0.5'"),
        ("[::1]", "right would be '::1'"),
        ("fe80::1%eth0", "right would be 'fe80::1'"),
        ("*.example.com", "right would be 'example.com'"),
        ("a b", "right would be '10.0.0.5'"),
        ("", "right would be '10.0.0.5'"),
        ("user@example.com", "right would be '10.0.0.5'"),
    ],
)
def test_a_bad_entry_is_refused_with_what_would_be_right(entry: str, advice: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        read_entry(entry)
    assert advice in str(caught.value)
    with pytest.raises(ValueError, match=r"."):
        access((entry,))


@given(st.text(max_size=30) | st.text("0123456789abcdef.:/*%-", max_size=20))
def test_any_text_is_an_entry_or_a_friendly_error(entry: str) -> None:
    try:
        read_entry(entry)
    except ValueError as error:
        assert "right would be" in str(error)


# The order: local domain, open remote domain, relay list.


@pytest.mark.parametrize("domain", ["corp.example", "CORP.example.", "alias.example"])
def test_local_domains_are_never_a_relay_question(domain: str) -> None:
    decision = access(()).may_relay(visit("192.0.2.1"), Address("anyone", domain))
    assert isinstance(decision, Accept)
    assert decision.rule.startswith("local domain: ")


def test_a_remote_domain_may_be_open_to_everybody() -> None:
    some = access((), relay_domains=("open.example", "*.wide.example"))
    for domain in ("open.example", "OPEN.example.", "a.wide.example", "a.b.wide.example"):
        assert isinstance(some.may_relay(visit("192.0.2.1"), Address("anyone", domain)), Accept)
    for domain in (
        "wide.example",
        "x.open.example",
        "open.example.evil.example",
        "notopen.example",
        "xwide.example",
    ):
        assert isinstance(some.may_relay(visit("192.0.2.1"), Address("anyone", domain)), Refuse)
    rule = some.may_relay(visit("192.0.2.1"), Address("anyone", "a.wide.example")).rule
    assert rule == "remote domain: *.wide.example is open for relay by everybody"


@pytest.mark.parametrize(
    "tricky",
    [
        Address("someone%corp.example", "elsewhere.example"),
        Address("corp.example!someone", "elsewhere.example"),
        Address('"someone@corp.example"', "elsewhere.example"),
        Address("@corp.example:someone", "elsewhere.example"),
        Address("someone@corp.example", "elsewhere.example"),
        Address("someone", "elsewhere.example."),
        Address("someone", "corp.example.elsewhere.example"),
        Address("someone", "corp.example@elsewhere.example"),
        Address("someone", "elsewhere.example,corp.example"),
        Address("someone", "elsewhere.example corp.example"),
        Address("someone", "elsewhere.example\0corp.example"),
        Address("someone", "sub.corp.example"),
        Address("someone", ".corp.example"),
        Address("someone", "[127.0.0.1]"),
        Address("someone", "[IPv6:::1]"),
        Address("someone", "[corp.example]"),
        Address("someone", "[192.0.2.1]"),
        Address("someone", ""),
        Address("someone", "."),
    ],
)
def test_tricks_open_nothing(tricky: Address) -> None:
    decision = access(relay_domains=("open.example",)).may_relay(visit("192.0.2.1"), tricky)
    assert isinstance(decision, Refuse)
    assert decision.reply.code == 550


@pytest.mark.parametrize("local", ["user%other.example", "other.example!user", '"user@other.example"', "@a:user"])
def test_a_route_in_the_local_part_stays_a_mailbox_of_the_local_domain(local: str) -> None:
    decision = access(()).may_relay(visit("192.0.2.1"), Address(local, "corp.example"))
    assert isinstance(decision, Accept)
    assert decision.rule == "local domain: corp.example"
