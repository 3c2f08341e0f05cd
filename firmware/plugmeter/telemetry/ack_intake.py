"""The bounded intake of acknowledgements: what the controller has, until the outbox has committed that.

Pure, and not thread-safe: whoever uses it holds a lock of his own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from plugmeter.telemetry import ranges
from plugmeter.telemetry.ranges import Range, Ranges

MOST_RANGES: Final = 100_000


class AckIntake:
    """Acknowledged numbers that wait for their commit, of one stream: see ``begin``."""

    __slots__ = ("_most_ranges", "absurd", "done", "dropped", "given", "since_ns", "stream", "waiting")

    def __init__(self, stream: str, most_ranges: int = MOST_RANGES) -> None:
        self._most_ranges = most_ranges
        self.stream = stream
        """Whose numbers they are."""
        self.waiting: Ranges = ()
        self.given = 0
        """How often something came in."""
        self.done = 0
        """How much of ``given`` is committed; or gone, with its stream."""
        self.since_ns = 0
        """Since when something waits, on the clock of ``now_ns``."""
        self.absurd = 0
        """Ranges with numbers that never were."""
        self.dropped = 0
        """Ranges that were too many. Harmless: their records are sent and acknowledged again."""

    def add(self, wanted: Sequence[Range], produced: int, now_ns: int) -> bool:
        """Take these inclusive ranges of a stream that has numbers up to ``produced``. True if something
        waits now and nothing did before."""
        sane = [(max(1, first), min(last, produced)) for first, last in wanted]
        self.absurd += sum(
            (first, last) != given or first > last for (first, last), given in zip(sane, wanted, strict=True)
        )
        merged = ranges.merge(self.waiting, ranges.normalise(sane))
        if len(merged) > self._most_ranges:
            self.dropped += len(merged) - self._most_ranges
            merged = merged[: self._most_ranges]
        if not merged:
            return False
        is_first = not self.waiting
        if is_first:
            self.since_ns = now_ns
        self.waiting = merged
        self.given += 1
        return is_first

    def settle(self, tried: Ranges, given: int, left: Ranges, now_ns: int) -> None:
        """A commit is over: it was to apply ``tried``, all that waited when ``given`` was the count, and it
        did so but for ``left``."""
        self.waiting = ranges.subtract(self.waiting, ranges.subtract(tried, left))
        if not left:
            self.done = given
        if not self.waiting:
            self.done = self.given
        self.since_ns = now_ns

    def begin(self, stream: str) -> bool:
        """Before anything is done with them: with another stream than theirs the numbers that wait have lost
        their meaning, and are forgotten. Whether it is another one."""
        if stream == self.stream:
            return False
        self.stream = stream
        self.waiting = ()
        self.done = self.given
        return True
