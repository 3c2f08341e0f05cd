"""One transaction of the outbox: what came in gets its numbers, what was acknowledged or must go leaves."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Final

from plugmeter.telemetry import age, books, ranges
from plugmeter.telemetry.age import Instant
from plugmeter.telemetry.books import Books
from plugmeter.telemetry.database import PAGE_BYTES
from plugmeter.telemetry.intake import Discard, Item
from plugmeter.telemetry.limits import Limits
from plugmeter.telemetry.ranges import Ranges
from plugmeter.telemetry.record import Rank, Tombstone
from plugmeter.telemetry.segment import MOST_BYTES, MOST_RECORDS, Entry
from plugmeter.telemetry.segments import Segments
from plugmeter.telemetry.tombstones import Tombstones

_LOOKED_INTO: Final = 256
"""Segments that one transaction looks into for what must go; the next goes on."""


class Handing:
    """What the reader and the writer must agree on: which tombstones were handed out.

    ``out`` has their first numbers until a commit has noted them. The reader holds ``lock`` while it reads,
    the writer from the first tombstone of a transaction to its end; so none is joined with others while it is
    on its way out.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.out: set[int] = set()


@dataclass(frozen=True, slots=True)
class State:
    """What the writer knows of the database, as committed."""

    books: Books
    pending: int
    marked_ns: int
    """When (lived_ns) the age of records was noted last, and below which number; see ``ages``."""
    marked_before: int
    used_bytes: int
    """The pages that are in use."""
    free_pages: int
    tombstones: int
    joined: int
    """How many tombstones were left when they were joined last."""


@dataclass(frozen=True, slots=True)
class Done:
    """What a transaction did."""

    state: State
    told: bool
    """Whether there is something new for the controller."""
    evicted: int
    acks_left: Ranges
    """Too many for one transaction."""
    more: bool
    """Whether more has to go than one transaction may look into."""


class Change:
    """Make one within BEGIN and COMMIT, and let go of it after that, whatever came of it."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        segments: Segments,
        state: State,
        limits: Limits,
        handing: Handing,
        wall_ns: int,
    ) -> None:
        self._connection = connection
        self._segments = segments
        self._tombstones = Tombstones(connection, state.tombstones)
        self._state = state
        self._limits = limits
        self._handing = handing
        self._wall_ns = wall_ns
        self._edition = state.books.commits + 1
        self._produced = state.books.produced
        self._tombstoned = state.books.tombstoned
        self._acknowledged = state.books.acknowledged
        self._pending = state.pending
        self._evicted = 0
        self._looked = 0
        self._holds = False
        self._joined = state.joined

    def make(self, items: Sequence[Item], acks: Ranges, *, lived_ns: int, now: Instant, clean: int) -> Done:
        """All of it. Raises sqlite3.Error, SegmentDamaged."""
        left = self._acknowledge(acks)
        self._number(items)
        more = not self._make_room() or not self._expire(lived_ns)
        marked_ns, marked_before = self._mark(lived_ns)
        self._join_tombstones()
        if clean:
            self._hold()  # what was handed out is noted
        old = self._state.books
        new = replace(
            old,
            produced=self._produced,
            acknowledged=self._acknowledged,
            tombstoned=self._tombstoned,
            commits=self._edition,
            clean=clean,
            lived_ns=lived_ns,
            boot_id=now.boot_id,
            boot_ns=now.boot_ns,
        )
        books.write(self._connection, new)
        pages, free = page_counts(self._connection)
        state = State(
            new,
            self._pending,
            marked_ns,
            marked_before,
            (pages - free) * PAGE_BYTES,
            free,
            self._tombstones.count,
            self._joined,
        )
        told = (new.produced, new.tombstoned) != (old.produced, old.tombstoned)
        return Done(state, told, self._evicted, left, more)

    def let_go(self, *, committed: bool) -> None:
        """The transaction is over: the reader may hand out tombstones again."""
        if self._holds:
            if committed:
                self._handing.out.clear()
            self._handing.lock.release()
            self._holds = False

    def _hold(self) -> None:
        if not self._holds:
            self._handing.lock.acquire()
            self._holds = True
            self._tombstones.hand(self._handing.out)

    def _acknowledge(self, acks: Ranges) -> Ranges:
        """What is left of ``acks``."""
        for at, (first, last) in enumerate(acks):
            last = min(last, self._state.books.produced)
            if last < first:
                continue
            taken, upto = self._segments.acknowledge((first, last))
            self._hold()
            upto_too = self._tombstones.acknowledge((first, last))
            self._acknowledged += taken
            self._pending -= taken
            self._looked += 1
            rest = min(upto, upto_too) + 1
            if rest <= last:
                return ((rest, last), *acks[at + 1 :])
            if self._looked >= _LOOKED_INTO:
                return acks[at + 1 :]
        return ()

    def _number(self, items: Sequence[Item]) -> None:
        entries: list[Entry] = []
        size = 0
        for item in items:
            if isinstance(item, Discard):
                self._append(entries)
                entries, size = [], 0
                first, self._produced = self._produced + 1, self._produced + item.count
                self._bury(first, self._produced, item.rank, item.reason)
                self._join_tombstones()
                continue
            if entries and (len(entries) >= MOST_RECORDS or size + len(item.data) > MOST_BYTES):
                self._append(entries)
                entries, size = [], 0
                self._make_room()  # as one goes along: the file must not outgrow its limit
            self._produced += 1
            size += len(item.data)
            entries.append(Entry(self._produced, int(item.rank), item.kind, item.time_ns, item.data))
        self._append(entries)

    def _append(self, entries: list[Entry]) -> None:
        if entries:
            self._segments.append(entries, self._edition)
            self._pending += len(entries)

    def _make_room(self) -> bool:
        """Let the oldest records of the lowest rank go until the rest fits. False where the next transaction
        must go on."""
        for rank in Rank:
            while True:
                pages, free = page_counts(self._connection)
                if (pages - free) * PAGE_BYTES <= self._limits.data_bytes:
                    return True
                if self._looked >= _LOOKED_INTO:
                    return False
                evicted = self._segments.evict_rank(int(rank), self._edition)
                if not evicted.found:
                    break
                self._evict(evicted.entries, "full")
        return True

    def _expire(self, lived_ns: int) -> bool:
        before = expired_before(self._connection, self._limits, lived_ns)
        while before is not None:
            if self._looked >= _LOOKED_INTO:
                return False
            evicted = self._segments.evict_below(before, self._edition)
            if not evicted.found:
                break
            self._evict(evicted.entries, "age")
        return True

    def _evict(self, entries: Sequence[tuple[int, int]], reason: str) -> None:
        self._looked += 1
        self._evicted += len(entries)
        self._pending -= len(entries)
        by_rank = sorted(entries, key=lambda each: each[1])
        for rank, each in groupby(by_rank, key=lambda each: each[1]):
            for first, last in ranges.runs(seq for seq, _ in each):
                self._bury(first, last, rank, reason)
        self._join_tombstones()  # as one goes along: or they themselves are what there is no room for

    def _join_tombstones(self) -> None:
        """After this there are at most ``most_tombstones``, or else two for each pending record and two.

        Only between pending records they cannot be joined, and those are what the room is for. Each time a
        fourth has come since the last time, or half of them go: so it costs little for each tombstone."""
        stones, most = self._tombstones, self._limits.most_tombstones
        bound = max(most, 2 * (self._pending + 1))
        if stones.count <= min(bound, max(most, self._joined + self._joined // 4)):
            return
        self._hold()
        stones.join_neighbours(also_handed=False)
        if stones.count > bound:
            stones.join_neighbours(also_handed=True)
        if stones.count > bound:
            stones.join_over_gaps(self._segments.any_pending, max(most * 3 // 4, self._pending + 1))
        self._joined = stones.count

    def _bury(self, first: int, last: int, rank: int, reason: str) -> None:
        self._hold()
        self._tombstoned += last - first + 1
        self._tombstones.add(Tombstone(first, last, rank, reason, self._wall_ns))

    def _mark(self, lived_ns: int) -> tuple[int, int]:
        """Note from time to time when the last commit was, for the age of its records and those before, and
        forget what nobody will ask for."""
        old = self._state.books
        if not is_mark_due(self._state, self._limits, lived_ns):
            return self._state.marked_ns, self._state.marked_before
        (lowest,) = self._connection.execute("SELECT min(first) FROM segments").fetchone()
        oldest = self._produced + 1 if lowest is None else int(lowest)
        self._connection.execute("DELETE FROM ages WHERE before <= ?", (oldest,))
        if oldest <= old.produced:
            self._connection.execute(
                "INSERT OR REPLACE INTO ages VALUES (?, ?)", (old.lived_ns, old.produced + 1)
            )
        return old.lived_ns, old.produced + 1


def page_counts(connection: sqlite3.Connection) -> tuple[int, int]:
    """Of the database as the transaction sees it: pages, and how many of them are free."""
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    (free,) = connection.execute("PRAGMA freelist_count").fetchone()
    return int(pages), int(free)


def expired_before(connection: sqlite3.Connection, limits: Limits, lived_ns: int) -> int | None:
    """All numbers below this are too old; None where none is."""
    if not limits.max_age_ns:
        return None
    (before,) = connection.execute(
        "SELECT max(before) FROM ages WHERE lived_ns <= ?", (lived_ns - limits.max_age_ns,)
    ).fetchone()
    return None if before is None else int(before)


def is_mark_due(state: State, limits: Limits, lived_ns: int) -> bool:
    """Whether there are records whose age was not noted yet, and the last note is old enough."""
    is_old = lived_ns >= state.marked_ns + age.step_ns(limits.max_age_ns)
    return is_old and state.books.produced >= max(1, state.marked_before)
