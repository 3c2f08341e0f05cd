"""The outbox's writer: it commits in groups what waits, and mends the database after an error."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from plugmeter.errors import PlugmeterError
from plugmeter.telemetry import database, ranges
from plugmeter.telemetry.ack_intake import AckIntake
from plugmeter.telemetry.change import Done, State
from plugmeter.telemetry.database import DatabaseDamaged
from plugmeter.telemetry.intake import Discard, Intake, Item
from plugmeter.telemetry.limits import Limits
from plugmeter.telemetry.lock import StateLock
from plugmeter.telemetry.ranges import Range, Ranges
from plugmeter.telemetry.reading import Reader
from plugmeter.telemetry.segment import SegmentDamaged
from plugmeter.telemetry.store import Store, damage_of
from plugmeter.telemetry.trouble import RETRY_S, Trouble

_OVERDUE_EVERY_S: Final = 60.0
_MOST_DOUBTS: Final = 5
"""So often in a row may the same question meet damage that a check of everything does not find: reads that
fail now and then look like that, too (``database.RECHECK_S``)."""
_CAUTIOUS: Final = (65_536, 256)
"""Bytes and items of a commit while the disk is full: a little room must be enough to go on."""
_STAYS_OPEN: Final = frozenset(
    {sqlite3.SQLITE_FULL, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_NOMEM}
)
"""After any other error the end of the log is in doubt, and the database is opened anew."""


@dataclass(frozen=True, slots=True)
class Mark:
    """How much had been handed over at some moment, by count: what was offered, and acknowledgements."""

    offered: int
    acks: int


@dataclass(frozen=True, slots=True)
class _Attempt:
    """What the last transaction was to do, for as long as it is not known to be done."""

    stream: str
    items: int
    acks: Ranges
    acks_given: int


class Writer:
    """Has no thread of its own: who wants something written takes a ``turn``. Two locks, each for what
    ``__init__`` lists under it:

    ``_writing`` is held for a whole turn, the disk's time included, and for the end. So only those take it
    that take turns, or end it.
    ``changed``, which is the intake's too, is held for moments: what other threads hand over.

    Whoever has ``_writing`` may take ``changed`` or the reader's lock; nobody takes ``_writing`` while he has
    one of these. ``changed`` is not reentrant: ``peek`` and ``drop`` of the intake take it themselves.
    """

    def __init__(
        self,
        store: Store,
        reader: Reader,
        intake: Intake,
        limits: Limits,
        lock: StateLock,
        tell: Callable[[str], None],
    ) -> None:
        """``lock`` is given back at the end, once the store is closed."""
        self._reader = reader
        self._intake = intake
        self._tell = tell
        self._writing = threading.Lock()
        self._changed = intake.changed
        # With the lock of _changed:
        self._acks = AckIntake(store.books.stream)
        self._foreign_acks = 0
        self._hasty = False
        self._limits = limits
        self._suspect: str | None = None
        """What a reader took for damage."""
        self._doubts: dict[str, int] = {}
        """By question (write, account, batch): how often in a row damage was found that a check of the whole
        structure did not see."""
        # With _writing. Some of it is read without, one attribute at a time: each is replaced whole.
        self._store = store
        self._lock = lock
        self.closed = False
        self.more = False
        """Whether the last turn could not do all at once, so that the next is due now."""
        self.trouble = Trouble(tell, "the outbox can be written again")
        self._counters = dict.fromkeys(("commits", "evicted", "write_errors"), 0)
        self._applied = limits
        self._is_open = True
        self._why_damaged = ""
        self._last_stream = store.books.stream
        self._doubtful: _Attempt | None = None
        self._cautious = False
        self._overdue_at_ns = 0
        self._commit_s = 0.0
        self._settled = 0
        """Up to this number of the stream nothing was pending when it was known last."""
        self.begun_ns: int | None = None
        """When the turn under way began (time.monotonic_ns), if there is one."""
        # With a lock of its own, which nobody has for longer than that takes; replaced whole:
        self._listing = threading.Lock()
        self._callbacks: tuple[Callable[[], None], ...] = ()

    @property
    def stream(self) -> str:
        """As committed."""
        return self._store.books.stream

    @property
    def state(self) -> State:
        """As committed."""
        return self._store.state

    @property
    def pending(self) -> int:
        """Records that are committed and not acknowledged, or their acknowledgement is not committed."""
        return self._store.state.pending

    @property
    def counters(self) -> dict[str, int]:
        """Since it was made."""
        return {
            **self._counters,
            "absurd_acks": self._acks.absurd,
            "dropped_acks": self._acks.dropped,
            "foreign_acks": self._foreign_acks,
        }

    # For any thread

    def acknowledge(self, wanted: Sequence[Range], stream: str | None) -> None:
        """See ``Outbox.acknowledge``."""
        with self._changed:
            now = self._store.books  # once: the writer replaces it without this lock
            if stream is not None and stream != now.stream:
                self._foreign_acks += len(wanted)
                return
            is_other = self._acks.begin(now.stream)
            is_first = self._acks.add(wanted, now.produced, time.monotonic_ns())
            if is_first or is_other or self._is_hasty():
                self._changed.notify_all()

    def hasten(self) -> None:
        """From now on acknowledgements of all that is pending do not wait for others."""
        with self._changed:
            self._hasty = True
            self._changed.notify_all()

    @property
    def all_acknowledged(self) -> bool:
        """Whether everything is that ever got a number, the acknowledgements included that wait for their
        commit. False where that is not known."""
        with self._changed:
            state, settled = self._store.state, self._settled
            if not state.pending:
                return True
            return self._acks.stream == state.books.stream and any(
                first <= settled + 1 and last >= state.books.produced for first, last in self._acks.waiting
            )

    def set_limits(self, limits: Limits) -> None:
        """From the next turn on, which is due at once."""
        with self._changed:
            self._limits = limits
            self._changed.notify_all()

    def suspect(self, question: str, why: str) -> None:
        """A reader found what looks like damage: the next turn, due at once, looks into it."""
        with self._changed:
            if self._suspect is None:  # else it is not mended yet: that counts once
                self._doubts[question] = self._doubts.get(question, 0) + 1
            self._suspect = why
            self._changed.notify_all()

    def no_doubt(self, question: str) -> None:
        """It was answered."""
        if question in self._doubts:
            with self._changed:
                self._doubts.pop(question, None)

    def mark(self) -> Mark:
        """All that was handed over until now."""
        with self._changed:
            return Mark(self._intake.offered, self._acks.given)

    def has_done(self, mark: Mark) -> bool:
        """Whether all of that is committed. ``changed`` is notified when it may have become so."""
        return self._intake.done >= mark.offered and self._acks.done >= mark.acks

    def on_commit(self, callback: Callable[[], None]) -> None:
        """See ``Outbox.on_commit``."""
        with self._listing:
            self._callbacks = (*self._callbacks, callback)  # a turn may be going through the old ones

    def off_commit(self, callback: Callable[[], None]) -> None:
        """No more; one call may be under way."""
        with self._listing:
            self._callbacks = tuple(each for each in self._callbacks if each != callback)

    # For whoever takes turns, and ends them

    def due_ns(self, hurry: bool) -> int:
        """When the next turn is due (time.monotonic_ns), however far away; with ``hurry`` at once, if there
        is anything to commit. The lock of ``changed`` must be held, by the thread that takes the turns."""
        if self.trouble.text is not None:
            return self.trouble.retry_at_ns
        if self._suspect or self._limits is not self._applied:
            return 0
        since = [self._acks.since_ns] if self._acks.waiting else []
        waits_ns = self._intake.waits_since_ns()
        if waits_ns is not None:
            since.append(waits_ns)
        if not since:
            return self._overdue_at_ns
        if hurry or self._intake.is_urgent() or self._is_hasty():
            return 0
        # a commit is over within the interval, not only begun
        interval_s = self._limits.commit_interval_s
        return min(since) + int(max(interval_s - self._commit_s, interval_s / 2) * 1e9)

    def turn(self) -> bool:
        """One commit, if there is anything to commit; whether there was."""
        with self._writing:
            if self.closed:
                return False
            self.begun_ns = time.monotonic_ns()
            done = self._try(closing=False)
            self.begun_ns = None
        if done is None:
            return self.trouble.text is not None
        if done.told or (self._hasty and not done.state.pending):
            self.call_back()
        return True

    def call_back(self) -> None:
        """Have the readers look."""
        for callback in self._callbacks:
            callback()

    def close(self, by_ns: int) -> None:
        """Commit what is left, mark the end as clean with that, and copy the log back. What cannot be written
        until ``by_ns`` (time.monotonic_ns) is told. Idempotent."""
        while not self._close(by_ns):
            time.sleep(RETRY_S[0])

    def _close(self, by_ns: int) -> bool:
        with self._writing:
            if self.closed:
                return True
            while self._try(closing=True) is not None and (self._waiting or self._acks.waiting):
                pass
            if self.trouble.text is not None and time.monotonic_ns() < by_ns:
                return False
            self.closed = True
            self._reader.end()
            self._finish()
            self._lock.close()
            return True

    def abandon(self) -> None:
        """Close without a mark."""
        with self._writing:
            self.closed = True
            self._reader.end()
            self._store.abandon()
            self._lock.close()

    # All below: with _writing

    @property
    def _waiting(self) -> int:
        """Records that are not committed."""
        return self._intake.offered - self._intake.done

    def _is_hasty(self) -> bool:
        """Whether acknowledgements are to be committed now. They may be of what was acknowledged before, so
        this is no more than a guess. With the lock of ``changed``."""
        return (
            self._hasty
            and bool(self._acks.waiting)
            and ranges.total(self._acks.waiting) >= self._store.state.pending
        )

    def _finish(self) -> None:
        if not self._is_open or self.trouble.text is not None or self._waiting:
            why = self.trouble.text or "no time was left"
            self._tell(f"the outbox was closed with {self._waiting} records that could not be written: {why}")
            self._store.abandon()
            return
        try:
            self._store.close()
        except (sqlite3.Error, SegmentDamaged) as error:
            self._tell(f"the outbox could not be closed cleanly: {in_one_line(error)}")

    def _try(self, *, closing: bool) -> Done | None:
        """See ``_commit``; None, and trouble, where it fails."""
        try:
            return self._commit(closing)
        except (sqlite3.Error, SegmentDamaged, DatabaseDamaged) as error:
            self._could_not_write(error)
        except PlugmeterError as error:
            self._counters["write_errors"] += 1
            self.trouble.met(str(error), time.monotonic_ns())
        return None

    def _commit(self, closing: bool) -> Done | None:
        """One commit, if there is anything to commit, or it is ``closing``: then the end is marked as clean,
        if with that all is committed."""
        self._mend()
        began_ns = time.monotonic_ns()
        with self._changed:
            if self._acks.begin(self.stream):
                self._changed.notify_all()
            limits, acks, given = self._limits, self._acks.waiting, self._acks.given
        changed_limits = limits is not self._applied
        if changed_limits:
            self._store.set_limits(limits)
            self._applied = limits
        items: list[Item] = []
        if not self._cautious:
            items = self._intake.peek(limits.transaction_bytes)
        elif not acks:
            items = self._intake.peek(*_CAUTIOUS)
        if not (items or acks or self.more or changed_limits or closing) and not self._is_overdue(began_ns):
            self._store.shrink()
            self.trouble.over()
            return None
        self._doubtful = _Attempt(self.stream, len(items), acks, given)
        is_all = sum(each.count if isinstance(each, Discard) else 1 for each in items) >= self._waiting
        done = self._store.commit(items, acks, clean=int(closing and is_all))
        self.no_doubt("write")
        self.more = done.more
        self._counters["evicted"] += done.evicted
        self.trouble.over()
        if items:
            self._cautious = False
        self._settle(done.acks_left)
        if not done.state.pending:
            self._settled = done.state.books.produced
        self._store.check_log()
        self._commit_s = (time.monotonic_ns() - began_ns) / 1e9
        return done

    def _settle(self, acks_left: Ranges) -> None:
        """The doubtful attempt is done, but for some acknowledgements."""
        attempt, self._doubtful = self._doubtful, None
        if attempt is None:
            return
        self._counters["commits"] += 1
        self.more = self.more or bool(acks_left)
        with self._changed:
            self._acks.settle(attempt.acks, attempt.acks_given, acks_left, time.monotonic_ns())
        self._intake.drop(attempt.items)  # which notifies, also where there is none

    def _is_overdue(self, now_ns: int) -> bool:
        if now_ns < self._overdue_at_ns:
            return False
        self._overdue_at_ns = now_ns + int(_OVERDUE_EVERY_S * 1e9)
        return self._store.is_overdue()

    def _mend(self) -> None:
        """Open the database anew where that is needed. Raises PlugmeterError where it cannot be."""
        with self._changed:
            suspect, self._suspect = self._suspect, None
            doubts = max(self._doubts.values(), default=0)
        if suspect is not None:
            self._is_open = False
            self._why_damaged = suspect
        if self._is_open:
            return
        with self._reader.suspended():
            if doubts > _MOST_DOUBTS:
                self._store.set_aside(self._why_damaged)
                self._begin_anew()  # what is there from now on is a new one, though it may take some attempts
                doubts = 0
            self._store.reopen(thorough=doubts > 0)
        self._is_open = True
        if self.stream != self._last_stream:
            self._last_stream = self.stream
            self._settled = 0
            self._begin_anew()
        if self._doubtful is not None and self._store.took_place(self._doubtful.stream):
            self.trouble.over()
            self._settle(self._doubtful.acks)  # acknowledging once more is harmless
        self._doubtful = None

    def _begin_anew(self) -> None:
        with self._changed:
            self._doubts.clear()

    def _could_not_write(self, error: sqlite3.Error | SegmentDamaged | DatabaseDamaged) -> None:
        self._counters["write_errors"] += 1
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        why = damage_of(error)
        if why is not None:
            with self._changed:
                self._doubts["write"] = self._doubts.get("write", 0) + 1
            self._why_damaged = why
            self._is_open = False
        elif code in _STAYS_OPEN:
            self._doubtful = None  # rolled back
            self._cautious = code == sqlite3.SQLITE_FULL
        else:
            self._is_open = False
        self.trouble.met(f"the outbox cannot be written: {in_one_line(error)}", time.monotonic_ns())


def in_one_line(error: sqlite3.Error | SegmentDamaged | DatabaseDamaged) -> str:
    """What went wrong with the database, for people."""
    return database.in_words(error) if isinstance(error, sqlite3.Error) else str(error)
