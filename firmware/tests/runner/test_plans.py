from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugmeter import config
from plugmeter.errors import UsageError
from plugmeter.rigs import sequence as sequences
from plugmeter.rigs.gadget import check_steps
from plugmeter.rigs.planned import port_names, sequence_of
from plugmeter.runner.plans import plan_of
from plugmeter.sections import Config

WIRED = {"sense_gpio": 4, "switch_gpio": 5}


def configured(**daemon: object) -> Config:
    return config.from_table({"daemon": {"state_directory": "/state", **daemon}}, "f.toml")


def test_by_itself_the_daemon_watches_for_as_long_as_it_is_told() -> None:
    settings = configured(run_minutes=2)
    same, plan = plan_of(settings, {})
    assert same == settings
    assert (plan.rig, plan.duration_s, plan.state) == ("passive", 120.0, Path("/state/coldplug.json"))


@pytest.mark.parametrize("rig", ["gadget", "relay"])
def test_a_rig_that_plugs_has_no_duration_but_keeps_what_is_plugged(rig: str) -> None:
    settings = config.from_table(
        {"daemon": {"state_directory": "/state", "rig": rig}, "ports": {"1-1": WIRED}}, "f.toml"
    )
    _, plan = plan_of(settings, {})
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


@pytest.mark.parametrize(
    ("rig", "table", "words"),
    [
        ("injected", {"rig": {"density_per_s": 60, "ports": 12}}, "60 plugs/s need 30 ports .* more ports"),
        ("injected", {"rig": {"density_per_s": 9, "sticks": 1}}, "9 plugs/s need . sticks .* more sticks"),
        ("injected", {"rig": {"sticks": 1000, "cycles": 100_000}}, "1000 sticks in 100000 .* take fewer"),
        ("injected", {"rig": {"jitter_ms": 300}}, "the gap of 250 ms, not 300 ms: lower the jitter"),
        ("gadget", {"rig": {"ports": 40}}, "40 ports asked for; dummy_hcd has 1 to 32"),
        ("gadget", {"rig": {"bounce": "dip"}}, "cannot bounce .*; ask for bounce none"),
        ("gadget", {"rig": {"density_per_s": 5}}, "5 plugs/s need 10 ports at a gap of 1000 ms"),
        ("relay", {}, "every port needs a line that switches its VBUS: add"),
        ("relay", {"ports": {"1-1": {"sense_gpio": 4}}}, "every port needs a line"),
        ("relay", {"ports": {"1-1": WIRED}, "rig": {"density_per_s": 2}}, "2 plugs/s need 4 ports"),
        ("relay", {"ports": {"1-1": WIRED}, "gpio": {"factory": "nope"}}, "gpio.factory = 'nope' is unk"),
        ("passive", {"ports": {"1-1": WIRED}, "gpio": {"factory": "nope"}}, "machine has .*plugmeter-gpiod"),
    ],
)
def test_what_could_never_run_is_no_plan(rig: str, table: dict[str, Any], words: str) -> None:
    """Neither as the standing run, nor as one that a command wants."""
    standing = config.from_table({"daemon": {"rig": rig}, **table}, "f.toml")
    asked = config.from_table(table, "f.toml")
    for settings, arguments in ((standing, {}), (asked, {"rig": rig})):
        with pytest.raises(UsageError, match=words) as caught:
            plan_of(settings, arguments)
        assert "\n" not in str(caught.value)


def test_a_pin_factory_that_nothing_is_opened_with_does_not_matter() -> None:
    for table in ({}, {"ports": {"1-1": WIRED}, "witnesses": {"gpio": False}}):
        settings = config.from_table({"gpio": {"factory": "nope"}, **table}, "f.toml")
        assert plan_of(settings, {})[1].rig == "passive"
    assert plan_of(settings, {"rig": "injected"})[1].rig == "injected"


@given(
    st.sampled_from(["injected", "gadget", "relay"]),
    st.fixed_dictionaries(
        {
            "sticks": st.integers(1, 40),
            "cycles": st.integers(1, 4),
            "gap_ms": st.just(0) | st.integers(50, 2_000),
            "jitter_ms": st.integers(0, 2_000),
            "density_per_s": st.just(0) | st.floats(0.01, 200),
            "bounce": st.sampled_from(["none", "contact", "dip"]),
        }
    ),
    st.integers(1, 44),
)
def test_what_is_accepted_can_be_played(rig: str, arguments: dict[str, Any], ports: int) -> None:
    lines = {f"1-{n}": {"sense_gpio": 2 * n, "switch_gpio": 2 * n + 1} for n in range(1, ports + 1)}
    try:
        given_ = {**arguments, **({} if rig == "relay" else {"ports": ports})}
        settings, asked = plan_of(config.from_table({"ports": lines}, "f.toml"), {"rig": rig, **given_})
    except UsageError as error:
        assert "\n" not in str(error)
        return
    names = port_names(settings, asked.rig)
    sequence = sequence_of(settings, asked.rig, names)
    assert len(names) == ports
    steps = sequences.plan(sequence)
    assert len(steps) == 2 * sequence.pairs
    if rig == "gadget":
        check_steps(steps, names)


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
