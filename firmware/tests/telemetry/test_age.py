"""Age by the time that the device was on."""

from __future__ import annotations

import pytest

from plugmeter.telemetry.age import MARKS, Instant, lived_ns, step_ns

DAY_NS = 86_400 * 10**9


@pytest.mark.parametrize(
    ("then", "now", "lived"),
    [
        (Instant("a", 100), Instant("a", 150), 1_050),  # the same boot: what passed
        (Instant("a", 150), Instant("a", 100), 1_000),  # never back
        (Instant("a", 150), Instant("b", 20), 1_020),  # another boot: what this one has lasted
        (Instant("", 100), Instant("", 150), 1_150),  # no boot id is no same boot
        (Instant("a", 100), Instant("b", -5), 1_000),
    ],
)
def test_lived(then: Instant, now: Instant, lived: int) -> None:
    assert lived_ns(1_000, then, now) == lived


@pytest.mark.parametrize(
    ("max_age_ns", "step"),
    [(0, 3_600 * 10**9), (1, 10**9), (256 * DAY_NS // 24, DAY_NS // 24), (3_650 * DAY_NS, DAY_NS)],
)
def test_steps(max_age_ns: int, step: int) -> None:
    assert step_ns(max_age_ns) == step
    assert MARKS > 1
