"""The deadline of a stop: who gets more time, and that the cap is the cap."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugmeter.lifecycle.deadline import (
    CLOSING_NS,
    EXTENSION_NS,
    RECENT_NS,
    SHORTEST_EXTENSION_NS,
    Deadline,
    Decision,
    Verdict,
    Work,
    told,
)

S = 1_000_000_000
GO_ON = Verdict(Decision.GO_ON)
RUN_OUT = Verdict(Decision.RUN_OUT)
FINISHED = Verdict(Decision.FINISHED)


def one(items: int, expected_s: float | None = None) -> list[Work]:
    return [Work("records", items, expected_s)]


def test_nothing_to_do_is_finished_at_once() -> None:
    deadline = Deadline(0, 60 * S)
    deadline.begin(0, 10 * S)
    assert deadline.decide(0, []) == FINISHED
    assert deadline.decide(0, one(0)) == FINISHED
    assert deadline.decide(99 * S, one(0)) == FINISHED  # however late


def test_a_dead_broker_costs_the_planned_time_and_no_more() -> None:
    deadline = Deadline(0, 60 * S)
    deadline.begin(S, 10 * S)
    assert deadline.decide(11 * S - 1, one(7)) == GO_ON
    assert deadline.decide(11 * S, one(7)) == RUN_OUT
    assert deadline.extensions == 0


def test_progress_just_before_earns_more_and_systemd_is_asked() -> None:
    deadline = Deadline(0, 60 * S)
    deadline.begin(0, 10 * S)
    assert deadline.decide(9 * S, one(100)) == GO_ON
    assert deadline.decide(10 * S - 1, one(99)) == GO_ON
    assert deadline.decide(10 * S, one(99)) == Verdict(Decision.GO_ON, (EXTENSION_NS + CLOSING_NS) // 1000)
    assert deadline.ends_ns == 10 * S + EXTENSION_NS
    assert deadline.decide(10 * S + EXTENSION_NS, one(99)) == RUN_OUT


@pytest.mark.parametrize(("late_ns", "verdict"), [(0, Decision.GO_ON), (1, Decision.RUN_OUT)])
def test_progress_long_ago_earns_nothing(late_ns: int, verdict: Decision) -> None:
    deadline = Deadline(0, 60 * S)
    deadline.begin(0, 10 * S)
    deadline.decide(0, one(100))
    deadline.decide(10 * S - RECENT_NS - late_ns, one(99))
    assert deadline.decide(10 * S, one(99)).decision is verdict


def test_to_and_fro_is_no_progress() -> None:
    deadline = Deadline(0, 60 * S)
    deadline.begin(0, 2 * S)
    for now_ns, items in enumerate([5, 9, 6, 8, 5, 9], start=1):
        assert deadline.decide(S + now_ns, one(items)) == GO_ON
    assert deadline.decide(2 * S, one(5)) == RUN_OUT


def test_one_component_that_moves_is_enough() -> None:
    deadline = Deadline(0, 60 * S)
    deadline.begin(0, 2 * S)
    deadline.decide(0, [Work("records", 5), Work("runs", 1)])
    verdict = deadline.decide(2 * S, [Work("records", 4), Work("runs", 1)])
    assert verdict.decision is Decision.GO_ON
    assert verdict.extend_usec is not None


@pytest.mark.parametrize(
    ("expected_s", "extension_ns"),
    [
        (None, EXTENSION_NS),
        (1.0, S),
        (0.0, SHORTEST_EXTENSION_NS),
        (1e9, EXTENSION_NS),
        (float("nan"), EXTENSION_NS),
        (float("inf"), EXTENSION_NS),
        (-1.0, EXTENSION_NS),
    ],
)
def test_the_extension_is_what_is_expected_within_limits(expected_s: float | None, extension_ns: int) -> None:
    deadline = Deadline(0, 60 * S)
    deadline.begin(0, S)
    deadline.decide(0, one(2, expected_s))
    deadline.decide(S, one(1, expected_s))
    assert deadline.ends_ns == S + extension_ns


def test_a_new_stage_begins_without_the_old_ones_progress() -> None:
    deadline = Deadline(0, 60 * S)
    deadline.begin(0, S)
    deadline.decide(0, one(2))
    deadline.decide(S - 1, one(1))
    deadline.begin(S, S // 2)
    assert deadline.decide(S + S // 2, one(1)) == RUN_OUT


steps = st.lists(
    st.tuples(st.integers(0, 3 * S), st.lists(st.integers(0, 20), max_size=3)), min_size=1, max_size=60
)


@given(st.integers(0, 10 * S), st.integers(0, 40 * S), st.integers(0, 20 * S), steps)
def test_never_beyond_the_cap(
    begun_ns: int, budget_ns: int, cap_ns: int, turns: list[tuple[int, list[int]]]
) -> None:
    deadline = Deadline(begun_ns, cap_ns)
    deadline.begin(begun_ns, budget_ns)
    now_ns = begun_ns
    for step_ns, items in turns:
        now_ns += step_ns
        planned_ns = deadline.ends_ns
        verdict = deadline.decide(now_ns, [Work(f"kind {n}", each) for n, each in enumerate(items)])
        assert deadline.ends_ns <= begun_ns + cap_ns
        if not any(items):
            assert verdict.decision is Decision.FINISHED
        elif now_ns >= begun_ns + cap_ns:
            assert verdict == RUN_OUT
        if verdict.extend_usec is not None:
            assert verdict.decision is Decision.GO_ON
            assert planned_ns <= now_ns < deadline.ends_ns
            assert verdict.extend_usec * 1000 <= deadline.ends_ns - now_ns + CLOSING_NS
        else:
            assert deadline.ends_ns == planned_ns


@given(st.integers(1, 30), st.integers(0, 10 * S))
def test_whoever_does_nothing_runs_out_at_the_planned_time(items: int, budget_ns: int) -> None:
    deadline = Deadline(0, 60 * S)
    deadline.begin(0, budget_ns)
    for now_ns in range(0, budget_ns, S // 2):
        assert deadline.decide(now_ns, one(items)) == GO_ON
    assert deadline.decide(budget_ns, one(items)) == RUN_OUT


def test_told_in_words() -> None:
    works = [Work("records to publish", 1200, 3.04), Work("runs to end", 0, 1), Work("calls", 2)]
    assert told(works) == "1,200 records to publish (about 3.0 s), 2 calls"
    assert told([]) == told(one(0)) == "nothing left"
