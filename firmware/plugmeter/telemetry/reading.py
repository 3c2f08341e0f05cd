"""What the outbox's readers see: batches of what is committed, and the account."""

from __future__ import annotations

import json
import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from plugmeter.telemetry import books, database, ranges, segment
from plugmeter.telemetry.books import Books
from plugmeter.telemetry.change import Handing
from plugmeter.telemetry.database import DatabaseDamaged
from plugmeter.telemetry.record import Account, StoredRecord, Tombstone
from plugmeter.telemetry.segment import Entry, SegmentDamaged
from plugmeter.telemetry.segments import span_rows, spans
from plugmeter.telemetry.tombstones import COLUMNS

_SPANS_AT_ONCE: Final = 16
_FROM_NUMBER: Final = "WHERE first >= coalesce((SELECT max(first) FROM segments WHERE first <= ?1), ?1)"


@dataclass(frozen=True, slots=True)
class Batch:
    """Committed things with numbers above the one that was asked for, ascending."""

    records: tuple[StoredRecord, ...]
    tombstones: tuple[Tombstone, ...]
    last: int
    """All that there was up to this number is in it: ask on from here."""
    stream: str
    """A damaged database makes a new stream, whose numbers begin again."""


class Ended(Exception):
    """The outbox is closed."""


class ReadingBusy(Exception):
    """Somebody else reads or writes, and the disk keeps him."""


class Reader:
    """Thread-safe, with a connection of its own. Raises sqlite3.Error, SegmentDamaged and DatabaseDamaged,
    and Ended after its end."""

    def __init__(self, path: Path, handing: Handing) -> None:
        self._path = path
        self._handing = handing
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._ended = False
        self._unpacked: tuple[tuple[str, int, int], list[Entry]] | None = None
        """The segment that was read last, by stream, first number and edition: batches end within one."""

    def next_batch(self, after: int, most_records: int, most_bytes: int, wait_s: float) -> Batch:
        """See ``Outbox.next_batch``. Raises ReadingBusy where others hold it up for more than ``wait_s``."""
        with (
            _held(self._lock, wait_s),
            _held(self._handing.lock, wait_s),
            self._snapshot() as (connection, now),
        ):
            if after >= now.produced:
                return Batch((), (), after, now.stream)
            records, upto = self._records(connection, now, after, max(1, most_records), most_bytes)
            stones = _tombstones(connection, after, upto, max(1, most_records))
            if len(stones) >= most_records:
                upto = min(upto, stones[-1].last)
                records = [each for each in records if each.seq <= upto]
            if stones:
                self._handing.out.update(_not_handed(connection, stones))
            return Batch(tuple(records), tuple(stones), upto, now.stream)

    def account(self) -> Account:
        """The books, and what is there, in one read transaction."""
        with self._lock, self._snapshot() as (connection, now):
            return account(connection, now, self._path)

    @contextmanager
    def suspended(self) -> Iterator[None]:
        """Nobody reads within this, and no connection is open."""
        with self._lock:
            self.close()
            yield

    def end(self) -> None:
        """Nobody reads any more, and a thread that comes late opens nothing."""
        with self._lock:
            self._ended = True
            self.close()

    def close(self) -> None:
        """Close the connection; the next read opens a new one. Not while another thread reads."""
        self._unpacked = None
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    @contextmanager
    def _snapshot(self) -> Iterator[tuple[sqlite3.Connection, Books]]:
        if self._ended:
            raise Ended
        if self._connection is None:
            self._connection = database.open_reader(self._path)
        connection = self._connection
        sound = False
        try:
            connection.execute("BEGIN")
            now = books.read(connection)
            if now is None:
                raise DatabaseDamaged("its books are gone")
            yield connection, now
            connection.execute("ROLLBACK")
            sound = True
        finally:
            if not sound:
                self.close()

    def _records(
        self, connection: sqlite3.Connection, now: Books, after: int, most_records: int, most_bytes: int
    ) -> tuple[list[StoredRecord], int]:
        """The records, and up to which number these are all."""
        found: list[StoredRecord] = []
        size = 0
        cursor = after + 1
        while True:
            rows = span_rows(connection, f"{_FROM_NUMBER} ORDER BY first LIMIT ?2", (cursor, _SPANS_AT_ONCE))
            for first, last, _live, _ranks, gone_text, edition in rows:
                if last < cursor:
                    continue
                gone = segment.parse_gone(gone_text)
                for entry in self._entries(connection, (now.stream, first, edition)):
                    if entry.seq <= after or (gone and ranges.contains(gone, entry.seq)):
                        continue
                    size += len(entry.data)
                    if found and (len(found) >= most_records or size > most_bytes):
                        return found, entry.seq - 1
                    found.append(StoredRecord(entry.seq, entry.kind, entry.data, entry.time_ns))
                cursor = last + 1
            if len(rows) < _SPANS_AT_ONCE:
                return found, now.produced

    def _entries(self, connection: sqlite3.Connection, key: tuple[str, int, int]) -> list[Entry]:
        if self._unpacked is None or self._unpacked[0] != key:
            self._unpacked = (key, entries_of(connection, key[1]))
        return self._unpacked[1]


@contextmanager
def _held(lock: threading.Lock, wait_s: float) -> Iterator[None]:
    if not lock.acquire(timeout=wait_s):
        raise ReadingBusy
    try:
        yield
    finally:
        lock.release()


def waiting(connection: sqlite3.Connection) -> tuple[int, int]:
    """Records that are pending, and numbers in tombstones that nobody has acknowledged."""
    pending, unannounced = connection.execute(
        "SELECT (SELECT coalesce(sum(live), 0) FROM segments),"
        " (SELECT coalesce(sum(last - first + 1), 0) FROM tombstones)"
    ).fetchone()
    return pending, unannounced


def account(connection: sqlite3.Connection, now: Books, path: Path) -> Account:
    """Within a read transaction that ``now`` was read in."""
    pending, unannounced = waiting(connection)
    lowest = spans(connection, "ORDER BY first LIMIT 1", ())
    return Account(
        stream=now.stream,
        produced=now.produced,
        acknowledged=now.acknowledged,
        tombstoned=now.tombstoned,
        pending=pending,
        oldest_pending=lowest[0].living[0][0] if lowest else now.produced + 1,
        unannounced=min(unannounced, now.tombstoned),
        bytes=size_on_disk(path),
    )


def entries_of(connection: sqlite3.Connection, first: int) -> list[Entry]:
    """The records of the segment with this first number, those included that are pending no more."""
    row = connection.execute("SELECT body FROM bodies WHERE first = ?", (first,)).fetchone()
    if row is None or not isinstance(row[0], bytes):
        raise SegmentDamaged(f"segment {first} has no records")
    return segment.unpack(row[0])


def count_records(connection: sqlite3.Connection) -> int:
    """How many records there are, counted one by one, however many. Raises SegmentDamaged where one that is
    pending is missing."""
    counted = 0
    cursor = 0
    while True:
        some = spans(connection, "WHERE first > ? ORDER BY first LIMIT ?", (cursor, _SPANS_AT_ONCE))
        for span in some:
            there = ranges.runs(entry.seq for entry in entries_of(connection, span.first))
            missing = ranges.subtract(span.living, there)
            if missing:
                raise SegmentDamaged(f"record {missing[0][0]} should be pending and is not there")
            counted += ranges.total(ranges.intersect(there, span.living))
            cursor = span.first
        if len(some) < _SPANS_AT_ONCE:
            return counted


def list_tombstones(connection: sqlite3.Connection, most: int) -> list[Tombstone]:
    """The oldest of them."""
    return _tombstones(connection, 0, 2**63 - 1, most)


def size_on_disk(path: Path) -> int:
    """Of the database and its log, in bytes."""
    size = 0
    for suffix in database.SUFFIXES[:2]:
        try:
            size += os.stat(f"{path}{suffix}").st_size  # noqa: PTH116  a Path has no such suffix
        except FileNotFoundError:
            pass
    return size


def _not_handed(connection: sqlite3.Connection, stones: list[Tombstone]) -> list[int]:
    (text,) = connection.execute(
        "SELECT json_group_array(first) FROM tombstones WHERE first BETWEEN ? AND ? AND NOT handed",
        (stones[0].first, stones[-1].first),
    ).fetchone()
    found: list[int] = json.loads(text)
    return found


def _tombstones(connection: sqlite3.Connection, after: int, upto: int, most: int) -> list[Tombstone]:
    (text,) = connection.execute(
        f"SELECT json_group_array(json_array({COLUMNS})) FROM (SELECT * FROM tombstones"
        " WHERE first >= coalesce((SELECT max(first) FROM tombstones WHERE first <= ?1), ?1)"
        " AND last > ?2 AND first <= ?3 ORDER BY first LIMIT ?4)",
        (after + 1, after, upto, most),
    ).fetchone()
    return [Tombstone(*row) for row in json.loads(text)]
