"""The ledger of SEQNUMs: tables of what happens on real machines, and a naive model to agree with."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plugmeter.measure.seqnums import SeqnumAccount, SeqnumLedger

WINDOW_NS = 100


def ledger_of(seqnums: list[int], max_holes: int = 4096) -> SeqnumLedger:
    """One number each 10 ns from t = 10 on; long after that the reorder window of all of them is over."""
    ledger = SeqnumLedger(WINDOW_NS, max_holes)
    for i, seqnum in enumerate(seqnums, start=1):
        ledger.feed(seqnum, 10 * i)
    ledger.advance(10_000_000)
    return ledger


def account(
    *,
    first: int,
    last: int,
    received: int,
    lost: int = 0,
    foreign: int = 0,
    reordered: int = 0,
    duplicates: int = 0,
    open_: int = 0,
    unnumbered: int = 0,
    merged: int = 0,
    unplaced: int = 0,
) -> SeqnumAccount:
    return SeqnumAccount(
        first,
        last,
        received,
        lost + foreign,
        lost,
        foreign,
        reordered,
        duplicates,
        open_,
        unnumbered,
        merged,
        unplaced,
    )


@pytest.mark.parametrize(
    ("seqnums", "drops", "expected"),
    [
        pytest.param([], 0, account(first=0, last=0, received=0), id="nothing"),
        pytest.param([], 3, account(first=0, last=0, received=0, unnumbered=3), id="all dropped"),
        pytest.param([7], 0, account(first=7, last=7, received=1), id="one"),
        pytest.param([7, 8, 9], 0, account(first=7, last=9, received=3), id="contiguous"),
        pytest.param([7, 10], 2, account(first=7, last=10, received=2, lost=2), id="dropped"),
        pytest.param([7, 10], 0, account(first=7, last=10, received=2, foreign=2), id="foreign"),
        pytest.param([7, 10], 1, account(first=7, last=10, received=2, lost=1, foreign=1), id="both"),
        pytest.param([7, 10], 5, account(first=7, last=10, received=2, lost=2, unnumbered=3), id="end"),
        pytest.param([7, 9, 8, 10], 0, account(first=7, last=10, received=4, reordered=1), id="inverted"),
        pytest.param([8, 7, 9], 0, account(first=7, last=9, received=3, reordered=1), id="start inverted"),
        pytest.param(
            [9, 7, 10], 0, account(first=7, last=10, received=3, foreign=1, reordered=1), id="low hole"
        ),
        pytest.param([9, 7, 8], 0, account(first=7, last=9, received=3, reordered=2), id="start in reverse"),
        pytest.param([7, 7, 8, 7], 0, account(first=7, last=8, received=2, duplicates=2), id="duplicates"),
        pytest.param(
            [1, 9, 5, 4, 6, 5], 2,
            account(first=1, last=9, received=5, lost=2, foreign=2, reordered=3, duplicates=1),
            id="a hole filled from its middle",
        ),
        pytest.param(
            [1, 2**63, 2**63 + 1], 0,
            account(first=1, last=2**63 + 1, received=3, foreign=2**63 - 2),
            id="a hole as wide as u64",
        ),
    ],
)  # fmt: skip
def test_accounts(seqnums: list[int], drops: int, expected: SeqnumAccount) -> None:
    assert ledger_of(seqnums).account(drops) == expected


def test_a_hole_is_open_for_the_reorder_window_and_then_a_hole() -> None:
    ledger = SeqnumLedger(WINDOW_NS)
    ledger.feed(1, 0)
    ledger.feed(3, 50)
    for now_ns, still_open in ((50, 1), (150, 1), (151, 0)):
        ledger.advance(now_ns)
        assert ledger.account(drops=1).open == still_open
        assert ledger.account(drops=1).lost == 1 - still_open
        assert ledger.account(drops=1).unnumbered == still_open
    ledger.advance(0)  # time does not run backwards
    assert ledger.account(0).foreign == 1
    ledger.feed(2, 500)  # later than the window, and all the same received
    assert ledger.account(0) == account(first=1, last=3, received=3, reordered=1)


def test_an_arrival_tells_the_time_too() -> None:
    ledger = SeqnumLedger(WINDOW_NS)
    for seqnum, t_ns in ((1, 0), (3, 50), (4, 151)):
        ledger.feed(seqnum, t_ns)
    assert ledger.account(0).foreign == 1


@pytest.mark.parametrize(
    ("t_from_ns", "t_until_ns", "expected"),
    [
        (0, 19, False),
        (0, 20, True),
        (25, 25, True),
        (30, 99, True),
        (31, 99, False),
        (20, 30, True),
        (35, 32, False),
    ],
)
def test_a_hole_lies_between_the_arrivals_around_it(t_from_ns: int, t_until_ns: int, expected: bool) -> None:
    ledger = ledger_of([1, 2, 4, 5])  # 3 is missing, between t = 20 and t = 30
    assert ledger.has_hole_between(t_from_ns, t_until_ns) is expected


def test_a_filled_hole_is_none() -> None:
    assert not ledger_of([1, 2, 4, 5, 3]).has_hole_between(0, 10**9)


def test_when_full_the_oldest_holes_become_a_sum() -> None:
    every_second = list(range(1, 41, 2))
    ledger = ledger_of(every_second, max_holes=4)
    assert ledger.account(19) == account(first=1, last=39, received=20, lost=19, merged=15)
    ledger.feed(2, 500)  # was it late, or a duplicate? Nobody can tell any more, so it mends nothing
    assert ledger.account(19) == account(first=1, last=39, received=20, lost=19, merged=15, unplaced=1)
    ledger.feed(38, 510)  # this hole is still held
    assert ledger.account(18).received == 21
    assert ledger.has_hole_between(10, 20)


@pytest.mark.parametrize("seqnum", [0, -1])
def test_a_number_that_the_kernel_never_gives_is_a_defect(seqnum: int) -> None:
    with pytest.raises(ValueError, match="SEQNUM"):
        SeqnumLedger().feed(seqnum, 1)


def test_impossible_arguments_are_defects() -> None:
    with pytest.raises(ValueError, match="drops"):
        SeqnumLedger().account(-1)
    with pytest.raises(ValueError, match="holes"):
        SeqnumLedger(max_holes=0)


arrivals = st.lists(st.tuples(st.integers(1, 60), st.integers(0, 40)), max_size=80)


@st.composite
def shuffled_runs(draw: st.DrawFn) -> list[tuple[int, int]]:
    """Nearly contiguous numbers as a kernel gives them: some missing, neighbours inverted."""
    numbers = [n for n in range(1, draw(st.integers(1, 120))) if draw(st.integers(0, 5))]
    for i in range(len(numbers) - 1):
        if not draw(st.integers(0, 4)):
            numbers[i], numbers[i + 1] = numbers[i + 1], numbers[i]
    return [(number, draw(st.integers(0, 40))) for number in numbers]


class Model:
    """The same account by sets: slow, unbounded, and plain to see."""

    def __init__(self) -> None:
        self.fed: list[tuple[int, int]] = []

    def missing(self) -> dict[int, tuple[int, int]]:
        """Missing number -> the times of the arrivals between which it would have come."""
        seen = {seqnum for seqnum, _ in self.fed}
        if not seen:
            return {}
        found = {}
        for number in set(range(min(seen), max(seen))) - seen:
            highest, since_ns = 0, self.fed[0][1]
            for seqnum, t_ns in self.fed:
                if seqnum > number:
                    found[number] = (since_ns, t_ns)
                    break
                if seqnum > highest:
                    highest, since_ns = seqnum, t_ns
        return found


@given(st.one_of(arrivals, shuffled_runs()), st.integers(0, 30), st.integers(0, 3000), st.integers(0, 300))
@settings(deadline=None)
def test_the_ledger_agrees_with_the_model(
    steps: list[tuple[int, int]], drops: int, t_from_ns: int, span_ns: int
) -> None:
    ledger, model, now_ns = SeqnumLedger(WINDOW_NS), Model(), 0
    for seqnum, wait_ns in steps:
        now_ns += wait_ns
        ledger.feed(seqnum, now_ns)
        model.fed.append((seqnum, now_ns))
    missing = model.missing()
    seen = {seqnum for seqnum, _ in model.fed}
    settled = sum(opened_ns < now_ns - WINDOW_NS for _, opened_ns in missing.values())
    got = ledger.account(drops)
    assert got.received == len(seen)
    assert got.duplicates == len(model.fed) - len(seen)
    assert (got.first, got.last) == (min(seen, default=0), max(seen, default=0))
    assert (got.holes, got.open) == (settled, len(missing) - settled)
    assert got.lost == min(drops, got.holes)
    assert got.holes == got.lost + got.foreign
    assert drops == got.lost + got.unnumbered
    expected = any(
        since_ns <= t_from_ns + span_ns and opened_ns >= t_from_ns for since_ns, opened_ns in missing.values()
    )
    assert ledger.has_hole_between(t_from_ns, t_from_ns + span_ns) is expected


@given(st.one_of(arrivals, shuffled_runs()), st.integers(1, 20), st.integers(0, 3000), st.integers(0, 300))
@settings(deadline=None)
def test_a_small_ledger_conserves_and_never_denies_a_hole(
    steps: list[tuple[int, int]], max_holes: int, t_from_ns: int, span_ns: int
) -> None:
    ledger, model, now_ns = SeqnumLedger(WINDOW_NS, max_holes), Model(), 0
    for seqnum, wait_ns in steps:
        now_ns += wait_ns
        ledger.feed(seqnum, now_ns)
        model.fed.append((seqnum, now_ns))
    got = ledger.account(drops=5)
    if got.first:
        assert got.last - got.first + 1 == got.received + got.holes + got.open
    assert got.received + got.duplicates + got.unplaced == len(steps)
    # What the small ledger forgot makes it see holes where there are none, never the other way round.
    assert got.holes + got.open >= len(model.missing())
    if any(s <= t_from_ns + span_ns and o >= t_from_ns for s, o in model.missing().values()):
        assert ledger.has_hole_between(t_from_ns, t_from_ns + span_ns)
