"""How long what is left will take, at the rate at which it has gone so far. Pure."""

from __future__ import annotations


class Pace:
    """Watches a number that falls. What comes on top begins the watch anew."""

    __slots__ = ("_begun_ns", "_first", "_last")

    def __init__(self) -> None:
        self._begun_ns = 0
        self._first: int | None = None
        self._last = 0

    def expected_s(self, now_ns: int, items: int) -> float | None:
        """Seconds until none of ``items`` is left, at the rate since the watch began; None where nothing was
        seen to go. ``now_ns`` is CLOCK_MONOTONIC."""
        if self._first is None or items > self._last:
            self._begun_ns, self._first = now_ns, items
        self._last = items
        done, took_ns = self._first - items, now_ns - self._begun_ns
        if done <= 0 or took_ns <= 0:
            return None
        return items * took_ns / done / 1e9
