"""What runs say of losses, and how sure one may be of it. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from plugmeter.controller import wording
from plugmeter.controller.queries import RunRow
from plugmeter.measure import statistics


def certified(runs: int, valid: int, decided: int, lost: int) -> dict[str, Any]:
    """What runs with a certificate say of losses; a run without one says nothing."""
    known = decided > 0 and 0 <= lost <= decided
    low, high = statistics.clopper_pearson(lost, decided) if known else (0.0, 1.0)
    return {
        "runs": runs,
        "valid": valid,
        "decided": decided,
        "lost": lost,
        "rate": lost / decided if known else None,
        "low": low if known else None,
        "high": high if known else None,
    }


def run(row: RunRow) -> dict[str, Any]:
    """One run; the reasons are those of its certificate, or why it failed."""
    report = row.report or {}
    certificate = report.get("certificate")
    reasons = certificate.get("reasons", []) if isinstance(certificate, dict) else []
    failure = report.get("failure")
    if isinstance(failure, str) and failure:
        reasons = [failure]
    verdict = "running" if row.valid is None else "VALID" if row.valid else "INVALID"
    return {
        "id": row.id,
        "rig": row.rig,
        "truth": row.truth,
        "started_ms": row.started_ms,
        "ended_ms": row.ended_ms,
        "verdict": verdict,
        "interrupted": row.interrupted,
        "reasons": [wording.text(each) for each in reasons[:5]] if isinstance(reasons, list) else [],
        "expected": row.expected,
        "certified": certified(1, int(bool(row.valid)), row.decided, row.lost),
    }


def runs(rows: Sequence[RunRow]) -> list[dict[str, Any]]:
    """The latest runs."""
    return [run(row) for row in rows]
