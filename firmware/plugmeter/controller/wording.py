"""How the page writes times, numbers and stages. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from plugmeter.reporting import words

STAGES: Final[Mapping[str, str]] = words.LOSS_STAGES
"""Stage of loss to what it means."""

_NOTHING: Final = "–"


def count(n: object) -> str:
    """1,234,567; a dash where it is not known."""
    return f"{n:,}" if isinstance(n, int) else _NOTHING


def when(time_ms: int | None) -> str:
    """2026-11-21 10:05:00, UTC."""
    moment = _moment(time_ms)
    return moment.strftime("%Y-%m-%d %H:%M:%S") if moment else _NOTHING


def iso(time_ms: int | None) -> str:
    """For the datetime attribute."""
    moment = _moment(time_ms)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ") if moment else ""


def ago(time_ms: int | None, now_ms: int) -> str:
    """``3 s ago``; coarse, as one says it."""
    return _NOTHING if time_ms is None else f"{duration((now_ms - time_ms) / 1_000)} ago"


def duration(seconds: object) -> str:
    """``4 s``, ``12 min``, ``3 h``, ``5 days``."""
    if not isinstance(seconds, int | float):
        return _NOTHING
    left = max(0.0, float(seconds))
    for limit, size, unit in ((99.5, 1, "s"), (5_970, 60, "min"), (172_800, 3_600, "h")):
        if left < limit:
            return f"{left / size:.0f} {unit}"
    return f"{left / 86_400:.0f} days"


def percent(share: object) -> str:
    """A share as percentage; a dash where it is not known."""
    return words.percent(float(share)) if isinstance(share, int | float) else _NOTHING


def interval(found: Mapping[str, Any]) -> str:
    """``0 … 0.31 %``, of a view's low and high."""
    low, high = found.get("low"), found.get("high")
    return _NOTHING if low is None or high is None else words.interval((low, high))


def size(number_bytes: object) -> str:
    """``41.9 MB``."""
    if not isinstance(number_bytes, int | float):
        return _NOTHING
    for limit, unit in ((1e3, "B"), (1e6, "kB"), (1e9, "MB"), (1e12, "GB")):
        if number_bytes < limit * 0.9995:
            value = number_bytes / limit * 1e3
            return f"{value:.0f} {unit}" if value >= 99.95 or unit == "B" else f"{value:.1f} {unit}"
    return f"{number_bytes / 1e12:.1f} TB"


def stage(name: str) -> str:
    """``socket_queue`` as ``socket queue``."""
    return name.replace("_", " ")


def text(value: object, limit: int = 300) -> str:
    """A value of a device's document as a text of bounded length; nothing for none."""
    if value is None:
        return ""
    words = str(value).lower() if isinstance(value, bool) else str(value)
    return words if len(words) <= limit else words[: limit - 1] + "…"


def _moment(time_ms: int | None) -> datetime | None:
    if time_ms is None:
        return None
    try:
        return datetime.fromtimestamp(time_ms / 1_000, UTC)
    except (OverflowError, ValueError, OSError):
        return None


FILTERS: Final[Mapping[str, Callable[..., str]]] = {
    "count": count,
    "when": when,
    "iso": iso,
    "ago": ago,
    "duration": duration,
    "percent": percent,
    "interval": interval,
    "size": size,
    "stage": stage,
    "groups": words.groups,
}
"""By their names in the templates. (``count`` and ``groups`` replace Jinja's own ``count``.)"""
