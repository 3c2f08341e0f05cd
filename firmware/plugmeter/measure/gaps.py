"""Gaps: when a witness was losing records, so that what it did not see can be judged."""

from __future__ import annotations

from collections import deque

from plugmeter.records import Gap, WitnessName


class GapIntervals:
    """The intervals in which each witness lost something; remembers each for ``memory_ns``."""

    def __init__(self, memory_ns: int) -> None:
        self._memory_ns = memory_ns
        self._intervals: dict[WitnessName, deque[tuple[int, int]]] = {}

    def add(self, gap: Gap) -> None:
        """Note one gap. Adjacent ones of a witness become one, so a storm of gaps stays small."""
        intervals = self._intervals.setdefault(gap.witness, deque())
        if intervals and gap.since_ns <= intervals[-1][1]:
            since_ns, until_ns = intervals.pop()
            intervals.append((min(since_ns, gap.since_ns), max(until_ns, gap.t_ns)))
        else:
            intervals.append((gap.since_ns, gap.t_ns))
        while intervals[0][1] < gap.t_ns - self._memory_ns:
            intervals.popleft()

    def overlaps(self, witness: WitnessName, from_ns: int, until_ns: int) -> bool:
        """Whether ``witness`` lost anything between the two times."""
        intervals = self._intervals.get(witness, ())
        return any(since <= until_ns and until >= from_ns for since, until in intervals)
