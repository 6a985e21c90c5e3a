"""Listeners, logins and permissions: what is allowed but hardly meant is warned of, and what is in order is not."""

import os
import time
from pathlib import Path

import pytest

from mailroot.config.load import ConfigurationError, load
from mailroot.policy.auth.account_file import Account, changing_accounts
from rig.door import certificate_pem

pytestmark = pytest.mark.quick


def listener(address: str, *settings: str) -> str:
    return "\n".join(["[[general.listeners]]", f'address = "{address}"', *settings, ""])


def permission(**settings: object) -> str:
    lines = [f"{key} = {value!r}" for key, value in settings.items()]
    return "\n".join(["[[access.permissions]]", *lines, ""])


LDAP = '[access.authentication.ldap]\nurl = "ldaps://dc.example.com"\nbind_as = "{user}@corp.example.com"\n'
TLS = '[[general.certificates]]\nfile = "relay.pem"\n'
FOR_ALL = '[access.relay]\nmode = "all except the list"\n'
NO_LOGIN = "wants a login, and there is none that could work"


def warnings(folder: Path, text: str) -> tuple[str, ...]:
    file = folder / "mailroot.toml"
    file.write_text(text, encoding="utf-8")
    return load(file, {}).warnings


def hold_accounts(folder: Path) -> None:
    with changing_accounts(folder / "accounts.json") as accounts:
        accounts.put(Account("jo", HASH))


HASH = "$argon2id$v=19$m=19456,t=2,p=1$MDEyMzQ1Njc4OWFiY2RlZg$MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY"


@pytest.mark.parametrize(
    ("text", "warned"),
    [
        (
            f'[general]\nlisten = ["*:25"]\n{FOR_ALL}list = ["10.0.0.0/8"]',
            "all but the list who can connect may relay to everywhere without a login: an open relay",
        ),
        (f"{listener('*:26')}{FOR_ALL}list = []", "everybody who can connect may relay to everywhere without"),
        (listener("*:587", 'min_tls = "1.0"'), 'TLS 1.0 is not safe any more; better would be "1.2"'),
        (listener("*:587", 'tls = "off"', 'min_tls = "1.3"'), 'has no effect with tls = "off"'),
        ('[access]\nproxies = ["10.0.0.2"]', "no listener has proxy_protocol = true"),
        ('[access]\nxclient = ["0.0.0.0/0"]', "lets everybody who can connect say who they are"),
        (listener("*:587", 'logins = ["oauth"]'), "'oauth' is not offered: it is not set up"),
        (listener("*:587", "require_login = true"), f"'*:587' {NO_LOGIN}"),
        (
            '[general]\nlisten = ["127.0.0.1:25"]\n[access.authentication]\nanonymous = false',
            "'127.0.0.1:25' wants a login (anonymous = false), and there is none that could work",
        ),
        (listener("*:587", 'profile = "strict"', "require_login = true") + LDAP, f"'*:587' {NO_LOGIN}"),
        (
            listener("*:587", "require_login = true") + LDAP,
            "'*:587' wants a login, and passwords are taken with TLS only, except from this computer itself",
        ),
        (
            listener("*:26", 'profile = "old devices"') + LDAP,
            "'*:26' takes passwords without TLS: everybody on the way can read them",
        ),
        (LDAP.replace("ldaps", "ldap") + "starttls = false", "passwords go to the directory in the clear"),
        (f"{LDAP}[access.authentication]\nbasic = false", "has no effect: it is for Basic authentication"),
        ('[access.authentication.integrated]\nkeytab = "mailroot.keytab"', "has no effect"),
        (
            permission(accounts=["crm"], senders=["example.com"], rewrite_to="a@example.com"),
            'has no effect; right would be, beside it, otherwise = "rewrite"',
        ),
        (permission(accounts=["crm"], otherwise="refuse"), "has no effect: the senders of this entry are 'any'"),
        (
            permission(networks=["10.0.0.0/8"], senders=["own address"]),
            "'own address' is nobody's who has not logged in",
        ),
    ],
)
def test_what_is_hardly_meant_is_warned_of(tmp_path: Path, text: str, warned: str) -> None:
    (warning,) = warnings(tmp_path, text)
    assert warned in warning


@pytest.mark.parametrize(
    "text",
    [
        f'[general]\nlisten = ["*:25"]\n{FOR_ALL}[access.authentication]\nanonymous = false\n{LDAP}{TLS}',
        f"{FOR_ALL}{listener('*:587', 'require_login = true')}{LDAP}{TLS}",
        f'{FOR_ALL}list = ["0.0.0.0/0", "::/0"]\n{listener("*:26")}',
        listener("*:26", 'profile = "old devices"'),
        listener("*:26", 'profile = "old devices"', 'min_tls = "1.0"'),
        listener("*:26", 'profile = "old devices"', "logins = []") + LDAP,
        listener("127.0.0.1:26", 'profile = "old devices"') + LDAP,
        listener("127.0.0.1:26", "require_login = true") + LDAP,
        listener("*:26", "proxy_protocol = true") + '[access]\nproxies = ["10.0.0.2", "2001:db8::/32"]',
        permission(accounts=["crm"]) + permission(accounts=["*"], senders=["own address"]),
        permission(accounts=["*"], networks=["10.0.0.0/8"]) + permission(accounts=["*"]),
        permission(networks=["10.1.0.0/16"]) + permission(networks=["10.0.0.0/8"]),
        permission(accounts=["a", "b"]) + permission(accounts=["b", "c"]),
        permission(networks=["10.0.0.0/8"], accounts=["a"]) + permission(networks=["10.0.0.0/8"]),
    ],
)
def test_what_is_in_order_is_not(tmp_path: Path, text: str) -> None:
    (tmp_path / "relay.pem").write_bytes(certificate_pem())
    assert warnings(tmp_path, text) == ()


@pytest.mark.parametrize(
    ("earlier", "later"),
    [
        ({"accounts": ["*"]}, {"accounts": ["crm"]}),
        ({"accounts": ["*"]}, {"accounts": ["crm"], "networks": ["10.0.0.0/8"]}),
        ({"accounts": ["CRM", "erp"]}, {"accounts": ["crm"]}),
        ({"networks": ["10.0.0.0/8"]}, {"networks": ["10.1.0.0/16", "10.2.3.4"]}),
        ({"networks": ["10.0.0.0/8", "::1"]}, {"accounts": ["*"], "networks": ["::1"]}),
        ({"networks": ["example.com"]}, {"networks": ["printers.example.com"]}),
    ],
)
def test_an_entry_whose_turn_never_comes_is_warned_of(
    tmp_path: Path, earlier: dict[str, object], later: dict[str, object]
) -> None:
    (warning,) = warnings(tmp_path, permission(accounts=["x"]) + permission(**earlier) + permission(**later))
    assert "[[access.permissions]]: entry 3 is never reached: entry 2 before it fits all clients" in warning


def test_accounts_make_logins_possible_but_only_those_that_are_enabled(tmp_path: Path) -> None:
    text = listener("127.0.0.1:587", "require_login = true")
    assert NO_LOGIN in warnings(tmp_path, text)[0]
    hold_accounts(tmp_path)
    assert warnings(tmp_path, text) == ()
    with changing_accounts(tmp_path / "accounts.json") as accounts:
        accounts.put(Account("jo", HASH, disabled=True))
    assert NO_LOGIN in warnings(tmp_path, text)[0]


def test_an_address_that_is_listened_on_by_default_is_told(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigurationError, match=r"'\*:25' is taken by '127.0.0.1:25' of .*right would be listen = \[\]"
    ):
        warnings(tmp_path, listener("*:25"))
    assert warnings(tmp_path, "[general]\nlisten = []\n" + listener("*:25")) == ()


def test_a_certificate_that_has_ended_is_warned_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "relay.pem").write_bytes(certificate_pem())
    assert warnings(tmp_path, TLS) == ()
    later = time.time() + 31 * 86400
    monkeypatch.setattr(time, "time", lambda: later)
    (warning,) = warnings(tmp_path, TLS)
    assert "the certificate has ended on 20" in warning


def test_a_key_that_is_not_the_certificates_is_told_where_it_stands(tmp_path: Path) -> None:
    (tmp_path / "relay.pem").write_bytes(certificate_pem())
    (tmp_path / "relay.key").write_text("nothing")
    with pytest.raises(ConfigurationError, match=r"\[\[general.certificates\]\] (key|file): .*no private key"):
        warnings(tmp_path, TLS + 'key = "relay.key"')


@pytest.mark.skipif(os.name == "nt", reason="Windows has its accounts and its keys itself")
def test_what_only_windows_or_only_others_have(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="Windows accounts are on Windows only"):
        warnings(tmp_path, "[access.authentication.windows]")
    with pytest.raises(ConfigurationError, match=r"keytab: .*mailroot\.keytab: cannot be read"):
        warnings(tmp_path, '[access.authentication.integrated]\nkerberos = true\nkeytab = "mailroot.keytab"')


def test_a_directory_and_windows_accounts_exclude_each_other(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="exclude each other"):
        warnings(tmp_path, f"{LDAP}[access.authentication.windows]")
