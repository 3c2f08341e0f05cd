"""A worker's sign of life: what the watchdog and the self-diagnosis look at."""

from __future__ import annotations


class Progress:
    """Counters that only their worker increments and that anyone may read, without a lock.

    A worker wakes up at least once a second, also when it is idle; so one whose ``wakeups`` rest is
    stuck, and one that wakes up thousands of times without finding work spins.
    """

    __slots__ = ("name", "wakeups", "work")

    def __init__(self, name: str) -> None:
        self.name = name
        self.wakeups = 0
        """How often its loop woke up."""
        self.work = 0
        """How often there was something to do then."""

    def woke(self, found_work: bool) -> None:
        """To be called once in each turn of the worker's loop."""
        self.wakeups += 1
        self.work += found_work
