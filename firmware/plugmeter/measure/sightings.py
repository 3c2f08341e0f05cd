"""Sightings: one event, seen by several witnesses, told to be the same by its SEQNUM."""

from __future__ import annotations

from collections import deque

from plugmeter.measure.enumerations import Enumeration
from plugmeter.records import WitnessName


class Sightings:
    """Which witnesses saw which enumeration; remembers each for ``memory_ns``.

    The first witness to see an enumeration brings it into the matching; the others are evidence. Memory is
    what ``memory_ns`` can hold: about 250 bytes an enumeration, the enumeration itself included.
    """

    def __init__(self, memory_ns: int) -> None:
        self._memory_ns = memory_ns
        self._first: dict[int, Enumeration] = {}
        self._later: dict[int, dict[WitnessName, int]] = {}
        """The witnesses after the first one: most events of a run with one witness have none."""
        self._ages: deque[Enumeration] = deque()

    def see(self, enumeration: Enumeration) -> bool:
        """Note a sighting; whether it is the first one of this enumeration.

        The same witness seeing the same SEQNUM again is a first one too: the duplicate is real.
        """
        seqnum = enumeration.seqnum
        first = self._first.get(seqnum)
        if first is None:
            self._first[seqnum] = enumeration
            ages = self._ages
            ages.append(enumeration)
            if ages[0].t_ns < enumeration.t_ns - self._memory_ns:
                self._forget(enumeration.t_ns - self._memory_ns)
            return True
        witness = enumeration.witness
        if witness == first.witness:
            return True
        later = self._later.setdefault(seqnum, {})
        if witness in later:
            return True
        later[witness] = enumeration.t_ns
        return False

    def times_ns(self, seqnum: int) -> dict[WitnessName, int]:
        """When each witness saw the enumeration of this SEQNUM; empty where none is remembered."""
        first = self._first.get(seqnum)
        if first is None:
            return {}
        return {first.witness: first.t_ns, **self._later.get(seqnum, {})}

    def _forget(self, before_ns: int) -> None:
        while self._ages and self._ages[0].t_ns < before_ns:
            seqnum = self._ages.popleft().seqnum
            del self._first[seqnum]
            self._later.pop(seqnum, None)
