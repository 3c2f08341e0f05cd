"""A gpiozero pin factory on libgpiod 2 that keeps what the other factories throw away.

``GPIOZERO_PIN_FACTORY=plugmeter-gpiod`` selects it. Beyond gpiozero's own API a pin gives the
kernel's time stamp and ``line_seqno`` of every edge, a fifo of 1,024 events instead of the kernel's
16, and the number of events that the fifo lost.

Who reads the events, one of two, for each pin:

- the factory's one event thread, as soon as a pin has ``when_changed``: gpiozero's way. It starts
  with the first such pin and ends with ``close``; it is woken by a descriptor, so neither ``close``
  nor the interpreter's exit waits for it.
- a loop of one's own, after ``GpiodPin.capture``: poll ``fileno()``, call ``read_edges()``. No thread
  and no second queue: what waits, waits in the kernel. A ``when_changed`` fires out of ``read_edges``.

Every pin holds a line request of its own, made when something is first asked of the line: making a
pin touches nothing, so an output that is on stays on until told otherwise. ``close`` makes the line
an input and gives it back, as gpiozero's other factories do. The kernel arbitrates between
programs, and between several factories in one program (LineBusyError).
"""

from __future__ import annotations

import os
from collections import defaultdict
from dataclasses import replace
from threading import Lock, RLock

import gpiod
from gpiod.line import Direction, Edge, Value
from gpiozero import (
    PinFixedPull,
    PinInvalidBounce,
    PinInvalidEdges,
    PinInvalidFunction,
    PinInvalidPull,
    PinInvalidState,
    PinSetInput,
    PinUnknownPi,
)
from gpiozero.pins import BoardInfo, PinInfo
from gpiozero.pins.local import LocalPiFactory, LocalPiPin

from plugmeter.witnesses.gpiod_chip import (
    HEADER_CHIP_LABELS,
    LIBGPIOD_ERRORS,
    LineError,
    NoSuchLineError,
    generic_board,
    line_error,
    open_chip,
)
from plugmeter.witnesses.gpiod_settings import BIAS, EDGES, LineSetup, line_value
from plugmeter.witnesses.gpiod_thread import EventThread
from plugmeter.witnesses.line_tracker import KernelEdge

EVENT_BUFFER_SIZE = 1024  # the kernel's limit for a request, GPIO_V2_LINES_MAX * 16
CONSUMER = "plugmeter"
CONSUMER_MAX_BYTES = 31  # GPIO_MAX_NAME_SIZE without its NUL
_READS_AT_ONCE = 4  # full buffers that one read_edges takes before it lets others have a turn


class GpiodFactory(LocalPiFactory):  # type: ignore[misc]  # gpiozero has no types
    """Pins of one GPIO chip, through the kernel's character device.

    ``chip``: a number, path, device name or label; None as ``gpiod_chip.open_chip`` says.
    ``event_buffer_size``: events that the kernel keeps for each line, 1 .. 1024.
    On a Raspberry Pi's header chip the pins have the board's names; on any other chip they are
    GPIO0 .. GPIOn-1. Raises GpioChipError.
    """

    def __init__(self, chip: int | str | None = None, event_buffer_size: int = EVENT_BUFFER_SIZE) -> None:
        super().__init__()
        # LocalPiFactory shares its pins and reservations between all factories of a process, so that
        # two of them cannot drive one pin. Here two factories may well be two chips with pins of the
        # same names, and the kernel refuses a line that is taken.
        self.pins: dict[PinInfo, GpiodPin] = {}
        self._reservations: defaultdict[PinInfo, list[object]] = defaultdict(list)
        self._res_lock = Lock()
        self.pin_class = GpiodPin
        self._info: BoardInfo | None = None
        self._event_buffer_size = min(max(event_buffer_size, 1), EVENT_BUFFER_SIZE)
        self._chip_lock = Lock()
        self._chip = open_chip(chip)
        self._chip_info = self._chip.get_info()
        self._path = self._chip.path
        self.events = EventThread(f"gpio events of {self._path}")

    def close(self) -> None:
        """Make every pin an input, give all lines and the chip back, end the thread; idempotent."""
        super().close()
        self.events.close()
        self._chip.close()

    @property
    def chip(self) -> str:
        """The path of the chip's character device."""
        return self._path

    @property
    def num_lines(self) -> int:
        """How many lines the chip has."""
        return self._chip_info.num_lines

    def pin(self, name: int | str) -> GpiodPin:
        """The pin of that number or name, always the same object; raises NoSuchLineError."""
        for _, info in self.board_info.find_pin(name):
            if info not in self.pins:
                self.pins[info] = self.pin_class(self, info)
            return self.pins[info]
        raise NoSuchLineError(
            f"no GPIO line {name!r} on {self._path} ({self._chip_info.label}, {self.num_lines} lines);"
            f" gpioinfo lists them"
        )

    def _get_board_info(self) -> BoardInfo:
        if self._info is None:
            self._info = self._pi_board() or generic_board(self._chip)
        return self._info

    def _pi_board(self) -> BoardInfo | None:
        if self._chip_info.label not in HEADER_CHIP_LABELS:
            return None
        try:
            return super()._get_board_info()
        except PinUnknownPi:
            return None

    def found_as_output(self, offset: int) -> bool:
        """Whether the kernel has the line as an output, whoever made it one."""
        with self._chip_lock:
            return self._chip.get_line_info(offset).direction is Direction.OUTPUT

    def request_line(self, offset: int, settings: gpiod.LineSettings, consumer: str) -> gpiod.LineRequest:
        """Take the line from the kernel; raises LineError. The request's descriptor does not block."""
        with self._chip_lock:
            if not self._chip:
                raise LineError(
                    f"GPIO line {offset} of {self._path}: its pin factory is closed; make a new one"
                )
            try:
                request = self._chip.request_lines({offset: settings}, consumer, self._event_buffer_size)
            except LIBGPIOD_ERRORS as error:
                raise line_error(self._chip, offset, error) from None
        os.set_blocking(request.fd, False)
        return request

    def refusal(self, offset: int, error: Exception) -> LineError:
        """libgpiod's error about a line of this chip, in the user's words."""
        with self._chip_lock:
            return line_error(self._chip, offset, error)


class GpiodPin(LocalPiPin):  # type: ignore[misc]  # gpiozero has no types
    """One line. On top of gpiozero's ``Pin``: ``capture``, ``fileno``, ``read_edges`` and the counters."""

    def __init__(self, factory: GpiodFactory, info: PinInfo) -> None:
        super().__init__(factory, info)
        if self._number >= factory.num_lines:
            raise NoSuchLineError(
                f"{info.name} is not on {factory.chip}, which has {factory.num_lines} lines"
            )
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
            self._factory.events.watch(fd, self.read_edges)
        else:
            self._factory.events.forget(fd)

    # Arming comes in twos. A chip may have latched an edge while nobody listened (the PL061 does), and
    # gives it away as a fresh interrupt as soon as somebody does. The first arming takes that one; the
    # kernel ends it only after the handlers are through (free_irq), so the second begins clean.

    def _take(self, settings: gpiod.LineSettings) -> None:
        """Request the line; its events are numbered from 1."""
        if settings.edge_detection is not Edge.NONE:
            self._factory.request_line(self._number, settings, self._consumer).release()
        self._request = self._factory.request_line(self._number, settings, self._consumer)
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
            raise self._factory.refusal(self._number, error) from None

    def _read_events(self) -> list[gpiod.EdgeEvent]:
        """One buffer full of what waits in the kernel, or nothing."""
        if self._request is None:
            return []
        try:
            return self._request.read_edge_events()
        except BlockingIOError:
            return []
        except LIBGPIOD_ERRORS as error:
            raise self._factory.refusal(self._number, error) from None

    def _change(self, setup: LineSetup) -> None:
        """As ``_configure``, but a line that nobody uses yet is left alone until somebody does."""
        if self._request is None or self._setup.function is None:
            self._setup = setup
        else:
            self._configure(setup, level=setup.function == "output" and self.state)

    def _release(self) -> None:
        self._captured = False
        if self._request is not None:
            self._factory.events.forget(self._request.fd)
            self._request.release()
            self._request = None

    # gpiozero's Pin

    def _get_function(self) -> str:
        with self._lock:
            found = self._setup.function
            if found is None:
                return "output" if self._factory.found_as_output(self._number) else "input"
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
                raise self._factory.refusal(self._number, error) from None

    def _set_state(self, value: float) -> None:
        if not 0 <= value <= 1:
            raise PinInvalidState(f"invalid state {value!r} for pin {self!r}; it is 0 or 1")
        with self._lock:
            if self._setup.function != "output" or self._request is None:
                raise PinSetInput(f"cannot set the state of pin {self!r}; make it an output first")
            try:
                self._request.set_value(self._number, line_value(bool(value)))
            except LIBGPIOD_ERRORS as error:
                raise self._factory.refusal(self._number, error) from None

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
