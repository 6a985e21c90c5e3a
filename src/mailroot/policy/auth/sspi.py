"""NTLM, and Negotiate with Kerberos and NTLM in it, by Windows itself (SSPI): accounts of this computer and its
domain. Used on Windows only.
"""

import spnego
from spnego.exceptions import InvalidTokenError, SpnegoError

from mailroot.policy.auth.base import Channel
from mailroot.policy.auth.contexts import LoginRefused, LoginUndecided, Threads
from mailroot.policy.auth.windows import identify
from mailroot.smtp.sasl.base import SaslError
from mailroot.smtp.sasl.ntlm import SIGNATURE, NotTaken, flags_of, hash_binding, read_claim
from mailroot.smtp.sasl.spnego import read_answer, read_opening

# SEC_E_NO_AUTHENTICATING_AUTHORITY, SEC_E_INTERNAL_ERROR, SEC_E_INSUFFICIENT_MEMORY, RPC_S_SERVER_UNAVAILABLE,
# SEC_E_KDC_UNABLE_TO_REFER, SEC_E_ISSUING_CA_UNTRUSTED_KDC: whether the client is right is not known then.
_UNDECIDED = frozenset({0x80090311, 0x80090304, 0x80090300, 0x800706BA, 0x80090359, 0x80090350})


class SspiContext:
    """A context of Windows. `user` is the account as Windows writes it, "DOMAIN\\jo", by NTLM as by Kerberos."""

    __slots__ = ("_channel", "_context", "_ntlm", "_protocol", "_threads", "complete", "user")

    def __init__(self, protocol: str, channel: Channel, threads: Threads, *, ntlm: bool) -> None:
        """`protocol`: "negotiate" or "ntlm"; `ntlm`: whether NTLM is allowed."""
        self._ntlm = ntlm
        self._protocol = protocol
        self._channel = channel
        self._threads = threads
        self._context: spnego.ContextProxy | None = None
        self.user = ""
        self.complete = False

    async def step(self, token: bytes) -> bytes:
        return await self._threads.run(lambda: self._step(token))

    async def wrap(self, octets: bytes) -> bytes:
        return await self._threads.run(lambda: self._wrap(octets))

    async def unwrap(self, token: bytes) -> bytes:
        return await self._threads.run(lambda: self._unwrap(token))

    def _step(self, token: bytes) -> bytes:
        if not token:
            raise SaslError("no token")
        self._look_at(token)
        if self._context is None:
            try:
                self._context = _server(self._protocol)
            except SpnegoError as error:
                raise LoginUndecided(_line(error)) from None
        try:
            answer = self._context.step(token)
        except InvalidTokenError:
            raise SaslError("not a token of Windows' Negotiate or NTLM") from None
        except SpnegoError as error:
            raise _judge(error) from None
        if self._context.complete:
            self._accept(self._context.client_principal or "")
        return answer or b""

    def _look_at(self, token: bytes) -> None:
        """What Windows leaves to its policies: whether NTLM is allowed, NTLMv2 alone, and a channel binding if the
        client has one. What is read here is true if Windows then finds the message good."""
        message = _mechanism_token(token)
        if not message.startswith(SIGNATURE):
            return
        if not self._ntlm:
            raise LoginRefused("NTLM is not allowed")
        if not message.startswith(SIGNATURE + b"\3"):
            return
        try:
            claim = read_claim(message, flags_of(message))
        except NotTaken as error:
            self.user = error.user
            if not error.user:
                # A program on this computer is known without a name; somebody anonymous Windows refuses.
                return
            raise LoginRefused(str(error)) from None
        self.user = f"{claim.domain}\\{claim.user}" if claim.domain else claim.user
        if any(claim.bindings) and claim.bindings not in [hash_binding(*one) for one in self._channel.bindings]:
            raise LoginRefused("the channel binding is not that of this connection")

    def _accept(self, account: str) -> None:
        self.user = account
        try:
            identity = identify(account)
        except OSError as error:
            raise LoginUndecided(f"Windows does not say whose logon it is: {error.strerror}") from None
        if not identity.is_person:
            raise LoginRefused("a guest, or nobody's account")
        self.complete = True

    def _wrap(self, octets: bytes) -> bytes:
        assert self._context is not None
        try:
            return self._context.wrap(octets, encrypt=False).data
        except SpnegoError as error:
            raise _judge(error) from None

    def _unwrap(self, token: bytes) -> bytes:
        assert self._context is not None
        try:
            return self._context.unwrap(token).data
        except SpnegoError:
            raise LoginRefused("a signature that is not the client's") from None


def trouble(protocol: str) -> str:
    """Why Windows' "negotiate" or "ntlm" cannot be used here, "" if it can."""
    try:
        _server(protocol)
    except (SpnegoError, ImportError) as error:
        return _line(error)
    return ""


def _server(protocol: str) -> spnego.ContextProxy:
    return spnego.server(protocol=protocol, options=spnego.NegotiateOptions.use_sspi)


def _judge(error: SpnegoError) -> LoginRefused | LoginUndecided:
    code = getattr(error.base_error, "winerror", 0) or 0
    text = _line(error)
    return LoginUndecided(text) if code & 0xFFFFFFFF in _UNDECIDED else LoginRefused(text)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


def _mechanism_token(token: bytes) -> bytes:
    """What a token of SPNEGO has in it for its mechanism; any other token as it is. Raises SaslError."""
    if token[:1] == b"\xa1":
        return read_answer(token).token or b""
    opening = read_opening(token)
    return token if opening is None else opening.token or b""
