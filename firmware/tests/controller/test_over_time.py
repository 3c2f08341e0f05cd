"""What falls into which column of a span of time."""

from __future__ import annotations

import pytest

from plugmeter.controller.over_time import SPANS, drops_over_time, over_time

HOUR_MS = 3_600_000
NOW_MS = 1_795_300_000_000


def test_losses_fall_into_their_columns() -> None:
    hour = NOW_MS // HOUR_MS
    found = over_time(
        [
            (hour, "1-2", "lost", "socket_queue", 3),
            (hour, "1-10", "lost", "odd", 1),
            (hour, "1-2", "matched", "", 5),
            (hour - 1, "1-2", "late", "", 2),
            (hour - 24, "1-2", "lost", "udevd", 99),
        ],
        SPANS[24],
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


def test_drops_fall_into_the_columns_of_losses() -> None:
    hour = NOW_MS // HOUR_MS
    found = drops_over_time(
        [
            (hour, "udevd", 1, 3),
            (hour, "udevd", 2, 4),
            (hour - 5, "udevd", 1, 0),
            (hour - 23, "udevd", 1, 2),
            (hour - 24, "udevd", 1, 99),
            (hour - 24, "gone", 1, 99),
            (hour + 1, "ahead", 1, 99),
        ],
        SPANS[24],
        NOW_MS,
    )
    assert set(found) == {("udevd", 1), ("udevd", 2)}, "what is older or to come is not in it"
    assert found["udevd", 1]["drops"] == 5
    assert found["udevd", 1]["trend"] == [2, *[0] * 22, 3]
    assert [index for index, seen in enumerate(found["udevd", 1]["seen"]) if seen] == [0, 18, 23]
    assert found["udevd", 2]["trend"][-1] == 4


@pytest.mark.parametrize("hours", SPANS)
def test_drops_and_losses_of_one_moment_are_in_one_column(hours: int) -> None:
    span = SPANS[hours]
    at = NOW_MS // (span.sum_minutes * 60_000) - 1
    losses = over_time([(at, "1-2", "lost", "udevd", 7)], span, NOW_MS)
    drops = drops_over_time([(at, "udevd", 1, 7)], span, NOW_MS)["udevd", 1]
    assert [column["lost"] for column in losses["columns"]] == drops["trend"]
    assert losses["ports"][0]["seen"] == drops["seen"]
