"""Sightings: one event, seen by several witnesses, told to be the same by its SEQNUM."""

from __future__ import annotations

from collections import deque

from plugmeter.measure.enumerations import Enumeration
from plugmeter.records import WitnessName


class Sightings:
    """Which witnesses saw which enumeration; remembers each for ``memory_ns``.

    The first witness to see an enumeration brings it into the matching; the others are evidence.
    """

    def __init__(self, memory_ns: int) -> None:
        self._memory_ns = memory_ns
        self._seen: dict[int, dict[WitnessName, int]] = {}
        self._ages: deque[tuple[int, int]] = deque()

    def see(self, enumeration: Enumeration) -> bool:
        """Note a sighting; whether it is the first one of this enumeration.

        The same witness seeing the same SEQNUM again is a first one too: the duplicate is real.
        """
        seqnum, t_ns = enumeration.seqnum, enumeration.t_ns
        seen = self._seen.get(seqnum)
        if seen is None:
            self._seen[seqnum] = {enumeration.witness: t_ns}
            self._ages.append((t_ns, seqnum))
            self._forget(t_ns - self._memory_ns)
            return True
        if enumeration.witness in seen:
            return True
        seen[enumeration.witness] = t_ns
        return False

    def times_ns(self, seqnum: int) -> dict[WitnessName, int]:
        """When each witness saw the enumeration of this SEQNUM; empty where none is remembered."""
        return self._seen.get(seqnum, {})

    def _forget(self, before_ns: int) -> None:
        while self._ages and self._ages[0][0] < before_ns:
            del self._seen[self._ages.popleft()[1]]
