"""The table of the stages: what it has, what it must never do."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugmeter.lifecycle.actions import Actions
from plugmeter.lifecycle.audit import (
    RELOAD_REFUSED_MESSAGE_ID,
    SIGNAL_MESSAGE_ID,
    TRANSITION_MESSAGE_IDS,
)
from plugmeter.lifecycle.stages import FAILURES, STAGES, TABLE, Event, Stage, StageMachine, diagram, markdown

ORDER = list(Stage)

events = st.lists(st.sampled_from(Event), max_size=30)


def fed(*happened: Event) -> StageMachine:
    machine = StageMachine()
    for event in happened:
        machine.feed(event)
    return machine


@pytest.mark.parametrize(
    ("happened", "stages"),
    [
        ("ready term dry drained", "running terminating draining stopped"),
        ("ready int deadline deadline", "running terminating draining stopped"),
        ("term dry drained", "terminating draining stopped"),
        ("ready hup hup term", "running running running terminating"),
        ("ready term force", "running terminating stopped"),
        ("ready term dry force", "running terminating draining stopped"),
        ("fatal defect defect", "terminating draining stopped"),
        ("deadline dry drained", "terminating draining stopped"),
        ("ready restart dry drained", "running terminating draining stopped"),
        # what a stage has no use for
        ("hup", "initializing"),
        ("dry drained force", "initializing initializing initializing"),
        ("ready deadline dry drained force", "running running running running running"),
        ("ready term term int hup restart", "running" + " terminating" * 5),
        ("ready term fatal", "running terminating terminating"),
        ("ready term dry hup fatal dry", "running terminating draining draining draining draining"),
    ],
)
def test_paths(happened: str, stages: str) -> None:
    machine = StageMachine()
    found = []
    for word in happened.split():
        machine.feed(Event(word))
        found.append(machine.stage.value)
    assert found == stages.split()


@given(events)
def test_no_sequence_leaves_the_table_or_goes_back(happened: list[Event]) -> None:
    machine = StageMachine()
    seen = [machine.stage]
    for event in happened:
        before = machine.stage
        transition = machine.feed(event)
        if transition is None:
            assert machine.stage is before
            assert (before, event) not in TABLE
        else:
            assert transition == (before, event, machine.stage)
            assert TABLE[before, event] is machine.stage
        seen.append(machine.stage)
    for before, after in pairwise(seen):
        assert ORDER.index(after) >= ORDER.index(before)


@given(events, st.sampled_from([Event.DEADLINE, Event.DEFECT, Event.FORCE]))
def test_from_everywhere_the_end_is_near(happened: list[Event], way: Event) -> None:
    """Once told to stop, deadlines alone lead to the end; so do defects; and a second signal at once."""
    machine = fed(*happened, Event.TERM)
    assert machine.stage.stopping
    steps = 0
    while machine.stage is not Stage.STOPPED:
        assert machine.feed(way) is not None
        steps += 1
    assert steps <= (1 if way is Event.FORCE else 2)


@given(events)
def test_only_force_leaves_out_a_stage(happened: list[Event]) -> None:
    machine = StageMachine()
    for event in happened:
        transition = machine.feed(event)
        if transition is None or not transition.moves:
            continue
        left_out = ORDER.index(transition.target) - ORDER.index(transition.source) - 1
        straight_to_the_stop = (Stage.INITIALIZING, Stage.TERMINATING)
        if left_out and (transition.source, transition.target) != straight_to_the_stop:
            assert event is Event.FORCE


@given(events)
def test_a_failure_is_never_forgotten(happened: list[Event]) -> None:
    machine = StageMachine()
    failed = False
    for event in happened:
        stage = machine.stage
        failed |= stage is not Stage.STOPPED and event in FAILURES
        failed |= (stage, event) == (Stage.INITIALIZING, Event.DEADLINE)
        machine.feed(event)
        assert machine.failed is failed


def test_every_stage_can_be_reached_and_is_told_of() -> None:
    reached = {Stage.INITIALIZING} | set(TABLE.values())
    assert reached == set(Stage) == set(STAGES)
    assert not [source for source, _ in TABLE if source is Stage.STOPPED]


def test_the_actions_of_the_table_are_those_of_the_protocol() -> None:
    for row in STAGES.values():
        assert not row.entry or hasattr(Actions, row.entry)
    for name in ("ready", "intake", "backlog"):
        assert sum(f"{name}()" in row.exit for row in STAGES.values()) == 1
        assert hasattr(Actions, name)


def test_each_arrow_has_a_message_id_of_its_own() -> None:
    arrows = {(source, target) for (source, _), target in TABLE.items()}
    assert set(TRANSITION_MESSAGE_IDS) == arrows
    ids = [*TRANSITION_MESSAGE_IDS.values(), SIGNAL_MESSAGE_ID, RELOAD_REFUSED_MESSAGE_ID]
    assert len(set(ids)) == len(ids)
    assert all(len(each) == 32 and int(each, 16) >= 0 and each[12] == "4" for each in ids)


def test_the_documentation_has_all_of_it() -> None:
    text = diagram()
    for (source, event), target in TABLE.items():
        (line,) = [line for line in text.splitlines() if line.startswith(f"    {source} --> {target} : ")]
        assert event in line.partition(" : ")[2].split(", ")
    rows = {line.split(" | ")[0].removeprefix("| "): line for line in markdown().splitlines()}
    cells = [cell.strip() for cell in rows["draining"].strip("|").split("|")]
    assert cells[1:] == [TABLE.get((Stage.DRAINING, event), "–") for event in Event]
    assert markdown().startswith("```mermaid\nstateDiagram-v2\n    [*] --> initializing\n")
