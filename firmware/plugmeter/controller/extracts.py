"""What the page shows, drawn from records as they are booked: sums by the hour, runs, listeners, an index."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any, Final, TypeAlias

import msgspec

from plugmeter.controller.arrivals import Arrival, printable
from plugmeter.controller.store import Session, upsert

HOUR_MS: Final = 3_600_000
MINUTE_MS: Final = 60_000
KEPT_MINUTES: Final = 120
"""Sums by the minute are kept so long, for the page's last hour; those by the hour for ever."""
LOSS: Final = "loss"
"""The topic of lost episodes in ``notable``; the other topics are kinds of records."""


_MOST: Final = 2**40
_MOST_LISTENERS: Final = 1_000


class _Verdict(msgspec.Struct):
    port: str
    outcome: str
    stage: str | None = None


class _Stream(msgspec.Struct):
    previous: str | None
    reason: str
    set_aside: str | None


class _RunStarted(msgspec.Struct):
    run: str
    rig: str
    truth: str


class _Certificate(msgspec.Struct):
    valid: bool


class _Report(msgspec.Struct):
    expected: int
    certificate: _Certificate
    captured: int = 0
    lost: dict[str, int] = {}
    listeners: list[msgspec.Raw] = []
    run: dict[str, Any] = {}


class _RunEnded(msgspec.Struct):
    run: str
    report: _Report | None
    interrupted: bool = False


class _Listener(msgspec.Struct):
    comm: str
    groups: int
    drops: int


_Ended: TypeAlias = tuple[str, int, int, int, int, int, int, int, int]
"""A row of ``run``: id, ended_ms, valid, interrupted, expected, decided, lost, stream, seq."""

_READ: Final = {
    "verdict": msgspec.json.Decoder(_Verdict).decode,
    "stream": msgspec.json.Decoder(_Stream).decode,
    "run-started": msgspec.json.Decoder(_RunStarted).decode,
    "run-ended": msgspec.json.Decoder(_RunEnded).decode,
}
_READ_LISTENER: Final = msgspec.json.Decoder(_Listener).decode


class Extracts:
    """Of one device, of one transaction."""

    def __init__(self, now_ms: int) -> None:
        self._oldest_minute = now_ms // MINUTE_MS - KEPT_MINUTES
        self.beginnings: dict[int, tuple[str | None, ...]] = {}
        """Streams that told how they began: (previous, reason, set_aside)."""
        self._hours: Counter[tuple[int, str, str, str]] = Counter()
        self._minutes: Counter[tuple[int, str, str, str]] = Counter()
        self._notable: list[tuple[str, int, int, int]] = []
        self._started: list[tuple[str, int, str, str]] = []
        self._ended: list[_Ended] = []
        self._listeners: dict[tuple[str, int], tuple[int, int, int]] = {}
        self._drops: dict[tuple[str, int, int], tuple[int, int]] = {}
        """(program, groups, minute) to runs that ended then, and drops in them."""

    def add(self, stream: int, record: Arrival) -> None:
        """Take a record that is new. One that is not what its kind should be is listed, and no more."""
        read = _READ.get(record.kind)
        said: object = None
        if read is not None:
            try:
                said = read(record.data)
            except (ValueError, RecursionError):  # its fault is among the device's problems already
                said = None
        if isinstance(said, _Verdict):
            self._verdict(stream, record, said)
            return
        self._notable.append((record.kind, record.time_ms, stream, record.seq))
        if isinstance(said, _Stream):
            texts = (said.previous, said.reason, said.set_aside)
            self.beginnings[stream] = tuple(text and printable(text, 4_096) for text in texts)
        elif isinstance(said, _RunStarted):
            names = (printable(text, 64) for text in (said.run, said.rig, said.truth))
            run, rig, truth = names
            self._started.append((run, record.time_ms, rig, truth))
        elif isinstance(said, _RunEnded):
            self._run_ended(stream, record, said)

    def _verdict(self, stream: int, record: Arrival, said: _Verdict) -> None:
        stage = printable(said.stage or "", 32)
        what = (printable(said.port, 64), printable(said.outcome, 16), stage)
        self._hours[record.time_ms // HOUR_MS, *what] += 1
        minute = record.time_ms // MINUTE_MS
        if minute >= self._oldest_minute:
            self._minutes[minute, *what] += 1
        if said.outcome == "lost":
            self._notable.append((LOSS, record.time_ms, stream, record.seq))

    def _run_ended(self, stream: int, record: Arrival, said: _RunEnded) -> None:
        run = printable(said.run, 64)
        report = said.report
        if report is None:  # it failed
            self._ended.append((run, record.time_ms, 0, 0, 0, 0, 0, stream, record.seq))
            return
        # Clamped, so that no sum of what hostile devices say can be more than a column holds.
        expected = min(max(report.expected, 0), _MOST)
        lost = min(sum(max(count, 0) for count in report.lost.values()), _MOST)
        decided = min(max(report.captured, 0) + lost, _MOST)
        valid = report.certificate.valid and lost <= decided <= expected
        interrupted = said.interrupted or report.run.get("interrupted") is True
        self._ended.append(
            (
                run, record.time_ms, int(valid), int(interrupted), expected, decided, lost,
                stream, record.seq,
            )
        )  # fmt: skip
        # By program: it may have several sockets, in several processes, and it is one run all the same.
        dropped: defaultdict[tuple[str, int], int] = defaultdict(int)
        for each in report.listeners[:_MOST_LISTENERS]:
            try:
                listener = _READ_LISTENER(each)
            except (ValueError, RecursionError):
                continue  # a report may list anything; it is kept whole in the record
            if 0 < listener.groups < 2**32 and 0 <= listener.drops <= _MOST:
                dropped[printable(listener.comm, 64), listener.groups] += listener.drops
        for who, drops in dropped.items():
            runs, before, last_ms = self._listeners.get(who, (0, 0, 0))
            self._listeners[who] = (runs + 1, before + drops, max(last_ms, record.time_ms))
            then = (*who, record.time_ms // MINUTE_MS)
            runs, before = self._drops.get(then, (0, 0))
            self._drops[then] = (runs + 1, before + drops)

    def write(self, session: Session, device: int) -> None:
        """Into the tables, in the transaction that the records are booked in."""
        if self._hours or self._ended:
            self._write_totals(session, device)
        if self._minutes:
            session.run("DELETE FROM minute WHERE device = ? AND minute < ?", (device, self._oldest_minute))
        if self._drops:
            session.run(
                "DELETE FROM listener_minute WHERE device = ? AND minute < ?", (device, self._oldest_minute)
            )
        rows: list[tuple[str, list[tuple[object, ...]]]] = [
            (_ADD_HOUR, [(device, *key, n) for key, n in sorted(self._hours.items())]),
            (_ADD_MINUTE, [(device, *key, n) for key, n in sorted(self._minutes.items())]),
            (_ADD_NOTABLE, [(device, *row) for row in self._notable]),
            (_BEGIN_RUN, [(device, *row) for row in self._started]),
            (_END_RUN, [(device, *row) for row in self._ended]),
            (
                _ADD_LISTENER,
                [
                    (device, *who, last_ms, runs, drops)
                    for who, (runs, drops, last_ms) in sorted(self._listeners.items())
                ],
            ),
            (
                _ADD_LISTENER_HOUR,
                [
                    (device, comm, groups, minute * MINUTE_MS // HOUR_MS, runs, drops)
                    for (comm, groups, minute), (runs, drops) in sorted(self._drops.items())
                ],
            ),
            (
                _ADD_LISTENER_MINUTE,
                [
                    (device, *then, runs, drops)
                    for then, (runs, drops) in sorted(self._drops.items())
                    if then[-1] >= self._oldest_minute
                ],
            ),
        ]
        for statement, found in rows:
            if found:
                session.many(statement, found)

    def _write_totals(self, session: Session, device: int) -> None:
        valid = [row for row in self._ended if row[2]]
        session.run(
            "UPDATE device SET verdicts = verdicts + ?, losses = losses + ?, runs = runs + ?,"
            " runs_valid = runs_valid + ?, decided_valid = decided_valid + ?, lost_valid = lost_valid + ?"
            " WHERE id = ?",
            (
                self._hours.total(),
                sum(n for (_, _, outcome, _), n in self._hours.items() if outcome == "lost"),
                len(self._ended), len(valid), sum(row[5] for row in valid), sum(row[6] for row in valid),
                device,
            ),
        )  # fmt: skip
        if self._ended:
            last = max(self._ended, key=lambda row: row[1])
            session.run(
                "UPDATE device SET last_run = ?, last_run_ms = ?"
                " WHERE id = ? AND coalesce(last_run_ms, 0) <= ?",
                (last[0], last[1], device, last[1]),
            )


_ADD_HOUR: Final = upsert("hour", ("device", "hour", "port", "outcome", "stage"), (), ("n",))
_ADD_MINUTE: Final = upsert("minute", ("device", "minute", "port", "outcome", "stage"), (), ("n",))
_ADD_NOTABLE: Final = (
    "INSERT INTO notable (device, topic, time_ms, stream, seq) VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING"
)
_BEGIN_RUN: Final = upsert("run", ("device", "id"), ("started_ms", "rig", "truth"))
_END_RUN: Final = upsert(
    "run",
    ("device", "id"),
    ("ended_ms", "valid", "interrupted", "expected", "decided", "lost", "stream", "seq"),
)
_ADD_LISTENER: Final = (  # records come in any order
    "INSERT INTO listener (device, comm, groups, last_ms, runs, drops) VALUES (?, ?, ?, ?, ?, ?)"
    " ON CONFLICT (device, comm, groups) DO UPDATE SET runs = listener.runs + excluded.runs,"
    " drops = listener.drops + excluded.drops,"
    " last_ms = CASE WHEN excluded.last_ms > listener.last_ms THEN excluded.last_ms ELSE listener.last_ms END"
)
_ADD_LISTENER_HOUR: Final = upsert(
    "listener_hour", ("device", "comm", "groups", "hour"), (), ("runs", "drops")
)
_ADD_LISTENER_MINUTE: Final = upsert(
    "listener_minute", ("device", "comm", "groups", "minute"), (), ("runs", "drops")
)
