"""Gap intervals against a plain list of all gaps."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from plugmeter.measure.gaps import GapIntervals
from plugmeter.records import Gap

SPANS = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 8)), max_size=20)


@given(SPANS, st.integers(0, 200), st.integers(0, 20))
def test_it_overlaps_where_any_gap_does(steps: list[tuple[int, int]], from_ns: int, length: int) -> None:
    intervals = GapIntervals(10**6)
    gaps = []
    t_ns = 10
    for step, back in steps:
        t_ns += step
        gaps.append((t_ns - back, t_ns))
        intervals.add(Gap(t_ns, "netlink", "socket_queue", 1, t_ns - back))
    until_ns = from_ns + length
    expected = any(since <= until_ns and until >= from_ns for since, until in gaps)
    assert intervals.overlaps("netlink", from_ns, until_ns) == expected
    assert not intervals.overlaps("udev", from_ns, until_ns)


def test_it_forgets() -> None:
    intervals = GapIntervals(100)
    for t_ns in range(0, 10_000, 10):
        intervals.add(Gap(t_ns, "udev", "socket_queue", 1, t_ns - 1))
    assert not intervals.overlaps("udev", 0, 9_000)
    assert intervals.overlaps("udev", 9_950, 9_951)
    assert len(intervals._intervals["udev"]) <= 12
