"""How long to wait before the next attempt: decorrelated jitter.

Each delay is drawn between the base and three times the delay before, up to a cap (Brooker, "Exponential
Backoff and Jitter", 2015): devices that lost a broker together do not come back together. A connection
that lasts only moments is no success: the delays begin anew only after one that was stable.
"""

from __future__ import annotations

from collections.abc import Callable


class Backoff:
    """The delays of one kind of attempt, in seconds. ``uniform(low, high)`` is the source of chance."""

    def __init__(
        self,
        uniform: Callable[[float, float], float],
        *,
        base_s: float = 1.0,
        cap_s: float = 120.0,
        stable_s: float = 60.0,
    ) -> None:
        if not 0 < base_s <= cap_s:
            raise ValueError(f"0 < base_s <= cap_s: {base_s}, {cap_s}")
        self._uniform = uniform
        self._base_s = base_s
        self._cap_s = cap_s
        self._stable_s = stable_s
        self._delay_s = base_s

    def after_failure(self, lasted_s: float = 0.0) -> float:
        """The delay after an attempt that failed, or whose connection was lost after ``lasted_s``."""
        if lasted_s >= self._stable_s:
            self.reset()
        drawn = self._uniform(self._base_s, self._delay_s * 3.0)
        self._delay_s = min(self._cap_s, max(self._base_s, drawn))
        return self._delay_s

    def reset(self) -> None:
        self._delay_s = self._base_s
