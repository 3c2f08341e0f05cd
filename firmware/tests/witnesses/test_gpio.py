"""The witness on gpiozero's mock; the same on real lines is in test_gpio_factories."""

from __future__ import annotations

import select
from collections.abc import Iterator

import pytest
from gpiozero import InputDevice
from gpiozero.pins.mock import MockFactory, MockPin

from plugmeter.errors import PlugmeterError, UsageError
from plugmeter.records import Edge, Gap, Level
from plugmeter.witnesses.gpio import GpioWitness


@pytest.fixture
def factory() -> Iterator[MockFactory]:
    with MockFactory() as factory:
        yield factory


def edges(witness: GpioWitness) -> list[tuple[str, bool]]:
    return [(record.port, record.rising) for record in witness.read() if isinstance(record, Edge)]


def test_it_is_named_gpio_and_has_no_kernel_numbers(factory: MockFactory) -> None:
    witness = GpioWitness({"1-1": 4}, factory)
    assert witness.name == "gpio"
    assert not witness.kernel_numbers
    (account,) = witness.accounts()
    assert (account.port, account.factory, account.kernel_numbers, account.interrupts) == (
        "1-1",
        "MockFactory",
        False,
        None,
    )
    witness.close()


def test_an_event_of_the_same_state_is_not_swallowed(factory: MockFactory) -> None:
    class LossyPin(MockPin):  # type: ignore[misc]  # gpiozero has no types
        def again(self) -> None:
            self._call_when_changed()

    pin = factory.pin(4, pin_class=LossyPin)
    witness = GpioWitness({"1-1": 4}, factory)
    pin.drive_high()
    pin.again()
    assert edges(witness) == [("1-1", True), ("1-1", True)]
    witness.close()


@pytest.mark.parametrize("pull_up", [True, False, None])
@pytest.mark.parametrize("active_high", [True, False])
def test_rising_and_high_are_about_vbus(
    factory: MockFactory, pull_up: bool | None, active_high: bool
) -> None:
    witness = GpioWitness({"1-1": 4}, factory, pull_up=pull_up, active_high=active_high)
    pin = factory.pin(4)
    pin.drive_low()
    witness.read()
    assert [level.high for level in witness.levels("start")] == [not active_high]
    pin.drive_high()
    assert edges(witness) == [("1-1", active_high)]
    assert [level.high for level in witness.levels("end")] == [active_high]
    witness.close()


def test_levels_are_read_from_the_pins_and_stamped(factory: MockFactory) -> None:
    with_two = GpioWitness({"1-1": 4, "1-2": 5}, factory)
    factory.pin(5).drive_high()
    first, second = with_two.levels("start")
    assert first == Level(first.t_ns, "1-1", False)
    assert second == Level(second.t_ns, "1-2", True)
    (edge,) = with_two.read()
    assert edge.t_ns <= first.t_ns <= second.t_ns
    with_two.close()


def test_what_does_not_fit_is_a_gap_and_the_account_holds(factory: MockFactory) -> None:
    witness = GpioWitness({"1-1": 4}, factory, handoff_edges=3)
    pin = factory.pin(4)
    for _ in range(4):
        pin.drive_high()
        pin.drive_low()
    assert (witness.tally().offered, witness.tally().pending) == (8, 8)
    *kept, gap = witness.read()
    assert [type(record) for record in kept] == [Edge] * 3
    assert isinstance(gap, Gap)
    assert (gap.witness, gap.cause, gap.count) == ("gpio", "handoff", 5)
    assert (witness.tally().offered, witness.tally().pending) == (8, 0)
    pin.drive_high()
    assert edges(witness) == [("1-1", True)]
    witness.close()


def test_its_descriptor_polls_readable_while_there_is_something(factory: MockFactory) -> None:
    witness = GpioWitness({"1-1": 4}, factory)
    poll = select.poll()
    poll.register(witness.fileno(), select.POLLIN)
    assert poll.poll(0) == []
    factory.pin(4).drive_high()
    assert poll.poll(0) == [(witness.fileno(), select.POLLIN)]
    witness.read()
    assert poll.poll(0) == []
    witness.close()


def test_what_waits_at_close_can_still_be_read(factory: MockFactory) -> None:
    witness = GpioWitness({"1-1": 4}, factory)
    factory.pin(4).drive_high()
    witness.close()
    witness.close()
    assert (witness.tally().offered, witness.tally().pending) == (1, 1)
    assert edges(witness) == [("1-1", True)]
    assert (witness.tally().offered, witness.tally().pending) == (1, 0)
    assert len(witness.accounts()) == 1
    with pytest.raises(PlugmeterError, match="closed"):
        witness.levels("end")


def test_a_closed_witness_gives_its_lines_back(factory: MockFactory) -> None:
    GpioWitness({"1-1": 4}, factory).close()
    assert factory.pin(4).when_changed is None
    InputDevice(4, pin_factory=factory).close()


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ({}, "no sense line"),
        ({"1-1": 4, "1-2": 4}, "port 1-2: GPIO line 4 is in use already"),
        ({"1-1": 4, "1-2": "GPIO4"}, "port 1-2: GPIO line 'GPIO4' is in use already"),
        ({"1-1": 4, "1-2": 999}, "port 1-2: GPIO line 999 will not do"),
        ({"1-1": "GND"}, "port 1-1: GPIO line 'GND' will not do"),
    ],
)
def test_lines_that_cannot_be_meant_are_named_and_none_is_kept(
    factory: MockFactory, lines: dict[str, int | str], words: str
) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        GpioWitness(lines, factory)
    assert "\n" not in str(caught.value)
    InputDevice(4, pin_factory=factory).close()
