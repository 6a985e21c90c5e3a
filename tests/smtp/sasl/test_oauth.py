"""XOAUTH2 and OAUTHBEARER as octets: what the specifications print, what is left out, what is slipped in."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailroot.smtp.sasl.base import SaslError
from mailroot.smtp.sasl.oauth import (
    OAUTHBEARER,
    XOAUTH2,
    Bearer,
    Failure,
    OAuthBearer,
    XOAuth2,
    read_failure,
    read_oauthbearer,
    read_xoauth2,
    write_failure,
    write_oauthbearer,
    write_xoauth2,
)

pytestmark = pytest.mark.quick

TOKEN = "vF9dft4qmTc2Nvb3RlckBhdHRhdmlzdGEuY29tCg=="
NAMES = st.text(st.characters(exclude_categories=("Cc", "Cs")), min_size=1)
TOKENS = st.from_regex(r"[A-Za-z0-9\-._~+/]{1,200}={0,2}", fullmatch=True)


def test_xoauth2_as_google_prints_it() -> None:
    octets = b"user=someuser@example.com\x01auth=Bearer ya29.vF9dft4qmTc2Nvb3RlckBhdHRhdmlzdGEuY29tCg\x01\x01"
    assert read_xoauth2(octets) == Bearer("someuser@example.com", "ya29.vF9dft4qmTc2Nvb3RlckBhdHRhdmlzdGEuY29tCg")
    assert write_xoauth2("someuser@example.com", "ya29.vF9dft4qmTc2Nvb3RlckBhdHRhdmlzdGEuY29tCg") == octets


def test_oauthbearer_as_the_rfc_prints_it() -> None:
    # RFC 7628 §4.1
    octets = f"n,a=user@example.com,\x01host=server.example.com\x01port=143\x01auth=Bearer {TOKEN}\x01\x01".encode()
    assert read_oauthbearer(octets) == Bearer("user@example.com", TOKEN)
    assert write_oauthbearer("user@example.com", TOKEN, "server.example.com", 143) == octets


@given(NAMES, TOKENS)
def test_what_one_side_writes_the_other_reads(name: str, token: str) -> None:
    assert read_xoauth2(write_xoauth2(name, token)) == Bearer(name, token)
    assert read_oauthbearer(write_oauthbearer(name, token)) == Bearer(name, token)
    assert read_oauthbearer(write_oauthbearer(name, token, "relay.example", 587)) == Bearer(name, token)


def test_names_are_coded_in_the_gs2_header() -> None:
    # RFC 5801 §4
    octets = write_oauthbearer("a,b=c", "t")
    assert octets.startswith(b"n,a=a=2Cb=3Dc,\x01")
    assert read_oauthbearer(octets).user == "a,b=c"


def test_oauthbearer_may_leave_the_name_to_the_token_and_may_ask_what_would_do() -> None:
    assert read_oauthbearer(b"n,,\x01auth=Bearer abc\x01\x01") == Bearer("", "abc")
    assert read_oauthbearer(b"y,,\x01auth=bearer abc\x01\x01") == Bearer("", "abc")
    assert read_oauthbearer(b"n,a=me,\x01auth=\x01\x01") == Bearer("me", "")  # RFC 7628 §4.3


@pytest.mark.parametrize(
    "octets",
    [
        b"",
        b"\x01",
        b"user=a\x01auth=Bearer t",
        b"user=a\x01auth=Bearer t\x01",
        b"auth=Bearer t\x01\x01",
        b"user=\x01auth=Bearer t\x01\x01",
        b"user=a\x01\x01",
        b"user=a\x01auth=\x01\x01",
        b"user=a\x01auth=Bearer \x01\x01",
        b"user=a\x01auth=Basic dTpw\x01\x01",
        b"user=a\x01auth=Bearer two words\x01\x01",
        b"user=a\x01auth=Bearer t\r\nX: y\x01\x01",
        b"user=a\x01user=b\x01auth=Bearer t\x01\x01",
        b"user=a\x01auth=Bearer t\x01auth=Bearer u\x01\x01",
        b"user=a\0b\x01auth=Bearer t\x01\x01",
        b"user=\xff\x01auth=Bearer t\x01\x01",
        b"user=a\x01auth=Bearer t\x01\x01\x01\x01",
        b"user=a auth=Bearer t",
        b"n,a=a,\x01auth=Bearer t\x01\x01",
    ],
)
def test_what_is_not_xoauth2(octets: bytes) -> None:
    with pytest.raises(SaslError):
        read_xoauth2(octets)


@pytest.mark.parametrize(
    "octets",
    [
        b"",
        b"\x01",
        b"n,,",
        b"n,,\x01\x01",
        b"n,a=a\x01auth=Bearer t\x01\x01",
        b"n\x01auth=Bearer t\x01\x01",
        b"F,n,,\x01auth=Bearer t\x01\x01",
        b"p=tls-unique,,\x01auth=Bearer t\x01\x01",
        b"x,,\x01auth=Bearer t\x01\x01",
        b"n,b=a,\x01auth=Bearer t\x01\x01",
        b"n,a=a,b,\x01auth=Bearer t\x01\x01",
        b"n,a=a=,\x01auth=Bearer t\x01\x01",
        b"n,a=a=2D,\x01auth=Bearer t\x01\x01",
        b"n,a=\xff,\x01auth=Bearer t\x01\x01",
        b"n,,\x01auth=Bearer t\x01",
        b"n,,\x01host=a\x01\x01",
        b"n,,\x01=a\x01auth=Bearer t\x01\x01",
        b"n,,\x01nothing\x01auth=Bearer t\x01\x01",
        b"user=a\x01auth=Bearer t\x01\x01",
    ],
)
def test_what_is_not_oauthbearer(octets: bytes) -> None:
    with pytest.raises(SaslError):
        read_oauthbearer(octets)


@given(st.binary(max_size=200))
def test_any_octets_are_read_or_refused(octets: bytes) -> None:
    for read in (read_xoauth2, read_oauthbearer):
        for candidate in (
            octets,
            b"n,a=" + octets + b",\x01auth=Bearer t\x01\x01",
            b"user=" + octets + b"\x01\x01",
        ):
            try:
                assert read(candidate).token is not None
            except SaslError as error:
                assert error.__cause__ is None


def test_nothing_shows_the_token() -> None:
    assert "secret-token" not in repr(Bearer("ann", "secret-token"))
    assert "secret-token" not in repr(XOAuth2("ann", "secret-token"))
    assert "secret-token" not in repr(OAuthBearer("ann", "secret-token"))
    with pytest.raises(SaslError) as caught:
        read_xoauth2(b"user=ann\x01auth=Bearer secret-token!\x01\x01")
    assert "secret-token" not in f"{caught.value!r}{caught.value.__context__!r}"
    with pytest.raises(SaslError) as caught:
        read_xoauth2(b"user=ann\xff\x01auth=Bearer secret-token\x01\x01")
    assert caught.value.__suppress_context__


def test_a_refusal_says_why_in_each_mechanisms_own_form() -> None:
    failure = Failure("401", "bearer", "SMTP.Send", "https://login.example/.well-known/openid-configuration")
    assert json.loads(write_failure(XOAUTH2, failure)) == {
        "status": "401",
        "schemes": "bearer",
        "scope": "SMTP.Send",
    }
    # RFC 7628 §3.2.2
    assert json.loads(write_failure(OAUTHBEARER, failure)) == {
        "status": "401",
        "scope": "SMTP.Send",
        "openid-configuration": "https://login.example/.well-known/openid-configuration",
    }
    assert json.loads(write_failure(OAUTHBEARER, Failure("invalid_token"))) == {"status": "invalid_token"}


def test_a_client_answers_a_refusal_and_remembers_why() -> None:
    google = b'{"status":"400","schemes":"Bearer","scope":"https://mail.google.com/"}'
    client = XOAuth2("ann@example.com", "abc")
    assert client.respond(b"") == client.initial() == write_xoauth2("ann@example.com", "abc")
    assert client.failure is None
    assert client.respond(google) == b""
    assert client.failure == Failure("400", "Bearer", "https://mail.google.com/")

    bearer = OAuthBearer("ann@example.com", "abc", host="relay.example", port=587)
    assert bearer.respond(b"") == bearer.initial()
    assert bearer.respond(b'{"status":"invalid_token"}') == b"\x01"
    assert bearer.failure == Failure("invalid_token")


def test_the_token_is_not_sent_again_whatever_a_server_asks() -> None:
    for client in (XOAuth2("ann", "abc"), OAuthBearer("ann", "abc")):
        client.initial()
        for challenge in (b"VXNlcm5hbWU6", b"token please", b"[]", b"{}", b"\xff", b"9" * 5000, b"[" * 4000):
            assert b"abc" not in client.respond(challenge)


@pytest.mark.parametrize("challenge", [b"", b"[]", b"1", b"nonsense", b"\xff\xfe", b"[" * 4000, b'"' + b"a" * 5000])
def test_what_is_not_a_refusal(challenge: bytes) -> None:
    assert read_failure(challenge) is None
