"""The one deadline of a stop: how long it may go on, and when the service manager is asked for more.

Pure: the time comes in as CLOCK_MONOTONIC nanoseconds. Each stage of the stop begins with a time of its
own. In it the components say again and again what they still have to do. When the time is over, there is
more if something was got done just before, and otherwise not; and beyond the cap there is never more. So a
dead broker costs the planned time and no more, and a slow one is waited for as long as it takes records.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

SECOND_NS: Final = 1_000_000_000

RECENT_NS: Final = SECOND_NS
"""Progress within so much time before the deadline earns an extension. Less than this between two
batches of records on their way to a controller and back is not stalling."""

EXTENSION_NS: Final = 2 * SECOND_NS
"""The longest extension that is given at once."""

SHORTEST_EXTENSION_NS: Final = SECOND_NS // 4
"""The shortest: what is expected to be over in no time may take its time all the same."""

CLOSING_NS: Final = 10 * SECOND_NS
"""What the service manager is asked for beyond the deadline: goodbye and closing come after it, and what
hangs is ended by ourselves before (``stop.GUARD_S``)."""


@dataclass(frozen=True, slots=True)
class Work:
    """What a component still has to do.

    ``what`` is a plural ("records to publish") that no other component says, ``items`` how many of them
    (0: it is done),
    ``expected_s`` how long they will take in seconds, None where it cannot tell.
    """

    what: str
    items: int
    expected_s: float | None = None
    wants_time: bool = True
    """Whether the next stop had better have more time if this one's does not suffice for it; not for what is
    broken rather than slow."""


class Decision(StrEnum):
    """What becomes of the stage."""

    GO_ON = "go on"
    FINISHED = "finished"
    RUN_OUT = "run out"


@dataclass(frozen=True, slots=True)
class Verdict:
    """The decision; with GO_ON, perhaps a wish for the service manager."""

    decision: Decision
    extend_usec: int | None = None
    """For EXTEND_TIMEOUT_USEC (sd_notify(3)): from now on, in microseconds."""


class Deadline:
    """The deadline of one stop, from its begin to its end."""

    __slots__ = ("_fewest", "_progress_ns", "cap_ns", "ends_ns", "extensions")

    def __init__(self, begun_ns: int, cap_ns: int) -> None:
        """``begun_ns``: when the stop began; ``cap_ns``: how long it may take at the very most."""
        self.cap_ns = begun_ns + cap_ns
        """CLOCK_MONOTONIC; beyond it there is nothing."""
        self.ends_ns = begun_ns
        """CLOCK_MONOTONIC; when the present stage has to end, as far as is known now."""
        self.extensions = 0
        self._fewest: dict[str, int] = {}
        self._progress_ns: int | None = None

    def begin(self, now_ns: int, budget_ns: int) -> None:
        """The next stage begins and has ``budget_ns``."""
        self.ends_ns = min(now_ns + budget_ns, self.cap_ns)
        self._fewest = {}
        self._progress_ns = None

    def decide(self, now_ns: int, works: Sequence[Work]) -> Verdict:
        """Look at what is still to do; to be asked at the latest at ``ends_ns``.

        Progress is that one kind of items (``Work.what``) is fewer than ever before in this stage: what goes
        to and fro does not count.
        """
        for work in works:
            fewest = self._fewest.get(work.what)
            if fewest is None or work.items < fewest:
                self._fewest[work.what] = work.items
                if fewest is not None:
                    self._progress_ns = now_ns
        if not any(work.items > 0 for work in works):
            return Verdict(Decision.FINISHED)
        if now_ns < self.ends_ns:
            return Verdict(Decision.GO_ON)
        recent = self._progress_ns is not None and now_ns - self._progress_ns <= RECENT_NS
        if not recent or now_ns >= self.cap_ns:
            return Verdict(Decision.RUN_OUT)
        self.ends_ns = min(now_ns + _extension_ns(works), self.cap_ns)
        self.extensions += 1
        return Verdict(Decision.GO_ON, (self.ends_ns - now_ns + CLOSING_NS) // 1000)

    def remaining_s(self, now_ns: int) -> float:
        """Until ``ends_ns``, in seconds; 0 when it has passed."""
        return max(0, self.ends_ns - now_ns) / SECOND_NS


def _extension_ns(works: Sequence[Work]) -> int:
    """What the slowest says it still takes, within limits."""
    expected = [work.expected_s for work in works if work.items > 0]
    if None in expected:
        return EXTENSION_NS
    longest_s = max(each for each in expected if each is not None)
    if not 0 <= longest_s * SECOND_NS < EXTENSION_NS:  # also for a component that says NaN
        return EXTENSION_NS
    return max(SHORTEST_EXTENSION_NS, int(longest_s * SECOND_NS))


def told(works: Sequence[Work]) -> str:
    """What is still to do, in words: "1,200 records to publish (about 3 s)"."""
    parts = []
    for work in works:
        if work.items > 0:
            about = "" if work.expected_s is None else f" (about {work.expected_s:.1f} s)"
            parts.append(f"{work.items:,} {work.what}{about}")
    return ", ".join(parts) or "nothing left"
