"""Retention: deletes records that were kept for long enough, and remembers their numbers.

What is deleted is the record itself. Its number stays in ``coverage``, as one that was stored and as one
that was deleted: so the audit still counts it, and it is known when it comes again. All that was drawn from
it (sums, runs, what was dropped for whom) stays as well, and so does what came with its number and another
content (``conflict``). How old a record is goes by when it came, by our clock.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from plugmeter.controller import coverage
from plugmeter.controller.extracts import LOSS
from plugmeter.controller.store import Session, Store, StoreTrouble
from plugmeter.telemetry import ranges

DAY_MS: Final = 86_400_000
AT_ONCE: Final = 1_000
"""So many records are looked at, and deleted at most, in one transaction: receiving waits for no more."""
ROUND_S: Final = 60.0
"""Between the end of one round through all streams and the next."""


class Retention:
    """Of one thread, the store's one writer. It spends half of that thread's time at most."""

    def __init__(self, store: Store, keep_days: int, tell: Callable[[str], None]) -> None:
        self.counters = {"deleted": 0, "delete_failures": 0}
        self._store = store
        self._keep_ms = keep_days * DAY_MS
        self._tell = tell
        self._trouble = ""
        self._round: list[tuple[int, int]] = []
        """(device, stream) that are still to be looked at."""
        self._next_at = 0.0

    @property
    def resting(self) -> bool:
        """Whether a round has ended: nothing that is old is left, or the database is in trouble."""
        return not self._round

    def patience_s(self, now: float) -> float:
        """How long there is nothing to do; ``now`` in monotonic seconds."""
        return max(0.0, self._next_at - now)

    def turn(self, now: float, now_ms: int) -> None:
        """A bounded step, if it is time for one. Trouble with the database is told, and tried again later."""
        if now < self._next_at:
            return
        began = time.monotonic()
        try:
            more = self._step(now_ms - self._keep_ms)
        except StoreTrouble as trouble:
            self.counters["delete_failures"] += 1
            if str(trouble) != self._trouble:
                self._trouble = str(trouble)
                self._tell(f"{trouble}; old records are not deleted until it can be written again")
            more = False
            self._round = []
        else:
            self._trouble = ""
        spent_s = time.monotonic() - began
        self._next_at = now + (2 * spent_s if more else ROUND_S)

    def _step(self, before_ms: int) -> bool:
        """One stream's oldest. Whether there may be more to do at once."""
        if not self._round:
            with self._store.reading() as session:
                self._round = [
                    (int(device), int(stream))
                    for device, stream in session.rows("SELECT device, id FROM stream ORDER BY id DESC")
                ]
        if not self._round:
            return False
        device, stream = self._round[-1]
        with self._store.reading() as session:
            found = _old(session, stream, before_ms)
        if found:
            with self._store.writing() as session:
                self.counters["deleted"] += _delete(session, device, stream, before_ms)
        else:
            self._round.pop()
        return bool(self._round)


def _old(session: Session, stream: int, before_ms: int) -> list[tuple[int, str, int]]:
    """(seq, kind, time_ms) of those of the lowest numbers that came before ``before_ms``.

    Numbers come in their order as a rule. One that came late stays behind, and holds up nothing else until
    there are ``AT_ONCE`` of its kind.
    """
    rows = session.rows(
        "SELECT seq, kind, time_ms, received_ms FROM record WHERE stream = ? ORDER BY seq LIMIT ?",
        (stream, AT_ONCE),
    )
    return [(int(seq), kind, int(time_ms)) for seq, kind, time_ms, came_ms in rows if came_ms < before_ms]


def _delete(session: Session, device: int, stream: int, before_ms: int) -> int:
    """How many: another controller may have been here meanwhile, so they are looked for again."""
    # As booking does: whoever has locked the device's row has its streams for itself.
    session.run("UPDATE device SET first_ms = first_ms WHERE id = ?", (device,))
    found = _old(session, stream, before_ms)
    numbers = ranges.runs(seq for seq, _, _ in found)
    session.many(
        "DELETE FROM record WHERE stream = ? AND seq BETWEEN ? AND ?",
        [(stream, first, last) for first, last in numbers],
    )
    session.many(
        "DELETE FROM notable WHERE device = ? AND topic = ? AND time_ms = ? AND stream = ? AND seq = ?",
        [
            (device, topic, time_ms, stream, seq)
            for seq, kind, time_ms in found
            for topic in ((kind, LOSS) if kind == "verdict" else (kind,))
        ],
    )
    there = coverage.near(session, stream, coverage.DELETED, numbers)
    coverage.add(session, stream, coverage.DELETED, numbers, there)
    return len(found)
