from __future__ import annotations

import threading

import pytest

from plugmeter.errors import RigError, UsageError
from plugmeter.rigs.passive import PassiveRig
from plugmeter.rigs.rig import Rig


def test_it_waits_for_a_person_until_it_is_stopped() -> None:
    rig = PassiveRig(("1-1", "1-2"))
    as_rig: Rig = rig
    rig.start()
    assert not as_rig.finished
    assert (rig.name, rig.truth, rig.ports) == ("passive", "gpio", ("1-1", "1-2"))
    assert (rig.read(), rig.progress(), rig.failure, rig.emitted, rig.plan) == ((), (0, 0), None, None, {})
    rig.stop()
    rig.close()
    assert rig.finished


def test_it_ends_by_itself_after_its_duration() -> None:
    rig = PassiveRig(("1-1",), duration_s=0.01)
    assert not rig.finished  # not before it starts
    rig.start()
    pause = threading.Event()
    for _ in range(1000):
        if rig.finished:
            break
        pause.wait(0.01)
    assert rig.finished
    assert rig.plan == {"duration_s": 0.01}


def test_it_starts_once() -> None:
    rig = PassiveRig(("1-1",))
    rig.start()
    with pytest.raises(RigError, match="only once"):
        rig.start()


@pytest.mark.parametrize("duration_s", [0.0, -1.0, float("nan")])
def test_a_duration_is_above_zero(duration_s: float) -> None:
    with pytest.raises(UsageError, match="above 0"):
        PassiveRig(("1-1",), duration_s)
