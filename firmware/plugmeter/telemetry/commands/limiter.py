"""How often something may happen: a bucket of tokens. Pure: the time comes in."""

from __future__ import annotations


class Limiter:
    """``burst`` at once, and ``per_s`` a second in the long run. Time is monotonic, in nanoseconds."""

    __slots__ = ("_burst", "_last_ns", "_per_s", "_tokens")

    def __init__(self, burst: int, per_s: float) -> None:
        self._burst = float(burst)
        self._per_s = per_s
        self._tokens = float(burst)
        self._last_ns: int | None = None

    def take(self, now_ns: int) -> bool:
        """Whether it may happen now; then it counts as done."""
        if self._last_ns is not None:
            passed_s = max(0, now_ns - self._last_ns) / 1e9
            self._tokens = min(self._burst, self._tokens + passed_s * self._per_s)
        self._last_ns = now_ns
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True
