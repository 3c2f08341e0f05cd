"""Whether every worker moves: the watchdog is fed only while each of them does. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from plugmeter.progress import Progress

LEAST_PATIENCE_NS: Final = 2_500_000_000
"""A worker wakes up at least once a second (``Progress``); so one that is late by this is not just late."""


class Vigil:
    """Remembers when each worker last woke up. A worker is known by its ``Progress``: a restarted one that
    has a new one begins anew."""

    __slots__ = ("_patience_ns", "_seen")

    def __init__(self, patience_ns: int) -> None:
        self._patience_ns = max(patience_ns, LEAST_PATIENCE_NS)
        self._seen: dict[int, tuple[Progress, int, int]] = {}

    def look(self, now_ns: int, workers: Iterable[Progress]) -> list[str]:
        """The names of those that do not move, sorted. ``now_ns`` is CLOCK_MONOTONIC."""
        seen: dict[int, tuple[Progress, int, int]] = {}
        stuck = []
        for worker in workers:
            wakeups = worker.wakeups
            _, before, moved_ns = self._seen.get(id(worker), (worker, wakeups, now_ns))
            if wakeups != before:
                moved_ns = now_ns
            seen[id(worker)] = (worker, wakeups, moved_ns)
            if now_ns - moved_ns > self._patience_ns:
                stuck.append(worker.name)
        self._seen = seen
        return sorted(stuck)
