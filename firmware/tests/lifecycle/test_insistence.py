"""What a signal does at once, whatever the conductor is doing."""

from __future__ import annotations

import signal

import pytest

from plugmeter.lifecycle.insistence import FORCED_S, INTERRUPTED_S, Insistence
from plugmeter.lifecycle.signals import Caught
from plugmeter.lifecycle.stages import Stage

S = 1_000_000_000
TERM, INT, HUP = signal.SIGTERM, signal.SIGINT, signal.SIGHUP


@pytest.mark.parametrize(
    ("stage", "pressed", "guards"),
    [
        (Stage.RUNNING, [(TERM, 0)], []),
        (Stage.RUNNING, [(TERM, 0), (TERM, S - 1)], []),
        (Stage.RUNNING, [(TERM, 0), (TERM, S)], [FORCED_S]),
        (Stage.DRAINING, [(TERM, 0), (HUP, S), (INT, 2 * S)], [FORCED_S]),
        (Stage.DRAINING, [(TERM, 0), (TERM, S), (TERM, 2 * S)], [FORCED_S]),
        (Stage.INITIALIZING, [(HUP, 0)], []),
        (Stage.INITIALIZING, [(INT, 0)], [INTERRUPTED_S]),
        (Stage.INITIALIZING, [(TERM, 0), (TERM, S // 2)], [INTERRUPTED_S]),
        (Stage.INITIALIZING, [(TERM, 0), (TERM, S)], [INTERRUPTED_S, FORCED_S]),
    ],
)
def test_the_last_resort_is_set(stage: Stage, pressed: list[tuple[int, int]], guards: list[float]) -> None:
    found: list[float] = []
    insistence = Insistence(lambda: stage, found.append)
    for number, t_ns in pressed:
        insistence.heed(Caught(number, 0, 0, "", t_ns, 0))
    assert found == guards
