"""What the page shows, as values: rows of the store made into what a person asks. Pure.

The same values are the JSON of /api and what the templates write. Nothing here is escaped: that is the
templates' job, and they do it for everything.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from plugmeter.controller import queries, wording
from plugmeter.controller.audit import Finding
from plugmeter.controller.extracts import MINUTE_MS
from plugmeter.controller.queries import DeviceRow, Fleet, Noted, RunRow
from plugmeter.measure import statistics
from plugmeter.reporting.words import LOSS_STAGES

View: TypeAlias = dict[str, Any]

SILENT_MS: Final = 30_000
"""A device that is online tells its summary every 5 s; after so long without a word it is silent."""
DAY_HOURS: Final = 24


@dataclass(frozen=True, slots=True)
class Span:
    """A time that a device's page may show."""

    hours: int
    name: str
    words: str
    """After a number of things: ``in the last hour``."""
    sum_minutes: int
    """How long each of the sums is that it is made of: those by the minute or those by the hour."""
    column_minutes: int


SPANS: Final[Mapping[int, Span]] = {
    span.hours: span
    for span in (
        Span(1, "hour", "in the last hour", 1, 1),
        Span(24, "day", "in the last 24 hours", 60, 60),
        Span(168, "week", "in the last 7 days", 60, 360),
        Span(720, "month", "in the last 30 days", 60, 1_440),
    )
}
"""By hours."""

_SEVERITY: Final = {"lost": 0, "silent": 1, "unknown": 2, "stopped": 3, "online": 4}
_STAGES: Final = tuple(LOSS_STAGES)


def state_of(row: DeviceRow, status: Mapping[str, Any] | None, now_ms: int, listening_ms: int | None) -> str:
    """online, silent, stopped, lost, or unknown where no status was ever heard.

    ``listening_ms`` is since when we hear devices at all, None while we do not: then nobody is called silent.
    """
    told = status.get("state") if status else None
    if told not in ("online", "stopped", "lost"):
        return "unknown"
    if told == "online" and listening_ms is not None:
        return "silent" if now_ms - max(row.heard_ms or 0, listening_ms) > SILENT_MS else "online"
    return str(told)


def fleet(found: Fleet, now_ms: int, listening_ms: int | None) -> View:
    """The fleet's view: the worst first."""
    rows = [_fleet_row(found, row, now_ms, listening_ms) for row in found.devices]
    rows.sort(key=lambda row: (_SEVERITY[row["state"]], not row["faults"], row["name"]))
    totals = certified(
        sum(row.runs for row in found.devices),
        sum(row.runs_valid for row in found.devices),
        sum(row.decided_valid for row in found.devices),
        sum(row.lost_valid for row in found.devices),
    )
    return {
        "devices": rows,
        "states": {state: sum(row["state"] == state for row in rows) for state in _SEVERITY},
        "backlog": sum(row["backlog"] or 0 for row in rows),
        "records": sum(row.records for row in found.devices),
        "verdicts_day": sum(row["verdicts_day"] for row in rows),
        "lost_day": sum(row["lost_day"] for row in rows),
        "faults": sum(row["faults"] for row in rows),
        "certified": totals,
    }


def _fleet_row(found: Fleet, row: DeviceRow, now_ms: int, listening_ms: int | None) -> View:
    hour = queries.hour_of(now_ms)
    documents = found.documents.get(row.id, {})
    status = documents.get("status")
    trend = found.hours.get(row.id, {})
    hours = [(each, *trend.get(each, (0, 0))) for each in range(hour - DAY_HOURS + 1, hour + 1)]
    listener = found.listeners.get(row.id)
    return {
        **_presence(row, status, now_ms, listening_ms),
        **_backlog(documents.get("summary")),
        "trend": [{"hour": at, "verdicts": total, "lost": lost} for at, total, lost in hours],
        "verdicts_day": sum(total for _, total, _ in hours),
        "lost_day": sum(lost for _, _, lost in hours),
        "certified": certified(row.runs, row.runs_valid, row.decided_valid, row.lost_valid),
        "last_run": _run(found.last_runs[row.id]) if row.id in found.last_runs else None,
        "listener": {"comm": listener[0], "drops": listener[1]} if listener else None,
        "faults": found.unaccounted.get(row.id, 0),
        "problems": row.problems + row.refused,
    }


def _presence(
    row: DeviceRow, status: tuple[int, Mapping[str, Any]] | None, now_ms: int, listening_ms: int | None
) -> View:
    return {
        "name": row.name,
        "state": state_of(row, status[1] if status else None, now_ms, listening_ms),
        "state_ms": status[0] if status else None,
        "reason": _text(status[1].get("reason")) if status else "",
        "heard_ms": row.heard_ms,
        "first_ms": row.first_ms,
    }


def _backlog(summary: tuple[int, Mapping[str, Any]] | None) -> View:
    outbox = summary[1].get("outbox", {}) if summary else {}
    return {
        "backlog": outbox.get("pending"),
        "produced": outbox.get("produced"),
        "tombstoned": outbox.get("tombstoned"),
        "summary_ms": summary[0] if summary else None,
    }


def certified(runs: int, valid: int, decided: int, lost: int) -> View:
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


def _run(row: RunRow) -> View:
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
        "reasons": [_text(each) for each in reasons[:5]] if isinstance(reasons, list) else [],
        "expected": row.expected,
        "certified": certified(1, int(bool(row.valid)), row.decided, row.lost),
    }


def device(
    row: DeviceRow,
    documents: Mapping[str, tuple[int, Mapping[str, Any]]],
    sums: Sequence[tuple[int, str, str, str, int]],
    findings: Sequence[Finding],
    *,
    span: Span,
    now_ms: int,
    listening_ms: int | None,
) -> View:
    """The head of a device's view, and its losses over ``span``."""
    meta = documents.get("meta", (0, {}))[1]
    summary = documents.get("summary")
    health = summary[1].get("health", {}) if summary else {}
    run = summary[1].get("run") if summary else None
    reported = documents.get("reported")
    return {
        **_presence(row, documents.get("status"), now_ms, listening_ms),
        **_backlog(summary),
        "stage": _text(summary[1].get("stage")) if summary else "",
        "meta": {
            "version": _text(meta.get("version")),
            "host": {_text(key): _text(value) for key, value in meta.get("host", {}).items()},
            "ports": [_text(port) for port in meta.get("ports", [])],
            "rig": _text(meta.get("rig")),
            "capabilities": [_text(op) for op in meta.get("capabilities", [])],
        },
        "health": {"uptime_s": health.get("uptime_s"), "rss_bytes": health.get("rss_bytes")},
        "run": dict(run) if run else None,
        "records": row.records,
        "duplicates": row.duplicates,
        "refused": row.refused,
        "problems": row.problems,
        "problem": row.problem,
        "problem_ms": row.problem_ms,
        "verdicts": row.verdicts,
        "lost": row.losses,
        "certified": certified(row.runs, row.runs_valid, row.decided_valid, row.lost_valid),
        "reported": {"received_ms": reported[0], **reported[1]} if reported else None,
        "streams": [_stream(finding) for finding in findings],
        "over_time": over_time(sums, span, now_ms),
    }


def _stream(finding: Finding) -> View:
    books = finding.books
    return {
        "stream": books.stream,
        "over": books.over_because or "",
        "produced": finding.produced,
        "stored": finding.stored,
        "tombstoned": finding.tombstoned,
        "pending": finding.pending,
        "lost": finding.lost,
        "cut_off": finding.cut_off,
        "duplicates": books.duplicates,
        "faults": list(finding.faults),
        "notes": list(finding.notes),
        "accounted": finding.ok,
    }


def over_time(sums: Sequence[tuple[int, str, str, str, int]], span: Span, now_ms: int) -> View:
    """Losses by stage in columns of equal length, and by port and stage. ``sums`` as the span wants them."""
    width = span.column_minutes
    width_ms = width * MINUTE_MS
    each_column = width // span.sum_minutes
    last = now_ms // width_ms
    first = last - span.hours * 60 // width + 1
    columns: dict[int, View] = {
        at: {"start_ms": at * width_ms, "minutes": width, "verdicts": 0, "lost": 0, "stages": {}}
        for at in range(first, last + 1)
    }
    ports: dict[str, View] = defaultdict(
        lambda: {
            "verdicts": 0,
            "lost": 0,
            "late": 0,
            "stages": {},
            "trend": dict.fromkeys(columns, 0),
            "seen": dict.fromkeys(columns, False),
        }
    )
    stages: set[str] = set()
    for number, port, outcome, stage, n in sums:
        at = number // each_column
        column = columns.get(at)
        if column is None:
            continue
        at_port = ports[port]
        for each in (column, at_port):
            each["verdicts"] += n
        at_port["seen"][at] = True
        at_port["late"] += n if outcome == "late" else 0
        if outcome != "lost":
            continue
        stage = stage if stage in LOSS_STAGES else "unknown"
        stages.add(stage)
        for each in (column, at_port):
            each["lost"] += n
            each["stages"][stage] = each["stages"].get(stage, 0) + n
        at_port["trend"][at] += n
    return {
        "span": span.hours,
        "columns": list(columns.values()),
        "ports": [
            {
                "port": port,
                **found,
                "trend": list(found["trend"].values()),
                "seen": list(found["seen"].values()),
            }
            for port, found in sorted(ports.items(), key=lambda item: (-item[1]["lost"], _natural(item[0])))
        ],
        "stages": [stage for stage in _STAGES if stage in stages],
        "verdicts": sum(column["verdicts"] for column in columns.values()),
        "lost": sum(column["lost"] for column in columns.values()),
    }


def runs(rows: Sequence[RunRow]) -> list[View]:
    """The latest runs."""
    return [_run(row) for row in rows]


def losses(found: Sequence[Noted]) -> list[View]:
    """The latest lost episodes."""
    return [
        {
            "time_ms": each.time_ms,
            "port": _text(each.data.get("port")),
            "action": _text(each.data.get("action")),
            "stage": _text(each.data.get("stage")),
            "run": _text(each.data.get("run")),
            "seq": each.seq,
        }
        for each in found
    ]


def diary(found: Sequence[Noted]) -> list[View]:
    """What a device did and what happened to it, each in one line."""
    return [
        {"time_ms": each.time_ms, "kind": each.kind, "text": _told(each.kind, each.data), "seq": each.seq}
        for each in found
    ]


def _told(kind: str, data: Mapping[str, Any]) -> str:
    """A record in one line."""
    get = data.get
    match kind:
        case "link":
            return f"{_text(get('event'))}{_listed(get('details'))}"
        case "signal":
            return (
                f"{_text(get('name'))} from {_text(get('command')) or 'unknown'} (pid {_text(get('pid'))}, "
                f"uid {_text(get('uid'))}) while {_text(get('stage'))}"
            )
        case "transition":
            return f"{_text(get('from'))} → {_text(get('to'))}{_because(data)}"
        case "diagnosis":
            return (
                f"{_text(get('finding'))} {_text(get('state'))} ({_text(get('worker'))}): "
                f"{_text(get('evidence'))}; remedy: {_text(get('remedy'))}"
            )
        case "gap":
            count = get("count")
            many = "an unknown number of records" if count is None else f"{_text(count)} records"
            return f"{_text(get('witness'))} lost {'1 record' if count == 1 else many}: {_text(get('cause'))}"
        case "command":
            return f"{_text(get('op'))} {_text(get('state'))}{_because(data)}"
        case "config":
            whose = _text(get("id")) or "its own file"
            return f"{whose} {_text(get('state')).replace('_', ' ')}{_because(data)}"
        case "health":
            return (
                f"{_text(get('stage'))}{_because(data)}; up {wording.duration(get('uptime_s'))}, "
                f"{wording.size(get('rss_bytes'))} of memory, {wording.count(get('backlog'))} pending"
            )
        case "start":
            if get("clean"):
                return "started after an orderly end"
            return (
                f"started after no orderly end; up to {_text(get('window_ms'))} ms may be missing before it"
            )
        case "stream":
            return f"a new stream began ({_text(get('reason'))})"
        case _:
            return _listed(data).strip(" ()")


def _because(data: Mapping[str, Any]) -> str:
    """The reason, where there is one."""
    return f": {_text(data['reason'])}" if data.get("reason") else ""


def _listed(details: object) -> str:
    if not isinstance(details, Mapping) or not details:
        return ""
    parts = [
        f"{_text(key)} {_text(value)}"
        for key, value in details.items()
        if isinstance(value, str | int | float) and value != ""
    ]
    return f" ({', '.join(parts[:8])})" if parts else ""


def listeners(found: Sequence[tuple[str, int, int, int, int]]) -> list[View]:
    """Programs with a uevent socket, and what the kernel dropped for them during runs."""
    return [
        {"comm": comm, "groups": groups, "runs": runs, "drops": drops, "last_ms": last_ms}
        for comm, groups, runs, drops, last_ms in found
    ]


def tombstones(found: Sequence[tuple[int, int, str, int, int]]) -> list[View]:
    """What a device had to let go before we had it."""
    return [
        {
            "first": first,
            "last": last,
            "count": last - first + 1,
            "reason": reason,
            "rank": rank,
            "time_ms": time,
        }
        for first, last, reason, rank, time in found
    ]


def commands(found: Sequence[tuple[str, str, int, str, Mapping[str, Any]]]) -> list[View]:
    """Commands that were given, and what became of them."""
    return [
        {
            "op": op,
            "id": command_id,
            "received_ms": at,
            "state": state,
            "reason": _text(document.get("reason")),
        }
        for op, command_id, at, state, document in found
    ]


def _text(value: object, limit: int = 300) -> str:
    """A value of a device's document as a text of bounded length; nothing for none."""
    if value is None:
        return ""
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _natural(name: str) -> list[tuple[int, str]]:
    """1-2 before 1-10."""
    parts = "".join(letter if letter.isdigit() else f" {letter} " for letter in name).split()
    return [(int(part), "") if part.isdecimal() and len(part) < 10 else (-1, part) for part in parts]
