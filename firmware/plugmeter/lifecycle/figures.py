"""All that metrics, probes and the status tell, in one frozen value that the daemon fills. Pure.

Times are CLOCK_MONOTONIC in nanoseconds, to be compared with ``Figures.now_ns``. Counters never fall while
the daemon runs (but for those of an outbox whose stream began anew).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from plugmeter.lifecycle.diagnosis.finding import Finding
from plugmeter.lifecycle.health import Drain, LogLine
from plugmeter.lifecycle.samples import ProcessSample, WorkerSample

STAGES: Final = ("initializing", "running", "terminating", "draining", "stopped")
LINK_STATES: Final = ("off", "connecting", "connected", "waiting", "broken")


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboxFigures:
    """The outbox's books (telemetry.record.Account), and whether it can write."""

    stream: str = ""
    produced: int = 0
    acknowledged: int = 0
    tombstoned: int = 0
    pending: int = 0
    unannounced: int = 0
    bytes: int = 0
    trouble: str | None = None
    counters: dict[str, int] = field(default_factory=dict)
    """commits, evicted, intake_full, too_large, absurd_acks, write_errors, ..."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkFigures:
    """The link to the broker."""

    state: str = "off"
    since_ns: int | None = None
    """When it came into this state."""
    broker: str = ""
    connects: int = 0
    failures: dict[str, int] = field(default_factory=dict)
    """By cause."""
    in_flight: int = 0
    unacknowledged: int = 0
    """Records that are sent and wait for the controller."""
    oldest_unacknowledged_ns: int | None = None
    last_received_ns: int | None = None
    next_attempt_ns: int | None = None
    keepalive_s: float = 0.0
    breaker: str = ""
    counters: dict[str, int] = field(default_factory=dict)
    """sent, resent, tls_failures, ..."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFigures:
    """The measurement. Episodes, lost and witness records are of all runs since the daemon began."""

    state: str = "none"
    """none, starting, running, ending, failed: for people."""
    rig: str = ""
    expected: int = 0
    """This and what follows up to ``lost``: of the run under way."""
    matched: int = 0
    late: int = 0
    lost: int = 0
    certificate: str = ""
    """valid, invalid, or nothing yet: of the last run that ended with a report, and never of one under way or
    of one that failed."""
    verdict: str = ""
    """That report in one sentence, where there is one."""
    failure: str = ""
    """Why the last run failed, while none has come up since."""
    episodes_total: dict[str, int] = field(default_factory=dict)
    """By outcome: matched, late, lost, ambiguous, ..."""
    lost_total: dict[str, int] = field(default_factory=dict)
    """By stage of loss (measure.stages.Stage)."""
    witnesses: dict[str, dict[str, int]] = field(default_factory=dict)
    """By witness: offered, delivered, lost, pending."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """The daemon at one moment."""

    now_ns: int = 0
    version: str = ""
    device: str = ""
    pid: int = 0
    stage: str = ""
    outbox: OutboxFigures | None = None
    link: LinkFigures | None = None
    run: RunFigures | None = None
    process: ProcessSample | None = None
    workers: tuple[WorkerSample, ...] = ()
    findings: tuple[Finding, ...] = ()
    looked_ns: int | None = None
    """When the self-diagnosis last looked (``Doctor.looked_ns``)."""
    stuck_s: float = 20.0
    """[lifecycle] stuck_s: after so long without a look nobody is sure that anything moves."""
    signals: dict[str, int] = field(default_factory=dict)
    """Received so far, by name."""
    drains: dict[str, int] = field(default_factory=dict)
    """Drains so far, by result, those of earlier lives included."""
    discards: dict[str, int] = field(default_factory=dict)
    """Whatever else was thrown away, by where."""
    commands: dict[str, int] = field(default_factory=dict)
    """Messages that came in as commands, by what became of them (``Operator.counters``)."""
    http: dict[str, int] = field(default_factory=dict)
    """``MetricsServer.counters``."""
    last_errors: tuple[LogLine, ...] = ()
    last_drains: tuple[Drain, ...] = ()


def liveness(figures: Figures) -> tuple[str, ...]:
    """Why the daemon is not alive, a line each; empty while every worker moves."""
    reasons = [finding.evidence for finding in figures.findings if finding.name == "stuck"]
    if figures.looked_ns is not None:
        ago_s = (figures.now_ns - figures.looked_ns) / 1e9
        if ago_s > figures.stuck_s:
            reasons.append(f"the daemon has not looked at its workers for {ago_s:.1f} s")
    return tuple(reasons)


def readiness(figures: Figures) -> tuple[str, ...]:
    """Why the daemon is not ready, a line each; empty while it runs and its outbox can write."""
    reasons = []
    if figures.stage != "running":
        reasons.append(f"it is {figures.stage or 'in no stage'}")
    if figures.outbox is None:
        reasons.append("the outbox is not open")
    elif figures.outbox.trouble is not None:
        reasons.append(f"the outbox cannot write: {figures.outbox.trouble}")
    return (*reasons, *liveness(figures))


def status_document(figures: Figures) -> dict[str, Any]:
    """What /status answers: the figures as a JSON object, with why it is not ``ready`` or not ``live``."""
    document: dict[str, Any] = _finite(asdict(figures))
    document["ready"] = list(readiness(figures))
    document["live"] = list(liveness(figures))
    return document


def _finite(value: Any) -> Any:  # noqa: ANN401  it is JSON
    """JSON knows no NaN and no infinity."""
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
