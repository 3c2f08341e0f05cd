from __future__ import annotations

import pytest

from plugmeter.lifecycle.pace import Pace

S = 1_000_000_000


@pytest.mark.parametrize(
    ("seen", "expected_s"),
    [
        ([(0, 100)], None),
        ([(0, 100), (1, 100)], None),
        ([(0, 100), (1, 75)], 3.0),
        ([(0, 100), (1, 75), (4, 50)], 4.0),
        ([(0, 100), (5, 0)], 0.0),
        ([(0, 100), (0, 50)], None),
        ([(0, 100), (1, 50), (2, 60)], None),
        ([(0, 100), (1, 50), (2, 60), (3, 30)], 1.0),
    ],
)
def test_what_is_expected(seen: list[tuple[int, int]], expected_s: float | None) -> None:
    pace = Pace()
    said = [pace.expected_s(at_s * S, items) for at_s, items in seen]
    assert said[-1] == expected_s
