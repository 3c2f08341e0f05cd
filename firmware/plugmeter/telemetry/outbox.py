"""The outbox: every record is in here, on the disk, until the controller has acknowledged it.

Records are offered to a bounded intake, and a thread commits them in groups: at most ``commit_interval_s``
is lost by a kill or a power cut. They get their numbers when they are committed, so what was lost in
between never had one. A tombstone says which numbers had to go and why, and is itself kept until it is
acknowledged. ``produced = acknowledged + tombstoned + pending`` holds after each commit.

Here are its face and its thread; ``writer`` is what the thread does, and ``reading`` what the others see.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from plugmeter import sections
from plugmeter.errors import PlugmeterError
from plugmeter.progress import Progress
from plugmeter.telemetry import database
from plugmeter.telemetry.age import Instant
from plugmeter.telemetry.change import Handing
from plugmeter.telemetry.database import DatabaseDamaged
from plugmeter.telemetry.intake import Intake
from plugmeter.telemetry.limits import Limits
from plugmeter.telemetry.lock import StateLock
from plugmeter.telemetry.owner import NOBODY, Owner
from plugmeter.telemetry.reading import Batch, Ended, Reader, ReadingBusy
from plugmeter.telemetry.record import Account, Draft
from plugmeter.telemetry.segment import SegmentDamaged
from plugmeter.telemetry.store import Store, damage_of
from plugmeter.telemetry.trouble import RETRY_S
from plugmeter.telemetry.writer import Writer, in_one_line

__all__ = ["DATABASE_NAME", "Batch", "Limits", "Outbox", "limits_of"]

DATABASE_NAME: Final = "outbox.sqlite"
"""Of the outbox in a state directory."""

_TICK_S: Final = 1.0
_GLANCE_NS: Final = 900_000_000
"""Less than a tick, so that each tick has one."""
_CLOSE_S: Final = 10.0
CLOSING_S: Final = 1.0
"""What it may take beyond the time for writing to copy the log back; and a thread to end."""
_SLOW_S: Final = 0.3
"""A commit that takes longer may hang: readers turn back rather than hang with it."""


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
        owner: Owner = NOBODY,
    ) -> None:
        """Opens, recovers, checks the books, and commits the first record. A corrupt database is set aside,
        or another ``owner``'s with records in it, and a new stream begins. Raises PlugmeterError, one line:
        not writable, disk full, in use."""
        self.progress = Progress("outbox")
        self._tell = tell
        self._intake = Intake() if intake is None else intake
        handing = Handing()
        database.make_directory(path.parent)
        lock = StateLock(path.parent)
        try:
            now = _clock() if instant is None else instant
            store = Store(path, limits, handing, tell=tell, wall_ns=wall_ns, now=now, owner=owner)
            try:
                self._reader = Reader(path, handing)
                self._known = _known(self._reader)
            except BaseException:
                store.abandon()
                raise
        except BaseException:
            lock.close()
            raise
        self._writer = Writer(store, self._reader, self._intake, limits, lock, tell)
        self._thread: threading.Thread | None = None
        self._changed = self._intake.changed
        # With the lock of _changed (see Writer for what else it protects, and for the order of the locks):
        self._flushing = 0
        self._stopping = False
        self._close_by_ns: int | None = None
        """Until when the thread may write when it ends; None to end without."""
        self._read_errors = 0
        # Of whichever thread reads, without a lock: each is replaced whole.
        self._read_trouble: str | None = None
        self._doubtful_after = 0
        """Of the batch that could not be read."""
        self._turned_back = False
        """Whether a reader was, who is to be called once the disk answers."""
        # The thread's own:
        self._glance_at_ns = 0

    @property
    def stream(self) -> str:
        """The UUID of the stream. Another one after damage was found (a batch says which it is of)."""
        return self._writer.stream

    @property
    def trouble(self) -> str | None:
        """One line while the database cannot be written or read, else None."""
        return self._writer.trouble.text or self._read_trouble

    @property
    def counters(self) -> dict[str, int]:
        """Since the outbox was opened."""
        return {**self._writer.counters, "read_errors": self._read_errors, **self._intake.discarded}

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
        ``trouble``), and while the disk hangs: whoever wants to be told of commits is told when it is over.
        """
        if self._hangs():
            return Batch((), (), after, self.stream)
        try:
            batch = self._reader.next_batch(after, most_records, most_bytes, _SLOW_S)
        except ReadingBusy:
            self._turned_back = True
        except (sqlite3.Error, SegmentDamaged, DatabaseDamaged) as error:
            self._doubtful_after = after
            self._could_not_read(error, "batch")
        except Ended:
            pass
        else:
            self._read_trouble = None
            if after == self._doubtful_after or after < self._doubtful_after < batch.last:
                self._writer.no_doubt("batch")
            return batch
        return Batch((), (), after, self.stream)

    def acknowledge(self, wanted: Sequence[tuple[int, int]], *, stream: str | None = None) -> None:
        """The controller has what is in these inclusive ranges, in any order. Numbers that are gone are
        harmless, those that never were are ignored and counted (``absurd_acks``), as is all for another
        ``stream`` than this (``foreign_acks``). Takes effect with the next commit."""
        self._writer.acknowledge(wanted, stream)

    def account(self) -> Account:
        """As committed, in one read transaction; the last one while that cannot be read (``trouble``)."""
        try:
            self._known = self._reader.account()
            self._read_trouble = None
            self._writer.no_doubt("account")
        except (sqlite3.Error, SegmentDamaged, DatabaseDamaged) as error:
            self._could_not_read(error, "account")
        except Ended:
            pass
        return self._known

    def glance(self) -> Account:
        """The account for whoever must not wait for the disk, which may hang: the books as of the last
        commit; ``oldest_pending``, ``unannounced`` and ``bytes`` of a second ago at the most."""
        state, known = self._writer.state, self._known
        if known.stream != state.books.stream:  # nothing is known yet of the one that has just begun
            known = replace(known, oldest_pending=1, unannounced=0)
        return replace(
            known,
            stream=state.books.stream,
            produced=state.books.produced,
            acknowledged=state.books.acknowledged,
            tombstoned=state.books.tombstoned,
            pending=state.pending,
            oldest_pending=min(known.oldest_pending, state.books.produced + 1),
        )

    def pending_now(self) -> int:
        """Records that wait for their acknowledgement or still for their commit. Cheap."""
        return self._writer.pending + self._intake.drafts()

    def uncommitted(self) -> int:
        """Records that were offered and are not on the disk yet. Cheap."""
        return self._intake.drafts()

    def on_commit(self, callback: Callable[[], None]) -> None:
        """To be called from the writer thread after a commit with something new. It must be quick and not
        raise."""
        self._writer.on_commit(callback)

    def off_commit(self, callback: Callable[[], None]) -> None:
        """No more; one call may be under way."""
        self._writer.off_commit(callback)

    def hasten(self) -> None:
        """From now on the last acknowledgements are committed when they come, without waiting for others."""
        self._writer.hasten()

    @property
    def all_acknowledged(self) -> bool:
        """Whether the controller has all that was offered, though the commit that says so may be to come.
        Cheap."""
        return not self._intake.drafts() and self._writer.all_acknowledged

    def set_limits(self, limits: Limits) -> None:
        """From the next commit on, which comes soon."""
        self._writer.set_limits(limits)

    def flush(self, timeout_s: float) -> bool:
        """Whether all that was offered (and acknowledged) before is committed, within ``timeout_s``."""
        mark = self._writer.mark()
        deadline_ns = time.monotonic_ns() + int(timeout_s * 1e9)
        if self._thread is not None and self._thread.is_alive():
            with self._changed:
                self._flushing += 1
                self._changed.notify_all()
                try:
                    return self._changed.wait_for(lambda: self._writer.has_done(mark), timeout_s)
                finally:
                    self._flushing -= 1
        while not self._writer.has_done(mark) and not self._writer.closed:
            self._writer.turn()
            if self._writer.trouble.text is not None:
                if time.monotonic_ns() >= deadline_ns:
                    return False
                time.sleep(RETRY_S[0])
        return self._writer.has_done(mark)

    def close(self, timeout_s: float = _CLOSE_S) -> bool:
        """Commit what is there, copy the log back, mark the end as clean, end the thread. Idempotent. What
        cannot be written within ``timeout_s`` is told, and the next start will say that it is missing.

        Whether it is closed: where the disk hangs, the thread is left behind, which is told, and closes it
        should the disk answer again.
        """
        return self._end(timeout_s, time.monotonic_ns() + int(timeout_s * 1e9))

    def abandon(self) -> bool:
        """End at once: what waits in the intake is not committed, and the next start will say that the end
        was not clean. Idempotent. Whether it is closed, as for ``close``."""
        return self._end(_CLOSE_S, None)

    def _end(self, timeout_s: float, close_by_ns: int | None) -> bool:
        if self._writer.closed:
            return True
        with self._changed:
            self._close_by_ns = close_by_ns
            self._stopping = True
            self._changed.notify_all()
        if self._thread is None or not self._thread.is_alive():
            self._finish()
            return True
        self._thread.join(timeout_s + CLOSING_S)
        if not self._thread.is_alive():
            return True
        self._tell(
            f"the outbox is left open, with {self.uncommitted()} records that are not on the disk:"
            " it does not answer"
        )
        return False

    def _finish(self) -> None:
        """In the thread that took the turns, or once there is none."""
        if self._close_by_ns is None:
            self._writer.abandon()
        else:
            self._writer.close(self._close_by_ns)

    def _hangs(self) -> bool:
        """Whether the turn under way takes suspiciously long."""
        begun_ns = self._writer.begun_ns
        if begun_ns is None or time.monotonic_ns() - begun_ns < _SLOW_S * 1e9:
            return False
        self._turned_back = True
        return True

    def _run(self) -> None:
        while not self._stopping:
            found = self._writer.turn()
            self.progress.woke(found)
            if self._turned_back:
                self._turned_back = False
                self._writer.call_back()
            now_ns = time.monotonic_ns()
            if now_ns >= self._glance_at_ns:
                self._glance_at_ns = now_ns + _GLANCE_NS
                self.account()
            if not (found and self._writer.more):
                self._wait()
        self._finish()

    def _wait(self) -> None:
        """Until the next turn is due, a second at the most."""
        tick_ns = time.monotonic_ns() + int(_TICK_S * 1e9)
        with self._changed:
            while not self._stopping:
                left_s = (min(self._writer.due_ns(self._flushing > 0), tick_ns) - time.monotonic_ns()) / 1e9
                if left_s <= 0:
                    return
                self._changed.wait(left_s)

    def _could_not_read(self, error: sqlite3.Error | SegmentDamaged | DatabaseDamaged, question: str) -> None:
        with self._changed:
            self._read_errors += 1
        self._read_trouble = f"the outbox cannot be read: {in_one_line(error)}"
        why = damage_of(error)
        if why is not None:
            self._writer.suspect(question, why)


def _known(reader: Reader) -> Account:
    try:
        return reader.account()
    except (sqlite3.Error, SegmentDamaged, DatabaseDamaged) as error:
        raise PlugmeterError(f"the outbox cannot be read: {in_one_line(error)}") from None


def limits_of(section: sections.Outbox) -> Limits:
    """The limits that the configuration sets."""
    return Limits(
        max_bytes=section.max_bytes,
        max_age_ns=int(section.max_age_days * 86_400e9),
        commit_interval_s=section.commit_interval_ms / 1_000,
    )


def _clock() -> Callable[[], Instant]:
    """This boot of this machine (random(4), clock_gettime(2))."""
    try:
        boot_id = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except OSError:
        boot_id = ""
    return lambda: Instant(boot_id, time.clock_gettime_ns(time.CLOCK_BOOTTIME))
