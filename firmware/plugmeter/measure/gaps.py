"""Gaps: when a witness was losing records, so that what it did not see can be judged."""

from __future__ import annotations

from bisect import bisect_left
from operator import itemgetter

from plugmeter.records import Gap, WitnessName

_UNTIL = itemgetter(1)


class GapIntervals:
    """The intervals in which each witness lost something; remembers each for ``memory_ns``.

    They are kept apart and in order, so a question costs a bisection however many there are.
    """

    def __init__(self, memory_ns: int) -> None:
        self._memory_ns = memory_ns
        self._intervals: dict[WitnessName, list[tuple[int, int]]] = {}

    def add(self, gap: Gap) -> None:
        """Note one gap. Those that touch become one, so a storm of gaps stays small."""
        intervals = self._intervals.setdefault(gap.witness, [])
        since_ns, until_ns = gap.since_ns, gap.t_ns
        while intervals and since_ns <= intervals[-1][1]:
            earlier = intervals.pop()
            since_ns, until_ns = min(since_ns, earlier[0]), max(until_ns, earlier[1])
        intervals.append((since_ns, until_ns))
        if intervals[0][1] < gap.t_ns - self._memory_ns:
            del intervals[: bisect_left(intervals, gap.t_ns - self._memory_ns, key=_UNTIL)]

    def overlaps(self, witness: WitnessName, from_ns: int, until_ns: int) -> bool:
        """Whether ``witness`` lost anything between the two times."""
        intervals = self._intervals.get(witness, [])
        i = bisect_left(intervals, from_ns, key=_UNTIL)
        return i < len(intervals) and intervals[i][0] <= until_ns
