"""Whether a device is there."""

from __future__ import annotations

import pytest

from plugmeter.controller.presence import state_of
from plugmeter.controller.queries import DeviceRow

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
    assert state_of(row(heard), status, NOW_MS, listening) == state
