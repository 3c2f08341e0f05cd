from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugmeter.moments import NS, instant, rfc3339


@pytest.mark.parametrize(
    ("text", "time_ns"),
    [
        ("2000-01-01T00:00:00Z", 946_684_800 * NS),
        ("2026-11-22T09:30:00Z", 1_795_339_800 * NS),
        ("2026-11-22T10:30:00+01:00", 1_795_339_800 * NS),
        ("2026-11-22T09:30:00.5Z", 1_795_339_800 * NS + NS // 2),
        ("2026-11-22T09:30:00.000000001Z", 1_795_339_800 * NS + 1),
        ("2024-02-29T00:00:00Z", 1_709_164_800 * NS),
    ],
)
def test_a_time_of_a_message(text: str, time_ns: int) -> None:
    assert instant(text) == time_ns


@pytest.mark.parametrize(
    "text",
    [
        "", "now", "2026-11-22", "2026-11-22T09:30:00", "2026-11-22 09:30:00Z", "2026-02-30T00:00:00Z",
        "1999-12-31T23:59:59Z", "2200-01-01T00:00:00Z", "2026-11-22T24:30:00Z", "2026-11-22T09:30:00.Z",
        "2026-11-22T09:30:00.1234567890Z", "2026-11-22T09:30:00+99:00", "٢٠٢٦-11-22T09:30:00Z",
        "2026-11-22T09:30:00Z\n", " 2026-11-22T09:30:00Z",
    ],
)  # fmt: skip
def test_what_is_no_time(text: str) -> None:
    assert instant(text) is None


@given(st.text())
def test_any_text_is_a_time_or_none(text: str) -> None:
    assert instant(text) is None or isinstance(instant(text), int)


@given(st.integers(946_684_800 * NS, 7_258_118_400 * NS - 1))
def test_a_time_that_we_write_reads_back_to_the_microsecond(time_ns: int) -> None:
    assert instant(rfc3339(time_ns)) == time_ns // 1_000 * 1_000


@pytest.mark.parametrize(
    ("time_ns", "text"),
    [
        (0, "1970-01-01T00:00:00.000000Z"),
        (-1, "1969-12-31T23:59:59.999999Z"),
        (1_795_339_800 * NS + 999, "2026-11-22T09:30:00.000000Z"),
        (1_795_339_800 * NS + 1_000, "2026-11-22T09:30:00.000001Z"),
        (2**63, "2262-04-11T23:47:16.854775Z"),
        (10**40, "9999-12-31T23:59:59.999999Z"),
        (-(10**40), "0001-01-01T00:00:00.000000Z"),
    ],
)
def test_what_we_write(time_ns: int, text: str) -> None:
    assert rfc3339(time_ns) == text


@given(st.integers(-(2**80), 2**80))
def test_any_clock_can_be_written(time_ns: int) -> None:
    assert rfc3339(time_ns).endswith("Z")
