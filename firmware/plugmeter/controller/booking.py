"""Booking: what arrived becomes one transaction of the store, and what may be acknowledged after it.

What is acknowledged is in the database: a record as it is, or (a number that came a second time with
different content, as from a device whose state was restored from a copy) beside the first in ``conflict``.
Transactions of two controllers on one database cannot disturb each other: the first statement for a
device locks its row, and devices are taken in the order of their names.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from plugmeter.controller import coverage, extracts
from plugmeter.controller.arrivals import Arrival, Arrivals, Burial, CommandState, DeviceArrivals, Document
from plugmeter.controller.store import Session, Store, upsert
from plugmeter.telemetry import ranges
from plugmeter.telemetry.ranges import Ranges

_BIGGEST = coverage.BIGGEST
_MOST_EMPTY = 100
"""Streams that a device may tell of without a record of them."""
_MOST_REFUSALS = 100
"""Streams by which the refusals of one device are told apart."""


@dataclass(slots=True)
class Booked:
    """What one transaction did; it counts only once it is committed."""

    acknowledge: dict[str, dict[str, Ranges]] = field(default_factory=dict)
    """Device to stream to the numbers that are safe now, those that were before among them."""
    records: int = 0
    duplicates: int = 0
    conflicts: int = 0
    refused: int = 0
    tombstones: int = 0
    problems: int = 0


def book(store: Store, arrivals: Arrivals, now_ms: int) -> Booked:
    """One transaction. Raises StoreTrouble: then nothing of it happened, and nothing may be acknowledged."""
    booked = Booked()
    with store.writing() as session:
        for name in sorted(arrivals.devices):
            arrived = arrivals.devices[name]
            if arrived.spoke or session.rows("SELECT 1 FROM device WHERE name = ?", (name,)):
                _Device(session, booked, name, now_ms).book(arrived)
    return booked


class _Device:
    def __init__(self, session: Session, booked: Booked, name: str, now_ms: int) -> None:
        self._session = session
        self._booked = booked
        self._name = name
        self._now_ms = now_ms
        self._refused = ""
        """Why something was, the last time; empty if nothing was."""
        self._extracts = extracts.Extracts(now_ms)
        ((self._id,),) = session.rows(
            "INSERT INTO device (name, first_ms) VALUES (?, ?)"
            " ON CONFLICT (name) DO UPDATE SET first_ms = device.first_ms RETURNING id",
            (name, now_ms),
        )

    def book(self, arrived: DeviceArrivals) -> None:
        session, now_ms = self._session, self._now_ms
        before = (self._booked.records, self._booked.duplicates, self._booked.conflicts, self._booked.refused)
        for name in sorted(arrived.streams):
            self._stream(name, arrived.streams[name].records, arrived.streams[name].tombstones)
        for kind, document in sorted(arrived.documents.items()):
            self._document(kind, document)
        for command in arrived.commands.values():
            self._command(command)
        self._extracts.write(session, self._id)
        records, duplicates, conflicts, refused = (
            after - earlier
            for after, earlier in zip(
                (self._booked.records, self._booked.duplicates, self._booked.conflicts, self._booked.refused),
                before,
                strict=True,
            )
        )
        self._booked.problems += arrived.problem_count
        self._report(arrived)
        problem = arrived.problems[-1] if arrived.problems else ""
        if self._refused:
            problem = f"{refused} records or accounts were refused: {self._refused}"
        session.run(
            "UPDATE device SET heard_ms = CASE WHEN ? = 1 THEN ? ELSE heard_ms END, records = records + ?,"
            " bytes = bytes + ?, duplicates = duplicates + ?, conflicts = conflicts + ?,"
            " refused = refused + ?, problems = problems + ? WHERE id = ?",
            (
                int(arrived.live), now_ms, records, arrived.payload_bytes, duplicates, conflicts, refused,
                arrived.problem_count, self._id,
            ),
        )  # fmt: skip
        if problem:
            session.run(
                "UPDATE device SET problem = ?, problem_ms = ? WHERE id = ?", (problem, now_ms, self._id)
            )

    def _stream_id(self, name: str, count: int, *, empty: bool = False) -> int | None:
        """The stream's id; None, and ``count`` refused, where it is another device's, or where it is one too
        many of which nothing but an account is known (``empty``)."""
        session = self._session
        find = "SELECT id, device FROM stream WHERE name = ?"
        found = session.rows(find, (name,))
        if not found:
            if empty:
                ((known,),) = session.rows(
                    "SELECT count(*) FROM stream WHERE device = ? AND records = 0 AND tombstoned = 0",
                    (self._id,),
                )
                if known >= _MOST_EMPTY:
                    self._refuse("", count, f"it tells of more than {_MOST_EMPTY} streams without a record")
                    return None
            session.run(
                "INSERT INTO stream (name, device, first_ms, heard_ms) VALUES (?, ?, ?, ?)"
                " ON CONFLICT (name) DO NOTHING",  # another controller may have been quicker
                (name, self._id, self._now_ms, self._now_ms),
            )
            found = session.rows(find, (name,))
        ((stream, owner),) = found
        if owner == self._id:
            return int(stream)
        self._refuse(name, count, f"the stream {name} belongs to another device")
        return None

    def _refuse(self, stream: str, count: int, why: str) -> None:
        """Count it, by the stream that it named, so that the audit can tell."""
        self._booked.refused += count
        self._refused = why
        find = "SELECT 1 FROM refusal WHERE device = ? AND stream = ?"
        if stream and not self._session.rows(find, (self._id, stream)):
            ((known,),) = self._session.rows("SELECT count(*) FROM refusal WHERE device = ?", (self._id,))
            if known >= _MOST_REFUSALS:
                return  # counted at the device all the same
        self._session.run(_ADD_REFUSAL, (self._id, stream, self._now_ms, count))

    def _report(self, arrived: DeviceArrivals) -> None:
        """Which stream the device reports as now; one that it had left before is counted.

        By live documents only: a broker may hold old ones, and a last will was written before.
        """
        for kind in ("status", "summary"):
            document = arrived.documents.get(kind)
            if document is None or document.retained or document.value.get("state") == "lost":
                continue
            source = document.value if kind == "status" else document.value["outbox"]
            owned = self._session.rows(
                "SELECT stream.id, device.present, stream.reported FROM stream"
                " JOIN device ON device.id = stream.device WHERE stream.name = ? AND device.id = ?",
                (str(source["stream"]), self._id),
            )
            if not owned or owned[0][0] == owned[0][1]:
                continue
            stream, _, reported = owned[0]
            self._session.run(
                "UPDATE stream SET reported = 1, returns = returns + ? WHERE id = ?", (reported, stream)
            )
            self._session.run("UPDATE device SET present = ? WHERE id = ?", (stream, self._id))

    def _stream(self, name: str, records: Sequence[Arrival], tombstones: Sequence[Burial]) -> None:
        stream = self._stream_id(name, len(records) + len(tombstones))
        if stream is None:
            return
        held = ranges.merge(self._records(stream, records), self._tombstones(stream, tombstones))
        self._session.run("UPDATE stream SET heard_ms = ? WHERE id = ?", (self._now_ms, stream))
        self._booked.acknowledge.setdefault(self._name, {})[name] = held

    def _records(self, stream: int, records: Sequence[Arrival]) -> Ranges:
        if not records:
            return ()
        unique: dict[int, Arrival] = {}
        again: list[Arrival] = []
        for record in records:
            if record.seq in unique:
                again.append(record)
            else:
                unique[record.seq] = record
        arrived = ranges.runs(unique)
        there = coverage.near(self._session, stream, coverage.RECORD, arrived)
        fresh_ranges = ranges.subtract(arrived, there)
        fresh = list(unique.values())
        if ranges.total(fresh_ranges) != len(fresh):
            known = _members(ranges.intersect(arrived, there))
            again += [record for record in fresh if record.seq in known]
            fresh = [record for record in fresh if record.seq not in known]
        if fresh:
            inserted = self._session.insert_records(
                stream,
                self._now_ms,
                [(each.seq, each.kind, each.time_ms, each.data, each.time) for each in fresh],
            )
            if inserted != len(fresh):
                raise RuntimeError(
                    f"of {len(fresh)} records that stream {stream} was not to have, it took {inserted}: its "
                    "coverage is wrong"
                )
            coverage.add(self._session, stream, coverage.RECORD, fresh_ranges, there)
            for each in fresh:
                if each.kind != "raw":
                    self._extracts.add(stream, each)
        conflicts = self._compare(stream, again) if again else 0
        self._booked.records += len(fresh)
        self._booked.duplicates += len(again) - conflicts
        self._booked.conflicts += conflicts
        self._session.run(
            "UPDATE stream SET records = records + ?, duplicates = duplicates + ?, conflicts = conflicts + ?"
            " WHERE id = ?",
            (len(fresh), len(again) - conflicts, conflicts, stream),
        )
        self._beginning(stream)
        return arrived

    def _beginning(self, stream: int) -> None:
        if (told := self._extracts.beginnings.pop(stream, None)) is not None:
            self._session.run(
                "UPDATE stream SET previous = ?, reason = ?, set_aside = ? WHERE id = ?", (*told, stream)
            )

    def _compare(self, stream: int, again: Sequence[Arrival]) -> int:
        """Hold what came again against what is there; keep what differs beside it. How many differ anew.

        What was deleted (``retention``) came again all the same: there is nothing left to hold it against.
        The time is the device's own text, which is empty of records from before version 3 of the tables.
        """
        conflicts = 0
        there: dict[int, tuple[str, str, str]] = {}
        numbers = ranges.runs({record.seq for record in again})
        deleted = coverage.near(self._session, stream, coverage.DELETED, numbers)
        for first, last in numbers:
            for seq, kind, data, time in self._session.rows(
                "SELECT seq, kind, data, time FROM record WHERE stream = ? AND seq BETWEEN ? AND ?",
                (stream, first, last),
            ):
                there[seq] = (kind, data, time)
        for record in again:
            known = there.get(record.seq)
            same = known in ((record.kind, record.data, record.time), (record.kind, record.data, ""))
            if same or ranges.contains(deleted, record.seq):
                continue
            before = hashlib.sha256(f"{record.kind}\n{record.data}".encode())
            if self._session.rows(
                "SELECT 1 FROM conflict WHERE stream = ? AND seq = ? AND digest = ? AND time = ''",
                (stream, record.seq, before.hexdigest()),
            ):
                continue  # counted before the time was kept
            digest = hashlib.sha256(f"{record.time}\n{record.kind}\n{record.data}".encode()).hexdigest()
            conflicts += self._session.run(
                "INSERT INTO conflict (stream, seq, digest, kind, time_ms, received_ms, data, time)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
                (
                    stream, record.seq, digest, record.kind, record.time_ms, self._now_ms, record.data,
                    record.time,
                ),
            )  # fmt: skip
        return conflicts

    def _tombstones(self, stream: int, tombstones: Sequence[Burial]) -> Ranges:
        if not tombstones:
            return ()
        arrived = ranges.normalise((each.first, each.last) for each in tombstones)
        there = coverage.near(self._session, stream, coverage.TOMBSTONE, arrived)
        fresh = ranges.subtract(arrived, there)
        self._session.many(
            "INSERT INTO tombstone (stream, first, last, reason, rank, time_ms, received_ms)"
            " VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
            [(stream, t.first, t.last, t.reason, t.rank, t.time_ms, self._now_ms) for t in tombstones],
        )
        if fresh:
            coverage.add(self._session, stream, coverage.TOMBSTONE, fresh, there)
            self._session.run(
                "UPDATE stream SET tombstoned = tombstoned + ? WHERE id = ?",
                (min(ranges.total(fresh), _BIGGEST), stream),
            )
        self._booked.tombstones += len(tombstones)
        return arrived

    def _document(self, kind: str, document: Document) -> None:
        if kind == "summary" and not self._account(document):
            return
        self._session.run(_SET_DOCUMENT, (self._id, kind, self._now_ms, document.text))

    def _account(self, document: Document) -> bool:
        """Book the outbox's account; whether the summary is news (a broker may hold an old one)."""
        said: Mapping[str, Any] = document.value["outbox"]
        stream = self._stream_id(str(said["stream"]), 1, empty=True)
        if stream is None:
            return False
        produced, acknowledged, tombstoned, pending, oldest = (
            int(said[key]) for key in ("produced", "acknowledged", "tombstoned", "pending", "oldest_pending")
        )
        unannounced = said.get("unannounced")
        if not (isinstance(unannounced, int) and 0 <= unannounced <= _BIGGEST):
            unannounced = None
        before = self._session.rows(
            "SELECT produced, oldest_pending FROM account WHERE stream = ?", (stream,)
        )
        if before and document.retained and (produced, oldest) < before[0]:
            return False
        wrong = contradiction(
            produced, acknowledged, tombstoned, pending, oldest, before[0] if before else None
        )
        self._session.run(
            _SET_ACCOUNT,
            (
                stream,
                self._now_ms,
                produced,
                acknowledged,
                tombstoned,
                pending,
                oldest,
                unannounced,
                int(bool(wrong)),
            ),
        )
        if wrong:
            self._session.run("UPDATE account SET contradiction = ? WHERE stream = ?", (wrong, stream))
        return True

    def _command(self, command: CommandState) -> None:
        if not command.text:
            return  # cleared: what became of it stays known
        before = self._session.rows(
            "SELECT body FROM command WHERE device = ? AND op = ? AND id = ?",
            (self._id, command.op, command.id),
        )
        if before != [(command.text,)]:  # retained documents come again with each connection
            self._session.run(
                _SET_COMMAND, (self._id, command.op, command.id, self._now_ms, command.state, command.text)
            )


_SET_DOCUMENT = upsert("document", ("device", "kind"), ("received_ms", "body"))
_SET_ACCOUNT = upsert(
    "account",
    ("stream",),
    ("received_ms", "produced", "acknowledged", "tombstoned", "pending", "oldest_pending", "unannounced"),
    ("contradictions",),
)
_ADD_REFUSAL = upsert("refusal", ("device", "stream"), ("last_ms",), ("count",))
_SET_COMMAND = upsert("command", ("device", "op", "id"), ("received_ms", "state", "body"))


def contradiction(
    produced: int,
    acknowledged: int,
    tombstoned: int,
    pending: int,
    oldest_pending: int,
    before: tuple[int, int] | None = None,
) -> str:
    """What is wrong with an account in itself, or against the one before it (produced, oldest_pending)."""
    if produced != acknowledged + tombstoned + pending:
        parts = f"acknowledged {acknowledged} + tombstoned {tombstoned} + pending {pending}"
        return f"produced {produced} is not {parts}"
    if not 1 <= oldest_pending <= produced + 1:
        return f"oldest pending {oldest_pending} is outside of 1 to {produced + 1}"
    if produced - oldest_pending + 1 < pending:
        return f"{pending} pending do not fit between {oldest_pending} and {produced}"
    if before is not None and produced < before[0]:
        return f"produced went back from {before[0]} to {produced}"
    if before is not None and oldest_pending < before[1]:
        return f"oldest pending went back from {before[1]} to {oldest_pending}"
    return ""


def _members(of: Ranges) -> frozenset[int]:
    return frozenset(number for first, last in of for number in range(first, last + 1))
