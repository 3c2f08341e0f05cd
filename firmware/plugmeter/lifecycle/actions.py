"""What the conductor wants of the daemon: an object with these methods, all called in the main thread."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from plugmeter.lifecycle.deadline import Work
from plugmeter.lifecycle.stages import Event
from plugmeter.progress import Progress


@dataclass(frozen=True, slots=True)
class Timing:
    """How long things may take, in seconds; the first three are keys of [lifecycle]."""

    start_s: float
    drain_s: float
    """Before ``drains`` makes it longer."""
    stop_cap_s: float
    """Terminating and draining together, extensions and all."""
    intake_s: float = 5.0
    """Until the intake has ended: a run ends a second after it is told, with its report."""


@dataclass(frozen=True, slots=True)
class Ending:
    """How it came to the end, for the last action."""

    cause: Event
    """What began the stop."""
    reason: str
    """The same in one line."""
    forced: bool
    drained: bool
    """Whether nothing was left; otherwise the rest is pending on disk."""
    failed: bool
    goodbye_s: float
    """How long saying goodbye to the broker may take: 0 where the time has run out, or was cut short."""


class Actions(Protocol):
    """The stages' entry actions and exit conditions (``stages.STAGES``), and what is done in all stages.

    They return soon: nothing else happens meanwhile. An exception is a defect: logged with its traceback, and
    the end of the daemon's work; only ``start``, ``ready`` and ``reload`` may raise PlugmeterError. A stop
    may begin at any time, so ``end_intake``, ``flush_and_publish`` and ``say_goodbye`` have to cope with a
    start that was not finished, and ``say_goodbye`` with that those two were left out (``Ending.forced``).
    """

    def start(self) -> Iterator[str]:
        """Bring everything up: a generator that yields what it is going to do next ("opening the outbox").
        Signals are looked at between two steps. Raises PlugmeterError for what the user can mend."""
        ...

    def ready(self) -> bool:
        """After the last step of ``start``, every 10 ms: whether all is up that comes up by itself. Raises
        PlugmeterError where it never will be."""
        ...

    def reload(self) -> None:
        """Validate the new configuration, and only then put it into effect. PlugmeterError: the old one
        stays."""
        ...

    def end_intake(self) -> None:
        """Begin to take nothing new: the rig stops, the witnesses read what the kernel holds, then close."""
        ...

    def intake(self) -> Sequence[Work]:
        """What is left of that, at least every 10 ms. Nothing, or items all 0: the intake has ended."""
        ...

    def flush_and_publish(self, ends_ns: int, cap_ns: int) -> None:
        """Begin to get out what is there. CLOCK_MONOTONIC: it ends at ``ends_ns``, or later while it goes on
        well, but never after ``cap_ns``."""
        ...

    def backlog(self) -> Sequence[Work]:
        """What is left of that, at least every 10 ms and after each ``wake()``. Without a broker there is
        nothing to wait for: ()."""
        ...

    def say_goodbye(self, ending: Ending) -> None:
        """Close everything, the outbox last. Always called, once."""
        ...

    def tick(self) -> None:
        """Once a second, in all stages but the last."""
        ...

    def status(self) -> str:
        """While running: a line for ``systemctl status``."""
        ...

    def workers(self) -> Iterable[Progress]:
        """While running: those that have to move, or the watchdog is not fed."""
        ...
