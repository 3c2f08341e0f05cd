"""The same storm at several listeners, one after the other, several times over: loss, speed, latency, CPU."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from plugmeter.bench.storm import Storm
from plugmeter.bench.trial import Trial, try_listener
from plugmeter.measure.statistics import clopper_pearson

LISTENERS = ("plugmeter", "pyudev", "plain")


@dataclass(frozen=True, slots=True)
class Contestant:
    """One listener's runs: counts are sums, all else is medians."""

    listener: str
    trials: tuple[Trial, ...]

    @property
    def emitted(self) -> int:
        """Uevents of all its storms."""
        return sum(each.emitted for each in self.trials)

    @property
    def lost(self) -> int:
        """Those that did not reach it."""
        return sum(each.lost for each in self.trials)

    @property
    def ci95(self) -> tuple[float, float]:
        """Of its loss rate, by Clopper and Pearson, as if losses were independent."""
        return clopper_pearson(self.lost, self.emitted)

    def median(self, figure: str) -> float:
        """The median of a figure of ``Trial`` over the runs."""
        return float(statistics.median(getattr(each, figure) for each in self.trials))

    def as_json(self) -> dict[str, Any]:
        """The figures that the table shows, and every run."""
        figures = ("events_per_s", "cpu_us_per_event", "latency_p50_us", "latency_p99_us")
        return {
            "listener": self.listener,
            "emitted": self.emitted,
            "lost": self.lost,
            "loss_rate": self.lost / self.emitted if self.emitted else 0.0,
            "loss_ci95": list(self.ci95),
            **{figure: self.median(figure) for figure in figures},
            "latency_max_us": max(each.latency_max_us for each in self.trials),
            "known_lost": sum(each.known_lost for each in self.trials),
            "runs": [each.as_json() for each in self.trials],
        }


def compare(
    listeners: Sequence[str], storm: Storm, runs: int = 5, tell: Callable[[str], None] = lambda line: None
) -> list[Contestant]:
    """Each listener in turn, ``runs`` times over, so that what else the machine does falls upon all."""
    trials: dict[str, list[Trial]] = {listener: [] for listener in listeners}
    for number in range(runs):
        for listener in trials:
            tell(f"run {number + 1} of {runs}: {listener}")
            trials[listener].append(try_listener(listener, storm))
    return [Contestant(listener, tuple(each)) for listener, each in trials.items()]
