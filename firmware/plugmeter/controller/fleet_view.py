"""All devices, as values: what the page, its JSON and ``plugmeter controller devices`` show. Pure.

Nothing here is escaped: that is the templates' job, and they do it for everything.
"""

from __future__ import annotations

from typing import Any, TypeAlias

from plugmeter.controller import queries
from plugmeter.controller.over_time import DAY_HOURS
from plugmeter.controller.presence import SEVERITY, backlog, presence
from plugmeter.controller.queries import DeviceRow, Fleet
from plugmeter.controller.run_view import certified, run

View: TypeAlias = dict[str, Any]


def fleet(found: Fleet, now_ms: int, listening_ms: int | None) -> View:
    """The fleet's view: the worst first."""
    rows = [_fleet_row(found, row, now_ms, listening_ms) for row in found.devices]
    rows.sort(key=lambda row: (SEVERITY[row["state"]], not row["faults"], row["name"]))
    totals = certified(
        sum(row.runs for row in found.devices),
        sum(row.runs_valid for row in found.devices),
        sum(row.decided_valid for row in found.devices),
        sum(row.lost_valid for row in found.devices),
    )
    return {
        "devices": rows,
        "states": {state: sum(row["state"] == state for row in rows) for state in SEVERITY},
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
        **presence(row, status, now_ms, listening_ms),
        **backlog(documents.get("summary")),
        "trend": [{"hour": at, "verdicts": total, "lost": lost} for at, total, lost in hours],
        "verdicts_day": sum(total for _, total, _ in hours),
        "lost_day": sum(lost for _, _, lost in hours),
        "certified": certified(row.runs, row.runs_valid, row.decided_valid, row.lost_valid),
        "last_run": run(found.last_runs[row.id]) if row.id in found.last_runs else None,
        "listener": {"comm": listener[0], "drops": listener[1]} if listener else None,
        "faults": found.unaccounted.get(row.id, 0),
        "problems": row.problems + row.refused,
    }
