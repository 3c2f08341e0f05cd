"""What the page shows, drawn from records as they are booked: sums by the hour, runs, listeners, an index.

Only records whose content follows its schema come here, so their fields are what the schema says.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, Final

import msgspec

from plugmeter.controller.arrivals import Arrival, printable
from plugmeter.controller.store import Session, upsert

HOUR_MS: Final = 3_600_000
LOSS: Final = "loss"
"""The topic of lost episodes in ``notable``; the other topics are kinds of records."""


_MOST: Final = 2**40


class _Verdict(msgspec.Struct):
    port: str
    outcome: str
    stage: str | None


_DECODE_VERDICT: Final = msgspec.json.Decoder(_Verdict).decode
_DECODE: Final = msgspec.json.Decoder().decode


class Extracts:
    """Of one device, of one transaction."""

    def __init__(self) -> None:
        self.beginnings: dict[int, tuple[str | None, str, str | None]] = {}
        """Streams that told how they began: (previous, reason, set_aside)."""
        self._hours: Counter[tuple[int, str, str, str]] = Counter()
        self._notable: list[tuple[str, int, int, int]] = []
        self._started: list[tuple[str, int, str, str]] = []
        self._ended: list[tuple[object, ...]] = []
        self._listeners: dict[tuple[str, int], tuple[int, int]] = {}

    def add(self, stream: int, record: Arrival) -> None:
        """Take a record that is new and follows its schema."""
        kind = record.kind
        if kind == "verdict":
            verdict = _DECODE_VERDICT(record.data)
            stage = verdict.stage or ""
            hour = record.time_ms // HOUR_MS
            self._hours[hour, printable(verdict.port, 64), verdict.outcome, stage] += 1
            if verdict.outcome == "lost":
                self._notable.append((LOSS, record.time_ms, stream, record.seq))
            return
        self._notable.append((kind, record.time_ms, stream, record.seq))
        if kind == "stream":
            said = _DECODE(record.data)
            self.beginnings[stream] = (said["previous"], said["reason"], said["set_aside"])
        elif kind == "run-started":
            said = _DECODE(record.data)
            self._started.append((said["run"], record.time_ms, said["rig"], said["truth"]))
        elif kind == "run-ended":
            self._run_ended(stream, record, _DECODE(record.data))

    def _run_ended(self, stream: int, record: Arrival, said: dict[str, Any]) -> None:
        report = said["report"]
        # Clamped, so that no sum of what hostile devices say can be more than a column holds.
        expected = min(int(report["expected"]), _MOST)
        lost = min(sum(int(count) for count in report.get("lost", {}).values()), _MOST)
        decided = min(int(report.get("captured", 0)) + lost, _MOST)
        valid = said["verdict"] == "VALID" and report["certificate"]["valid"] and lost <= decided <= expected
        self._ended.append(
            (
                said["run"], record.time_ms, int(valid), int(said["interrupted"]), expected, decided, lost,
                stream, record.seq,
            )
        )  # fmt: skip
        listeners = report.get("listeners")
        for each in listeners if isinstance(listeners, list) else ():
            found = _listener(each)
            if found is not None:
                comm, groups, drops = found
                before, _ = self._listeners.get((comm, groups), (0, 0))
                self._listeners[comm, groups] = (before + drops, record.time_ms)

    def write(self, session: Session, device: int) -> None:
        """Into the tables, in the transaction that the records are booked in."""
        rows: list[tuple[str, list[tuple[object, ...]]]] = [
            (_ADD_HOUR, [(device, *key, n) for key, n in sorted(self._hours.items())]),
            (_ADD_NOTABLE, [(device, *row) for row in self._notable]),
            (_BEGIN_RUN, [(device, *row) for row in self._started]),
            (_END_RUN, [(device, *row) for row in self._ended]),
            (
                _ADD_LISTENER,
                [
                    (device, *who, last_ms, 1, drops)
                    for who, (drops, last_ms) in sorted(self._listeners.items())
                ],
            ),
        ]
        for statement, found in rows:
            if found:
                session.many(statement, found)


_ADD_HOUR: Final = upsert("hour", ("device", "hour", "port", "outcome", "stage"), (), ("n",))
_ADD_NOTABLE: Final = (
    "INSERT INTO notable (device, topic, time_ms, stream, seq) VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING"
)
_BEGIN_RUN: Final = upsert("run", ("device", "id"), ("started_ms", "rig", "truth"))
_END_RUN: Final = upsert(
    "run",
    ("device", "id"),
    ("ended_ms", "valid", "interrupted", "expected", "decided", "lost", "stream", "seq"),
)
_ADD_LISTENER: Final = upsert("listener", ("device", "comm", "groups"), ("last_ms",), ("runs", "drops"))


def _listener(said: object) -> tuple[str, int, int] | None:
    """Program, groups and drops of a listener in a report; the report's lists are not in our schema."""
    if not isinstance(said, dict):
        return None
    comm, groups, drops = said.get("comm"), said.get("groups"), said.get("drops")
    if not (isinstance(comm, str) and isinstance(groups, int) and isinstance(drops, int)):
        return None
    if not (0 < groups < 2**32 and 0 <= drops <= _MOST):
        return None
    return printable(comm, 64), groups, drops
