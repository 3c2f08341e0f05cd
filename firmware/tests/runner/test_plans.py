from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugmeter import config
from plugmeter.errors import UsageError
from plugmeter.runner.plans import plan_of
from plugmeter.sections import Config


def configured(**daemon: object) -> Config:
    return config.from_table({"daemon": {"state_directory": "/state", **daemon}}, "f.toml")


def test_by_itself_the_daemon_watches_for_as_long_as_it_is_told() -> None:
    settings = configured(run_minutes=2)
    same, plan = plan_of(settings, {})
    assert same == settings
    assert (plan.rig, plan.duration_s, plan.state) == ("passive", 120.0, Path("/state/coldplug.json"))


@pytest.mark.parametrize("rig", ["gadget", "relay"])
def test_a_rig_that_plugs_has_no_duration_but_keeps_what_is_plugged(rig: str) -> None:
    _, plan = plan_of(configured(rig=rig), {})
    assert (plan.rig, plan.duration_s, plan.state) == (rig, None, Path("/state/coldplug.json"))


def test_what_the_injected_rig_plugs_is_not_kept() -> None:
    _, plan = plan_of(configured(rig="injected"), {})
    assert (plan.rig, plan.duration_s, plan.state) == ("injected", None, None)


def test_arguments_win_over_the_configuration() -> None:
    given_ = {
        "sticks": 3,
        "cycles": 2,
        "ports": 4,
        "gap_ms": 300,
        "jitter_ms": 5,
        "density_per_s": 2,
        "seed": 9,
    }
    settings, plan = plan_of(configured(), {"rig": "injected", **given_})
    assert plan.rig == "injected"
    assert {name: getattr(settings.rig, name) for name in given_} == given_
    assert plan_of(configured(), {"duration_s": 5})[1].duration_s == 5.0


@pytest.mark.parametrize(
    ("daemon", "arguments", "words"),
    [
        ({"rig": "none"}, {}, r"which rig\? .* passive"),
        ({}, {"rig": "none"}, 'rig = "none" is not known; there are injected'),
        ({}, {"rig": ["injected"]}, "rig = a list is not known"),
        ({}, {"rig": "injected", "stick": 1}, 'unknown argument "stick"; there are rig, sticks'),
        ({}, {"rig": "injected", "sticks": "3"}, "rig.sticks"),
        ({}, {"rig": "injected", "sticks": 0, "cycles": 0}, "rig.sticks = 0 .*; rig.cycles = 0"),
        ({}, {"rig": "injected", "gap_ms": 10}, "rig.gap_ms = 10"),
        ({}, {"rig": "injected", "duration_s": 5}, "duration_s is for the passive rig"),
        ({}, {"sticks": 5}, "sticks is not for the passive rig"),
        ({}, {"rig": "relay", "ports": 5}, "ports is not for the relay rig"),
        ({}, {"duration_s": 0}, "duration_s = 0"),
        ({}, {"duration_s": True}, "duration_s = true"),
        ({}, {"duration_s": "5"}, 'duration_s = "5"'),
        ({}, {"duration_s": float("nan")}, "duration_s = nan"),
        ({}, {"duration_s": 1e9}, "duration_s = 1000000000.0"),
    ],
)
def test_what_cannot_be_is_one_line(daemon: dict[str, Any], arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        plan_of(configured(**daemon), arguments)
    assert "\n" not in str(caught.value)


NAMES = st.sampled_from(["rig", "sticks", "cycles", "ports", "gap_ms", "duration_s", "seed"]) | st.text(
    max_size=5
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just("injected"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


@given(st.dictionaries(NAMES, VALUES, max_size=5))
def test_any_arguments_give_a_plan_or_one_line(arguments: dict[str, Any]) -> None:
    try:
        settings, plan = plan_of(configured(), arguments)
    except UsageError as error:
        assert "\n" not in str(error)
    else:
        assert plan.rig == arguments.get("rig", "passive")
        assert config.from_table(config.describe(settings), "") == settings
