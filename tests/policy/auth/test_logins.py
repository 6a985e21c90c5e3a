"""Which mechanisms a client is offered: by settings, listener, TLS, peer, and what somebody could use."""

from hashlib import sha256
from ipaddress import ip_address
from pathlib import Path

import pytest

from mailroot.clock import ManualClock
from mailroot.policy.auth.account_file import Account, AccountsError, changing_accounts
from mailroot.policy.auth.base import Challenge, Channel, Granted
from mailroot.policy.auth.exchanges import ExternalExchange, LoginExchange, PlainExchange, ScramExchange
from mailroot.policy.auth.logins import Logins
from mailroot.policy.auth.passwords import NOBODYS_HASH
from mailroot.policy.auth.settings import (
    AuthenticationSettings,
    ClientCertificate,
    LdapSettings,
    OAuthSettings,
    WindowsSettings,
)
from mailroot.policy.listeners import ListenerRules, LoginKind, RequireTls
from mailroot.smtp.answers import AUTH_NEEDS_TLS, AUTH_UNKNOWN
from mailroot.smtp.sasl.scram import Verifier

pytestmark = pytest.mark.quick

RULES = ListenerRules()
FQDN = "relay.example.com"
AWAY, HERE, HERE6 = map(ip_address, ("192.0.2.1", "127.0.0.1", "::1"))
CLEAR = Channel(AWAY, FQDN)
LOOPBACK = Channel(HERE, FQDN)
SECURE = Channel(AWAY, FQDN, tls=True)
BOUND = Channel(AWAY, FQDN, tls=True, bindings=(("tls-unique", b"x"),))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "accounts.json"
    with changing_accounts(path) as accounts:
        accounts.put(Account("Ann", NOBODYS_HASH, Verifier.of("x", accounts.salt("ann"), 4096)))
        accounts.put(Account("gone", NOBODYS_HASH, disabled=True))
    return path


def logins(settings: AuthenticationSettings) -> Logins:
    return Logins(settings, ManualClock(), fqdn=FQDN)


def rules(require: RequireTls = RequireTls.PASSWORDS, *kinds: LoginKind) -> ListenerRules:
    return ListenerRules(require_tls=require, logins=frozenset(kinds) if kinds else None)


ALL = ("SCRAM-SHA-256-PLUS", "SCRAM-SHA-256", "LOGIN", "PLAIN")


@pytest.mark.parametrize(
    ("channel", "require", "offered"),
    [
        (CLEAR, RequireTls.NO, ALL[1:]),
        (CLEAR, RequireTls.PASSWORDS, ("SCRAM-SHA-256",)),
        (LOOPBACK, RequireTls.PASSWORDS, ALL[1:]),
        (Channel(HERE6, FQDN), RequireTls.PASSWORDS, ALL[1:]),
        (CLEAR, RequireTls.LOGIN, ()),
        (LOOPBACK, RequireTls.LOGIN, ()),
        (LOOPBACK, RequireTls.MAIL, ()),
        (SECURE, RequireTls.MAIL, ALL[1:]),
        (SECURE, RequireTls.PASSWORDS, ALL[1:]),
        (BOUND, RequireTls.NO, ALL),
    ],
)
def test_by_tls_and_peer(path: Path, channel: Channel, require: RequireTls, offered: tuple[str, ...]) -> None:
    assert logins(AuthenticationSettings(accounts=path)).offered(channel, rules(require)) == offered


def test_by_listener(path: Path) -> None:
    ours = logins(AuthenticationSettings(accounts=path))
    for kinds, offered in (
        ((LoginKind.BASIC,), ("LOGIN", "PLAIN")),
        ((LoginKind.SCRAM,), ALL[:2]),
        ((LoginKind.INTEGRATED, LoginKind.OAUTH, LoginKind.CERTIFICATE), ()),
    ):
        assert ours.offered(BOUND, rules(RequireTls.NO, *kinds)) == offered
    assert ours.offered(BOUND, ListenerRules(logins=frozenset())) == ()


def test_by_settings(path: Path) -> None:
    assert logins(AuthenticationSettings(accounts=path, basic=False)).offered(BOUND, RULES) == ALL[:2]
    assert logins(AuthenticationSettings(accounts=path, scram=False)).offered(BOUND, RULES) == ALL[2:]


def test_what_nobody_could_use_is_not_offered(tmp_path: Path) -> None:
    path = tmp_path / "new.json"
    ours = logins(AuthenticationSettings(accounts=path))
    assert ours.offered(BOUND, RULES) == ()
    with changing_accounts(path) as accounts:
        accounts.put(Account("gone", NOBODYS_HASH, disabled=True))
    assert ours.offered(BOUND, RULES) == ()
    with changing_accounts(path) as accounts:
        accounts.put(Account("eve", NOBODYS_HASH))
    assert ours.offered(BOUND, RULES) == ("LOGIN", "PLAIN")


def test_a_directory_has_accounts(tmp_path: Path) -> None:
    ldap = LdapSettings("ldaps://dc.example.com", "uid={user},dc=example")
    ours = logins(AuthenticationSettings(accounts=tmp_path / "none.json", ldap=ldap))
    assert ours.offered(SECURE, RULES) == ("LOGIN", "PLAIN")


async def test_tokens(tmp_path: Path) -> None:
    oauth = OAuthSettings("https://login.example.com", "api://mailroot")
    ours = logins(AuthenticationSettings(accounts=tmp_path / "none.json", oauth=oauth))
    assert ours.offered(SECURE, RULES) == ("OAUTHBEARER", "XOAUTH2")
    assert ours.offered(CLEAR, RULES) == ()
    assert ours.begin("XOAUTH2", CLEAR, RULES) is AUTH_NEEDS_TLS
    for mechanism in ("XOAUTH2", "OAUTHBEARER"):
        begun = ours.begin(mechanism, SECURE, RULES)
        assert hasattr(begun, "step")
    await ours.close()


def test_begin(path: Path) -> None:
    ours = logins(AuthenticationSettings(accounts=path))
    assert isinstance(ours.begin("PLAIN", SECURE, RULES), PlainExchange)
    assert isinstance(ours.begin("LOGIN", LOOPBACK, RULES), LoginExchange)
    assert isinstance(ours.begin("SCRAM-SHA-256", CLEAR, RULES), ScramExchange)
    assert isinstance(ours.begin("SCRAM-SHA-256-PLUS", BOUND, RULES), ScramExchange)


def test_scram_plus_under_tls_1_3_is_for_who_asks_for_it(path: Path) -> None:
    ours = logins(AuthenticationSettings(accounts=path))
    channel = Channel(AWAY, FQDN, tls=True, bindings=(("tls-server-end-point", b"x"),))
    assert ours.offered(channel, RULES) == ALL[1:]
    assert isinstance(ours.begin("SCRAM-SHA-256-PLUS", channel, RULES), ScramExchange)


def test_begin_refuses_what_is_not_offered(path: Path) -> None:
    ours = logins(AuthenticationSettings(accounts=path))
    for mechanism in ("PLAIN", "LOGIN"):
        assert ours.begin(mechanism, CLEAR, RULES) is AUTH_NEEDS_TLS
        assert ours.begin(mechanism, CLEAR, rules(RequireTls.NO, LoginKind.SCRAM)) is AUTH_UNKNOWN
    assert ours.begin("SCRAM-SHA-256", LOOPBACK, rules(RequireTls.LOGIN)) is AUTH_NEEDS_TLS
    assert ours.begin("SCRAM-SHA-256-PLUS", SECURE, RULES) is AUTH_UNKNOWN
    for mechanism in ("CRAM-MD5", "", "EXTERNAL", "GSSAPI", "NTLM", "XOAUTH2", "plain"):
        assert ours.begin(mechanism, BOUND, RULES) is AUTH_UNKNOWN


def test_everything_offered_begins_and_nothing_else(path: Path) -> None:
    ours = logins(AuthenticationSettings(accounts=path))
    names = (*ALL, "EXTERNAL", "GSSAPI", "NTLM", "XOAUTH2", "OAUTHBEARER", "CRAM-MD5")
    for channel in (CLEAR, LOOPBACK, SECURE, BOUND):
        for require in RequireTls:
            offered = ours.offered(channel, rules(require))
            for name in names:
                begun = ours.begin(name, channel, rules(require))
                assert (begun not in (AUTH_UNKNOWN, AUTH_NEEDS_TLS)) == (name in offered)


async def test_the_downgrade_is_known_only_where_plus_is_offered(path: Path) -> None:
    ours = logins(AuthenticationSettings(accounts=path))
    first = b"y,,n=ann,r=nonce"
    begun = ours.begin("SCRAM-SHA-256", SECURE, RULES)
    assert isinstance(begun, ScramExchange)
    assert isinstance(await begun.step(first), Challenge)
    begun = ours.begin("SCRAM-SHA-256", BOUND, RULES)
    assert isinstance(begun, ScramExchange)
    assert not isinstance(await begun.step(first), Challenge)


async def test_a_client_certificate(path: Path, tmp_path: Path) -> None:
    der = b"a certificate that TLS has looked at"
    ca = tmp_path / "ca.pem"
    ca.write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    entries = tuple(
        ClientCertificate(account, fingerprint=sha256(der + account.encode()).hexdigest())
        for account in ("ANN", "printer7", "gone")
    )
    ours = logins(
        AuthenticationSettings(accounts=path, client_ca=ca, client_certificates=entries, basic=False, scram=False)
    )
    assert ours.wants_certificate
    assert ours.client_anchors() == (ca,)
    # By the name in the accounts file, where it has one; and not where it is disabled.
    assert ours.certificate_user(der + b"ANN") == "Ann"
    assert ours.certificate_user(der + b"printer7") == "printer7"
    assert ours.certificate_user(der + b"gone") is None
    assert ours.certificate_user(der) is None
    assert ours.certificate_user(None) is None
    channel = Channel(AWAY, FQDN, tls=True, certificate=der + b"printer7")
    assert ours.offered(channel, RULES) == ("EXTERNAL",)
    assert ours.offered(channel, rules(RequireTls.NO, LoginKind.BASIC)) == ()
    assert ours.offered(SECURE, RULES) == ()
    begun = ours.begin("EXTERNAL", channel, RULES)
    assert isinstance(begun, ExternalExchange)
    assert await begun.step(b"") == Granted("printer7")
    assert ours.begin("EXTERNAL", SECURE, RULES) is AUTH_UNKNOWN


def test_no_client_certificates(path: Path) -> None:
    ours = logins(AuthenticationSettings(accounts=path))
    assert not ours.wants_certificate
    assert ours.client_anchors() == ()


def test_what_cannot_work(path: Path) -> None:
    ldap = LdapSettings("ldaps://dc.example.com", "uid={user},dc=example")
    both = AuthenticationSettings(accounts=path, ldap=ldap, windows=WindowsSettings())
    with pytest.raises(ValueError, match="right would be one of the two"):
        logins(both)
    path.write_text("{")
    with pytest.raises(AccountsError):
        logins(AuthenticationSettings(accounts=path))


def test_a_broken_accounts_file_is_a_problem(path: Path) -> None:
    ours = logins(AuthenticationSettings(accounts=path))
    assert ours.problems == ()
    path.write_text("{")
    assert ours.offered(BOUND, RULES) == ALL
    (problem,) = ours.problems
    assert problem.startswith(str(path))


async def test_the_end(path: Path) -> None:
    ours = logins(AuthenticationSettings(accounts=path))
    await ours.close()
    await ours.close()
