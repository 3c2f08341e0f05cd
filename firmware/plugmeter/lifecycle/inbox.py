"""What other threads have for the conductor: signals, events, calls. Bounded, and it wakes it up."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from plugmeter.errors import PlugmeterError
from plugmeter.lifecycle.signals import Caught
from plugmeter.lifecycle.stages import Event
from plugmeter.wakeup import Wakeup

Result = TypeVar("Result")

MOST_SIGNALS: Final = 32
MOST_CALLS: Final = 32
_WAIT_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Call:
    """A function that is to run in the main thread."""

    function: Callable[[], Any]
    future: Future[Any]

    def run(self) -> None:
        """Run it; what it gives or raises is its caller's, and nobody else's."""
        if not self.future.set_running_or_notify_cancel():
            return
        try:
            self.future.set_result(self.function())
        except Exception as error:  # noqa: BLE001  handed on whole to the one who asked
            self.future.set_exception(error)


@dataclass(frozen=True, slots=True)
class Taken:
    """What had come in, each in the order in which it came."""

    signals: tuple[Caught, ...]
    events: tuple[tuple[Event, str], ...]
    calls: tuple[Call, ...]


class Inbox:
    """Thread-safe. ``fileno()`` is readable (an eventfd) once there is something, or after ``wake()``.

    Each kind has its own bound. A signal that finds it full waits with its thread, and the kernel keeps the
    next ones, one of each number; an event that is there already need not be there twice; a call is refused.
    """

    def __init__(self) -> None:
        self.coalesced = 0
        """Events that were there already."""
        self.refused = 0
        """Calls that found it full."""
        self._wakeup = Wakeup()
        self._room = threading.Condition()
        self._signals: deque[Caught] = deque()
        self._events: dict[Event, str] = {}
        self._calls: deque[Call] = deque()
        self._closed = False

    def fileno(self) -> int:
        """For a selector."""
        return self._wakeup.fileno()

    def wake(self) -> None:
        """Have the conductor look at everything soon; harmless once it is closed."""
        self._wakeup.wake()

    def signal(self, caught: Caught) -> bool:
        """Whether it was taken within a second."""
        with self._room:
            if not self._room.wait_for(lambda: self._closed or len(self._signals) < MOST_SIGNALS, _WAIT_S):
                return False
            self._signals.append(caught)
            self._wakeup.wake()
            return True

    def post(self, event: Event, reason: str = "") -> None:
        """Something has happened; ``reason`` is one line. Of several of one event the first's counts."""
        with self._room:
            if event in self._events:
                self.coalesced += 1
            else:
                self._events[event] = reason
            self._wakeup.wake()

    def call(self, function: Callable[[], Result]) -> Future[Result]:
        """Have the main thread run it. Raises PlugmeterError when too many wait, or the end has come."""
        future: Future[Result] = Future()
        with self._room:
            if self._closed or len(self._calls) >= MOST_CALLS:
                self.refused += 1
                raise PlugmeterError("the daemon is busy; ask again later")
            self._calls.append(Call(function, future))
            self._wakeup.wake()
        return future

    def take(self) -> Taken:
        """Everything that is there, and it is empty."""
        with self._room:
            self._wakeup.lower()
            taken = Taken(tuple(self._signals), tuple(self._events.items()), tuple(self._calls))
            self._signals.clear()
            self._events.clear()
            self._calls.clear()
            self._room.notify_all()
            return taken

    def close(self) -> None:
        """Nobody will look any more: calls that wait are cancelled."""
        with self._room:
            calls = tuple(self._calls)
            self._calls.clear()
            self._closed = True
            self._wakeup.close()
            self._room.notify_all()
        for call in calls:
            call.future.cancel()
