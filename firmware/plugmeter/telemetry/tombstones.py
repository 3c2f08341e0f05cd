"""The tombstones in the database: exact, joined where that is honest, gone only when acknowledged.

One that was handed out keeps its bounds, because its name is made of these, as long as there are few. Beyond
that also those are joined, and in the end over numbers between them that are acknowledged: whoever reads
tombstones goes by the numbers that they cover, and has the records of these (docs/telemetry.md). Over a
record that is pending none is ever joined.
"""

from __future__ import annotations

import heapq
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from plugmeter.telemetry.ranges import Range
from plugmeter.telemetry.record import Tombstone

SCHEMA: Final = """
CREATE TABLE tombstones (
    first INTEGER PRIMARY KEY, last INTEGER NOT NULL, rank INTEGER NOT NULL, reason TEXT NOT NULL,
    time_ns INTEGER NOT NULL, handed INTEGER NOT NULL
) STRICT;
"""
"""``handed``: 1 for one that may have been handed out."""
COLUMNS: Final = "first, last, rank, reason, time_ns"
FROM_FORMAT_1: Final = f"""
CREATE TEMP TABLE tombstones_1 AS SELECT {COLUMNS},
    edition <= (SELECT coalesce(max(handed_at), 0) FROM main.books) AS handed FROM main.tombstones;
DROP TABLE main.tombstones;
{SCHEMA}
INSERT INTO main.tombstones SELECT {COLUMNS}, handed FROM temp.tombstones_1;
DROP TABLE temp.tombstones_1;
"""
"""Before the books are brought on: up to which commit all had been handed out was in these."""

_AT_ONCE: Final = 256


@dataclass(frozen=True, slots=True)
class _Row:
    stone: Tombstone
    handed: int


class Tombstones:
    """Within one transaction of the outbox's writer."""

    def __init__(self, connection: sqlite3.Connection, count: int) -> None:
        """``count``: how many there are."""
        self._connection = connection
        self.count = count

    def hand(self, firsts: Iterable[int]) -> None:
        """Those with these first numbers were handed out."""
        self._connection.executemany(
            "UPDATE tombstones SET handed = 1 WHERE first = ?", [(first,) for first in firsts]
        )

    def add(self, new: Tombstone) -> None:
        """Add one, joined with its neighbours of the same rank and reason."""
        first, last = new.first, new.last
        for sql, number in (
            ("SELECT first, last FROM tombstones WHERE first = (SELECT max(first) FROM tombstones"
             " WHERE first < ?1) AND last = ?1 - 1", new.first),
            ("SELECT first, last FROM tombstones WHERE first = ?1 + 1", new.last),
        ):  # fmt: skip
            row = self._connection.execute(
                f"{sql} AND rank = ?2 AND reason = ?3 AND NOT handed", (number, new.rank, new.reason)
            ).fetchone()
            if row is not None:
                first, last = min(first, row[0]), max(last, row[1])
        if (first, last) != (new.first, new.last):
            self._delete(first, last)
        self._insert(Tombstone(first, last, new.rank, new.reason, new.time_ns), 0)

    def acknowledge(self, wanted: Range) -> int:
        """Delete what ``wanted`` covers, and trim what it covers in part. The number up to which that is
        done; the rest is for the next transaction."""
        first, last = wanted
        rows = self._connection.execute(
            f"SELECT {COLUMNS}, handed FROM tombstones WHERE first >= coalesce("
            "(SELECT max(first) FROM tombstones WHERE first <= ?1), ?1) AND first <= ?2"
            " ORDER BY first LIMIT ?3",
            (first, last, _AT_ONCE),
        ).fetchall()
        for row in rows:
            tombstone, handed = Tombstone(*row[:5]), row[5]
            if tombstone.last < first:
                continue
            self._delete(tombstone.first, tombstone.first)
            for low, high in ((tombstone.first, first - 1), (last + 1, tombstone.last)):
                if low <= high:
                    rest = Tombstone(low, high, tombstone.rank, tombstone.reason, tombstone.time_ns)
                    self._insert(rest, handed)
        return min(last, rows[-1][1]) if len(rows) == _AT_ONCE else last

    def join_neighbours(self, *, also_handed: bool) -> None:
        """Join those that touch whatever their rank and reason: the joined one has the highest rank of them,
        and the reason of the larger part."""
        self._join(
            lambda left, right: (
                left.stone.last + 1 == right.stone.first
                and (also_handed or not (left.handed or right.handed))
            )
        )

    def join_over_gaps(self, is_pending: Callable[[int, int], bool], wanted: int) -> None:
        """Until ``wanted`` are left, or as near as one gets, join over the narrowest gaps in which nothing
        ``is_pending``: their numbers are acknowledged, so nobody misses a record there."""
        gaps = (
            (right.stone.first - left.stone.last, right.stone.first)
            for left, right in pairwise(self._rows())
            if not is_pending(left.stone.last + 1, right.stone.first - 1)
        )
        closed = {first for _, first in heapq.nsmallest(self.count - wanted, gaps)}
        self._join(lambda _, right: right.stone.first in closed)

    def _join(self, belong: Callable[[_Row, _Row], bool]) -> None:
        joined: _Row | None = None
        sources = 0
        for row in self._rows():
            if joined is not None and belong(joined, row):
                left, right = joined.stone, row.stone
                reason = left.reason if left.count >= right.count else right.reason
                rank, time_ns = max(left.rank, right.rank), max(left.time_ns, right.time_ns)
                joined = _Row(Tombstone(left.first, right.last, rank, reason, time_ns), 0)
                sources += 1
                continue
            if joined is not None and sources:
                self._replace(joined.stone)
            joined, sources = row, 0
        if joined is not None and sources:
            self._replace(joined.stone)

    def _rows(self) -> Iterator[_Row]:
        """All, ascending, a few at a time. What was given already may be changed meanwhile."""
        after = 0
        while True:
            rows = self._connection.execute(
                f"SELECT {COLUMNS}, handed FROM tombstones WHERE first > ? ORDER BY first LIMIT ?",
                (after, _AT_ONCE),
            ).fetchall()
            for row in rows:
                yield _Row(Tombstone(*row[:5]), row[5])
            if len(rows) < _AT_ONCE:
                return
            after = rows[-1][0]

    def _replace(self, joined: Tombstone) -> None:
        self._delete(joined.first, joined.last)
        self._insert(joined, 0)

    def _delete(self, first: int, last: int) -> None:
        done = self._connection.execute("DELETE FROM tombstones WHERE first BETWEEN ? AND ?", (first, last))
        self.count -= done.rowcount

    def _insert(self, new: Tombstone, handed: int) -> None:
        self._connection.execute(
            "INSERT INTO tombstones VALUES (?, ?, ?, ?, ?, ?)",
            (new.first, new.last, new.rank, new.reason, new.time_ns, handed),
        )
        self.count += 1
