"""Inclusive ranges of sequence numbers, ``(first, last)``: what acknowledgements and tombstones cover.

A *normal* tuple of ranges ascends, and no two of its ranges touch or overlap; so a set of numbers has
exactly one normal form. All functions here take and give normal tuples, but for ``normalise``, which
takes anything.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from typing import TypeAlias

Range: TypeAlias = tuple[int, int]
Ranges: TypeAlias = tuple[Range, ...]


def normalise(ranges: Iterable[Range]) -> Ranges:
    """The same numbers in normal form. A range whose last is below its first holds no number."""
    joined: list[Range] = []
    for first, last in sorted(each for each in ranges if each[0] <= each[1]):
        if joined and first <= joined[-1][1] + 1:
            if last > joined[-1][1]:
                joined[-1] = (joined[-1][0], last)
        else:
            joined.append((first, last))
    return tuple(joined)


def runs(numbers: Iterable[int]) -> Ranges:
    """The normal form of single numbers, in any order."""
    return normalise((number, number) for number in numbers)


def total(ranges: Iterable[Range]) -> int:
    """How many numbers they hold."""
    return sum(last - first + 1 for first, last in ranges)


def merge(left: Ranges, right: Ranges) -> Ranges:
    """What is in either."""
    return normalise((*left, *right))


def subtract(left: Ranges, right: Ranges) -> Ranges:
    """What is in ``left`` and not in ``right``."""
    rest: list[Range] = []
    at = 0
    for first, last in left:
        while at < len(right) and right[at][1] < first:
            at += 1
        following = at
        while following < len(right) and right[following][0] <= last:
            if first < right[following][0]:
                rest.append((first, right[following][0] - 1))
            first = right[following][1] + 1
            following += 1
        if first <= last:
            rest.append((first, last))
    return tuple(rest)


def intersect(left: Ranges, right: Ranges) -> Ranges:
    """What is in both."""
    return subtract(left, subtract(left, right))


def clip(ranges: Ranges, first: int, last: int) -> Ranges:
    """What lies within ``first`` .. ``last``. Takes time with what is left, and little with what is not."""
    begin = bisect_left(ranges, first, key=lambda each: each[1])
    end = bisect_right(ranges, last, key=lambda each: each[0])
    return tuple((max(first, low), min(last, high)) for low, high in ranges[begin:end])


def contains(ranges: Sequence[Range], number: int) -> bool:
    """Whether ``number`` is in one of them (normal form)."""
    at = bisect_right(ranges, number, key=lambda each: each[0]) - 1
    return at >= 0 and number <= ranges[at][1]
