"""What a listener takes: its profile, its TLS and its logins. One value says what holds for a session.

A profile says what sloppiness is taken. What is a security hole is taken in none of them: a bare LF or CR never
ends a message, nothing that was read before TLS is used after it, and relay is as the Access tab says.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

from mailroot.net.tls import TlsVersion
from mailroot.units import Doc


class Profile(StrEnum):
    """Whom a listener is for."""

    STRICT = "strict"
    APPLICATIONS = "applications"
    OLD_DEVICES = "old devices"


class TlsMode(StrEnum):
    """How a session comes to TLS."""

    STARTTLS = "starttls"
    IMPLICIT = "implicit"
    OFF = "off"


class RequireTls(StrEnum):
    """What is refused in the clear."""

    NO = "no"
    PASSWORDS = "passwords"
    LOGIN = "login"
    MAIL = "mail"


class LoginKind(StrEnum):
    """Kinds of login that a listener may offer."""

    BASIC = "basic"
    SCRAM = "scram"
    INTEGRATED = "integrated"
    OAUTH = "oauth"
    CERTIFICATE = "certificate"


@dataclass(frozen=True, slots=True)
class ListenerSettings:
    """A listener with settings of its own."""

    address: Annotated[str, Doc("Address and port; '*:465' is every address, IPv4 and IPv6.", example="*:587")]
    profile: Annotated[
        Profile,
        Doc(
            "Whom it is for. 'applications': programs, with the sloppiness the Windows service took. 'old "
            "devices': also TLS 1.0, passwords in the clear, AUTH=LOGIN in the EHLO answer, and bare line ends in "
            "messages (they are repaired). 'strict': nothing but what the standards say."
        ),
    ] = Profile.APPLICATIONS
    tls: Annotated[TlsMode, Doc("'starttls', 'implicit' (TLS from the first octet, as on port 465) or 'off'.")] = (
        TlsMode.STARTTLS
    )
    min_tls: Annotated[
        TlsVersion | None,
        Doc(
            "The oldest TLS taken: '1.0', '1.1', '1.2' or '1.3'. Not set: 1.2, and 1.0 for 'old devices'.",
            example="1.3",
        ),
    ] = None
    require_tls: Annotated[
        RequireTls | None,
        Doc(
            "What wants TLS: 'no': nothing; 'passwords': logins that give a password or token away, except from "
            "this computer itself; 'login': every login; 'mail': mail too. Not set: 'passwords'; 'login' for "
            "'strict'; 'no' for 'old devices'.",
            example="mail",
        ),
    ] = None
    require_login: Annotated[
        bool, Doc("No mail without a login here, also where anonymous access is allowed elsewhere.")
    ] = False
    logins: Annotated[
        tuple[LoginKind, ...] | None,
        Doc(
            "The kinds of login offered here: 'basic' (LOGIN and PLAIN), 'scram', 'integrated' (Kerberos, NTLM), "
            "'oauth', 'certificate'. Not set: all there are.",
            example='["basic", "scram"]',
        ),
    ] = None
    proxy_protocol: Annotated[
        bool, Doc("Connections begin with a PROXY header (version 1 or 2) of one of `access.proxies`.")
    ] = False


@dataclass(frozen=True, slots=True)
class ListenerRules:
    """What holds for the sessions of a listener. `repair`: bare line ends in messages are made CR LF; None: as the
    Messages tab says. `logins` None: all kinds there are."""

    profile: Profile = Profile.APPLICATIONS
    tls: TlsMode = TlsMode.STARTTLS
    min_tls: TlsVersion = TlsVersion.TLS_1_2
    require_tls: RequireTls = RequireTls.PASSWORDS
    require_login: bool = False
    repair: bool | None = None
    logins: frozenset[LoginKind] | None = None
    proxy_protocol: bool = False

    @classmethod
    def of(cls, settings: ListenerSettings) -> "ListenerRules":
        """The profile, and what the listener's own settings change in it."""
        profile = settings.profile
        oldest, require, repair = _PROFILES[profile]
        return cls(
            profile,
            settings.tls,
            settings.min_tls or oldest,
            settings.require_tls or require,
            settings.require_login,
            repair,
            None if settings.logins is None else frozenset(settings.logins),
            settings.proxy_protocol,
        )

    def offers(self, kind: LoginKind) -> bool:
        """Whether this kind of login is for the listener."""
        return self.logins is None or kind in self.logins

    @property
    def strict(self) -> bool:
        """Whether only what the standards say is taken."""
        return self.profile is Profile.STRICT


_PROFILES: dict[Profile, tuple[TlsVersion, RequireTls, bool | None]] = {
    Profile.STRICT: (TlsVersion.TLS_1_2, RequireTls.LOGIN, False),
    Profile.APPLICATIONS: (TlsVersion.TLS_1_2, RequireTls.PASSWORDS, None),
    Profile.OLD_DEVICES: (TlsVersion.TLS_1_0, RequireTls.NO, True),
}
