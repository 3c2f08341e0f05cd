"""Debouncing: a table of wave forms, and properties that hold for every wave form."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugmeter.measure.episodes import AmbiguousPulse, Episode, EpisodeDetector, Finding
from plugmeter.records import Edge

PORT = "1-1.4"
DEBOUNCE = 100


def edge(t_ns: int, rising: bool) -> Edge:
    return Edge(t_ns, PORT, rising)


def up(t_ns: int) -> Edge:
    return edge(t_ns, True)


def down(t_ns: int) -> Edge:
    return edge(t_ns, False)


def plug(ordinal: int, t_ns: int, unrest_ns: int = 0) -> Episode:
    return Episode(PORT, ordinal, True, t_ns, t_ns + DEBOUNCE, unrest_ns)


def pull(ordinal: int, t_ns: int) -> Episode:
    return Episode(PORT, ordinal, False, t_ns, t_ns + DEBOUNCE)


def pulse(t_from_ns: int, t_until_ns: int, high: bool) -> AmbiguousPulse:
    return AmbiguousPulse(PORT, t_from_ns, t_until_ns, high)


def found(edges: list[Edge], finish_ns: int, initially_high: bool = False) -> list[Finding]:
    detector = EpisodeDetector(PORT, DEBOUNCE, initially_high)
    findings = [finding for each in edges for finding in detector.feed(each)]
    return findings + detector.finish(finish_ns)


@pytest.mark.parametrize(
    ("edges", "finish_ns", "expected"),
    [
        ([], 10_000, []),
        ([up(5)], 10_000, [plug(1, 5)]),
        ([up(5)], 105, [plug(1, 5)]),
        ([up(5)], 104, [pulse(5, 104, True)]),
        ([up(5), down(105)], 10_000, [plug(1, 5), pull(2, 105)]),
        ([up(5), down(104)], 10_000, [pulse(5, 104, True)]),
        # a bouncing plug: only the last level is the episode, each bounce is a pulse of its own
        (
            [up(0), down(3), up(7), down(8), up(20)],
            10_000,
            [pulse(0, 3, True), pulse(3, 7, False), pulse(7, 8, True), pulse(8, 20, False), plug(1, 20, 20)],
        ),
        # a dip: both surrounding levels are high, so there is no episode after it
        ([up(0), down(500), up(550)], 10_000, [plug(1, 0), pulse(500, 550, False)]),
        ([up(0), down(500), up(600)], 10_000, [plug(1, 0), pull(2, 500), plug(3, 600)]),
    ],
)
def test_wave_forms(edges: list[Edge], finish_ns: int, expected: list[Finding]) -> None:
    assert found(edges, finish_ns) == expected


def test_the_initial_level_is_no_episode_and_leaving_it_is_one() -> None:
    assert found([down(50)], 1_000, initially_high=True) == [pull(1, 50)]
    assert found([], 1_000, initially_high=True) == []


def test_an_episode_is_announced_when_stable_and_not_before() -> None:
    detector = EpisodeDetector(PORT, DEBOUNCE, False)
    assert detector.feed(up(5)) == []
    assert detector.advance(104) == []
    assert detector.advance(105) == [plug(1, 5)]
    assert detector.advance(1_000) == []


def test_a_direction_twice_is_counted_and_does_not_restart_the_level() -> None:
    detector = EpisodeDetector(PORT, DEBOUNCE, False)
    assert detector.feed(up(0)) == []
    assert detector.feed(up(60)) == []
    assert detector.anomalies == 1
    assert detector.advance(100) == [plug(1, 0)]


def test_an_edge_older_than_the_one_before_is_counted_and_moved_up() -> None:
    detector = EpisodeDetector(PORT, DEBOUNCE, False)
    detector.feed(up(50))
    assert detector.feed(down(40)) == [pulse(50, 50, True)]
    assert detector.anomalies == 1


def test_an_edge_that_contradicts_a_decision_is_counted_and_the_decision_stays() -> None:
    detector = EpisodeDetector(PORT, DEBOUNCE, False)
    detector.feed(up(0))
    assert detector.advance(200) == [plug(1, 0)]
    assert detector.feed(down(50)) == []
    assert detector.anomalies == 1
    assert detector.finish(1_000) == [pull(2, 100)]


def test_finish_leaves_nothing_open() -> None:
    detector = EpisodeDetector(PORT, DEBOUNCE, False)
    detector.feed(up(5))
    assert detector.finish(50) == [pulse(5, 50, True)]
    assert detector.finish(60) == []
    assert detector.advance(1_000) == []


def test_wrong_use_is_refused() -> None:
    with pytest.raises(ValueError, match="port 2-1"):
        EpisodeDetector(PORT, DEBOUNCE, False).feed(Edge(1, "2-1", True))
    with pytest.raises(ValueError, match="negative"):
        EpisodeDetector(PORT, -1, False)


@st.composite
def wave_forms(draw: st.DrawFn) -> tuple[list[Edge], bool]:
    """Alternating edges, in time, with the level they start from."""
    initially_high = draw(st.booleans())
    lengths = draw(st.lists(st.one_of(st.integers(0, 2 * DEBOUNCE), st.integers(95, 105)), max_size=30))
    edges, t_ns, high = [], 0, initially_high
    for length in lengths:
        t_ns += length
        high = not high
        edges.append(edge(t_ns, high))
    return edges, initially_high


@given(wave_forms(), st.data())
def test_advances_between_the_edges_change_nothing(
    wave: tuple[list[Edge], bool], data: st.DataObject
) -> None:
    edges, initially_high = wave
    end_ns = (edges[-1].t_ns if edges else 0) + data.draw(st.integers(0, 2 * DEBOUNCE))
    plain = EpisodeDetector(PORT, DEBOUNCE, initially_high)
    expected = [finding for each in edges for finding in plain.feed(each)] + plain.finish(end_ns)

    busy = EpisodeDetector(PORT, DEBOUNCE, initially_high)
    findings: list[Finding] = []
    t_ns = 0
    for each in edges:
        for now_ns in sorted(data.draw(st.lists(st.integers(t_ns, each.t_ns), max_size=3))):
            findings += busy.advance(now_ns)
        findings += busy.feed(each)
        t_ns = each.t_ns
    for now_ns in sorted(data.draw(st.lists(st.integers(t_ns, end_ns), max_size=3))):
        findings += busy.advance(now_ns)
    assert findings + busy.finish(end_ns) == expected
    assert plain.anomalies == busy.anomalies == 0


def pairwise_until(edges: list[Edge], end_ns: int) -> list[tuple[Edge, int]]:
    """Each edge with the end of the level that it begins."""
    return list(zip(edges, [*(later.t_ns for later in edges[1:]), end_ns][: len(edges)], strict=True))


@given(wave_forms(), st.integers(0, 2 * DEBOUNCE))
def test_every_level_is_exactly_one_thing(wave: tuple[list[Edge], bool], rest_ns: int) -> None:
    """Each level after the first is a pulse, an episode, or stable at what was stable before."""
    edges, initially_high = wave
    end_ns = (edges[-1].t_ns if edges else 0) + rest_ns
    findings = found(edges, end_ns, initially_high)
    expected: list[Finding] = []
    stable, ordinal = initially_high, 0
    restless_ns: int | None = None
    for each, t_until_ns in pairwise_until(edges, end_ns):
        if restless_ns is None:
            restless_ns = each.t_ns
        if t_until_ns - each.t_ns < DEBOUNCE:
            expected.append(pulse(each.t_ns, t_until_ns, each.rising))
            continue
        if each.rising != stable:
            stable = each.rising
            ordinal += 1
            unrest_ns = min(each.t_ns - restless_ns, 2 * DEBOUNCE)
            expected.append(Episode(PORT, ordinal, stable, each.t_ns, each.t_ns + DEBOUNCE, unrest_ns))
        restless_ns = None
    assert findings == expected
    episodes = [finding for finding in findings if isinstance(finding, Episode)]
    assert all(before.plugged != after.plugged for before, after in pairwise(episodes))


@given(st.lists(st.tuples(st.integers(0, 500), st.booleans()), max_size=40), st.integers(0, 1_000))
def test_total_on_any_edges_at_all(raw: list[tuple[int, bool]], end_ns: int) -> None:
    """Edges in any order and direction: episodes alternate and never go back in time."""
    detector = EpisodeDetector(PORT, DEBOUNCE, False)
    findings = [finding for t_ns, rising in raw for finding in detector.feed(edge(t_ns, rising))]
    findings += detector.finish(end_ns)
    levels = sum(isinstance(finding, AmbiguousPulse) for finding in findings)
    episodes = [finding for finding in findings if isinstance(finding, Episode)]
    assert levels + len(episodes) <= len(raw)
    assert 0 <= detector.anomalies <= len(raw)
    assert [episode.ordinal for episode in episodes] == list(range(1, len(episodes) + 1))
    assert [episode.plugged for episode in episodes] == [number % 2 == 0 for number in range(len(episodes))]
    starts = [f.t_start_ns if isinstance(f, Episode) else f.t_from_ns for f in findings]
    assert starts == sorted(starts)
