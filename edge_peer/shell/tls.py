"""TLS to the broker: both sides authenticated; whatever goes wrong is told with the field and the remedy."""

from __future__ import annotations

import contextlib
import ssl
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from edge_peer.config import BrokerSection
from edge_peer.errors import ConfigError
from edge_peer.shell.x509 import Certificate, read_certificates, untimely

#: OpenSSL's reasons to refuse the broker's certificate (`man verify`).
NOT_YET_VALID = 9
EXPIRED = 10
OTHER_HOST = frozenset({62, 64})
#: It is its own authority, or no authority, or another, or one of the same name with another key, has signed it.
UNKNOWN_AUTHORITY = frozenset({2, 7, 18, 19, 20, 21, 30})
#: What comes of a hello to something that does not speak TLS.
NO_TLS = ("WRONG_VERSION_NUMBER", "UNEXPECTED_EOF", "HTTP_REQUEST", "RECORD_LAYER_FAILURE", "UNKNOWN_PROTOCOL")


class TlsSocket(ssl.SSLSocket):
    """Remembers why the broker ended the connection: with TLS 1.3 it refuses a certificate after the handshake.

    paho tells of such an alert only that the connection was lost.
    """

    alert: ssl.SSLError | None = None

    def recv(self, buflen: int = 1024, flags: int = 0) -> bytes:
        """As in the base class."""
        try:
            return super().recv(buflen, flags)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except ssl.SSLError as error:
            self.alert = error
            raise

    def send(self, data: Any, flags: int = 0) -> int:
        """As in the base class."""
        try:
            return super().send(data, flags)
        except (ConnectionError, ssl.SSLEOFError):
            # What the broker said before it closed can still be read.
            with contextlib.suppress(OSError):
                self.recv(1)
            raise


def tls_context(broker: BrokerSection, owner: str | None = None) -> ssl.SSLContext:
    """TLS 1.2 or newer, both sides authenticated.

    Args:
        broker: With all three TLS files.
        owner: Whose certificate it must be; None: anybody's.

    Raises:
        ConfigError: Names the file that is of no use.
    """
    files = {"tls_ca": broker.tls_ca, "tls_certificate": broker.tls_certificate, "tls_key": broker.tls_key}
    problems = []
    for name, path in files.items():
        try:
            if path is None or not path.read_bytes().strip():
                problems.append(f"[broker] {name} = {str(path)!r}: empty; make it anew")
        except OSError as error:
            problems.append(f"[broker] {name} = {str(path)!r}: {error.strerror}; correct the path, or make it anew")
    if problems:
        raise ConfigError(problems)
    # Before anything else that could fail, because it explains the most.
    own = own_certificate(broker)
    if owner is not None and own.common_name != owner:
        raise ConfigError([other_name(broker, own, owner)])
    try:
        context = ssl.create_default_context(cafile=str(broker.tls_ca))
    except (OSError, ValueError) as error:
        raise ConfigError(
            [f"[broker] tls_ca = {_quoted(broker.tls_ca)}: no PEM file ({error}); make it anew"]
        ) from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.sslsocket_class = TlsSocket
    try:
        # Without a password, OpenSSL would ask for one on the terminal of a daemon.
        context.load_cert_chain(str(broker.tls_certificate), str(broker.tls_key), _no_password)
    except (OSError, ValueError) as error:
        raise ConfigError([_chain_problem(broker, error)]) from None
    return context


def own_certificate(broker: BrokerSection) -> Certificate:
    """What this peer's certificate says of itself; raises ConfigError when it cannot be read."""
    where = f"[broker] tls_certificate = {_quoted(broker.tls_certificate)}"
    if broker.tls_certificate is None:
        raise ConfigError([f"{where}: missing; name the file"])
    try:
        return read_certificates(broker.tls_certificate.read_bytes())[0]
    except OSError as error:
        raise ConfigError([f"{where}: {error.strerror}; correct the path, or make it anew"]) from None
    except ValueError as error:
        raise ConfigError([f"{where}: {error}; make it anew (make certs)"]) from None


def other_name(broker: BrokerSection, own: Certificate, peer: str) -> str:
    """The problem of a certificate that is another's."""
    return (
        f"[broker] tls_certificate = {_quoted(broker.tls_certificate)}: its common name is {own.common_name!r}, but "
        f"[peer] name = {peer!r}: the broker would let it write under the former only; correct the name, or make a "
        f"certificate for {peer} (make certs)"
    )


def explain(error: OSError, broker: BrokerSection) -> str:
    """Why the TLS connection failed: what the other side, or OpenSSL, said, the field that it is about, the remedy."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is refused: {error.verify_message}: {_verification(error.verify_code, broker)}"
    reason = getattr(error, "reason", None) or ""
    if "ALERT" in reason:
        return _alert(reason, broker)
    if isinstance(error, ssl.SSLEOFError | ConnectionError) or any(name in reason for name in NO_TLS):
        return (
            f"no TLS is spoken there ({error.strerror or error}): [broker] port = {broker.address[1]} must be that of "
            "the broker's TLS listener, such as 8883; or leave out tls_ca, tls_certificate and tls_key"
        )
    if isinstance(error, TimeoutError):
        return f"no TLS handshake within [broker] connect_timeout_s = {broker.connect_timeout_s:g}"
    return str(error.strerror or error)


def _verification(code: int, broker: BrokerSection) -> str:
    now = f"this board's clock says {_now():%Y-%m-%d %H:%M} UTC"
    if code in OTHER_HOST:
        return (
            f"[broker] host = {broker.host!r} is none of the names in it; write one that is, or make the broker's "
            "certificate anew with this one (make certs)"
        )
    if code == EXPIRED:
        return f"{now}; if that is right, make the broker's certificate anew (make certs), else set the clock"
    if code == NOT_YET_VALID:
        return f"{now}; set the clock (timedatectl)"
    if code in UNKNOWN_AUTHORITY:
        return (
            f"[broker] tls_ca = {_quoted(broker.tls_ca)} has not signed it; take the ca.crt of the broker's fleet, or "
            "see whether this is the right broker"
        )
    return f"make it anew (make certs), or look at [broker] tls_ca = {_quoted(broker.tls_ca)}"


def _alert(reason: str, broker: BrokerSection) -> str:
    name = reason.rpartition("ALERT_")[2].lower().replace("_", " ")
    if name in ("protocol version", "handshake failure", "insufficient security"):
        return f"speaks no TLS that this peer takes ({name}): it must offer TLS 1.2 or newer"
    where = f"[broker] tls_certificate = {_quoted(broker.tls_certificate)}"
    remedy = "take the certificate that the fleet's authority has made for this peer"
    try:
        remedy = untimely(own_certificate(broker), _now()) or remedy
    except ConfigError as error:
        remedy = str(error)
    if name == "certificate expired":
        # By the broker's clock; by this board's it need not be so.
        remedy = "make it anew (make certs), or set the broker's clock if that is wrong"
    elif name == "unknown ca":
        remedy = "the broker's cafile has not signed it: take the certificate of the broker's fleet, or correct cafile"
    elif name == "unsupported certificate":
        remedy = "it is not made for clients (extended key usage): take this peer's own, not the broker's"
    return f"refuses this peer's certificate ({name}): {where}: {remedy}"


def _chain_problem(broker: BrokerSection, error: Exception) -> str:
    reason = getattr(error, "reason", None) or ""
    certificate, key = _quoted(broker.tls_certificate), _quoted(broker.tls_key)
    if reason in {"KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH"}:
        return f"[broker] tls_key = {key} is not the key of tls_certificate = {certificate}: copy both anew, as a pair"
    if isinstance(error, _LockedKeyError):
        return f"[broker] tls_key = {key} needs a password, and nobody is there to give it: store it without one"
    return (
        f"[broker] tls_certificate = {certificate}, tls_key = {key}: no PEM files that fit each other ({error}); make "
        "them anew"
    )


class _LockedKeyError(ValueError):
    """The key is encrypted."""


def _no_password() -> str:
    raise _LockedKeyError("the key is encrypted")


def _quoted(path: Path | None) -> str:
    return repr(str(path))


def _now() -> datetime:
    return datetime.now(timezone.utc)
