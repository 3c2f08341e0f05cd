"""The witness gpio: every transition of the lines that sense VBUS, the ground truth of a real run.

The API is gpiozero's, so any of its pin factories will do. Only ``GpiodFactory`` gives the kernel's
time stamps and numbers, without which no certificate can be had; with any other (lgpio, the mock)
an edge is stamped in gpiozero's callback and its ``line_seqno`` is 0.
"""

from __future__ import annotations

import select
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Protocol

from gpiozero import Factory, GPIOPinInUse, GPIOZeroError, InputDevice, Pin

from plugmeter.errors import PlugmeterError, UsageError
from plugmeter.records import Edge, Gap, Level, LineAccount, Tally, WitnessName
from plugmeter.witnesses.edge_handoff import EdgeHandoff
from plugmeter.witnesses.gpiod_pin import CONSUMER, CONSUMER_MAX_BYTES, GpiodPin
from plugmeter.witnesses.interrupts import read_interrupts
from plugmeter.witnesses.line_tracker import LineTracker

HANDOFF_EDGES = 65_536
_ARMING_TRIES = 8
_SETTLE_S = 0.01


@dataclass(frozen=True, slots=True)
class SenseLine:
    """A port and the gpiozero device that senses its VBUS."""

    port: str
    device: InputDevice

    @property
    def pin(self) -> Pin:
        """The device's pin."""
        return self.device.pin


class _Lines(Protocol):
    """Where the edges come from: straight out of the kernel, or from a pin factory's callbacks."""

    kernel_numbers: bool

    def fileno(self) -> int: ...

    def read(self) -> list[Edge | Gap]: ...

    def offered(self) -> int: ...

    def pending(self) -> int: ...

    def interrupts(self) -> dict[str, int | None]: ...

    def close(self) -> None: ...


class GpioWitness:
    """Edges of the sense lines, one a port, from the moment that this object exists.

    ``lines``: port -> line as the factory names it (3, "GPIO3"). ``pull_up``: True, False, or None
    for no pull. ``active_high``: whether a high line means that VBUS is there; ``Edge.rising`` and
    ``Level.high`` are about VBUS. ``handoff_edges`` bounds the queue that callbacks fill.

    The order: edges of one port are in the kernel's order; those of several ports are in order of
    time within one ``read``. Raises UsageError for lines that cannot be meant, GpioChipError or
    LineError where the kernel refuses. The factory stays the caller's to close.
    """

    def __init__(
        self,
        lines: Mapping[str, int | str],
        factory: Factory,
        pull_up: bool | None = None,
        active_high: bool = True,
        *,
        handoff_edges: int = HANDOFF_EDGES,
    ) -> None:
        if not lines:
            raise UsageError("no sense line: name a GPIO line for at least one port")
        self._factory = type(factory).__name__
        self._active_high = active_high
        self._closed = False
        self._last_accounts: tuple[LineAccount, ...] = ()
        self._backlog: list[Edge | Gap] = []
        self._sense = _open_devices(lines, factory, pull_up)
        pins = {line.port: line.pin for line in self._sense if isinstance(line.pin, GpiodPin)}
        self._lines: _Lines
        with ExitStack() as undo:
            undo.callback(_close_devices, self._sense)
            if len(pins) == len(self._sense):
                self._lines = _KernelLines(pins, active_high)
            else:
                self._lines = _CallbackLines(self._sense, active_high, handoff_edges)
            undo.pop_all()

    @property
    def name(self) -> WitnessName:
        """gpio."""
        return "gpio"

    @property
    def kernel_numbers(self) -> bool:
        """Whether edges carry the kernel's time and number."""
        return self._lines.kernel_numbers

    def fileno(self) -> int:
        """An epoll of all lines, or the callbacks' eventfd; polls readable when there are edges."""
        return self._lines.fileno()

    def read(self) -> Sequence[Edge | Gap]:
        """All edges that wait, and the gaps between them, in order of time; never blocks."""
        backlog, self._backlog = self._backlog, []
        return backlog if self._closed else backlog + self._lines.read()

    def levels(self, reason: str) -> tuple[Level, ...]:
        """The VBUS of every port as its line reads now; ``reason`` (start, end) is for the error only.

        The time is taken just before the line is read. An edge between the two is in the level and
        comes later: read edges, levels and edges again, and where the second reading is empty they agree.
        Raises PlugmeterError where a line cannot be read.
        """
        if self._closed:
            raise PlugmeterError(f"cannot read levels at the {reason}: the witness gpio is closed")
        levels = []
        for line in self._sense:
            t_ns = time.monotonic_ns()
            try:
                high = bool(line.pin.state)
            except (GPIOZeroError, OSError) as error:
                raise PlugmeterError(
                    f"cannot read the level of port {line.port} at the {reason}: {error}"
                ) from None
            levels.append(Level(t_ns, line.port, high == self._active_high))
        return tuple(levels)

    def accounts(self) -> tuple[LineAccount, ...]:
        """Each line's account, for a run's end: call it after the last ``read``, before ``close``.

        ``interrupts`` counts the line's hard interrupts since this witness armed it. An edge on its
        way between interrupt and fifo makes that one more than the edges: let the lines rest first.
        """
        if self._closed:
            return self._last_accounts
        counts = self._lines.interrupts()
        t_ns = time.monotonic_ns()
        return tuple(
            LineAccount(t_ns, line.port, self._factory, self.kernel_numbers, counts.get(line.port))
            for line in self._sense
        )

    def held_since_ns(self) -> int | None:
        """None: each ``read`` takes all edges that wait, and those that come later are stamped later."""
        return None

    def tally(self) -> Tally:
        """Offered: the kernel's own count of the lines' events, as far as they were read."""
        pending = self._lines.pending() + _weight(self._backlog)
        return Tally(time.monotonic_ns(), "gpio", self._lines.offered(), pending)

    def close(self) -> None:
        """Give the lines back. What the kernel still held is kept for one more ``read``; idempotent."""
        if self._closed:
            return
        self._last_accounts = self.accounts()
        self._backlog += self._lines.read()
        self._closed = True
        self._lines.close()
        _close_devices(self._sense)


def _open_devices(
    lines: Mapping[str, int | str], factory: Factory, pull_up: bool | None
) -> tuple[SenseLine, ...]:
    # What "active" means is ours to say: with a pull, gpiozero would not let us choose.
    active = True if pull_up is None else None
    sense: list[SenseLine] = []
    with ExitStack() as undo:
        for port, line in lines.items():
            try:
                device = InputDevice(line, pull_up=pull_up, active_state=active, pin_factory=factory)
            except PlugmeterError:
                raise
            except GPIOPinInUse:
                raise UsageError(
                    f"port {port}: GPIO line {line!r} is in use already; one line, one port"
                ) from None
            except GPIOZeroError as error:
                raise UsageError(f"port {port}: GPIO line {line!r} will not do: {error}") from None
            undo.callback(device.close)
            sense.append(SenseLine(port, device))
        undo.pop_all()
    return tuple(sense)


def _weight(records: Sequence[Edge | Gap]) -> int:
    """How many events these records stand for."""
    return sum(1 if isinstance(record, Edge) else record.count or 0 for record in records)


def _close_devices(sense: Sequence[SenseLine]) -> None:
    for line in sense:
        line.device.close()


class _KernelLine:
    """One line of a ``GpiodFactory``, with its label in the kernel and what is known at its start."""

    def __init__(self, port: str, pin: GpiodPin, label: str, active_high: bool) -> None:
        self.port = port
        self.pin = pin
        self.label = label
        self.interrupts_before: int | None = None
        self.gone = False
        self._active_high = active_high
        self.tracker = LineTracker(port, 0, active_high)

    def arm(self) -> None:
        """Begin: edges are numbered from 1, and none of before."""
        since_ns = time.monotonic_ns()
        self.pin.capture(self.label)
        self.tracker = LineTracker(self.port, since_ns, self._active_high)

    def read(self) -> list[Edge | Gap]:
        return self.tracker.take(self.pin.read_edges())


class _KernelLines:
    """Lines of a ``GpiodFactory``, read by whoever polls ``fileno``.

    The kernel's fifo, 1,024 events a line, is the only queue; no thread is in between.
    """

    kernel_numbers = True

    def __init__(self, pins: Mapping[str, GpiodPin], active_high: bool) -> None:
        self._first: list[Edge | Gap] = []
        self._lines = [_KernelLine(port, pin, _label(port, pin), active_high) for port, pin in pins.items()]
        self._arm()
        self._epoll = select.epoll()
        for line in self._lines:
            self._epoll.register(line.pin.fileno(), select.EPOLLIN)

    def _arm(self) -> None:
        """Take the lines' events, and their interrupt counts at a moment when there were none yet.

        A line that has an edge meanwhile could have it on either side of the count: it begins anew.
        Of one that does not rest, the edges are kept and the count stays unknown: no certificate then.
        """
        noisy = self._lines
        for _ in range(_ARMING_TRIES):
            for line in noisy:
                line.arm()
            before = _interrupts_of(noisy)
            time.sleep(_SETTLE_S)
            after = _interrupts_of(noisy)
            early = [line.read() for line in noisy]
            quiet = [
                not events and before[line.port] == after[line.port]
                for line, events in zip(noisy, early, strict=True)
            ]
            for line, is_quiet in zip(noisy, quiet, strict=True):
                line.interrupts_before = before[line.port] if is_quiet else None
            self._first = [record for events in early for record in events]
            noisy = [line for line, is_quiet in zip(noisy, quiet, strict=True) if not is_quiet]
            if not noisy:
                break

    def fileno(self) -> int:
        return self._epoll.fileno()

    def read(self) -> list[Edge | Gap]:
        records, self._first = self._first, []
        for line in self._lines:
            if line.gone:
                continue
            try:
                records += line.read()
            except PlugmeterError:
                # The chip was pulled out: what came after the last edge nobody can know.
                now_ns = time.monotonic_ns()
                records.append(Gap(now_ns, "gpio", "gpio_line_gone", None, now_ns))
                self._epoll.unregister(line.pin.fileno())
                line.gone = True
        records.sort(key=lambda record: record.t_ns)  # stable: a gap stays before its edge
        return records

    def offered(self) -> int:
        return sum(line.tracker.last_seqno for line in self._lines)

    def pending(self) -> int:
        return _weight(self._first)

    def interrupts(self) -> dict[str, int | None]:
        now = _interrupts_of(self._lines)
        return {
            line.port: None if (after := now[line.port]) is None else after - line.interrupts_before
            for line in self._lines
            if line.interrupts_before is not None
        }

    def close(self) -> None:
        self._epoll.close()


def _label(port: str, pin: GpiodPin) -> str:
    """The consumer label by which a line and its interrupt are known: unique, and short enough to stay so."""
    label = f"{CONSUMER}:{port}"
    fits = len(label.encode()) <= CONSUMER_MAX_BYTES and not any(c.isspace() or c == "," for c in port)
    return label if fits else f"{CONSUMER}:{pin!r}"


def _interrupts_of(lines: Sequence[_KernelLine]) -> dict[str, int | None]:
    interrupts = read_interrupts()
    return {line.port: None if interrupts is None else interrupts.count_for(line.label) for line in lines}


@dataclass(slots=True, weakref_slot=True)
class _CallbackLine:
    """What gpiozero calls. It keeps only a weak reference to the method, so the witness keeps this object."""

    port: str
    handoff: EdgeHandoff
    active_high: bool

    def changed(self, ticks: object, state: float) -> None:
        self.handoff.put(self.port, bool(state) == self.active_high)


class _CallbackLines:
    """Lines of any other factory: ``Pin.when_changed`` fills a bounded queue.

    The pin's callback is used and not the device's: gpiozero's devices swallow an event that has the
    state of the one before, which is just what a lost edge looks like.
    """

    kernel_numbers = False

    def __init__(self, sense: Sequence[SenseLine], active_high: bool, capacity: int) -> None:
        self._handoff = EdgeHandoff(capacity)
        self._sense = sense
        self._callbacks = [_CallbackLine(line.port, self._handoff, active_high) for line in sense]
        try:
            for line, callback in zip(sense, self._callbacks, strict=True):
                line.pin.bounce = None
                line.pin.edges = "both"
                line.pin.when_changed = callback.changed
        except GPIOZeroError as error:
            self._handoff.close()
            raise UsageError(f"port {line.port}: the pin factory cannot see edges: {error}") from None

    def fileno(self) -> int:
        return self._handoff.fileno()

    def read(self) -> list[Edge | Gap]:
        return self._handoff.take()

    def offered(self) -> int:
        return self._handoff.offered

    def pending(self) -> int:
        return self._handoff.pending()

    def interrupts(self) -> dict[str, int | None]:
        return {}

    def close(self) -> None:
        for line in self._sense:
            line.pin.when_changed = None
        self._handoff.close()
