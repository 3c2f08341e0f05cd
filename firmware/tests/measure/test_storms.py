"""Storms: a table of groupings, and that nothing gets lost between them."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plugmeter.measure.storms import Storm, storms


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        ([], []),
        ([(5, True)], [Storm(5, 5, 1, 1)]),
        ([(0, False), (10, True), (20, False)], [Storm(0, 20, 3, 1)]),
        ([(0, False), (10, True), (21, True)], [Storm(0, 10, 2, 1), Storm(21, 21, 1, 1)]),
        ([(21, True), (0, False), (10, True)], [Storm(0, 10, 2, 1), Storm(21, 21, 1, 1)]),
        ([(7, True), (7, False)], [Storm(7, 7, 2, 1)]),
        ([(-30, False), (0, True)], [Storm(-30, -30, 1, 0), Storm(0, 0, 1, 1)]),
    ],
)
def test_events_are_grouped_by_quiet_of_more_than_10_ns(
    events: list[tuple[int, bool]], expected: list[Storm]
) -> None:
    assert storms(events, quiet_ns=10) == expected


@given(st.lists(st.tuples(st.integers(0, 10_000), st.booleans())), st.integers(0, 500))
@settings(deadline=None)
def test_storms_conserve_and_are_apart(events: list[tuple[int, bool]], quiet_ns: int) -> None:
    found = storms(iter(events), quiet_ns)
    assert sum(storm.n for storm in found) == len(events)
    assert sum(storm.lost for storm in found) == sum(lost for _, lost in events)
    for storm in found:
        inside = [event for event in events if storm.t_from_ns <= event[0] <= storm.t_until_ns]
        assert (storm.n, storm.lost) == (len(inside), sum(lost for _, lost in inside))
        times = sorted(t_ns for t_ns, _ in inside)
        assert all(later - earlier <= quiet_ns for earlier, later in pairwise(times))
    assert all(later.t_from_ns - earlier.t_until_ns > quiet_ns for earlier, later in pairwise(found))


def test_a_negative_quiet_time_is_a_defect() -> None:
    with pytest.raises(ValueError, match="quiet time"):
        storms([], -1)
