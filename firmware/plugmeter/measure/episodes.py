"""Edges of one port's VBUS line in, episodes and ambiguous pulses out.

A level is *stable* once it has lasted the debounce time: 100 ms by default, as in the USB core
(HUB_DEBOUNCE_STABLE, drivers/usb/core/hub.c). A stable level that differs from the last stable one
is an episode, a plug or a pull. A shorter level is an ambiguous pulse: the kernel may or may not have
seen it, so it is reported and never counted as expected.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from plugmeter.records import Edge


@dataclass(frozen=True, slots=True)
class Episode:
    """One plug (``plugged``) or pull that surely happened.

    ``ordinal`` counts the port's episodes from 1. ``t_start_ns`` is the edge that began the stable level:
    the moment from which latency is measured. ``t_stable_ns`` is when it became certain, one debounce
    time later. Both are CLOCK_MONOTONIC. ``unrest_ns`` is for how long the contact had bounced before: the
    kernel acts on the first fall of a pull (hub_port_connect_change), not on the last.
    """

    port: str
    ordinal: int
    plugged: bool
    t_start_ns: int
    t_stable_ns: int
    unrest_ns: int = 0

    @property
    def t_first_ns(self) -> int:
        """The first edge of the unrest that the stable level came out of; ``t_start_ns`` where none was."""
        return self.t_start_ns - self.unrest_ns


@dataclass(frozen=True, slots=True)
class AmbiguousPulse:
    """One level (``high`` or low) that lasted less than the debounce time, from t_from_ns to t_until_ns."""

    port: str
    t_from_ns: int
    t_until_ns: int
    high: bool


Finding: TypeAlias = Episode | AmbiguousPulse


class EpisodeDetector:
    """The debouncer of one port: constant memory, event time only.

    ``advance(now_ns)`` says that every edge before ``now_ns`` has been fed. Findings come in the same
    order and with the same values however advances and feeds are interleaved, because feeding an edge
    advances to that edge's own time first. The level at the start is taken as stable and is no episode.

    ``anomalies`` counts the edges that cannot be true as they stand: a direction twice in a row (the edge
    between was lost; the level stays) and an edge older than what is already decided (it is moved up to
    that moment). Neither is discarded silently, and either costs a run its certificate elsewhere.
    """

    __slots__ = (
        "_debounce_ns",
        "_floor_ns",
        "_high",
        "_most_unrest_ns",
        "_ordinal",
        "_restless_ns",
        "_settled",
        "_since_ns",
        "_stable_high",
        "anomalies",
        "port",
    )

    def __init__(
        self, port: str, debounce_ns: int, initially_high: bool, most_unrest_ns: int | None = None
    ) -> None:
        """``most_unrest_ns``: an episode's ``unrest_ns`` is at most this (None: twice the debounce)."""
        if debounce_ns < 0:
            raise ValueError(f"debounce_ns is {debounce_ns}, it cannot be negative")
        self.port = port
        self.anomalies = 0
        self._debounce_ns = debounce_ns
        self._high = initially_high
        self._stable_high = initially_high
        self._settled = True
        self._since_ns = 0
        self._floor_ns = 0  # no edge may be older: the last edge, or the moment of the last decision
        self._ordinal = 0
        self._restless_ns = 0  # when the unrest began that is not settled yet
        self._most_unrest_ns = 2 * debounce_ns if most_unrest_ns is None else most_unrest_ns

    def feed(self, edge: Edge) -> list[Finding]:
        """What this edge decides. Raises ValueError for an edge of another port, a defect of the caller."""
        if edge.port != self.port:
            raise ValueError(f"an edge of port {edge.port} was fed to the detector of port {self.port}")
        t_ns = edge.t_ns
        findings = self.advance(t_ns)
        if edge.rising == self._high:
            self.anomalies += 1
            return findings
        if t_ns < self._floor_ns:
            self.anomalies += 1
            t_ns = self._floor_ns
        if not self._settled:
            findings.append(AmbiguousPulse(self.port, self._since_ns, t_ns, self._high))
        else:
            self._restless_ns = t_ns
        self._high = edge.rising
        self._since_ns = self._floor_ns = t_ns
        self._settled = False
        return findings

    def advance(self, now_ns: int) -> list[Finding]:
        """The episode that has become stable by ``now_ns``, if there is one."""
        if self._settled or now_ns - self._since_ns < self._debounce_ns:
            return []
        t_stable_ns = self._since_ns + self._debounce_ns
        self._settled = True
        self._floor_ns = t_stable_ns
        if self._high == self._stable_high:
            return []
        self._stable_high = self._high
        self._ordinal += 1
        unrest_ns = min(self._since_ns - self._restless_ns, self._most_unrest_ns)
        return [Episode(self.port, self._ordinal, self._high, self._since_ns, t_stable_ns, unrest_ns)]

    def finish(self, now_ns: int) -> list[Finding]:
        """As ``advance``, and a last level that is not yet stable is ambiguous: nothing is left open."""
        findings = self.advance(now_ns)
        if not self._settled:
            t_until_ns = max(now_ns, self._since_ns)
            findings.append(AmbiguousPulse(self.port, self._since_ns, t_until_ns, self._high))
            self._settled = True
            self._floor_ns = t_until_ns
        return findings
