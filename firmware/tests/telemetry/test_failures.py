"""What a failure means: which word, which kind."""

from __future__ import annotations

import errno
import socket
import ssl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugmeter.telemetry.breaker import Kind
from plugmeter.telemetry.failures import ended_by_broker, is_denial, of_error, reason_words, refusal


@pytest.mark.parametrize(
    ("error", "cause", "kind"),
    [
        (socket.gaierror(socket.EAI_NONAME, "Name or service not known"), "dns", Kind.NETWORK),
        (TimeoutError(errno.ETIMEDOUT, "timed out"), "timeout", Kind.NETWORK),
        (ConnectionRefusedError(errno.ECONNREFUSED, "refused"), "tcp", Kind.NETWORK),
        (OSError(errno.EHOSTUNREACH, "no route"), "tcp", Kind.NETWORK),
        (OSError("without a number"), "tcp", Kind.NETWORK),
        (ssl.SSLEOFError(8, "EOF"), "tls", Kind.NETWORK),
        (ssl.SSLError(1, "something"), "tls", Kind.TLS),
    ],
)
def test_errors(error: OSError, cause: str, kind: Kind) -> None:
    failure = of_error(error, "connecting")
    assert (failure.cause, failure.kind) == (cause, kind)
    assert failure.text and "\n" not in failure.text


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (0x86, Kind.REFUSED),
        (0x87, Kind.REFUSED),
        (0x8A, Kind.REFUSED),
        (0x85, Kind.REFUSED),
        (0x84, Kind.REFUSED),
        (0x88, Kind.NETWORK),
        (0x89, Kind.NETWORK),
        (0x97, Kind.NETWORK),
        (0x9F, Kind.NETWORK),
    ],
)
def test_refusals(code: int, kind: Kind) -> None:
    assert refusal(code).kind is kind
    assert is_denial(code) == (kind is Kind.REFUSED)


@pytest.mark.parametrize(
    ("code", "cause"), [(0x8E, "taken-over"), (0x95, "too-large"), (0x8B, "closed"), (0x00, "closed")]
)
def test_ends(code: int, cause: str) -> None:
    assert ended_by_broker(code).cause == cause


@given(st.integers(0, 255))
def test_every_code_has_words(code: int) -> None:
    assert f"0x{code:02X}" in reason_words(code)
