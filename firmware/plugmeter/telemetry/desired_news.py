"""What is told in the journal of configurations from afar: a line for each change of the outcome, not more.

Whoever may write to the broker can make outcomes without end, and a broker that comes and goes brings the
same one again and again. So the same is told once, and of many the last: with how many there were before it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from plugmeter.telemetry.commands.limiter import Limiter
from plugmeter.telemetry.desired import Outcome

_BURST: Final = 8
_PER_S: Final = 1 / 60
_REASON_LIMIT: Final = 500

_WORDS: Final = {
    Outcome.TRIAL: "is on trial",
    Outcome.IN_EFFECT: "is in effect",
    Outcome.ROLLED_BACK: "is rolled back",
    Outcome.REFUSED: "is refused",
}


class _Lines:
    """Of one sort, so that no flood of another takes their place."""

    def __init__(self, tell: Callable[[int, str], None]) -> None:
        self._tell = tell
        self._limiter = Limiter(_BURST, _PER_S)
        self._waiting: tuple[int, str] | None = None
        self._untold = 0

    def add(self, level: int, line: str, now_ns: int) -> None:
        self._untold += self._waiting is not None
        self._waiting = (level, line)
        self.tick(now_ns)

    def tick(self, now_ns: int) -> None:
        if self._waiting is None or not self._limiter.take(now_ns):
            return
        level, line = self._waiting
        before = f" ({self._untold} changes before this one are not told)" if self._untold else ""
        self._waiting, self._untold = None, 0
        self._tell(level, line + before)


class News:
    """``tell(level, line)`` is as logging.Logger.log; times are monotonic, in nanoseconds."""

    def __init__(self, tell: Callable[[int, str], None]) -> None:
        self._trials = _Lines(tell)
        self._refusals = _Lines(tell)
        self._last: dict[bool, tuple[str | None, Outcome, str | None]] = {}

    def know(self, wish_id: str | None, outcome: Outcome, reason: str | None) -> None:
        """It was told in another life."""
        self._last[True] = (wish_id, outcome, reason)

    def add(
        self,
        wish_id: str | None,
        outcome: Outcome,
        reason: str | None,
        now_ns: int,
        *,
        left_ns: int = 0,
        remembered: bool = True,
    ) -> None:
        """How a wish stands now; ``left_ns`` is a trial's. ``wish_id`` is None for one that was not trusted
        so far as to be read, and for the device's own file. ``remembered``: it is the standing of the last
        wish, and not one that was turned away beside it."""
        key = (wish_id, outcome, reason)
        if self._last.get(remembered) == key:
            return
        self._last[remembered] = key
        if wish_id is None and outcome is Outcome.IN_EFFECT:
            return
        line = f"the configuration {wish_id or 'without an id'} from afar {_WORDS[outcome]}"
        if outcome is Outcome.TRIAL:
            line += f": it stays if the controller is reached with it within {left_ns / 1e9:.0f} s"
        if reason:
            line += f": {'; '.join(reason.splitlines())[:_REASON_LIMIT]}"
        bad = outcome in (Outcome.ROLLED_BACK, Outcome.REFUSED)
        lines = self._refusals if outcome is Outcome.REFUSED else self._trials
        lines.add(logging.WARNING if bad else logging.INFO, line, now_ns)

    def tick(self, now_ns: int) -> None:
        """At least once a second: what had to wait is told when its time has come."""
        self._trials.tick(now_ns)
        self._refusals.tick(now_ns)
