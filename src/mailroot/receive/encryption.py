"""The TLS handshake of a session, by STARTTLS or at its very start, and what it tells of the client (RFC 3207)."""

import ssl
from dataclasses import dataclass

from mailroot.events import HandshakeFailed, SessionSecured
from mailroot.net.stream import Stream
from mailroot.policy.listeners import ListenerRules, LoginKind, TlsMode
from mailroot.receive.terms import Terms

_TIMEOUT = 30.0


@dataclass(frozen=True, slots=True)
class Encryption:
    """A session's TLS. `certificate` is the client's own in DER, None where it showed none; `bindings` as in
    `policy.auth.base.Channel`."""

    certificate: bytes | None
    bindings: tuple[tuple[str, bytes], ...]


async def encrypt(
    stream: Stream, terms: Terms, rules: ListenerRules, session: str, client: str
) -> Encryption | None:
    """Do the handshake; None: it failed, that has been told, and the connection is gone."""
    certificates = terms.certificates
    assert certificates is not None
    asks = terms.logins.wants_certificate and rules.offers(LoginKind.CERTIFICATE)
    context = certificates.context(rules.min_tls, ask_client=asks)
    try:
        await stream.start_tls(context, _TIMEOUT, server_side=True)
    except (ssl.SSLError, TimeoutError, ConnectionError) as error:
        # Who leaves a listener for TLS without a word is no client: load balancers look every second.
        if rules.tls is not TlsMode.IMPLICIT or not isinstance(error, ConnectionError):
            terms.bus.publish(HandshakeFailed(terms.server, session, client, _explain(error)))
        stream.abort()
        return None
    tls = stream.tls
    cipher = tls.cipher() if tls is not None else None
    version = (tls.version() if tls is not None else None) or ""
    terms.bus.publish(SessionSecured(terms.server, session, client, version, cipher[0] if cipher else ""))
    if tls is None:
        return Encryption(None, ())
    return Encryption(tls.getpeercert(binary_form=True), certificates.bindings(tls))


def _explain(error: Exception) -> str:
    if isinstance(error, ssl.SSLError) and error.reason:
        return error.reason
    return str(error) or ("time-out" if isinstance(error, TimeoutError) else "the client left")
