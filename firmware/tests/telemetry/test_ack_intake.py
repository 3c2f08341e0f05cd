"""Acknowledgements that wait for their commit: nothing is forgotten but what is too much or never was."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from plugmeter.telemetry import ranges
from plugmeter.telemetry.ack_intake import AckIntake
from plugmeter.telemetry.ranges import Range, Ranges

PRODUCED = 60
wanted = st.lists(st.tuples(st.integers(-5, 70), st.integers(-5, 70)), max_size=8)


def numbers(of: Ranges | list[Range]) -> set[int]:
    return {number for first, last in of for number in range(first, last + 1)}


@given(st.lists(wanted))
def test_all_that_was_produced_waits_and_the_rest_is_counted(given_lists: list[list[Range]]) -> None:
    intake = AckIntake("a")
    for each in given_lists:
        intake.add(each, PRODUCED, 0)
    given_ranges = [each for given_list in given_lists for each in given_list]
    assert numbers(intake.waiting) == numbers(given_ranges) & set(range(1, PRODUCED + 1))
    assert intake.waiting == ranges.normalise(intake.waiting)
    assert intake.absurd == sum(not 1 <= first <= last <= PRODUCED for first, last in given_ranges)
    assert intake.dropped == 0


def test_only_the_first_wakes_anybody_and_sets_the_time() -> None:
    intake = AckIntake("a")
    assert not intake.add([], PRODUCED, 1)
    assert not intake.add([(PRODUCED + 1, PRODUCED + 9)], PRODUCED, 2)
    assert (intake.given, intake.since_ns) == (0, 0)
    assert intake.add([(1, 1)], PRODUCED, 3)
    assert not intake.add([(5, 5)], PRODUCED, 4)
    assert (intake.given, intake.since_ns) == (2, 3)


def test_it_is_bounded_and_what_is_too_much_is_counted() -> None:
    intake = AckIntake("a", most_ranges=3)
    intake.add([(1, 1), (3, 3), (5, 5), (7, 7), (9, 9)], PRODUCED, 0)
    assert (intake.waiting, intake.dropped) == (((1, 1), (3, 3), (5, 5)), 2)
    intake.add([(2, 2), (4, 4)], PRODUCED, 0)
    assert (intake.waiting, intake.dropped) == (((1, 5),), 2)


@given(wanted, wanted, wanted)
def test_a_commit_takes_what_it_did_and_leaves_what_came_meanwhile(
    before: list[Range], meanwhile: list[Range], not_done: list[Range]
) -> None:
    intake = AckIntake("a")
    intake.add(before, PRODUCED, 0)
    tried, count = intake.waiting, intake.given
    intake.add(meanwhile, PRODUCED, 1)
    waiting = numbers(intake.waiting)
    left = ranges.intersect(tried, ranges.normalise(not_done))
    intake.settle(tried, count, left, 2)
    assert numbers(intake.waiting) == waiting - (numbers(tried) - numbers(left))
    assert intake.done <= intake.given
    if not left:
        assert intake.done >= count
    if not intake.waiting:
        assert intake.done == intake.given


def test_what_is_left_is_not_done_and_the_rest_of_its_time_begins_anew() -> None:
    intake = AckIntake("a")
    intake.add([(1, 9)], PRODUCED, 1)
    intake.settle(((1, 9),), 1, ((4, 9),), 5)
    assert (intake.waiting, intake.done, intake.since_ns) == (((4, 9),), 0, 5)
    intake.settle(((4, 9),), 1, (), 6)
    assert (intake.waiting, intake.done) == ((), 1)


def test_another_stream_knows_nothing_of_it_and_nobody_waits_for_it() -> None:
    intake = AckIntake("a")
    intake.add([(1, 9)], PRODUCED, 1)
    assert not intake.begin("a")
    assert intake.waiting
    assert intake.begin("b")
    assert (intake.waiting, intake.done, intake.given) == ((), 1, 1)
    assert intake.add([(1, 1)], PRODUCED, 7)
