"""A gpiozero pin on libgpiod 2: one line of a chip, with all that the kernel says of its edges.

A pin holds a line request of its own, made when something is first asked of the line: making a pin
touches nothing, so an output that is on stays on until told otherwise. ``close`` makes the line an
input and gives it back, as gpiozero's other pins do.
"""

from __future__ import annotations

from dataclasses import replace
from threading import RLock

import gpiod
from gpiod.line import Edge, Value
from gpiozero import (
    PinFixedPull,
    PinInvalidBounce,
    PinInvalidEdges,
    PinInvalidFunction,
    PinInvalidPull,
    PinInvalidState,
    PinSetInput,
)
from gpiozero.pins import PinInfo
from gpiozero.pins.local import LocalPiFactory, LocalPiPin

from plugmeter.witnesses.gpiod_chip import LIBGPIOD_ERRORS, LineError, NoSuchLineError
from plugmeter.witnesses.gpiod_lines import ChipLines
from plugmeter.witnesses.gpiod_settings import BIAS, EDGES, LineSetup, line_value
from plugmeter.witnesses.gpiod_thread import EventThread
from plugmeter.witnesses.line_tracker import KernelEdge

CONSUMER = "plugmeter"
CONSUMER_MAX_BYTES = 31  # GPIO_MAX_NAME_SIZE without its NUL
_READS_AT_ONCE = 4  # full buffers that one read_edges takes before it lets others have a turn


class GpiodPin(LocalPiPin):  # type: ignore[misc]  # gpiozero has no types
    """One line. On top of gpiozero's ``Pin``: ``capture``, ``fileno``, ``read_edges`` and the counters."""

    def __init__(self, factory: LocalPiFactory, info: PinInfo, lines: ChipLines, events: EventThread) -> None:
        super().__init__(factory, info)
        if self._number >= lines.count:
            raise NoSuchLineError(f"{info.name} is not on {lines.path}, which has {lines.count} lines")
        self._lines = lines
        self._events = events
        self._lock = RLock()
        self._request: gpiod.LineRequest | None = None
        self._captured = False
        self._consumer = CONSUMER
        self._setup = self._initial()
        self.line_seqno = 0
        """The number of the last event that was read from the present request."""
        self.events_lost = 0
        """Events of the present request that the kernel's fifo dropped, by the jumps of their numbers."""

    def _initial(self) -> LineSetup:
        return LineSetup(pull=self.info.pull or "floating")

    def close(self) -> None:
        """Make the line an input without events and give it back; the pin may be used again."""
        # Before taking the lock: setting when_changed takes gpiozero's own lock first and then ours.
        self.when_changed = None
        with self._lock:
            try:
                if self._request is not None and self._setup.function == "output":
                    self._configure(replace(self._setup, function="input", pull=self._initial().pull))
            except LineError:
                pass  # the chip is gone, and the line with it: there is nothing left to reset
            finally:
                self._release()
                self._setup = self._initial()
                self._consumer = CONSUMER

    # The line and its setup

    def _configure(self, setup: LineSetup, level: bool = False) -> None:
        """Make the line what ``setup`` says, by a request or by changing the one there is."""
        settings = setup.settings(level)
        if self._request is None:
            self._take(settings)
        elif settings.edge_detection in (Edge.NONE, self._setup.settings(False).edge_detection):
            self._reconfigure(settings)
        else:
            self._rearm(settings)
        assert self._request is not None, "_take makes it or raises"
        self._setup = setup
        fd = self._request.fd
        if settings.edge_detection is not Edge.NONE and not self._captured:
            self._events.watch(fd, self.read_edges)
        else:
            self._events.forget(fd)

    # Arming comes in twos. A chip may have latched an edge while nobody listened (the PL061 does), and
    # gives it away as a fresh interrupt as soon as somebody does. The first arming takes that one; the
    # kernel ends it only after the handlers are through (free_irq), so the second begins clean.

    def _take(self, settings: gpiod.LineSettings) -> None:
        """Request the line; its events are numbered from 1."""
        if settings.edge_detection is not Edge.NONE:
            self._lines.request(self._number, settings, self._consumer).release()
        self._request = self._lines.request(self._number, settings, self._consumer)
        self.line_seqno = self.events_lost = 0

    def _rearm(self, settings: gpiod.LineSettings) -> None:
        """Change the edges of a line that is held; the numbers go on, what came in between is nobody's."""
        self._reconfigure(settings)
        self._reconfigure(replace(settings, edge_detection=Edge.NONE))
        while events := self._read_events():
            self.line_seqno = events[-1].line_seqno
        self._reconfigure(settings)

    def _reconfigure(self, settings: gpiod.LineSettings) -> None:
        assert self._request is not None, "only a line that is held is changed"
        try:
            self._request.reconfigure_lines({self._number: settings})
        except LIBGPIOD_ERRORS as error:
            raise self._lines.refusal(self._number, error) from None

    def _read_events(self) -> list[gpiod.EdgeEvent]:
        """One buffer full of what waits in the kernel, or nothing."""
        if self._request is None:
            return []
        try:
            return self._request.read_edge_events()
        except BlockingIOError:
            return []
        except LIBGPIOD_ERRORS as error:
            raise self._lines.refusal(self._number, error) from None

    def _change(self, setup: LineSetup) -> None:
        """As ``_configure``, but a line that nobody uses yet is left alone until somebody does."""
        if self._request is None or self._setup.function is None:
            self._setup = setup
        else:
            self._configure(setup, level=setup.function == "output" and self.state)

    def _release(self) -> None:
        self._captured = False
        if self._request is not None:
            self._events.forget(self._request.fd)
            self._request.release()
            self._request = None

    # gpiozero's Pin

    def _get_function(self) -> str:
        with self._lock:
            found = self._setup.function
            if found is None:
                return "output" if self._lines.is_output(self._number) else "input"
            return found

    def _set_function(self, value: str) -> None:
        if value not in ("input", "output"):
            raise PinInvalidFunction(f"invalid function {value!r} for pin {self!r}; it is input or output")
        with self._lock:
            # An output begins with the level that the line has, as the mock factory's does.
            level = value == "output" and self.state
            self._configure(replace(self._setup, function=value), level)

    def output_with_state(self, state: bool) -> None:
        """Make the line an output that drives ``state`` from the first moment."""
        with self._lock:
            self._configure(replace(self._setup, function="output"), bool(state))

    def input_with_pull(self, pull: str) -> None:
        """Make the line an input with this pull from the first moment."""
        with self._lock:
            self._configure(replace(self._setup, function="input", pull=self._checked_pull(pull)))

    def _get_state(self) -> bool:
        with self._lock:
            if self._request is None:
                self._configure(self._setup)
            assert self._request is not None, "_configure makes the request or raises"
            try:
                return self._request.get_value(self._number) is Value.ACTIVE
            except LIBGPIOD_ERRORS as error:
                raise self._lines.refusal(self._number, error) from None

    def _set_state(self, value: float) -> None:
        if not 0 <= value <= 1:
            raise PinInvalidState(f"invalid state {value!r} for pin {self!r}; it is 0 or 1")
        with self._lock:
            if self._setup.function != "output" or self._request is None:
                raise PinSetInput(f"cannot set the state of pin {self!r}; make it an output first")
            try:
                self._request.set_value(self._number, line_value(bool(value)))
            except LIBGPIOD_ERRORS as error:
                raise self._lines.refusal(self._number, error) from None

    def _get_pull(self) -> str:
        return self._setup.pull

    def _set_pull(self, value: str) -> None:
        with self._lock:
            if self.function != "input":
                raise PinFixedPull(f"cannot set the pull of pin {self!r}: it is an output")
            pull = self._checked_pull(value)
            self._configure(replace(self._setup, function="input", pull=pull))

    def _checked_pull(self, value: str) -> str:
        if self.info.pull not in (value, ""):
            raise PinFixedPull(f"pin {self!r} has a resistor that pulls it {self.info.pull}")
        if value not in BIAS:
            raise PinInvalidPull(f"invalid pull {value!r} for pin {self!r}; it is up, down or floating")
        return value

    def _get_bounce(self) -> float | None:
        return self._setup.bounce_s

    def _set_bounce(self, value: float | None) -> None:
        seconds: float | None = None
        if value is not None:
            try:
                seconds = float(value)
            except (TypeError, ValueError):
                raise PinInvalidBounce(f"invalid bounce {value!r} for pin {self!r}; it is seconds") from None
            if not 0 <= seconds <= 4000:  # the kernel counts microseconds in 32 bits
                raise PinInvalidBounce(f"invalid bounce {value!r} for pin {self!r}; it is 0 .. 4000 s")
        with self._lock:
            self._change(replace(self._setup, bounce_s=seconds))

    def _get_edges(self) -> str:
        return self._setup.edges

    def _set_edges(self, value: str) -> None:
        if value not in EDGES:
            choice = ", ".join(EDGES)
            raise PinInvalidEdges(f"invalid edges {value!r} for pin {self!r}; one of {choice}")
        with self._lock:
            self._change(replace(self._setup, edges=value))

    def _enable_event_detect(self) -> None:
        with self._lock:
            setup = replace(self._setup, armed=True)
            if self.function == "input":
                setup = replace(setup, function="input")
            self._configure(setup, level=setup.function == "output" and self.state)

    def _disable_event_detect(self) -> None:
        with self._lock:
            if not self._captured:
                self._change(replace(self._setup, armed=False))

    # What gpiozero throws away

    def capture(self, consumer: str) -> None:
        """From now on this pin's events are its owner's to read, numbered anew from 1.

        The line is given back and requested again at once, as an input, both edges, no debounce,
        under the name ``consumer`` (cut to 31 bytes), which is also what its interrupt is called in
        /proc/interrupts. Raises LineError. ``close`` ends it.
        """
        with self._lock:
            self._release()
            self._captured = True
            self._consumer = consumer.encode()[:CONSUMER_MAX_BYTES].decode(errors="ignore")
            try:
                self._configure(
                    replace(self._setup, function="input", edges="both", bounce_s=None, armed=True)
                )
            finally:
                self._captured = self._request is not None

    def fileno(self) -> int:
        """The descriptor that polls readable while events wait; raises LineError where there is none."""
        with self._lock:
            if self._request is None:
                raise LineError(f"pin {self!r} holds no line; set its function or capture it first")
            return self._request.fd

    def read_edges(self) -> list[KernelEdge]:
        """The events that wait in the kernel, oldest first; never blocks, at most 4 fifos full at once.

        Counts what the fifo dropped and calls ``when_changed`` for each. Raises LineError where the
        line is gone.
        """
        edges: list[KernelEdge] = []
        with self._lock:
            for _ in range(_READS_AT_ONCE):
                events = self._read_events()
                if not events:
                    break
                for event in events:
                    rising = event.event_type is event.Type.RISING_EDGE
                    edges.append(KernelEdge(event.timestamp_ns, rising, event.line_seqno))
            for edge in edges:
                self.events_lost += max(0, edge.line_seqno - self.line_seqno - 1)
                self.line_seqno = edge.line_seqno
        for edge in edges:
            # Without the lock: the callback may close this pin from within.
            if self._when_changed is not None:
                self._call_when_changed(edge.t_ns / 1e9, edge.rising)
        return edges
