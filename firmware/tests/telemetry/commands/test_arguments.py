from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugmeter.sections import Commands
from plugmeter.telemetry.commands.arguments import OPS, read
from tests.telemetry.commands.orders import ARGUMENTS


def test_the_operations_are_those_that_the_configuration_accepts() -> None:
    assert Commands().accept == OPS


@pytest.mark.parametrize("op", OPS)
def test_good_arguments_are_passed_on_as_they_are(op: str) -> None:
    given = ARGUMENTS.get(op, {})
    assert read(op, given) == (given, ())


@pytest.mark.parametrize(
    ("op", "given", "problem"),
    [
        ("selftest", {"x": 1}, "unknown key arguments.x"),
        ("restart", {"now": True}, "unknown key arguments.now"),
        ("start-run", {"stick": 1}, "unknown key arguments.stick; did you mean arguments.sticks?"),
        ("start-run", {"bounce": "dip"}, "unknown key arguments.bounce"),
        (
            "start-run",
            {"sticks": 0},
            "arguments.sticks = 0 is out of range; it must be a whole number, 1 to 1000000",
        ),
        (
            "start-run",
            {"ports": 2.5},
            "arguments.ports = 2.5 is a number; it must be a whole number, 1 to 44",
        ),
        ("start-run", {"seed": None}, "arguments.seed = null: leave it out instead"),
        (
            "start-run",
            {"rig": "none"},
            'arguments.rig = "none" is not known; it must be "passive", "injected", "gadget" or "relay"',
        ),
        (
            "start-run",
            {"duration_s": 604_801},
            "arguments.duration_s = 604801 is out of range; it must be a whole number, 1 to 604800 seconds",
        ),
        ("log-level", {}, "arguments.level is missing: What is told."),
        (
            "log-level",
            {"level": "loud"},
            'arguments.level = "loud" is not known; it must be "debug", "info", "warning" or "error"',
        ),
        (
            "log-level",
            {"level": "info", "minutes": True},
            "arguments.minutes = true is true or false; it must be a whole number, 1 to 1440 minutes",
        ),
        ("config", {}, 'arguments.config is missing: {"config": {"run": {"debounce_ms": 120}}}'),
        (
            "config",
            {"config": {"run": 3}},
            "arguments.config must be sections with their keys: {section: {key: value}}",
        ),
        (
            "config",
            {"config": {}, "conf": {}},
            "unknown key arguments.conf; did you mean config?",
        ),
    ],
)
def test_arguments_that_cannot_be(op: str, given: dict[str, Any], problem: str) -> None:
    assert read(op, given)[1] == (problem,)


@given(
    st.sampled_from(OPS),
    st.dictionaries(
        st.sampled_from(["rig", "sticks", "level", "config", "gap_ms", "x", "\0"]),
        st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.text())
        | st.dictionaries(st.text(), st.none() | st.dictionaries(st.text(), st.integers())),
    ),
)  # fmt: skip
def test_any_arguments_are_good_or_have_problems_of_one_line_each(op: str, given: dict[str, Any]) -> None:
    values, problems = read(op, given)
    assert values == given or problems  # NaN is not equal to itself, and no argument either
    assert all(line.isprintable() for line in problems)
