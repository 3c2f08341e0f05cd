from __future__ import annotations

import pytest
from gpiozero import DigitalInputDevice, OutputDevice
from gpiozero.pins.mock import MockFactory

from plugmeter.errors import RigError, UsageError
from plugmeter.rigs.lines import MOST_MOCK_PORTS, OutputLines, mock_lines

PORTS = tuple(f"1-{number}" for number in range(1, MOST_MOCK_PORTS + 1))


def test_every_port_has_a_line_that_an_input_device_senses() -> None:
    lines = mock_lines(PORTS)
    assert len(set(lines.pins.values())) == len(PORTS)
    heard: list[tuple[str, bool]] = []
    devices = []
    for port, pin in lines.pins.items():
        device = DigitalInputDevice(pin, pin_factory=lines.factory)
        device.when_activated = lambda port=port: heard.append((port, True))
        device.when_deactivated = lambda port=port: heard.append((port, False))
        assert device.value == 0
        devices.append(device)
    driven = [(port, high) for port in PORTS for high in (True, False, True)]
    for port, high in driven:
        lines.drive(port, high)
    assert heard == driven
    for device in devices:
        device.close()


def test_pulling_down_works_on_every_line() -> None:
    lines = mock_lines(PORTS)
    for pin in lines.pins.values():
        with DigitalInputDevice(pin, pull_up=False, pin_factory=lines.factory) as device:
            assert device.value == 0


def test_too_many_ports_are_refused() -> None:
    with pytest.raises(UsageError, match=f"name at most {MOST_MOCK_PORTS} ports"):
        mock_lines((*PORTS, "2-1"))


def test_a_line_that_somebody_made_an_output_is_refused() -> None:
    lines = mock_lines(("1-1",))
    with (
        OutputDevice(lines.pins["1-1"], pin_factory=lines.factory),
        pytest.raises(RigError, match="an output"),
    ):
        lines.drive("1-1", True)


def test_outputs_follow() -> None:
    factory = MockFactory()
    lines = OutputLines(factory, {"1-1": 17, "1-2": "GPIO27"})
    lines.drive("1-2", True)
    assert [factory.pin(number).state for number in (17, 27)] == [0, 1]
    lines.drive("1-2", False)
    assert factory.pin(27).state == 0
    lines.close()
    lines.close()
    assert factory.pin(17).function == "input"
    with pytest.raises(RigError, match="cannot drive the line of port 1-1"):
        lines.drive("1-1", True)


def test_an_output_that_cannot_be_had_is_one_line_and_keeps_nothing() -> None:
    factory = MockFactory()
    with pytest.raises(RigError, match="cannot drive line 99 for port 1-2") as refusal:
        OutputLines(factory, {"1-1": 17, "1-2": 99})
    assert "\n" not in str(refusal.value)
    with OutputDevice(17, pin_factory=factory) as device:
        assert device.value == 0
