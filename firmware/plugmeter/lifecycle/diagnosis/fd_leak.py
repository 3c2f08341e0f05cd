"""A leak of descriptors: their number grows and grows, and never comes back."""

from __future__ import annotations

from plugmeter.lifecycle.diagnosis.finding import PROCESS, Finding, seconds
from plugmeter.lifecycle.samples import Observation, ProcessSample

_RISES = 4
"""A burst or a new part of the daemon lifts the floor once or twice; a leak lifts it again and again."""
_EXHAUSTED = 0.9
"""Of the limit: so near to it a fast leak cannot rise four times any more."""
_KINDS_SHOWN = 3


class FdLeak:
    """Accuses a process whose floor is ``growth`` descriptors over the baseline, after at least 4 rises.

    Time is cut into windows of ``window_ns``; a window's floor is the least number seen in it, so that a
    burst, which is over within a window, does not exist. The baseline is the lowest floor so far. A rise
    is a floor above all floors since the descriptors were last back near the baseline (less than half
    of ``growth`` above it), which forgets all rises. A leak of one descriptor an hour is found as surely as
    one of a hundred a second, after ``growth`` descriptors and four windows. Where a floor has come to 90 %
    of the limit no more rises can be waited for. It ends when the floor is back near the baseline: what
    leaked once and then stood still is still lost.
    """

    def __init__(self, growth: int, window_ns: int = 10_000_000_000) -> None:
        self._growth = growth
        self._window_ns = window_ns
        self._opened_ns: int | None = None
        self._lowest: ProcessSample | None = None
        """Of the window that is open."""
        self._baseline: ProcessSample | None = None
        self._kinds: ProcessSample | None = None
        """The sample whose kinds the growth is told against."""
        self._highest_floor = 0
        self._rises = 0
        self._grows_since_ns = 0
        self._finding: Finding | None = None

    def look(self, seen: Observation) -> list[Finding]:
        """The finding, if it holds at this moment."""
        process = seen.process
        if process is None:
            return [self._finding] if self._finding else []
        if self._opened_ns is None:
            self._opened_ns = seen.now_ns
        if self._lowest is None or process.descriptors <= self._lowest.descriptors:
            self._lowest = process
        if seen.now_ns - self._opened_ns >= self._window_ns:
            self._close_window(self._lowest, seen.now_ns)
            self._lowest = None
            self._opened_ns = seen.now_ns
        return [self._finding] if self._finding else []

    def _close_window(self, lowest: ProcessSample, now_ns: int) -> None:
        floor = lowest.descriptors
        if self._baseline is None or floor < self._baseline.descriptors:
            self._baseline = lowest
        if lowest.kinds and (self._kinds is None or floor < self._kinds.descriptors):
            self._kinds = lowest
        grown = floor - self._baseline.descriptors
        if grown < max(1, self._growth // 2):
            # small rises count too, for a slow leak; but coming back to where it began forgets them
            if grown == 0 or floor < self._highest_floor:
                self._rises = 0
                self._highest_floor = floor
                self._grows_since_ns = now_ns
            self._finding = None
        if floor > self._highest_floor:
            self._highest_floor = floor
            self._rises += 1
            is_last_moment = floor >= _EXHAUSTED * lowest.descriptor_limit
            if self._finding is None and grown >= self._growth and (self._rises >= _RISES or is_last_moment):
                self._finding = self._accuse(lowest, grown, now_ns)

    def _accuse(self, now: ProcessSample, grown: int, now_ns: int) -> Finding:
        evidence = (
            f"{now.descriptors} descriptors of {now.descriptor_limit} are open, {grown} more than"
            f" {seconds(now_ns - self._grows_since_ns)} ago"
        )
        before = dict(self._kinds.kinds) if self._kinds else {}
        more = sorted(
            ((count - before.get(kind, 0), kind) for kind, count in now.kinds), key=lambda each: -each[0]
        )
        shown = [f"{kind} +{count}" for count, kind in more[:_KINDS_SHOWN] if count > 0]
        if shown:
            among = f" (of the newest {now.kinds_of})" if now.kinds_of < now.descriptors else ""
            evidence += f": {', '.join(shown)}{among}"
        return Finding("fd_leak", PROCESS, self._grows_since_ns, evidence, "none")
