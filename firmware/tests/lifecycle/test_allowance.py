"""The time of several things that are done one after the other."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from plugmeter.lifecycle.allowance import Allowance
from plugmeter.lifecycle.stop import GUARD_S, LAST_S

SECONDS = st.floats(0.0, 20.0)


@given(SECONDS, st.lists(st.tuples(SECONDS, SECONDS, SECONDS)))
def test_nobody_who_keeps_to_his_share_ends_it(
    limit_s: float, parts: list[tuple[float, float, float]]
) -> None:
    now_s = [100.0]
    allowance = Allowance(limit_s, lambda: now_s[0])
    for wanted_s, kept_s, inner_s in parts:
        left_s = max(0.0, 100.0 + limit_s - now_s[0])
        share_s = allowance.share_s(wanted_s, kept_s)
        assert 0.0 <= share_s <= wanted_s
        assert share_s == 0.0 or share_s + kept_s <= left_s + 1e-9
        assert abs(allowance.within(inner_s).share_s(wanted_s, kept_s)
                   - allowance.share_s(wanted_s, kept_s + inner_s)) < 1e-9  # fmt: skip
        now_s[0] += share_s
        assert now_s[0] <= 100.0 + limit_s + 1e-9


def test_it_passes_on_its_own() -> None:
    now_s = [0.0]
    allowance = Allowance(7.0, lambda: now_s[0])
    assert (allowance.share_s(5.0), allowance.share_s(5.0, 4.0)) == (5.0, 3.0)
    now_s[0] = 6.5
    assert (allowance.share_s(5.0), allowance.share_s(5.0, 4.0)) == (0.5, 0.0)
    now_s[0] = 9.0
    assert allowance.share_s(5.0) == 0.0


def test_the_last_stage_has_less_than_its_guard() -> None:
    assert LAST_S < GUARD_S
