"""What the link keeps over its connections: what is counted, what is under way, and how long it waits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol

from plugmeter.telemetry.backoff import Backoff
from plugmeter.telemetry.breaker import Breaker
from plugmeter.telemetry.documents import Documents
from plugmeter.telemetry.guard import Guard
from plugmeter.telemetry.keepalive import Keepalive
from plugmeter.telemetry.packet_limit import PacketLimit
from plugmeter.telemetry.sender import Sender, Source
from plugmeter.telemetry.window import Window

_TOLD_LIMIT: Final = 2_000


@dataclass(frozen=True, slots=True)
class Inbound:
    """A message for the daemon: desired, cmd, or Home Assistant's birth."""

    topic: str
    payload: bytes
    retain: bool


class Acknowledged(Protocol):
    """What an acknowledgement says (acks.Acknowledgement)."""

    @property
    def stream(self) -> str: ...
    @property
    def ranges(self) -> tuple[tuple[int, int], ...]: ...


@dataclass(slots=True)
class Tally:
    """What is counted, over all connections. Only the link's thread writes."""

    counters: Counter[str] = field(default_factory=Counter)
    refusals: Counter[int] = field(default_factory=Counter)
    sent: int = 0
    resent: int = 0
    acknowledged: int = 0
    last_ack_s: float | None = None
    last_received_s: float | None = None


@dataclass(frozen=True, slots=True)
class Patience:
    """How long is waited for what, in seconds."""

    answer_s: float
    puback_s: float
    ack_s: float
    """For the controller. After so long without anything under way the outbox is read from its start."""


@dataclass(slots=True)
class Memory:
    """What outlasts a connection."""

    source: Source
    window: Window
    sender: Sender
    documents: Documents
    keepalive: Keepalive
    publishing: Breaker
    """Opens when the broker denies the records' topic."""
    publish_backoff: Backoff
    document_backoff: Backoff
    inbox: Callable[[Inbound], None]
    decode_ack: Callable[[bytes], Acknowledged]
    guard: Guard
    tally: Tally
    packet_limit: PacketLimit = field(default_factory=PacketLimit)
    told: dict[str, object] = field(default_factory=dict)
    """What the diary was told last, by subject."""

    def tell_change(self, what: str, value: object, event: str, details: Mapping[str, object]) -> None:
        """Into the diary, if ``value`` is another than that was told last of ``what``: what a broker says
        hundreds of times is told once."""
        if len(self.told) > _TOLD_LIMIT:
            self.told.clear()
        if self.told.get(what) != value:
            self.told[what] = value
            self.guard.tell(event, details)
