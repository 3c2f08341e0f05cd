"""What falls into which column of a span of time."""

from __future__ import annotations

from plugmeter.controller.over_time import SPANS, over_time

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
