"""What is said of runs."""

from __future__ import annotations

from plugmeter.controller.run_view import certified


def test_a_rate_is_of_valid_runs_only_and_has_an_interval() -> None:
    assert certified(3, 0, 0, 0)["rate"] is None
    found = certified(3, 2, 1_000, 0)
    assert found["rate"] == 0
    assert found["low"] == 0
    assert 0.003 < found["high"] < 0.004
    assert certified(1, 1, 5, 9)["rate"] is None, "more lost than decided is nonsense"
