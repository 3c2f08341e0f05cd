"""The status as lines for a terminal: of the running daemon, or of the last snapshot. Pure."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime

from plugmeter.lifecycle.figures import Figures, LinkFigures, OutboxFigures, RunFigures
from plugmeter.lifecycle.health import Drain, HealthSnapshot, LogLine
from plugmeter.reporting.words import clean, count

_WIDTH = 100
_LABEL = 10
_ERRORS_SHOWN = 5


def running(figures: Figures, not_ready: Sequence[str]) -> list[str]:
    """One screen about a daemon that answered."""
    process = figures.process
    up = f", up {ago(process.uptime_ns / 1e9)}" if process else ""
    state = "is ready" if not not_ready else "is NOT ready"
    name = f" on {figures.device}" if figures.device else ""
    failed = f"; run failed: {figures.run.failure}" if figures.run and figures.run.failure else ""
    lines = [clean(f"plugmeter {figures.version}{name} (pid {figures.pid}) {state}{up}{failed}")]
    lines += _part("not ready", not_ready)
    lines += _part("stage", [figures.stage])
    lines += _part("run", _run(figures.run) if figures.run else ["none"])
    lines += _part("outbox", _outbox(figures.outbox) if figures.outbox else ["not open"])
    lines += _part("link", _link(figures.link, figures.now_ns) if figures.link else ["none"])
    if process:
        lines += _part(
            "process",
            [
                f"{size(process.rss_bytes)} (peak {size(process.peak_rss_bytes)}), {process.thread_count}"
                f" threads, {process.descriptors} of {count(process.descriptor_limit)} descriptors,"
                f" {process.cpu_ns / 1e9:.1f} s of processor time"
            ],
        )
    lines += _part("signals", [_counts(figures.signals)] if figures.signals else [])
    lines += _part("discarded", [_counts(figures.discards)] if any(figures.discards.values()) else [])
    lines += _part("drains", [_drain(each) for each in reversed(figures.last_drains[-3:])])
    findings = [
        f"{each.name}, for {ago((figures.now_ns - each.since_ns) / 1e9)}: {each.evidence}"
        + (f" (remedy: {each.remedy.replace('_', ' ')})" if each.remedy != "none" else "")
        for each in figures.findings
    ]
    lines += _part("findings", findings or ["none"])
    lines += _part("warnings", _errors(figures.last_errors))
    return lines


def stopped(
    trouble: str, holder: int | None, health: HealthSnapshot | None, why_none: str, now_ns: int
) -> list[str]:
    """One screen about a daemon that did not answer. ``now_ns`` is wall time."""
    if holder is None:
        lines = [clean(f"plugmeter does not run: {trouble}")]
    else:
        who = f"pid {holder}" if holder else "another process"
        lines = [clean(f"plugmeter runs ({who}), but cannot be asked: {trouble}")]
    if health is None:
        return [*lines, *_part("last", [f"unknown: {why_none}"])]
    age_s = (now_ns - health.time_ns) / 1e9
    age = f"{ago(age_s)} ago" if age_s >= 0 else "in the future, by this clock"
    reason = f" ({health.reason})" if health.reason else ""
    lines += _part("last seen", [f"{_stamp(health.time_ns)}, {age}: {health.stage or 'no stage'}{reason}"])
    name = f" on {health.device}" if health.device else ""
    lines += _part("version", [f"{health.version or 'unknown'}{name}, up {ago(health.uptime_s)} then"])
    left = _counts({key: each for key, each in health.account.items() if isinstance(each, int)})
    lines += _part("outbox", [f"{count(health.backlog)} pending" + (f" ({left})" if left else "")])
    lines += _part(
        "process",
        [
            f"{size(health.rss_bytes)} (peak {size(health.peak_rss_bytes)}), {health.threads} threads,"
            f" {health.descriptors} descriptors"
        ],
    )
    lines += _part("drains", [_drain(each) for each in reversed(health.drains[-3:])])
    lines += _part("findings", health.findings or ["none"])
    lines += _part("warnings", _errors(health.last_errors))
    return lines


def ago(seconds: float) -> str:
    """A duration, to the two units that matter: ``3 d 4 h``, ``12.0 s``."""
    if seconds < 60:
        return f"{max(0.0, seconds):.1f} s"
    whole = int(seconds)
    if whole < 3_600:
        return f"{whole // 60} min {whole % 60} s"
    if whole < 86_400:
        return f"{whole // 3_600} h {whole % 3_600 // 60} min"
    return f"{count(whole // 86_400)} d {whole % 86_400 // 3_600} h"


def size(count_bytes: int) -> str:
    """Bytes as ``41.2 MiB``."""
    if count_bytes < 1024:
        return f"{count_bytes} B"
    value = count_bytes / 1024
    for unit in ("KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:,.1f} TiB"


def _run(run: RunFigures) -> list[str]:
    if run.state == "none" and not run.expected and not run.verdict:
        return ["none"]
    where = _counts(run.lost_total)
    lines = [
        f"{run.state}, rig {run.rig or 'none'}: {count(run.expected)} expected, {count(run.matched)} matched,"
        f" {count(run.late)} late, {count(run.lost)} lost"
    ]
    if run.certificate or run.verdict:
        # Whatever is under way, or has failed since, has earned nothing yet.
        told = [f"certificate {run.certificate}"] if run.certificate else []
        lines.append(f"last run: {'; '.join([*told, *([run.verdict] if run.verdict else [])])}")
    if where:
        lines.append(f"lost since the daemon's start: {where}")
    return lines


def _outbox(outbox: OutboxFigures) -> list[str]:
    lines = [
        f"{count(outbox.pending)} pending of {count(outbox.produced)} produced"
        f" ({count(outbox.acknowledged)} acknowledged, {count(outbox.tombstoned)} tombstoned),"
        f" {size(outbox.bytes)} on disk"
    ]
    if outbox.produced != outbox.acknowledged + outbox.tombstoned + outbox.pending:
        lines.append("THE BOOKS DO NOT ADD UP: see plugmeter outbox")
    if outbox.trouble is not None:
        lines.append(f"CANNOT WRITE: {outbox.trouble}")
    return lines


def _link(link: LinkFigures, now_ns: int) -> list[str]:
    since = f" for {ago((now_ns - link.since_ns) / 1e9)}" if link.since_ns is not None else ""
    to = f" ({link.broker})" if link.broker else ""
    text = f"{link.state}{to}{since}; {link.in_flight} in flight"
    if link.unacknowledged:
        text += f", {count(link.unacknowledged)} await the controller"
    if link.oldest_unacknowledged_ns is not None:
        text += f", the oldest for {ago((now_ns - link.oldest_unacknowledged_ns) / 1e9)}"
    if link.next_attempt_ns is not None and link.state != "connected":
        text += f"; next attempt in {ago((link.next_attempt_ns - now_ns) / 1e9)}"
    lines = [text]
    if link.breaker and link.breaker != "closed":
        lines.append(f"breaker {link.breaker}")
    if any(link.failures.values()):
        lines.append(f"{count(link.connects)} connects; failures: {_counts(link.failures)}")
    return lines


def _drain(drain: Drain) -> str:
    return (
        f"{_stamp(drain.time_ns)}: {drain.result or 'unknown'} after {drain.took_s:.2f} s of"
        f" {drain.deadline_s:.1f} s, {count(drain.left)} left"
    )


def _errors(lines: Sequence[LogLine]) -> list[str]:
    return [f"{_stamp(each.time_ns)} {each.level} {each.text}" for each in lines[-_ERRORS_SHOWN:]]


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count(each)} {key}" for key, each in counts.items() if each)


def _stamp(time_ns: int) -> str:
    try:
        moment = datetime.fromtimestamp(time_ns / 1e9, UTC)
    except (OverflowError, ValueError, OSError):
        return "at no time"
    return f"{moment:%Y-%m-%d %H:%M:%S}Z"


def _part(label: str, texts: Iterable[str]) -> list[str]:
    lines: list[str] = []
    for text in texts:
        wrapped = textwrap.wrap(clean(text), _WIDTH - _LABEL - 1, subsequent_indent="  ") or [""]
        for line in wrapped:
            lines.append(f"{'' if lines else label:<{_LABEL}} {line}".rstrip())
    return lines
