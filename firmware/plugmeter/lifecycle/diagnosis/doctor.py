"""All detectors together: what is wrong now, and what has just begun or ended."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from plugmeter.lifecycle.diagnosis.fd_leak import FdLeak
from plugmeter.lifecycle.diagnosis.finding import Change, Finding
from plugmeter.lifecycle.diagnosis.half_open import HalfOpen
from plugmeter.lifecycle.diagnosis.run_failures import RunFailures
from plugmeter.lifecycle.diagnosis.spinning import Spinning
from plugmeter.lifecycle.diagnosis.stuck import Stuck
from plugmeter.lifecycle.diagnosis.tls_handshakes import TlsHandshakes
from plugmeter.lifecycle.diagnosis.twin import Twin
from plugmeter.lifecycle.samples import Observation

_S = 1_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """When something counts as wrong. The first three are keys of [lifecycle]."""

    stuck_s: float = 20.0
    fd_growth: int = 64
    spin_wakeups_per_s: float = 2_000
    spin_s: float = 3.0
    fd_window_s: float = 10.0
    unanswered_s: float = 10.0
    """Without any answer, while TCP sends again and again."""
    silent_s: float = 10.0
    """Without any answer, while TCP knows of nothing wrong. Less than the 15 s after which the link gives
    such a connection up by itself, without saying what was wrong with it."""
    tls_failures: int = 3
    tls_window_s: float = 600.0
    run_failures: int = 3
    """In a row."""


class _Detector(Protocol):
    def look(self, seen: Observation) -> list[Finding]: ...


class Doctor:
    """To be asked about once a second, by one thread. Pure: it knows only what it is shown.

    ``whereabouts`` says where a worker's thread is just now (``lifecycle.whereabouts``); it is asked once for
    each worker that is found stuck.
    """

    def __init__(self, limits: Limits, whereabouts: Callable[[str], str] = lambda worker: "") -> None:
        self._detectors: tuple[_Detector, ...] = (
            FdLeak(limits.fd_growth, round(limits.fd_window_s * _S)),
            HalfOpen(round(limits.unanswered_s * _S), round(limits.silent_s * _S)),
            TlsHandshakes(limits.tls_failures, round(limits.tls_window_s * _S)),
            Twin(),
            RunFailures(limits.run_failures),
            Spinning(limits.spin_wakeups_per_s, round(limits.spin_s * _S)),
            Stuck(round(limits.stuck_s * _S), whereabouts),
        )
        self.findings: tuple[Finding, ...] = ()
        """What is wrong now. Replaced as a whole: any thread may read it."""
        self.looked_ns: int | None = None
        """When it was last asked (Observation.now_ns)."""

    def look(self, seen: Observation) -> tuple[Change, ...]:
        """What ended and what began with this observation, each told once; those that ended come first."""
        before = self.findings
        self.findings = tuple(finding for each in self._detectors for finding in each.look(seen))
        self.looked_ns = seen.now_ns
        ended = [Change(each, seen.now_ns) for each in before if each not in self.findings]
        return (*ended, *(Change(each) for each in self.findings if each not in before))


def headline(findings: Sequence[Finding]) -> str:
    """All findings in a few words of ASCII, for STATUS; empty where there are none."""
    return "; ".join(each.headline for each in findings)
