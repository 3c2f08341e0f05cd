"""One device, as values: what its page and its JSON show. Pure.

Nothing here is escaped: that is the templates' job, and they do it for everything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from plugmeter.controller import wording
from plugmeter.controller.audit import Finding
from plugmeter.controller.over_time import Span, drops_over_time, over_time
from plugmeter.controller.presence import backlog, presence
from plugmeter.controller.queries import DeviceRow, Noted
from plugmeter.controller.run_view import certified
from plugmeter.controller.standing import Standing

View: TypeAlias = dict[str, Any]


def device(
    row: DeviceRow,
    documents: Mapping[str, tuple[int, Mapping[str, Any]]],
    sums: Sequence[tuple[int, str, str, str, int]],
    findings: Sequence[Finding],
    standing: Standing,
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
        **presence(row, documents.get("status"), now_ms, listening_ms),
        **backlog(summary),
        "stage": wording.text(summary[1].get("stage")) if summary else "",
        "meta": {
            "version": wording.text(meta.get("version")),
            "host": {wording.text(key): wording.text(value) for key, value in meta.get("host", {}).items()},
            "ports": [wording.text(port) for port in meta.get("ports", [])],
            "rig": wording.text(meta.get("rig")),
            "capabilities": [wording.text(op) for op in meta.get("capabilities", [])],
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
        "faults": list(standing.faults),
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


def losses(found: Sequence[Noted]) -> list[View]:
    """The latest lost episodes."""
    return [
        {
            "time_ms": each.time_ms,
            "port": wording.text(each.data.get("port")),
            "action": wording.text(each.data.get("action")),
            "stage": wording.text(each.data.get("stage")),
            "run": wording.text(each.data.get("run")),
            "seq": each.seq,
        }
        for each in found
    ]


def listeners(
    found: Sequence[tuple[str, int, int, int, int]],
    sums: Sequence[tuple[int, str, int, int]],
    *,
    span: Span,
    now_ms: int,
) -> list[View]:
    """Programs with a uevent socket, and what the kernel dropped for them: ever, and over time."""
    times = drops_over_time(sums, span, now_ms)
    return [
        {
            "comm": comm,
            "groups": groups,
            "runs": runs,
            "drops": drops,
            "last_ms": last_ms,
            "over_time": times.get((comm, groups)),
        }
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
            "reason": wording.text(document.get("reason")),
        }
        for op, command_id, at, state, document in found
    ]
