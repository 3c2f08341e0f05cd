"""The allowance: the time of several things that are done one after the other, of which none may use it up.

Pure but for the clock that it is given.
"""

from __future__ import annotations

import time
from collections.abc import Callable


class Allowance:
    """So many seconds from its making on."""

    __slots__ = ("_clock_s", "_ends_s")

    def __init__(self, limit_s: float, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._clock_s = clock_s
        self._ends_s = clock_s() + limit_s

    def share_s(self, wanted_s: float, kept_s: float = 0.0) -> float:
        """What may be spent now where ``wanted_s`` is wanted, and ``kept_s`` is kept for what comes after it;
        0 where nothing is left."""
        return max(0.0, min(wanted_s, self._ends_s - self._clock_s() - kept_s))

    def within(self, kept_s: float) -> Allowance:
        """The same but for ``kept_s``, which are kept for what comes after it."""
        return Allowance(self._ends_s - self._clock_s() - kept_s, self._clock_s)
