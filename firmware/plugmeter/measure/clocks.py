"""Clock models: how the times of one witness's clock follow from those of another's.

A pair is the time of one and the same event on clock a and on clock b, in ns. All witnesses stamp
CLOCK_MONOTONIC, so between them there ought to be no drift; the offset is then the mean delay between
their places on the way, and the residual is how much that delay varies.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, linear_regression, median

_OUTLIER_MADS = 3.0
_LEAST_TOLERANCE_NS = 1.0
"""Times are whole nanoseconds: a deviation up to this is never an outlier."""


@dataclass(frozen=True, slots=True)
class ClockModel:
    """b = a + offset_ns + drift_ppm * 1e-6 * (a - at_ns), as far as the residual allows.

    ``offset_ns`` is that at time ``at_ns`` of clock a, in the middle of the pairs: at a = 0, the boot, it
    would be mere extrapolation. ``residual_ns`` is the RMS deviation of the ``n`` pairs that the model
    rests on; ``rejected`` pairs were outliers.
    """

    offset_ns: int
    drift_ppm: float
    residual_ns: float
    n: int
    at_ns: int = 0
    rejected: int = 0

    def b_of(self, a_ns: int) -> int:
        """The time on clock b when clock a shows ``a_ns``."""
        return a_ns + self.offset_ns + round(self.drift_ppm * 1e-6 * (a_ns - self.at_ns))


def fit(pairs: Sequence[tuple[int, int]]) -> ClockModel | None:
    """Least squares of b - a on a, once more without the outliers; None with fewer than 2 pairs.

    An outlier lies further than 3 median absolute deviations from the median residual of the first
    line. Where all pairs have the same a, the drift cannot be known and is 0.
    """
    if len(pairs) < 2:
        return None
    # Times since boot in ns take more than 53 bits after 104 days: only differences become floats.
    at_ns = (min(a for a, _ in pairs) + max(a for a, _ in pairs)) // 2
    base_ns = pairs[0][1] - pairs[0][0]
    x = [float(a - at_ns) for a, _ in pairs]
    y = [float(b - a - base_ns) for a, b in pairs]
    slope, intercept = _line(x, y)
    residuals = _residuals(x, y, slope, intercept)
    middle = median(residuals)
    deviations = [abs(residual - middle) for residual in residuals]
    tolerance_ns = max(_OUTLIER_MADS * median(deviations), _LEAST_TOLERANCE_NS)
    kept = [i for i, deviation in enumerate(deviations) if deviation <= tolerance_ns]
    if 2 <= len(kept) < len(pairs):
        x = [x[i] for i in kept]
        y = [y[i] for i in kept]
        slope, intercept = _line(x, y)
        residuals = _residuals(x, y, slope, intercept)
    return ClockModel(
        offset_ns=base_ns + round(intercept),
        drift_ppm=slope * 1e6,
        residual_ns=math.sqrt(fmean([residual * residual for residual in residuals])),
        n=len(x),
        at_ns=at_ns,
        rejected=len(pairs) - len(x),
    )


def _line(x: list[float], y: list[float]) -> tuple[float, float]:
    """Slope and intercept; the slope is 0 where x does not vary."""
    if min(x) == max(x):
        return 0.0, fmean(y)
    line = linear_regression(x, y)
    return line.slope, line.intercept


def _residuals(x: list[float], y: list[float], slope: float, intercept: float) -> list[float]:
    return [b - (intercept + slope * a) for a, b in zip(x, y, strict=True)]


class ClockTracker:
    """Keeps at most ``max_pairs`` of any number of pairs, evenly over the whole run, and fits those.

    When it is full it forgets every second pair and from then on takes half as many: no chance in it, so the
    same pairs give the same model. ``offered`` counts all pairs, ``kept`` those that are held.
    """

    __slots__ = ("_a", "_b", "_max_pairs", "_stride", "offered")

    def __init__(self, max_pairs: int = 4096) -> None:
        if max_pairs < 2:
            raise ValueError(f"a clock cannot be tracked with {max_pairs} pairs")
        self._max_pairs = max_pairs
        self._stride = 1
        self._a = array("q")  # 64 KiB in all, where tuples would take half a MiB
        self._b = array("q")
        self.offered = 0

    @property
    def kept(self) -> int:
        """How many pairs are held."""
        return len(self._a)

    def add(self, a_ns: int, b_ns: int) -> None:
        """Offers one pair."""
        if self.offered % self._stride == 0:
            if len(self._a) >= self._max_pairs:
                # Held are the pairs number 0, stride, 2 * stride, ...; every second of them stays.
                del self._a[1::2]
                del self._b[1::2]
                self._stride *= 2
            if self.offered % self._stride == 0:
                self._a.append(a_ns)
                self._b.append(b_ns)
        self.offered += 1

    def model(self) -> ClockModel | None:
        """The model of the pairs that are held; None with fewer than 2."""
        return fit(list(zip(self._a, self._b, strict=True)))
