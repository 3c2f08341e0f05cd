"""The rig *gadget*: sticks that the real kernel enumerates, without a stick.

It plugs and pulls mass-storage gadgets on dummy_hcd's ports as a sequence says. Everything after the
plug is the kernel's own: debounce, enumeration, drivers, nodes, uevents. What it cannot give is a VBUS
line; the truth of its runs is its own log, and so simulated.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

from plugmeter.errors import PlugmeterError, UsageError
from plugmeter.records import Driven, Truth
from plugmeter.rigs.dummy_hcd import DummyPorts
from plugmeter.rigs.sequence import Step

Sequencer = Callable[[tuple[str, ...]], Sequence[Step]]
Drive = Callable[[str, bool], None]


class GadgetRig:
    """Plays a sequence on ``port_count`` ports of its own (1 to 32).

    ``sequence`` is given the ports' names, which only the kernel knows, and returns the steps in the
    order of their times. A stick wants to stay plugged, and away, for longer than the kernel takes to see
    it: 100 ms of debounce and then the enumeration, together some 370 ms in an emulated guest.

    ``drive`` is told of each change just before it is made, as VBUS comes before the data lines do.
    Raises RigError or UsageError in one line where the rig cannot be had.

    A step that comes late (each costs the kernel some ms) moves all that follow: the gaps
    are never shorter than planned, the run gets longer, and ``slip_ns`` says by how much.
    """

    name = "gadget"
    truth: Truth = "simulated"
    emitted: int | None = None
    """None: it is the kernel that emits, and how many is not ours to know."""

    def __init__(self, port_count: int, sequence: Sequencer, drive: Drive | None = None) -> None:
        self._hardware = DummyPorts(port_count)
        self.ports: tuple[str, ...] = self._hardware.ports
        try:
            self._steps = tuple(sequence(self.ports))
            check_steps(self._steps, self.ports)
        except BaseException:
            self._hardware.close()
            raise
        self._drive = drive
        # At most one entry a step: the plan bounds it.
        self._log: deque[Driven] = deque()
        self._done = 0
        self._slip_ns = 0
        self._failure: str | None = None
        self._over = threading.Event()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def finished(self) -> bool:
        """Whether nothing will be plugged or pulled any more: done, stopped or failed."""
        return self._over.is_set()

    @property
    def failure(self) -> str | None:
        """One line where the rig died midway: the run is INVALID."""
        return self._failure

    @property
    def slip_ns(self) -> int:
        """How much later than planned the last step was."""
        return self._slip_ns

    @property
    def plan(self) -> dict[str, int | float | str]:
        """The rig's parameters for the report."""
        return {"ports": len(self.ports), "steps": len(self._steps)}

    def progress(self) -> tuple[int, int]:
        """Steps done and steps planned."""
        return self._done, len(self._steps)

    def start(self) -> None:
        """Begin with the sequence, on a thread of the rig's own. Once."""
        if self._thread is not None:
            raise RuntimeError("a rig starts once")
        self._thread = threading.Thread(target=self._play, name="rig-gadget", daemon=True)
        self._thread.start()

    def read(self) -> Sequence[Driven]:
        """What was plugged and pulled since the last call, oldest first."""
        return [self._log.popleft() for _ in range(len(self._log))]

    def stop(self) -> None:
        """Plug and pull nothing more; what is plugged stays so until ``close``. Returns within about 1 s."""
        self._stop.set()
        if self._thread is None:
            self._over.set()
        else:
            self._thread.join(timeout=1.0)

    def close(self) -> None:
        """Stop, pull everything and give ports, gadgets and modules back. A second call does nothing."""
        self.stop()
        if self._thread is not None:
            # The kernel takes as long as it takes to bind; a gadget must not be removed under it.
            self._thread.join()
        self._hardware.close()

    def _play(self) -> None:
        try:
            self._play_steps()
        except (OSError, PlugmeterError) as error:
            self._failure = f"rig gadget: died at step {self._done + 1} of {len(self._steps)}: {error}"
        finally:
            # A defect of ours ends the thread with its traceback; the run must not pass for a good one.
            if self._done < len(self._steps) and not self._stop.is_set() and self._failure is None:
                self._failure = f"rig gadget: died at step {self._done + 1} of {len(self._steps)}"
            self._over.set()

    def _play_steps(self) -> None:
        began_ns = time.monotonic_ns()
        for step in self._steps:
            due_ns = began_ns + step.t_offset_ns + self._slip_ns
            # A timed wait returns early at most by its rounding; again until it is due.
            while (left_ns := due_ns - time.monotonic_ns()) > 0:
                if self._stop.wait(left_ns / 1e9):
                    return
            if self._stop.is_set():
                return
            now_ns = time.monotonic_ns()
            self._slip_ns += now_ns - due_ns
            if self._drive is not None:
                self._drive(step.port, step.plugged)
            self._log.append(Driven(now_ns, step.port, step.plugged))
            if step.plugged:
                self._hardware.plug(step.port, step.stick)
            else:
                self._hardware.pull(step.port)
            self._done += 1


def check_steps(steps: Sequence[Step], ports: Sequence[str]) -> None:
    """Refuse steps that cannot be played: unknown port, time going back, plug into a full port, a bounce."""
    plugged = dict.fromkeys(ports, False)
    last_ns = 0
    for number, step in enumerate(steps, 1):
        if step.port not in plugged:
            raise UsageError(
                f"rig gadget: step {number} names port {step.port}; there are {', '.join(ports)}"
            )
        if step.pulses:
            raise UsageError("rig gadget: its sticks cannot bounce; ask for bounce none, or --rig injected")
        if step.t_offset_ns < last_ns:
            raise UsageError(f"rig gadget: step {number} is earlier than the one before it")
        if step.plugged == plugged[step.port]:
            state = "already plugged" if step.plugged else "not plugged"
            raise UsageError(f"rig gadget: step {number}: port {step.port} is {state}")
        plugged[step.port], last_ns = step.plugged, step.t_offset_ns
