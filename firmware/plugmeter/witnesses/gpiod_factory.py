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

The kernel arbitrates between programs, and between several factories in one program (LineBusyError).
"""

from __future__ import annotations

from collections import defaultdict
from threading import Lock

from gpiozero import PinUnknownPi
from gpiozero.pins import BoardInfo, PinInfo
from gpiozero.pins.local import LocalPiFactory

from plugmeter.witnesses.gpiod_chip import HEADER_CHIP_LABELS, NoSuchLineError, open_chip
from plugmeter.witnesses.gpiod_lines import EVENT_BUFFER_SIZE, ChipLines
from plugmeter.witnesses.gpiod_pin import GpiodPin
from plugmeter.witnesses.gpiod_thread import EventThread


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
        self._lines = ChipLines(open_chip(chip), event_buffer_size)
        self._events = EventThread(f"gpio events of {self._lines.path}")

    def close(self) -> None:
        """Make every pin an input, give all lines and the chip back, end the thread; idempotent."""
        super().close()
        self._events.close()
        self._lines.close()

    @property
    def chip(self) -> str:
        """The path of the chip's character device."""
        return self._lines.path

    @property
    def num_lines(self) -> int:
        """How many lines the chip has."""
        return self._lines.count

    def pin(self, name: int | str) -> GpiodPin:
        """The pin of that number or name, always the same object; raises NoSuchLineError."""
        for _, info in self.board_info.find_pin(name):
            if info not in self.pins:
                self.pins[info] = self.pin_class(self, info, self._lines, self._events)
            return self.pins[info]
        raise NoSuchLineError(
            f"no GPIO line {name!r} on {self.chip} ({self._lines.label}, {self.num_lines} lines);"
            f" gpioinfo lists them"
        )

    def _get_board_info(self) -> BoardInfo:
        if self._info is None:
            self._info = self._pi_board() or self._lines.board()
        return self._info

    def _pi_board(self) -> BoardInfo | None:
        if self._lines.label not in HEADER_CHIP_LABELS:
            return None
        try:
            return super()._get_board_info()
        except PinUnknownPi:
            return None
