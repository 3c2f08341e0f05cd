"""What a detector says: a finding, with its evidence and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

Name = Literal["fd_leak", "half_open", "tls_handshakes", "twin", "run_failures", "spinning", "stuck"]
Remedy = Literal["reconnect", "breaker", "restart_worker", "none"]

NAMES: Final[tuple[Name, ...]] = (
    "fd_leak", "half_open", "tls_handshakes", "twin", "run_failures", "spinning", "stuck",
)  # fmt: skip

PROCESS: Final = "process"
"""The worker of a finding that no single worker is to blame for."""
LINK: Final = "link"
RUNNER: Final = "runner"

_REMEDIES: Final[dict[tuple[Name, str], Remedy]] = {
    ("spinning", "link"): "reconnect",
    ("spinning", "metrics"): "restart_worker",
    ("spinning", "runner"): "restart_worker",
    ("stuck", "link"): "restart_worker",
    ("stuck", "metrics"): "restart_worker",
    ("stuck", "runner"): "restart_worker",
}


def remedy_for(name: Name, worker: str) -> Remedy:
    """What may be done to a worker that spins or is stuck.

    The others hold state that must not be torn from their hands: where one of them stays stuck, the watchdog
    starves, and systemd restarts the daemon.
    """
    return _REMEDIES.get((name, worker), "none")


@dataclass(frozen=True, slots=True)
class Finding:
    """Something is wrong, since ``since_ns`` (CLOCK_MONOTONIC). Told once, with that moment's evidence."""

    name: Name
    worker: str
    since_ns: int
    evidence: str
    """One line for people."""
    remedy: Remedy

    @property
    def headline(self) -> str:
        """As STATUS of systemd shows it: a few words of ASCII."""
        words = _HEADLINES[self.name]
        who = self.worker.encode("ascii", "replace").decode()
        return f"{who} {words}" if self.name in ("spinning", "stuck") else words


_HEADLINES: Final[dict[Name, str]] = {
    "fd_leak": "descriptors leak",
    "half_open": "broker connection half-open",
    "tls_handshakes": "TLS handshakes fail",
    "twin": "perhaps another device of this name",
    "run_failures": "runs fail",
    "spinning": "spins",
    "stuck": "is stuck",
}


@dataclass(frozen=True, slots=True)
class Change:
    """A finding began (``ended_ns`` None: now is the time for its remedy) or ended."""

    finding: Finding
    ended_ns: int | None = None


def seconds(duration_ns: int) -> str:
    """A duration for evidence, to three digits: ``31.5 s``."""
    return f"{duration_ns / 1e9:.3g} s"
