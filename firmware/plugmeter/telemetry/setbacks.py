"""What went wrong on the way to the broker: counted by cause, and told, but not what is always the same."""

from __future__ import annotations

import logging
from collections import Counter
from typing import Final

from plugmeter.telemetry.failures import Failure, twin
from plugmeter.telemetry.guard import Guard

LOG: Final = logging.getLogger("plugmeter.link")
_RETELL_S: Final = 3_600.0
_SHORT_LIVES: Final = 3


class Setbacks:
    """Attempts that failed, and connections that were lost. Times are monotonic seconds.

    ``broker`` is its name for the journal. A connection that the broker closes after less than
    ``short_life_s`` is a short life: three in a row are the sign of a twin.
    """

    def __init__(self, guard: Guard, broker: str = "the broker", *, short_life_s: float = 5.0) -> None:
        self._guard = guard
        self._broker = broker
        self._short_life_s = short_life_s
        self._short_lives = 0
        self.counts: Counter[str] = Counter()
        """By cause."""
        self.last: Failure | None = None
        """None once a connection stands again."""
        self.untold = 0
        """Attempts that failed like the one that was told last."""
        self._told: tuple[str, str] | None = None
        self._told_s = 0.0

    def overcome(self, how: str = "") -> None:
        """The connection stands; ``how`` it came about is for the journal."""
        LOG.info("connected to %s%s", self._broker, f" ({how})" if how else "")
        self.last = self._told = None
        self.untold = 0

    def judged(self, failure: Failure, lasted_s: float | None) -> Failure:
        """What to take this failure for, before it is added: for a twin, perhaps."""
        if lasted_s is None or lasted_s >= self._short_life_s:
            self._short_lives = 0
        elif failure.unexplained or failure.cause == "taken-over":
            self._short_lives += 1
        elif failure.cause != "reset":  # which may be either: a broker closes like that what it has not read
            self._short_lives = 0
        return twin() if self._short_lives >= _SHORT_LIVES else failure

    def twin_suspected(self, connected_for_s: float | None) -> bool:
        """Whether there may be another device of this name; ``connected_for_s`` of the present connection."""
        stands = connected_for_s is not None and connected_for_s >= self._short_life_s
        return self._short_lives >= _SHORT_LIVES and not stands

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
        self._log(failure, lasted_s, wait_s, opened=opened)
        # Backoff bounds how many there are.
        self._guard.tell("connect-failed" if lasted_s is None else "disconnected", details, always=True)

    def _log(self, failure: Failure, lasted_s: float | None, wait_s: float, *, opened: bool) -> None:
        what = (
            f"{self._broker} cannot be reached"
            if lasted_s is None
            else f"disconnected from {self._broker} after {lasted_s:.1f} s"
        )
        level = logging.INFO if failure.cause == "kicked" else logging.WARNING
        then = "the breaker opens, " if opened else ""
        LOG.log(level, "%s: %s; %snext attempt in %.1f s", what, failure.text, then, wait_s)
