"""The hand-off benchmark: every candidate hands over all that was put in, and the ring is eligible."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from plugmeter.bench import handoff
from plugmeter.bench.handoff import CANDIDATES, compare, time_once


@pytest.mark.parametrize("candidate", CANDIDATES, ids=lambda each: each.name)
def test_every_candidate_hands_all_over(candidate: Any) -> None:
    assert time_once(candidate.make, 10 * handoff.BATCH) > 0


def test_compare_says_it_all() -> None:
    results = {each.name: each for each in compare(events=10 * handoff.BATCH, runs=1)}
    assert results["ring"].eligible
    assert results["queue.Queue"].ratio_to_queue == 1
    assert results["ring"].blocks_per_event < results["queue.Queue"].blocks_per_event
    assert not results["queue.SimpleQueue"].eligible
    assert results["ring"].ring_ratio == 1
    assert {each.eligible == (each.when_full == handoff.WAITS) for each in results.values()} == {True}


@pytest.mark.parametrize(
    "candidate", [each for each in CANDIDATES if each.eligible], ids=lambda each: each.name
)
def test_a_full_one_waits_and_loses_nothing(candidate: Any) -> None:
    hand_off = candidate.make()
    batches = handoff.CAPACITY // handoff.BATCH
    for _ in range(batches):
        hand_off.put(handoff.BATCH)
    done = threading.Event()

    def one_more() -> None:
        hand_off.put(handoff.BATCH)
        done.set()

    producer = threading.Thread(target=one_more, daemon=True)
    producer.start()
    assert not done.wait(0.05)
    taken = 0
    while taken < (batches + 1) * handoff.BATCH:
        taken += hand_off.take()
    producer.join()
    assert done.is_set()
    assert taken == (batches + 1) * handoff.BATCH
