"""A rig without hardware: drives the sense lines, and puts the sticks' uevents on the kernel's broadcast.

What happens between a level and its uevents follows drivers/usb/core/hub.c: a port that opens loses its
device at once, however briefly; a port that closes gets one when it has been stable for the debounce.
So bounces at a plug or a pull make one add or one remove, and a dip makes a remove and an add.
"""

from __future__ import annotations

import heapq
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from plugmeter.errors import RigError, UsageError
from plugmeter.records import Driven, Truth
from plugmeter.rigs.injection import Injector
from plugmeter.rigs.numbering import Numbering
from plugmeter.rigs.sequence import SequencePlan, Step, plan
from plugmeter.rigs.stick import Attachment, KernelUevent, Stick, plug_events, pull_events
from plugmeter.rigs.udevd import UdevdStandIn
from plugmeter.rigs.world import World

_MS = 1_000_000
_STOP_WITHIN_S = 1.0
_LONGEST_HANDOFF = 4096


@dataclass(frozen=True, slots=True)
class Lateness:
    """How far behind its plan the rig drove: over ``steps`` plugs and pulls."""

    steps: int
    mean_us: float
    max_us: float


class _Port:
    """One port: the rest of its plan, its level, and what is in it."""

    __slots__ = ("accepted", "attached", "changes", "leaving", "name", "rose_ns", "steps", "stick")

    def __init__(self, name: str, steps: Iterator[Step]) -> None:
        self.name = name
        self.steps = steps
        self.rose_ns: int | None = None
        """When its level last rose; None while it is low."""
        self.changes = 0
        self.accepted = 0
        """The change after which the debounce was passed, though the level has fallen since."""
        self.stick = Stick(0)
        self.attached: Attachment | None = None
        self.leaving = False


class InjectedRig:
    """Plays ``sequence`` on a thread of its own.

    ``drive(port, high)`` sets the level of a port's sense line (see ``lines``); it is called on the
    rig's thread. Uevents go out by ``injector``, ``world`` shows the devices, ``udevd`` hands on to
    udev's group. The rig starts and stops ``udevd``, and closes all three with itself.

    ``connect_delay_ms`` is from the last change of a level to the add (debounce and enumeration),
    ``disconnect_delay_ms`` from a fall to the remove. A level that has lasted for ``debounce_ms`` is
    enumerated even when it falls before the add is due: the remove then follows the add. A step that
    comes late moves the later ones of its port, so that the gaps stay what the plan promises. With
    ``die_after_steps`` it fails on purpose.

    ``read`` must go on while it runs: what it drove is handed over by a queue of ``handoff`` places,
    and the rig waits while that is full.
    """

    def __init__(
        self,
        sequence: SequencePlan,
        world: World,
        drive: Callable[[str, bool], None],
        injector: Injector,
        udevd: UdevdStandIn | None = None,
        *,
        connect_delay_ms: float = 110.0,
        disconnect_delay_ms: float = 4.0,
        debounce_ms: float = 100.0,
        die_after_steps: int | None = None,
        handoff: int = _LONGEST_HANDOFF,
    ) -> None:
        if not 0 <= disconnect_delay_ms < debounce_ms <= connect_delay_ms:
            raise UsageError(
                f"the delay of an add ({connect_delay_ms:g} ms) must be at least the debounce "
                f"({debounce_ms:g} ms), and longer than that of a remove ({disconnect_delay_ms:g} ms)"
            )
        self._sequence = sequence
        self._world = world
        self._drive = drive
        self._injector = injector
        self._udevd = udevd
        self._connect_delay_ms = connect_delay_ms
        self._disconnect_delay_ms = disconnect_delay_ms
        self._connect_delay_ns = round(connect_delay_ms * _MS)
        self._disconnect_delay_ns = round(disconnect_delay_ms * _MS)
        self._debounce_ns = round(debounce_ms * _MS)
        self._die_after_steps = die_after_steps
        self._handoff = handoff
        steps = plan(sequence)
        self._total = len(steps)
        by_port: dict[str, list[Step]] = {port: [] for port in sequence.ports}
        for step in steps:
            by_port[step.port].append(step)
        self._ports = [_Port(name, iter(own)) for name, own in by_port.items()]
        self._numbering = Numbering()
        self._agenda: list[tuple[int, int, Callable[[int], None]]] = []
        self._entered = 0
        self._origin_ns = 0
        self._emitted_before = injector.emitted

        self._driven: deque[Driven] = deque()
        self._room = threading.Condition()
        self._stopping = threading.Event()
        self._done = 0
        self._late_sum_ns = 0
        self._late_max_ns = 0
        self._failure: str | None = None
        self._over = False
        self._thread = threading.Thread(target=self._run, name="injected-rig", daemon=True)

    @property
    def name(self) -> str:
        return "injected"

    @property
    def truth(self) -> Truth:
        return "simulated"

    @property
    def ports(self) -> tuple[str, ...]:
        return self._sequence.ports

    @property
    def finished(self) -> bool:
        return self._over

    @property
    def failure(self) -> str | None:
        if self._failure is None and self._udevd is not None:
            return self._udevd.failure
        return self._failure

    @property
    def emitted(self) -> int | None:
        return self._injector.emitted - self._emitted_before

    @property
    def plan(self) -> dict[str, int | float | str]:
        sequence = self._sequence
        parameters: dict[str, int | float | str] = {
            "sticks": sequence.sticks,
            "cycles": sequence.cycles,
            "ports": len(sequence.ports),
            "gap_ms": sequence.gap_ms,
            "jitter_ms": sequence.jitter_ms,
            "seed": sequence.seed,
            "bounce": sequence.bounce,
            "connect_delay_ms": self._connect_delay_ms,
            "disconnect_delay_ms": self._disconnect_delay_ms,
            "debounce_ms": self._debounce_ns / _MS,
        }
        if sequence.density_per_s is not None:
            parameters["density_per_s"] = sequence.density_per_s
        return parameters

    @property
    def lateness(self) -> Lateness:
        """How well it has kept to its plan so far."""
        return Lateness(self._done, self._late_sum_ns / max(1, self._done) / 1e3, self._late_max_ns / 1e3)

    def start(self) -> None:
        if self._thread.ident is not None:
            raise RigError("a rig starts only once")
        if self._udevd is not None:
            self._udevd.start()
        self._thread.start()

    def read(self) -> Sequence[Driven]:
        with self._room:
            driven = list(self._driven)
            self._driven.clear()
            self._room.notify()
        return driven

    def progress(self) -> tuple[int, int]:
        return self._done, self._total

    def stop(self) -> None:
        self._stopping.set()
        with self._room:
            self._room.notify()
        if self._thread.is_alive():
            self._thread.join(_STOP_WITHIN_S)
        self._over = True
        if self._udevd is not None:
            self._udevd.stop()

    def close(self) -> None:
        self.stop()
        if self._udevd is not None:
            self._udevd.close()
        self._injector.close()
        self._world.close()

    # From here on everything runs on the rig's own thread.

    def _run(self) -> None:
        failure: str | None = "the rig died of a defect of its own: see the traceback"
        try:
            self._play()
            failure = None
        except (OSError, RigError) as error:
            failure = f"the rig died after {self._done} of {self._total} steps: {error}".replace("\n", " ")
        finally:
            self._failure = failure
            self._over = True

    def _play(self) -> None:
        self._origin_ns = time.monotonic_ns()
        for port in self._ports:
            self._next_step(port, 0)
        while self._agenda:
            due_ns, _, act = self._agenda[0]
            wait_ns = due_ns - time.monotonic_ns()
            if self._stopping.wait(max(0, wait_ns) / 1e9):
                return
            if time.monotonic_ns() >= due_ns:
                heapq.heappop(self._agenda)
                act(due_ns)

    def _at(self, due_ns: int, act: Callable[[int], None]) -> None:
        self._entered += 1
        heapq.heappush(self._agenda, (due_ns, self._entered, act))

    def _next_step(self, port: _Port, not_before_ns: int) -> None:
        step = next(port.steps, None)
        if step is not None:
            due_ns = max(self._origin_ns + step.t_offset_ns, not_before_ns)
            self._at(due_ns, partial(self._step, port, step))

    def _step(self, port: _Port, step: Step, due_ns: int) -> None:
        if self._done == self._die_after_steps:
            raise RigError("it was told to die here")
        port.stick = Stick(step.stick)
        driven_ns = self._change(port, step.plugged)
        if driven_ns is None:
            return
        late_ns = driven_ns - (self._origin_ns + step.t_offset_ns)
        self._late_sum_ns += late_ns
        self._late_max_ns = max(self._late_max_ns, late_ns)
        self._done += 1
        for offset_ns, high in step.pulses:
            self._at(driven_ns + offset_ns, partial(self._pulse, port, high))
        floor_ns = self._sequence.hold_floor_ns if step.plugged else self._sequence.rest_floor_ns
        self._next_step(port, driven_ns + floor_ns)

    def _pulse(self, port: _Port, high: bool, due_ns: int) -> None:
        self._change(port, high)

    def _change(self, port: _Port, high: bool) -> int | None:
        """Drive a level, and plan what the kernel makes of it. None when the rig was stopped instead."""
        with self._room:
            while len(self._driven) >= self._handoff and not self._stopping.is_set():
                self._room.wait()
            if self._stopping.is_set():
                return None
            t_ns = time.monotonic_ns()
            self._driven.append(Driven(t_ns, port.name, high))
        self._drive(port.name, high)
        if high:
            port.changes += 1
            port.rose_ns = t_ns
            self._at(t_ns + self._connect_delay_ns, partial(self._connect, port, port.changes))
        else:
            self._fall(port, t_ns)
        return t_ns

    def _fall(self, port: _Port, t_ns: int) -> None:
        gone_ns = t_ns + self._disconnect_delay_ns
        rose_ns, port.rose_ns = port.rose_ns, None
        if port.leaving:
            pass  # a bounce of the same pull
        elif port.attached is not None:
            port.leaving = True
            self._at(gone_ns, partial(self._disconnect, port))
        elif rose_ns is not None and t_ns - rose_ns >= self._debounce_ns:
            port.accepted = port.changes
            port.leaving = True
            added_ns = rose_ns + self._connect_delay_ns
            self._at(max(gone_ns, added_ns + self._disconnect_delay_ns), partial(self._disconnect, port))
        port.changes += 1

    def _connect(self, port: _Port, changes: int, due_ns: int) -> None:
        if changes not in (port.changes, port.accepted):
            return  # the level changed meanwhile: the debounce begins anew
        attached = self._numbering.attach(port.stick, port.name)
        port.attached = attached
        for event in plug_events(attached):
            self._appear(event, attached)
            self._injector.inject(event.payload)

    def _appear(self, event: KernelUevent, attached: Attachment) -> None:
        """As device_add does before its uevent: sysfs first, then the node."""
        if event.action != "add":
            return
        if event.is_usb_device:
            self._world.add_device(attached)
        if event.node:
            self._world.create_node(event.node)

    def _disconnect(self, port: _Port, due_ns: int) -> None:
        attached = port.attached
        if attached is None:
            raise RigError(f"port {port.name} has nothing to remove")
        for event in pull_events(attached):
            # As in device_del: the node goes before the uevent, sysfs after it.
            if event.node and event.action == "remove":
                self._world.delete_node(event.node)
            self._injector.inject(event.payload)
        self._world.remove_device(port.name)
        self._numbering.detach(attached)
        port.attached = None
        port.leaving = False
