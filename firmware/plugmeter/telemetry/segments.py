"""The segments in the database: appended, acknowledged by ranges, evicted by rank or by age.

Two tables, so that the little that is asked often (which numbers are pending) is not spread over as many
pages as the records themselves.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from plugmeter.telemetry import ranges, segment
from plugmeter.telemetry.ranges import Range
from plugmeter.telemetry.segment import Entry, SegmentDamaged, Span

SCHEMA: Final = """
CREATE TABLE segments (
    first INTEGER PRIMARY KEY, last INTEGER NOT NULL, live INTEGER NOT NULL, ranks INTEGER NOT NULL,
    gone TEXT NOT NULL, edition INTEGER NOT NULL
) STRICT;
CREATE TABLE bodies (first INTEGER PRIMARY KEY, body BLOB NOT NULL) STRICT;
"""
"""``edition``: the commit that wrote the body last."""

_AT_ONCE: Final = 64
_PAGE_FITS_BYTES: Final = 3_900
"""So long a body stays on one page of the table (sqlite.org/fileformat2: at most U - 35 of 4,096)."""
_TAIL_ADDS_BYTES: Final = 8_192


@dataclass(slots=True)
class _Tail:
    """The last segment, while it may still grow within its page, which is written anew in any case."""

    entries: list[Entry]


@dataclass(frozen=True, slots=True)
class Evicted:
    """What an eviction took: records by rank. ``found`` is False where there was nothing to look at."""

    entries: tuple[tuple[int, int], ...]
    """(number, rank)"""
    found: bool


class Segments:
    """Within the transactions of the outbox's writer; ``forget`` when one was rolled back."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._tail: _Tail | None = None
        self._lowest = [0, 0, 0, 0]
        """By rank: below this number there are none."""

    def forget(self) -> None:
        """What was remembered may never have been written."""
        self._tail = None
        self._lowest = [0, 0, 0, 0]

    def append(self, entries: Sequence[Entry], edition: int) -> None:
        """Records with numbers above all that there are, without a hole, and not more than fit a segment."""
        if self._grow_tail(entries, edition):
            return
        body = segment.pack(entries)
        first, last = entries[0].seq, entries[-1].seq
        self._connection.execute(
            "INSERT INTO segments VALUES (?, ?, ?, ?, '', ?)",
            (first, last, len(entries), segment.mask(e.rank for e in entries), edition),
        )
        self._connection.execute("INSERT INTO bodies VALUES (?, ?)", (first, body))
        self._tail = _Tail(list(entries)) if len(body) < _PAGE_FITS_BYTES else None

    def acknowledge(self, wanted: Range) -> tuple[int, int]:
        """How many pending numbers were in ``wanted``, which they no longer are; and the number up to which
        that is done: the rest is for the next transaction."""
        first, last = wanted
        spans = self._spans(
            "WHERE first >= coalesce((SELECT max(first) FROM segments WHERE first <= ?1), ?1)"
            " AND first <= ?2 ORDER BY first LIMIT ?3",
            (first, last, _AT_ONCE),
        )
        taken = 0
        emptied: list[int] = []
        for span in spans:
            if span.last < first:
                continue
            covered = (max(first, span.first), min(last, span.last))
            gone = ranges.merge(span.gone, (covered,))
            now_gone = ranges.total(gone) - ranges.total(span.gone)
            if not now_gone:
                continue
            taken += now_gone
            if now_gone == span.live:
                emptied.append(span.first)
            else:
                self._connection.execute(
                    "UPDATE segments SET live = live - ?, gone = ? WHERE first = ?",
                    (now_gone, segment.gone_text(gone), span.first),
                )
            if self._tail is not None and covered[1] >= self._tail.entries[0].seq:
                self._tail = None
        self._delete(emptied, [span.first for span in spans])
        return taken, min(last, spans[-1].last) if len(spans) == _AT_ONCE else last

    def evict_rank(self, rank: int, edition: int) -> Evicted:
        """Take the oldest records of one rank: those of the first segment that has any."""
        spans = self._spans(
            "WHERE first >= ?1 AND ranks & ?2 ORDER BY first LIMIT 1", (self._lowest[rank], 1 << rank)
        )
        if not spans:
            return Evicted((), False)
        self._lowest[rank] = spans[0].first
        return Evicted(self._take(spans[0], rank, None, edition), True)

    def evict_below(self, before: int, edition: int) -> Evicted:
        """Take the records with numbers below ``before`` of the first segment."""
        spans = self._spans("WHERE first < ?1 ORDER BY first LIMIT 1", (before,))
        if not spans:
            return Evicted((), False)
        taken = self._take(spans[0], None, before, edition)
        return Evicted(taken, bool(taken))

    def any_pending(self, first: int, last: int) -> bool:
        """Whether there is a record within ``first`` .. ``last``."""
        spans = self._spans(
            "WHERE first >= coalesce((SELECT max(first) FROM segments WHERE first <= ?1), ?1)"
            " AND first <= ?2 ORDER BY first LIMIT 2",  # of these the second begins within, or is the first
            (first, last),
        )
        return any(ranges.clip(span.living, first, last) for span in spans)

    def pending(self) -> int:
        """How many records there are."""
        return int(self._connection.execute("SELECT coalesce(sum(live), 0) FROM segments").fetchone()[0])

    def _grow_tail(self, entries: Sequence[Entry], edition: int) -> bool:
        tail = self._tail
        if (
            tail is None
            or tail.entries[-1].seq + 1 != entries[0].seq
            or len(tail.entries) + len(entries) > segment.MOST_RECORDS
            or sum(len(e.data) for e in entries) > _TAIL_ADDS_BYTES
        ):
            return False
        both = [*tail.entries, *entries]
        body = segment.pack(both)
        if len(body) > _PAGE_FITS_BYTES:
            return False
        first = both[0].seq
        self._connection.execute(
            "UPDATE segments SET last = ?, live = ?, ranks = ?, edition = ? WHERE first = ?",
            (both[-1].seq, len(both), segment.mask(e.rank for e in both), edition, first),
        )
        self._connection.execute("UPDATE bodies SET body = ? WHERE first = ?", (body, first))
        self._tail = _Tail(both)
        return True

    def _take(
        self, span: Span, rank: int | None, before: int | None, edition: int
    ) -> tuple[tuple[int, int], ...]:
        if self._tail is not None and span.first == self._tail.entries[0].seq:
            self._tail = None
        row = self._connection.execute("SELECT body FROM bodies WHERE first = ?", (span.first,)).fetchone()
        if row is None:
            raise SegmentDamaged(f"segment {span.first} has no records")
        alive = [e for e in segment.unpack(row[0]) if not ranges.contains(span.gone, e.seq)]
        taken = [e for e in alive if (rank is None or e.rank == rank) and (before is None or e.seq < before)]
        doomed = {e.seq for e in taken}
        kept = [e for e in alive if e.seq not in doomed]
        if not kept:
            self._delete([span.first], [span.first])
        elif taken:
            gone = ranges.subtract(((span.first, span.last),), ranges.runs(e.seq for e in kept))
            self._connection.execute(
                "UPDATE segments SET live = ?, ranks = ?, gone = ?, edition = ? WHERE first = ?",
                (len(kept), segment.mask(e.rank for e in kept), segment.gone_text(gone), edition, span.first),
            )
            self._connection.execute(
                "UPDATE bodies SET body = ? WHERE first = ?", (segment.pack(kept), span.first)
            )
        else:
            self._connection.execute(
                "UPDATE segments SET ranks = ? WHERE first = ?",
                (segment.mask(e.rank for e in kept), span.first),
            )
        return tuple((e.seq, e.rank) for e in taken)

    def _delete(self, firsts: Sequence[int], neighbours: Sequence[int]) -> None:
        """Delete segments; ``neighbours`` are all that there are between the first and the last of them."""
        doomed = set(firsts)
        run: list[int] = []
        for each in [*neighbours, None]:
            if each in doomed:
                run.append(each)
            elif run:
                for name in ("segments", "bodies"):
                    self._connection.execute(
                        f"DELETE FROM {name} WHERE first BETWEEN ? AND ?", (run[0], run[-1])
                    )
                run = []

    def _spans(self, where: str, arguments: Sequence[Any]) -> list[Span]:
        return spans(self._connection, where, arguments)


def spans(connection: sqlite3.Connection, where: str, arguments: Sequence[Any]) -> list[Span]:
    """Segments in one value: each further row would give the interpreter's lock away once more."""
    found = [
        Span(first, last, live, mask, segment.parse_gone(gone))
        for first, last, live, mask, gone, _ in span_rows(connection, where, arguments)
    ]
    for span in found:
        if ranges.total(span.living) != span.live:
            raise SegmentDamaged(f"segment {span.first} does not know how many records it has")
    return found


def span_rows(connection: sqlite3.Connection, where: str, arguments: Sequence[Any]) -> list[list[Any]]:
    """first, last, live, ranks, gone and edition of segments. Raises SegmentDamaged, sqlite3.Error."""
    (text,) = connection.execute(
        "SELECT json_group_array(json_array(first, last, live, ranks, gone, edition))"
        f" FROM (SELECT * FROM segments {where})",
        arguments,
    ).fetchone()
    rows: list[list[Any]] = json.loads(text)
    for row in rows:
        if not (_whole(row[:4]) and isinstance(row[4], str) and 0 < row[0] <= row[1] and row[2] > 0):
            raise SegmentDamaged("a segment's bounds make no sense")
    return rows


def _whole(values: Iterable[object]) -> bool:
    return all(isinstance(value, int) for value in values)
