"""The lines that sense VBUS, as a rig drives them: gpiozero's mock pins, or real outputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from gpiozero import GPIOZeroError, OutputDevice
from gpiozero.pins import Factory
from gpiozero.pins.mock import MockFactory, MockPin

from plugmeter.errors import RigError, UsageError

# A Compute Module 3: its 46 lines are all free, where a Pi's header has 28, two with fixed pull-ups.
_BOARD = "a020a0"
_FIRST_PIN = 2
_PINS = 44
MOST_MOCK_PORTS = _PINS


class MockLines(NamedTuple):
    """One mock pin a port, all low. ``drive`` sets a port's level as if from outside."""

    factory: MockFactory
    pins: dict[str, int]
    drive: Callable[[str, bool], None]


def mock_lines(ports: Sequence[str]) -> MockLines:
    """Mock pins for ``ports``, from a factory of their own; gpiozero's global one is left alone.

    Open input devices on them before driving: a mock pin that nobody has opened is an input, too, but
    nobody hears of its edges. The edges are handled on the thread that drives. Raises UsageError for
    more ports than there are pins.
    """
    if len(ports) > _PINS:
        raise UsageError(
            f"gpiozero's mock board has {_PINS} lines, not {len(ports)}: name at most {_PINS} ports"
        )
    factory = MockFactory(revision=_BOARD, pin_class=MockPin)
    numbers = {port: _FIRST_PIN + place for place, port in enumerate(ports)}
    pins = {port: factory.pin(number) for port, number in numbers.items()}

    def drive(port: str, high: bool) -> None:
        pin = pins[port]
        if pin.function != "input":
            raise RigError(f"mock line {numbers[port]} of port {port} is an output: nothing can sense it")
        if high:
            pin.drive_high()
        else:
            pin.drive_low()

    return MockLines(factory, numbers, drive)


class OutputLines:
    """Real output lines, each wired to the sense line of one port.

    ``pins`` gives each port's output as gpiozero names it (17, "GPIO17"). All are low to begin with,
    and let go by ``close``. Raises RigError for a line that cannot be had.
    """

    def __init__(self, factory: Factory, pins: Mapping[str, int | str]) -> None:
        self._devices: dict[str, OutputDevice] = {}
        for port, pin in pins.items():
            try:
                self._devices[port] = OutputDevice(pin, initial_value=False, pin_factory=factory)
            except (GPIOZeroError, OSError) as error:
                self.close()
                raise RigError(f"cannot drive line {pin} for port {port}: {error}") from error

    def drive(self, port: str, high: bool) -> None:
        """Set a port's level. Raises RigError where the line fails."""
        try:
            self._devices[port].value = high
        except (GPIOZeroError, OSError) as error:
            raise RigError(f"cannot drive the line of port {port}: {error}") from error

    def close(self) -> None:
        """Let go of the lines; a second call does nothing."""
        for device in self._devices.values():
            device.close()
