"""Clock models: known lines come back, outliers do not bend them, and 64-bit times lose no digit."""

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plugmeter.measure.clocks import ClockModel, ClockTracker, fit

DAY_NS = 86_400 * 10**9


@pytest.mark.parametrize("pairs", [[], [(1, 2)]])
def test_fewer_than_two_pairs_have_no_model(pairs: list[tuple[int, int]]) -> None:
    assert fit(pairs) is None


def test_two_pairs_are_a_line() -> None:
    model = fit([(0, 100), (10**9, 10**9 + 1_100)])
    assert model is not None
    assert (model.offset_ns, model.at_ns, model.n, model.rejected) == (600, 5 * 10**8, 2, 0)
    assert (model.drift_ppm, model.residual_ns) == pytest.approx((1.0, 0.0), abs=1e-6)


def test_one_moment_has_an_offset_and_no_drift() -> None:
    model = fit([(500, 510), (500, 512), (500, 514)])
    assert model is not None
    assert (model.offset_ns, model.drift_ppm, model.n, model.at_ns) == (12, 0.0, 3, 500)
    assert model.residual_ns == pytest.approx((8 / 3) ** 0.5)


@given(
    st.integers(0, 10_000 * DAY_NS),
    st.integers(-(10**18), 10**18),
    st.integers(-500, 500),
    st.lists(st.integers(0, 3_600 * 1_000), min_size=2, max_size=50, unique=True),
)
@settings(deadline=None)
def test_an_exact_line_comes_back_at_any_uptime(
    start_ns: int, offset_ns: int, drift_ppm: int, at_ms: list[int]
) -> None:
    pairs = [(start_ns + ms * 10**6, start_ns + ms * 10**6 + offset_ns + drift_ppm * ms) for ms in at_ms]
    model = fit(pairs)
    assert model is not None
    assert model.drift_ppm == pytest.approx(drift_ppm, abs=1e-3)
    assert model.residual_ns == pytest.approx(0.0, abs=1.0)
    assert model.n + model.rejected == len(pairs)
    for a_ns, b_ns in pairs:
        assert abs(model.b_of(a_ns) - b_ns) <= 2


def test_outliers_are_rejected_and_counted() -> None:
    rng = Random(3)
    pairs = [(i * 10**7, i * 10**7 + 5_000 + i * 100 + rng.randint(-200, 200)) for i in range(1000)]
    for i in range(0, 1000, 100):
        pairs[i] = (pairs[i][0], pairs[i][1] + 50_000_000)  # a reader that was stalled for 50 ms
    model = fit(pairs)
    assert model is not None
    assert model.rejected == 10
    assert model.n == 990
    assert model.drift_ppm == pytest.approx(10.0, abs=0.1)
    assert model.residual_ns == pytest.approx(400 / 12**0.5, rel=0.1)
    assert abs(model.b_of(0) - 5_000) < 100


def test_one_outlier_among_equal_offsets_is_rejected() -> None:
    model = fit([(500, 510)] * 9 + [(500, 10_000)])
    assert model == ClockModel(10, 0.0, 0.0, 9, at_ns=500, rejected=1)


@given(st.lists(st.tuples(st.integers(0, 2**63 - 1), st.integers(0, 2**63 - 1)), min_size=2, max_size=30))
@settings(deadline=None)
def test_any_pairs_have_a_model(pairs: list[tuple[int, int]]) -> None:
    model = fit(pairs)
    assert model is not None
    assert model.n >= 2
    assert model.n + model.rejected == len(pairs)
    assert model.residual_ns >= 0.0


def test_the_tracker_without_pairs() -> None:
    tracker = ClockTracker()
    assert tracker.model() is None
    tracker.add(1, 2)
    assert tracker.model() is None


@given(st.integers(2, 9), st.integers(0, 200))
@settings(deadline=None)
def test_the_tracker_holds_an_even_bounded_sample(max_pairs: int, offered: int) -> None:
    tracker = ClockTracker(max_pairs)
    for i in range(offered):
        tracker.add(i, i + 7)
    assert tracker.offered == offered
    assert tracker.kept <= max_pairs
    assert tracker.kept >= min(offered, max_pairs // 2)
    model = tracker.model()
    if offered >= 2:
        assert model is not None
        assert (model.offset_ns, model.n) == (7, tracker.kept)
        # The sample reaches from the first pair to within one stride of the last.
        stride = (tracker.kept and -(-offered // tracker.kept)) * 2
        assert 2 * model.at_ns + 1 >= offered - 1 - stride


def test_a_long_run_has_the_model_of_its_whole_length() -> None:
    tracker = ClockTracker(max_pairs=64)
    for i in range(10_000):
        tracker.add(i * 10**6, i * 10**6 + 1_000 + 20 * i)
    model = tracker.model()
    assert model is not None
    assert model.drift_ppm == pytest.approx(20.0, abs=1e-6)
    assert 32 <= model.n <= 64
    assert abs(model.b_of(0) - 1_000) <= 1


def test_a_tracker_of_one_pair_is_a_defect() -> None:
    with pytest.raises(ValueError, match="cannot be tracked"):
        ClockTracker(1)
