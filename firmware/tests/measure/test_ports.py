"""The port's state table: legal paths, illegal cells, and agreement with a simulated world."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugmeter.measure.ports import (
    MEANING,
    TABLE,
    IllegalTransition,
    Input,
    PortMachine,
    State,
    Transition,
    diagram,
    markdown,
)

PORT = "1-1.4"


def states_after(*inputs: Input) -> tuple[list[State], int]:
    machine = PortMachine(PORT)
    states = []
    for t_ns, event in enumerate(inputs):
        machine.feed(event, t_ns)
        states.append(machine.state)
    return states, machine.illegal_count


HIGH, LOW, ADD, REMOVE, BIND, UNBIND, TIMEOUT = Input


@pytest.mark.parametrize(
    ("inputs", "states", "illegal"),
    [
        ((HIGH, ADD, BIND, LOW, UNBIND, REMOVE), "connecting active active detached detached idle", 0),
        ((HIGH, TIMEOUT, LOW), "connecting error idle", 0),
        ((HIGH, TIMEOUT, ADD), "connecting error active", 0),
        ((HIGH, LOW), "connecting idle", 0),
        # removed by software, or reset: VBUS stays high
        ((HIGH, ADD, REMOVE, ADD), "connecting active connecting active", 0),
        ((HIGH, ADD, REMOVE, LOW), "connecting active connecting idle", 0),
        # re-plugged before the kernel said that the old device had gone
        ((HIGH, ADD, LOW, HIGH, REMOVE, ADD), "connecting active detached active connecting active", 0),
        # a lost remove shows at the next add
        ((HIGH, ADD, LOW, HIGH, ADD), "connecting active detached active active", 1),
        # a lost add shows at the remove
        ((HIGH, LOW, REMOVE), "connecting idle idle", 1),
        ((ADD, REMOVE), "idle idle", 2),
        ((HIGH, ADD, LOW, ADD), "connecting active detached detached", 1),
        ((HIGH, BIND), "connecting connecting", 1),
        ((HIGH, HIGH), "connecting connecting", 1),
        ((TIMEOUT,), "idle", 1),
    ],
)
def test_paths(inputs: tuple[Input, ...], states: str, illegal: int) -> None:
    assert states_after(*inputs) == ([State(word) for word in states.split()], illegal)


def test_every_state_can_be_reached_and_left() -> None:
    assert {target for (source, _), target in TABLE.items() if source != target} == set(State)
    assert {source for (source, _), target in TABLE.items() if source != target} == set(State)
    assert set(MEANING) == set(State)


@pytest.mark.parametrize(("source", "event"), [(s, i) for s in State for i in Input])
def test_the_table_keeps_the_two_facts_apart(source: State, event: Input) -> None:
    """VBUS inputs change ``powered`` only, add and remove ``occupied`` only, the rest neither."""
    target = TABLE.get((source, event))
    if target is None:
        return
    assert target.powered == {HIGH: True, LOW: False}.get(event, source.powered)
    assert target.occupied == {ADD: True, REMOVE: False}.get(event, source.occupied)
    if event in (HIGH, LOW):
        assert source.powered != target.powered
    if event in (ADD, REMOVE):
        assert source.occupied != target.occupied


def test_an_add_without_vbus_is_illegal_everywhere() -> None:
    assert not [state for state in State if not state.powered and (state, ADD) in TABLE]


def test_a_transition_says_all() -> None:
    machine = PortMachine(PORT)
    assert machine.feed(HIGH, 7) == Transition(PORT, State.IDLE, HIGH, State.CONNECTING, 7)
    assert machine.since_ns == 7
    assert machine.feed(HIGH, 8) is None
    assert machine.illegal == (IllegalTransition(PORT, State.CONNECTING, HIGH, 8),)
    assert machine.since_ns == 7


def test_illegal_transitions_are_bounded_and_all_counted() -> None:
    machine = PortMachine(PORT, keep_illegal=3)
    for t_ns in range(10):
        machine.feed(REMOVE, t_ns)
    assert machine.illegal_count == 10
    assert [illegal.t_ns for illegal in machine.illegal] == [7, 8, 9]


def test_coldplug_may_start_in_any_state() -> None:
    machine = PortMachine(PORT, State.ACTIVE)
    assert machine.feed(LOW, 1) == Transition(PORT, State.ACTIVE, LOW, State.DETACHED, 1)


@given(st.lists(st.sampled_from(["toggle", "kernel looks"]), max_size=60))
def test_a_world_in_which_nothing_is_lost_is_legal(steps: list[str]) -> None:
    """VBUS toggles at will; when the kernel looks, it removes what has gone, then adds what has come."""
    machine = PortMachine(PORT)
    powered = occupied = stale = False
    for t_ns, step in enumerate(steps):
        if step == "toggle":
            powered = not powered
            stale = stale or not powered
            machine.feed(HIGH if powered else LOW, t_ns)
        else:
            if occupied and stale:
                machine.feed(REMOVE, t_ns)
                occupied = False
            stale = False
            if powered and not occupied:
                machine.feed(ADD, t_ns)
                occupied = True
        assert (machine.state.powered, machine.state.occupied) == (powered, occupied)
    assert machine.illegal_count == 0


@given(st.lists(st.sampled_from(Input), max_size=60))
def test_an_illegal_input_leaves_the_state(inputs: list[Input]) -> None:
    machine = PortMachine(PORT)
    illegal = 0
    for t_ns, event in enumerate(inputs):
        before = machine.state
        transition = machine.feed(event, t_ns)
        if transition is None:
            illegal += 1
            assert machine.state is before
        else:
            assert (transition.source, transition.target) == (before, machine.state)
    assert machine.illegal_count == illegal


def test_the_diagram_holds_every_transition_and_nothing_else() -> None:
    drawn = set()
    for line in diagram().splitlines():
        if "-->" in line and "[*]" not in line:
            arrow, _, events = line.strip().partition(" : ")
            source, _, target = arrow.partition(" --> ")
            drawn |= {(State(source), Input(event), State(target)) for event in events.split(", ")}
    assert drawn == {(source, event, target) for (source, event), target in TABLE.items()}


def test_the_markdown_has_a_row_for_every_state() -> None:
    rows = [line.split("|")[1].strip() for line in markdown().splitlines() if line.startswith("| ")]
    assert rows == ["state", *State]
    assert markdown().startswith("```mermaid\nstateDiagram-v2\n")
