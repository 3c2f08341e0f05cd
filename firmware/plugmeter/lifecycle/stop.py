"""The stop: what began it, how long each of its stages may still take, and how it ended."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Final

from plugmeter.lifecycle import stacks
from plugmeter.lifecycle.actions import Drained, Ending, Timing
from plugmeter.lifecycle.deadline import SECOND_NS, Deadline, Decision, Work, told
from plugmeter.lifecycle.drains import DrainMemory
from plugmeter.lifecycle.notify import Notifier
from plugmeter.lifecycle.stages import Event, Stage, Transition

LOG: Final = logging.getLogger("plugmeter.lifecycle")

CLOSING_S: Final = 0.05
"""What a drain leaves of its time for closing: the last commit, the snapshot, each synced to the disk."""

GOODBYE_S: Final = 1.0
"""What saying goodbye may take after a drain that got everything out."""

GUARD_S: Final = 8.0
"""So long after its deadline a stage of the stop that hangs is ended by force, with all stacks on standard
error: before the service manager does so without a word. The last stage, which has no deadline, has so long
from its beginning."""

LAST_S: Final = 7.0
"""What all of the last stage may take, however many of its parts hang: less than its guard."""

_FINISHED: Final = {Stage.TERMINATING: Event.DRY, Stage.DRAINING: Event.DRAINED}

_RESULTS: Final = {Event.DRAINED: "drained", Event.DEADLINE: "ran_out", Event.FORCE: "forced"}
"""Of a drain, by what ended it."""


class Stop:
    """One stop, from ``begin`` to ``ending``. Times are CLOCK_MONOTONIC."""

    def __init__(
        self, notifier: Notifier, drains: DrainMemory, guard: Callable[[float], None] = stacks.guard
    ) -> None:
        """``guard`` ends the process after so many seconds, unless it is called again before."""
        self._notifier = notifier
        self._drains = drains
        self._guard = guard
        self._deadline = Deadline(0, 0)
        self._cause = Event.DEFECT
        self._reason = ""
        self._has_run = False
        self._drain_s = 0.0
        self._drained = Drained("failed", 0.0, 0.0)
        self._wants_time = True
        self.doing = ""
        """What is still to do, for people."""

    @property
    def ends_ns(self) -> int:
        """When the present stage has to end, as far as is known now."""
        return self._deadline.ends_ns

    @property
    def cap_ns(self) -> int:
        """When ``terminating`` and ``draining`` have to be over, whatever comes."""
        return self._deadline.cap_ns

    def remaining_s(self, now_ns: int) -> float:
        """Until ``ends_ns``; 0 when it has passed."""
        return self._deadline.remaining_s(now_ns)

    def caused(self, transition: Transition, reason: str) -> None:
        """By this, the transition that leaves ``initializing`` or ``running``."""
        self._cause = transition.event
        self._reason = reason or transition.event
        self._has_run = transition.source is Stage.RUNNING

    def begin(self, now_ns: int, timing: Timing) -> None:
        """``terminating`` begins."""
        self._notifier.stopping()
        self._deadline = Deadline(now_ns, int(timing.stop_cap_s * SECOND_NS))
        self._deadline.begin(now_ns, int(timing.intake_s * SECOND_NS))
        self._guard_stage()

    def drain(self, now_ns: int, timing: Timing) -> None:
        """``draining`` begins."""
        self.doing = ""
        self._drain_s = drain_s = self._drains.deadline_s(timing.drain_s)
        self._deadline.begin(now_ns, int((drain_s - min(CLOSING_S, drain_s / 4)) * SECOND_NS))
        self._guard_stage()

    def negotiate(self, now_ns: int, stage: Stage, works: Sequence[Work]) -> tuple[Event, str] | None:
        """What becomes of ``stage``, one of those two, with so much left to do: the event that ends it and
        its reason, or None while it goes on."""
        self.doing = told(works)
        verdict = self._deadline.decide(now_ns, works)
        if verdict.decision is Decision.FINISHED:
            return _FINISHED[stage], ""
        if verdict.decision is Decision.RUN_OUT:
            self._wants_time = all(work.wants_time for work in works if work.items > 0)
            return Event.DEADLINE, f"{self.doing} when the time had run out"
        if verdict.extend_usec is not None:
            self._notifier.extend(verdict.extend_usec)
            self._guard_stage()
            LOG.info("%s: %s; going on for up to %.1f s more", stage, self.doing, self.remaining_s(now_ns))
        return None

    def finish(self, transition: Transition, spent_s: float) -> None:
        """By this, the transition to ``stopped``; its source has lasted ``spent_s``. How a drain ended is
        remembered; but not one after a start that failed: it had nothing to drain, and perhaps the folder is
        another daemon's. Nor one that ran out because of what no time would mend."""
        event, has_drained = transition.event, transition.source is Stage.DRAINING
        took_s = spent_s if has_drained else 0.0
        self._drained = Drained(_RESULTS.get(event, "failed"), took_s, self._drain_s)
        if not self._has_run or not has_drained:
            return
        if event is Event.DRAINED or (event is Event.DEADLINE and self._wants_time):
            self._drains.remember(event is Event.DRAINED)

    def end(self) -> None:
        """``stopped`` begins."""
        self.doing = ""
        self._guard(GUARD_S)

    def ending(self, event: Event | None, failed: bool) -> Ending:
        """How it came to the end, by ``event`` at last."""
        drained = event is Event.DRAINED
        return Ending(
            cause=self._cause,
            reason=self._reason,
            forced=event is Event.FORCE,
            drained=drained,
            failed=failed,
            goodbye_s=GOODBYE_S if drained else 0.0,
            drain=self._drained,
        )

    def _guard_stage(self) -> None:
        self._guard(self.remaining_s(time.monotonic_ns()) + GUARD_S)
