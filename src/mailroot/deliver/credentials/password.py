"""Logins with a name and a password, by the best mechanism that the host offers."""

import secrets
from dataclasses import dataclass, field
from typing import Annotated

from mailroot.deliver.credentials.base import Ending, LoginImpossible, LoginServer, without_secrets
from mailroot.deliver.credentials.ending import ending_of
from mailroot.mail.address import Address
from mailroot.smtp.sasl.base import Mechanism
from mailroot.smtp.sasl.cram_md5 import CramMd5
from mailroot.smtp.sasl.login import Login
from mailroot.smtp.sasl.plain import Plain
from mailroot.smtp.sasl.saslprep import saslprep
from mailroot.smtp.sasl.scram import Scram, ScramPlus
from mailroot.units import Doc, SecretText

_SCRAM_PLUS = "SCRAM-SHA-256-PLUS"
_SCRAM = "SCRAM-SHA-256"

UNDER_TLS = (_SCRAM_PLUS, _SCRAM, "PLAIN", "LOGIN", "CRAM-MD5")
"""CRAM-MD5 comes last: a server that offers it keeps passwords readable, and under TLS nobody listens."""
IN_THE_CLEAR = (_SCRAM, "CRAM-MD5", "PLAIN", "LOGIN")


@dataclass(frozen=True, slots=True)
class PasswordLogin:
    """Basic authentication: a user name and a password."""

    username: Annotated[str, Doc("Log in as this user.", example="relay@example.com")]
    password: Annotated[SecretText, Doc("Its password.", example='{ file = "smart-host.password" }')] = field(
        repr=False
    )
    mechanisms: Annotated[
        tuple[str, ...],
        Doc(
            "Only these SASL mechanisms, the first that the host offers. Empty: the best of SCRAM-SHA-256-PLUS, "
            "SCRAM-SHA-256, PLAIN, LOGIN and CRAM-MD5.",
            example='["PLAIN", "LOGIN"]',
        ),
    ] = ()
    secret_ends: Annotated[
        str,
        Doc("The day on which the password ends, if it does: it is announced weeks before.", example="2027-05-01"),
    ] = ""
    in_the_clear: Annotated[
        bool, Doc("Allow the login without TLS. Anyone on the way can read or guess the password then.")
    ] = False


class PasswordCredentials:
    """One user for all senders."""

    __slots__ = ("_ending", "_settings", "_wanted")

    def __init__(self, settings: PasswordLogin) -> None:
        """Raises ValueError for settings that cannot work, saying what would be right."""
        if not settings.username or not settings.password:
            raise ValueError("password: 'username' and 'password' are both needed")
        # RFC 4616 §2: it separates the parts of a login.
        if "\0" in settings.username + settings.password:
            raise ValueError("password: neither 'username' nor 'password' can contain the character NUL")
        self._settings = settings
        self._wanted = tuple(name.upper() for name in settings.mechanisms)
        for name in self._wanted:
            if name not in UNDER_TLS:
                raise ValueError(
                    f"password: mechanisms: '{name}' is not known; right would be some of {', '.join(UNDER_TLS)}"
                )
        self._ending = ending_of("password: secret_ends", settings.secret_ends, f"password of {settings.username}")

    def account(self, sender: Address | None) -> str:
        return self._settings.username

    async def mechanism(self, server: LoginServer, sender: Address | None, *, fresh: bool = False) -> Mechanism:
        if not server.secured and not self._settings.in_the_clear:
            raise LoginImpossible(
                f"{server.host} offers no TLS, and the password must not be sent in the clear (see in_the_clear)"
            )
        offered = frozenset(server.mechanisms)
        usual = UNDER_TLS if server.secured else IN_THE_CLEAR
        for name in self._wanted or usual:
            if name in offered and (made := self._make(name, server)) is not None:
                return made
        told = ", ".join(server.mechanisms)
        raise LoginImpossible(
            f"{server.host} offers no login by {', '.join(self._wanted or usual)}"
            + (f", only by {told}" if told else "; it offers none at all")
        )

    def without_secrets(self, text: str) -> str:
        username, password = self._settings.username, self._settings.password
        return without_secrets(text, (f"\0{username}\0{password}", password))

    def endings(self) -> tuple[Ending, ...]:
        return self._ending

    def forgive(self) -> None:
        """Nothing is remembered."""

    async def close(self) -> None:
        """Nothing is open."""

    def _make(self, name: str, server: LoginServer) -> Mechanism | None:
        """None where this login cannot be made so."""
        username, password = self._settings.username, self._settings.password
        match name:
            case "PLAIN":
                return Plain(username, password)
            case "LOGIN":
                return Login(username, password)
            case "CRAM-MD5":
                return CramMd5(username, password)
        if not _can_be_prepared(username, password):
            return None
        nonce = secrets.token_urlsafe(24)
        if name == _SCRAM_PLUS:
            return ScramPlus(username, password, nonce, server.bindings[0]) if server.bindings else None
        # RFC 5802 §6: said where -PLUS was not offered, so that the server notices if it was taken from its list.
        could_bind = bool(server.bindings) and _SCRAM_PLUS not in server.mechanisms
        return Scram(username, password, nonce, could_bind=could_bind)


def _can_be_prepared(*texts: str) -> bool:
    try:
        for text in texts:
            saslprep(text)
    except ValueError:
        return False
    return True
