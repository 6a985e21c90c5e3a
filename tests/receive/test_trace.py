"""The first half of a Received field cannot be bent by what a client calls itself."""

from ipaddress import ip_address

import pytest

from mailroot.policy.visit import Visit
from mailroot.receive.trace import received_from, transmission

pytestmark = pytest.mark.quick


def trace(helo: str, *, client: str = "192.0.2.1", name: str | None = None, mark: bool = False) -> str:
    return received_from(Visit(ip_address(client), "x:25", name=name, helo=helo), mark=mark, fqdn="us.example")


@pytest.mark.parametrize(
    ("helo", "shown"),
    [
        ("DB01", "DB01"),
        ("mail.example.com", "mail.example.com"),
        ("my_server", "my_server"),
        ("", "[192.0.2.1]"),
        ("[192.0.2.9]", "[192.0.2.9]"),
        ("[IPv6:2001:db8::1]", "[IPv6:2001:db8::1]"),
        ("a b", "a?b"),
        ("a) by evil (b", "a?by?evil?b"),
        ("a; Mon, 1 Jan", "a?Mon?1?Jan"),
        ("grå", "gr?"),
        ("a\r\nX-Evil: yes", "a?X-Evil:?yes"),
        ("<a@b>", "?a?b?"),
        ("(", "?"),
    ],
)
def test_helo(helo: str, shown: str) -> None:
    assert trace(helo) == f"from {shown} ([192.0.2.1]) by us.example"


def test_client() -> None:
    assert trace("a", client="2001:db8::1") == "from a ([IPv6:2001:db8::1]) by us.example"
    assert trace("a", name="host.example") == "from a (host.example [192.0.2.1]) by us.example"
    assert trace("a", name="evil) name") == "from a ([192.0.2.1]) by us.example"


def test_unverified() -> None:
    assert trace("a", mark=True) == "from a ([192.0.2.1] unverified) by us.example"
    assert trace("a", name="b.example", mark=True) == "from a (b.example [192.0.2.1] unverified) by us.example"
    assert (
        trace("B.example.", name="b.example", mark=True) == "from B.example. (b.example [192.0.2.1]) by us.example"
    )
    assert trace("[192.0.2.1]", mark=True) == "from [192.0.2.1] ([192.0.2.1]) by us.example"


@pytest.mark.parametrize(
    ("extended", "tls", "login", "smtputf8", "keyword"),
    [
        (False, False, False, False, "SMTP"),
        (False, True, False, False, "SMTP"),
        (True, False, False, False, "ESMTP"),
        (True, True, False, False, "ESMTPS"),
        (True, False, True, False, "ESMTPA"),
        (True, True, True, False, "ESMTPSA"),
        # Who has logged in has shown to know more than HELO.
        (False, True, True, False, "ESMTPSA"),
        (True, False, False, True, "UTF8SMTP"),
        (True, True, True, True, "UTF8SMTPSA"),
    ],
)
def test_keywords(extended: bool, tls: bool, login: bool, smtputf8: bool, keyword: str) -> None:
    assert transmission(extended=extended, tls=tls, login=login, smtputf8=smtputf8) == keyword
