"""What the page says of numbers and times, and what its charts draw."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugmeter.controller import charts, views, wording
from plugmeter.controller.queries import DeviceRow

HOUR_MS = 3_600_000
NOW_MS = 1_795_300_000_000


def row(heard_ms: int | None) -> DeviceRow:
    return DeviceRow(1, "d", 0, heard_ms, *(0,) * 6, "", None, *(0,) * 6, None, None)


@pytest.mark.parametrize(
    ("told", "heard_ago_ms", "listening_ago_ms", "state"),
    [
        (None, 0, 10**6, "unknown"),
        ("asleep", 0, 10**6, "unknown"),
        ("online", 1_000, 10**6, "online"),
        ("online", 31_000, 10**6, "silent"),
        ("online", 31_000, 5_000, "online"),
        ("online", 31_000, None, "online"),
        ("online", None, 10**6, "silent"),
        ("lost", 31_000, 10**6, "lost"),
        ("stopped", 31_000, 10**6, "stopped"),
    ],
)
def test_a_device_is_silent_only_to_those_who_listen(
    told: str | None, heard_ago_ms: int | None, listening_ago_ms: int | None, state: str
) -> None:
    heard = None if heard_ago_ms is None else NOW_MS - heard_ago_ms
    listening = None if listening_ago_ms is None else NOW_MS - listening_ago_ms
    status = None if told is None else {"state": told}
    assert views.state_of(row(heard), status, NOW_MS, listening) == state


def test_a_rate_is_of_valid_runs_only_and_has_an_interval() -> None:
    assert views.certified(3, 0, 0, 0)["rate"] is None
    found = views.certified(3, 2, 1_000, 0)
    assert found["rate"] == 0
    assert found["low"] == 0
    assert 0.003 < found["high"] < 0.004
    assert views.certified(1, 1, 5, 9)["rate"] is None, "more lost than decided is nonsense"


def test_losses_fall_into_their_columns() -> None:
    hour = NOW_MS // HOUR_MS
    found = views.over_time(
        [
            (hour, "1-2", "lost", "socket_queue", 3),
            (hour, "1-10", "lost", "odd", 1),
            (hour, "1-2", "matched", "", 5),
            (hour - 1, "1-2", "late", "", 2),
            (hour - 24, "1-2", "lost", "udevd", 99),
        ],
        views.SPANS[24],
        NOW_MS,
    )
    assert len(found["columns"]) == 24
    assert found["columns"][-1]["stages"] == {"socket_queue": 3, "unknown": 1}
    assert found["columns"][-2]["verdicts"] == 2
    assert (found["lost"], found["verdicts"]) == (4, 11), "what is older is not in it"
    assert found["stages"] == ["socket_queue", "unknown"]
    assert [port["port"] for port in found["ports"]] == ["1-2", "1-10"]
    assert found["ports"][0]["seen"][-2:] == [True, True]
    assert found["ports"][0]["late"] == 2


@given(
    counts=st.lists(st.integers(0, 10**9), min_size=1, max_size=30),
    stage=st.sampled_from(["socket_queue", "unknown"]),
)
def test_a_column_is_as_tall_as_its_losses(counts: list[int], stage: str) -> None:
    found = [
        {"start_ms": NOW_MS, "minutes": 60, "verdicts": n, "lost": n, "stages": {stage: n} if n else {}}
        for n in counts
    ]
    svg = str(charts.columns(found, [stage]))
    heights = [float(height) for height in re.findall(rf'class="stage-{stage}"[^>]*height="([\d.]+)"', svg)]
    lost = [n for n in counts if n]
    assert len(heights) == len(lost)
    assert all(2 <= height <= 218.1 for height in heights)
    pairs = sorted(zip(lost, heights, strict=True))
    assert [height for _, height in pairs] == sorted(heights)


def test_charts_escape_what_they_are_given() -> None:
    nasty = '"><script>'
    found = [{"start_ms": 0, "minutes": 60, "verdicts": 1, "lost": 1, "stages": {nasty: 1}}]
    for svg in (
        charts.columns(found, [nasty]),
        charts.shares({nasty: 1}, [nasty]),
        charts.spark([1], None, nasty),
    ):
        assert "<script>" not in svg


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0 s"), (-5, "0 s"), (99, "99 s"), (100, "2 min"), (6_000, "2 h"), (200_000, "2 days"), (None, "–")],
)
def test_durations_are_as_one_says_them(seconds: float | None, words: str) -> None:
    assert wording.duration(seconds) == words


def test_numbers_and_times_are_written_for_people() -> None:
    assert wording.count(1_234_567) == "1,234,567"
    assert wording.count(None) == "–"
    assert wording.size(41_943_040) == "41.9 MB"
    assert wording.size(999) == "999 B"
    assert wording.size("x") == "–"
    assert wording.when(NOW_MS) == "2026-11-21 22:26:40"
    assert wording.when(10**18) == "–"
    assert wording.iso(None) == ""
    assert wording.ago(None, NOW_MS) == "–"
    assert wording.percent(0.0301) == "3.01 %"
    assert wording.interval({"low": 0.0, "high": 0.0031}) == "0 … 0.31 %"
