"""What the page says of numbers and times."""

from __future__ import annotations

import pytest

from plugmeter.controller import wording

NOW_MS = 1_795_300_000_000


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
