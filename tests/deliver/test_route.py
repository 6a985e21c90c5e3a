"""Routes as a table: which recipient goes where, and in which words."""

import pytest

from mailroot.deliver.route import (
    AdvancedDelivery,
    RemoteDomain,
    Router,
    SmartHost,
    ToDrop,
    ToHosts,
    literal_address,
)
from mailroot.deliver.security import OutboundSecurity, TlsPolicy
from mailroot.mail.address import Address
from mailroot.policy.domains import LocalDomains

pytestmark = pytest.mark.quick

OWN = OutboundSecurity(username="u", password="hush", tls=TlsPolicy.REQUIRED)
REMOTE = (
    RemoteDomain("*.example.net", smart_host=("wide.example",)),
    RemoteDomain("*.deep.example.net", smart_host=("[192.0.2.9]:26",)),
    RemoteDomain("exact.deep.example.net", smart_host=()),
    RemoteDomain("plain.example", port=2525, send_helo=True, outbound_security=OWN),
)


def router(*smart_host: str, direct_first: bool = False, masquerade: str = "") -> Router:
    advanced = AdvancedDelivery(smart_host, direct_first, masquerade)
    local = LocalDomains("local.example", ("*.local.example",))
    return Router(advanced, REMOTE, local, OutboundSecurity(), 25)


def route(of: Router, address: str) -> ToDrop | ToHosts:
    local, _, domain = address.rpartition("@")
    return of.route(Address(local, domain))


@pytest.mark.parametrize(
    ("domain", "name", "hosts"),
    [
        ("local.example", "Drop folder", None),
        ("LOCAL.example.", "Drop folder", None),
        ("a.local.example", "Drop folder", None),
        ("other.example", "smart host smart.example:587", ["smart.example:587"]),
        ("example.net", "smart host smart.example:587", ["smart.example:587"]),
        ("a.example.net", "smart host wide.example:25 (remote domain *.example.net)", ["wide.example:25"]),
        (
            "a.deep.example.net",
            "smart host [192.0.2.9]:26 (remote domain *.deep.example.net)",
            ["[192.0.2.9]:26"],
        ),
        ("exact.deep.example.net", "exact.deep.example.net", []),
        ("[192.0.2.1]", "smart host smart.example:587", ["smart.example:587"]),
    ],
)
def test_whither(domain: str, name: str, hosts: list[str] | None) -> None:
    found = route(router("smart.example:587"), f"a@{domain}")
    assert found.name == name
    if isinstance(found, ToHosts):
        assert [str(host) for host in found.smart_hosts] == hosts
    else:
        assert hosts is None


def test_direct() -> None:
    found = route(router(), "a@Bücher.example")
    assert isinstance(found, ToHosts)
    assert (found.name, found.domain, found.smart_hosts) == ("xn--bcher-kva.example", "xn--bcher-kva.example", ())
    assert found.describe() == (
        "all remote domains: to the mail exchangers of xn--bcher-kva.example, port 25 (TLS if offered, no login)"
    )
    literal = route(router(), "a@[192.0.2.1]")
    assert literal.describe() == "all remote domains: to [192.0.2.1]:25 (TLS if offered, no login)"


def test_direct_first() -> None:
    found = route(router("smart.example", direct_first=True), "a@other.example")
    assert isinstance(found, ToHosts) and found.fallback is not None
    assert not found.smart_hosts and [str(h) for h in found.fallback.smart_hosts] == ["smart.example:25"]
    assert found.describe().endswith("; if that fails for now, to smart host smart.example:25")


def test_a_remote_domain_may_change_security_alone() -> None:
    found = route(router("smart.example"), "a@plain.example")
    assert isinstance(found, ToHosts)
    assert found.security is OWN and found.send_helo and found.port == 2525
    assert [str(host) for host in found.smart_hosts] == ["smart.example:2525"]
    assert found.describe() == (
        "remote domain plain.example: to smart host smart.example:2525 (TLS required, login as u, HELO)"
    )
    assert "hush" not in repr(found)


def test_same_destination_same_route() -> None:
    of = router("smart.example")
    assert route(of, "a@one.example") is route(of, "b@two.example")


def test_a_route_is_remembered_for_a_bounded_number_of_domains() -> None:
    of = router()
    for n in range(5000):
        assert route(of, f"a@d{n}.example").name == f"d{n}.example"
    assert len(of._known) <= 4096


def test_masquerade_replaces_only_local_domains() -> None:
    of = router(masquerade="public.example")
    assert of.sender(Address("a", "local.example")) == Address("a", "public.example")
    assert of.sender(Address("a", "x.local.example")) == Address("a", "public.example")
    assert of.sender(Address("a", "other.example")) == Address("a", "other.example")
    assert of.sender(None) is None
    assert router().sender(Address("a", "local.example")) == Address("a", "local.example")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("smtp.example.com", SmartHost("smtp.example.com", 25, False)),
        (" SMTP.Example.com:587 ", SmartHost("smtp.example.com", 587, False)),
        ("[192.0.2.1]", SmartHost("192.0.2.1", 25, True)),
        ("[192.0.2.1]:26", SmartHost("192.0.2.1", 26, True)),
        ("192.0.2.1:26", SmartHost("192.0.2.1", 26, True)),
        ("192.0.2.1", SmartHost("192.0.2.1", 25, True)),
        ("[2001:db8::1]:587", SmartHost("2001:db8::1", 587, True)),
        ("[IPv6:2001:db8::1]", SmartHost("2001:db8::1", 25, True)),
        ("2001:db8::1", SmartHost("2001:db8::1", 25, True)),
        ("PRINTSRV", SmartHost("printsrv", 25, False)),
    ],
)
def test_smart_hosts_are_read(text: str, expected: SmartHost) -> None:
    assert SmartHost.read(text, 25) == expected
    assert SmartHost.read(str(expected), 1) == expected


@pytest.mark.parametrize(
    "text",
    ["", "a b", "smtp.example.com:", "smtp.example.com:x", "a:0", "a:65536", "[a]", "[192.0.2.1", "[192.0.2.1]x"],
)
def test_what_is_no_smart_host(text: str) -> None:
    with pytest.raises(ValueError, match=r"right would be|must be a number|without brackets"):
        SmartHost.read(text, 25)


def test_a_bad_remote_smart_host_is_noticed_at_once() -> None:
    with pytest.raises(ValueError, match="right would be"):
        Router(
            AdvancedDelivery(),
            (RemoteDomain("a.example", smart_host=("a b",)),),
            LocalDomains("l.example"),
            OutboundSecurity(),
            25,
        )


@pytest.mark.parametrize(
    ("domain", "expected"),
    [
        ("[192.0.2.1]", "192.0.2.1"),
        ("[IPv6:2001:db8::1]", "2001:db8::1"),
        ("[ipv6:::1]", "::1"),
        ("[IPv6:192.0.2.1]", None),
        ("[x400:whatever]", None),
        ("[]", None),
    ],
)
def test_address_literals(domain: str, expected: str | None) -> None:
    assert literal_address(domain) == expected
