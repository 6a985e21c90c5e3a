"""The server's certificates: read from PEM and PKCS#12 files, chosen by name (SNI), read again when files change.

Knows TLS, not what is spoken over it. A file that cannot be used never takes a certificate out of use that could
be: it is read whole or not at all. No private key is written anywhere in the clear.
"""

import ssl
import sys
import threading
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex

from mailroot.net.certificate_file import Certificate, CertificateInfo, read_certificate
from mailroot.net.tls import CertificateError, CertificateFile, TlsVersion

__all__ = ["CertificateInfo", "Certificates", "Loaded", "Refused", "ignore_unreadable_names"]

_MINIMUM = {
    # Not TLSv1: it is the oldest there is, SSL 3.0 being switched off, and can be said without a warning.
    TlsVersion.TLS_1_0: ssl.TLSVersion.MINIMUM_SUPPORTED,
    TlsVersion.TLS_1_1: ssl.TLSVersion.TLSv1_1,
    TlsVersion.TLS_1_2: ssl.TLSVersion.TLSv1_2,
    TlsVersion.TLS_1_3: ssl.TLSVersion.TLSv1_3,
}
_OLD = (TlsVersion.TLS_1_0, TlsVersion.TLS_1_1)
# TLS 1.0 and 1.1 sign with SHA-1 and MD5, which OpenSSL 3 does at level 0 only; and old clients may know no key
# exchange but RSA's own. What gives no safety at all stays out.
_OLD_CIPHERS = (
    "ECDHE+AESGCM:ECDHE+CHACHA20:ECDHE+AES:RSA+AESGCM:RSA+AES:RSA+3DES:!aNULL:!eNULL:!aDSS:!PSK:@SECLEVEL=0"
)

_State = tuple[int, int, int] | None
"""Modified when (ns), size and number of a file; None: it cannot be looked at."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A changed certificate is in use now."""

    info: CertificateInfo


@dataclass(frozen=True, slots=True)
class Refused:
    """A changed file cannot be used; the certificate it had stays in use."""

    file: str
    reason: str


class _Context(ssl.SSLContext):
    """A context that knows its certificate's channel binding."""

    end_point: bytes = b""


_Kind = tuple[TlsVersion, bool]
"""What contexts are asked for: the oldest version, and whether clients are asked for a certificate."""


class _Served:
    """A certificate, and the contexts made of it so far."""

    def __init__(self, certificate: Certificate, anchors: str) -> None:
        self.certificate = certificate
        self._anchors = anchors
        self._contexts: dict[_Kind, _Context] = {}

    def context(self, kind: _Kind) -> _Context:
        """The context of that kind. Raises CertificateError where OpenSSL does not take the certificate."""
        found = self._contexts.get(kind)
        if found is None:
            found = self._contexts[kind] = self._new_context(*kind)
        return found

    def _new_context(self, minimum: TlsVersion, ask_client: bool) -> _Context:
        context = _Context(ssl.PROTOCOL_TLS_SERVER)
        if minimum in _OLD:
            warnings.filterwarnings("ignore", r"ssl\.TLSVersion\.TLSv1", DeprecationWarning)
            context.set_ciphers(_OLD_CIPHERS)
        context.minimum_version = _MINIMUM[minimum]
        context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
        # No tickets: a session is one connection, and a ticket sent after the handshake is one more packet.
        context.num_tickets = 0
        if ask_client and self._anchors:
            context.verify_mode = ssl.CERT_OPTIONAL
            # A pinned certificate is trusted by itself, whoever signed it.
            context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
            context.load_verify_locations(cadata=self._anchors)
        _load(context, self.certificate)
        context.end_point = self.certificate.end_point
        return context


class _InUse:
    """The certificates that serve now. Replaced as a whole."""

    def __init__(self, served: Sequence[_Served]) -> None:
        self.served = tuple(served)
        self._begin: dict[_Kind, _Context] = {}

    @property
    def kinds(self) -> tuple[_Kind, ...]:
        """What has been asked for so far."""
        return tuple(self._begin)

    def context(self, kind: _Kind) -> _Context:
        """The context that connections begin with. What is asked for there holds (oldest version, verification),
        whichever certificate is chosen after: contexts of a kind are alike but for their certificate."""
        found = self._begin.get(kind)
        if found is None:
            by_name = {
                name: one.context(kind) for one in reversed(self.served) for name in one.certificate.info.names
            }
            found = self.served[0].context(kind)
            if len(self.served) > 1:
                _choose_by_name(found, by_name)
            self._begin[kind] = found
        return found


class Certificates:
    """The certificates of a virtual server; the first serves clients that ask for none of the names.

    `client_anchors`: PEM files of the authorities of client certificates, and of certificates that are trusted
    themselves. They are read now and stay as they are. Blocks while it reads; raises CertificateError.
    """

    def __init__(self, files: Sequence[CertificateFile], *, client_anchors: Sequence[Path] = ()) -> None:
        if not files:
            raise CertificateError("no certificate is given")
        self._files = tuple(files)
        self._turn = threading.Lock()
        # Looked at before they are read: a change in between is seen the next time.
        self._states = [_states(file) for file in self._files]
        self._anchors = _read_anchors(client_anchors)
        self._in_use = _InUse([_Served(read_certificate(file), self._anchors) for file in self._files])
        self._in_use.context((TlsVersion.TLS_1_2, bool(client_anchors)))

    def context(self, minimum: TlsVersion, *, ask_client: bool) -> ssl.SSLContext:
        """For new connections: with versions from `minimum` on; `ask_client`: clients are asked for a certificate,
        and need not have one."""
        return self._in_use.context((minimum, ask_client))

    def refresh(self) -> list[Loaded | Refused]:
        """Read again what has changed, and what became of it; what is refused is so each time, until it
        can be used. Connections that stand go on as they are. Blocks."""
        with self._turn:
            return self._refresh()

    def _refresh(self) -> list[Loaded | Refused]:
        found: list[Loaded | Refused] = []
        kinds, served = self._in_use.kinds, list(self._in_use.served)
        for n, file in enumerate(self._files):
            states = _states(file)
            if states == self._states[n]:
                continue
            try:
                fresh = _Served(read_certificate(file), self._anchors)
                for kind in kinds:
                    fresh.context(kind)
            except CertificateError as error:
                # Tried again the next time: it may be no fault of the file's.
                found.append(Refused(str(file.file), str(error)))
                continue
            self._states[n] = states
            if fresh.certificate != served[n].certificate:
                served[n] = fresh
                found.append(Loaded(fresh.certificate.info))
        if tuple(served) != self._in_use.served:
            in_use = _InUse(served)
            for kind in kinds:
                in_use.context(kind)
            self._in_use = in_use
        return found

    def shown(self) -> tuple[CertificateInfo, ...]:
        """What is in use, in the order of the files."""
        return tuple(one.certificate.info for one in self._in_use.served)

    def bindings(self, tls: ssl.SSLObject | None) -> tuple[tuple[str, bytes], ...]:
        """The channel bindings of a connection (RFC 5929), by name; none where there is no TLS."""
        if tls is None:
            return ()
        found: list[tuple[str, bytes]] = []
        # RFC 9266 §3: what is unique to a connection is not so in TLS 1.3.
        if tls.version() in ("TLSv1", "TLSv1.1", "TLSv1.2") and (unique := tls.get_channel_binding("tls-unique")):
            found.append(("tls-unique", unique))
        # The context is that of the certificate which this client was given, by the name it asked for.
        if isinstance(tls.context, _Context) and tls.context.end_point:
            found.append(("tls-server-end-point", tls.context.end_point))
        return tuple(found)


def ignore_unreadable_names() -> None:
    """Once per process, for a server. A name that is not ASCII fails the handshake in Python's ssl, which writes a
    traceback to standard error, too: a stranger could fill a log with it."""
    tell = sys.unraisablehook

    def tell_the_rest(unraisable: "sys.UnraisableHookArgs") -> None:
        if not (isinstance(unraisable.exc_value, UnicodeDecodeError) and isinstance(unraisable.object, bytes)):
            tell(unraisable)

    sys.unraisablehook = tell_the_rest


# Files


def _states(file: CertificateFile) -> list[_State]:
    return [_state(path) for path in (file.file, file.key) if path is not None]


def _state(path: Path) -> _State:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


def _read_anchors(files: Sequence[Path]) -> str:
    """The certificates of these files in PEM."""
    found = []
    for file in files:
        try:
            text = file.read_text("ascii", errors="replace")
        except OSError as error:
            raise CertificateError(f"{file}: cannot be read: {(error.strerror or str(error)).lower()}") from None
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(cadata=text)
        except (ssl.SSLError, ValueError):
            raise CertificateError(f"{file}: right would be a PEM file with a certificate") from None
        found.append(text)
    return "\n".join(found)


# Contexts


def _load(context: ssl.SSLContext, certificate: Certificate) -> None:
    """Give the certificate and its key to OpenSSL, which takes them from a file only: the key lies there encrypted
    with a passphrase that nobody keeps."""
    import tempfile  # here: a server without TLS does not need it

    passphrase = token_hex(32)
    try:
        with tempfile.TemporaryDirectory(prefix="mailroot-", ignore_cleanup_errors=True) as folder:
            file = Path(folder, "certificate.pem")
            file.touch(0o600)
            file.write_bytes(certificate.pem(passphrase))
            context.load_cert_chain(file, password=passphrase)
    except ssl.SSLError as error:
        reason = (error.reason or str(error)).replace("_", " ").lower()
        raise CertificateError(f"{certificate.info.file}: TLS cannot use it: {reason}") from None
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise CertificateError(f"{certificate.info.file}: no temporary file can be made for it: {reason}") from None


def _choose_by_name(context: ssl.SSLContext, by_name: Mapping[str, ssl.SSLContext]) -> None:
    def choose(tls: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> None:
        # RFC 6066 §3 would let us refuse an unknown name; the client knows better whom it trusts.
        if name:
            name = name.lower().rstrip(".")
            # RFC 6125 §6.4.3: a wildcard stands for one label.
            found = by_name.get(name) or by_name.get(f"*.{name.partition('.')[2]}")
            if found is not None:
                tls.context = found

    context.sni_callback = choose
