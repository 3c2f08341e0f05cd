"""What went wrong on the way to the broker: counted by cause, and told, but not what is always the same."""

from __future__ import annotations

from collections import Counter
from typing import Final

from plugmeter.telemetry.failures import Failure
from plugmeter.telemetry.guard import Guard

_RETELL_S: Final = 3_600.0


class Setbacks:
    """Attempts that failed, and connections that were lost. Times are monotonic seconds."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        self.counts: Counter[str] = Counter()
        """By cause."""
        self.last: Failure | None = None
        """None once a connection stands again."""
        self.untold = 0
        """Attempts that failed like the one that was told last."""
        self._told: tuple[str, str] | None = None
        self._told_s = 0.0

    def overcome(self) -> None:
        """The connection stands."""
        self.last = self._told = None
        self.untold = 0

    def add(
        self, failure: Failure, *, lasted_s: float | None, wait_s: float, opened: bool, now_s: float
    ) -> None:
        """``lasted_s`` is for how long there was a connection, None for an attempt; ``wait_s`` until the next
        one; ``opened`` whether the breaker opened. An attempt that fails like the one before is told once an
        hour."""
        self.counts[failure.cause] += 1
        self.last = failure
        words = (failure.cause, failure.text)
        if lasted_s is None and words == self._told and now_s - self._told_s < _RETELL_S:
            self.untold += 1
            return
        details: dict[str, object] = {
            "cause": failure.cause,
            "text": failure.text,
            "next_attempt_s": round(wait_s, 1),
        }
        if lasted_s is not None:
            details["after_s"] = round(lasted_s, 1)
        if opened:
            details["breaker"] = failure.kind.value
        if self.untold:
            details["untold"] = self.untold
        self._told, self._told_s, self.untold = words, now_s, 0
        # Backoff bounds how many there are.
        self._guard.tell("connect-failed" if lasted_s is None else "disconnected", details, always=True)
