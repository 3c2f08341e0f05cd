"""The frontier by itself: what it keeps, what it drops, and that its front can be cut off."""

from __future__ import annotations

from itertools import accumulate, pairwise

from hypothesis import given
from hypothesis import strategies as st

from plugmeter.measure.hypotheses import PAIR, Frontier, lowest_bit


def frontier(starts: list[int], head: int = 0) -> Frontier:
    return Frontier(head, starts, [0, *accumulate(starts)])


@given(st.integers(0, 300), st.integers(0))
def test_lowest_bit(bit: int, above: int) -> None:
    assert lowest_bit(1 << bit | above << (bit + 1)) == bit


def test_a_match_that_nothing_can_beat_leaves_one_hypothesis() -> None:
    one = frontier([0])
    assert one.offer(0, 10, [0])
    assert len(one) == 1
    assert one.best[:2] == (0, 10 - PAIR)
    assert list(one.pairs(0, 0)) == [(0, 0)]


def test_an_episode_passed_over_keeps_the_alternative_until_its_window_closes() -> None:
    two = frontier([0, 100])
    assert two.offer(0, 110, [1])
    assert len(two) == 2
    assert two.decide(0, 0) is None
    two.prune(200)
    assert len(two) == 1
    assert list(two.pairs(1, 0)) == [(1, 0)]


def test_an_enumeration_that_helps_no_hypothesis_is_not_used() -> None:
    two = frontier([0, 100])
    assert two.offer(0, 110, [1])
    assert not two.offer(1, 120, [1])


@st.composite
def offers(draw: st.DrawFn) -> tuple[list[int], list[tuple[int, list[int]]]]:
    starts = list(accumulate(draw(st.lists(st.integers(1, 50), min_size=1, max_size=12))))
    times = sorted(draw(st.lists(st.integers(0, 700), max_size=12)))
    return starts, [
        (t_ns, [p for p in range(len(starts)) if starts[p] <= t_ns and (p + draw(st.integers(0, 3))) % 2])
        for t_ns in times
    ]


@given(offers())
def test_costs_fall_strictly_and_masks_agree(
    given_offers: tuple[list[int], list[tuple[int, list[int]]]],
) -> None:
    starts, rounds = given_offers
    many = frontier(starts)
    for x, (t_ns, candidates) in enumerate(rounds):
        many.offer(x, t_ns, [p for p in candidates if p > many.first_last])
        hypotheses = many._hypotheses
        assert 1 <= len(hypotheses) <= len(starts) + 1
        for before, after in pairwise(hypotheses):
            assert before[0] < after[0]
            assert before[1] > after[1]
        for last, cost, episodes, enumerations in hypotheses:
            assert episodes.bit_length() - 1 == last
            assert episodes.bit_count() == enumerations.bit_count()
            assert episodes.bit_count() == -(cost // PAIR)
        best = list(many.pairs(0, 0))
        assert sum(rounds[j][0] - starts[i] for i, j in best) - len(best) * PAIR == many.best[1]


def test_rebase_renames_and_changes_nothing_else() -> None:
    starts = [0, 100, 200, 300]
    sums = [0, *accumulate(starts)]
    some = Frontier(0, starts, sums)
    assert some.offer(0, 110, [1])
    assert some.decide(0, 0) is None
    assert some.offer(1, 310, [3])
    before = list(some.pairs(1, 0))
    del starts[:1], sums[:1]
    some.rebase(1, 0)
    assert [(e + 1, x) for e, x in some.pairs(0, 0)] == before == [(1, 0), (3, 1)]
