"""Kerberos by the system's GSSAPI and a keytab, alone or within SPNEGO; not on Windows, see `sspi`.

The package `gssapi` is an extra of ours ("mailroot[kerberos]"): it is compiled where it is installed.
"""

from pathlib import Path
from typing import Any

import gssapi
from gssapi import raw
from gssapi.raw.exceptions import BadChannelBindingsError, BadMechanismError, InvalidTokenError
from gssapi.raw.misc import GSSError
from gssapi.raw.named_tuples import AcceptSecContextResult

from mailroot.policy.auth.base import Channel
from mailroot.policy.auth.contexts import LoginRefused, Threads
from mailroot.smtp.sasl.base import SaslError

_KERBEROS = gssapi.OID.from_int_seq("1.2.840.113554.1.2.2")
_SPNEGO = gssapi.OID.from_int_seq("1.3.6.1.5.5.2")
_ANONYMOUS = "WELLKNOWN/ANONYMOUS@"
_LONGEST_NAME = 512


class KerberosError(ValueError):
    """Kerberos does not work here; the text says why and is for an administrator."""


class Keytab:
    """Our keys. A changed keytab is seen at the next login."""

    __slots__ = ("_credentials",)

    def __init__(self, path: Path | None) -> None:
        """`path` None: the system's own keytab. Raises KerberosError for one that cannot be used."""
        # The environment is left alone: it is everybody's. Without a replay cache, a file in a folder for all: who
        # repeats a token does not know the session key, and fails at the step that follows (RFC 4752 §3.1).
        store: dict[bytes | str, bytes | str] = {b"rcache": b"none:"}
        if path is not None:
            store[b"keytab"] = b"FILE:" + bytes(path.absolute())
        try:
            # First for Kerberos alone: SPNEGO is content with any mechanism.
            gssapi.Credentials(usage="accept", mechs=[_KERBEROS], store=store)
            credentials = gssapi.Credentials(usage="accept", mechs=[_KERBEROS, _SPNEGO], store=store)
            # Else SPNEGO would take whatever mechanisms are installed, and ask other places for accounts.
            raw.set_neg_mechs(credentials, [_KERBEROS])
        except GSSError as error:
            raise KerberosError(_explain(error)) from None
        except (AttributeError, NotImplementedError):
            raise KerberosError("the system's GSSAPI library knows no credential stores") from None
        self._credentials = credentials

    def accept(self, token: bytes, context: Any, bindings: tuple[str, bytes] | None) -> AcceptSecContextResult:
        """The next step of a context, None for its first. Raises GSSError."""
        bound = None
        if bindings is not None:
            bound = raw.ChannelBindings(application_data=bindings[0].encode() + b":" + bindings[1])
        # The library's own class keeps errors back until the next call.
        return raw.accept_sec_context(token, self._credentials, context, bound)


class KerberosContext:
    """Kerberos, by its own tokens or SPNEGO's. `user` is the client's principal, "jo@EXAMPLE.COM"."""

    __slots__ = ("_bindings", "_context", "_keytab", "_threads", "complete", "user")

    def __init__(self, keytab: Keytab, channel: Channel, threads: Threads) -> None:
        self._keytab = keytab
        self._threads = threads
        self._bindings: list[tuple[str, bytes] | None] = list(channel.bindings) or [None]
        self._context: Any = None
        self.user = ""
        self.complete = False

    async def step(self, token: bytes) -> bytes:
        return await self._threads.run(lambda: self._step(token))

    async def wrap(self, octets: bytes) -> bytes:
        return await self._threads.run(lambda: self._wrap(octets))

    async def unwrap(self, token: bytes) -> bytes:
        return await self._threads.run(lambda: self._unwrap(token))

    def _step(self, token: bytes) -> bytes:
        try:
            result = self._accept(token)
        except InvalidTokenError:
            raise SaslError("not a token of Kerberos or SPNEGO") from None
        except BadChannelBindingsError:
            raise LoginRefused("the channel binding is not that of this connection") from None
        except BadMechanismError:
            raise LoginRefused("the client does not offer Kerberos") from None
        except GSSError as error:
            raise LoginRefused(_explain(error)) from None
        self._context = result.context
        if not result.more_steps:
            self.user = _principal(result)
            self.complete = True
        return result.token or b""

    def _accept(self, token: bytes) -> AcceptSecContextResult:
        """The client says only within its token which binding it has, if any: so each of ours is tried."""
        while len(self._bindings) > 1:
            try:
                return self._keytab.accept(token, self._context, self._bindings[0])
            except BadChannelBindingsError:
                self._bindings = self._bindings[1:]
        return self._keytab.accept(token, self._context, self._bindings[0])

    def _wrap(self, octets: bytes) -> bytes:
        try:
            wrapped: bytes = raw.wrap(self._context, octets, False).message
        except GSSError as error:
            raise LoginRefused(_explain(error)) from None
        return wrapped

    def _unwrap(self, token: bytes) -> bytes:
        try:
            octets: bytes = raw.unwrap(self._context, token).message
        except GSSError:
            raise LoginRefused("a signature that is not the client's") from None
        return octets


def _principal(result: AcceptSecContextResult) -> str:
    if result.mech != _KERBEROS:
        raise LoginRefused("a mechanism other than Kerberos")
    try:
        name: str = raw.display_name(result.initiator_name, False).name.decode().rstrip("\0")
    except UnicodeDecodeError:
        raise SaslError("a principal that is not UTF-8") from None
    if result.flags & gssapi.RequirementFlag.anonymity or name.startswith(_ANONYMOUS):
        raise LoginRefused("anonymous Kerberos")
    if not name or len(name) > _LONGEST_NAME or not name.isprintable():
        raise SaslError("a principal that cannot be one")
    return name


def _explain(error: GSSError) -> str:
    """What the library says of it, in one line; the more exact of its two texts if it has one."""
    exact = [] if not error.min_code else list(error.get_all_statuses(error.min_code, False))
    texts = [text for text in exact if text] or list(error.get_all_statuses(error.maj_code, True))
    return " ".join("; ".join(texts).split())[:500]
