"""The lines of one GPIO chip: looked at, taken from the kernel, and its refusals in the user's words."""

from __future__ import annotations

import os
from threading import Lock

import gpiod
from gpiod.line import Direction
from gpiozero.pins import BoardInfo

from plugmeter.witnesses.gpiod_chip import LIBGPIOD_ERRORS, LineError, generic_board, line_error

EVENT_BUFFER_SIZE = 1024  # the kernel's limit for a request, GPIO_V2_LINES_MAX * 16


class ChipLines:
    """Owns the open chip. Pins share it, in whatever threads they are used: it locks.

    ``event_buffer_size``: events that the kernel keeps for each line, 1 .. 1024.
    """

    def __init__(self, chip: gpiod.Chip, event_buffer_size: int) -> None:
        self._lock = Lock()
        self._chip = chip
        info = chip.get_info()
        self.path: str = chip.path
        """Of the chip's character device."""
        self.label: str = info.label
        self.count: int = info.num_lines
        self._event_buffer_size = min(max(event_buffer_size, 1), EVENT_BUFFER_SIZE)

    def close(self) -> None:
        """Give the chip back; idempotent. Lines that are taken stay so until they are released."""
        self._chip.close()

    def board(self) -> BoardInfo:
        """A board with a pin for each line."""
        return generic_board(self._chip)

    def is_output(self, offset: int) -> bool:
        """Whether the kernel has the line as an output, whoever made it one."""
        with self._lock:
            return self._chip.get_line_info(offset).direction is Direction.OUTPUT

    def request(self, offset: int, settings: gpiod.LineSettings, consumer: str) -> gpiod.LineRequest:
        """Take the line from the kernel; raises LineError. The request's descriptor does not block."""
        with self._lock:
            if not self._chip:
                raise LineError(
                    f"GPIO line {offset} of {self.path}: its pin factory is closed; make a new one"
                )
            try:
                request = self._chip.request_lines({offset: settings}, consumer, self._event_buffer_size)
            except LIBGPIOD_ERRORS as error:
                raise line_error(self._chip, offset, error) from None
        os.set_blocking(request.fd, False)
        return request

    def refusal(self, offset: int, error: Exception) -> LineError:
        """libgpiod's error about a line of this chip, in the user's words."""
        with self._lock:
            return line_error(self._chip, offset, error)
