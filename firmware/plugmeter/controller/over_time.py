"""A span of time in columns of equal length: losses by port and stage, drops by listener. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from plugmeter.controller.extracts import MINUTE_MS
from plugmeter.reporting.words import LOSS_STAGES

View: TypeAlias = dict[str, Any]

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

_STAGES: Final = tuple(LOSS_STAGES)


def over_time(sums: Sequence[tuple[int, str, str, str, int]], span: Span, now_ms: int) -> View:
    """Losses by stage in columns of equal length, and by port and stage. ``sums`` as the span wants them."""
    width = span.column_minutes
    each_column = width // span.sum_minutes
    columns: dict[int, View] = {
        at: {"start_ms": at * width * MINUTE_MS, "minutes": width, "verdicts": 0, "lost": 0, "stages": {}}
        for at in _columns(span, now_ms)
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


def drops_over_time(
    sums: Sequence[tuple[int, str, int, int]], span: Span, now_ms: int
) -> dict[tuple[str, int], View]:
    """Drops in the same columns, by listener (program, groups). ``sums`` as the span wants them.

    A drop is in the column in which its run ended: no record says it more finely.
    """
    columns = _columns(span, now_ms)
    found: dict[tuple[str, int], View] = {}
    for number, comm, groups, drops in sums:
        at = number * span.sum_minutes // span.column_minutes
        if at not in columns:
            continue
        listener = found.setdefault(
            (comm, groups), {"drops": 0, "trend": [0] * len(columns), "seen": [False] * len(columns)}
        )
        listener["drops"] += drops
        listener["trend"][at - columns.start] += drops
        listener["seen"][at - columns.start] = True
    return found


def _columns(span: Span, now_ms: int) -> range:
    """The numbers of its columns, counted from 1970."""
    last = now_ms // (span.column_minutes * MINUTE_MS)
    return range(last - span.hours * 60 // span.column_minutes + 1, last + 1)


def _natural(name: str) -> list[tuple[int, str]]:
    """1-2 before 1-10."""
    parts = "".join(letter if letter.isdigit() else f" {letter} " for letter in name).split()
    return [(int(part), "") if part.isdecimal() and len(part) < 10 else (-1, part) for part in parts]
