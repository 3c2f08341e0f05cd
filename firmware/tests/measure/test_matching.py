"""Matching: a table of situations, and properties against the textbook optimum."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Sequence

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from plugmeter.measure.enumerations import Enumeration
from plugmeter.measure.episodes import AmbiguousPulse, Episode
from plugmeter.measure.matching import Lost, Matched, Matcher, Result, Surplus, Undecided

PORT = "1-1.4"
DEBOUNCE, NOMINAL, LOST_AFTER = 100, 3_000, 30_000


def plug(t_ns: int, ordinal: int = 1) -> Episode:
    return Episode(PORT, ordinal, True, t_ns, t_ns + DEBOUNCE)


def pull(t_ns: int, ordinal: int = 1) -> Episode:
    return Episode(PORT, ordinal, False, t_ns, t_ns + DEBOUNCE)


def add(t_ns: int, seqnum: int = 0) -> Enumeration:
    return Enumeration(PORT, True, t_ns, seqnum, "netlink")


def remove(t_ns: int, seqnum: int = 0) -> Enumeration:
    return Enumeration(PORT, False, t_ns, seqnum, "netlink")


def matcher(lost_after_ns: int = LOST_AFTER, tolerance_ns: int = 0) -> Matcher:
    hold_ns = DEBOUNCE + tolerance_ns
    return Matcher(
        PORT, min(NOMINAL, lost_after_ns), lost_after_ns, hold_ns=hold_ns, tolerance_ns=tolerance_ns
    )


Given = Episode | Enumeration | AmbiguousPulse


def give(target: Matcher, record: Given) -> None:
    if isinstance(record, Episode):
        target.add_episode(record)
    elif isinstance(record, Enumeration):
        target.add_enumeration(record)
    else:
        target.add_pulse(record)


def known_ns(record: Given) -> int:
    """When a record can be given at the earliest."""
    if isinstance(record, Episode):
        return record.t_stable_ns
    return record.t_ns if isinstance(record, Enumeration) else record.t_until_ns


def stream(target: Matcher, records: Iterable[Given]) -> list[Result]:
    """Give each record as soon as it is known, and advance as far as is honest before each."""
    out: list[Result] = []
    for record in sorted(records, key=known_ns):
        out += target.advance(known_ns(record) - 1)
        give(target, record)
    return out


def whole(target: Matcher, records: Iterable[Given]) -> list[Result]:
    """Give all records and never advance."""
    for record in sorted(records, key=known_ns):
        give(target, record)
    return []


def results(
    records: Sequence[Given], finish_ns: int, *, final: bool = False, step: bool = True
) -> list[Result]:
    """Give the records as they would come; ``step`` advances at each of them."""
    target = matcher()
    out = stream(target, records) if step else whole(target, records)
    out += target.finish(finish_ns, final=final)
    assert target.undecided == (0, 0)
    assert target.late_records == 0
    return out


def short(result: Result) -> str:
    """A result in a word or two, for the table."""
    if isinstance(result, Matched):
        word = "late" if result.late else "matched"
        return f"{word} {result.episode.t_start_ns}-{result.enumeration.t_ns}"
    if isinstance(result, Surplus):
        return f"{'excused ' if result.excused else ''}{result.kind} {result.enumeration.t_ns}"
    return f"{type(result).__name__.lower()} {result.episode.t_start_ns}"


@pytest.mark.parametrize(
    ("records", "expected"),
    [
        ([], []),
        ([plug(0), add(250), pull(1_000), remove(1_003)], ["matched 0-250", "matched 1000-1003"]),
        ([plug(0), add(3_000)], ["matched 0-3000"]),
        ([plug(0), add(3_001)], ["late 0-3001"]),
        ([plug(0), add(30_000)], ["late 0-30000"]),
        ([plug(0), add(30_001)], ["lost 0", "orphan 30001"]),
        ([plug(10), add(9)], ["orphan 9", "lost 10"]),
        # the kinds must agree
        ([plug(0), remove(10)], ["orphan 10", "lost 0"]),
        # a lost plug, then a clean cycle
        ([plug(0), pull(500), remove(503)], ["lost 0", "matched 500-503"]),
        # no order-preserving matching has both: the lesser latency wins
        ([plug(0), pull(500), remove(503), add(700)], ["lost 0", "matched 500-503", "orphan 700"]),
        # the same add twice: the first is the match
        ([plug(0), add(250), add(260)], ["matched 0-250", "duplicate 260"]),
        # one add for two plugs: with as many pairs, the lesser latency
        ([plug(0), pull(300), plug(600), add(650)], ["lost 0", "lost 300", "matched 600-650"]),
        # a constant lag of more than a cycle: more pairs win over less latency
        (
            [plug(0), pull(300), plug(600), pull(900), add(650), remove(950), add(1_250), remove(1_550)],
            ["matched 0-650", "matched 300-950", "matched 600-1250", "matched 900-1550"],
        ),
        # what nobody plugged
        ([add(5), remove(6), remove(7)], ["orphan 5", "orphan 6", "duplicate 7"]),
        # a dip that the kernel saw: both are excused, for as long as the nominal time
        (
            [AmbiguousPulse(PORT, 1_000, 1_050, False), remove(1_004), add(1_300), add(4_050), add(4_051)],
            ["excused orphan 1004", "excused orphan 1300", "excused duplicate 4050", "duplicate 4051"],
        ),
        # a pulse excuses nothing that came before it
        ([AmbiguousPulse(PORT, 1_000, 1_050, False), remove(999)], ["orphan 999"]),
    ],
)
@pytest.mark.parametrize("step", [True, False])
def test_situations(records: list[Given], expected: list[str], step: bool) -> None:
    assert [short(result) for result in results(records, 10**6, step=step)] == expected


def test_a_clean_pair_is_decided_as_soon_as_its_hold_is_over() -> None:
    target = matcher()
    target.add_enumeration(remove(3))  # the remove is heard long before the pull is stable
    assert target.advance(99) == []
    target.add_episode(pull(0))
    assert target.undecided == (1, 1)
    assert target.advance(102) == []
    assert target.advance(103) == [Matched(pull(0), remove(3), 3, False)]
    assert target.undecided == (0, 0)


def test_an_episode_is_lost_when_its_window_and_the_hold_are_over() -> None:
    target = matcher()
    target.add_episode(plug(0))
    assert target.advance(LOST_AFTER + DEBOUNCE) == []
    assert target.advance(LOST_AFTER + DEBOUNCE + 1) == [Lost(plug(0))]


def test_a_loss_is_decided_before_its_window_ends_once_nothing_could_mend_it() -> None:
    target = matcher(lost_after_ns=1_000)
    whole(target, [plug(0), pull(500), remove(503)])
    assert target.advance(1_000) == []
    assert target.undecided == (2, 1)
    assert [short(result) for result in target.advance(1_101)] == ["lost 0", "matched 500-503"]


def test_finish_leaves_open_windows_undecided_unless_it_is_final() -> None:
    records = [plug(0), pull(70_000)]
    assert results(records, 100_000) == [Lost(plug(0)), Undecided(pull(70_000))]
    assert results(records, 100_001) == [Lost(plug(0)), Lost(pull(70_000))]
    assert results(records, 100_000, final=True) == [Lost(plug(0)), Lost(pull(70_000))]


def test_finish_takes_the_best_of_what_is_known() -> None:
    assert [short(result) for result in results([plug(0), pull(300), remove(303)], 1_000)] == [
        "undecided 0",
        "matched 300-303",
    ]


def test_tolerance_admits_an_enumeration_slightly_before_its_episode() -> None:
    target = matcher(tolerance_ns=5)
    whole(target, [add(95), plug(100)])
    assert target.finish(10**6) == [Matched(plug(100), add(95), -5, False)]


def test_records_after_their_time_are_counted_and_still_get_a_result() -> None:
    target = matcher()
    assert target.advance(10_000) == []
    give(target, plug(100))
    give(target, add(300))
    assert target.late_records == 2
    assert [short(result) for result in target.advance(10_000)] == ["matched 100-300"]


def test_enumerations_may_be_given_out_of_order() -> None:
    target = matcher()
    for episode in (plug(0), pull(500)):
        target.add_episode(episode)
    for enumeration in (remove(503, 2), add(250, 1)):
        target.add_enumeration(enumeration)
    assert [short(result) for result in target.finish(10**6)] == ["matched 0-250", "matched 500-503"]


def test_wrong_use_is_refused() -> None:
    target = matcher()
    with pytest.raises(ValueError, match="port 2-1"):
        target.add_episode(Episode("2-1", 1, True, 0, 100))
    with pytest.raises(ValueError, match="port 2-1"):
        target.add_enumeration(Enumeration("2-1", True, 0, 0, "netlink"))
    with pytest.raises(ValueError, match="port 2-1"):
        target.add_pulse(AmbiguousPulse("2-1", 0, 1, True))
    target.add_episode(plug(100))
    with pytest.raises(ValueError, match="older"):
        target.add_episode(pull(50))
    with pytest.raises(ValueError, match="nominal_ns"):
        Matcher(PORT, 10, 5, hold_ns=0)
    with pytest.raises(ValueError, match="hold_ns"):
        Matcher(PORT, 1, 5, hold_ns=1, tolerance_ns=2)


# Against the textbook: all records at once, a table of every prefix pair, no streaming.


def optimum(
    episodes: Sequence[Episode], enumerations: Sequence[Enumeration], lost_after_ns: int, tolerance_ns: int
) -> tuple[int, int]:
    """(pairs, total latency) of the best order-preserving matching."""
    rows, columns = len(episodes), len(enumerations)
    best = [[(0, 0)] * (columns + 1) for _ in range(rows + 1)]  # (-pairs, latency)
    for i in reversed(range(rows)):
        for j in reversed(range(columns)):
            best[i][j] = min(best[i + 1][j], best[i][j + 1])
            latency = enumerations[j].t_ns - episodes[i].t_start_ns
            if episodes[i].plugged == enumerations[j].added and -tolerance_ns <= latency <= lost_after_ns:
                pairs, total = best[i + 1][j + 1]
                best[i][j] = min(best[i][j], (pairs - 1, total + latency))
    return -best[0][0][0], best[0][0][1]


def check_valid(
    out: Sequence[Result],
    episodes: Sequence[Episode],
    enumerations: Sequence[Enumeration],
    lost_after_ns: int,
    tolerance_ns: int,
) -> tuple[int, int]:
    """One result for each record, possible pairs, in order. Returns (pairs, total latency)."""
    pairs = [result for result in out if isinstance(result, Matched)]
    of_episodes = [result.episode for result in out if not isinstance(result, Surplus)]
    of_enumerations = [result.enumeration for result in out if isinstance(result, Matched | Surplus)]
    assert Counter(of_episodes) == Counter(episodes)
    assert Counter(of_enumerations) == Counter(enumerations)
    assert of_episodes == list(episodes)
    seqnums = [pair.enumeration.seqnum for pair in pairs]
    assert seqnums == sorted(seqnums)
    for pair in pairs:
        assert pair.episode.plugged == pair.enumeration.added
        assert pair.latency_ns == pair.enumeration.t_ns - pair.episode.t_start_ns
        assert -tolerance_ns <= pair.latency_ns <= lost_after_ns
        assert pair.late == (pair.latency_ns > min(NOMINAL, lost_after_ns))
    return len(pairs), sum(pair.latency_ns for pair in pairs)


@st.composite
def records(draw: st.DrawFn, size: int = 7, span_ns: int = 1_000) -> tuple[list[Episode], list[Enumeration]]:
    """Anything: times with coincidences, mostly alternating kinds."""
    grid = draw(st.sampled_from([1, 7, 100]))
    times = st.integers(0, span_ns // grid).map(lambda t: t * grid)
    starts = sorted(draw(st.lists(times, max_size=size)))
    heard = sorted(draw(st.lists(times, max_size=size)))
    plugged = draw(st.booleans())
    episodes = []
    for number, t_ns in enumerate(starts):
        episodes.append(Episode(PORT, number + 1, plugged, t_ns, t_ns + DEBOUNCE))
        plugged = not plugged if draw(st.integers(0, 9)) else plugged
    added = draw(st.booleans())
    enumerations = []
    for number, t_ns in enumerate(heard):
        enumerations.append(Enumeration(PORT, added, t_ns, number + 1, "netlink"))
        added = not added if draw(st.integers(0, 3)) else added
    return episodes, enumerations


@st.composite
def cycles(draw: st.DrawFn) -> tuple[list[Episode], list[Enumeration]]:
    """A stick in a rig: losses, lates, duplicates, and a lag that may be longer than a cycle."""
    count = draw(st.integers(0, 7))
    lag = draw(st.sampled_from([3, 250, 650, 1_300]))
    episodes, heard = [], []
    t_ns = 0
    for number in range(count):
        t_ns += draw(st.integers(DEBOUNCE, 400))
        episodes.append(Episode(PORT, number + 1, number % 2 == 0, t_ns, t_ns + DEBOUNCE))
        fate = draw(st.sampled_from(["heard", "heard", "heard", "lost", "late", "twice"]))
        t_heard_ns = t_ns + lag + draw(st.integers(0, 50)) + (900 if fate == "late" else 0)
        if fate != "lost":
            heard.append((t_heard_ns, number % 2 == 0))
        if fate == "twice":
            heard.append((t_heard_ns + draw(st.integers(0, 200)), number % 2 == 0))
    heard.sort(key=lambda each: each[0])
    enumerations = [
        Enumeration(PORT, added, t_heard_ns, number + 1, "netlink")
        for number, (t_heard_ns, added) in enumerate(heard)
    ]
    return episodes, enumerations


@st.composite
def pulses(draw: st.DrawFn) -> list[AmbiguousPulse]:
    """In order and never overlapping, as the levels of one line are; they may touch, or last no time."""
    found: list[AmbiguousPulse] = []
    t_ns = 0
    for after_ns, length_ns, high in draw(
        st.lists(
            st.tuples(st.integers(0, 600), st.integers(0, DEBOUNCE - 1), st.booleans()),
            max_size=5,
        )
    ):
        found.append(AmbiguousPulse(PORT, t_ns + after_ns, t_ns + after_ns + length_ns, high))
        t_ns = found[-1].t_until_ns
    return found


def covering(episodes: Sequence[Episode], enumerations: Sequence[Enumeration], lost_after_ns: int) -> int:
    """The window, widened so far that none closes before the last enumeration."""
    if not episodes or not enumerations:
        return lost_after_ns
    return max(lost_after_ns, enumerations[-1].t_ns - episodes[0].t_start_ns)


@given(records() | cycles(), st.sampled_from([0, 300, 1_000, 5_000]), st.sampled_from([0, 0, 20]))
@settings(max_examples=1_000, deadline=None)
def test_the_optimum_where_no_window_closes_early(
    given_records: tuple[list[Episode], list[Enumeration]], lost_after_ns: int, tolerance_ns: int
) -> None:
    episodes, enumerations = given_records
    lost_after_ns = covering(episodes, enumerations, lost_after_ns)
    target = matcher(lost_after_ns, tolerance_ns)
    out = whole(target, [*episodes, *enumerations]) + target.finish(10**6, final=True)
    got = check_valid(out, episodes, enumerations, lost_after_ns, tolerance_ns)
    assert got == optimum(episodes, enumerations, lost_after_ns, tolerance_ns)


@given(st.lists(records(size=5, span_ns=900) | cycles(), min_size=2, max_size=4))
@settings(deadline=None)
def test_the_optimum_of_each_busy_stretch(stretches: list[tuple[list[Episode], list[Enumeration]]]) -> None:
    """Pauses as long as the window make a long run exact too, with a narrow window that closes on the way."""
    lost_after_ns, pairs, latency = 6_000, 0, 0
    target = matcher(lost_after_ns)
    out: list[Result] = []
    all_episodes: list[Episode] = []
    all_enumerations: list[Enumeration] = []
    for index, (episodes, enumerations) in enumerate(stretches):
        shift = index * 20_000
        episodes = [
            Episode(PORT, e.ordinal, e.plugged, e.t_start_ns + shift, e.t_stable_ns + shift) for e in episodes
        ]
        enumerations = [
            Enumeration(PORT, x.added, x.t_ns + shift, x.seqnum + 100 * index, x.witness)
            for x in enumerations
        ]
        best = optimum(episodes, enumerations, lost_after_ns, 0)
        pairs, latency = pairs + best[0], latency + best[1]
        out += stream(target, [*episodes, *enumerations])
        all_episodes += episodes
        all_enumerations += enumerations
    out += target.finish(10**6)
    assert check_valid(out, all_episodes, all_enumerations, lost_after_ns, 0) == (pairs, latency)


@given(records(size=14, span_ns=3_000) | cycles(), st.sampled_from([150, 500, 2_000]), st.integers(0, 3))
@settings(max_examples=500, deadline=None)
def test_any_window_gives_a_valid_matching(
    given_records: tuple[list[Episode], list[Enumeration]], lost_after_ns: int, tolerance_ns: int
) -> None:
    """With windows that close while alternatives live: valid and conserving, and never above the optimum."""
    episodes, enumerations = given_records
    target = matcher(lost_after_ns, tolerance_ns)
    out = stream(target, [*episodes, *enumerations]) + target.finish(10**6)
    pairs, _ = check_valid(out, episodes, enumerations, lost_after_ns, tolerance_ns)
    assert pairs <= optimum(episodes, enumerations, lost_after_ns, tolerance_ns)[0]


@given(
    records(size=14, span_ns=3_000) | cycles(),
    pulses(),
    st.sampled_from([150, 500, 2_000, LOST_AFTER]),
    st.data(),
)
@settings(max_examples=200, deadline=None)
def test_chunking_changes_nothing(
    given_records: tuple[list[Episode], list[Enumeration]],
    given_pulses: list[AmbiguousPulse],
    lost_after_ns: int,
    data: st.DataObject,
) -> None:
    """Give each record at any time before the watermark passes it: the same list of results."""
    episodes, enumerations = given_records
    finish_ns = 6_000
    everything: list[Given] = [*enumerations, *given_pulses, *episodes]
    unhurried = matcher(lost_after_ns)
    for record in everything:
        give(unhurried, record)
    expected = unhurried.finish(finish_ns)

    chunked = matcher(lost_after_ns)
    out: list[Result] = []
    # Episodes and pulses come when they are known, enumerations at any time before the watermark passes them.
    delay = st.integers(0, DEBOUNCE)
    queue = [
        (known_ns(each) + (data.draw(delay) if isinstance(each, Enumeration) else 0), each)
        for each in everything
    ]
    queue.sort(key=lambda item: item[0])
    now_ns = 0
    for t_ns, record in queue:
        if now_ns < t_ns and data.draw(st.booleans()):
            out += chunked.advance(data.draw(st.integers(now_ns, t_ns - 1)))
        now_ns = t_ns
        give(chunked, record)
    out += chunked.advance(data.draw(st.integers(now_ns, finish_ns)))
    out += chunked.finish(finish_ns)
    assert out == expected
    assert chunked.late_records == 0


@given(records(), st.integers(0, 40_000))
@settings(deadline=None)
def test_undecided_counts_what_has_no_result_yet(
    given_records: tuple[list[Episode], list[Enumeration]], now_ns: int
) -> None:
    episodes, enumerations = given_records
    target = matcher()
    whole(target, [*episodes, *enumerations])
    assert target.undecided == (len(episodes), len(enumerations))
    out = target.advance(now_ns)
    assert not [result for result in out if isinstance(result, Undecided)]
    of_episodes = sum(isinstance(result, Matched | Lost) for result in out)
    of_enumerations = sum(isinstance(result, Matched | Surplus) for result in out)
    assert target.undecided == (len(episodes) - of_episodes, len(enumerations) - of_enumerations)


def storm(count: int, cycle_ns: int, loss: float, seed: int) -> tuple[list[Episode], list[Enumeration]]:
    chance = random.Random(seed)
    episodes, enumerations = [], []
    for number in range(count):
        t_ns = 10**12 + number * cycle_ns // 2
        plugged = number % 2 == 0
        episodes.append(Episode(PORT, number + 1, plugged, t_ns, t_ns + DEBOUNCE))
        if chance.random() >= loss:
            t_heard_ns = t_ns + (chance.randint(100, 140) if plugged else chance.randint(1, 5))
            enumerations.append(Enumeration(PORT, plugged, t_heard_ns, number, "netlink"))
    return episodes, enumerations


@pytest.mark.parametrize("loss", [0.0, 0.01, 0.2, 0.6])
def test_a_long_storm_names_exactly_what_was_lost_in_bounded_memory(loss: float) -> None:
    """Without duplicates the truth is also the optimum; many windows close on the way."""
    episodes, enumerations = storm(4_000, 300, loss, seed=11)
    target = matcher(lost_after_ns=9_000)
    out: list[Result] = []
    most = 0
    records: list[Given] = [*episodes, *enumerations]
    for record in sorted(records, key=known_ns):
        out += target.advance(known_ns(record) - 1)
        give(target, record)
        most = max(most, *target.undecided)
    out += target.finish(10**13)
    heard = {enumeration.seqnum for enumeration in enumerations}
    lost = {result.episode.ordinal for result in out if isinstance(result, Lost)}
    assert lost == {episode.ordinal for episode in episodes} - {seqnum + 1 for seqnum in heard}
    assert not [result for result in out if isinstance(result, Surplus)]
    assert most <= 9_000 // 150 + 3


@example(1)
@given(st.integers(0, 3))
@settings(max_examples=4, deadline=None)
def test_a_flood_of_repeats_stays_small(seed: int) -> None:
    """Nothing grows with enumerations that no hypothesis can use."""
    chance = random.Random(seed)
    target = matcher()
    give(target, plug(0))
    give(target, pull(300, 2))
    surplus = matched = 0
    for number in range(3_000):
        t_ns = 310 + number + chance.randint(0, 1)
        give(target, remove(t_ns, number))
        for result in target.advance(t_ns + DEBOUNCE):
            surplus += isinstance(result, Surplus)
            matched += isinstance(result, Matched)
        assert sum(target.undecided) <= 8
    out = target.finish(10**6)
    surplus += sum(isinstance(result, Surplus) for result in out)
    matched += sum(isinstance(result, Matched) for result in out)
    assert (matched, surplus) == (1, 2_999)
