from __future__ import annotations

import select
import threading

from hypothesis import given
from hypothesis import strategies as st

from plugmeter.records import Edge, Gap
from plugmeter.witnesses.edge_handoff import EdgeHandoff


def readable(handoff: EdgeHandoff) -> bool:
    poll = select.poll()
    poll.register(handoff.fileno(), select.POLLIN)
    return bool(poll.poll(0))


@given(st.integers(1, 8), st.lists(st.integers(0, 20), max_size=10))
def test_what_is_put_is_taken_or_counted(capacity: int, bursts: list[int]) -> None:
    handoff = EdgeHandoff(capacity)
    try:
        for burst in bursts:
            for index in range(burst):
                handoff.put("1-1", index % 2 == 0)
            assert readable(handoff) is (burst > 0)
            assert handoff.pending() == burst
            records = handoff.take()
            edges = [record for record in records if isinstance(record, Edge)]
            gaps = [record for record in records if isinstance(record, Gap)]
            assert [edge.rising for edge in edges] == [i % 2 == 0 for i in range(min(burst, capacity))]
            assert [gap.count for gap in gaps] == ([burst - capacity] if burst > capacity else [])
            if gaps:
                assert records[-1] is gaps[0]
                assert edges[-1].t_ns == gaps[0].since_ns <= gaps[0].t_ns
            assert not readable(handoff)
        assert handoff.offered == sum(bursts)
        assert handoff.pending() == 0
    finally:
        handoff.close()


def test_many_threads_put_and_nothing_is_uncounted() -> None:
    handoff, each, got = EdgeHandoff(50), 2_000, 0

    def put_each() -> None:
        for _ in range(each):
            handoff.put("1-1", True)

    threads = [threading.Thread(target=put_each) for _ in range(3)]
    for thread in threads:
        thread.start()
    last_ns = 0
    while got < 3 * each:
        for record in handoff.take():
            got += 1 if isinstance(record, Edge) else record.count or 0
            assert record.t_ns >= last_ns
            last_ns = record.t_ns
    for thread in threads:
        thread.join()
    assert handoff.offered == got == 3 * each
    handoff.close()


def test_a_closed_handoff_takes_nothing_more() -> None:
    handoff = EdgeHandoff(5)
    handoff.put("1-1", True)
    handoff.close()
    handoff.close()
    handoff.put("1-1", False)
    assert handoff.offered == 1
    assert [type(record) for record in handoff.take()] == [Edge]
