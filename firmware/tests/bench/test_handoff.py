"""The hand-off benchmark: every candidate hands over all that was put in, and the ring is eligible."""

from __future__ import annotations

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
