"""Integrated Windows Authentication: AUTH GSSAPI (RFC 4752) and AUTH NTLM (MS-SMTPNTLM).

What tokens mean is known to Windows' SSPI, to the system's GSSAPI, or to `ntlm`; here is what SASL makes of them.

As policy sees them, users of Kerberos are principals, "jo@EXAMPLE.COM"; users of NTLM are accounts of the accounts
file, by the names they have there, whatever domain the client wrote beside them. On Windows both are accounts as
Windows writes them, "EXAMPLE\\jo".
"""

import hmac
import os
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from mailroot.policy.auth.base import Challenge, Channel, Denied, Exchange, Granted, Malformed, Step, Unavailable
from mailroot.policy.auth.contexts import Context, LoginRefused, LoginUndecided, Threads
from mailroot.policy.auth.ntlm import NtAccounts, NtlmContext, NtlmInSpnego
from mailroot.policy.auth.settings import IntegratedSettings
from mailroot.smtp.sasl.base import SaslError
from mailroot.smtp.sasl.ntlm import SIGNATURE
from mailroot.smtp.sasl.spnego import read_opening

if TYPE_CHECKING:
    from mailroot.policy.auth.kerberos import Keytab

_DEADLINE = 30.0
_NO_LAYER = b"\1\0\0\0"
"""The only security layer offered is none, and so there is no largest message (RFC 4752 §3.1); it is also all that
.NET takes."""


class Integrated:
    """The integrated logins that work here."""

    def __init__(self, settings: IntegratedSettings, accounts: NtAccounts) -> None:
        """`accounts`: the accounts file; not asked on Windows. Never fails: what cannot work is not offered."""
        self.problem = ""
        """Why something that is set does not work, in words for an administrator; "" if all does."""
        self._threads = Threads(_DEADLINE)
        self._accounts = accounts
        self._keytab: Keytab | None = None
        self._windows = os.name == "nt"
        self._ntlm = settings.ntlm
        self._gssapi = settings.kerberos
        if self._windows:
            self._ask_windows()
        else:
            if self._gssapi:
                self._open_keytab(settings)
            if self._ntlm:
                self._try_md5()

    @property
    def mechanisms(self) -> tuple[str, ...]:
        """Those that somebody could use now."""
        ntlm = self._ntlm and (self._windows or self._accounts.has_nt_hashes)
        return ("GSSAPI",) * self._gssapi + ("NTLM",) * ntlm

    def begin(self, mechanism: str, channel: Channel) -> Exchange:
        """One login by one of `mechanisms`."""
        if mechanism == "NTLM":
            return NtlmExchange(self._ntlm_context(channel))
        return GssapiExchange(_Negotiated(self._choose, channel))

    def _ntlm_context(self, channel: Channel) -> Context:
        if not self._windows:
            return NtlmContext(self._accounts, channel)
        return self._sspi("ntlm", channel)

    def _sspi(self, protocol: str, channel: Channel) -> Context:
        from mailroot.policy.auth.sspi import SspiContext

        return SspiContext(protocol, channel, self._threads, ntlm=self._ntlm)

    def _choose(self, token: bytes, channel: Channel) -> Context:
        """Whose this first token is: Kerberos' or SPNEGO's as RFC 4752 clients and .NET send them, or, from old
        Windows, NTLM's."""
        if self._windows:
            return self._sspi("negotiate", channel)
        ntlm = self._ntlm and self._accounts.has_nt_hashes
        if token.startswith(SIGNATURE):
            if not ntlm:
                raise LoginRefused("NTLM is not allowed")
            return NtlmContext(self._accounts, channel)
        opening = read_opening(token)
        if ntlm and opening is not None and opening.prefers_ntlm:
            return NtlmInSpnego(NtlmContext(self._accounts, channel), opening)
        from mailroot.policy.auth.kerberos import KerberosContext

        assert self._keytab is not None
        return KerberosContext(self._keytab, channel, self._threads)

    def _ask_windows(self) -> None:
        try:
            from mailroot.policy.auth.sspi import trouble
        except ImportError as error:
            self._gssapi = self._ntlm = False
            self._say(f"integrated logins are not offered: the package pyspnego cannot be used: {error}")
            return
        if self._gssapi and (why := trouble("negotiate")):
            self._gssapi = False
            self._say(f"GSSAPI is not offered: {why}")
        if self._ntlm and (why := trouble("ntlm")):
            self._ntlm = False
            self._say(f"NTLM is not offered: {why}")

    def _say(self, problem: str) -> None:
        self.problem = "; ".join(filter(None, [self.problem, problem]))

    def _open_keytab(self, settings: IntegratedSettings) -> None:
        try:
            from mailroot.policy.auth.kerberos import KerberosError, Keytab
        except ImportError:
            self._gssapi = False
            self._say(
                "GSSAPI is not offered: the package gssapi is not installed; right would be: "
                "pip install 'mailroot[kerberos]', with a compiler and the headers of Kerberos"
            )
            return
        try:
            self._keytab = Keytab(settings.keytab)
        except KerberosError as error:
            self._gssapi = False
            keytab = settings.keytab or "the system's keytab"
            self._say(f"GSSAPI is not offered: {keytab}: {error}")

    def _try_md5(self) -> None:
        try:
            hmac.digest(b"key", b"octets", "md5")
        except ValueError:
            self._ntlm = False
            self._say("NTLM is not offered: this computer's OpenSSL has no MD5")


class _Negotiated:
    """A context that is chosen by the client's first token."""

    __slots__ = ("_channel", "_choose", "_inner")

    def __init__(self, choose: Callable[[bytes, Channel], Context], channel: Channel) -> None:
        self._choose = choose
        self._channel = channel
        self._inner: Context | None = None

    @property
    def user(self) -> str:
        return "" if self._inner is None else self._inner.user

    @property
    def complete(self) -> bool:
        return self._inner is not None and self._inner.complete

    async def step(self, token: bytes) -> bytes:
        if self._inner is None:
            self._inner = self._choose(token, self._channel)
        return await self._inner.step(token)

    async def wrap(self, octets: bytes) -> bytes:
        assert self._inner is not None
        return await self._inner.wrap(octets)

    async def unwrap(self, token: bytes) -> bytes:
        assert self._inner is not None
        return await self._inner.unwrap(token)


class _ContextExchange:
    """What both mechanisms share: errors become steps, and after the end there is nothing more."""

    __slots__ = ("_context", "_over")

    def __init__(self, context: Context) -> None:
        self._context = context
        self._over = False

    @property
    def user(self) -> str:
        return self._context.user

    async def _guarded(self, work: Awaitable[Step]) -> Step:
        try:
            step = await work
        except SaslError as error:
            step = Malformed(str(error))
        except LoginRefused as error:
            step = Denied(str(error), self.user)
        except LoginUndecided as error:
            step = Unavailable(str(error))
        self._over = not isinstance(step, Challenge)
        return step


class NtlmExchange(_ContextExchange):
    """AUTH NTLM. Without an initial response the client is told to begin; MS-SMTPNTLM §2.2.1.2 has a free text
    there, which clients do not read, and an empty one is base64 to all of them."""

    __slots__ = ()

    async def step(self, response: bytes | None) -> Step:
        if self._over:
            return Malformed("a message too many")
        return await self._guarded(self._go_on(response))

    async def _go_on(self, response: bytes | None) -> Step:
        if response is None:
            return Challenge(b"")
        answer = await self._context.step(response)
        return Granted(self.user) if self._context.complete else Challenge(answer)


class GssapiExchange(_ContextExchange):
    """AUTH GSSAPI (RFC 4752 §3.1): tokens until the client is known, then the agreement on a security layer. So a
    235 always follows a 334, without which .NET does not believe it."""

    __slots__ = ("_offered",)

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._offered = False

    async def step(self, response: bytes | None) -> Step:
        if self._over:
            return Malformed("a message too many")
        return await self._guarded(self._go_on(response))

    async def _go_on(self, response: bytes | None) -> Step:
        if response is None:
            return Challenge(b"")
        if self._offered:
            return self._conclude(await self._context.unwrap(response))
        if self._context.complete:
            # Our last token was answered, with nothing.
            if response:
                raise SaslError("a token too many")
            return await self._offer()
        if not response:
            # To GSS-API that is a question what is offered, which nobody has to answer.
            raise SaslError("an empty token")
        answer = await self._context.step(response)
        return Challenge(answer) if answer or not self._context.complete else await self._offer()

    async def _offer(self) -> Step:
        self._offered = True
        # .NET's answer of nothing to our last token is a line of its own before the line's end: two of them.
        return Challenge(await self._context.wrap(_NO_LAYER), skip_empty=True)

    def _conclude(self, chosen: bytes) -> Step:
        if len(chosen) < 4:
            raise SaslError("no choice of a security layer")
        if chosen[0] != 1:
            return Denied("a security layer that was not offered", self.user)
        try:
            authzid = chosen[4:].decode()
        except UnicodeDecodeError:
            raise SaslError("a name that is not UTF-8") from None
        if not _is_own(authzid.rstrip("\0"), self.user):
            return Denied("wants to act as somebody else", self.user)
        return Granted(self.user)


def _is_own(authzid: str, user: str) -> bool:
    """Whether a client means itself: no name, its full name, or that without realm or domain."""
    short = user.partition("@")[0] if "@" in user else user.rpartition("\\")[2]
    return not authzid or authzid == user or authzid.casefold() == short.casefold()
