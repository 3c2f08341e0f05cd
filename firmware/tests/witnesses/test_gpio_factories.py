"""One suite over every pin factory: gpiozero's mock, and GpiodFactory on a chip that can be driven.

The second half needs real lines, so on most machines it skips. In a QEMU guest (PL061, 8 lines):
PLUGMETER_GPIO_DRIVER names the channel to what drives them, PLUGMETER_GPIO_LINES three free lines
(default 4,5,6), PLUGMETER_GPIO_CHIP the chip; with PLUGMETER_GPIO_REQUIRED=1 a skip is a failure.
"""

from __future__ import annotations

import os
import select
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from gpiozero import (
    DigitalInputDevice,
    Factory,
    GPIOPinInUse,
    InputDevice,
    OutputDevice,
    Pin,
    PinFixedPull,
    PinInvalidBounce,
    PinInvalidEdges,
    PinInvalidFunction,
    PinInvalidPin,
    PinInvalidPull,
    PinPWMUnsupported,
    PinSetInput,
)
from gpiozero.pins.mock import MockFactory

from plugmeter.records import Edge, Gap
from plugmeter.witnesses.gpio import GpioWitness
from plugmeter.witnesses.gpiod_chip import LineBusyError
from plugmeter.witnesses.gpiod_factory import GpiodFactory
from tests.gpio_driver import (
    DRIVER_VARIABLE,
    REQUIRED_VARIABLE,
    DriveClient,
    Driver,
    MockDriver,
    eventually,
)

LINES = tuple(int(line) for line in os.environ.get("PLUGMETER_GPIO_LINES", "4,5,6").split(","))
LINE = LINES[0]


@dataclass
class Bench:
    """A factory under test, and what drives its lines."""

    factory: Factory
    driver: Driver

    def drive(self, line: int, high: bool) -> None:
        """Put a level onto an input line and wait until its pin shows it."""
        self.driver.set(line, high)
        pin = self.factory.pin(line)
        assert eventually(lambda: bool(pin.state) is high), f"line {line} does not follow its driver"

    def pin(self, line: int = LINE) -> Pin:
        """A pin that is a low, floating input."""
        pin = self.factory.pin(line)
        pin.input_with_pull("floating")
        self.drive(line, False)
        return pin


@dataclass
class Calls:
    """Records what ``when_changed`` is told."""

    seen: list[tuple[float, bool]] = field(default_factory=list)
    came: threading.Event = field(default_factory=threading.Event)

    def changed(self, ticks: float, state: float) -> None:
        self.seen.append((ticks, bool(state)))
        self.came.set()

    @property
    def states(self) -> list[bool]:
        return [state for _, state in self.seen]

    def wait(self, count: int) -> bool:
        return eventually(lambda: len(self.seen) >= count)


def need_driver() -> DriveClient:
    address = os.environ.get(DRIVER_VARIABLE)
    if address:
        return DriveClient(address)
    reason = f"runs in the guest: a GPIO chip that can be driven, named by {DRIVER_VARIABLE}"
    if os.environ.get(REQUIRED_VARIABLE):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture
def mock() -> Iterator[Bench]:
    with MockFactory() as factory:
        yield Bench(factory, MockDriver(factory))


@pytest.fixture
def gpiod() -> Iterator[Bench]:
    driver = need_driver()
    try:
        with GpiodFactory() as factory:
            yield Bench(factory, driver)
    finally:
        driver.close()


@pytest.fixture(params=["mock", "gpiod"])
def bench(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue(request.param)


# What every factory does


def test_a_pin_is_the_same_object_by_every_name(bench: Bench) -> None:
    assert bench.factory.pin(LINE) is bench.factory.pin(f"GPIO{LINE}") is bench.factory.pin(str(LINE))
    assert bench.factory.pin(LINE) is not bench.factory.pin(LINES[1])


def test_a_pin_tells_its_info_and_its_factory(bench: Bench) -> None:
    pin = bench.factory.pin(LINE)
    assert pin.info.name == f"GPIO{LINE}" == repr(pin)
    assert "gpio" in pin.info.interfaces
    assert pin.factory is bench.factory


@pytest.mark.parametrize("name", [4096, "GPIO4096", "nonsense"])
def test_a_pin_that_is_not_there_is_refused(bench: Bench, name: int | str) -> None:
    with pytest.raises(PinInvalidPin):
        bench.factory.pin(name)


def test_the_board_can_be_printed(bench: Bench) -> None:
    assert f"GPIO{LINE}" in f"{bench.factory.board_info:mono full}"


def test_ticks_grow_and_are_told_apart_in_seconds(bench: Bench) -> None:
    earlier = bench.factory.ticks()
    later = bench.factory.ticks()
    assert bench.factory.ticks_diff(later, earlier) >= 0


def test_function_input_and_output(bench: Bench) -> None:
    pin = bench.pin()
    assert pin.function == "input"
    pin.function = "output"
    assert pin.function == "output"
    pin.function = "input"
    assert pin.function == "input"


def test_function_of_any_other_name_is_refused(bench: Bench) -> None:
    pin = bench.pin()
    with pytest.raises(PinInvalidFunction):
        pin.function = "alt5"
    assert pin.function == "input"


def test_state_of_an_input_follows_its_driver(bench: Bench) -> None:
    pin = bench.pin()
    for high in (True, False, True, False):
        bench.drive(LINE, high)
        assert bool(pin.state) is high


def test_state_of_an_input_cannot_be_set(bench: Bench) -> None:
    with pytest.raises(PinSetInput):
        bench.pin().state = True


def test_state_of_an_output_reads_as_it_was_written(bench: Bench) -> None:
    pin = bench.pin()
    pin.function = "output"
    for high in (True, False, True):
        pin.state = high
        assert bool(pin.state) is high


@pytest.mark.parametrize("high", [False, True])
def test_an_output_can_begin_with_a_state(bench: Bench, high: bool) -> None:
    pin = bench.pin()
    pin.output_with_state(high)
    assert pin.function == "output"
    assert bool(pin.state) is high


def test_an_output_begins_with_the_level_that_it_had(bench: Bench) -> None:
    pin = bench.pin()
    bench.drive(LINE, True)
    pin.function = "output"
    assert bool(pin.state) is True


@pytest.mark.parametrize("pull", ["up", "down", "floating"])
def test_pull(bench: Bench, pull: str) -> None:
    pin = bench.pin()
    pin.pull = pull
    assert pin.pull == pull
    assert pin.function == "input"


@pytest.mark.parametrize("pull", ["up", "down", "floating"])
def test_input_with_pull(bench: Bench, pull: str) -> None:
    pin = bench.pin()
    pin.function = "output"
    pin.input_with_pull(pull)
    assert (pin.function, pin.pull) == ("input", pull)


def test_pull_of_any_other_name_is_refused(bench: Bench) -> None:
    with pytest.raises(PinInvalidPull):
        bench.pin().pull = "sideways"


def test_pull_of_an_output_is_refused(bench: Bench) -> None:
    pin = bench.pin()
    pin.function = "output"
    with pytest.raises(PinFixedPull):
        pin.pull = "up"


@pytest.mark.parametrize("edges", ["none", "both", "rising", "falling"])
def test_edges(bench: Bench, edges: str) -> None:
    pin = bench.pin()
    pin.edges = edges
    assert pin.edges == edges


@pytest.mark.parametrize("seconds", [None, 0.0, 0.01, 1])
def test_bounce(bench: Bench, seconds: float | None) -> None:
    pin = bench.pin()
    pin.bounce = seconds
    assert pin.bounce == seconds


def test_bounce_that_is_no_number_is_refused(bench: Bench) -> None:
    with pytest.raises(PinInvalidBounce):
        bench.pin().bounce = "soon"


def test_pwm_is_not_offered(bench: Bench) -> None:
    pin = bench.pin()
    pin.function = "output"
    assert pin.frequency is None
    pin.frequency = None
    with pytest.raises(PinPWMUnsupported):
        pin.frequency = 100


@pytest.mark.parametrize(
    ("edges", "expected"),
    [
        ("both", [True, False, True, False]),
        ("rising", [True, True]),
        ("falling", [False, False]),
        ("none", []),
    ],
)
def test_when_changed_is_told_the_edges_that_were_asked_for(
    bench: Bench, edges: str, expected: list[bool]
) -> None:
    pin, calls = bench.pin(), Calls()
    pin.edges = edges
    pin.when_changed = calls.changed
    for index, high in enumerate((True, False, True, False)):
        bench.drive(LINE, high)
        wanted = {"both": index + 1, "rising": (index + 2) // 2, "falling": (index + 1) // 2, "none": 0}
        assert calls.wait(wanted[edges])
    assert calls.states == expected


def test_when_changed_is_told_growing_ticks(bench: Bench) -> None:
    before = bench.factory.ticks()
    pin, calls = bench.pin(), Calls()
    pin.when_changed = calls.changed
    for count, high in enumerate((True, False, True), start=1):
        bench.drive(LINE, high)
        assert calls.wait(count)
    ticks = [before, *(ticks for ticks, _ in calls.seen), bench.factory.ticks()]
    assert ticks == sorted(ticks)


def test_when_changed_reads_back_and_can_be_taken_away(bench: Bench) -> None:
    pin, calls = bench.pin(), Calls()
    assert pin.when_changed is None
    pin.when_changed = calls.changed
    assert pin.when_changed == calls.changed
    bench.drive(LINE, True)
    assert calls.wait(1)
    pin.when_changed = None
    assert pin.when_changed is None
    bench.drive(LINE, False)
    bench.drive(LINE, True)
    assert calls.states == [True]


def test_when_changed_does_not_keep_its_owner_alive(bench: Bench) -> None:
    pin, calls = bench.pin(), Calls()
    pin.when_changed = calls.changed
    del calls
    bench.drive(LINE, True)
    assert eventually(lambda: pin.when_changed is None)


def test_when_changed_can_be_replaced(bench: Bench) -> None:
    pin, first, second = bench.pin(), Calls(), Calls()
    pin.when_changed = first.changed
    bench.drive(LINE, True)
    assert first.wait(1)
    pin.when_changed = second.changed
    bench.drive(LINE, False)
    assert second.wait(1)
    assert (first.states, second.states) == ([True], [False])


def test_two_pins_do_not_hear_each_other(bench: Bench) -> None:
    one, other, heard_one, heard_other = bench.pin(LINES[0]), bench.pin(LINES[1]), Calls(), Calls()
    one.when_changed = heard_one.changed
    other.when_changed = heard_other.changed
    bench.drive(LINES[0], True)
    bench.drive(LINES[1], True)
    bench.drive(LINES[1], False)
    assert heard_one.wait(1) and heard_other.wait(2)
    assert (heard_one.states, heard_other.states) == ([True], [True, False])


def test_a_closed_pin_is_an_input_without_callback_and_can_be_used_again(bench: Bench) -> None:
    pin, calls = bench.pin(), Calls()
    pin.when_changed = calls.changed
    pin.close()
    assert pin.function == "input"
    assert pin.when_changed is None
    pin.output_with_state(True)
    pin.close()
    assert pin.function == "input"
    again = bench.pin()
    assert again is pin
    bench.drive(LINE, True)
    assert calls.seen == []


def test_a_pin_is_a_context(bench: Bench) -> None:
    with bench.pin() as pin:
        pin.function = "output"
    assert pin.function == "input"


def test_a_device_reserves_its_pin_until_it_is_closed(bench: Bench) -> None:
    device = InputDevice(LINE, pin_factory=bench.factory)
    with pytest.raises(GPIOPinInUse):
        InputDevice(f"GPIO{LINE}", pin_factory=bench.factory)
    device.close()
    with OutputDevice(LINE, pin_factory=bench.factory) as output:
        output.on()
        assert output.value == 1


def test_reservations_are_released_by_their_owner_only(bench: Bench) -> None:
    with InputDevice(LINE, pin_factory=bench.factory) as owner:
        bench.factory.release_all(object())
        with pytest.raises(GPIOPinInUse):
            bench.factory.reserve_pins(owner, LINE)
        bench.factory.release_pins(owner, LINE)
        bench.factory.reserve_pins(owner, LINE)


def test_a_digital_input_device_hears_its_line(bench: Bench) -> None:
    bench.pin()
    with DigitalInputDevice(LINE, pull_up=None, active_state=True, pin_factory=bench.factory) as device:
        heard = Calls()
        device.when_activated = lambda: heard.changed(0.0, True)
        device.when_deactivated = lambda: heard.changed(0.0, False)
        bench.drive(LINE, True)
        assert heard.wait(1)
        assert device.is_active
        bench.drive(LINE, False)
        assert heard.wait(2)
        assert not device.is_active
        assert heard.states == [True, False]


def test_an_active_low_output_device(bench: Bench) -> None:
    with OutputDevice(LINE, active_high=False, pin_factory=bench.factory) as device:
        assert (device.value, bool(device.pin.state)) == (0, True)
        device.on()
        assert (device.value, bool(device.pin.state)) == (1, False)
        device.toggle()
        assert device.value == 0


def test_a_closed_factory_makes_new_pins(bench: Bench) -> None:
    pin = bench.factory.pin(LINE)
    bench.factory.close()
    bench.factory.close()
    assert pin not in bench.factory.pins.values()


def test_the_witness_on_every_factory(bench: Bench) -> None:
    for line in LINES[:2]:
        bench.pin(line).close()
    witness = GpioWitness({"1-1": LINES[0], "1-2": LINES[1]}, bench.factory)
    records: list[Edge | Gap] = []
    steps = [("1-1", True), ("1-2", True), ("1-1", False), ("1-1", True), ("1-2", False)]
    poll = select.poll()
    poll.register(witness.fileno(), select.POLLIN)
    assert [level.high for level in witness.levels("start")] == [False, False]
    for port, high in steps:
        bench.drive(LINES[0] if port == "1-1" else LINES[1], high)
        assert poll.poll(20_000)
        records += witness.read()
    assert poll.poll(0) == []
    edges = [record for record in records if isinstance(record, Edge)]
    assert edges == records
    assert [(edge.port, edge.rising) for edge in edges] == steps
    assert [edge.t_ns for edge in edges] == sorted(edge.t_ns for edge in edges)
    assert [level.high for level in witness.levels("end")] == [True, False]
    tally = witness.tally()
    assert (tally.offered, tally.pending) == (5, 0)
    accounts = witness.accounts()
    if witness.kernel_numbers:
        assert [edge.line_seqno for edge in edges if edge.port == "1-1"] == [1, 2, 3]
        assert [account.interrupts for account in accounts] == [3, 2]
    else:
        assert {edge.line_seqno for edge in edges} == {0}
        assert [account.interrupts for account in accounts] == [None, None]
    witness.close()
    witness.close()
    assert witness.read() == []
    assert witness.tally().offered == 5
    assert [account.interrupts for account in witness.accounts()] == [a.interrupts for a in accounts]


# What only the kernel's character device can show


def test_edges_of_any_other_name_are_refused(gpiod: Bench) -> None:
    # The mock asserts instead of raising what the API documents.
    with pytest.raises(PinInvalidEdges):
        gpiod.pin().edges = "leading"


def test_making_a_pin_asks_nothing_of_the_line(gpiod: Bench) -> None:
    pin = gpiod.pin()
    pin.output_with_state(True)
    with GpiodFactory() as second:
        assert second.pin(LINE).function == "output"
        with pytest.raises(LineBusyError, match="'plugmeter'"):
            second.pin(LINE).function = "input"
    assert (pin.function, bool(pin.state)) == ("output", True)


def test_a_line_that_is_held_elsewhere_is_named_with_its_holder(gpiod: Bench) -> None:
    witness = GpioWitness({"1-1": LINE}, gpiod.factory)
    with GpiodFactory() as second:
        with pytest.raises(LineBusyError, match="held by 'plugmeter:1-1'") as caught:
            second.pin(LINE).input_with_pull("floating")
        assert isinstance(caught.value, GPIOPinInUse)
        assert "\n" not in str(caught.value)
    witness.close()


def test_the_pin_counts_the_kernels_numbers_for_plain_callbacks(gpiod: Bench) -> None:
    pin, calls = gpiod.pin(), Calls()
    pin.close()
    pin.input_with_pull("floating")
    pin.when_changed = calls.changed
    before = pin.line_seqno
    for count, high in enumerate((True, False, True), start=1):
        gpiod.drive(LINE, high)
        assert calls.wait(count)
    assert (pin.line_seqno - before, pin.events_lost) == (3, 0)


def test_a_captured_pin_is_read_by_its_owner_and_still_calls_back(gpiod: Bench) -> None:
    pin, calls = gpiod.pin(), Calls()
    pin.capture("plugmeter:test")
    pin.when_changed = calls.changed
    poll = select.poll()
    poll.register(pin.fileno(), select.POLLIN)
    gpiod.drive(LINE, True)
    assert poll.poll(20_000)
    assert calls.seen == []
    (edge,) = pin.read_edges()
    assert (edge.rising, edge.line_seqno) == (True, 1)
    assert calls.seen == [(edge.t_ns / 1e9, True)]
    assert pin.read_edges() == []


def read_all(witness: GpioWitness, offered: int) -> list[Edge | Gap]:
    """Everything, once the witness has been offered as many events."""
    records: list[Edge | Gap] = []

    def complete() -> bool:
        records.extend(witness.read())
        return witness.tally().offered >= offered

    assert eventually(complete), f"{witness.tally().offered} of {offered} events came"
    return records


def drive_and_count(bench: Bench, witness: GpioWitness, count: int) -> None:
    """Turn the level over, and wait until the kernel has had as many interrupts."""
    bench.driver.set(LINE, count % 2 == 1)
    assert eventually(lambda: witness.accounts()[0].interrupts == count), f"no interrupt {count}"


def test_an_overflow_of_the_kernels_fifo_is_a_gap_of_just_as_many(gpiod: Bench) -> None:
    gpiod.pin().close()
    with GpiodFactory(event_buffer_size=16) as factory:
        # The first factory gave the line back when its pin was closed.
        witness = GpioWitness({"1-1": LINE}, factory)
        for count in range(1, 41):
            drive_and_count(gpiod, witness, count)
        # The interrupt is counted before its thread fills the fifo: the fortieth may still be on its way.
        records = read_all(witness, 40)
        gap, *edges = records
        assert isinstance(gap, Gap)
        assert gap.cause == "gpio_fifo"
        assert gap.count in (23, 24)
        assert [edge.line_seqno for edge in edges if isinstance(edge, Edge)] == list(range(gap.count + 1, 41))
        assert (witness.tally().offered, witness.tally().pending) == (40, 0)
        witness.close()


def test_a_burst_within_the_fifo_is_whole(gpiod: Bench) -> None:
    gpiod.pin().close()
    witness = GpioWitness({"1-1": LINE}, gpiod.factory)
    for count in range(1, 201):
        drive_and_count(gpiod, witness, count)
    records = read_all(witness, 200)
    assert [record.line_seqno for record in records if isinstance(record, Edge)] == list(range(1, 201))
    assert [record.rising for record in records if isinstance(record, Edge)] == [True, False] * 100
    assert [record.t_ns for record in records] == sorted(record.t_ns for record in records)
    witness.close()


def test_an_edge_that_the_chip_latched_before_is_not_told(gpiod: Bench) -> None:
    pin, calls = gpiod.pin(), Calls()
    for _ in range(5):
        pin.when_changed = calls.changed
        pin.when_changed = None
        gpiod.drive(LINE, True)
        gpiod.drive(LINE, False)
    pin.when_changed = calls.changed
    gpiod.drive(LINE, True)
    assert calls.wait(1)
    assert calls.states == [True]
    pin.close()
    gpiod.drive(LINE, False)
    witness = GpioWitness({"1-1": LINE}, gpiod.factory)
    gpiod.driver.set(LINE, True)
    (edge,) = read_all(witness, 1)
    assert isinstance(edge, Edge)
    assert (edge.rising, edge.line_seqno) == (True, 1)
    assert eventually(lambda: witness.accounts()[0].interrupts == 1)
    witness.close()


def test_a_callback_that_raises_is_reported_and_the_others_go_on(gpiod: Bench) -> None:
    reported: list[type[BaseException]] = []
    pin, calls = gpiod.pin(), Calls()

    def raises(ticks: float, state: float) -> None:
        raise RuntimeError("a defect in somebody's callback")

    before = threading.excepthook
    threading.excepthook = lambda args: reported.append(args.exc_type)
    try:
        pin.when_changed = raises
        gpiod.drive(LINE, True)
        assert eventually(lambda: reported == [RuntimeError])
        pin.when_changed = calls.changed
        gpiod.drive(LINE, False)
        assert calls.wait(1)
    finally:
        threading.excepthook = before


def test_closing_from_within_a_callback(gpiod: Bench) -> None:
    pin, closed = gpiod.pin(), threading.Event()

    def close(ticks: float, state: float) -> None:
        gpiod.factory.close()
        closed.set()

    pin.when_changed = close
    gpiod.driver.set(LINE, True)
    assert closed.wait(20)
    assert gpiod.factory.pins == {}
