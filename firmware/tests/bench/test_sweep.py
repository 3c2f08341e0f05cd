"""The sweep: the knee and the folklore as tables, and small sweeps with real storms."""

from __future__ import annotations

from typing import Any

import pytest

from plugmeter.bench import sweep as sweeps
from plugmeter.bench.sweep import Knee, Point, judge, knee, sweep, verdict
from plugmeter.bench.trial import Trial
from tests.namespace import in_namespace


def point(density: float, lost: int, emitted: int = 10_000) -> Point:
    zeros: dict[str, Any] = dict.fromkeys(
        ("cpu_us_per_event", "latency_p50_us", "latency_p99_us", "latency_max_us", "events_per_s"), 0.0
    )
    trial = Trial(
        listener="plain",
        handler_ms=0.0,
        emitted=emitted,
        received=emitted - lost,
        devices_emitted=0,
        devices_received=0,
        plugs_per_s=density,
        known_lost=0,
        **zeros,
    )
    return Point(density, trial)


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        ({10: 0, 20: 0}, Knee(20, None)),
        ({10: 0, 20: 5, 30: 500}, Knee(20, 30)),  # 5 of 10,000 may well be 0.1 %
        ({30: 500, 10: 0, 20: 0}, Knee(20, 30)),  # in any order
        ({10: 0, 20: 500, 30: 0}, Knee(10, 20)),  # a good one above a bad one is luck
        ({10: 500, 20: 900}, Knee(None, 10)),
        ({}, Knee(None, None)),
    ],
)
def test_the_knee(losses: Any, expected: Any) -> None:
    assert knee([point(density, lost) for density, lost in losses.items()]) == expected


@pytest.mark.parametrize(
    ("losses", "answers", "whole"),
    [
        ({10: 0, 85: 230, 110: 1870}, ["CONFIRMED"] * 3, "CONFIRMED"),
        ({10: 0, 85: 0, 110: 0}, ["CONFIRMED", "REFUTED", "REFUTED"], "REFUTED"),
        ({10: 200, 85: 230, 110: 1870}, ["REFUTED", "CONFIRMED", "CONFIRMED"], "REFUTED"),
        ({10.5: 0, 85: 230, 110: 1870}, ["NOT MEASURED", "CONFIRMED", "CONFIRMED"], "NOT MEASURED"),
        ({85: 230, 110: 1870, 0.5: 0}, ["CONFIRMED"] * 3, "CONFIRMED"),
        ({10: 0, 85: 230}, ["CONFIRMED", "CONFIRMED", "NOT MEASURED"], "NOT MEASURED"),
    ],
)
def test_the_folklore(losses: Any, answers: Any, whole: Any) -> None:
    judged = judge([point(density, lost) for density, lost in losses.items()])
    assert [each.answer for each in judged] == answers
    assert verdict(judged) == whole


def test_a_listener_that_keeps_up_has_no_knee() -> None:
    points = in_namespace(lambda: sweep("plain", [20, 5, 20], 0.3))
    assert [each.density for each in points] == [5, 20]
    assert [each.trial.lost for each in points] == [0, 0]
    assert points[1].trial.emitted == 6 * 32


def test_bisection_looks_between_good_and_bad() -> None:
    told: list[Any] = []
    points = in_namespace(lambda: _swept(told))
    densities = [each.density for each in points]
    assert densities == sorted(densities)
    assert points[-1].trial.lost > 0
    assert not points[-1].good
    refined = [each for each in points if each.refined]
    assert 1 <= len(refined) <= sweeps.REFINEMENTS
    assert all(2 < each.density < 2000 for each in refined)
    assert sum(each.trial.received + each.trial.lost for each in points) == sum(
        each.trial.emitted for each in points
    )


def _swept(told: Any) -> Any:
    # 5 ms an event is 200 events a second: 2000 plugs a second are 64,000.
    return sweep("plain", [2, 2000], 0.2, handler_ms=5, refinements=2, tell=told.append)
