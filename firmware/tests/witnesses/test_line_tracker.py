from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from plugmeter.records import Edge, Gap
from plugmeter.witnesses.line_tracker import KernelEdge, LineTracker

SINCE_NS = 1_000
TIMES = st.integers(min_value=1, max_value=10_000)
# (time to the next event, level, events lost before it)
EVENTS = st.lists(st.tuples(TIMES, st.booleans(), st.integers(0, 2_000)), max_size=60)


def kernel_edges(events: list[tuple[int, bool, int]]) -> list[KernelEdge]:
    t_ns, line_seqno, edges = SINCE_NS, 0, []
    for wait_ns, rising, lost in events:
        t_ns += wait_ns
        line_seqno += lost + 1
        edges.append(KernelEdge(t_ns, rising, line_seqno))
    return edges


def test_a_line_without_loss_is_its_edges() -> None:
    tracker = LineTracker("1-1", SINCE_NS)
    assert tracker.take([KernelEdge(2_000, True, 1), KernelEdge(3_000, False, 2)]) == [
        Edge(2_000, "1-1", True, 1),
        Edge(3_000, "1-1", False, 2),
    ]
    assert (tracker.last_seqno, tracker.seen, tracker.lost) == (2, 2, 0)


def test_a_jump_by_k_is_a_gap_of_k_before_its_edge() -> None:
    tracker = LineTracker("1-1", SINCE_NS)
    tracker.take([KernelEdge(2_000, True, 1)])
    assert tracker.take([KernelEdge(9_000, False, 12)]) == [
        Gap(9_000, "gpio", "gpio_fifo", 10, 2_000),
        Edge(9_000, "1-1", False, 12),
    ]


def test_events_that_are_missing_at_the_start_are_lost_since_the_request() -> None:
    assert LineTracker("1-1", SINCE_NS).take([KernelEdge(5_000, True, 4)])[0] == Gap(
        5_000, "gpio", "gpio_fifo", 3, SINCE_NS
    )


def test_active_low_turns_the_direction_round() -> None:
    (edge,) = LineTracker("1-1", SINCE_NS, active_high=False).take([KernelEdge(2_000, False, 1)])
    assert edge == Edge(2_000, "1-1", True, 1)


@given(EVENTS, st.integers(1, 10))
def test_every_event_is_seen_or_counted_as_lost(events: list[tuple[int, bool, int]], at_once: int) -> None:
    edges = kernel_edges(events)
    tracker = LineTracker("1-1", SINCE_NS)
    records = []
    for start in range(0, len(edges), at_once):
        records += tracker.take(edges[start : start + at_once])
    seen = [record for record in records if isinstance(record, Edge)]
    gaps = [record for record in records if isinstance(record, Gap)]
    assert [(edge.t_ns, edge.rising, edge.line_seqno) for edge in seen] == [
        (edge.t_ns, edge.rising, edge.line_seqno) for edge in edges
    ]
    assert [gap.count for gap in gaps] == [lost for _, _, lost in events if lost]
    assert tracker.last_seqno == len(seen) + sum(gap.count or 0 for gap in gaps)
    assert (tracker.seen, tracker.lost) == (len(seen), tracker.last_seqno - len(seen))
    assert all(gap.since_ns <= gap.t_ns for gap in gaps)
    assert [record.t_ns for record in records] == sorted(record.t_ns for record in records)


@given(st.lists(st.builds(KernelEdge, st.integers(0, 99), st.booleans(), st.integers(0, 9)), max_size=30))
def test_numbers_that_no_sound_kernel_gives_are_never_taken_for_complete(edges: list[KernelEdge]) -> None:
    records = LineTracker("1-1", 50).take(edges)
    assert [record.line_seqno for record in records if isinstance(record, Edge)] == [
        edge.line_seqno for edge in edges
    ]
    contiguous = [edge.line_seqno for edge in edges] == list(range(1, len(edges) + 1))
    assert any(isinstance(record, Gap) for record in records) is not contiguous
    assert all(gap.since_ns <= gap.t_ns for gap in records if isinstance(gap, Gap))
