"""Latency histograms: HdrHistogram from 1 us to 1 h at 3 significant digits.

Measured (x86-64, CPython 3.11): a histogram takes 188 KiB, so it is made at the first flush and a stage
without values costs nothing; ``record_value`` takes 1.1 us, so values wait in a short list and
equal ones are recorded at once.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass
from typing import Any

HIGHEST_US = 3_600_000_000
SIGNIFICANT_DIGITS = 3

_BATCH = 1024
_HIGHEST_NS = HIGHEST_US * 1000
_BOUNDS_PER_DECADE = 6


def _bounds() -> tuple[float, ...]:
    """1 us to 1 h in equal steps of the logarithm, to 3 digits, so that they are alike on every machine."""
    bounds: list[float] = []
    k = 0
    while not bounds or bounds[-1] < HIGHEST_US:
        bounds.append(float(f"{10 ** (k / _BOUNDS_PER_DECADE):.3g}"))
        k += 1
    return tuple(bounds)


BUCKET_BOUNDS_US = _bounds()
"""Upper bounds that ``LatencyHistogram.buckets`` may return: the same in every histogram, to compare."""


@dataclass(frozen=True, slots=True)
class LatencySummary:
    """Figures of ``count`` recorded values, in microseconds; all are 0.0 where ``count`` is 0.

    ``min_us`` and ``max_us`` are exact; the percentiles lie between them, within 0.1 % and 0.5 us of a
    recorded value. ``tail_jitter_us`` is p99 - p50. ``negative`` values (the clocks of two witnesses
    disagree) and those of more than an hour, ``over_range``, are counted and are in none of the figures.
    """

    count: int
    min_us: float
    p50_us: float
    p95_us: float
    p99_us: float
    max_us: float
    tail_jitter_us: float
    negative: int
    over_range: int


class LatencyHistogram:
    """Counts latencies in bounded memory. Every value recorded is in count, negative or over_range."""

    __slots__ = ("_buffer", "_histogram", "_max_ns", "_min_ns", "_negative", "_over_range")

    def __init__(self) -> None:
        self._buffer: list[int] = []
        self._histogram: Any = None  # hdrh has no types
        self._min_ns = 0
        self._max_ns = 0
        self._negative = 0
        self._over_range = 0

    def record_ns(self, value_ns: int) -> None:
        """Counts one latency in nanoseconds."""
        buffer = self._buffer
        buffer.append(value_ns)
        if len(buffer) >= _BATCH:
            self._flush()

    def summary(self) -> LatencySummary:
        """The figures of all that was recorded so far."""
        self._flush()
        if self._histogram is None:
            return LatencySummary(0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, self._negative, self._over_range)
        min_us = self._min_ns / 1000
        max_us = self._max_ns / 1000
        at: dict[int, int] = self._histogram.get_percentile_to_value_dict([50, 95, 99])
        # A bucket answers with its upper end, and whole microseconds: neither may leave what was recorded.
        p50_us, p95_us, p99_us = (min(max(float(at[p]), min_us), max_us) for p in (50, 95, 99))
        return LatencySummary(
            count=int(self._histogram.get_total_count()),
            min_us=min_us,
            p50_us=p50_us,
            p95_us=p95_us,
            p99_us=p99_us,
            max_us=max_us,
            tail_jitter_us=p99_us - p50_us,
            negative=self._negative,
            over_range=self._over_range,
        )

    def buckets(self) -> list[tuple[float, int]]:
        """(upper bound in us, count) for a plot: rising, log-spaced, none empty, 59 at most.

        A bucket holds the values above the bound before its own in ``BUCKET_BOUNDS_US``, up to its own, as
        far as the histogram's digits tell. The counts add up to ``summary().count``.
        """
        self._flush()
        if self._histogram is None:
            return []
        counts: Counter[int] = Counter()
        for item in self._histogram.get_recorded_iterator():
            lowest_us = self._histogram.get_lowest_equivalent_value(item.value_iterated_to)
            counts[bisect_left(BUCKET_BOUNDS_US, lowest_us)] += item.count_added_in_this_iter_step
        return [(BUCKET_BOUNDS_US[i], counts[i]) for i in sorted(counts)]

    def _flush(self) -> None:
        values_ns = self._buffer
        if not values_ns:
            return
        self._buffer = []
        lowest_ns = min(values_ns)
        highest_ns = max(values_ns)
        if lowest_ns < 0 or highest_ns > _HIGHEST_NS:
            offered = len(values_ns)
            values_ns = [value for value in values_ns if value >= 0]
            self._negative += offered - len(values_ns)
            offered = len(values_ns)
            values_ns = [value for value in values_ns if value <= _HIGHEST_NS]
            self._over_range += offered - len(values_ns)
            if not values_ns:
                return
            lowest_ns = min(values_ns)
            highest_ns = max(values_ns)
        if self._histogram is None:
            # Here and not above: 2 MiB that a device which measures nothing yet does without.
            from hdrh.histogram import HdrHistogram

            self._histogram = HdrHistogram(1, HIGHEST_US, SIGNIFICANT_DIGITS)
            self._min_ns = lowest_ns
        self._min_ns = min(self._min_ns, lowest_ns)
        self._max_ns = max(self._max_ns, highest_ns)
        for value_us, count in Counter([(value + 500) // 1000 for value in values_ns]).items():
            self._histogram.record_value(value_us, count)
