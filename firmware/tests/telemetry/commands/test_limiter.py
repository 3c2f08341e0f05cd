from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from plugmeter.telemetry.commands.limiter import Limiter

SECOND = 1_000_000_000


def test_a_burst_and_then_its_rate() -> None:
    limiter = Limiter(3, 2.0)
    assert [limiter.take(0) for _ in range(4)] == [True, True, True, False]
    assert [limiter.take(SECOND) for _ in range(3)] == [True, True, False]
    assert [limiter.take(1_000 * SECOND) for _ in range(4)] == [True, True, True, False]


def test_time_that_goes_back_gives_nothing() -> None:
    limiter = Limiter(1, 1.0)
    assert limiter.take(10 * SECOND)
    assert not limiter.take(0)
    assert limiter.take(SECOND)


@given(
    st.integers(1, 20),
    st.floats(0.1, 100),
    st.lists(st.integers(0, 3 * SECOND), min_size=1, max_size=100),
)
def test_never_more_than_the_burst_and_the_rate(burst: int, per_s: float, steps: list[int]) -> None:
    limiter = Limiter(burst, per_s)
    now_ns = taken = 0
    for step in steps:
        now_ns += step
        taken += limiter.take(now_ns)
        assert taken <= burst + now_ns / 1e9 * per_s + 1e-6
    assert taken >= 1
