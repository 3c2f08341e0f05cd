"""The outbox's database: opened, changed in transactions, reopened after an error, closed.

Used by one thread at a time, the outbox's writer. Readers have a connection of their own (``reading``).
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Final

from plugmeter.errors import PlugmeterError
from plugmeter.files import read_regular, replace_file
from plugmeter.telemetry import age, books, change, database, segments, tombstones
from plugmeter.telemetry.age import Instant
from plugmeter.telemetry.books import Books
from plugmeter.telemetry.change import Change, Done, Handing, State
from plugmeter.telemetry.database import PAGE_BYTES, DatabaseDamaged, shown
from plugmeter.telemetry.intake import Item
from plugmeter.telemetry.limits import Limits
from plugmeter.telemetry.owner import NOBODY, Owner
from plugmeter.telemetry.ranges import Ranges
from plugmeter.telemetry.reading import count_records, waiting
from plugmeter.telemetry.record import Draft
from plugmeter.telemetry.segment import SegmentDamaged
from plugmeter.telemetry.segments import Segments

VERSION: Final = 2
SCHEMA: Final = f"""{books.SCHEMA}{segments.SCHEMA}{tombstones.SCHEMA}
CREATE TABLE ages (lived_ns INTEGER PRIMARY KEY, before INTEGER NOT NULL) STRICT;
"""
UPGRADES: Final[Mapping[int, str]] = MappingProxyType({1: tombstones.FROM_FORMAT_1 + books.FROM_FORMAT_1})
"""``ages``: all numbers below ``before`` were given when the device had been on for ``lived_ns`` or less."""

_COUNTED_BYTES: Final = 8_388_608
"""A database up to this size has its records counted one by one when it is opened."""
_FREE_PAGES: Final = 2_048
_FREED_AT_ONCE: Final = 1_024


@dataclass(frozen=True, slots=True)
class _Anothers:
    """What another owner left: numbers that the controller has not heard of."""

    books: Books
    change: str
    pending: int
    unannounced: int


class Store:
    """One stream's database. All that it does raises sqlite3.Error and SegmentDamaged, after which the
    transaction is rolled back; whether it took place all the same, ``took_place`` tells after ``reopen``."""

    def __init__(
        self,
        path: Path,
        limits: Limits,
        handing: Handing,
        *,
        tell: Callable[[str], None],
        wall_ns: Callable[[], int],
        now: Callable[[], Instant],
        owner: Owner = NOBODY,
    ) -> None:
        """Open it, and begin: with a new stream's first record, or with one that says how the last run ended.
        What was another ``owner``'s is set aside where anything waits in it. Raises PlugmeterError, one
        line."""
        self._path = path
        self._limits = limits
        self._handing = handing
        self._tell = tell
        self._wall_ns = wall_ns
        self._now = now
        self._owner = owner
        self._attempted = 0
        self._aside: Path | None = None
        """A database that was set aside, until the new one is there; and why."""
        self._why_aside = "corrupt"
        self._connection: sqlite3.Connection
        self._segments: Segments
        self.state: State
        self._open(thorough=False, is_start=True)

    @property
    def books(self) -> Books:
        """As committed."""
        return self.state.books

    def commit(self, items: Sequence[Item], acks: Ranges, *, clean: int = 0) -> Done:
        """One transaction: acknowledgements, then records and discards, which get their numbers, then what
        has to go."""
        self._attempted = self.books.commits + 1
        made = Change(
            self._connection, self._segments, self.state, self._limits, self._handing, self._wall_ns()
        )
        committed = False
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            now = self._now()
            done = made.make(items, acks, lived_ns=self._lived_ns(now), now=now, clean=clean)
            self._connection.execute("COMMIT")
            committed = True
        finally:
            if not committed:
                self._segments.forget()
                if self._connection.in_transaction:  # SQLite rolls back by itself where it must
                    with contextlib.suppress(sqlite3.Error):
                        self._connection.execute("ROLLBACK")
            made.let_go(committed=committed)
        self.state = done.state
        return done

    def took_place(self, stream: str) -> bool:
        """Whether the transaction that was tried last is in the database, which is that stream's."""
        return self.books.stream == stream and self.books.commits == self._attempted

    def reopen(self, *, thorough: bool) -> None:
        """After an error that leaves the log in doubt. What is in the database then is on the disk as well.
        Raises PlugmeterError; then nothing is open, and it may be tried again."""
        self.abandon()
        self._open(thorough=thorough, is_start=False)

    def set_aside(self, why: str) -> None:
        """The database is damaged, though it looked sound: out of the way with it, and ``reopen``. Raises
        PlugmeterError, as that does."""
        self.abandon()
        self._aside = database.set_aside(self._path, self._stamp())
        self._why_aside = "corrupt"
        database.tell_aside(self._tell, self._path, why, self._aside)

    def close(self) -> None:
        """After a last ``commit`` that marks the end as clean: check the books, copy the log back, and close,
        which it is in any case then. The next start checks them as well, and makes a record of what is
        wrong."""
        try:
            self._check_books()
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Close without a mark: the next start will say that the end was not clean."""
        self._connection.close()

    def set_limits(self, limits: Limits) -> None:
        """From the next commit on."""
        self._limits = limits
        database.set_wal_bytes(self._connection, limits.wal_bytes)

    def is_overdue(self) -> bool:
        """Whether a commit is due although nothing came in: something is too old, or its age must be
        noted."""
        lived_ns = self._lived_ns(self._now())
        if change.is_mark_due(self.state, self._limits, lived_ns):
            return True
        before = change.expired_before(self._connection, self._limits, lived_ns)
        (lowest,) = self._connection.execute("SELECT min(first) FROM segments").fetchone()
        return before is not None and lowest is not None and int(lowest) < before

    def shrink(self) -> bool:
        """Give some of the disk's space back if most of it is unused; whether there was any to give."""
        free = self.state.free_pages
        if free < _FREE_PAGES or free * PAGE_BYTES < self.state.used_bytes:
            return False
        # a script: each step frees one page, and execute() takes one step only
        self._connection.executescript(f"PRAGMA incremental_vacuum({_FREED_AT_ONCE})")
        self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        self.state = self._look()
        return self.state.free_pages < free

    def check_log(self) -> None:
        """Copy the log back if it has grown far beyond its size: where SQLite cannot do so as it commits, it
        keeps the reason to itself."""
        wal = self._path.with_name(self._path.name + database.SUFFIXES[1])
        with contextlib.suppress(OSError):  # there is none; or the disk fails, as the next commit will say
            if wal.stat().st_size > 2 * (self._limits.wal_bytes + self._limits.transaction_bytes):
                self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()

    def _open(self, *, thorough: bool, is_start: bool, rechecks: int = 0) -> None:
        opened = database.open_database(
            self._path,
            SCHEMA,
            VERSION,
            tell=self._tell,
            aside_time=self._stamp(),
            thorough=thorough,
            check=lambda connection: _check_books(connection, thorough),
            upgrades=UPGRADES,
        )
        self._connection = opened.connection
        self._aside = aside = self._aside or opened.set_aside
        try:
            theirs = self._anothers()
            if theirs is None:
                self._begin(is_start, aside)
                self._aside = None
                return
        except BaseException as error:
            self.abandon()
            why = damage_of(error)
            if isinstance(error, sqlite3.Error) and why is None:
                raise PlugmeterError(f"{shown(self._path)}: {database.in_words(error, self._path)}") from None
            if why is None:
                raise
        else:
            self._set_aside_anothers(theirs)
            return
        if aside is None and rechecks < len(database.RECHECK_S):
            time.sleep(database.RECHECK_S[rechecks])
            self._open(thorough=True, is_start=is_start, rechecks=rechecks + 1)
            return
        if aside is not None:
            raise PlugmeterError(f"{shown(self._path)}: a new database is damaged ({why}); check the disk")
        self.set_aside(why)
        self._open(thorough=False, is_start=False)

    def _anothers(self) -> _Anothers | None:
        """What waits in it that can be sent by another owner only."""
        found = books.read(self._connection)
        change = None if found is None else self._change_of(found)
        if found is None or change is None:
            return None
        pending, unannounced = waiting(self._connection)
        return _Anothers(found, change, pending, unannounced) if pending or unannounced else None

    def _change_of(self, found: Books) -> str | None:
        if NOBODY in (self._owner, found.owner):
            return None
        return self._owner.change_from(found.owner)

    def _set_aside_anothers(self, theirs: _Anothers) -> None:
        """Raises PlugmeterError."""
        self.abandon()
        aside = self._aside = database.set_aside(self._path, self._stamp(), theirs.change)
        self._why_aside = theirs.change
        if theirs.change == "copied":
            self._forget_machine(aside)
        self._tell(
            f"{shown(self._path)} {self._whose(theirs.books, theirs.change)}: it is set aside as"
            f" {shown(aside)}, and a new stream begins; {theirs.pending} records and the tombstones of"
            f" {theirs.unannounced} wait in it. To send them, put it as {self._path.name} into an empty"
            f' directory, and start plugmeter once with daemon.device = "{theirs.books.device}" and that'
            " daemon.state_directory"
        )
        self._open(thorough=False, is_start=False)

    def _forget_machine(self, aside: Path) -> None:
        """Who puts it back, wherever, means it: then it is taken as it is."""
        try:
            with contextlib.closing(sqlite3.connect(aside, isolation_level=None)) as connection:
                connection.execute("PRAGMA synchronous = FULL")
                connection.execute("UPDATE books SET machine = ''")
        except sqlite3.Error as error:
            self._tell(f"{shown(aside)}: {database.in_words(error, aside)}; it has to be put back twice")

    def _whose(self, found: Books, change: str) -> str:
        if change == "renamed":
            return f'was made as the device "{found.device}", and this one is called "{self._owner.device}"'
        return f'was copied from another machine, where it was made as the device "{found.device}"'

    def _begin(self, is_start: bool, aside: Path | None) -> None:
        database.set_wal_bytes(self._connection, self._limits.wal_bytes)
        self._segments = Segments(self._connection)
        found = books.read(self._connection)
        previous = _read_stream(self._stream_file)
        change = None if found is None else self._change_of(found)
        if found is not None and change is not None:  # and nothing waits in it
            whose = self._whose(found, change)
            self._tell(f"{shown(self._path)} {whose}: nothing waited in it, and a new stream begins")
            # What goes on from the old stream is nothing but the ages of numbers that are gone.
            self._connection.execute("DELETE FROM ages")
            self._new_stream()
            self._first("stream", previous=found.stream, reason=change, set_aside=None)
        elif found is None:
            reason = self._why_aside if aside is not None else "lost" if previous else "new"
            self._new_stream()
            self._first("stream", previous=previous, reason=reason, set_aside=aside and shown(aside))
        else:
            if is_start and not found.clean:  # nobody knows any more which were handed out
                self._connection.execute("UPDATE tombstones SET handed = 1 WHERE NOT handed")
            self.state = self._own(self._look())
            if is_start:
                self._start(found)
            else:
                # The log's end may be in the kernel's memory only: see that it is on the disk.
                self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        if previous != self.books.stream:
            try:
                replace_file(self._stream_file, f"{self.books.stream}\n".encode())
            except OSError as error:
                raise PlugmeterError(f"{shown(self._stream_file)}: {error.strerror}") from None

    def _new_stream(self) -> None:
        now = self._now()
        self._handing.out.clear()
        fresh = Books(str(uuid.uuid4()), 0, 0, 0, 0, 0, 0, now.boot_id, now.boot_ns)
        self.state = self._own(State(fresh, 0, 0, 0, 0, 0, 0, 0))

    def _own(self, state: State) -> State:
        """With the next commit it is ours, if it was nobody's."""
        if self._owner == NOBODY:
            return state
        owner = self._owner.after(state.books.owner)
        return replace(state, books=replace(state.books, device=owner.device, machine=owner.machine))

    def _start(self, found: Books) -> None:
        said: dict[str, object] = {"clean": bool(found.clean)}
        if not found.clean:
            said["window_ms"] = round(self._limits.commit_interval_s * 1_000)
        wrong = self._check_books()
        if wrong is not None:
            said["books"] = wrong
        self._first("start", **said)

    def _check_books(self) -> str | None:
        """Why they do not add up with what is there, in one line that is told; None where they do."""
        found = books.read(self._connection)
        wrong = None if found is None else books.fault(found, self._segments.pending())
        if wrong is not None:
            self._tell(wrong)
        return wrong

    def _first(self, kind: str, **said: object) -> None:
        """Committed before anything else is: this also makes all of the log durable that was found."""
        self.commit([Draft(kind, json.dumps(said).encode(), self._wall_ns())], ())

    def _look(self) -> State:
        """What is in the database."""
        found = books.read(self._connection)
        if found is None:
            raise DatabaseDamaged("its books are gone")
        highest = self._connection.execute(
            "SELECT max(coalesce((SELECT last FROM segments ORDER BY first DESC LIMIT 1), 0),"
            " coalesce((SELECT last FROM tombstones ORDER BY first DESC LIMIT 1), 0))"
        ).fetchone()[0]
        if highest > found.produced:  # a number must never be given twice
            self._tell(
                f"stream {found.stream} has number {highest}, but its books end with {found.produced}:"
                " trusting the records"
            )
            found = replace(found, produced=int(highest))
        marked_ns, marked_before = self._connection.execute(
            "SELECT coalesce(max(lived_ns), 0), coalesce(max(before), 0) FROM ages"
        ).fetchone()
        pages, free = change.page_counts(self._connection)
        pending = self._segments.pending()
        (stones,) = self._connection.execute("SELECT count(*) FROM tombstones").fetchone()
        used_bytes = (pages - free) * PAGE_BYTES
        return State(found, pending, int(marked_ns), int(marked_before), used_bytes, free, int(stones), 0)

    def _lived_ns(self, now: Instant) -> int:
        return age.lived_ns(self.books.lived_ns, Instant(self.books.boot_id, self.books.boot_ns), now)

    @property
    def _stream_file(self) -> Path:
        return self._path.with_name(self._path.name + ".stream")

    def _stamp(self) -> str:
        return f"{datetime.fromtimestamp(self._wall_ns() // 10**9, UTC):%Y%m%dT%H%M%SZ}"


def damage_of(error: BaseException) -> str | None:
    """In a few words what is damaged in the database; None where something else is the cause."""
    if isinstance(error, SegmentDamaged | DatabaseDamaged):
        return str(error)
    if isinstance(error, sqlite3.Error) and database.is_damage(error):
        return " ".join(str(error).split())
    return None


def _check_books(connection: sqlite3.Connection, thorough: bool) -> None:
    """Also that all records are there, if that is quick or wanted. Raises DatabaseDamaged, sqlite3.Error."""
    books.read(connection)
    if thorough or change.page_counts(connection)[0] * PAGE_BYTES <= _COUNTED_BYTES:
        try:
            count_records(connection)
        except SegmentDamaged as error:
            raise DatabaseDamaged(str(error)) from None


def _read_stream(file: Path) -> str | None:
    """The stream that was here last, if that is known: a file beside the database survives it."""
    try:
        return str(uuid.UUID(read_regular(file, 100).decode("ascii").strip()))
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        return None
