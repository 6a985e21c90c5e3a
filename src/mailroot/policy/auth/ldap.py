"""A directory that checks the passwords of Basic authentication: one connection and one bind for each (RFC 4513).

Nothing is sent before the connection is safe, unless the settings say that the way is. A password is in no log,
error or repr. What goes over the line is in `ldap_messages`.
"""

import asyncio
import re
import ssl
import unicodedata
from dataclasses import dataclass
from urllib.parse import urlsplit

from mailroot.net.stream import Stream, connect
from mailroot.policy.auth import ldap_messages as ldap
from mailroot.policy.auth.base import Denied, Granted, Unavailable, Verdict
from mailroot.policy.auth.settings import LdapSettings

_MOST_AT_ONCE = 16
_LONGEST_NAME = 256
_MOST_ANSWERS = 4

# RFC 4511 appendix A, as far as an administrator may meet them here.
_CODES = {
    1: "operationsError",
    2: "protocolError",
    3: "timeLimitExceeded",
    7: "authMethodNotSupported",
    8: "strongerAuthRequired",
    10: "referral",
    11: "adminLimitExceeded",
    13: "confidentialityRequired",
    32: "noSuchObject",
    34: "invalidDNSyntax",
    48: "inappropriateAuthentication",
    49: "invalidCredentials",
    50: "insufficientAccessRights",
    51: "busy",
    52: "unavailable",
    53: "unwillingToPerform",
    80: "other",
}
_SUCCESS, _NO_SUCH_OBJECT, _INSUFFICIENT_ACCESS = 0, 32, 50
# No such name, a name that cannot be, an entry without a password, or a wrong password: the client gave bad ones.
_REFUSALS = frozenset({32, 34, 48, 49})

# Active Directory says in its diagnostic text what was wrong: "80090308: LdapErr: …, data 52e, v4563".
_DATA = re.compile(r"\bdata ([0-9a-f]{3})\b")
_DATA_WORDS = {
    "525": "no such user",
    "52e": "wrong password",
    "530": "not at this time of day",
    "531": "not from this computer",
    "532": "the password has expired",
    "533": "the account is disabled",
    "568": "too many groups",
    "701": "the account has expired",
    "773": "the password must be changed first",
    "775": "the account is locked",
}

_ACTIVE_DIRECTORY = b"1.2.840.113556.1.4.800"
"""In `supportedCapabilities` of a domain controller (MS-ADTS 3.1.1.3.4.3.1)."""

# What no account name of Windows has; so nobody can give a DN, a GUID or another domain's name as a user name.
_NOT_IN_ACCOUNT_NAMES = frozenset('"/\\[]:;|=,+*?<>')


class LdapTrouble(Exception):
    """The directory gave no answer that means anything."""


@dataclass(frozen=True, slots=True)
class Server:
    """Where the directory is. `secure`: TLS from the start; `starttls`: TLS after the first octets."""

    host: str
    port: int
    secure: bool
    starttls: bool


class Directory:
    """The accounts of a directory. It cannot say whether a user exists, so it never says None."""

    __slots__ = ("_bind_as", "_context", "_group", "_open", "_places", "_server", "_timeout", "name")

    def __init__(self, settings: LdapSettings) -> None:
        """Raises ValueError for settings that cannot work, saying what would be right."""
        self.name = "LDAP"
        self._server = read_url(settings)
        if "{user}" not in settings.bind_as:
            raise ValueError(
                f"ldap.bind_as: '{settings.bind_as}' is the same for everybody; right would be a DN or a name with "
                "{user} in it, as in 'uid={user},ou=people,dc=example,dc=com' or '{user}@corp.example.com'"
            )
        if settings.group and "=" not in settings.group:
            raise ValueError(
                f"ldap.group: '{settings.group}' is not a DN; right would be one as in 'cn=smtp,dc=example,dc=com'"
            )
        self._bind_as = settings.bind_as
        self._group = settings.group
        self._timeout = settings.timeout
        self._context = _context(settings) if self._server.secure or self._server.starttls else None
        self._places = asyncio.Semaphore(_MOST_AT_ONCE)
        self._open: set[Stream] = set()

    @property
    def has_accounts(self) -> bool:
        return True

    async def check(self, user: str, password: str) -> Verdict:
        """Granted to the name that stands for {user}: as it was given, in its usual Unicode form (NFKC), without
        a domain that the template adds."""
        # RFC 4513 §5.1.2: a bind with a name and no password succeeds without a check.
        if not password:
            return Denied("an empty password", user)
        name = account_name(self._bind_as, user)
        if name is None:
            return Denied("not a name that the directory could know", user)
        try:
            async with asyncio.timeout(self._timeout), self._places:
                return await self._ask(name, bind_name(self._bind_as, name), password)
        except TimeoutError:
            return Unavailable(f"{self._label}: no answer within {self._timeout:g} s")
        except (LdapTrouble, ldap.LdapFormatError, OSError) as error:
            # ssl.SSLError is an OSError, and its text says what is wrong with the certificate.
            return Unavailable(f"{self._label}: {error}")

    async def close(self) -> None:
        """Break off what is under way: who waits for it hears that it cannot be decided."""
        for stream in list(self._open):
            stream.abort()

    @property
    def _label(self) -> str:
        return f"directory {self._server.host}:{self._server.port}"

    async def _ask(self, name: str, bind_as: str, password: str) -> Verdict:
        server = self._server
        stream = await connect(
            server.host,
            server.port,
            self._timeout,
            context=self._context if server.secure else None,
            server_hostname=server.host,
        )
        self._open.add(stream)
        try:
            talk = _Talk(stream, self._timeout)
            if server.starttls and self._context is not None:
                await talk.start_tls(self._context, server.host)
            said = await talk.bind(bind_as, password)
            if said.code in _REFUSALS:
                return Denied(_reason(said), name)
            if said.code != _SUCCESS:
                raise LdapTrouble(f"bind: {_reason(said)}")
            if self._group and not await talk.is_member(bind_as, name, self._group):
                return Denied(f"not a member of {self._group}", name)
            talk.end()
            return Granted(name)
        finally:
            self._open.discard(stream)
            stream.finish()


class _Talk:
    """The conversation on one connection: a request, its answer, the next."""

    __slots__ = ("_id", "_stream", "_timeout", "_unread")

    def __init__(self, stream: Stream, timeout: float) -> None:
        self._stream = stream
        self._timeout = timeout
        self._unread = b""
        self._id = 0

    async def start_tls(self, context: ssl.SSLContext, host: str) -> None:
        said = await self._result(ldap.extended_request(self._next(), ldap.STARTTLS), ldap.EXTENDED_RESPONSE)
        if said.code != _SUCCESS:
            raise LdapTrouble(f"STARTTLS: {_reason(said)}")
        if self._unread:
            raise LdapTrouble("STARTTLS: more was said in the clear after it")
        await self._stream.start_tls(context, self._timeout, server_side=False, server_hostname=host)

    async def bind(self, name: str, password: str) -> ldap.Message:
        return await self._result(ldap.bind_request(self._next(), name, password), ldap.BIND_RESPONSE)

    def end(self) -> None:
        """Say good-bye; there is no answer to it."""
        self._stream.write(ldap.unbind_request(self._next()))

    async def is_member(self, bind_as: str, name: str, group: str) -> bool:
        """Whether the account that was bound is in the group, as far as the account itself may read that."""
        root = await self._search("", ldap.present("objectClass"), "supportedCapabilities", "tokenGroups")
        if _ACTIVE_DIRECTORY in _values(root, "supportedCapabilities"):
            # Groups within groups and the primary group are in this list, which `memberOf` lacks.
            sids = _values(await self._search(group, ldap.present("objectClass"), "objectSid"), "objectSid")
            return not sids.isdisjoint(_values(root, "tokenGroups"))
        account = bind_as if "=" in bind_as else await self._own_dn()
        lists = ldap.any_of(
            ldap.equal("member", account), ldap.equal("uniqueMember", account), ldap.equal("memberUid", name)
        )
        if await self._search(group, lists, ldap.NO_ATTRIBUTES):
            return True
        return bool(await self._search(account, ldap.equal("memberOf", group), ldap.NO_ATTRIBUTES))

    async def _own_dn(self) -> str:
        said = await self._result(ldap.extended_request(self._next(), ldap.WHO_AM_I), ldap.EXTENDED_RESPONSE)
        if said.code != _SUCCESS:
            raise LdapTrouble(f"who am I: {_reason(said)}")
        if not said.value.startswith(b"dn:") or len(said.value) == 3:
            raise LdapTrouble("the directory does not say whose entry was bound")
        return said.value[3:].decode(errors="replace")

    async def _search(self, entry: str, filter: bytes, *attributes: str) -> list[ldap.Message]:
        """That entry, if the filter is true of it; nothing where there is none, or none that may be seen."""
        self._stream.write(ldap.entry_request(self._next(), entry, filter, attributes))
        entries: list[ldap.Message] = []
        for _ in range(_MOST_ANSWERS):
            message = await self._read()
            if message.operation == ldap.SEARCH_ENTRY:
                entries.append(message)
            elif message.operation == ldap.SEARCH_DONE:
                if message.code in (_NO_SUCH_OBJECT, _INSUFFICIENT_ACCESS):
                    return []
                if message.code != _SUCCESS:
                    raise LdapTrouble(f"search: {_reason(message)}")
                return entries
            elif message.operation != ldap.SEARCH_REFERENCE:
                raise LdapTrouble("an answer to something else")
        raise LdapTrouble("more answers than were asked for")

    def _next(self) -> int:
        self._id += 1
        return self._id

    async def _result(self, request: bytes, operation: int) -> ldap.Message:
        self._stream.write(request)
        message = await self._read()
        if message.operation != operation:
            raise LdapTrouble("an answer to something else")
        return message

    async def _read(self) -> ldap.Message:
        """The next message, which must be about the last request."""
        while (read := ldap.read_message(self._unread)) is None:
            octets = await self._stream.read(self._timeout)
            if not octets:
                raise LdapTrouble("the connection was lost")
            self._unread += octets
        message, length = read
        self._unread = self._unread[length:]
        if message.id == 0:
            # RFC 4511 §4.4.1: notice of disconnection.
            raise LdapTrouble(f"the directory hangs up: {_reason(message)}")
        if message.id != self._id:
            raise LdapTrouble("an answer to something else")
        return message


def _values(entries: list[ldap.Message], attribute: str) -> set[bytes]:
    return {value for entry in entries for value in entry.attributes.get(attribute.lower(), ())}


def _reason(message: ldap.Message) -> str:
    word = _CODES.get(message.code, f"result code {message.code}")
    data = _DATA.search(message.diagnostic)
    if data is not None and data[1] in _DATA_WORDS:
        return f"{word}: {_DATA_WORDS[data[1]]}"
    text = "".join(one if one.isprintable() else " " for one in message.diagnostic[:200]).strip()
    return f"{word}: {text}" if text else word


def read_url(settings: LdapSettings) -> Server:
    """The server of `settings.url`. Raises ValueError."""
    try:
        parts = urlsplit(settings.url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        host, port, parts = "", None, urlsplit("")
    rest = parts.path.strip("/") or parts.query or parts.fragment or parts.username is not None
    if parts.scheme not in ("ldap", "ldaps") or not host or rest or port == 0:
        raise ValueError(
            f"ldap.url: '{settings.url}' is not the address of a directory; right would be ldaps://HOST[:PORT], "
            "or ldap://HOST[:PORT] with STARTTLS"
        )
    secure = parts.scheme == "ldaps"
    return Server(host, port or (636 if secure else 389), secure, settings.starttls and not secure)


def account_name(template: str, user: str) -> str | None:
    """The name that stands for {user} in the template; None for what the directory would take for another's name
    or for no name.

    Directories ignore case, spaces around and characters without a shape (RFC 4518). Were all of them let through,
    one account would have any number of names, and a ban on one of them would hold nobody.
    """
    name = unicodedata.normalize("NFKC", user)
    shapeless = any(unicodedata.category(one) in ("Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp") for one in name)
    if len(name) > _LONGEST_NAME or shapeless or name != " ".join(name.split()):
        return None
    if "=" not in template:
        _, at, domain = template.partition("{user}")[2].partition("@")
        if at and name.casefold().endswith(f"@{domain}".casefold()):
            name = name[: -len(domain) - 1]
        if not _NOT_IN_ACCOUNT_NAMES.isdisjoint(name) or (at and "@" in name):
            return None
    return name or None


def bind_name(template: str, name: str) -> str:
    """Whom to bind as: the template with the name in it, which stays one value of a DN (RFC 4514 §2.4)."""
    return template.replace("{user}", escape(name) if "=" in template else name)


def escape(value: str) -> str:
    """A value within a DN (RFC 4514 §2.4): what would end or change it is written in hexadecimal digits."""
    return "".join(
        "".join(f"\\{octet:02x}" for octet in one.encode()) if one in '"+,;<>\\=#\0 ' else one for one in value
    )


def _context(settings: LdapSettings) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=settings.ca)
    except OSError as error:
        raise ValueError(f"ldap.ca: {settings.ca} cannot be used ({error}); right would be a PEM file") from None
