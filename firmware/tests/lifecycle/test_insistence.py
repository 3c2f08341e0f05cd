"""What a signal does at once, whatever the conductor is doing."""

from __future__ import annotations

import re
import signal
from pathlib import Path

import pytest

from plugmeter.lifecycle.actions import Timing
from plugmeter.lifecycle.drains import LONGEST_S
from plugmeter.lifecycle.insistence import FORCED_S, INTERRUPTED_S, UNHEARD_S, Insistence
from plugmeter.lifecycle.signals import Caught
from plugmeter.lifecycle.stages import Stage
from plugmeter.lifecycle.stop import GUARD_S

S = 1_000_000_000
TERM, INT, HUP = signal.SIGTERM, signal.SIGINT, signal.SIGHUP


@pytest.mark.parametrize(
    ("stage", "pressed", "guards"),
    [
        (Stage.RUNNING, [(HUP, 0)], []),
        (Stage.RUNNING, [(TERM, 0)], [UNHEARD_S]),
        (Stage.RUNNING, [(INT, 0)], [UNHEARD_S]),
        (Stage.RUNNING, [(TERM, 0), (TERM, S - 1)], [UNHEARD_S]),
        (Stage.RUNNING, [(TERM, 0), (TERM, S)], [UNHEARD_S, FORCED_S]),
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


def test_a_stop_that_is_not_heard_has_its_time_and_ends_before_the_service_manager_ends_it() -> None:
    unit = Path(__file__).parents[3] / "overlays/rootfs/usr/lib/systemd/system/plugmeter.service"
    found = re.search(r"^TimeoutStopSec=(\d+)$", unit.read_text(), re.MULTILINE)
    assert found is not None
    assert Timing(60, 10, 60).intake_s + LONGEST_S + GUARD_S <= UNHEARD_S < int(found[1])
