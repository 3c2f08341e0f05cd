"""The report: everything that a run showed, as one JSON object. Pure: a pipeline in, a value out.

The shape is fixed by ``reporting/report.schema.json``. The same recording gives the same report, byte
for byte (``to_json``), so nothing here may depend on when or where it is made.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any, TypeAlias

from plugmeter.measure import statistics
from plugmeter.measure.certificate import Certificate, LineEvidence, certify
from plugmeter.measure.clocks import ClockTracker
from plugmeter.measure.pipeline import Pipeline
from plugmeter.measure.presence import PresenceAccount
from plugmeter.measure.seqnums import SeqnumAccount
from plugmeter.measure.stages import Stage
from plugmeter.measure.storms import Storm, storms
from plugmeter.measure.verdicts import Verdict
from plugmeter.records import Listener, RunEnd

Report: TypeAlias = dict[str, Any]

SCHEMA = "plugmeter-report/1"
CONFIDENCE = 0.95
TIMELINE_BUCKETS = 600
_BUCKETS_MS = (100, 200, 500, 1000, 2000, 5000, 10_000, 30_000, 60_000, 300_000, 1_800_000, 3_600_000)


def to_json(report: Report) -> str:
    """The report as it is written to a file: sorted keys, two spaces, a newline at the end."""
    return json.dumps(report, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def build(pipeline: Pipeline) -> Report:
    """Put together what a finished pipeline knows. A run that has no end is reported as INVALID."""
    start = pipeline.start
    end = pipeline.end or RunEnd(pipeline.now_ns)
    counts = pipeline.verdicts
    contradictions = _contradictions(pipeline, end)
    violations = [*contradictions, *_uncounted(pipeline)]
    lines = [port.line.evidence() for port in pipeline.ports.values() if port.line.evidence().factory]
    if pipeline.end:
        certificate = certify(start.truth, lines, (*end.failures, *contradictions))
    else:  # of the accounts, which come last, there can be none
        certificate = Certificate(False, start.truth, ("the run has no end: its recording was cut",))
    lost = {str(stage): counts.lost[stage] for stage in Stage}
    lost_total = sum(lost.values())
    decided = counts.matched + counts.late + lost_total
    order = sorted(range(len(pipeline.outcomes.t_ns)), key=pipeline.outcomes.t_ns.__getitem__)
    outcomes = [(pipeline.outcomes.t_ns[i], bool(pipeline.outcomes.lost[i])) for i in order]
    found_storms = storms(outcomes, start.storm_quiet_ns)
    episodes = statistics.loss_episodes(is_lost for _, is_lost in outcomes)
    needed = statistics.events_needed(start.claim_rate, lost_total, CONFIDENCE)
    low, high = statistics.clopper_pearson(lost_total, decided, CONFIDENCE)
    return {
        "schema": SCHEMA,
        "version": start.version,
        "run": _run(pipeline, end),
        "truth": start.truth,
        "certificate": _certificate(certificate, lines),
        "expected": counts.expected,
        "expected_plugs": pipeline.expected_plugs,
        "expected_pulls": counts.expected - pipeline.expected_plugs,
        "captured": counts.matched + counts.late,
        "matched": counts.matched,
        "late": counts.late,
        "ambiguous": counts.ambiguous,
        "duplicates": counts.duplicates,
        "orphans": counts.orphans,
        "excused": counts.excused,
        "undecided": counts.expected - decided,
        "lost": lost,
        "loss_rate": lost_total / decided if decided else 0.0,
        "loss_ci95": [low, high],
        "loss_ci95_by_storm": _bootstrap(found_storms, start.seed),
        "loss_episodes": {"count": episodes.count, "longest": episodes.longest, "mean": episodes.mean},
        "events_needed": {
            "claim_rate": start.claim_rate,
            "confidence": CONFIDENCE,
            "total": needed,
            "more": max(0, needed - decided),
        },
        "latency_us": _latency(pipeline),
        "latency_histogram_us": {
            stage: [list(bucket) for bucket in histogram.buckets()]
            for stage, histogram in pipeline.latency.items()
            if histogram.summary().count
        },
        "clocks": {
            "gpio_to_netlink": _clock(pipeline.gpio_to_netlink),
            "netlink_to_udev": _clock(pipeline.netlink_to_udev),
        },
        "witnesses": _witnesses(pipeline),
        "listeners": _listeners(pipeline),
        "coldplug": _coldplug(pipeline.presence.account()),
        "seqnums": _seqnums(_seqnum_account(pipeline)),
        "emitted": end.emitted,
        "ports": _ports(pipeline),
        "storms": {"count": len(found_storms), "largest": max((s.n for s in found_storms), default=0)},
        "losses": [
            _loss(verdict, start.t_ns)
            for verdict in sorted(
                pipeline.losses, key=lambda loss: (loss.episode.t_start_ns, loss.episode.port)
            )
        ],
        "losses_omitted": pipeline.losses_omitted,
        "timeline": _timeline(outcomes, start.t_ns, end.t_ns),
        "conservation": {"holds": not violations, "violations": violations},
    }


def _contradictions(pipeline: Pipeline, end: RunEnd) -> list[str]:
    """Where accounts do not add up, a line each: then the instrument itself is not to be trusted."""
    found = pipeline.verdicts.violations()
    for ledger in pipeline.witnesses.values():
        account = ledger.account()
        if not account.uncounted_gaps:
            found += account.violations()
    netlink = pipeline.witnesses.get("netlink")
    if netlink and end.emitted is not None and netlink.account().offered < end.emitted:
        found.append(
            f"the rig put {end.emitted} uevents on the kernel's broadcast, but the netlink witness knows of "
            f"{netlink.account().offered}"
        )
    found += [f"{count} record(s) with {what}" for what, count in sorted(pipeline.absurd.items())]
    if pipeline.timeline.stragglers:
        found.append(f"{pipeline.timeline.stragglers} records came after the timeline had moved past them")
    return found


def _uncounted(pipeline: Pipeline) -> list[str]:
    """Losses of which the kernel does not tell the number: stated, and no fault of the ground truth."""
    accounts = [ledger.account() for ledger in pipeline.witnesses.values()]
    return [line for account in accounts if account.uncounted_gaps for line in account.violations()]


def _run(pipeline: Pipeline, end: RunEnd) -> Report:
    start = pipeline.start
    return {
        "rig": start.rig,
        "seed": start.seed,
        "ports": list(start.ports),
        "witnesses": list(start.witnesses),
        "started_at": start.started_at,
        "duration_s": _rounded((end.t_ns - start.t_ns) / 1e9),
        "interrupted": end.interrupted,
        "host": dict(start.host),
        "plan": dict(start.plan),
        "debounce_ms": _rounded(start.debounce_ns / 1e6),
        "nominal_ms": _rounded(start.nominal_ns / 1e6),
        "lost_after_ms": _rounded(start.lost_after_ns / 1e6),
    }


def _certificate(certificate: Certificate, lines: list[LineEvidence]) -> Report:
    return {
        "valid": certificate.valid,
        "truth": certificate.truth,
        "reasons": list(certificate.reasons),
        "lines": [
            {
                "port": line.port,
                "factory": line.factory,
                "edges": line.edges,
                "driven": line.driven,
                "interrupts": line.interrupts,
            }
            for line in lines
        ],
    }


def _bootstrap(found: list[Storm], seed: int) -> list[float] | None:
    interval = statistics.bootstrap_by_storm([(s.n, s.lost) for s in found], seed, confidence=CONFIDENCE)
    return list(interval) if interval else None


def _latency(pipeline: Pipeline) -> Report:
    report: Report = {}
    for stage, histogram in pipeline.latency.items():
        summary = histogram.summary()
        if summary.count or summary.negative or summary.over_range:
            report[stage] = {
                "count": summary.count,
                "min": _rounded(summary.min_us),
                "p50": _rounded(summary.p50_us),
                "p95": _rounded(summary.p95_us),
                "p99": _rounded(summary.p99_us),
                "max": _rounded(summary.max_us),
                "tail_jitter": _rounded(summary.tail_jitter_us),
                "negative": summary.negative,
                "over_range": summary.over_range,
            }
    return report


def _clock(tracker: ClockTracker) -> Report | None:
    model = tracker.model()
    if model is None:
        return None
    return {
        "offset_us": _rounded(model.offset_ns / 1e3),
        "drift_ppm": _rounded(model.drift_ppm),
        "residual_us": _rounded(model.residual_ns / 1e3),
        "n": model.n,
    }


def _witnesses(pipeline: Pipeline) -> Report:
    report: Report = {}
    for name, ledger in pipeline.witnesses.items():
        account = ledger.account()
        report[name] = {
            "offered": account.offered,
            "delivered": account.delivered,
            "lost": account.lost_total,
            "pending": account.pending,
            "lost_by_cause": account.lost,
            "uncounted_gaps": account.uncounted_gaps,
            "conserved": account.conserved,
        }
    return report


def _listeners(pipeline: Pipeline) -> list[Report]:
    """Each uevent socket at the end of the run, and what the kernel dropped for it during the run."""
    if pipeline.first_listeners is None or pipeline.last_listeners is None:
        return []
    before: dict[int, Listener] = {each.inode: each for each in pipeline.first_listeners.listeners}
    return [
        {
            "pid": each.pid,
            "comm": each.comm,
            "groups": each.groups,
            "drops": each.drops - (before[each.inode].drops if each.inode in before else 0),
        }
        for each in pipeline.last_listeners.listeners
    ]


def _seqnum_account(pipeline: Pipeline) -> SeqnumAccount:
    netlink = pipeline.witnesses.get("netlink")
    return pipeline.seqnums.account(netlink.account().lost.get("socket_queue", 0) if netlink else 0)


def _seqnums(account: SeqnumAccount) -> Report:
    return asdict(account)


def _coldplug(account: PresenceAccount) -> Report:
    """What was plugged when nobody was looking, or while a witness was losing records."""
    return {
        "at_start": account.at_start,
        "before_start": account.before_start and dict(account.before_start),
        "resyncs": account.resyncs,
        "found_by_resync": {"appeared": account.appeared, "vanished": account.vanished},
        "at_end": account.at_end,
    }


def _ports(pipeline: Pipeline) -> Report:
    return {
        name: {
            **asdict(port.account),
            "state": str(port.machine.state),
            "illegal_transitions": port.machine.illegal_count,
        }
        for name, port in sorted(pipeline.ports.items())
    }


def _loss(verdict: Verdict, start_ns: int) -> Report:
    return {
        "port": verdict.episode.port,
        "ordinal": verdict.episode.ordinal,
        "action": "plug" if verdict.episode.plugged else "pull",
        "t_ms": _rounded((verdict.episode.t_start_ns - start_ns) / 1e6),
        "stage": str(verdict.stage),
    }


def _timeline(outcomes: list[tuple[int, bool]], start_ns: int, end_ns: int) -> Report:
    """Expected and captured episodes in buckets of equal time, at most ``TIMELINE_BUCKETS`` of them."""
    span_ms = max(1, (end_ns - start_ns) // 1_000_000 + 1)
    bucket_ms = next(
        (b for b in _BUCKETS_MS if span_ms <= b * TIMELINE_BUCKETS), -(-span_ms // TIMELINE_BUCKETS)
    )
    size = -(-span_ms // bucket_ms)
    expected, captured = [0] * size, [0] * size
    for t_ns, is_lost in outcomes:
        i = min(max(0, (t_ns - start_ns) // (bucket_ms * 1_000_000)), size - 1)
        expected[i] += 1
        captured[i] += not is_lost
    return {"bucket_ms": bucket_ms, "expected": expected, "captured": captured}


def _rounded(value: float) -> float:
    """To 3 decimals: nanoseconds of a microsecond, and no noise of floating point in the file."""
    return round(value, 3)
