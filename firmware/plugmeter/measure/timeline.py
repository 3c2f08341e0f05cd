"""The timeline: the witnesses' records, put into one order by the kernel's clock."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from operator import attrgetter

from plugmeter.records import Record

_TIME = attrgetter("t_ns")


class Timeline:
    """Holds records back until nothing older can come, then gives them out in order of ``t_ns``.

    The caller says up to when everything has arrived (the watermark). Records of the same
    nanosecond keep the order in which they came. A record older than the last watermark is not
    dropped: it goes out at once, and ``stragglers`` counts it.
    """

    def __init__(self) -> None:
        self._held: list[Record] = []
        self._watermark_ns = -1
        self.stragglers = 0

    def __len__(self) -> int:
        return len(self._held)

    def add(self, records: Iterable[Record]) -> None:
        """Take records in, in any order."""
        self._held.extend(records)

    def release(self, watermark_ns: int) -> list[Record]:
        """All held records up to and including ``watermark_ns``, oldest first."""
        held = self._held
        held.sort(key=_TIME)
        released = held[: bisect_right(held, watermark_ns, key=_TIME)]
        self.stragglers += bisect_right(released, self._watermark_ns, key=_TIME)
        del held[: len(released)]
        self._watermark_ns = max(self._watermark_ns, watermark_ns)
        return released
