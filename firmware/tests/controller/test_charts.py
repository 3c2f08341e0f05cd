"""What the page's charts draw."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from plugmeter.controller import charts

NOW_MS = 1_795_300_000_000


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
