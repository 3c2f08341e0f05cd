"""The ledgers: true sequences conserve, false ones are reported in words."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plugmeter.measure.ledger import VerdictLedger, WitnessLedger
from plugmeter.measure.stages import Stage
from plugmeter.records import Gap, Tally


def gap(cause: str, count: int | None) -> Gap:
    return Gap(t_ns=5, witness="netlink", cause=cause, count=count, since_ns=1)


def tally(offered: int, pending: int = 0, t_ns: int = 10) -> Tally:
    return Tally(t_ns=t_ns, witness="netlink", offered=offered, pending=pending)


fates = st.one_of(
    st.tuples(st.just("deliver"), st.integers(0, 1000)),
    st.tuples(st.sampled_from(["socket_queue", "malformed", "truncated"]), st.integers(0, 1000)),
    st.tuples(st.just("pending"), st.integers(0, 1000)),
)


def fed(sequence: list[tuple[str, int]]) -> tuple[WitnessLedger, int, int]:
    """A ledger without its tally, and what the tally ought to be: offered, pending."""
    ledger = WitnessLedger("netlink")
    for fate, n in sequence:
        if fate == "deliver":
            ledger.deliver(n)
        elif fate != "pending":
            ledger.gap(gap(fate, n))
    return ledger, sum(n for _, n in sequence), sum(n for fate, n in sequence if fate == "pending")


@given(st.lists(fates))
@settings(deadline=None)
def test_a_true_sequence_conserves(sequence: list[tuple[str, int]]) -> None:
    ledger, offered, pending = fed(sequence)
    ledger.tally(tally(offered, pending))
    account = ledger.account()
    assert account.conserved
    assert account.violations() == []
    assert account.offered == account.delivered + account.lost_total + account.pending
    causes = Counter[str]()
    for fate, n in sequence:
        if fate not in ("deliver", "pending"):
            causes[fate] += n
    assert account.lost == dict(causes)


@given(st.lists(fates), st.integers(-1000, 1000).filter(bool))
@settings(deadline=None)
def test_a_false_tally_is_reported(sequence: list[tuple[str, int]], error: int) -> None:
    ledger, offered, pending = fed(sequence)
    ledger.tally(tally(offered + error, pending))
    account = ledger.account()
    assert not account.conserved
    (line,) = account.violations()
    assert line.startswith(f"witness netlink: offered {offered + error}, but delivered")


def test_a_gap_of_unknown_size_cannot_conserve() -> None:
    ledger = WitnessLedger("netlink")
    ledger.deliver(3)
    ledger.gap(gap("inotify_queue", None))
    ledger.tally(tally(3))
    account = ledger.account()
    assert (account.uncounted_gaps, account.conserved) == (1, False)
    assert account.violations() == ["witness netlink: 1 gap(s) that cost an unknown number of records"]


def test_a_witness_that_never_tallied_proves_nothing() -> None:
    account = WitnessLedger("udev").account()
    assert account.violations() == ["witness udev: it never said how much it was offered"]


def test_the_latest_tally_counts() -> None:
    ledger = WitnessLedger("netlink")
    ledger.deliver(7)
    ledger.tally(tally(7, t_ns=20))
    ledger.tally(tally(3, t_ns=10))
    assert ledger.account().offered == 7
    ledger.tally(tally(9, pending=2, t_ns=20))
    assert ledger.account().conserved


def test_a_record_of_another_witness_is_a_defect() -> None:
    ledger = WitnessLedger("udev")
    with pytest.raises(ValueError, match="witness netlink in the ledger of udev"):
        ledger.gap(gap("socket_queue", 1))
    with pytest.raises(ValueError, match="witness netlink in the ledger of udev"):
        ledger.tally(tally(1))


VERDICTS = ("matched", "late", "lost", "undecided_episodes")
OTHERS = ("duplicates", "orphans", "excused", "undecided_enumerations")


def judge(sequence: list[str]) -> VerdictLedger:
    ledger = VerdictLedger()
    for i, verdict in enumerate(sequence):
        if verdict == "lost":
            ledger.lost[list(Stage)[i % len(Stage)]] += 1
        else:
            setattr(ledger, verdict, getattr(ledger, verdict) + 1)
        ledger.expected += verdict in VERDICTS
        ledger.enumerations += verdict in (*OTHERS, "matched", "late")
    return ledger


@given(st.lists(st.sampled_from([*VERDICTS, *OTHERS, "ambiguous"])))
@settings(deadline=None)
def test_true_verdicts_conserve(sequence: list[str]) -> None:
    ledger = judge(sequence)
    assert ledger.violations() == []
    assert ledger.conserved
    assert ledger.lost_total == sequence.count("lost")


@given(
    st.lists(st.sampled_from([*VERDICTS, *OTHERS, "ambiguous"])),
    st.sampled_from(["expected", "enumerations", "matched", "late", *OTHERS, "undecided_episodes"]),
    st.integers(-3, 3).filter(bool),
)
@settings(deadline=None)
def test_false_verdicts_are_reported(sequence: list[str], wrong: str, error: int) -> None:
    ledger = judge(sequence)
    setattr(ledger, wrong, getattr(ledger, wrong) + error)
    assert not ledger.conserved
    assert all("\n" not in line for line in ledger.violations())


def test_violations_are_in_words() -> None:
    ledger = VerdictLedger(expected=10, matched=7, late=1, enumerations=9, duplicates=1)
    ledger.lost[Stage.SOCKET_QUEUE] += 1
    assert ledger.violations() == ["expected episodes: 10, but matched 7 + late 1 + lost 1 + undecided 0 = 9"]
    ledger.expected = 9
    assert ledger.conserved
    ledger.enumerations = 12
    assert ledger.violations() == [
        "enumerations seen: 12, but matched 7 + late 1 + stranded 0 + duplicates 1 + orphans 0 "
        "+ excused 0 + undecided 0 = 9"
    ]


def test_negative_counts_that_cancel_out_are_reported() -> None:
    ledger = VerdictLedger(expected=1, undecided_episodes=2, ambiguous=-1)
    ledger.lost[Stage.UDEVD] -= 1
    assert ledger.violations() == [
        "ambiguous: a count of -1 cannot be",
        "lost at udevd: a count of -1 cannot be",
    ]
