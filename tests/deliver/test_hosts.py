"""From a route to addresses, over a DNS of plain maps."""

import asyncio
from collections.abc import Sequence

import pytest

from mailroot.deliver.hosts import MAX_HOSTS, Host, Hosts, Itself, NoHosts
from mailroot.deliver.route import SmartHost, ToHosts
from mailroot.deliver.security import OutboundSecurity
from rig.delivery import Names

pytestmark = pytest.mark.quick

MX = {
    "one.example": [(10, "mx.one.example")],
    "two.example": [(20, "b.two.example"), (10, "a.two.example")],
    "equal.example": [(10, "x.example"), (10, "y.example"), (5, "z.example")],
    "null.example": [(0, "")],
    "nullish.example": [(0, ""), (10, "mx.one.example")],
    "bare.example": [],
    "empty.example": [],
    "dangling.example": [(10, "gone.example")],
    "half.example": [(10, "gone.example"), (20, "mx.one.example")],
    "shaky.example": [(10, "shaky.mx.example"), (20, "mx.one.example")],
    "broken.example": [(10, "shaky.mx.example")],
    "ours.example": [(10, "relay.example.com"), (20, "mx.one.example")],
    "behind.example": [(10, "a.two.example"), (20, "relay.example.com"), (20, "mx.one.example"), (30, "z.example")],
    "byaddress.example": [(10, "self.example")],
    "many.example": [(n, "many.mx.example") for n in range(5)],
    "noaddress.example": [(10, "empty.example")],
}
ADDRESSES = {
    "mx.one.example": ["192.0.2.1", "2001:db8::1"],
    "a.two.example": ["192.0.2.2"],
    "b.two.example": ["192.0.2.3"],
    "x.example": ["192.0.2.4"],
    "y.example": ["192.0.2.5"],
    "z.example": ["192.0.2.6"],
    "bare.example": ["192.0.2.7"],
    "relay.example.com": ["192.0.2.99"],
    "self.example": ["127.0.0.1"],
    "many.mx.example": ["192.0.2.8", "192.0.2.9", "192.0.2.10"],
    "smart.example": ["192.0.2.20", "2001:db8::20"],
}
NAMES = Names(MX, ADDRESSES, failing=("shaky.mx.example", "servfail.example"))
ITSELF = Itself(["Relay.example.com"], [("127.0.0.1", 25), ("0.0.0.0", 2525)])


def direct(domain: str, port: int = 25) -> ToHosts:
    return ToHosts(domain, "", domain, (), port, OutboundSecurity())


def smart(*texts: str) -> ToHosts:
    return ToHosts("smart", "", "", tuple(SmartHost.read(text, 25) for text in texts), 25, OutboundSecurity())


def find(route: ToHosts, *, source: str = "", backwards: bool = False) -> tuple[Host, ...] | NoHosts:
    def shuffle(equals: list[object]) -> None:
        if backwards:
            equals.reverse()

    return asyncio.run(Hosts(NAMES, ITSELF, source=source, shuffle=shuffle).find(route))


def addresses(found: tuple[Host, ...] | NoHosts) -> list[str]:
    assert not isinstance(found, NoHosts), found
    return [host.address for host in found]


@pytest.mark.parametrize(
    ("domain", "expected"),
    [
        ("one.example", ["192.0.2.1", "2001:db8::1"]),
        ("two.example", ["192.0.2.2", "192.0.2.3"]),
        ("equal.example", ["192.0.2.6", "192.0.2.4", "192.0.2.5"]),
        ("bare.example", ["192.0.2.7"]),
        ("nullish.example", ["192.0.2.1", "2001:db8::1"]),
        ("half.example", ["192.0.2.1", "2001:db8::1"]),
        ("shaky.example", ["192.0.2.1", "2001:db8::1"]),
        ("behind.example", ["192.0.2.2"]),
        ("[192.0.2.50]", ["192.0.2.50"]),
        ("[IPv6:2001:db8::50]", ["2001:db8::50"]),
    ],
)
def test_mail_exchangers(domain: str, expected: Sequence[str]) -> None:
    assert addresses(find(direct(domain))) == expected


def test_equals_are_shuffled() -> None:
    assert addresses(find(direct("equal.example"), backwards=True)) == ["192.0.2.6", "192.0.2.5", "192.0.2.4"]


def test_there_is_an_end_to_trying() -> None:
    assert len(addresses(find(direct("many.example")))) == MAX_HOSTS


@pytest.mark.parametrize(
    ("domain", "code", "status", "final"),
    [
        ("unknown.example", 550, "5.1.2", False),
        ("servfail.example", 451, "4.4.3", False),
        ("null.example", 556, "5.1.10", True),
        ("empty.example", 550, "5.1.2", False),
        ("dangling.example", 550, "5.4.4", False),
        ("noaddress.example", 550, "5.4.4", False),
        ("broken.example", 451, "4.4.3", False),
        ("ours.example", 550, "5.4.6", False),
        ("byaddress.example", 550, "5.4.6", False),
        ("[127.0.0.1]", 550, "5.4.6", False),
        ("[nothing]", 550, "5.1.2", False),
    ],
)
def test_nowhere_to_go(domain: str, code: int, status: str, final: bool) -> None:
    found = find(direct(domain))
    assert isinstance(found, NoHosts)
    assert (found.reply.code, found.reply.status, found.final) == (code, status, final)
    assert found.reply.text


def test_ourselves_by_any_address_of_this_computer() -> None:
    assert isinstance(find(direct("[127.0.0.1]", 2525)), NoHosts)
    assert addresses(find(direct("[127.0.0.1]", 2526))) == ["127.0.0.1"]
    assert addresses(find(direct("[192.0.2.1]", 2525))) == ["192.0.2.1"]
    assert not Itself([], [("::1", 25)]).listens_on("::2", 25)


def test_smart_hosts_in_order() -> None:
    found = find(smart("gone.example", "smart.example:587", "[192.0.2.30]:26", "shaky.mx.example"))
    assert not isinstance(found, NoHosts)
    assert [str(host) for host in found] == [
        "smart.example [192.0.2.20]:587",
        "smart.example [2001:db8::20]:587",
        "[192.0.2.30]:26",
    ]


@pytest.mark.parametrize(
    ("host", "status", "text"),
    [
        ("gone.example", "4.4.3", "Smart host gone.example:25: the name gone.example does not exist"),
        ("shaky.mx.example", "4.4.3", "DNS could not be asked"),
        ("empty.example", "4.4.3", "the name has no address"),
        ("[127.0.0.1]", "4.4.6", "is this server itself"),
        ("127.0.0.1:2525", "4.4.6", "is this server itself"),
    ],
)
def test_a_bad_smart_host_is_never_the_end(host: str, status: str, text: str) -> None:
    found = find(smart(host))
    assert isinstance(found, NoHosts)
    assert (found.reply.code, found.reply.status) == (451, status)
    assert text in found.reply.text


def test_a_source_address_reaches_its_own_kind_only() -> None:
    assert addresses(find(direct("one.example"), source="192.0.2.77")) == ["192.0.2.1"]
    assert addresses(find(direct("one.example"), source="2001:db8::77")) == ["2001:db8::1"]
    found = find(direct("two.example"), source="2001:db8::77")
    assert isinstance(found, NoHosts) and found.reply.status == "4.4.4"
