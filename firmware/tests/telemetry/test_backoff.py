"""Decorrelated jitter: always within its bounds, begun anew only after a stable connection."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugmeter.telemetry.backoff import Backoff


@given(st.lists(st.floats(0, 10_000), min_size=1, max_size=50), st.integers(0, 2**32))
def test_delays_stay_within_their_bounds(lasted: list[float], seed: int) -> None:
    backoff = Backoff(random.Random(seed).uniform, base_s=1.0, cap_s=30.0, stable_s=60.0)
    before = 1.0
    for each in lasted:
        if each >= 60.0:
            before = 1.0
        delay = backoff.after_failure(each)
        assert 1.0 <= delay <= min(30.0, 3.0 * before)
        before = delay


def test_grows_to_the_cap_with_the_worst_luck_and_begins_anew_after_a_stable_time() -> None:
    backoff = Backoff(lambda low, high: high, base_s=1.0, cap_s=20.0, stable_s=60.0)
    assert [backoff.after_failure() for _ in range(4)] == [3.0, 9.0, 20.0, 20.0]
    assert backoff.after_failure(59.9) == 20.0  # flapping is no success
    assert backoff.after_failure(60.0) == 3.0
    backoff.after_failure()
    backoff.reset()
    assert backoff.after_failure() == 3.0


@pytest.mark.parametrize(("base", "cap"), [(0.0, 1.0), (2.0, 1.0), (-1.0, 1.0)])
def test_refuses_nonsense(base: float, cap: float) -> None:
    with pytest.raises(ValueError, match="base_s"):
        Backoff(random.uniform, base_s=base, cap_s=cap)
