"""The timeline: one order out of many, nothing lost, nothing early."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from plugmeter.measure.timeline import Timeline
from plugmeter.records import NodeEvent, Record


def event(t_ns: int, name: str = "") -> NodeEvent:
    return NodeEvent(t_ns, "create", name)


def nodes(records: list[Record]) -> list[NodeEvent]:
    return [record for record in records if isinstance(record, NodeEvent)]


def test_records_come_out_in_order_up_to_the_watermark() -> None:
    timeline = Timeline()
    timeline.add([event(30), event(10), event(20)])
    assert timeline.release(20) == [event(10), event(20)]
    assert len(timeline) == 1
    timeline.add([event(25)])
    assert timeline.release(100) == [event(25), event(30)]
    assert timeline.stragglers == 0


def test_a_straggler_comes_out_and_is_counted() -> None:
    timeline = Timeline()
    timeline.release(50)
    timeline.add([event(40), event(60)])
    assert timeline.release(60) == [event(40), event(60)]
    assert timeline.stragglers == 1


@given(st.lists(st.tuples(st.integers(0, 50), st.booleans()), max_size=40))
def test_nothing_is_lost_and_equal_times_keep_their_order(steps: list[tuple[int, bool]]) -> None:
    timeline = Timeline()
    given_in: list[NodeEvent] = []
    out: list[Record] = []
    for place, (t_ns, is_release) in enumerate(steps):
        if is_release:
            out += timeline.release(t_ns)
        else:
            given_in.append(event(t_ns, str(place)))
            timeline.add(given_in[-1:])
    out += timeline.release(100)
    assert sorted(nodes(out), key=lambda e: int(e.name)) == given_in
    assert len(timeline) == 0


@given(st.lists(st.integers(0, 20), max_size=30))
def test_without_stragglers_the_order_is_total(times: list[int]) -> None:
    timeline = Timeline()
    timeline.add([event(t_ns, str(place)) for place, t_ns in enumerate(times)])
    out = timeline.release(20)
    assert [(e.t_ns, int(e.name)) for e in nodes(out)] == sorted((t, p) for p, t in enumerate(times))
