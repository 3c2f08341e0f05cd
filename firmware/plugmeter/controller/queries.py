"""What the page asks of the store. Every query is bounded, however many records there are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from plugmeter.controller.audit import Finding, examine
from plugmeter.controller.books import books_of, standing_of
from plugmeter.controller.extracts import HOUR_MS, LOSS, MINUTE_MS
from plugmeter.controller.standing import Standing
from plugmeter.controller.store import Session

DIARY: Final = ("signal", "transition", "diagnosis", "health", "start", "stream", "command", "config")
"""Kinds of records that a device's page lists together, the latest first."""

_DECODE: Final = msgspec.json.Decoder().decode
_WORST: Final = "ORDER BY drops DESC, comm, groups"
_DEVICE: Final = (
    "id, name, first_ms, heard_ms, records, bytes, duplicates, conflicts, refused, problems, problem,"
    " problem_ms, verdicts, losses, runs, runs_valid, decided_valid, lost_valid, last_run, last_run_ms"
)


class DeviceRow(msgspec.Struct, frozen=True):
    """A row of ``device``: its totals since we first heard of it."""

    id: int
    name: str
    first_ms: int
    heard_ms: int | None
    records: int
    bytes: int
    duplicates: int
    conflicts: int
    refused: int
    problems: int
    problem: str
    problem_ms: int | None
    verdicts: int
    losses: int
    runs: int
    runs_valid: int
    decided_valid: int
    lost_valid: int
    last_run: str | None
    last_run_ms: int | None


@dataclass(frozen=True, slots=True)
class RunRow:
    """A row of ``run``. ``valid`` is None while it goes on."""

    id: str
    started_ms: int | None
    ended_ms: int | None
    rig: str
    truth: str
    valid: bool | None
    interrupted: bool
    expected: int
    decided: int
    lost: int
    report: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Noted:
    """A record, decoded; ``data`` is empty where it is no JSON that we understand."""

    kind: str
    time_ms: int
    seq: int
    data: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Fleet:
    """All devices at one moment."""

    devices: tuple[DeviceRow, ...]
    documents: Mapping[int, Mapping[str, tuple[int, Mapping[str, Any]]]]
    """Device to kind (status, summary) to when it came and what it says."""
    hours: Mapping[int, Mapping[int, tuple[int, int]]]
    """Device to hour to verdicts and losses."""
    listeners: Mapping[int, tuple[str, int]]
    """Device to the program that most was dropped for, and how much."""
    last_runs: Mapping[int, RunRow]
    unaccounted: Mapping[int, int]
    """Device to how many faults a quick audit finds."""


def fleet(session: Session, since_hour: int) -> Fleet:
    """Everything that the fleet's view shows; hours from ``since_hour`` on."""
    devices = tuple(DeviceRow(*row) for row in session.rows(f"SELECT {_DEVICE} FROM device ORDER BY name"))
    documents: dict[int, dict[str, tuple[int, Mapping[str, Any]]]] = {}
    for device, kind, received_ms, body in session.rows(
        "SELECT device, kind, received_ms, body FROM document WHERE kind IN ('status', 'summary')"
    ):
        documents.setdefault(device, {})[kind] = (received_ms, _decoded(body))
    hours: dict[int, dict[int, tuple[int, int]]] = {}
    for device, hour, total, lost in session.rows(
        "SELECT device, hour, sum(n), sum(CASE WHEN outcome = 'lost' THEN n ELSE 0 END) FROM hour"
        " WHERE hour >= ? GROUP BY device, hour",
        (since_hour,),
    ):
        hours.setdefault(device, {})[hour] = (int(total), int(lost))
    listeners: dict[int, tuple[str, int]] = {}
    for device, comm, drops in session.rows(
        "SELECT device, comm, sum(drops) FROM listener GROUP BY device, comm HAVING sum(drops) > 0"
    ):
        if int(drops) > listeners.get(device, ("", 0))[1]:
            listeners[device] = (comm, int(drops))
    last_runs = {
        row[0]: _run_row(row[1:])
        for row in session.rows(
            "SELECT device.id, run.id, run.started_ms, run.ended_ms, run.rig, run.truth, run.valid,"
            " run.interrupted, run.expected, run.decided, run.lost FROM device"
            " JOIN run ON run.device = device.id AND run.id = device.last_run"
        )
    }
    unaccounted = {
        row.id: sum(len(f.faults) for f in audit(session, row)) + len(standing(session, row).faults)
        for row in devices
    }
    return Fleet(devices, documents, hours, listeners, last_runs, unaccounted)


def audit(session: Session, row: DeviceRow) -> list[Finding]:
    """The audit of one device by our index; the command reads the records themselves."""
    return [examine(books) for books in books_of(session, row.id, row.name, quick=True)]


def standing(session: Session, row: DeviceRow) -> Standing:
    """What the audit says of the device as a whole."""
    return standing_of(session, row.id, row.name)


def device(session: Session, name: str) -> DeviceRow | None:
    """One device's totals."""
    rows = session.rows(f"SELECT {_DEVICE} FROM device WHERE name = ?", (name,))
    return DeviceRow(*rows[0]) if rows else None


def documents(session: Session, device_id: int) -> dict[str, tuple[int, Mapping[str, Any]]]:
    """The latest document of each kind: when it came and what it says."""
    return {
        kind: (received_ms, _decoded(body))
        for kind, received_ms, body in session.rows(
            "SELECT kind, received_ms, body FROM document WHERE device = ?", (device_id,)
        )
    }


def hours(session: Session, device_id: int, since_hour: int) -> list[tuple[int, str, str, str, int]]:
    """(hour, port, outcome, stage, n) of one device."""
    rows = session.rows(
        "SELECT hour, port, outcome, stage, n FROM hour WHERE device = ? AND hour >= ? ORDER BY hour",
        (device_id, since_hour),
    )
    return [(int(hour), port, outcome, stage, int(n)) for hour, port, outcome, stage, n in rows]


def minutes(session: Session, device_id: int, since_minute: int) -> list[tuple[int, str, str, str, int]]:
    """(minute, port, outcome, stage, n) of one device; of the last two hours only."""
    rows = session.rows(
        "SELECT minute, port, outcome, stage, n FROM minute WHERE device = ? AND minute >= ? ORDER BY minute",
        (device_id, since_minute),
    )
    return [(int(minute), port, outcome, stage, int(n)) for minute, port, outcome, stage, n in rows]


def runs(session: Session, device_id: int, most: int) -> list[RunRow]:
    """The latest runs, with what their report says of certificate and interval."""
    rows = session.rows(
        "SELECT run.id, run.started_ms, run.ended_ms, run.rig, run.truth, run.valid, run.interrupted,"
        " run.expected, run.decided, run.lost, record.data FROM run"
        " LEFT JOIN record ON record.stream = run.stream AND record.seq = run.seq"
        " WHERE run.device = ? ORDER BY coalesce(run.started_ms, run.ended_ms) DESC LIMIT ?",
        (device_id, most),
    )
    found = []
    for row in rows:
        data = _decoded(row[10]) if row[10] is not None else {}
        report = data.get("report")
        extra = {"failure": data["failure"]} if isinstance(data.get("failure"), str) else {}
        found.append(_run_row(row[:10], {**(report if isinstance(report, dict) else {}), **extra}))
    return found


def losses(session: Session, device_id: int, most: int) -> list[Noted]:
    """The latest episodes that were lost."""
    return _noted(session, device_id, LOSS, most)


def noted(session: Session, device_id: int, kinds: tuple[str, ...], most: int) -> list[Noted]:
    """The latest records of these kinds, together."""
    found = [each for kind in kinds for each in _noted(session, device_id, kind, most)]
    return sorted(found, key=lambda each: (each.time_ms, each.seq), reverse=True)[:most]


def listeners(session: Session, device_id: int, most: int) -> list[tuple[str, int, int, int, int]]:
    """(program, groups, runs, drops, last_ms), the worst first."""
    rows = session.rows(
        f"SELECT comm, groups, runs, drops, last_ms FROM listener WHERE device = ? {_WORST} LIMIT ?",
        (device_id, most),
    )
    return [(comm, int(groups), int(n), int(drops), int(last)) for comm, groups, n, drops, last in rows]


def listener_hours(
    session: Session, device_id: int, since_hour: int, most: int
) -> list[tuple[int, str, int, int]]:
    """(hour, program, groups, drops) of runs that ended then, for the listeners that ``listeners`` gives."""
    return _listener_times(session, "hour", device_id, since_hour, most)


def listener_minutes(
    session: Session, device_id: int, since_minute: int, most: int
) -> list[tuple[int, str, int, int]]:
    """(minute, program, groups, drops), as ``listener_hours``; of the last two hours only."""
    return _listener_times(session, "minute", device_id, since_minute, most)


def _listener_times(
    session: Session, unit: str, device_id: int, since: int, most: int
) -> list[tuple[int, str, int, int]]:
    rows = session.rows(
        f"SELECT t.{unit}, t.comm, t.groups, t.drops FROM"
        f" (SELECT comm, groups FROM listener WHERE device = ? {_WORST} LIMIT ?) AS worst"
        f" JOIN listener_{unit} AS t ON t.device = ? AND t.comm = worst.comm AND t.groups = worst.groups"
        f" WHERE t.{unit} >= ? ORDER BY t.{unit}",
        (device_id, most, device_id, since),
    )
    return [(int(at), comm, int(groups), int(drops)) for at, comm, groups, drops in rows]


def tombstones(session: Session, device_id: int, most: int) -> list[tuple[int, int, str, int, int]]:
    """(first, last, reason, rank, time_ms), the latest first."""
    return [
        (int(first), int(last), reason, int(rank), int(time_ms))
        for first, last, reason, rank, time_ms in session.rows(
            "SELECT t.first, t.last, t.reason, t.rank, t.time_ms FROM tombstone AS t"
            " JOIN stream ON stream.id = t.stream WHERE stream.device = ?"
            " ORDER BY t.received_ms DESC, t.first DESC LIMIT ?",
            (device_id, most),
        )
    ]


def commands(
    session: Session, device_id: int, most: int
) -> list[tuple[str, str, int, str, Mapping[str, Any]]]:
    """(op, id, received_ms, state, document), the latest first."""
    return [
        (op, command_id, int(received_ms), state, _decoded(body))
        for op, command_id, received_ms, state, body in session.rows(
            "SELECT op, id, received_ms, state, body FROM command WHERE device = ?"
            " ORDER BY received_ms DESC LIMIT ?",
            (device_id, most),
        )
    ]


def hour_of(time_ms: int) -> int:
    """Hours since 1970."""
    return time_ms // HOUR_MS


def minute_of(time_ms: int) -> int:
    """Minutes since 1970."""
    return time_ms // MINUTE_MS


def _noted(session: Session, device_id: int, topic: str, most: int) -> list[Noted]:
    rows = session.rows(
        "SELECT record.kind, record.time_ms, record.seq, record.data FROM"
        " (SELECT time_ms, stream, seq FROM notable WHERE device = ? AND topic = ?"
        " ORDER BY time_ms DESC, stream DESC, seq DESC LIMIT ?) AS latest"
        " JOIN record ON record.stream = latest.stream AND record.seq = latest.seq"
        " ORDER BY record.time_ms DESC, record.stream DESC, record.seq DESC",
        (device_id, topic, most),
    )
    return [Noted(kind, int(time_ms), int(seq), _decoded(data)) for kind, time_ms, seq, data in rows]


def _run_row(row: tuple[Any, ...], report: Mapping[str, Any] | None = None) -> RunRow:
    run_id, started_ms, ended_ms, rig, truth, valid, interrupted, expected, decided, lost = row
    return RunRow(
        run_id, started_ms, ended_ms, rig, truth, None if valid is None else bool(valid), bool(interrupted),
        int(expected or 0), int(decided or 0), int(lost or 0), report,
    )  # fmt: skip


def _decoded(text: str) -> Mapping[str, Any]:
    try:
        value = _DECODE(text)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
