"""Ranges against plain sets of numbers."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugmeter.telemetry.ranges import (
    Range,
    Ranges,
    clip,
    contains,
    intersect,
    merge,
    normalise,
    runs,
    subtract,
    total,
)

RANGE = st.tuples(st.integers(-5, 40), st.integers(-5, 40))
MANY = st.lists(RANGE, max_size=8)


def numbers(ranges: list[Range] | Ranges) -> set[int]:
    return {number for first, last in ranges for number in range(first, last + 1)}


def is_normal(ranges: Ranges) -> bool:
    return all(first <= last for first, last in ranges) and all(
        left[1] + 1 < right[0] for left, right in pairwise(ranges)
    )


@pytest.mark.parametrize(
    ("given_", "normal"),
    [
        ([], ()),
        ([(3, 2)], ()),
        ([(1, 1), (2, 2)], ((1, 2),)),
        ([(5, 9), (1, 3)], ((1, 3), (5, 9))),
        ([(1, 10), (2, 3)], ((1, 10),)),
        ([(1, 2**63 - 1), (7, 2**64)], ((1, 2**64),)),
    ],
)
def test_a_normal_form(given_: list[Range], normal: Ranges) -> None:
    assert normalise(given_) == normal


@given(MANY)
def test_the_normal_form_holds_the_same_numbers_and_is_the_only_one(ranges: list[Range]) -> None:
    normal = normalise(ranges)
    assert is_normal(normal)
    assert numbers(normal) == numbers(ranges)
    assert runs(numbers(ranges)) == normal
    assert total(normal) == len(numbers(ranges))


@given(MANY, MANY)
def test_the_algebra_is_that_of_sets(left: list[Range], right: list[Range]) -> None:
    one, other = normalise(left), normalise(right)
    for made, expected in (
        (merge(one, other), numbers(one) | numbers(other)),
        (subtract(one, other), numbers(one) - numbers(other)),
        (intersect(one, other), numbers(one) & numbers(other)),
    ):
        assert is_normal(made)
        assert numbers(made) == expected


@given(MANY, RANGE)
def test_clip_and_contains(ranges: list[Range], window: Range) -> None:
    normal = normalise(ranges)
    assert numbers(clip(normal, *window)) == numbers(normal) & numbers([window])
    for number in range(-6, 42):
        assert contains(normal, number) == (number in numbers(normal))
