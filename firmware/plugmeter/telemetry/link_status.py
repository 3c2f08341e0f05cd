"""How the link is doing, as a snapshot that anyone may hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum


class LinkState(Enum):
    """What the link is at."""

    OFF = "off"
    """No broker is configured, or goodbye was said, or it was stopped."""
    CONNECTING = "connecting"
    CONNECTED = "connected"
    WAITING = "waiting"
    """The network failed; the next attempt is at ``next_attempt_ns``."""
    BROKEN = "broken"
    """The broker refuses us, or a certificate is wrong: the breaker is open until ``next_attempt_ns``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkStatus:
    """One moment of the link. Times are monotonic (CLOCK_MONOTONIC) nanoseconds."""

    state: LinkState
    since_ns: int
    broker: str
    address: str = ""
    """The address that the broker's name gave, of the last attempt."""
    in_flight: int = 0
    """Batches that were sent and wait for their acknowledgement."""
    window: int = 0
    """How many there may be at the moment."""
    unacknowledged_records: int = 0
    """Numbers that were sent on this connection and are not acknowledged."""
    oldest_unacknowledged_ns: int | None = None
    """When the oldest of them was first sent."""
    unanswered_ns: int | None = None
    """Since when the broker owes an answer to what was sent on this connection (PUBACK, PINGRESP, ...)."""
    last_received_ns: int | None = None
    """When the broker last said anything, on this or an earlier connection."""
    last_ack_ns: int | None = None
    """When the controller last acknowledged records of our stream."""
    keepalive_s: float = 0.0
    connects: int = 0
    failures: Mapping[str, int] = field(default_factory=dict)
    """By cause (failures.Failure.cause)."""
    last_failure: str | None = None
    """In words; None if there was none since the last connection stood."""
    distrusts: bool = False
    """A failed TLS handshake has opened the breaker, and no connection has closed it since."""
    twin: bool = False
    """The broker has closed connections as soon as they were made: perhaps another device has this name."""
    breaker: str = "closed"
    """closed, open or half-open; for the connection, or for publishing where that is what is denied."""
    next_attempt_ns: int | None = None
    publish_refusals: Mapping[int, int] = field(default_factory=dict)
    """By reason code of the PUBACK, from 0x80 on; 0x10 (nobody listens) as well."""
    tls_failures: int = 0
    left_online: bool = False
    """A kick has said DISCONNECT, and no connection has been made since: the broker retains "online", and
    there is no last will that would put it right."""
    socket: int | None = None
    """The connection's descriptor, for a look at its TCP state."""
    draining: bool = False
    sent: int = 0
    """Records given to the broker, again ones included."""
    resent: int = 0
    """How many of these had been sent before."""
    acknowledged: int = 0
    """Numbers acknowledged by the controller while they were under way."""
    counters: Mapping[str, int] = field(default_factory=dict)
    """What else is counted; see link.Link."""
