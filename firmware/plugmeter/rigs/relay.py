"""The rig relay: gpiozero outputs switch the VBUS of real ports; the sticks stay where they are.

What a relay did is sensed by the witness gpio on lines of its own; this rig only drives.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from gpiozero import Factory, GPIOPinInUse, GPIOZeroError, OutputDevice

from plugmeter.errors import PlugmeterError, RigError, UsageError
from plugmeter.records import Driven, Truth
from plugmeter.rigs.sequence import Step

STOP_S = 0.8


@dataclass(frozen=True, slots=True)
class _Switching:
    """One level to drive; ``steps_done`` is how many steps of the plan are done with it."""

    t_offset_ns: int
    port: str
    on: bool
    steps_done: int


class RelayRig:
    """Switches VBUS by a plan, in a thread of its own.

    ``lines``: port -> the line that drives its relay, as the factory names it. ``active_high``:
    whether a high line switches VBUS on. ``vbus_at_rest``: what every port has before the first step
    and after ``stop``; off unless told otherwise, the safe state for what is plugged. ``close`` makes
    the lines inputs, as gpiozero does: from then on the relay's own pull decides, so wire it to rest in
    the same state. ``truth`` is "gpio" where VBUS itself is sensed. Where it is "simulated" the
    relay's lines are the sense lines' only source, and ``read`` gives the log of what was driven.

    ``plan`` is what the report shows of the plan.

    A step whose time has passed is driven at once. Raises UsageError for a plan or lines that cannot be
    meant, GpioChipError or LineError where the kernel refuses.
    """

    name = "relay"
    emitted: int | None = None
    """A relay cannot know how many uevents the kernel makes of it."""

    def __init__(
        self,
        steps: Sequence[Step],
        lines: Mapping[str, int | str],
        factory: Factory,
        *,
        active_high: bool = True,
        vbus_at_rest: bool = False,
        truth: Truth = "gpio",
        plan: Mapping[str, int | float | str] | None = None,
    ) -> None:
        without = sorted({step.port for step in steps} - set(lines))
        if without:
            raise UsageError(
                f"no relay line for port {without[0]}: name one, or leave the port out of the plan"
            )
        self.truth = truth
        self.ports = tuple(lines)
        self.plan: dict[str, int | float | str] = dict(plan or {})
        self._total = len(steps)
        self._switchings = _switchings(steps)
        self._rest = vbus_at_rest
        self._switches = _open_switches(lines, factory, active_high, vbus_at_rest)
        # Bounded by the plan: a switching adds one record at most.
        self._driven: deque[Driven] = deque()
        self._done = 0
        self._failure: str | None = None
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._stopped = False

    def start(self) -> None:
        """Begin with the plan; its offsets count from now. A rig starts once: RigError otherwise."""
        if self._thread is not None or self._stopped:
            raise RigError("this relay rig was started before; make a new one for each run")
        self._thread = threading.Thread(target=self._run, name="relay rig", daemon=True)
        self._thread.start()

    def read(self) -> Sequence[Driven]:
        """What was driven since the last call, where truth is simulated; always empty where it is gpio."""
        return [self._driven.popleft() for _ in range(len(self._driven))]

    def progress(self) -> tuple[int, int]:
        """Steps that were driven, and steps in the plan."""
        return self._done, self._total

    @property
    def finished(self) -> bool:
        """Whether nothing more will be driven: the plan is done, has failed or was stopped."""
        return self._stopped or (self._thread is not None and not self._thread.is_alive())

    @property
    def failure(self) -> str | None:
        """One line, when the rig died midway."""
        return self._failure

    def stop(self) -> None:
        """Stop where it is and bring every port to rest, within 1 s; idempotent."""
        if self._stopped:
            return
        self._stopped = True
        self._stopping.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(STOP_S)
            if self._thread.is_alive():
                self._failure = self._failure or f"the relay rig did not stop within {STOP_S} s"
        for port, switch in self._switches.items():
            try:
                switch.value = self._rest
            except (GPIOZeroError, PlugmeterError, OSError) as error:
                self._failure = self._failure or f"relay of port {port} is not at rest: {error}"

    def close(self) -> None:
        """Stop, and give the lines back; idempotent."""
        self.stop()
        for switch in self._switches.values():
            switch.close()
        self._switches = {}

    def _run(self) -> None:
        failure: str | None = "the relay rig died of a defect, see the traceback"
        try:
            failure = self._drive_all()
        finally:
            self._failure = self._failure or failure

    def _drive_all(self) -> str | None:
        start_ns = time.monotonic_ns()
        for switching in self._switchings:
            wait_ns = start_ns + switching.t_offset_ns - time.monotonic_ns()
            if self._stopping.wait(max(0, wait_ns) / 1e9):
                return None
            # Before the write, so that it is never later than the edge that comes of it.
            t_ns = time.monotonic_ns()
            try:
                self._switches[switching.port].value = switching.on
            except (GPIOZeroError, PlugmeterError, OSError) as error:
                at = f"after {self._done} of {self._total} steps"
                return f"relay of port {switching.port} failed {at}: {error}"
            if self.truth == "simulated":
                self._driven.append(Driven(t_ns, switching.port, switching.on))
            self._done = switching.steps_done
        return None


def _switchings(steps: Sequence[Step]) -> list[_Switching]:
    """All levels of a plan, pulses and all, in order of time."""
    levels = sorted(
        (step.t_offset_ns + offset_ns, index, place, step.port, on, place == len(step.pulses))
        for index, step in enumerate(steps)
        for place, (offset_ns, on) in enumerate([(0, step.plugged), *step.pulses])
    )
    done = 0
    switchings = []
    for t_offset_ns, _, _, port, on, last in levels:
        done += last
        switchings.append(_Switching(t_offset_ns, port, on, done))
    return switchings


def _open_switches(
    lines: Mapping[str, int | str], factory: Factory, active_high: bool, vbus_at_rest: bool
) -> dict[str, OutputDevice]:
    switches: dict[str, OutputDevice] = {}
    with ExitStack() as undo:
        for port, line in lines.items():
            try:
                switches[port] = OutputDevice(
                    line, active_high=active_high, initial_value=vbus_at_rest, pin_factory=factory
                )
            except PlugmeterError:
                raise
            except GPIOPinInUse:
                raise UsageError(
                    f"port {port}: relay line {line!r} is in use already; one line, one purpose"
                ) from None
            except GPIOZeroError as error:
                raise UsageError(f"port {port}: relay line {line!r} will not do: {error}") from None
            undo.callback(switches[port].close)
        undo.pop_all()
    return switches
