"""How sure one may be of a loss rate: exact binomial bounds, loss episodes, bootstrap by storm.

The Clopper-Pearson interval is a pair of quantiles of the beta distribution. scipy has them, and is
the oracle of the tests; on the device it would cost some 60 MB of disk (numpy included) and more
RSS than the whole daemon may have, so they are computed here, by the standard library alone:

- the regularised incomplete beta function by its continued fraction (Abramowitz & Stegun 26.5.8,
  evaluated by Lentz's method);
- the factor before it as a binomial probability in Loader's saddle-point form ("Fast and accurate
  computation of binomial probabilities", 2000), which does not lose digits as the difference of
  large ``lgamma`` values does: the tail is right to 10 digits at N = 1,000 and to 7 at N = 10^9;
- its inverse by Newton's method inside a bracket, by bisection where Newton would leave it.

Clopper-Pearson takes losses to be independent. They are not: once a netlink socket overran, every
uevent is dropped until its queue is empty. Hence the loss episodes (how long the runs of losses are)
and the bootstrap, which resamples whole storms and keeps what belongs together together.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from random import Random

from plugmeter.errors import UsageError

BLOCKS = 1_000
"""More storms than this are joined with their neighbours before they are resampled."""

_HALF_LOG_2PI = 0.5 * math.log(2.0 * math.pi)


def clopper_pearson(lost: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """The exact two-sided interval for a loss rate of which ``lost`` of ``n`` were seen.

    Two-sided also where nothing was lost: each end has (1 - confidence) / 2, so the upper end is then
    1 - ((1 - confidence) / 2)^(1/n), wider than the one-sided ``upper_bound_zero``. Without any
    event, nothing is known: (0.0, 1.0).
    """
    if not 0 <= lost <= n:
        raise ValueError(f"{lost} lost of {n} cannot be")
    tail = _alpha(confidence) / 2.0
    if n == 0:
        return 0.0, 1.0
    if lost == 0:
        lower = 0.0
    elif lost == n:
        lower = math.exp(math.log(tail) / n)
    else:
        lower = _solve(lambda x: _beta_tails(x, lost, n - lost + 1)[0] - tail, lost, n - lost + 1)
    if lost == n:
        upper = 1.0
    elif lost == 0:
        upper = -math.expm1(math.log(tail) / n)
    else:
        upper = _solve(lambda x: tail - _beta_tails(x, lost + 1, n - lost)[1], lost + 1, n - lost)
    return lower, upper


def upper_bound_zero(n: int, confidence: float = 0.95) -> float:
    """The one-sided upper bound of the loss rate when 0 of ``n`` were lost: 1 - (1 - confidence)^(1/n).

    About 3/n for 95 %. Without any event nothing is known: 1.0.
    """
    alpha = _alpha(confidence)
    if n < 0:
        raise ValueError(f"{n} events cannot be")
    return -math.expm1(math.log(alpha) / n) if n else 1.0


def events_needed(claim_rate: float, lost: int = 0, confidence: float = 0.95) -> int:
    """The smallest N at which ``lost`` losses still support "the loss rate is under ``claim_rate``".

    That is: the one-sided upper Clopper-Pearson bound of ``lost`` of N is below the claim. N counts all
    events, those already seen included. "Under 0.1 %" (0.001) with nothing lost takes 2,995. Smallest as
    far as a double tells: for claims below one in a million N may be a few events off.
    """
    alpha = _alpha(confidence)
    if not 0.0 < claim_rate < 1.0:
        raise UsageError(f"a claimed loss rate must lie between 0 and 1, not at {claim_rate}: 0.1 % is 0.001")
    if lost < 0:
        raise ValueError(f"{lost} lost cannot be")
    # The bound of `lost` of n is below the claim just when, were the claim true, so few losses would
    # have a probability below alpha; P(X <= lost) is the upper tail of a beta, and falls with n.
    few = lost
    many = max(lost + 1, int((lost + 1) / claim_rate))
    while _beta_tails(claim_rate, lost + 1, many - lost)[1] >= alpha:
        few, many = many, 2 * many
    while many - few > 1:
        middle = (few + many) // 2
        if _beta_tails(claim_rate, lost + 1, middle - lost)[1] < alpha:
            many = middle
        else:
            few = middle
    return many


@dataclass(frozen=True, slots=True)
class LossEpisodes:
    """Runs of consecutive losses: ``count`` runs, ``lost`` events in all, ``longest`` and ``mean`` length.

    A mean far above 1 says that losses come in bursts (the congestion latch), and that an interval
    which takes them to be independent is too narrow. Without a loss all four are 0.
    """

    count: int
    lost: int
    longest: int
    mean: float


def loss_episodes(outcomes: Iterable[bool]) -> LossEpisodes:
    """The runs of consecutive losses in ``outcomes``, in the order of the expected events; True is lost."""
    count = lost = longest = run = 0
    for is_lost in outcomes:
        if is_lost:
            count += run == 0
            run += 1
            lost += 1
            longest = max(longest, run)
        else:
            run = 0
    return LossEpisodes(count, lost, longest, lost / count if count else 0.0)


def bootstrap_by_storm(
    storms: Sequence[tuple[int, int]], seed: int, resamples: int = 2000, confidence: float = 0.95
) -> tuple[float, float] | None:
    """Percentile interval of the loss rate when whole storms, as (n, lost), are drawn with replacement.

    ``storms`` are in the order of time. Those without an event say nothing and are left out. None where
    resampling can say nothing: fewer than two storms, or not one event lost, when every resample would
    be 0 and the interval (0, 0) a claim that ``clopper_pearson`` does not support.

    Deterministic for a seed. The cost is bounded: more than 1,000 storms are first joined with their
    neighbours into 1,000 blocks of nearly equal numbers of storms, which keeps all that hangs together.
    """
    alpha = _alpha(confidence)
    if resamples < 1:
        raise ValueError(f"{resamples} resamples cannot be")
    blocks = _blocks([storm for storm in storms if storm[0] > 0])
    if len(blocks) < 2 or not any(lost for _, lost in blocks):
        return None
    sizes = [n for n, _ in blocks]
    losses = [lost for _, lost in blocks]
    rng = Random(seed)
    indices = range(len(blocks))
    rates: list[float] = []
    for _ in range(resamples):
        drawn = rng.choices(indices, k=len(blocks))
        rates.append(sum(map(losses.__getitem__, drawn)) / sum(map(sizes.__getitem__, drawn)))
    rates.sort()
    cut = min(int(resamples * alpha / 2.0), (resamples - 1) // 2)
    return rates[cut], rates[resamples - 1 - cut]


def _blocks(storms: Sequence[tuple[int, int]]) -> Sequence[tuple[int, int]]:
    """The storms themselves, or where there are too many, ``BLOCKS`` sums of neighbours."""
    total = len(storms)
    if total <= BLOCKS:
        return storms
    bounds = [total * i // BLOCKS for i in range(BLOCKS + 1)]
    return [
        (sum(n for n, _ in storms[a:b]), sum(lost for _, lost in storms[a:b])) for a, b in pairwise(bounds)
    ]


def _alpha(confidence: float) -> float:
    if not 0.0 < confidence < 1.0:
        raise UsageError(f"a confidence must lie between 0 and 1, not at {confidence}: 95 % is 0.95")
    return 1.0 - confidence


def _solve(rising: Callable[[float], float], a: int, b: int) -> float:
    """The x in (0, 1) where ``rising``, a tail of Beta(a, b) less its target, passes 0."""
    low, high = 0.0, 1.0
    x = a / (a + b)
    for _ in range(200):
        value = rising(x)
        if value == 0.0:
            return x
        if value < 0.0:
            low = x
        else:
            high = x
        density = _binomial_point(a, b, x, 1.0 - x) * (a * b / (a + b)) / (x * (1.0 - x))
        step = x - value / density if density > 0.0 else -1.0
        following = step if low < step < high else 0.5 * (low + high)
        if abs(following - x) <= 4.0 * sys.float_info.epsilon * x:
            return following
        x = following
    # Newton may go on turning within the last few digits; the bracket has long been narrower than 1e-9.
    return x


def _beta_tails(x: float, a: int, b: int) -> tuple[float, float]:
    """Lower and upper tail of Beta(a, b) at x, with a and b whole and at least 1."""
    if x <= 0.0:
        return 0.0, 1.0
    if x >= 1.0:
        return 1.0, 0.0
    y = 1.0 - x
    # The fraction converges fast below the mean; above it, the other tail is the lower one of Beta(b, a).
    # There 1 - y is not x to the last digit, and x may be all that counts: hence both are handed on.
    if x <= (a + 1.0) / (a + b + 2.0):
        lower = _binomial_point(a, b, x, y) * (b / (a + b)) * _continued_fraction(x, a, b)
        return lower, 1.0 - lower
    upper = _binomial_point(b, a, y, x) * (a / (a + b)) * _continued_fraction(y, b, a)
    return 1.0 - upper, upper


def _continued_fraction(x: float, a: int, b: int) -> float:
    """The continued fraction of I_x(a, b) by modified Lentz; about sqrt(max(a, b)) terms at the worst."""
    tiny = 1e-300
    c = 1.0
    d = 1.0 - (a + b) * x / (a + 1.0)
    d = 1.0 / (d if abs(d) > tiny else tiny)
    total = d
    for m in range(1, 1_000 + 20 * math.isqrt(a + b)):
        even = m * (b - m) * x / ((a + 2.0 * m - 1.0) * (a + 2.0 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2.0 * m) * (a + 2.0 * m + 1.0))
        for term in (even, odd):
            d = 1.0 + term * d
            d = 1.0 / (d if abs(d) > tiny else tiny)
            c = 1.0 + term / c
            c = c if abs(c) > tiny else tiny
            total *= c * d
        if abs(c * d - 1.0) < 1e-15:
            return total
    raise ArithmeticError(f"the incomplete beta function did not converge at x={x}, a={a}, b={b}")


def _binomial_point(a: int, b: int, x: float, y: float) -> float:
    """P(exactly a of a+b) at rate x, where y is 1 - x, and a and b at least 1 (Loader 2000)."""
    n = a + b
    exponent = _stirling_error(n) - _stirling_error(a) - _stirling_error(b)
    exponent -= _deviance(a, n * x) + _deviance(b, n * y)
    return math.exp(exponent) * math.sqrt(n / (2.0 * math.pi * a * b))


def _stirling_error(n: int) -> float:
    """log(n!) less Stirling's formula for it."""
    if n < 16:
        return math.lgamma(n + 1.0) - (n + 0.5) * math.log(n) + n - _HALF_LOG_2PI
    square = 1.0 / (float(n) * n)
    series = 1 / 360 - square * (1 / 1260 - square * (1 / 1680 - square / 1188))
    return (1 / 12 - square * series) / n


def _deviance(seen: float, expected: float) -> float:
    """seen * log(seen / expected) + expected - seen, without cancellation where the two are near."""
    difference = seen - expected
    if abs(difference) >= 0.1 * (seen + expected):
        return seen * math.log(seen / expected) - difference
    v = difference / (seen + expected)
    total = difference * v
    term = 2.0 * seen * v
    for j in range(1, 1_000):
        term *= v * v
        following = total + term / (2 * j + 1)
        if following == total:
            break
        total = following
    return total
