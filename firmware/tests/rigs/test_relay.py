"""The relay rig on gpiozero's mock: an output pin wired to an input pin stands for relay and sense."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence

import pytest
from gpiozero import InputDevice
from gpiozero.pins.mock import MockConnectedPin, MockFactory, MockPin

from plugmeter.errors import RigError, UsageError
from plugmeter.records import Driven, Edge
from plugmeter.rigs.relay import RelayRig
from plugmeter.rigs.sequence import Step
from plugmeter.witnesses.gpio import GpioWitness
from tests.gpio_driver import eventually

MS = 1_000_000
RELAYS = {"1-1": 17, "1-2": 27}
SENSES = {"1-1": 4, "1-2": 5}


@pytest.fixture
def factory() -> Iterator[MockFactory]:
    with MockFactory() as factory:
        for port, line in RELAYS.items():
            factory.pin(line, pin_class=MockConnectedPin, input_pin=factory.pin(SENSES[port]))
        yield factory


def done(rig: RelayRig) -> bool:
    return eventually(lambda: rig.finished)


STEPS = [
    Step(0, "1-1", True, 0),
    Step(2 * MS, "1-2", True, 0),
    Step(4 * MS, "1-1", False, 0),
    Step(6 * MS, "1-2", False, 0),
]


def test_a_plan_is_driven_in_order_and_sensed(factory: MockFactory) -> None:
    witness = GpioWitness(SENSES, factory)
    rig = RelayRig(STEPS, RELAYS, factory, plan={"sticks": 2})
    assert (rig.name, rig.truth, rig.ports, rig.emitted) == ("relay", "gpio", ("1-1", "1-2"), None)
    assert rig.plan == {"sticks": 2}
    assert (rig.progress(), rig.finished) == ((0, 4), False)
    rig.start()
    assert done(rig)
    assert (rig.progress(), rig.failure) == ((4, 4), None)
    edges = [edge for edge in witness.read() if isinstance(edge, Edge)]
    assert [(edge.port, edge.rising) for edge in edges] == [(step.port, step.plugged) for step in STEPS]
    assert edges[-1].t_ns - edges[0].t_ns >= 4 * MS
    assert rig.read() == []
    rig.close()
    witness.close()


def test_simulated_truth_logs_what_was_driven_no_later_than_its_edge(factory: MockFactory) -> None:
    witness = GpioWitness(SENSES, factory)
    rig = RelayRig(STEPS, RELAYS, factory, truth="simulated")
    rig.start()
    assert done(rig)
    driven: Sequence[Driven] = rig.read()
    edges = [edge for edge in witness.read() if isinstance(edge, Edge)]
    assert [(d.port, d.rising) for d in driven] == [(edge.port, edge.rising) for edge in edges]
    assert all(d.t_ns <= edge.t_ns for d, edge in zip(driven, edges, strict=True))
    assert rig.read() == []
    rig.close()
    witness.close()


def test_pulses_are_driven_between_the_steps_of_other_ports(factory: MockFactory) -> None:
    steps = [
        Step(0, "1-1", True, 0, pulses=((1 * MS, False), (3 * MS, True))),
        Step(2 * MS, "1-2", True, 0),
    ]
    rig = RelayRig(steps, RELAYS, factory, truth="simulated")
    rig.start()
    assert done(rig)
    assert [(d.port, d.rising) for d in rig.read()] == [
        ("1-1", True),
        ("1-1", False),
        ("1-2", True),
        ("1-1", True),
    ]
    assert rig.progress() == (2, 2)
    rig.close()


@pytest.mark.parametrize("at_rest", [False, True])
@pytest.mark.parametrize("active_high", [False, True])
def test_stop_brings_every_port_to_rest(factory: MockFactory, at_rest: bool, active_high: bool) -> None:
    steps = [Step(0, "1-1", not at_rest, 0), Step(3_600_000 * MS, "1-1", at_rest, 0)]
    rig = RelayRig(steps, RELAYS, factory, active_high=active_high, vbus_at_rest=at_rest)
    pin = factory.pin(RELAYS["1-1"])
    assert pin.state is (at_rest is active_high)
    rig.start()
    assert eventually(lambda: rig.progress() == (1, 2))
    assert pin.state is (at_rest is not active_high)
    rig.stop()
    rig.stop()
    assert rig.finished
    assert (rig.progress(), rig.failure) == ((1, 2), None)
    assert pin.state is (at_rest is active_high)
    rig.close()


def test_close_gives_the_lines_back(factory: MockFactory) -> None:
    rig = RelayRig(STEPS, RELAYS, factory)
    rig.close()
    rig.close()
    assert rig.finished
    InputDevice(RELAYS["1-1"], pin_factory=factory).close()


def test_a_relay_that_fails_midway_is_one_line(factory: MockFactory) -> None:
    class BurntPin(MockPin):  # type: ignore[misc]  # gpiozero has no types
        def _set_state(self, value: float) -> None:
            if value:
                raise OSError(5, "Input/output error")
            super()._set_state(value)

    factory.pin(22, pin_class=BurntPin)
    rig = RelayRig([Step(0, "1-1", True, 0), Step(1, "1-3", True, 0)], {"1-1": 17, "1-3": 22}, factory)
    rig.start()
    assert done(rig)
    assert rig.failure == "relay of port 1-3 failed after 1 of 2 steps: [Errno 5] Input/output error"
    assert rig.progress() == (1, 2)
    rig.close()


def test_a_defect_ends_the_rig_as_failed(factory: MockFactory) -> None:
    class BrokenPin(MockPin):  # type: ignore[misc]  # gpiozero has no types
        def _set_state(self, value: float) -> None:
            if value:
                raise ZeroDivisionError
            super()._set_state(value)

    factory.pin(22, pin_class=BrokenPin)
    rig = RelayRig([Step(0, "1-3", True, 0)], {"1-3": 22}, factory)
    before, threading.excepthook = threading.excepthook, lambda args: None
    try:
        rig.start()
        assert done(rig)
    finally:
        threading.excepthook = before
    assert rig.failure is not None
    assert "defect" in rig.failure
    rig.close()


def test_a_rig_starts_once(factory: MockFactory) -> None:
    rig = RelayRig([], RELAYS, factory)
    rig.start()
    with pytest.raises(RigError, match="started before"):
        rig.start()
    rig.close()


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ({"1-1": 17}, "no relay line for port 1-2"),
        ({"1-1": 17, "1-2": 17}, "port 1-2: relay line 17 is in use already"),
        ({"1-1": 17, "1-2": 999}, "port 1-2: relay line 999 will not do"),
    ],
)
def test_lines_that_cannot_be_meant_are_named_and_none_is_kept(
    factory: MockFactory, lines: dict[str, int | str], words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        RelayRig(STEPS, lines, factory)
    InputDevice(17, pin_factory=factory).close()
