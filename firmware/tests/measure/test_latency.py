"""Latency histograms: exact ends, percentiles within their digits, and every value in one of three counts."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plugmeter.measure.latency import BUCKET_BOUNDS_US, HIGHEST_US, LatencyHistogram, LatencySummary

HOUR_NS = HIGHEST_US * 1000
values = st.one_of(
    st.integers(-(10**6), 10**7), st.integers(0, HOUR_NS), st.integers(HOUR_NS - 2, HOUR_NS + 10**12)
)


def histogram_of(values_ns: list[int]) -> LatencyHistogram:
    histogram = LatencyHistogram()
    for value_ns in values_ns:
        histogram.record_ns(value_ns)
    return histogram


def test_nothing_recorded() -> None:
    histogram = LatencyHistogram()
    assert histogram.summary() == LatencySummary(0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0, 0)
    assert histogram.buckets() == []


@pytest.mark.parametrize(
    ("value_ns", "us"),
    [
        (0, 0.0),
        (1, 0.001),
        (300, 0.3),
        (999, 0.999),
        (1_000, 1.0),
        (123_456, 123.456),
        (HOUR_NS, float(HIGHEST_US)),
    ],
)
def test_one_value_is_all_its_figures(value_ns: int, us: float) -> None:
    summary = histogram_of([value_ns]).summary()
    assert (summary.count, summary.min_us, summary.max_us) == (1, us, us)
    assert (summary.p50_us, summary.p95_us, summary.p99_us, summary.tail_jitter_us) == (us, us, us, 0.0)


def test_the_figures_of_1_to_1000_us() -> None:
    summary = histogram_of([us * 1000 for us in range(1, 1001)]).summary()
    assert summary == LatencySummary(1000, 1.0, 500.0, 950.0, 990.0, 1000.0, 490.0, 0, 0)


def test_values_that_cannot_be_are_counted_and_change_no_figure() -> None:
    histogram = histogram_of([-1, 5_000, HOUR_NS + 1, -(10**15), 7_000])
    summary = histogram.summary()
    assert (summary.count, summary.negative, summary.over_range) == (2, 2, 1)
    assert (summary.min_us, summary.max_us) == (5.0, 7.0)
    only_bad = histogram_of([-1, HOUR_NS + 1])
    assert only_bad.summary() == LatencySummary(0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1, 1)
    assert only_bad.buckets() == []


@given(st.lists(values, max_size=3000))
@settings(deadline=None, max_examples=60)
def test_every_value_is_in_one_count_and_the_percentiles_are_within_their_digits(
    values_ns: list[int],
) -> None:
    histogram = histogram_of(values_ns)
    summary = histogram.summary()
    good = sorted(value for value in values_ns if 0 <= value <= HOUR_NS)
    assert summary.negative == sum(value < 0 for value in values_ns)
    assert summary.over_range == sum(value > HOUR_NS for value in values_ns)
    assert summary.count == len(good)
    assert sum(count for _, count in histogram.buckets()) == len(good)
    if not good:
        return
    assert (summary.min_us, summary.max_us) == (good[0] / 1000, good[-1] / 1000)
    for percentile, figure_us in ((50, summary.p50_us), (95, summary.p95_us), (99, summary.p99_us)):
        rank = max(int(percentile * len(good) / 100 + 0.5), 1)
        assert figure_us == pytest.approx(good[rank - 1] / 1000, rel=1e-3, abs=0.5)
    assert summary.min_us <= summary.p50_us <= summary.p95_us <= summary.p99_us <= summary.max_us
    assert summary.tail_jitter_us == summary.p99_us - summary.p50_us


@given(st.lists(st.integers(0, HOUR_NS), min_size=1, max_size=300))
@settings(deadline=None, max_examples=60)
def test_buckets_are_those_of_the_values(values_ns: list[int]) -> None:
    buckets = histogram_of(values_ns).buckets()
    bounds = [bound for bound, _ in buckets]
    assert bounds == sorted(set(bounds))
    assert set(bounds) <= set(BUCKET_BOUNDS_US)
    assert all(count > 0 for _, count in buckets)
    assert len(buckets) <= 60
    # Digits of the histogram are the only blur: widened by them, each bucket covers enough of the values.
    for i, (bound, _) in enumerate(buckets):
        below = sum(count for _, count in buckets[: i + 1])
        assert sum(value / 1000 <= bound * 0.998 - 0.5 for value in values_ns) <= below
        assert sum(value / 1000 <= bound * 1.002 + 0.5 for value in values_ns) >= below


def test_a_second_look_sees_what_came_after_the_first() -> None:
    histogram = histogram_of([1_000])
    assert histogram.summary().count == 1
    histogram.record_ns(3_000)
    summary = histogram.summary()
    assert (summary.count, summary.min_us, summary.max_us) == (2, 1.0, 3.0)
    assert histogram.summary() == summary


def test_bounds_cover_the_range_in_even_steps() -> None:
    assert BUCKET_BOUNDS_US[0] == 1.0
    assert BUCKET_BOUNDS_US[-1] >= HIGHEST_US > BUCKET_BOUNDS_US[-2]
    assert len(BUCKET_BOUNDS_US) <= 60
    assert all(1.45 < upper / lower < 1.5 for lower, upper in pairwise(BUCKET_BOUNDS_US))
