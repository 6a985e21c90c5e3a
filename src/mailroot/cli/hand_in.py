"""How `mailroot send` hands a message in: at which listener, with which TLS and login, and what a refusal is about.

It connects to this computer alone. By itself it trusts the certificate that the service's API says is in use: who
may ask there (by the token) has a better proof than any authority.
"""

import hashlib
import re
import secrets
import smtplib
import socket
import ssl
from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from mailroot.cli.client import Service
from mailroot.cli.tables import Failure, plain
from mailroot.smtp.sasl.base import Mechanism, SaslError
from mailroot.smtp.sasl.login import Login
from mailroot.smtp.sasl.plain import Plain

_SECONDS = 60.0
_MESSAGE_ID = re.compile(r"<[^<>\s]+>")
_EVERYWHERE = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}
_MECHANISMS = ("PLAIN", "LOGIN", "SCRAM-SHA-256")
"""The logins with a password, first the two that every account has."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What the command line says about the way in. `ca` None: the certificate that the API shows is trusted."""

    server: str = ""
    listener: str = ""
    tls: bool = False
    ca: Path | None = None
    insecure: bool = False
    user: str = ""
    password: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Way:
    """A listener, and how to come there. `secure`: by TLS; the listener's own `tls` says from when on."""

    server: str
    fqdn: str
    listener: Mapping[str, Any]
    host: str
    port: int
    secure: bool

    @property
    def address(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class HandedIn:
    """The server's answer to a message; `refused` are recipients that it did not take, with its reply."""

    reply: str
    message_id: str
    refused: dict[str, str]


# At which listener


def choose(service: Service, wish: Wish) -> Way:
    """The listener where this is most likely to be taken: without a user one that wants neither TLS nor login, with
    one a listener that wants logins. Raises Failure."""
    servers = service.get("/v1/servers", {"server": wish.server})["servers"]
    found = [(server, listener) for server in servers for listener in server["listeners"]]
    if not found:
        states = ", ".join(f"{one['name']} is {one['state']}" for one in servers)
        raise Failure(f"no virtual server listens: {states or 'there is none'}")
    if wish.listener:
        named = [pair for pair in found if _is_named(pair[1]["address"], wish.listener)]
        if not named:
            there = ", ".join(listener["address"] for _, listener in found)
            raise Failure(f"{wish.listener!r} is no listener; there are: {there}")
        found = named
    server, listener = min(found, key=lambda pair: _reluctance(pair[1], wish))
    _check(listener, wish)
    host, _, port = listener["address"].rpartition(":")
    host = host.strip("[]")
    return Way(
        server["name"],
        server["fqdn"],
        listener,
        _EVERYWHERE.get(host, host),
        int(port),
        # A password goes by TLS wherever there is any.
        secure=listener["tls"] != "off" and (wish.tls or bool(wish.user) or _needs_tls(listener)),
    )


def _is_named(address: str, text: str) -> bool:
    """Whether an address and port, or a port alone (":587", "587"), means this listener."""
    its_host, _, its_port = address.rpartition(":")
    host, _, port = text.rpartition(":")
    return port == its_port and host in ("", "*", its_host)


def _needs_tls(listener: Mapping[str, Any]) -> bool:
    return bool(listener["tls"] == "implicit" or listener["require_tls"] == "mail")


def _reluctance(listener: Mapping[str, Any], wish: Wish) -> tuple[bool, ...]:
    """What speaks against a listener, the worst first."""
    host = listener["address"].rpartition(":")[0].strip("[]").partition("%")[0]
    elsewhere = host not in _EVERYWHERE and not ip_address(host).is_loopback
    required = listener["login"] == "required"
    if wish.user:
        login = (not _usable(listener), not required)
    else:
        login = (required, _needs_tls(listener) and not wish.tls)
    return (listener["proxy_protocol"], wish.tls and listener["tls"] == "off", *login, elsewhere)


def _usable(listener: Mapping[str, Any]) -> list[str]:
    return [name for name in _MECHANISMS if name in listener["mechanisms"]]


def _check(listener: Mapping[str, Any], wish: Wish) -> None:
    """Raises Failure where it is clear that nothing would come of it, and what would help."""
    at = listener["address"]
    if listener["proxy_protocol"]:
        raise Failure(f"{at} takes connections of proxies alone (its proxy_protocol); --listener names another one")
    if listener["tls"] == "off" and (wish.tls or _needs_tls(listener)):
        raise Failure(f"there is no TLS at {at}: its tls is 'off', or there are no general.certificates")
    if wish.user and not _usable(listener):
        raise Failure(
            f"nobody can log in with a password at {at}: there are no accounts (`mailroot user add`), basic and "
            "scram of access.authentication are off, or its logins leave them out"
        )
    if listener["login"] == "required" and not wish.user:
        raise Failure(
            f"a login is wanted at {at} (its require_login, or access.authentication.anonymous): --user NAME"
        )


# The dialogue


def hand_in(
    service: Service, way: Way, wish: Wish, sender: str, recipients: Sequence[str], octets: bytes, message_id: str
) -> HandedIn:
    """Raises Failure with the command and the reply that ended it, and which setting decides."""
    trust = _trust(service, way, wish) if way.secure else None
    client: smtplib.SMTP | None = None
    try:
        client = _connect(way, trust)
        dialogue = _Dialogue(service, way, wish, client, sender)
        dialogue.greet(trust)
        return dialogue.send(recipients, octets, message_id)
    except ssl.SSLCertVerificationError as error:
        raise Failure(
            f"the certificate of {way.address} is not trusted by {wish.ca}: {error.verify_message}"
        ) from None
    except ssl.SSLError as error:
        raise Failure(f"TLS with {way.address} failed: {error.reason or error}") from None
    except (smtplib.SMTPException, UnicodeEncodeError, SaslError) as error:
        raise Failure(f"the dialogue failed: {error}") from None
    except OSError as error:
        raise Failure(f"{way.address} cannot be reached: {error.strerror or error}") from None
    finally:
        if client is not None:
            with suppress(smtplib.SMTPException, OSError):
                client.quit()


Trust = Callable[[socket.socket], ssl.SSLSocket]
"""Does the handshake. Raises Failure, or ssl.SSLError, for a certificate that is not to be trusted."""


def _trust(service: Service, way: Way, wish: Wish) -> Trust:
    """How the certificate is looked at."""
    shown = service.get("/v1/certificates", {"server": way.server})["certificates"]
    name = _name(way.fqdn, shown)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if wish.ca is not None:
        try:
            context.load_verify_locations(wish.ca)
        except ssl.SSLError:
            raise Failure(f"{wish.ca} is no PEM file with certificates") from None
        except OSError as error:
            raise Failure(f"{wish.ca} cannot be read: {error.strerror or error}") from None
    else:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    fingerprints = {one["fingerprint"].replace(":", "").lower() for one in shown}

    def shake_hands(plainly: socket.socket) -> ssl.SSLSocket:
        secured = context.wrap_socket(plainly, server_hostname=name)
        if wish.ca is None and not wish.insecure:
            certificate = secured.getpeercert(binary_form=True) or b""
            if hashlib.sha256(certificate).hexdigest() not in fingerprints:
                secured.close()
                raise Failure(
                    f"what answers at {way.address} has another certificate than the service says "
                    "(`mailroot certificate show`). Is something in between? --ca FILE or --insecure trusts it"
                )
        return secured

    return shake_hands


def _name(fqdn: str, certificates: Sequence[dict[str, Any]]) -> str:
    """What to call the server: its own name if a certificate is for it, else the first name of the first one."""
    names = [name for one in certificates for name in one["names"]]
    if not names or fqdn in names or f"*.{fqdn.partition('.')[2]}" in names:
        return fqdn
    return str(names[0]).replace("*", "relay")


def _connect(way: Way, trust: Trust | None) -> smtplib.SMTP:
    """Up to the banner. Raises Failure."""
    connection = socket.create_connection((way.host, way.port), timeout=_SECONDS)
    try:
        if trust is not None and way.listener["tls"] == "implicit":
            connection = trust(connection)
        client = smtplib.SMTP(local_hostname="localhost", timeout=_SECONDS)
        client.sock = connection
        code, text = client.getreply()
    except BaseException:
        connection.close()
        raise
    if code != 220:
        client.close()
        reply = _reply(code, text)
        raise Failure(f"the connection was refused: {plain(reply)}{_advice(reply)}")
    return client


class _Dialogue:
    def __init__(self, service: Service, way: Way, wish: Wish, client: smtplib.SMTP, sender: str) -> None:
        self._service = service
        self._way = way
        self._wish = wish
        self._client = client
        self._sender = sender

    def greet(self, trust: Trust | None) -> None:
        """EHLO, STARTTLS, and the login. Raises Failure."""
        client = self._client
        client.ehlo_or_helo_if_needed()
        if trust is not None and self._way.listener["tls"] == "starttls":
            self._expect("STARTTLS", *client.docmd("STARTTLS"))
            assert client.sock is not None
            client.sock = trust(client.sock)
            # What was said in the clear is forgotten (RFC 3207 §4.2).
            client.file = None
            client.ehlo()
        if self._wish.user:
            self._log_in()

    def _log_in(self) -> None:
        client, wish = self._client, self._wish
        offered = client.esmtp_features.get("auth", "").upper().split()
        mechanism = _mechanism(offered, wish)
        if mechanism is None:
            raise Failure(
                f"{self._way.address} offers no login with a password"
                f" ({', '.join(offered) or 'none at all'}); `mailroot explain --user {wish.user}` says why"
            )
        initial = mechanism.initial()
        command = f"AUTH {mechanism.name}"
        sent = command if initial is None else f"{command} {b64encode(initial).decode()}"
        code, text = client.docmd(sent)
        while code == 334:
            try:
                challenge = b64decode(text, validate=True)
            except Base64Error:
                raise Failure(f"{command}: a challenge is not base64") from None
            code, text = client.docmd(b64encode(mechanism.respond(challenge)).decode())
        self._expect(command, code, text)

    def send(self, recipients: Sequence[str], octets: bytes, message_id: str) -> HandedIn:
        """The transaction. Raises Failure."""
        client, sender = self._client, self._sender
        options = [f"SIZE={len(octets)}"] if client.has_extn("size") else []
        if not octets.isascii() and client.has_extn("8bitmime"):
            options.append("BODY=8BITMIME")
        if not all(map(str.isascii, (sender, *recipients))) and client.has_extn("smtputf8"):
            client.command_encoding = "utf-8"
            options.append("SMTPUTF8")
        code, text = client.mail(sender, options)
        self._expect(f"MAIL FROM:<{sender}>", code, text, recipients[0])
        refused = {}
        for recipient in recipients:
            code, text = client.rcpt(recipient)
            if not 200 <= code < 300:
                refused[recipient] = _reply(code, text)
        if len(refused) == len(recipients):
            raise Failure(
                "\n".join(
                    f"RCPT TO:<{recipient}> was answered: {plain(reply)}{self._why(reply, recipient)}"
                    for recipient, reply in refused.items()
                )
            )
        try:
            code, text = client.data(octets)
        except smtplib.SMTPDataError as error:
            code, text = error.smtp_code, error.smtp_error if isinstance(error.smtp_error, bytes) else b""
        reply = self._expect("DATA", code, text)
        named = _MESSAGE_ID.search(reply)
        return HandedIn(reply, message_id or (named[0] if named else ""), refused)

    def _expect(self, command: str, code: int, text: bytes, recipient: str = "") -> str:
        reply = _reply(code, text)
        if not 200 <= code < 300:
            raise Failure(f"{command} was answered: {plain(reply)}{self._why(reply, recipient)}")
        return reply

    def _why(self, reply: str, recipient: str) -> str:
        """Which setting decides, as far as can be known; "" otherwise. `recipient` "": nothing can be asked."""
        if advice := _advice(reply):
            return advice
        if not recipient or not reply.startswith("5"):
            return ""
        question = {
            "from": self._sender,
            "to": recipient,
            "client": self._client.sock.getsockname()[0] if self._client.sock is not None else "127.0.0.1",
            "listener": self._way.listener["address"],
            "server": self._way.server,
            "tls": "true" if self._way.secure else "",
            "user": self._wish.user,
        }
        with suppress(Failure):
            for step in self._service.get("/v1/explain", question)["steps"]:
                if step["answer"] == "no":
                    return f"\ndecided by {plain(step['rule'])}; `mailroot explain` tells more"
        return "\n`mailroot explain` says which rule decides"


def _mechanism(offered: Sequence[str], wish: Wish) -> Mechanism | None:
    for name in _MECHANISMS:
        if name in offered:
            match name:
                case "PLAIN":
                    return Plain(wish.user, wish.password)
                case "LOGIN":
                    return Login(wish.user, wish.password)
                case _:
                    from mailroot.smtp.sasl.scram import Scram

                    return Scram(wish.user, wish.password, secrets.token_urlsafe(24))
    return None


def _reply(code: int, text: bytes | str) -> str:
    words = text if isinstance(text, str) else text.decode("utf-8", "replace")
    return f"{code} {words}".replace("\n", " ")


_ADVICE = {
    "530 5.7.0 Must": "TLS is wanted there (the listener's require_tls): --tls",
    "530 5.7.0 Auth": "a login is wanted there (the listener's require_login, or access.authentication.anonymous): "
    "--user NAME",
    "535": "the account is unknown or disabled, or the password is wrong (`mailroot user list`); the event "
    "LoginFailed in the log says which",
    "538": "that login wants TLS (the listener's require_tls): --tls",
    "454 4.7.0 Too": "banned after too many failed logins (limits.logins): `mailroot ban list`, `… ban lift`",
    "454 4.7.0 Temp": "it could not be checked now; the log says why",
    "421 4.3.2 Too": "general.max_connections is reached",
    "421 4.3.2": "the virtual server is paused or stopping (`mailroot server list`)",
    "421 4.7.0": "limits.sessions_per_address is reached, or this address is banned (`mailroot ban list`)",
    "450 4.7.1": "one of limits.address, limits.network and limits.account, or of a permission, is reached; the "
    "event LimitReached in the log says which",
    "452 4.3.1": "too little space on the disk is free (limits.min_free_disk)",
    "452 4.5.3": "messages.max_recipients is reached",
    "552 5.3.4 Header": "its header is too large (messages.max_header_size)",
    "552 5.3.4": "it is too large (messages.max_message_size, max_session_size)",
}
"""What can be done about a refusal, by how it begins."""


def _advice(reply: str) -> str:
    for beginning, words in _ADVICE.items():
        if reply.startswith(beginning):
            return f"\n{words}"
    return ""
