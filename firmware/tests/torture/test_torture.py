"""A few of everything that ``scripts/torture`` does hundreds of times."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.torture.scenarios import SCENARIOS, Scenario


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_nothing_is_lost_and_nothing_comes_twice(scenario: Scenario, tmp_path: Path) -> None:
    proof = scenario.play(tmp_path / "rig", scenario.few, 1)
    assert not proof.wrong(scenario.few), proof
    assert proof.stored > 0
