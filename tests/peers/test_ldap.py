"""Passwords of Basic authentication checked by OpenLDAP's slapd: over TLS, by wrong names and wrong passwords."""

import contextlib
import os
import smtplib
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import pytest

from mailroot.policy.auth.base import Denied, Granted, Unavailable
from mailroot.policy.auth.ldap import Directory
from mailroot.policy.auth.settings import LdapSettings
from rig.relay import Relay, free_port
from rig.sink import Sink

pytestmark = [pytest.mark.peer, pytest.mark.needs("slapd")]

PEOPLE = "ou=people,dc=example,dc=com"

_CONFIGURATION = """\
include {top}/etc/ldap/schema/core.schema
include {top}/etc/ldap/schema/cosine.schema
include {top}/etc/ldap/schema/nis.schema
include {top}/etc/ldap/schema/inetorgperson.schema
modulepath {top}/usr/lib/ldap
moduleload back_mdb
moduleload memberof
pidfile {folder}/slapd.pid
TLSCertificateFile {certificate}
TLSCertificateKeyFile {key}
database mdb
suffix "dc=example,dc=com"
rootdn "cn=admin,dc=example,dc=com"
directory {folder}/data
access to attrs=userPassword by anonymous auth by * none
access to dn.base="cn=hidden,ou=groups,dc=example,dc=com" by * none
access to * by users read by anonymous none
{more}
"""

_ENTRIES = """\
dn: dc=example,dc=com
objectClass: dcObject
objectClass: organization
o: Example
dc: example

dn: ou=people,dc=example,dc=com
objectClass: organizationalUnit

dn: ou=groups,dc=example,dc=com
objectClass: organizationalUnit

dn: uid=ann,ou=people,dc=example,dc=com
objectClass: inetOrgPerson
cn: Ann
sn: Lee
userPassword: correct horse

dn: uid=bob,ou=people,dc=example,dc=com
objectClass: inetOrgPerson
cn: Bob
sn: Ray
userPassword: päßwörd
memberOf: cn=hidden,ou=groups,dc=example,dc=com

dn: uid=dave,ou=people,dc=example,dc=com
objectClass: inetOrgPerson
cn: Dave
sn: Not in the group
userPassword: staple

dn: uid=carol,ou=people,dc=example,dc=com
objectClass: inetOrgPerson
cn: Carol
sn: Without a password

dn: uid=o\\2c brien\\2c jr,ou=people,dc=example,dc=com
objectClass: inetOrgPerson
cn: O'Brien
sn: O'Brien
userPassword: comma

dn: cn=smtp,ou=groups,dc=example,dc=com
objectClass: groupOfNames
member: uid=ann,ou=people,dc=example,dc=com

dn: cn=unique,ou=groups,dc=example,dc=com
objectClass: groupOfUniqueNames
uniqueMember: uid=ann,ou=people,dc=example,dc=com

dn: cn=posix,ou=groups,dc=example,dc=com
objectClass: posixGroup
gidNumber: 100
memberUid: ann

dn: cn=hidden,ou=groups,dc=example,dc=com
objectClass: groupOfNames
member: uid=bob,ou=people,dc=example,dc=com
"""


@dataclass
class Slapd:
    """slapd with a configuration and a database of its own; `clear` and `secure` are its ports."""

    folder: Path
    clear: int
    secure: int
    ca: Path
    process: subprocess.Popen[bytes]

    @property
    def settings(self) -> LdapSettings:
        """By ldaps, as an administrator would write it."""
        return LdapSettings(f"ldaps://localhost:{self.secure}", f"uid={{user}},{PEOPLE}", ca=self.ca)

    @property
    def starttls(self) -> LdapSettings:
        return replace(self.settings, url=f"ldap://localhost:{self.clear}")


@pytest.fixture
def start_slapd(
    program: Callable[[str], str], tmp_path: Path, certificate: tuple[Path, Path]
) -> Iterator[Callable[..., Slapd]]:
    """Starts slapd: `start_slapd(further lines of slapd.conf)`. It ends with the test."""
    running: list[Slapd] = []

    def start(more: str = "") -> Slapd:
        top = Path(program("slapd")).parents[2]  # TOP/usr/sbin/slapd
        folder = tmp_path / f"slapd{len(running)}"
        (folder / "data").mkdir(parents=True)
        configuration = folder / "slapd.conf"
        configuration.write_text(
            _CONFIGURATION.format(top=top, folder=folder, certificate=certificate[0], key=certificate[1], more=more)
        )
        slapd, entries = str(top / "usr" / "sbin" / "slapd"), folder / "entries.ldif"
        libraries = os.environ | {"LD_LIBRARY_PATH": str(next(top.glob("usr/lib/*/libslapi-*.so.*")).parent)}
        entries.write_text(_ENTRIES)
        added = subprocess.run(
            [slapd, "-T", "add", "-f", str(configuration), "-l", str(entries)],
            env=libraries,
            capture_output=True,
            timeout=60,
        )
        assert added.returncode == 0, added.stderr.decode()
        clear, secure = free_port(), free_port()
        addresses = f"ldap://localhost:{clear} ldaps://localhost:{secure}"
        log = folder / "slapd.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [slapd, "-d", "none", "-h", addresses, "-f", str(configuration)],
                env=libraries,
                stdout=output,
                stderr=output,
            )
        running.append(Slapd(folder, clear, secure, certificate[0], process))
        end = time.monotonic() + 30
        while process.poll() is None and time.monotonic() < end:
            with contextlib.suppress(OSError), socket.create_connection(("localhost", secure), 2):
                return running[-1]
            time.sleep(0.05)  # another process: there is nothing else to wait on
        raise AssertionError(f"slapd did not start: {log.read_text(errors='replace')[-3000:]}")

    yield start
    for slapd in running:
        slapd.process.kill()
        slapd.process.wait(20)


Start = Callable[..., Slapd]


async def test_right_and_wrong_passwords(start_slapd: Start) -> None:
    slapd = start_slapd()
    for settings in (slapd.settings, slapd.starttls):
        ldap = Directory(settings)
        assert await ldap.check("ann", "correct horse") == Granted("ann")
        assert await ldap.check("ANN", "correct horse") == Granted("ANN")
        assert await ldap.check("bob", "päßwörd") == Granted("bob")
        assert await ldap.check("o, brien, jr", "comma") == Granted("o, brien, jr")
        for user, password in (
            ("ann", "correct horsf"),
            ("ann", "correct horse "),
            ("ann", "Correct horse"),
            ("ann", ""),
            ("ann", "\0"),
            ("ann", "x" * 10_000),
            ("bob", "correct horse"),
            ("carol", "anything"),
            ("nobody", "correct horse"),
            ("", "correct horse"),
        ):
            verdict = await ldap.check(user, password)
            assert isinstance(verdict, Denied)
            assert verdict.user == user


async def test_known_and_unknown_names_are_refused_in_the_same_words(start_slapd: Start) -> None:
    ldap = Directory(start_slapd().settings)
    assert await ldap.check("ann", "wrong") == Denied("invalidCredentials", "ann")
    assert await ldap.check("nobody", "wrong") == Denied("invalidCredentials", "nobody")


@pytest.mark.parametrize(
    "user",
    [
        "ann,ou=people,dc=example,dc=com",
        f"ann,{PEOPLE}\0",
        "x+uid=ann",
        "*",
        "a*",
        "ann)(uid=*",
        "\\61nn",
        "#0403616e6e",
        " ann",
        "ann ",
        '"ann"',
        "an\u00adn",
        "ann\u200b",
    ],
)
async def test_no_name_is_another_way_to_say_ann(start_slapd: Start, user: str) -> None:
    assert isinstance(await Directory(start_slapd().settings).check(user, "correct horse"), Denied)


async def test_groups_of_every_kind(start_slapd: Start) -> None:
    slapd = start_slapd()
    for name in ("smtp", "unique", "posix"):
        group = f"cn={name},ou=groups,dc=example,dc=com"
        ldap = Directory(replace(slapd.settings, group=group))
        assert await ldap.check("ann", "correct horse") == Granted("ann")
        assert await ldap.check("bob", "päßwörd") == Denied(f"not a member of {group}", "bob")
        assert isinstance(await ldap.check("ann", "wrong"), Denied)
    nowhere = Directory(replace(slapd.settings, group="cn=none,ou=groups,dc=example,dc=com"))
    assert isinstance(await nowhere.check("ann", "correct horse"), Denied)


async def test_a_group_that_only_the_own_entry_tells_of(start_slapd: Start) -> None:
    ldap = Directory(replace(start_slapd().settings, group="cn=hidden,ou=groups,dc=example,dc=com"))
    assert await ldap.check("bob", "päßwörd") == Granted("bob")
    assert isinstance(await ldap.check("ann", "correct horse"), Denied)


async def test_its_certificate_is_checked(start_slapd: Start) -> None:
    slapd = start_slapd()
    for settings in (slapd.settings, slapd.starttls):
        verdict = await Directory(replace(settings, ca=None)).check("ann", "correct horse")
        assert isinstance(verdict, Unavailable)
        assert "CERTIFICATE_VERIFY_FAILED" in verdict.reason


async def test_a_directory_that_wants_tls_says_so(start_slapd: Start) -> None:
    slapd = start_slapd("security simple_bind=128")
    assert await Directory(slapd.starttls).check("ann", "correct horse") == Granted("ann")
    verdict = await Directory(replace(slapd.starttls, starttls=False)).check("ann", "correct horse")
    assert isinstance(verdict, Unavailable)
    assert "confidentialityRequired" in verdict.reason


async def test_in_the_clear_where_that_is_said(start_slapd: Start) -> None:
    ldap = Directory(replace(start_slapd().starttls, starttls=False))
    assert await ldap.check("ann", "correct horse") == Granted("ann")
    assert isinstance(await ldap.check("ann", "wrong"), Denied)


async def test_it_can_be_away(start_slapd: Start) -> None:
    slapd = start_slapd()
    ldap = Directory(slapd.settings)
    assert await ldap.check("ann", "correct horse") == Granted("ann")
    slapd.process.kill()
    slapd.process.wait(20)
    assert isinstance(await ldap.check("ann", "correct horse"), Unavailable)
    assert isinstance(await ldap.check("ann", "wrong"), Unavailable)


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN"])
def test_a_client_logs_in_with_its_password_in_the_directory(
    start_slapd: Start,
    start_relay: Callable[..., Relay],
    sink: Sink,
    certificate: tuple[Path, Path],
    mechanism: str,
) -> None:
    slapd = start_slapd()
    directory = asdict(replace(slapd.starttls, group="cn=smtp,ou=groups,dc=example,dc=com"))
    ldap = {name: str(directory[name]) for name in ("url", "bind_as", "ca", "group")}
    settings = {
        "general": {"certificates": [{"file": str(certificate[0]), "key": str(certificate[1])}]},
        "access": {"relay": {"list": []}, "authentication": {"ldap": ldap}},
    }
    relay = start_relay(sink.port, settings)

    def login(client: smtplib.SMTP, user: str, password: str) -> int:
        client.ehlo()
        client.user, client.password = user, password
        step = client.auth_plain if mechanism == "PLAIN" else client.auth_login
        return client.auth(mechanism, step)[0]

    with smtplib.SMTP(relay.host, relay.port) as client:
        client.starttls(context=ssl.create_default_context(cafile=str(certificate[0])))
        for user, password in (("ann", "wrong"), ("dave", "staple")):
            with pytest.raises(smtplib.SMTPAuthenticationError) as refused:
                login(client, user, password)
            assert refused.value.smtp_code == 535
        assert login(client, "ann", "correct horse") == 235
        client.sendmail("ann@example.com", ["bob@example.net"], b"Subject: By password\r\n\r\nText\r\n")
    assert b" with ESMTPSA " in sink.wait()[0].octets

    slapd.process.kill()
    slapd.process.wait(20)
    with smtplib.SMTP(relay.host, relay.port) as client:
        client.starttls(context=ssl.create_default_context(cafile=str(certificate[0])))
        with pytest.raises(smtplib.SMTPAuthenticationError) as unknown:
            login(client, "ann", "correct horse")
        assert unknown.value.smtp_code == 454
    relay.stop()
    assert "not a member of cn=smtp" in relay.said()
    assert "LoginUnavailable" in relay.said()
    assert "correct horse" not in relay.said()
