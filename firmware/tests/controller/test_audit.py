"""The audit: it never accuses an honest device, and never misses what an honest one would have told."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugmeter.controller.audit import Books, Told, as_value, examine, in_words, render
from plugmeter.telemetry import ranges
from plugmeter.telemetry.ranges import Ranges

STREAM = "6e0f8a52-3f0e-4a0b-9d0c-2b8f5f3a7c11"


def told(
    produced: int, pending: int, oldest_pending: int, tombstoned: int = 0, unannounced: int | None = None
) -> Told:
    return Told(
        1, produced, produced - pending - tombstoned, tombstoned, pending, oldest_pending, unannounced, 0, ""
    )


def books(stored: Ranges, said: Told | None, buried: Ranges = (), over: str | None = None) -> Books:
    return Books("bench-1", STREAM, stored, stored, buried, said, over_because=over)


@pytest.mark.parametrize(
    ("case", "lost", "pending", "cut_off", "ok"),
    [
        (books((), None), 0, 0, 0, True),
        (books(((1, 10),), told(10, 0, 11)), 0, 0, 0, True),
        (books(((1, 10),), told(15, 5, 11)), 0, 5, 0, True),
        # stored, and the acknowledgement is on its way
        (books(((1, 10),), told(10, 4, 7)), 0, 0, 0, True),
        # a hole that the device still has
        (books(((1, 3), (5, 10)), told(10, 1, 4)), 0, 1, 0, True),
        # a hole that the device has let go of
        (books(((1, 3), (5, 10)), told(10, 0, 11)), 1, 0, 0, False),
        # the lowest pending is beyond two holes, and one tombstone is under way
        (books(((1, 3), (6, 10)), told(10, 0, 11, tombstoned=1)), 1, 1, 0, False),
        (books(((1, 3), (6, 10)), told(10, 0, 11, tombstoned=2)), 0, 2, 0, True),
        (books(((1, 3), (6, 10)), told(10, 0, 11, tombstoned=2, unannounced=0)), 2, 0, 0, False),
        (books(((1, 3), (6, 10)), told(10, 0, 11, tombstoned=2), buried=((4, 5),)), 0, 0, 0, True),
        # more is missing than the device says is pending, wherever it lies
        (books(((1, 5),), told(10, 3, 6)), 2, 3, 0, False),
        # without an account what is missing may be pending
        (books(((4, 5),), None), 0, 3, 0, True),
        # the stream is over: nothing of it comes any more
        (books(((1, 5),), told(10, 5, 6), over="corrupt"), 0, 0, 5, False),
        (books(((1, 10),), told(10, 0, 11), over="corrupt"), 0, 0, 0, True),
        # we know of more than the last account did
        (books(((1, 20),), told(10, 5, 6)), 0, 0, 0, True),
    ],
)
def test_each_number_is_somewhere_or_lost(
    case: Books, lost: int, pending: int, cut_off: int, ok: bool
) -> None:
    finding = examine(case)
    assert (finding.lost, finding.pending, finding.cut_off, finding.ok) == (lost, pending, cut_off, ok)
    known = ranges.total(ranges.merge(case.stored, case.buried))
    assert finding.produced == known + finding.lost + finding.pending + finding.cut_off


def test_the_lost_are_named() -> None:
    finding = examine(books(((1, 3), (5, 5), (9, 10)), told(10, 0, 11)))
    assert finding.faults == ("LOST: 4 of the numbers 4 and 6 to 8: the device has let go of them",)
    text = render([finding])
    assert "10 produced = 6 stored + 0 tombstoned + 0 pending + 4 LOST   <-" in text
    assert text.endswith("1 device, 1 stream: 1 not accounted for\n")
    value = as_value([finding])
    assert value["accounted"] is False
    assert value["streams"][0]["lost_among"] == [[4, 4], [6, 8]]


def test_an_account_that_contradicted_itself_is_a_fault() -> None:
    said = replace(told(10, 0, 11), contradictions=2, contradiction="produced went back from 12 to 10")
    finding = examine(books(((1, 10),), said))
    assert finding.faults == (
        "the device's account contradicted itself 2 times, the last time: produced went back from 12 to 10",
    )


def test_all_is_well_is_said_in_one_line() -> None:
    text = render([examine(books(((1, 10),), told(12, 2, 11)))])
    assert text == (
        f"bench-1\n  {STREAM}  12 produced = 10 stored + 0 tombstoned + 2 pending\n"
        "1 device, 1 stream: every record is accounted for\n"
    )
    assert render([]).startswith("no device has reported yet")


def test_ranges_in_words_end() -> None:
    assert in_words(()) == ""
    assert in_words(((1, 1),)) == "1"
    assert in_words(((1, 1), (3, 4))) == "1 and 3 to 4"
    assert in_words(tuple((n, n) for n in range(1, 20, 2)), most=2) == "1, 3 and 8 more ranges"


@dataclass
class World:
    """An outbox, a controller and what is on its way between them: a model, number by number."""

    produced: int = 0
    pending: set[int] = field(default_factory=set)
    acknowledged: set[int] = field(default_factory=set)
    tombstones: set[int] = field(default_factory=set)
    stored: set[int] = field(default_factory=set)
    buried: set[int] = field(default_factory=set)
    acks: set[int] = field(default_factory=set)
    vanished: set[int] = field(default_factory=set)
    account: Told | None = None

    def step(self, what: str, pick: int) -> None:
        if what == "produce":
            self.produced += 1
            self.pending.add(self.produced)
        elif what == "deliver" and self.pending:
            number = sorted(self.pending)[pick % len(self.pending)]
            self.stored.add(number)
            self.acks.add(number)
        elif what == "acknowledge" and self.acks:
            number = sorted(self.acks)[pick % len(self.acks)]
            self.acks.discard(number)
            if number in self.pending:
                self.pending.discard(number)
                self.acknowledged.add(number)
        elif what == "evict" and self.pending:
            number = sorted(self.pending)[pick % len(self.pending)]
            self.pending.discard(number)
            self.tombstones.add(number)
        elif what == "announce" and self.tombstones - self.buried:
            self.buried.add(sorted(self.tombstones - self.buried)[0])
        elif what == "tell":
            self.tell()

    def tell(self) -> None:
        self.account = Told(
            1, self.produced, len(self.acknowledged | self.vanished), len(self.tombstones), len(self.pending),
            min(self.pending, default=self.produced + 1), None, 0, "",
        )  # fmt: skip

    def vanish(self, pick: int) -> None:
        """The device lets go of a number that nobody has: the very thing that must not happen."""
        candidates = sorted(self.pending - self.stored)
        if candidates:
            number = candidates[pick % len(candidates)]
            self.pending.discard(number)
            self.vanished.add(number)

    def books(self) -> Books:
        stored = ranges.runs(self.stored)
        return Books("d", STREAM, stored, stored, ranges.runs(self.buried), self.account)

    def settle(self) -> None:
        """All acknowledgements and tombstones arrive, and the device tells its account."""
        for number in self.acks & self.pending:
            self.acknowledged.add(number)
        self.pending -= self.acks
        self.acks.clear()
        self.buried |= self.tombstones
        self.tell()


_STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            ["produce", "produce", "deliver", "deliver", "acknowledge", "evict", "announce", "tell"]
        ),
        st.integers(0, 50),
    ),
    max_size=80,
)


@given(steps=_STEPS)
def test_an_honest_device_is_never_accused(steps: list[tuple[str, int]]) -> None:
    world = World()
    for what, pick in steps:
        world.step(what, pick)
        finding = examine(world.books())
        assert finding.ok, finding.faults


@given(steps=_STEPS, picks=st.lists(st.integers(0, 50), min_size=1, max_size=5))
def test_what_vanished_is_found_once_all_is_quiet(steps: list[tuple[str, int]], picks: list[int]) -> None:
    world = World()
    for index, (what, pick) in enumerate(steps):
        world.step(what, pick)
        if index % 7 == 3 and picks:
            world.vanish(picks.pop())
    world.settle()
    finding = examine(world.books())
    assert finding.lost == len(world.vanished)
    assert finding.ok == (not world.vanished)
