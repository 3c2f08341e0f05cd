"""Loss against density: storms of rising density at one listener, and the knee between them.

**Good** is a density whose loss may be under ``GOOD_RATE`` (0.1 %): the 95 % interval of its loss rate
begins at or below it. **Bad** is one whose interval lies wholly above. The knee is the greatest density
at which it and all lower ones that were tried are good; between it and the lowest bad one bisection tries
a few more. Short storms cannot tell 0.1 % from 0.2 %: the knee says from where on loss is beyond doubt,
and it moves down when the storms get longer.

The intervals take losses for independent. They are not (a socket that overran drops all until it is
empty), so where there is loss the true uncertainty is larger.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from plugmeter.bench.storm import Storm
from plugmeter.bench.trial import Trial, try_listener

GOOD_RATE = 0.001
REFINEMENTS = 3
_NEAR = 0.05
"""Bisection ends when good and bad are as near as this, relatively: the next sweep would not repeat it."""


@dataclass(frozen=True, slots=True)
class Point:
    """One density asked for, in plugs a second, and what became of its storm."""

    density: float
    trial: Trial
    refined: bool = False
    """Whether bisection asked for it."""

    @property
    def good(self) -> bool:
        """Whether the loss may be under ``GOOD_RATE``."""
        return self.trial.ci95[0] <= GOOD_RATE

    def as_json(self) -> dict[str, Any]:
        """The point with what is derived from it."""
        return {"density": self.density, "refined": self.refined, "good": self.good, **self.trial.as_json()}


@dataclass(frozen=True, slots=True)
class Knee:
    """Where loss begins. None: there was no good density, or no bad one."""

    last_good: float | None
    first_bad: float | None


@dataclass(frozen=True, slots=True)
class Saying:
    """One of the figures that people tell of a plain listener with a default buffer."""

    density: float
    """Plugs a second; 0 is "idle", held against the lowest that was tried, if at most ``IDLE_PER_S``."""
    loss_rate: float


IDLE_PER_S = 10.0
"""Plugs a second that may still be called idle: a storm at 0 would have no events to lose."""

FOLKLORE = (Saying(0, 0.0), Saying(85, 0.023), Saying(110, 0.187))

Answer = Literal["CONFIRMED", "REFUTED", "NOT MEASURED"]


@dataclass(frozen=True, slots=True)
class Judged:
    """A saying and what was measured: confirmed where it lies within the interval of that density."""

    saying: Saying
    point: Point | None
    answer: Answer

    def as_json(self) -> dict[str, Any]:
        """The saying, the answer, and the figures that it rests on."""
        return {
            "density": self.saying.density,
            "loss_rate": self.saying.loss_rate,
            "answer": self.answer,
            "measured_density": self.point.density if self.point else None,
            "measured_loss_rate": self.point.trial.loss_rate if self.point else None,
            "measured_ci95": list(self.point.trial.ci95) if self.point else None,
        }


def sweep(
    listener: str,
    densities: Sequence[float],
    seconds: float,
    handler_ms: float = 0.0,
    refinements: int = REFINEMENTS,
    tell: Callable[[Point], None] = lambda point: None,
) -> list[Point]:
    """One storm of ``seconds`` at each density, then those that bisection asks for; in order of density.

    ``tell`` gets each point as it is had. Errors as ``try_listener``'s.
    """
    points: list[Point] = []

    def measure(density: float, refined: bool) -> None:
        storm = Storm(max(1, round(density * seconds)), density)
        points.append(Point(density, try_listener(listener, storm, handler_ms), refined))
        tell(points[-1])

    for density in sorted(set(densities)):
        measure(density, False)
    for _ in range(refinements):
        at = knee(points)
        if at.first_bad is None or at.first_bad - (at.last_good or 0) <= _NEAR * at.first_bad:
            break
        measure(round(((at.last_good or 0) + at.first_bad) / 2, 1), True)
    return sorted(points, key=lambda point: point.density)


def knee(points: Sequence[Point]) -> Knee:
    """The knee of the points, in whatever order they are."""
    last_good: float | None = None
    for point in sorted(points, key=lambda point: point.density):
        if not point.good:
            return Knee(last_good, point.density)
        last_good = point.density
    return Knee(last_good, None)


def judge(points: Sequence[Point]) -> list[Judged]:
    """Each saying of the folklore against the point of its density."""
    judged = []
    for saying in FOLKLORE:
        if saying.density:
            point = next((each for each in points if each.density == saying.density), None)
        else:
            quiet = [each for each in points if each.density <= IDLE_PER_S]
            point = min(quiet, key=lambda each: each.density, default=None)
        judged.append(Judged(saying, point, _answer(saying, point)))
    return judged


def _answer(saying: Saying, point: Point | None) -> Answer:
    if point is None:
        return "NOT MEASURED"
    low, high = point.trial.ci95
    return "CONFIRMED" if low <= saying.loss_rate <= high else "REFUTED"


def verdict(judged: Sequence[Judged]) -> Answer:
    """CONFIRMED where all of them are, REFUTED where one of them is."""
    answers = {each.answer for each in judged}
    for answer in ("REFUTED", "NOT MEASURED"):
        if answer in answers:
            return answer
    return "CONFIRMED"
