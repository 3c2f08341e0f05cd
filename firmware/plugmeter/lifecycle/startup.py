"""The start: the steps of ``Actions.start`` one by one, then ``Actions.ready``, all within one time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final, TypeVar

from plugmeter.errors import PlugmeterError
from plugmeter.lifecycle import stacks
from plugmeter.lifecycle.deadline import CLOSING_NS, SECOND_NS
from plugmeter.lifecycle.defects import Defects
from plugmeter.lifecycle.notify import Notifier
from plugmeter.lifecycle.stages import Event

GUARD_S: Final = 8.0
"""So long after its time a start that hangs in one of its steps is ended by force, with all stacks on
standard error."""

Result = TypeVar("Result")


class Startup:
    """The stage ``initializing``: a little of it each time it is looked at, so that signals are heard."""

    def __init__(
        self,
        start: Callable[[], Iterator[str]],
        ready: Callable[[], bool],
        defects: Defects,
        happen: Callable[[Event, str], None],
        notifier: Notifier,
        guard: Callable[[float], None] = stacks.guard,
    ) -> None:
        """``happen`` gets READY, DEADLINE, or FATAL for what the user has to mend. ``guard`` ends the process
        after so many seconds; what follows on the start has to call it off, or set it anew."""
        self._start = start
        self._ready = ready
        self._defects = defects
        self._happen = happen
        self._notifier = notifier
        self._guard = guard
        self._steps: Iterator[str] | None = None
        self.doing = ""
        """What is being done now, for people."""
        self.exit_status = 1
        """Of a start that failed: that of the PlugmeterError, if there was one."""

    @property
    def has_steps(self) -> bool:
        """Whether to go on at once; otherwise it waits for what comes up by itself."""
        return self._steps is not None

    def begin(self, start_s: float) -> None:
        """Nothing is done yet; ``start_s`` as for ``go_on``."""
        self._guard(start_s + GUARD_S)
        self._steps = self._defects.ask("start", lambda: iter(self._start()), None)

    def go_on(self, spent_ns: int, start_s: float) -> bool:
        """The next step, or the question whether all is up; ``spent_ns`` since ``begin``, of ``start_s``
        seconds at the most. Whether there is another step to tell of, which ``doing`` says."""
        if spent_ns >= start_s * SECOND_NS:
            self._happen(Event.DEADLINE, f"not ready within {start_s:g} s, but {self.doing}")
        elif self._steps is None:
            self.doing = "waiting until all is up"
            if self._mended("ready", self._ready, False):
                self._happen(Event.READY, "")
        else:
            steps = self._steps
            doing = self._mended("start", lambda: next(steps, None), None)
            # The service manager has a time of its own for the start, which may be shorter.
            left_ns = int(start_s * SECOND_NS) - spent_ns
            self._notifier.extend((left_ns + CLOSING_NS) // 1000)
            if doing is not None:
                self.doing = doing
                return True
            self._steps = None
        return False

    def end(self) -> None:
        """No more steps: those that are left are not done."""
        self._steps = None

    def _mended(self, name: str, step: Callable[[], Result], otherwise: Result) -> Result:
        """``step``. What it raises for the user to mend ends the start, with its exit status."""

        def mend() -> Result:
            try:
                return step()
            except PlugmeterError as error:
                self.exit_status = error.exit_status
                self._happen(Event.FATAL, str(error))
                return otherwise

        return self._defects.ask(name, mend, otherwise)
