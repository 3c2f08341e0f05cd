"""The certificate: an untouched run earns it; each thing that can go wrong costs it, in one line."""

from collections.abc import Iterable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plugmeter.measure import certificate
from plugmeter.measure.certificate import Certificate, LineEvidence, LineWatch, certify
from plugmeter.records import Driven, Edge, Gap, Level, LineAccount, Record, Tally

PORT = "1-1.4"
GOOD = LineEvidence(
    port=PORT, factory="plugmeter-gpiod", kernel_numbers=True, edges=4, rising=2, falling=2,
    seqno_first=1, seqno_last=4, seqno_breaks=0, alternation_breaks=0, driven=4, interrupts=4,
    initially_high=False, finally_high=False, gaps=0,
)  # fmt: skip
MOCK = replace(GOOD, factory="mock", kernel_numbers=False, interrupts=None, seqno_first=0, seqno_last=0)


def edges(directions: Iterable[bool], numbered: bool = True) -> list[Edge]:
    return [
        Edge(t_ns=100 * i, port=PORT, rising=rising, line_seqno=i if numbered else 0)
        for i, rising in enumerate(directions, start=1)
    ]


def watch(records: Iterable[Record]) -> LineEvidence:
    line = LineWatch(PORT)
    for record in records:
        line.feed(record)
    return line.evidence()


def a_run(
    seen: list[Edge],
    *,
    high: bool = False,
    high_at_end: bool,
    interrupts: int | None = None,
    numbers: bool = True,
) -> list[Record]:
    return [
        Level(1, PORT, high),
        *seen,
        Level(10**9, PORT, high_at_end),
        LineAccount(10**9, PORT, "plugmeter-gpiod" if numbers else "mock", numbers, interrupts),
    ]


def test_good_lines_earn_a_certificate_that_names_its_truth() -> None:
    assert certify("gpio", [GOOD], []) == Certificate(True, "gpio", ())
    assert certify("gpio", [replace(GOOD, interrupts=None, driven=None)], []).valid
    assert certify("simulated", [MOCK], []) == Certificate(True, "simulated", ())


def test_a_line_without_a_single_edge_is_complete_if_all_agrees() -> None:
    still = replace(
        GOOD, edges=0, rising=0, falling=0, seqno_first=0, seqno_last=0, interrupts=0, driven=None
    )
    assert certify("gpio", [still], []).valid
    assert certify("simulated", [still, replace(MOCK, port="1-2")], []).valid


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (
            {"kernel_numbers": False, "factory": "lgpio"},
            "pin factory lgpio does not pass line_seqno on; use plugmeter-gpiod",
        ),
        (
            {"kernel_numbers": False, "factory": ""},
            "pin factory (unknown: the run brought no account of the line) does not pass line_seqno on; "
            "use plugmeter-gpiod",
        ),
        (
            {"seqno_first": 3, "seqno_last": 6},
            "first edge seen has line_seqno 3, expected 1: those before it were not seen",
        ),
        (
            {"seqno_last": 6, "seqno_breaks": 1},
            "line_seqno is not contiguous in 1 place(s): 4 edges seen from 1 to 6, expected 6",
        ),
        (
            {"alternation_breaks": 2, "rising": 3, "falling": 1},
            "2 of 4 edges repeat the direction before them; "
            "rising and falling must alternate (3 rising, 1 falling)",
        ),
        ({"interrupts": 6}, "6 interrupts, but 4 edges seen; each interrupt is one edge"),
        ({"finally_high": True}, "4 edges lead from low to low, but the level read at the end is high"),
        (
            {"initially_high": None},
            "no level was read before the first edge, so the edges cannot be checked against it",
        ),
        (
            {"finally_high": None},
            "no level was read after the last edge, so the edges cannot be checked against it",
        ),
        ({"gaps": 1}, "the gpio witness reported 1 gap(s), expected none"),
    ],
)
def test_what_costs_the_certificate_of_real_edges(change: dict[str, object], reason: str) -> None:
    changed = replace(GOOD, **change)  # type: ignore[arg-type]  # the table holds fields of several types
    assert certify("gpio", [changed], []) == Certificate(False, "gpio", (f"port {PORT}: {reason}",))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"driven": 6}, "the rig drove 6 levels, but 4 edges seen; each level driven is one edge"),
        ({"driven_mismatches": 2}, "2 of 4 edges in the other direction than the level driven"),
        (
            {"driven_unchecked": 9},
            "edges and the rig's log ran more than 65536 apart, so 9 of them were not compared",
        ),
        (
            {"alternation_breaks": 1},
            "1 of 4 edges repeat the direction before them; "
            "rising and falling must alternate (2 rising, 2 falling)",
        ),
        ({"finally_high": True}, "4 edges lead from low to low, but the level read at the end is high"),
        ({"gaps": 2}, "the gpio witness reported 2 gap(s), expected none"),
        (
            {"kernel_numbers": True, "seqno_first": 2, "seqno_last": 5},
            "first edge seen has line_seqno 2, expected 1: those before it were not seen",
        ),
    ],
)
def test_what_costs_the_certificate_of_a_simulation(change: dict[str, object], reason: str) -> None:
    changed = replace(MOCK, **change)  # type: ignore[arg-type]  # the table holds fields of several types
    assert certify("simulated", [changed], []) == Certificate(False, "simulated", (f"port {PORT}: {reason}",))


def test_without_ground_truth_there_is_no_certificate() -> None:
    assert certify("gpio", [], []).reasons == ("no ground truth: no port has a sense line",)
    assert certify("simulated", [], []).reasons == ("no ground truth: no port has a sense line",)
    still = replace(MOCK, driven=None, edges=0, rising=0, falling=0)
    assert certify("simulated", [still], []).reasons == (
        "no ground truth: the rig kept no log of the levels that it drove",
    )


def test_failures_and_all_reasons_are_named_by_port_in_order() -> None:
    lines = [replace(GOOD, port="2-1", gaps=1, interrupts=5), replace(GOOD, port="1-1", gaps=1), GOOD]
    assert certify("gpio", lines, ["the rig died"]).reasons == (
        "the run failed: the rig died",
        "port 1-1: the gpio witness reported 1 gap(s), expected none",
        "port 2-1: 5 interrupts, but 4 edges seen; each interrupt is one edge",
        "port 2-1: the gpio witness reported 1 gap(s), expected none",
    )


def alternating(n: int, high: bool) -> list[bool]:
    return [high ^ (i % 2 == 0) for i in range(n)]


@given(st.integers(0, 40), st.booleans())
@settings(deadline=None)
def test_a_true_run_is_certified(n: int, high: bool) -> None:
    end = high ^ (n % 2 == 1)
    evidence = watch(a_run(edges(alternating(n, high)), high=high, high_at_end=end, interrupts=n))
    assert certify("gpio", [evidence], []).valid
    assert (evidence.edges, evidence.rising + evidence.falling) == (n, n)


@given(st.integers(1, 40), st.booleans(), st.data())
@settings(deadline=None)
def test_edges_dropped_from_the_fifo_cost_it(n: int, high: bool, data: st.DataObject) -> None:
    seen = edges(alternating(n, high))
    dropped = data.draw(st.sets(st.integers(0, n - 1), min_size=1))
    kept = [edge for i, edge in enumerate(seen) if i not in dropped]
    end = high ^ (n % 2 == 1)
    assert not certify("gpio", [watch(a_run(kept, high=high, high_at_end=end, interrupts=n))], []).valid


@given(st.integers(1, 40), st.booleans(), st.data())
@settings(deadline=None)
def test_interrupts_that_became_one_event_cost_it(n: int, high: bool, data: st.DataObject) -> None:
    # The kernel numbers what is left contiguously: alternation, parity or the interrupts must tell.
    directions = alternating(n, high)
    dropped = data.draw(st.sets(st.integers(0, n - 1), min_size=1))
    kept = edges(rising for i, rising in enumerate(directions) if i not in dropped)
    end = high ^ (n % 2 == 1)
    assert not certify("gpio", [watch(a_run(kept, high=high, high_at_end=end, interrupts=n))], []).valid
    if len(dropped) == 1:  # one alone shows without /proc/interrupts too
        assert not certify("gpio", [watch(a_run(kept, high=high, high_at_end=end))], []).valid


def simulated(log: list[bool], seen: list[bool]) -> LineEvidence:
    records: list[Record] = [Level(1, PORT, False)]
    records += [Driven(i, PORT, rising) for i, rising in enumerate(log)]
    records += edges(seen, numbered=False)
    records += [Level(10**9, PORT, len(seen) % 2 == 1), LineAccount(10**9, PORT, "mock", False)]
    return watch(records)


@given(st.lists(st.booleans(), max_size=12), st.lists(st.booleans(), max_size=12))
@settings(deadline=None)
def test_a_log_of_something_else_never_certifies_a_simulation(log: list[bool], seen: list[bool]) -> None:
    true = bool(log) and log == seen == alternating(len(seen), False)
    assert certify("simulated", [simulated(log, seen)], []).valid is true


@given(st.integers(1, 30), st.data())
@settings(deadline=None)
def test_a_simulation_is_certified_just_when_log_and_edges_are_one(n: int, data: st.DataObject) -> None:
    log = alternating(n, False)
    assert certify("simulated", [simulated(log, log)], []).valid
    dropped = data.draw(st.sets(st.integers(0, n - 1), min_size=1))
    seen = [rising for i, rising in enumerate(log) if i not in dropped]
    assert not certify("simulated", [simulated(log, seen)], []).valid
    assert not certify("simulated", [simulated(seen, log)], []).valid


@given(st.integers(1, 30), st.data())
@settings(deadline=None)
def test_log_and_edges_may_interleave_in_any_way(n: int, data: st.DataObject) -> None:
    directions = alternating(n, False)
    both: list[Record] = []
    log: list[Record] = [Driven(i, PORT, rising) for i, rising in enumerate(directions)]
    seen: list[Record] = list(edges(directions, numbered=False))
    while log or seen:
        side = log if not seen or (log and data.draw(st.booleans())) else seen
        both.append(side.pop(0))
    evidence = watch([Level(1, PORT, False), *both, Level(10**9, PORT, n % 2 == 1)])
    assert (evidence.driven, evidence.driven_mismatches, evidence.driven_unchecked) == (n, 0, 0)
    assert certify("simulated", [evidence], []).valid


def test_a_log_that_runs_away_is_bounded_and_said() -> None:
    limit = certificate.PAIRING_LIMIT
    line = LineWatch(PORT)
    for i in range(limit + 10):
        line.feed(Driven(i, PORT, i % 2 == 0))
    evidence = line.evidence()
    assert (evidence.driven, evidence.driven_unchecked) == (limit + 10, 10)
    assert len(certify("simulated", [evidence], []).reasons) == 4


def test_other_ports_and_other_witnesses_do_not_matter() -> None:
    evidence = watch(
        [
            Level(1, "1-2", True),
            Edge(2, "1-2", False, 9),
            Driven(2, "1-2", False),
            LineAccount(3, "1-2", "lgpio", False, 9),
            Gap(4, "netlink", "socket_queue", 3, 1),
            Tally(5, "gpio", 4),
        ]
    )
    assert evidence == LineWatch(PORT).evidence()
    assert watch([Gap(4, "gpio", "gpio_fifo", 3, 1)]).gaps == 1


@pytest.mark.parametrize(
    ("order", "initially", "finally_"),
    [
        ("", None, None),
        ("L", False, None),
        ("LH", False, True),
        ("LeH", False, True),
        ("eH", None, True),
        ("LHe", False, None),
        ("LeHeL", False, False),
        ("LLeHH", False, True),
    ],
)
def test_which_levels_are_initial_and_final(
    order: str, initially: bool | None, finally_: bool | None
) -> None:
    rising = False
    records: list[Record] = []
    for i, word in enumerate(order):
        rising = not rising if word == "e" else rising
        records.append(Edge(i, PORT, rising) if word == "e" else Level(i, PORT, word == "H"))
    evidence = watch(records)
    assert (evidence.initially_high, evidence.finally_high) == (initially, finally_)


def test_every_reason_is_one_line() -> None:
    worst = watch(
        [
            Edge(1, PORT, True, 5),
            Edge(2, PORT, True, 7),
            Driven(3, PORT, False),
            Gap(4, "gpio", "gpio_fifo", None, 1),
            LineAccount(5, PORT, "lgpio", True, 9),
        ]
    )
    for truth in ("gpio", "simulated"):
        reasons = certify(truth, [worst], ["x"]).reasons
        assert len(reasons) >= 7
        assert all("\n" not in reason and len(reason) < 200 for reason in reasons)
