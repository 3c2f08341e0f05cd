"""The bounds against scipy, their defining equations, and the figures that are known by heart."""

import math
from decimal import Decimal, localcontext
from math import comb

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import beta, binom

from plugmeter.errors import UsageError
from plugmeter.measure.statistics import (
    BLOCKS,
    LossEpisodes,
    bootstrap_by_storm,
    clopper_pearson,
    events_needed,
    loss_episodes,
    upper_bound_zero,
)

counts = st.integers(1, 2_000_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))
confidences = st.floats(0.5, 0.9999)


def oracle(lost: int, n: int, confidence: float) -> tuple[float, float]:
    tail = (1 - confidence) / 2
    low = 0.0 if lost == 0 else float(beta.ppf(tail, lost, n - lost + 1))
    high = 1.0 if lost == n else float(beta.isf(tail, lost + 1, n - lost))
    return low, high


@given(counts, confidences)
@settings(deadline=None)
def test_the_interval_is_that_of_scipy(lost_of_n: tuple[int, int], confidence: float) -> None:
    lost, n = lost_of_n
    assert clopper_pearson(lost, n, confidence) == pytest.approx(
        oracle(lost, n, confidence), rel=1e-8, abs=1e-9
    )


@pytest.mark.parametrize(
    ("lost", "n"),
    [
        *[(lost, n) for n in (1, 2, 3, 15, 16, 17) for lost in range(n + 1)],
        *[(lost, 600) for lost in (0, 1, 2, 14, 15, 16, 300, 598, 599, 600)],
        *[(lost, 100_000_000) for lost in (0, 1, 50_000_000, 99_999_999, 100_000_000)],
    ],
)
def test_the_interval_is_that_of_scipy_at_the_edges(lost: int, n: int) -> None:
    assert clopper_pearson(lost, n) == pytest.approx(oracle(lost, n, 0.95), rel=1e-8, abs=0)


@pytest.mark.parametrize("lost", [1, 3, 40])
@pytest.mark.parametrize(("n", "within"), [(1_000, "1e-10"), (100_000, "1e-9"), (1_000_000_000, "1e-7")])
def test_the_interval_solves_its_equations_in_60_digits(lost: int, n: int, within: str) -> None:
    # scipy itself is 3e-8 off at 3 of 10^9, so the binomial sum is the oracle here.
    with localcontext() as context:
        context.prec = 60
        low, high = (Decimal(end) for end in clopper_pearson(lost, n))
        at_least = 1 - sum(comb(n, i) * low**i * (1 - low) ** (n - i) for i in range(lost))
        at_most = sum(comb(n, i) * high**i * (1 - high) ** (n - i) for i in range(lost + 1))
        assert abs(at_least / Decimal("0.025") - 1) < Decimal(within)
        assert abs(at_most / Decimal("0.025") - 1) < Decimal(within)


@given(counts, confidences)
@settings(deadline=None)
def test_the_interval_holds_the_rate_and_mirrors(lost_of_n: tuple[int, int], confidence: float) -> None:
    lost, n = lost_of_n
    low, high = clopper_pearson(lost, n, confidence)
    assert 0.0 <= low <= lost / n <= high <= 1.0
    mirrored_low, mirrored_high = clopper_pearson(n - lost, n, confidence)
    assert (low, high) == pytest.approx((1 - mirrored_high, 1 - mirrored_low), abs=1e-9)


@given(counts)
@settings(deadline=None)
def test_more_confidence_is_a_wider_interval(lost_of_n: tuple[int, int]) -> None:
    low, high = clopper_pearson(*lost_of_n, confidence=0.9)
    wider_low, wider_high = clopper_pearson(*lost_of_n, confidence=0.99)
    assert wider_low <= low
    assert high <= wider_high


def test_without_events_nothing_is_known() -> None:
    assert clopper_pearson(0, 0) == (0.0, 1.0)
    assert upper_bound_zero(0) == 1.0
    assert loss_episodes([]) == LossEpisodes(0, 0, 0, 0.0)


def test_nothing_lost_is_two_sided_in_the_interval_and_one_sided_in_the_bound() -> None:
    assert clopper_pearson(0, 600) == pytest.approx((0.0, 1 - 0.025 ** (1 / 600)), rel=1e-12)
    assert upper_bound_zero(600) == pytest.approx(1 - 0.05 ** (1 / 600), rel=1e-12)
    assert upper_bound_zero(1_000_000) == pytest.approx(3 / 1_000_000, rel=2e-3)


@pytest.mark.parametrize(
    ("claim", "lost", "confidence", "needed"),
    [
        (0.001, 0, 0.95, 2_995),
        (0.01, 0, 0.95, 299),
        (0.001, 0, 0.99, 4_603),
        (0.001, 1, 0.95, 4_742),
        (0.5, 0, 0.95, 5),
        (0.99, 0, 0.5, 1),
    ],
)
def test_events_needed(claim: float, lost: int, confidence: float, needed: int) -> None:
    assert events_needed(claim, lost, confidence) == needed


@given(
    st.floats(1e-6, 0.999),
    st.integers(0, 200),
    st.sampled_from([0.8, 0.95, 0.999]),
)
@settings(deadline=None)
def test_events_needed_is_the_smallest_number(claim: float, lost: int, confidence: float) -> None:
    needed = events_needed(claim, lost, confidence)
    alpha = 1 - confidence
    assert needed > lost
    # One-sided upper bound below the claim: so few losses would be improbable, were the claim true.
    assert float(binom.cdf(lost, needed, claim)) < alpha * (1 + 1e-9)
    if needed - 1 > lost:
        assert float(binom.cdf(lost, needed - 1, claim)) >= alpha * (1 - 1e-9)


@given(st.integers(2, 10**7))
@settings(deadline=None)
def test_events_needed_agrees_with_the_bound_without_losses(n: int) -> None:
    assert abs(events_needed(upper_bound_zero(n) * (1 + 1e-9), 0) - n) <= 1


@pytest.mark.parametrize("claim", [0.0, 1.0, -0.1, 2.3, math.nan])
def test_a_claim_that_is_no_rate_is_refused_in_one_line(claim: float) -> None:
    with pytest.raises(UsageError, match=r"claimed loss rate must lie between 0 and 1") as refused:
        events_needed(claim)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("confidence", [0.0, 1.0, 95.0, math.nan])
def test_a_confidence_that_is_none_is_refused(confidence: float) -> None:
    with pytest.raises(UsageError, match="confidence must lie between 0 and 1"):
        clopper_pearson(1, 10, confidence)
    with pytest.raises(UsageError, match="confidence must lie between 0 and 1"):
        upper_bound_zero(10, confidence)
    with pytest.raises(UsageError, match="confidence must lie between 0 and 1"):
        bootstrap_by_storm([(1, 1), (1, 0)], seed=1, confidence=confidence)


@pytest.mark.parametrize(("lost", "n"), [(-1, 10), (11, 10), (1, 0), (0, -1)])
def test_impossible_counts_are_a_defect(lost: int, n: int) -> None:
    with pytest.raises(ValueError, match="cannot be"):
        clopper_pearson(lost, n)


@pytest.mark.parametrize(
    ("outcomes", "episodes"),
    [
        ("....", LossEpisodes(0, 0, 0, 0.0)),
        ("x", LossEpisodes(1, 1, 1, 1.0)),
        ("xxxx", LossEpisodes(1, 4, 4, 4.0)),
        (".x.xx..xxx", LossEpisodes(3, 6, 3, 2.0)),
        ("x.x.", LossEpisodes(2, 2, 1, 1.0)),
    ],
)
def test_loss_episodes(outcomes: str, episodes: LossEpisodes) -> None:
    assert loss_episodes(outcome == "x" for outcome in outcomes) == episodes


@given(st.lists(st.booleans()))
@settings(deadline=None)
def test_loss_episodes_are_the_runs(outcomes: list[bool]) -> None:
    runs = [len(run) for run in "".join("x" if lost else "." for lost in outcomes).split(".") if run]
    episodes = loss_episodes(outcomes)
    assert (episodes.count, episodes.lost, episodes.longest) == (
        len(runs),
        sum(outcomes),
        max(runs, default=0),
    )
    assert episodes.mean * episodes.count == pytest.approx(episodes.lost)


storm_lists = st.lists(
    st.integers(0, 50).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n))), min_size=2, max_size=40
)


@given(storm_lists, st.integers(0, 2**32))
@settings(deadline=None, max_examples=40)
def test_the_bootstrap_is_deterministic_and_within_the_storms_rates(
    storms: list[tuple[int, int]], seed: int
) -> None:
    interval = bootstrap_by_storm(storms, seed, resamples=100)
    assert interval == bootstrap_by_storm(storms, seed, resamples=100)
    rates = [lost / n for n, lost in storms if n]
    if len(rates) < 2 or not any(rates):
        assert interval is None
    else:
        assert interval is not None
        assert min(rates) <= interval[0] <= interval[1] <= max(rates)


@pytest.mark.parametrize("storms", [[], [(100, 3)], [(100, 3), (0, 0)], [(100, 0), (50, 0)]])
def test_the_bootstrap_says_nothing_where_it_knows_nothing(storms: list[tuple[int, int]]) -> None:
    assert bootstrap_by_storm(storms, seed=1) is None


def test_losses_that_come_in_bursts_make_the_interval_wider_than_independent_ones() -> None:
    scattered = [(20, 1)] * 100
    bursts = [(20, 20)] * 5 + [(20, 0)] * 95
    assert bootstrap_by_storm(scattered, seed=7) == (0.05, 0.05)
    by_storm = bootstrap_by_storm(bursts, seed=7)
    assert by_storm is not None
    low, high = clopper_pearson(100, 2000)
    assert by_storm[0] < low < high < by_storm[1]


def test_the_bootstrap_covers_the_spread_of_the_mean() -> None:
    storms = [(10, lost) for lost in (0, 1, 2, 3)] * 100
    interval = bootstrap_by_storm(storms, seed=3)
    assert interval is not None
    # Standard error of the mean of 400 storms of variance 1.25, in events of 10 each.
    error = math.sqrt(1.25 / 400) / 10
    assert interval == pytest.approx((0.15 - 1.96 * error, 0.15 + 1.96 * error), abs=0.25 * error)


def test_too_many_storms_are_joined_and_none_is_forgotten() -> None:
    # Were the last ones left out, or the blocks not of neighbours, the rates would differ between blocks.
    many = [(1, 0), (1, 1)] * (2 * BLOCKS)
    assert bootstrap_by_storm(many, seed=5, resamples=50) == (0.5, 0.5)
    uneven = [(1, 0)] * (3 * BLOCKS + 1) + [(1, 1)]
    interval = bootstrap_by_storm(uneven, seed=5, resamples=400)
    assert interval is not None
    assert interval[0] == 0.0
    assert interval[1] > 1 / (3 * BLOCKS + 2)
