from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from plugmeter.errors import UsageError
from plugmeter.rigs.sequence import MINIMUM_GAP_MS, SequencePlan, Step, plan

# A busy machine is no defect: nothing here is judged by the clock.
PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

MS = 1_000_000
PORTS = tuple(f"1-{number}" for number in range(1, 25))


@st.composite
def plans(draw: st.DrawFn) -> SequencePlan:
    sticks = draw(st.integers(1, 13))
    ports = PORTS[: draw(st.integers(1, 12))]
    gap_ms = draw(st.one_of(st.sampled_from((50.0, 64.0, 65.0, 250.0)), st.floats(50, 1000)))
    keywords: dict[str, Any] = {
        "sticks": sticks,
        "cycles": draw(st.integers(1, 7)),
        "ports": ports,
        "gap_ms": gap_ms,
        "jitter_ms": draw(st.sampled_from((0.0, 15.0, 15.0, 40.0))),
        "seed": draw(st.integers(0, 2**32)),
        "bounce": draw(st.sampled_from(("none", "contact", "dip"))),
    }
    if draw(st.booleans()):
        # As near to what the ports and sticks can carry as it goes, or anything below.
        hold_ms = max(gap_ms, 300 + keywords["jitter_ms"]) if keywords["bounce"] == "dip" else gap_ms
        most = min(
            len(ports) * 1e3 / (hold_ms + gap_ms), sticks * 1e3 / (hold_ms + 50 + 2 * keywords["jitter_ms"])
        )
        keywords["density_per_s"] = most * draw(st.one_of(st.just(1.0), st.floats(0.01, 1.0)))
    return SequencePlan(**keywords)


def by_port(steps: list[Step]) -> dict[str, list[Step]]:
    lanes: dict[str, list[Step]] = {}
    for step in steps:
        lanes.setdefault(step.port, []).append(step)
    return lanes


@PATIENT
@given(plans())
def test_every_stick_is_plugged_cycles_times_and_every_plug_is_pulled(sequence: SequencePlan) -> None:
    steps = plan(sequence)
    for plugged in (True, False):
        counts = [0] * sequence.sticks
        for step in steps:
            if step.plugged is plugged:
                counts[step.stick] += 1
        assert counts == [sequence.cycles] * sequence.sticks


@PATIENT
@given(plans())
def test_steps_are_strictly_ordered_and_not_before_the_start(sequence: SequencePlan) -> None:
    times = [step.t_offset_ns for step in plan(sequence)]
    assert times[0] >= 0
    assert all(a < b for a, b in itertools.pairwise(times))


@PATIENT
@given(plans())
def test_a_port_alternates_and_pulls_what_was_plugged(sequence: SequencePlan) -> None:
    for steps in by_port(plan(sequence)).values():
        assert [step.plugged for step in steps] == [True, False] * (len(steps) // 2)
        assert [step.stick for step in steps[::2]] == [step.stick for step in steps[1::2]]


@PATIENT
@given(plans())
def test_the_gap_holds_whatever_the_jitter(sequence: SequencePlan) -> None:
    floor_ns = int(max(MINIMUM_GAP_MS, sequence.gap_ms - sequence.jitter_ms) * 1e3) * 1000
    for steps in by_port(plan(sequence)).values():
        for a, b in itertools.pairwise(steps):
            assert b.t_offset_ns - a.t_offset_ns >= floor_ns


@PATIENT
@given(plans())
def test_no_stick_is_in_two_ports_at_once(sequence: SequencePlan) -> None:
    inside: dict[int, str] = {}
    for step in plan(sequence):
        if step.plugged:
            assert step.stick not in inside
            inside[step.stick] = step.port
        else:
            assert inside.pop(step.stick) == step.port


@PATIENT
@given(plans())
def test_every_action_is_within_the_jitter_of_the_grid(sequence: SequencePlan) -> None:
    grid = sequence.grid()
    slack_ns = sequence.jitter_ms * MS + 2_000  # rounding to µs, and the port's number in ns
    for plugged, shift_ms in ((True, 0.0), (False, grid.hold_ms)):
        mine = [step for step in plan(sequence) if step.plugged is plugged]
        lanes = {port: iter(steps) for port, steps in by_port(mine).items()}
        for pair in range(sequence.pairs):
            step = next(lanes[sequence.ports[pair % len(sequence.ports)]])
            nominal_ns = (sequence.jitter_ms + pair * grid.slot_ms + shift_ms) * MS
            assert abs(step.t_offset_ns - nominal_ns) <= slack_ns


@PATIENT
@given(plans())
def test_a_density_asked_for_is_the_distance_on_the_grid(sequence: SequencePlan) -> None:
    assume(sequence.density_per_s is not None)
    assert sequence.grid().slot_ms == pytest.approx(1e3 / (sequence.density_per_s or 0))


@PATIENT
@given(plans())
def test_pulses_end_at_the_level_before_the_next_action(sequence: SequencePlan) -> None:
    for steps in by_port(plan(sequence)).values():
        for step, following in itertools.pairwise([*steps, None]):
            assert step is not None
            levels = [step.plugged, *(high for _, high in step.pulses)]
            offsets = [0, *(offset_ns for offset_ns, _ in step.pulses)]
            assert levels[-1] is step.plugged
            assert all(a is not b for a, b in itertools.pairwise(levels))
            assert all(a < b for a, b in itertools.pairwise(offsets))
            if following is not None:
                assert step.t_offset_ns + offsets[-1] < following.t_offset_ns


@PATIENT
@given(plans())
def test_a_seed_gives_the_same_plan_again(sequence: SequencePlan) -> None:
    assert plan(sequence) == plan(sequence)


def test_another_seed_gives_another_plan() -> None:
    assert plan(SequencePlan(4, 2, PORTS[:4], seed=1)) != plan(SequencePlan(4, 2, PORTS[:4], seed=2))


@pytest.mark.parametrize(("sticks", "ports"), [(12, 4), (4, 4), (2, 2), (3, 4), (1, 4), (6, 4), (120, 4)])
def test_sticks_come_to_other_ports(sticks: int, ports: int) -> None:
    steps = plan(SequencePlan(sticks, 4, PORTS[:ports]))
    for stick in range(sticks):
        visited = [step.port for step in steps if step.plugged and step.stick == stick]
        assert all(a != b for a, b in itertools.pairwise(visited))


def test_contact_bounces_are_two_to_five_of_one_to_ten_ms() -> None:
    steps = plan(SequencePlan(20, 10, PORTS[:4], bounce="contact"))
    counts = {len(step.pulses) // 2 for step in steps}
    assert counts == {2, 3, 4, 5}
    for step in steps:
        offsets = [0, *(offset_ns for offset_ns, _ in step.pulses)]
        assert all(1 * MS <= b - a <= 10 * MS for a, b in itertools.pairwise(offsets))


def test_a_dip_is_between_two_levels_that_the_debounce_takes_for_stable() -> None:
    for steps in by_port(plan(SequencePlan(20, 10, PORTS[:4], bounce="dip"))).values():
        for plug, pull in zip(steps[::2], steps[1::2], strict=True):
            (opens_ns, low), (closes_ns, high) = plug.pulses
            assert (low, high) == (False, True)
            assert 20 * MS <= closes_ns - opens_ns <= 60 * MS
            assert opens_ns >= 120 * MS
            assert pull.t_offset_ns - plug.t_offset_ns - closes_ns >= 120 * MS
            assert pull.pulses == ()


def test_custom_pulses_are_inverted_at_the_pull() -> None:
    pulses = ((3 * MS, False), (5 * MS, True))
    plug, pull = plan(SequencePlan(1, 1, ("1-1",), bounce="custom", pulses=pulses))
    assert plug.pulses == pulses
    assert pull.pulses == ((3 * MS, True), (5 * MS, False))


PLAIN: dict[str, Any] = {"sticks": 2, "cycles": 2, "ports": ("1-1", "1-2")}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"gap_ms": 49.9}, "the minimum gap is 50 ms per port"),
        ({"gap_ms": float("nan")}, "the minimum gap is 50 ms per port"),
        ({"gap_ms": float("inf")}, "the minimum gap is 50 ms per port"),
        ({"sticks": 0}, "at least one stick"),
        ({"cycles": 0}, "at least one cycle"),
        ({"ports": ()}, "at least one port"),
        ({"ports": ("1-1", "1-2", "1-1")}, "port 1-1 is named twice"),
        ({"ports": tuple(f"1-{n}" for n in range(1001))}, "at most 1000 ports"),
        ({"jitter_ms": -1.0}, "jitter"),
        ({"jitter_ms": float("nan")}, "jitter"),
        ({"bounce": "wild"}, "no bounce pattern 'wild'"),
        ({"density_per_s": 0.0}, "above 0"),
        ({"density_per_s": float("nan")}, "above 0"),
        ({"density_per_s": 4.1}, "4.1 plugs/s need 3 ports at a gap of 250 ms, and there are 2"),
        ({"density_per_s": 110.0, "gap_ms": 50.0}, "110 plugs/s need 11 ports"),
        ({"density_per_s": 4.0, "sticks": 1}, "4 plugs/s need 2 sticks"),
        ({"pulses": ((1, False), (2, True))}, "pulses are for the bounce pattern custom"),
        ({"bounce": "custom"}, "at least two pulses"),
        ({"bounce": "custom", "pulses": ((2, False), (2, True))}, "offsets of custom pulses must rise"),
        ({"bounce": "custom", "pulses": ((1, True), (2, True))}, "must alternate"),
        ({"bounce": "custom", "pulses": ((1, False), (2, True), (3, False))}, "must alternate"),
        ({"bounce": "custom", "pulses": ((1, False), (400 * MS, True))}, "custom pulses end after 400 ms"),
    ],
)
def test_a_plan_that_cannot_be_is_refused_in_one_line(change: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError) as refusal:
        SequencePlan(**{**PLAIN, **change})
    assert says in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_density_just_carried_is_not_refused() -> None:
    sequence = SequencePlan(40, 3, PORTS[:11], gap_ms=50, density_per_s=110)
    plugs = [step.t_offset_ns for step in plan(sequence) if step.plugged]
    assert (plugs[-1] - plugs[0]) / MS == pytest.approx(119 * 1e3 / 110, abs=30)


def test_a_hundred_thousand_steps() -> None:
    assert len(plan(SequencePlan(500, 100, PORTS, bounce="contact"))) == 100_000
