"""The outbox: every record is in here, on the disk, until the controller has acknowledged it.

Records are offered to a bounded intake, and a thread commits them in groups: at most ``commit_interval_s``
is lost by a kill or a power cut. They get their numbers when they are committed, so what was lost in
between never had one. A tombstone says which numbers had to go and why, and is itself kept until it is
acknowledged. ``produced = acknowledged + tombstoned + pending`` holds after each commit.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from plugmeter import sections
from plugmeter.errors import PlugmeterError
from plugmeter.progress import Progress
from plugmeter.telemetry import database, ranges
from plugmeter.telemetry.age import Instant
from plugmeter.telemetry.change import Done, Handing
from plugmeter.telemetry.database import DatabaseDamaged
from plugmeter.telemetry.intake import Intake, Item
from plugmeter.telemetry.limits import Limits
from plugmeter.telemetry.lock import StateLock
from plugmeter.telemetry.ranges import Ranges
from plugmeter.telemetry.reading import Batch, Reader
from plugmeter.telemetry.record import Account, Draft
from plugmeter.telemetry.segment import SegmentDamaged
from plugmeter.telemetry.store import Store, damage_of

__all__ = ["DATABASE_NAME", "Batch", "Limits", "Outbox", "limits_of"]

DATABASE_NAME: Final = "outbox.sqlite"
"""Of the outbox in a state directory."""

_TICK_S: Final = 1.0
_GLANCE_NS: Final = 900_000_000
"""Less than a tick, so that each tick has one."""
_OVERDUE_EVERY_S: Final = 60.0
_RETRY_S: Final = (0.1, 0.25, 0.5, 1.0)
_MOST_DOUBTS: Final = 5
"""So often in a row may the same question meet damage that a check of everything does not find: reads that
fail now and then look like that, too (``database.RECHECK_S``)."""
_MOST_ACK_RANGES: Final = 100_000
_CLOSE_S: Final = 10.0
_CAUTIOUS: Final = (65_536, 256)
"""Bytes and items of a commit while the disk is full: a little room must be enough to go on."""
_STAYS_OPEN: Final = frozenset(
    {sqlite3.SQLITE_FULL, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_NOMEM}
)
"""After any other error the end of the log is in doubt, and the database is opened anew."""


@dataclass(frozen=True, slots=True)
class _Attempt:
    """What the last transaction was to do, for as long as it is not known to be done."""

    stream: str
    items: int
    acks: Ranges
    acks_given: int


class Outbox:
    """The durable queue. Thread-safe. A thread of its own writes; readers have their own connection.

    ``path`` is the database; its folder is the state directory, whose lock the outbox holds. Before
    ``start`` and after its thread has ended, ``flush`` commits in the thread that calls it.
    """

    def __init__(
        self,
        path: Path,
        limits: Limits,
        tell: Callable[[str], None],
        *,
        wall_ns: Callable[[], int] = time.time_ns,
        instant: Callable[[], Instant] | None = None,
        intake: Intake | None = None,
    ) -> None:
        """Opens, recovers, checks the books, and commits the first record. A corrupt database is set aside
        and a new stream begins. Raises PlugmeterError, one line: not writable, disk full, in use."""
        self.progress = Progress("outbox")
        self._tell = tell
        self._limits = limits
        self._applied = limits
        self._intake = Intake() if intake is None else intake
        self._handing = Handing()
        database.make_directory(path.parent)
        self._lock = StateLock(path.parent)
        try:
            now = _clock() if instant is None else instant
            self._store = Store(path, limits, self._handing, tell=tell, wall_ns=wall_ns, now=now)
        except BaseException:
            self._lock.close()
            raise
        self._reader = Reader(path, self._handing)
        self._writing = threading.Lock()
        self._changed = self._intake.changed
        self._counters = dict.fromkeys(
            ("commits", "evicted", "absurd_acks", "dropped_acks", "write_errors", "read_errors"), 0
        )
        # all below: with the lock of _changed
        self._acks: Ranges = ()
        self._acks_given = 0
        self._acks_done = 0
        self._acks_since_ns = 0
        self._flushing = 0
        self._stopping = False
        self._suspect: str | None = None
        """What a reader took for damage."""
        self._doubts: dict[str, int] = {}
        """By question (write, account, batch): how often in a row damage was found that a check of the whole
        structure did not see."""
        self._doubtful_after = 0
        """Of the batch that could not be read."""
        # all below: the writer's
        self._is_open = True
        self._why_damaged = ""
        self._doubtful: _Attempt | None = None
        self._write_trouble: str | None = None
        self._read_trouble: str | None = None
        self._retries = 0
        self._retry_at_ns = 0
        self._cautious = False
        self._more = False
        self._overdue_at_ns = 0
        self._commit_s = 0.0
        self._callbacks: tuple[Callable[[], None], ...] = ()
        self._thread: threading.Thread | None = None
        self._closed = False
        self._known = self._reader.account()
        self._glance_at_ns = 0

    @property
    def stream(self) -> str:
        """The UUID of the stream. Another one after damage was found (a batch says which it is of)."""
        return self._store.books.stream

    @property
    def trouble(self) -> str | None:
        """One line while the database cannot be written or read, else None."""
        return self._write_trouble or self._read_trouble

    @property
    def counters(self) -> dict[str, int]:
        """Since the outbox was opened."""
        return {**self._counters, **self._intake.discarded}

    def start(self) -> None:
        """Start the writer thread."""
        self._thread = threading.Thread(target=self._run, name="outbox", daemon=True)
        self._thread.start()

    def offer(self, draft: Draft, *, wait_s: float = 0.0) -> bool:
        """Put it into the intake. Full for longer than ``wait_s``, or the draft too large: False, and it gets
        a number and a tombstone. Never raises for the disk's sake."""
        return self._intake.offer(draft, wait_s)

    @property
    def crowded(self) -> bool:
        """Whether the intake is half full: whoever can leave his records where they are had better do so."""
        return self._intake.crowded

    def next_batch(self, after: int, most_records: int, most_bytes: int) -> Batch:
        """What is committed with numbers above ``after``, ascending: at most so many records, so many
        tombstones, and so many bytes of data, but one at least if there is any.

        A tombstone is in it where its ``last`` is above ``after``. One may appear below a number that was
        asked from already: records that were read can still be evicted. Ask from 0 again now and then, as
        long as ``account().unannounced`` says that there are any. Empty while it cannot be read (see
        ``trouble``).
        """
        if not self._closed:
            try:
                batch = self._reader.next_batch(after, most_records, most_bytes)
                self._read_trouble = None
                if after == self._doubtful_after or after < self._doubtful_after < batch.last:
                    self._no_doubt("batch")
                return batch
            except (sqlite3.Error, SegmentDamaged, DatabaseDamaged) as error:
                self._doubtful_after = after
                self._could_not_read(error, "batch")
        return Batch((), (), after, self.stream)

    def acknowledge(self, wanted: Sequence[tuple[int, int]], *, stream: str | None = None) -> None:
        """The controller has what is in these inclusive ranges, in any order. Numbers that are gone are
        harmless, those that never were are ignored and counted (``absurd_acks``), as is all for another
        ``stream`` than this. Takes effect with the next commit."""
        with self._changed:
            if stream is not None and stream != self.stream:
                return
            produced = self._store.books.produced
            sane = [(max(1, first), min(last, produced)) for first, last in wanted]
            self._counters["absurd_acks"] += sum(
                (first, last) != given or first > last
                for (first, last), given in zip(sane, wanted, strict=True)
            )
            merged = ranges.merge(self._acks, ranges.normalise(sane))
            if len(merged) > _MOST_ACK_RANGES:  # harmless: the records are sent and acknowledged again
                self._counters["dropped_acks"] += len(merged) - _MOST_ACK_RANGES
                merged = merged[:_MOST_ACK_RANGES]
            if not merged:
                return
            if not self._acks:
                self._acks_since_ns = time.monotonic_ns()
                self._changed.notify_all()
            self._acks = merged
            self._acks_given += 1

    def account(self) -> Account:
        """As committed, in one read transaction; the last one while that cannot be read (``trouble``)."""
        if not self._closed:
            try:
                self._known = self._reader.account()
                self._read_trouble = None
                self._no_doubt("account")
            except (sqlite3.Error, SegmentDamaged, DatabaseDamaged) as error:
                self._could_not_read(error, "account")
        return self._known

    def glance(self) -> Account:
        """The account of a second ago at the most, for whoever must not wait for the disk: it may hang."""
        return self._known

    def pending_now(self) -> int:
        """Records that wait for their acknowledgement or still for their commit. Cheap."""
        return self._store.state.pending + self._intake.drafts()

    def uncommitted(self) -> int:
        """Records that were offered and are not on the disk yet. Cheap."""
        return self._intake.drafts()

    def on_commit(self, callback: Callable[[], None]) -> None:
        """To be called from the writer thread after a commit with something new. It must be quick and not
        raise."""
        self._callbacks = (*self._callbacks, callback)  # the writer may be going through the old ones

    def off_commit(self, callback: Callable[[], None]) -> None:
        """No more; one call may be under way."""
        self._callbacks = tuple(each for each in self._callbacks if each != callback)

    def set_limits(self, limits: Limits) -> None:
        """From the next commit on, which comes soon."""
        with self._changed:
            self._limits = limits
            self._changed.notify_all()

    def flush(self, timeout_s: float) -> bool:
        """Whether all that was offered (and acknowledged) before is committed, within ``timeout_s``."""
        with self._changed:
            offered, acks = self._intake.offered, self._acks_given
        deadline_ns = time.monotonic_ns() + int(timeout_s * 1e9)

        def is_done() -> bool:
            return self._intake.done >= offered and self._acks_done >= acks

        if self._thread is not None and self._thread.is_alive():
            with self._changed:
                self._flushing += 1
                self._changed.notify_all()
                try:
                    return self._changed.wait_for(is_done, timeout_s)
                finally:
                    self._flushing -= 1
        while not is_done() and not self._closed:
            self._turn()
            if self._write_trouble is not None:
                if time.monotonic_ns() >= deadline_ns:
                    return False
                time.sleep(_RETRY_S[0])
        return is_done()

    def close(self, timeout_s: float = _CLOSE_S) -> None:
        """Commit what is there, copy the log back, mark the end as clean, end the thread. Idempotent. What
        cannot be written within ``timeout_s`` is told, and the next start will say that it is missing."""
        if self._closed:
            return
        flushed = self.flush(timeout_s)
        self._stop()
        with self._writing:
            self._closed = True
            with self._reader.suspended():
                self._finish(flushed)
            self._lock.close()

    def abandon(self) -> None:
        """End at once: what waits in the intake is not committed, and the next start will say that the end
        was not clean. Idempotent."""
        self._stop()
        with self._writing:
            self._closed = True
            with self._reader.suspended():
                self._store.abandon()
            self._lock.close()

    def _stop(self) -> None:
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()

    def _finish(self, flushed: bool) -> None:
        waiting = self._intake.offered - self._intake.done
        if not self._is_open or not flushed or waiting:
            why = self._write_trouble or "no time was left"
            self._tell(f"the outbox was closed with {waiting} records that could not be written: {why}")
            self._store.abandon()
            return
        try:
            self._store.close()
        except (sqlite3.Error, SegmentDamaged) as error:
            self._tell(f"the outbox could not be closed cleanly: {_one_line(error)}")

    def _run(self) -> None:
        while not self._stopping:
            found = self._turn()
            self.progress.woke(found)
            now_ns = time.monotonic_ns()
            if now_ns >= self._glance_at_ns:
                self._glance_at_ns = now_ns + _GLANCE_NS
                self.account()
            if not (found and self._more):
                self._wait()

    def _wait(self) -> None:
        """Until the next turn is due, a second at the most."""
        tick_ns = time.monotonic_ns() + int(_TICK_S * 1e9)
        with self._changed:
            while not self._stopping:
                left_s = (min(self._due_ns(), tick_ns) - time.monotonic_ns()) / 1e9
                if left_s <= 0:
                    return
                self._changed.wait(left_s)

    def _due_ns(self) -> int:
        """When the next commit is due (time.monotonic_ns), however far away. With the lock of _changed."""
        if self._write_trouble is not None:
            return self._retry_at_ns
        if self._suspect or self._limits is not self._applied:
            return 0
        since = [self._acks_since_ns] if self._acks else []
        waits_ns = self._intake.waits_since_ns()
        if waits_ns is not None:
            since.append(waits_ns)
        if not since:
            return self._overdue_at_ns
        if self._flushing or self._intake.is_urgent():
            return 0
        # a commit is over within the interval, not only begun
        interval_s = self._limits.commit_interval_s
        return min(since) + int(max(interval_s - self._commit_s, interval_s / 2) * 1e9)

    def _turn(self) -> bool:
        """One commit, if there is anything to commit; whether there was."""
        with self._writing:
            if self._closed:
                return False
            try:
                done = self._commit_once()
            except sqlite3.Error as error:
                self._could_not_write(error)
                return True
            except (SegmentDamaged, DatabaseDamaged) as error:
                self._could_not_write(error)
                return True
            except PlugmeterError as error:
                self._counters["write_errors"] += 1
                self._in_trouble(str(error))
                return True
        if done is not None and done.told:
            for callback in self._callbacks:
                callback()
        return done is not None

    def _commit_once(self) -> Done | None:
        self._mend()
        began_ns = time.monotonic_ns()
        with self._changed:
            limits, acks, given = self._limits, self._acks, self._acks_given
        changed_limits = limits is not self._applied
        if changed_limits:
            self._store.set_limits(limits)
            self._applied = limits
        items: list[Item] = []
        if not self._cautious:
            items = self._intake.peek(limits.transaction_bytes)
        elif not acks:
            items = self._intake.peek(*_CAUTIOUS)
        if not (items or acks or self._more or changed_limits) and not self._is_overdue(began_ns):
            self._store.shrink()
            self._out_of_trouble()
            return None
        self._doubtful = _Attempt(self.stream, len(items), acks, given)
        done = self._store.commit(items, acks)
        self._no_doubt("write")
        self._more = done.more
        self._counters["evicted"] += done.evicted
        self._out_of_trouble()
        if items:
            self._cautious = False
        self._settle(done.acks_left)
        self._store.check_log()
        self._commit_s = (time.monotonic_ns() - began_ns) / 1e9
        return done

    def _settle(self, acks_left: Ranges) -> None:
        """The doubtful attempt is done, but for some acknowledgements."""
        attempt, self._doubtful = self._doubtful, None
        if attempt is None:
            return
        self._counters["commits"] += 1
        with self._changed:
            applied = ranges.subtract(attempt.acks, acks_left)
            self._acks = ranges.subtract(self._acks, applied)
            self._more = self._more or bool(acks_left)
            if not acks_left:
                self._acks_done = attempt.acks_given
            if not self._acks:
                self._acks_done = self._acks_given
            self._acks_since_ns = time.monotonic_ns()
        self._intake.drop(attempt.items)

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
        stream = self.stream
        with self._reader.suspended():
            if doubts > _MOST_DOUBTS:
                self._store.set_aside(self._why_damaged)
            else:
                self._store.reopen(thorough=doubts > 0)
        self._is_open = True
        if self.stream != stream:
            with self._changed:
                self._doubts.clear()
                self._acks = ()
                self._acks_done = self._acks_given
        if self._doubtful is not None and self._store.took_place(self._doubtful.stream):
            self._out_of_trouble()
            self._settle(self._doubtful.acks)  # acknowledging once more is harmless
        self._doubtful = None

    def _could_not_write(self, error: Exception) -> None:
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
        self._in_trouble(f"the outbox cannot be written: {_one_line(error)}")

    def _in_trouble(self, text: str) -> None:
        self._retry_at_ns = time.monotonic_ns() + int(_RETRY_S[min(self._retries, len(_RETRY_S) - 1)] * 1e9)
        self._retries += 1
        if self._write_trouble is None:
            self._tell(text)
        self._write_trouble = text

    def _out_of_trouble(self) -> None:
        if self._write_trouble is not None:
            self._tell("the outbox can be written again")
            self._write_trouble = None
            self._retries = 0

    def _no_doubt(self, question: str) -> None:
        """It was answered."""
        if question in self._doubts:
            with self._changed:
                self._doubts.pop(question, None)

    def _could_not_read(self, error: Exception, question: str) -> None:
        self._counters["read_errors"] += 1
        self._read_trouble = f"the outbox cannot be read: {_one_line(error)}"
        why = damage_of(error)
        if why is not None:
            with self._changed:
                if self._suspect is None:  # else it is not mended yet: that counts once
                    self._doubts[question] = self._doubts.get(question, 0) + 1
                self._suspect = why
                self._changed.notify_all()


def limits_of(section: sections.Outbox) -> Limits:
    """The limits that the configuration sets."""
    return Limits(
        max_bytes=section.max_bytes,
        max_age_ns=int(section.max_age_days * 86_400e9),
        commit_interval_s=section.commit_interval_ms / 1_000,
    )


def _one_line(error: Exception) -> str:
    return database.in_words(error) if isinstance(error, sqlite3.Error) else str(error)


def _clock() -> Callable[[], Instant]:
    """This boot of this machine (random(4), clock_gettime(2))."""
    try:
        boot_id = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except OSError:
        boot_id = ""
    return lambda: Instant(boot_id, time.clock_gettime_ns(time.CLOCK_BOOTTIME))
