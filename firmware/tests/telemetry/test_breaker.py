"""The breaker as a table: what happened, when, and how it then stands."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugmeter.telemetry.breaker import Breaker, BreakerState, Kind

CLOSED, OPEN, HALF = BreakerState.CLOSED, BreakerState.OPEN, BreakerState.HALF_OPEN


def breaker() -> Breaker:
    return Breaker(lambda low, high: (low + high) / 2, first_s=300.0, longest_s=1_000.0)


@pytest.mark.parametrize(
    ("failures", "looks"),
    [
        ([], [(0, CLOSED)]),
        ([(0, Kind.NETWORK)], [(0, CLOSED)]),
        ([(0, Kind.REFUSED)], [(0, OPEN), (299, OPEN), (300, HALF), (9_999, HALF)]),
        ([(0, Kind.TLS)], [(299, OPEN), (300, HALF)]),
        ([(0, Kind.REFUSED), (300, Kind.REFUSED)], [(899, OPEN), (900, HALF)]),
        ([(0, Kind.REFUSED), (300, Kind.TLS), (900, Kind.TLS)], [(1_899, OPEN), (1_900, HALF)]),
        ([(0, Kind.TLS), (300, Kind.NETWORK)], [(301, HALF)]),
    ],
)
def test_states(failures: list[tuple[float, Kind]], looks: list[tuple[float, BreakerState]]) -> None:
    subject = breaker()
    for now, kind in failures:
        assert subject.failed(kind, now) == (kind is not Kind.NETWORK)
    for now, state in looks:
        assert subject.state(now) is state


def test_success_closes_it_and_forgets() -> None:
    subject = breaker()
    assert not subject.succeeded()
    subject.failed(Kind.REFUSED, 0)
    subject.failed(Kind.REFUSED, 300)
    assert subject.succeeded()
    assert subject.state(301) is CLOSED and subject.kind is None
    subject.failed(Kind.TLS, 1_000)
    assert subject.until_s == 1_300 and subject.kind is Kind.TLS


@given(st.lists(st.sampled_from(Kind), max_size=30), st.floats(0.9, 1.1))
def test_never_open_for_longer_than_the_longest(kinds: list[Kind], luck: float) -> None:
    subject = Breaker(lambda low, high: luck, first_s=300.0, longest_s=3_600.0)
    now = 0.0
    for kind in kinds:
        subject.failed(kind, now)
        if subject.until_s is not None:
            assert subject.until_s <= now + 3_600.0 * 1.1
            now = max(now, subject.until_s)
            assert subject.state(now) is HALF


def test_refuses_nonsense() -> None:
    with pytest.raises(ValueError, match="first_s"):
        Breaker(lambda low, high: low, first_s=2.0, longest_s=1.0)
