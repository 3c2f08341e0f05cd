"""Why a connection could not be had or was lost, in words, and what kind of failure that is."""

from __future__ import annotations

import errno
import os
import re
import socket
import ssl
from dataclasses import dataclass
from typing import Final

from plugmeter.telemetry.breaker import Kind


@dataclass(frozen=True, slots=True)
class Failure:
    """One failure. ``cause`` is a word for counters, ``text`` a line for people."""

    cause: str
    """dns, tcp, timeout, tls, files, refused, acl, silence, closed, reset, protocol, taken-over, twin,
    too-large, kicked, defect."""
    kind: Kind
    text: str
    unexplained: bool = False
    """The broker has closed a connection that stood, and did not say why."""


class LinkError(Exception):
    """An attempt to connect failed."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.text)
        self.failure = failure


# X509_V_ERR_* of openssl/x509_vfy.h
_NOT_YET_VALID: Final = 9
_CERTIFICATE_WORDS: Final = {
    _NOT_YET_VALID: "the broker's certificate is not valid yet (or this device's clock is behind)",
    10: "the broker's certificate has expired",
    18: "the broker's certificate is signed by itself and not by an authority in ca_file",
    19: "the broker's certificate is signed by an authority that is not in ca_file",
    20: "the broker's certificate is signed by an authority that is not in ca_file",
    21: "the broker's certificate is signed by an authority that is not in ca_file",
    23: "the broker's certificate has been revoked",
    26: "the broker's certificate is not one for a server",
    62: "the broker's certificate is for another host name",
    64: "the broker's certificate is for another address",
}
_ALERT_WORDS: Final = {
    "CERTIFICATE_REQUIRED": "the broker wants a client certificate: set certificate_file and key_file",
    "UNKNOWN_CA": "the broker does not know the authority of this device's certificate",
    "CERTIFICATE_EXPIRED": "this device's certificate has expired, says the broker",
    "CERTIFICATE_REVOKED": "this device's certificate has been revoked, says the broker",
    "CERTIFICATE_UNKNOWN": "the broker does not accept this device's certificate",
    "BAD_CERTIFICATE": "the broker does not accept this device's certificate",
    "UNSUPPORTED_CERTIFICATE": "the broker does not accept this kind of certificate",
    "ACCESS_DENIED": "the broker denies access to this device's certificate",
    "HANDSHAKE_FAILURE": "the broker ends the handshake: no common cipher, or it wants a client certificate",
    "PROTOCOL_VERSION": "the broker wants another version of TLS",
    "UNRECOGNIZED_NAME": "the broker does not know the host name that it was asked for",
    "WRONG_VERSION_NUMBER": "this port does not speak TLS",
    "HTTP_REQUEST": "this port speaks HTTP and not MQTT",
}
_REFUSALS: Final = {
    0x80: "unspecified error",
    0x81: "malformed packet",
    0x82: "protocol error",
    0x83: "implementation specific error",
    0x84: "it does not speak MQTT 5",
    0x85: "client identifier not valid",
    0x86: "bad user name or password",
    0x87: "not authorized (user, password or ACL)",
    0x88: "server unavailable",
    0x89: "server busy",
    0x8A: "banned",
    0x8B: "server shutting down",
    0x8C: "bad authentication method",
    0x8D: "keep alive timeout",
    0x8E: "another client has taken over this client identifier",
    0x90: "topic name invalid",
    0x93: "receive maximum exceeded",
    0x94: "topic alias invalid",
    0x95: "packet too large",
    0x96: "message rate too high",
    0x97: "quota exceeded",
    0x98: "administrative action",
    0x99: "payload format invalid",
    0x9A: "retain not supported",
    0x9B: "QoS not supported",
    0x9C: "use another server",
    0x9D: "server moved",
    0x9F: "connection rate exceeded",
}
_NEEDS_A_PERSON: Final = frozenset({0x84, 0x85, 0x86, 0x87, 0x8A, 0x8C, 0x9A, 0x9B, 0x9D})


def reason_words(code: int) -> str:
    """A reason code of MQTT 5 (2.4) in words."""
    return f"{_REFUSALS.get(code, 'unknown reason')} (0x{code:02X})"


def is_denial(code: int) -> bool:
    """Whether a reason code stays the same until a person changes something at the broker or here."""
    return code in _NEEDS_A_PERSON


def refusal(code: int) -> Failure:
    """The CONNACK was a no."""
    kind = Kind.REFUSED if is_denial(code) else Kind.NETWORK
    return Failure("refused", kind, f"the broker refuses the connection: {reason_words(code)}")


def ended_by_broker(code: int) -> Failure:
    """A DISCONNECT came."""
    cause = {0x8E: "taken-over", 0x95: "too-large"}.get(code, "closed")
    kind = Kind.REFUSED if is_denial(code) else Kind.NETWORK
    return Failure(cause, kind, f"the broker ends the connection: {reason_words(code)}")


def closed() -> Failure:
    """The connection ended in order, but without a DISCONNECT."""
    return Failure(
        "closed", Kind.NETWORK, "the broker closed the connection without a word", unexplained=True
    )


def twin() -> Failure:
    """Connections are closed as soon as they are made. A broker ends the older one of two with the same
    client identifier (MQTT 5, 3.1.4-3), and mosquitto 2.0.11 does not say why: each then ends the other's."""
    return Failure(
        "twin",
        Kind.NETWORK,  # the backoff is enough: it may be a broker that was restarted several times in a row
        "the broker closes each connection as soon as it is made: perhaps another device has this name"
        " (daemon.device)",
    )


def of_error(error: OSError, doing: str) -> Failure:
    """What an operating system's or TLS's error means while ``doing`` (connecting, connected)."""
    if isinstance(error, ssl.SSLError):
        return _of_tls(error)
    if isinstance(error, socket.gaierror):
        return Failure("dns", Kind.NETWORK, f"the broker's name cannot be resolved: {error.strerror}")
    if isinstance(error, TimeoutError):
        return Failure("timeout", Kind.NETWORK, "the broker does not answer in time")
    words = os.strerror(error.errno) if error.errno else str(error) or type(error).__name__
    cause = "tcp" if doing == "connecting" else "reset" if error.errno == errno.ECONNRESET else "closed"
    return Failure(cause, Kind.NETWORK, f"{doing}: {words}", unexplained=error.errno == errno.EPIPE)


def _of_tls(error: ssl.SSLError) -> Failure:
    if isinstance(error, ssl.SSLCertVerificationError):
        code = getattr(error, "verify_code", 0)
        words = _CERTIFICATE_WORDS.get(code)
        if words is None:
            words = f"the broker's certificate does not pass: {getattr(error, 'verify_message', error)}"
        # Without a battery the clock is behind until the network has told the time: no reason to wait long.
        kind = Kind.NETWORK if code == _NOT_YET_VALID else Kind.TLS
        return Failure("tls", kind, words)
    reason = getattr(error, "reason", None) or ""  # only those that OpenSSL itself raised have one
    for sign, words in _ALERT_WORDS.items():
        if sign in reason:
            return Failure("tls", Kind.TLS, words)
    if isinstance(error, (ssl.SSLEOFError, ssl.SSLZeroReturnError, ssl.SSLSyscallError)):
        return Failure("tls", Kind.NETWORK, "the connection ended during TLS's handshake or in its midst")
    plain = re.sub(r"[_\s]+", " ", reason).strip().lower() or "unknown failure"
    return Failure("tls", Kind.TLS, f"TLS: {plain}")
