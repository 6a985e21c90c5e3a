"""Passwords: which mechanism for which server, and what is never sent."""

import hmac
from dataclasses import replace

import pytest

from mailroot.deliver.credentials.base import Ending, LoginImpossible, LoginServer
from mailroot.deliver.credentials.password import UNDER_TLS, PasswordCredentials, PasswordLogin
from mailroot.mail.address import Address
from mailroot.smtp.sasl.cram_md5 import CramMd5

pytestmark = pytest.mark.quick

ANN = Address("ann", "example.com")
LOGIN = PasswordLogin("relay@example.com", "sécret: 100 %")
BINDINGS = (("tls-server-end-point", b"x" * 32),)


def server(*mechanisms: str, secured: bool = True, bindings: tuple[tuple[str, bytes], ...] = ()) -> LoginServer:
    return LoginServer("smtp.example.com", 587, mechanisms, secured, bindings)


async def chosen(where: LoginServer, settings: PasswordLogin = LOGIN) -> str:
    return (await PasswordCredentials(settings).mechanism(where, ANN)).name


def test_cram_md5_as_the_rfc_prints_it() -> None:
    # RFC 2195 §2
    mechanism = CramMd5("tim", "tanstaaftanstaaf")
    assert mechanism.initial() is None
    answer = mechanism.respond(b"<1896.697170952@postoffice.reston.mci.net>")
    assert answer == b"tim b913a602c7eda7a495b4e6e7334d3890"


@pytest.mark.parametrize(
    ("offered", "taken"),
    [
        (UNDER_TLS, "SCRAM-SHA-256"),
        (("LOGIN", "PLAIN"), "PLAIN"),
        (("LOGIN", "XOAUTH2"), "LOGIN"),
        (("CRAM-MD5", "LOGIN"), "LOGIN"),
        (("CRAM-MD5", "DIGEST-MD5"), "CRAM-MD5"),
        (("SCRAM-SHA-256-PLUS", "PLAIN"), "PLAIN"),
    ],
)
async def test_the_best_that_is_offered(offered: tuple[str, ...], taken: str) -> None:
    assert await chosen(server(*offered)) == taken


async def test_bound_to_the_connection_where_that_can_be() -> None:
    credentials = PasswordCredentials(LOGIN)
    bound = await credentials.mechanism(server(*UNDER_TLS, bindings=BINDINGS), ANN)
    assert bound.name == "SCRAM-SHA-256-PLUS"
    assert (bound.initial() or b"").startswith(b"p=tls-server-end-point,,n=")
    could = await credentials.mechanism(server("SCRAM-SHA-256", bindings=BINDINGS), ANN)
    assert (could.initial() or b"").startswith(b"y,,")
    other = await credentials.mechanism(server("SCRAM-SHA-256"), ANN)
    assert (other.initial() or b"").startswith(b"n,,")
    assert other.initial() != could.initial()


async def test_in_the_clear_only_where_it_is_allowed_and_then_rather_hidden() -> None:
    with pytest.raises(LoginImpossible, match="in the clear"):
        await chosen(server("PLAIN", "SCRAM-SHA-256", secured=False))
    allowed = replace(LOGIN, in_the_clear=True)
    assert await chosen(server("PLAIN", "LOGIN", "CRAM-MD5", secured=False), allowed) == "CRAM-MD5"
    assert await chosen(server("PLAIN", "LOGIN", secured=False), allowed) == "PLAIN"


async def test_only_what_the_settings_say() -> None:
    settings = replace(LOGIN, mechanisms=("login", "PLAIN"))
    assert await chosen(server(*UNDER_TLS), settings) == "LOGIN"
    with pytest.raises(LoginImpossible, match="no login by LOGIN, PLAIN, only by SCRAM-SHA-256") as raised:
        await chosen(server("SCRAM-SHA-256"), settings)
    assert not raised.value.mailbox
    with pytest.raises(LoginImpossible, match="none at all"):
        await chosen(server())


async def test_a_password_that_scram_forbids_goes_another_way() -> None:
    settings = replace(LOGIN, password="tab\there")
    assert await chosen(server(*UNDER_TLS), settings) == "PLAIN"


def test_settings_that_cannot_work() -> None:
    for settings, text in {
        replace(LOGIN, username=""): "both needed",
        replace(LOGIN, password=""): "both needed",
        replace(LOGIN, password="a\0b"): "NUL",
        replace(LOGIN, mechanisms=("PLAINER",)): "'PLAINER' is not known",
        replace(LOGIN, secret_ends="May 2027"): "secret_ends: 'May 2027' is not a day",
    }.items():
        with pytest.raises(ValueError, match=text):
            PasswordCredentials(settings)


def test_the_password_is_taken_out_of_what_a_server_says() -> None:
    credentials = PasswordCredentials(LOGIN)
    mechanism = CramMd5(LOGIN.username, LOGIN.password)
    from base64 import b64encode
    from urllib.parse import quote, quote_plus

    plain = b64encode(f"\0{LOGIN.username}\0{LOGIN.password}".encode()).decode()
    coded = b64encode(LOGIN.password.encode()).decode()
    forms = (LOGIN.password, plain, coded, coded.rstrip("="), quote(LOGIN.password), quote_plus(LOGIN.password))
    said = credentials.without_secrets("no: " + " / ".join(forms))
    assert said.count("[secret]") == len(forms)
    for text in (said, repr(LOGIN), repr(credentials), repr(mechanism)):
        assert not any(form in text for form in forms)
    # A short one would be found in any text.
    short = PasswordCredentials(replace(LOGIN, password="the"))
    assert short.without_secrets("over the top") == "over the top"


async def test_who_is_logged_in_and_until_when() -> None:
    credentials = PasswordCredentials(replace(LOGIN, secret_ends="2027-05-01"))
    assert credentials.account(ANN) == credentials.account(None) == "relay@example.com"
    assert credentials.endings() == (Ending("password of relay@example.com", 1_809_129_600.0),)
    credentials.forgive()
    await credentials.close()


async def test_what_cram_md5_proves() -> None:
    mechanism = await PasswordCredentials(LOGIN).mechanism(server("CRAM-MD5"), None)
    digest = hmac.new(LOGIN.password.encode(), b"<1@x>", "md5").hexdigest()
    assert mechanism.respond(b"<1@x>").decode() == f"relay@example.com {digest}"
