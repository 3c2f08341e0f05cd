"""Whether a device is there: what its status and summary say of it now. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from plugmeter.controller import wording
from plugmeter.controller.queries import DeviceRow

SILENT_MS: Final = 30_000
"""A device that is online tells its summary every 5 s; after so long without a word it is silent."""
SEVERITY: Final = {"lost": 0, "silent": 1, "unknown": 2, "stopped": 3, "online": 4}
"""States, the worst first."""


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


def presence(
    row: DeviceRow, status: tuple[int, Mapping[str, Any]] | None, now_ms: int, listening_ms: int | None
) -> dict[str, Any]:
    """Name, state and since when, for both views."""
    return {
        "name": row.name,
        "state": state_of(row, status[1] if status else None, now_ms, listening_ms),
        "state_ms": status[0] if status else None,
        "reason": wording.text(status[1].get("reason")) if status else "",
        "heard_ms": row.heard_ms,
        "first_ms": row.first_ms,
    }


def backlog(summary: tuple[int, Mapping[str, Any]] | None) -> dict[str, Any]:
    """What waits at the device, by its latest summary."""
    outbox = summary[1].get("outbox", {}) if summary else {}
    return {
        "backlog": outbox.get("pending"),
        "produced": outbox.get("produced"),
        "tombstoned": outbox.get("tombstoned"),
        "summary_ms": summary[0] if summary else None,
    }
