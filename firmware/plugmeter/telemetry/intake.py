"""The bounded intake before the database: what is offered waits here for its commit."""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass
from itertools import islice
from typing import Final, TypeAlias

from plugmeter.telemetry.record import DATA_LIMIT_BYTES, Draft

MOST_DRAFTS: Final = 10_000
MOST_BYTES: Final = 8_388_608
_URGENT: Final = 4
"""From the fourth part of the intake on the commit does not wait for its time."""


@dataclass(frozen=True, slots=True)
class Discard:
    """Records that could not be taken: they get their numbers, and a tombstone, at the next commit."""

    rank: int
    reason: str
    count: int


Item: TypeAlias = Draft | Discard


class Intake:
    """Thread-safe. What was peeked at stays until it is dropped: a commit that fails loses nothing.

    Discards are counted by rank and reason as long as nothing is accepted after them, so their number is
    bounded as well. ``changed`` is notified, with its lock held, when the writer may have something to do.
    """

    def __init__(self, most_drafts: int = MOST_DRAFTS, most_bytes: int = MOST_BYTES) -> None:
        lock = threading.Lock()
        self.changed = threading.Condition(lock)
        self._room = threading.Condition(lock)
        self._most_drafts = most_drafts
        self._most_bytes = most_bytes
        self._items: deque[Item] = deque()
        self._peeked = 0
        self._discards: dict[tuple[int, str], int] = {}
        self._drafts = 0
        self._bytes = 0
        self._first_ns = 0
        self.offered = 0
        """How many were, discards included."""
        self.done = 0
        """How many of them have left again, committed."""
        self.discarded: dict[str, int] = {"intake_full": 0, "too_large": 0}

    def offer(self, draft: Draft, wait_s: float) -> bool:
        """Whether it was taken. Waits at most ``wait_s`` for room; what is too large for ever, not at all."""
        rank, size = int(draft.rank), len(draft.data)
        with self.changed:
            if size > DATA_LIMIT_BYTES:
                return self._discard(rank, "too_large")
            if not self._has_room(size) and not (
                wait_s > 0 and self._room.wait_for(lambda: self._has_room(size), wait_s)
            ):
                return self._discard(rank, "intake_full")
            self._settle_discards()
            was_urgent = self._is_urgent()
            self._items.append(draft)
            self._drafts += 1
            self._bytes += size
            self.offered += 1
            if self.offered == self.done + 1:
                self._first_ns = time.monotonic_ns()
                self.changed.notify_all()
            elif not was_urgent and self._is_urgent():
                self.changed.notify_all()
            return True

    def peek(self, most_bytes: int, most_items: int = MOST_DRAFTS) -> list[Item]:
        """The oldest of what waits: at most so much data, but one item at least if there is any."""
        with self.changed:
            if not self._items:
                self._settle_discards()
            found: list[Item] = []
            size = 0
            for item in islice(self._items, most_items):
                size += len(item.data) if isinstance(item, Draft) else 0
                if found and size > most_bytes:
                    break
                found.append(item)
            self._peeked = len(found)
            return found

    def drop(self, count: int) -> None:
        """The oldest ``count`` items are committed."""
        with self.changed:
            for _ in range(count):
                item = self._items.popleft()
                if isinstance(item, Draft):
                    self._drafts -= 1
                    self._bytes -= len(item.data)
                    self.done += 1
                else:
                    self.done += item.count
            self._peeked = 0
            self._first_ns = time.monotonic_ns()  # not earlier: what is left came while that was committed
            self._room.notify_all()
            self.changed.notify_all()

    def drafts(self) -> int:
        """How many records wait."""
        return self._drafts

    def waits_since_ns(self) -> int | None:
        """Since when (time.monotonic_ns) something has been waiting. The lock must be held."""
        return self._first_ns if self.offered != self.done else None

    @property
    def crowded(self) -> bool:
        """Whether it is half full, so that whoever can wait had better wait."""
        return self._drafts * 2 >= self._most_drafts or self._bytes * 2 >= self._most_bytes

    def is_urgent(self) -> bool:
        """Whether it fills up too quickly to wait for the next commit's time. The lock must be held."""
        return self._is_urgent()

    def _is_urgent(self) -> bool:
        return self._drafts * _URGENT >= self._most_drafts or self._bytes * _URGENT >= self._most_bytes

    def _has_room(self, size: int) -> bool:
        return self._drafts < self._most_drafts and (
            self._bytes + size <= self._most_bytes or not self._drafts
        )

    def _discard(self, rank: int, reason: str) -> bool:
        key = (rank, reason)
        self._discards[key] = self._discards.get(key, 0) + 1
        self.discarded[reason] += 1
        self.offered += 1
        if self.offered == self.done + 1:
            self._first_ns = time.monotonic_ns()
            self.changed.notify_all()
        return False

    def _settle_discards(self) -> None:
        for (rank, reason), count in self._discards.items():
            self._items.append(Discard(rank, reason, count))
        self._discards.clear()
