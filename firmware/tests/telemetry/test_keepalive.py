"""The keepalive: a quarter at first, up while stable, down on silence, never outside its bounds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugmeter.telemetry.keepalive import Keepalive


def test_begins_at_a_quarter_grows_and_is_halved() -> None:
    keepalive = Keepalive(60.0, floor_s=4.0, answers_to_grow=2)
    assert keepalive.interval_s == 15.0
    seen = []
    for _ in range(8):
        keepalive.answered()
        seen.append(keepalive.interval_s)
    assert seen == [15.0, 22.5, 22.5, 33.75, 33.75, 50.625, 50.625, 60.0]
    keepalive.silence()
    assert keepalive.interval_s == 30.0
    for _ in range(9):
        keepalive.silence()
    assert keepalive.interval_s == 4.0


def test_silence_takes_back_the_answers_so_far() -> None:
    keepalive = Keepalive(60.0, answers_to_grow=2)
    keepalive.answered()
    keepalive.silence()
    keepalive.answered()
    assert keepalive.interval_s == 7.5


def test_the_broker_may_want_it_shorter() -> None:
    keepalive = Keepalive(60.0)
    keepalive.limit(10.0)
    assert keepalive.interval_s == 10.0
    keepalive.limit(None)
    for _ in range(100):
        keepalive.answered()
    assert keepalive.interval_s == 60.0


@given(
    st.floats(0.5, 3_600),
    st.lists(st.sampled_from(["answered", "silence", "short", "long"]), max_size=60),
)
def test_stays_within_its_bounds(maximum: float, events: list[str]) -> None:
    keepalive = Keepalive(maximum, floor_s=4.0)
    for event in events:
        if event in ("short", "long"):
            keepalive.limit(3.0 if event == "short" else None)
        else:
            getattr(keepalive, event)()
        assert min(3.0, maximum) <= keepalive.interval_s <= maximum or keepalive.interval_s <= 3.0


@pytest.mark.parametrize(("maximum", "floor", "answers"), [(0, 4, 1), (10, 0, 1), (10, 4, 0)])
def test_refuses_nonsense(maximum: float, floor: float, answers: int) -> None:
    with pytest.raises(ValueError, match="interval"):
        Keepalive(maximum, floor_s=floor, answers_to_grow=answers)
