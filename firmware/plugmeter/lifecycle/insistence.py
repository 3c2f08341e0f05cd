"""What a signal does that must not wait for the conductor: it may be the conductor that hangs.

In the thread that takes the signals: the last resort (stacks.guard) is set to end the process soon. If the
conductor hears the signal, it sets another one with the stage that it enters for it; if not, it is ended with
all stacks on standard error.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from plugmeter.lifecycle import stacks
from plugmeter.lifecycle.signals import Caught, Presses
from plugmeter.lifecycle.stages import Event, Stage

FORCED_S: Final = 2.0
"""So long after the signal that forces."""
INTERRUPTED_S: Final = 8.0
"""So long after the first one that wants an end of the start: less than the service manager waits for it."""
UNHEARD_S: Final = 43.0
"""So long after the first one that wants an end while it runs: a whole stop without extensions (5 s for the
intake, 30 s for the longest drain, GUARD_S), which is less than plugmeter.service's TimeoutStopSec. For a
conductor that comes back in time, and for one that does not."""

_LIMITS_S: Final = {Stage.INITIALIZING: INTERRUPTED_S, Stage.RUNNING: UNHEARD_S}
"""The stages of a stop have guards of their own (stop.Stop)."""


class Insistence:
    """Of one thread, which hands each signal to ``heed`` before it hands it on."""

    def __init__(self, stage: Callable[[], Stage], guard: Callable[[float], None] = stacks.guard) -> None:
        self._stage = stage
        self._guard = guard
        self._presses = Presses()
        self._heeded: set[Event] = set()

    def heed(self, caught: Caught) -> None:
        """See that it has an effect."""
        event = self._presses.event(caught.number, caught.t_ns)
        if event is None or event in self._heeded:
            return  # who goes on sending them must not put off the end
        self._heeded.add(event)
        if event is Event.FORCE:
            self._guard(FORCED_S)
        elif event in (Event.TERM, Event.INT):
            limit_s = _LIMITS_S.get(self._stage())
            if limit_s is not None:
                self._guard(limit_s)
