"""The attributes of XCLIENT: decoded, checked, and nothing in them that could do harm in a log or a header."""

import pytest

from mailroot.smtp.errors import ProtocolError
from mailroot.smtp.xclient import NAMES, read_attributes

pytestmark = pytest.mark.quick


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("NAME=spike.example.org ADDR=192.0.2.2", {"NAME": "spike.example.org", "ADDR": "192.0.2.2"}),
        ("addr=IPV6:2001:DB8::1", {"ADDR": "2001:db8::1"}),
        ("ADDR=ipv6:::ffff:192.0.2.1", {"ADDR": "192.0.2.1"}),
        ("ADDR=[unavailable] NAME=[TEMPUNAVAIL]", {"ADDR": "[UNAVAILABLE]", "NAME": "[TEMPUNAVAIL]"}),
        ("PROTO=esmtp PORT=0 DESTPORT=65535", {"PROTO": "ESMTP", "PORT": "0", "DESTPORT": "65535"}),
        ("HELO=[192.0.2.1] LOGIN=CORP\\user", {"HELO": "[192.0.2.1]", "LOGIN": "CORP\\user"}),
        ("LOGIN=two+20words+2B+3D", {"LOGIN": "two words+="}),
        ("LOGIN=gr+C3+A5", {"LOGIN": "grå"}),
        ("LOGIN=grå", {"LOGIN": "grå"}),
        ("DESTADDR=198.51.100.7  HELO=x", {"DESTADDR": "198.51.100.7", "HELO": "x"}),
        ("NAME=a_b.example.", {"NAME": "a_b.example."}),
    ],
)
def test_attributes(argument: str, expected: dict[str, str]) -> None:
    assert read_attributes(argument) == expected


@pytest.mark.parametrize(
    "argument",
    [
        "",
        " ",
        "NAME",
        "NAME=",
        "=x",
        "FOO=x",
        "NAME=a NAME=b",
        "name=a NAME=b",
        "ADDR=192.0.2.300",
        "ADDR=2001:db8::1",
        "ADDR=IPV6:192.0.2.1",
        "ADDR=IPV6:fe80::1%eth0",
        "ADDR=localhost",
        "PORT=65536",
        "PORT=-1",
        "PORT=x",
        "PORT=000000",
        "PORT=\u0661",
        "PROTO=LMTP",
        "NAME=a+20b",
        "NAME=grå",
        "HELO=a+0D+0Ab",
        "HELO=a+00",
        "LOGIN=a+7F",
        "LOGIN=a+1B[31m",
        "LOGIN=+E2+80+AE",
        "LOGIN=+FF",
        "LOGIN=+c3",
        "LOGIN=a+",
        "LOGIN=a=b",
        "HELO=" + "x" * 256,
        "UNAVAILABLE=[UNAVAILABLE]",
    ],
)
def test_bad_attributes(argument: str) -> None:
    with pytest.raises(ProtocolError) as caught:
        read_attributes(argument)
    assert (caught.value.reply.code, caught.value.reply.status) == (501, "5.5.4")
    assert not caught.value.fatal


def test_what_is_offered() -> None:
    assert NAMES == ("NAME", "ADDR", "PORT", "PROTO", "HELO", "LOGIN", "DESTADDR", "DESTPORT")
