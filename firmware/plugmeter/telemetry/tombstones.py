"""The tombstones in the database: exact, joined where that is honest, gone only when acknowledged."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from typing import Final

from plugmeter.telemetry.ranges import Range
from plugmeter.telemetry.record import Tombstone

SCHEMA: Final = """
CREATE TABLE tombstones (
    first INTEGER PRIMARY KEY, last INTEGER NOT NULL, rank INTEGER NOT NULL, reason TEXT NOT NULL,
    time_ns INTEGER NOT NULL, edition INTEGER NOT NULL
) STRICT;
"""
"""``edition``: the commit that wrote it last."""

MOST: Final = 10_000
"""Beyond so many, neighbours of different ranks and reasons are joined as well."""

COLUMNS: Final = "first, last, rank, reason, time_ns"
_AT_ONCE: Final = 256


class Tombstones:
    """Within the transactions of the outbox's writer. ``handed_at`` is the last commit of whose tombstones
    some may have been handed out: those keep their bounds, because their name is made of these."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def add(self, new: Tombstone, edition: int, handed_at: int) -> None:
        """Add one, joined with its neighbours of the same rank and reason."""
        first, last = new.first, new.last
        for sql, number in (
            ("SELECT first, last FROM tombstones WHERE first = (SELECT max(first) FROM tombstones"
             " WHERE first < ?1) AND last = ?1 - 1", new.first),
            ("SELECT first, last FROM tombstones WHERE first = ?1 + 1", new.last),
        ):  # fmt: skip
            row = self._connection.execute(
                f"{sql} AND rank = ?2 AND reason = ?3 AND edition > ?4",
                (number, new.rank, new.reason, handed_at),
            ).fetchone()
            if row is not None:
                first, last = min(first, row[0]), max(last, row[1])
        if (first, last) != (new.first, new.last):
            self._connection.execute("DELETE FROM tombstones WHERE first BETWEEN ? AND ?", (first, last))
        self._insert(Tombstone(first, last, new.rank, new.reason, new.time_ns), edition)

    def acknowledge(self, wanted: Range) -> int:
        """Delete what ``wanted`` covers, and trim what it covers in part. The number up to which that is
        done; the rest is for the next transaction."""
        first, last = wanted
        rows = self._connection.execute(
            f"SELECT {COLUMNS}, edition FROM tombstones WHERE first >= coalesce("
            "(SELECT max(first) FROM tombstones WHERE first <= ?1), ?1) AND first <= ?2"
            " ORDER BY first LIMIT ?3",
            (first, last, _AT_ONCE),
        ).fetchall()
        for row in rows:
            tombstone, edition = Tombstone(*row[:5]), row[5]
            if tombstone.last < first:
                continue
            self._connection.execute("DELETE FROM tombstones WHERE first = ?", (tombstone.first,))
            for low, high in ((tombstone.first, first - 1), (last + 1, tombstone.last)):
                if low <= high:
                    rest = Tombstone(low, high, tombstone.rank, tombstone.reason, tombstone.time_ns)
                    self._insert(rest, edition)
        return min(last, rows[-1][1]) if len(rows) == _AT_ONCE else last

    def count(self) -> int:
        """How many there are."""
        return int(self._connection.execute("SELECT count(*) FROM tombstones").fetchone()[0])

    def compact(self, edition: int, handed_at: int) -> None:
        """Join neighbours whatever their rank and reason: the joined one has the highest rank of them, and
        the reason of the larger part."""
        joined: list[Tombstone] = []
        sources = 0
        for each in list(self._since(handed_at)):
            if joined and joined[-1].last + 1 == each.first:
                left = joined[-1]
                reason = left.reason if left.count >= each.count else each.reason
                joined[-1] = Tombstone(
                    left.first, each.last, max(left.rank, each.rank), reason, max(left.time_ns, each.time_ns)
                )
                sources += 1
            else:
                if sources:
                    self._replace(joined[-1], edition)
                joined[:] = [each]
                sources = 0
        if sources:
            self._replace(joined[-1], edition)

    def _since(self, handed_at: int) -> Iterator[Tombstone]:
        for row in self._connection.execute(
            f"SELECT {COLUMNS} FROM tombstones WHERE edition > ? ORDER BY first", (handed_at,)
        ):
            yield Tombstone(*row)

    def _replace(self, joined: Tombstone, edition: int) -> None:
        self._connection.execute(
            "DELETE FROM tombstones WHERE first BETWEEN ? AND ?", (joined.first, joined.last)
        )
        self._insert(joined, edition)

    def _insert(self, new: Tombstone, edition: int) -> None:
        self._connection.execute(
            "INSERT INTO tombstones VALUES (?, ?, ?, ?, ?, ?)",
            (new.first, new.last, new.rank, new.reason, new.time_ns, edition),
        )
