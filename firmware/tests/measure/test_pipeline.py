from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plugmeter.measure.pipeline import LATEST_NS, NEWS_KEPT, News, Pipeline
from plugmeter.measure.report import build, to_json
from plugmeter.measure.stages import Stage
from plugmeter.records import (
    Device,
    Driven,
    Edge,
    Gap,
    Level,
    LineAccount,
    Listener,
    ListenerSample,
    NodeEvent,
    Presence,
    Record,
    RunEnd,
    RunStart,
    Tally,
    Uevent,
    WitnessName,
)
from plugmeter.reporting.schema import fault_of

MS = 1_000_000
BEGIN = 5_000 * MS

START = RunStart(
    t_ns=BEGIN,
    rig="injected",
    truth="simulated",
    ports=("1-1", "1-2"),
    witnesses=("gpio", "netlink", "udev", "inotify"),
    debounce_ns=100 * MS,
    nominal_ns=3_000 * MS,
    lost_after_ns=30_000 * MS,
    storm_quiet_ns=1_000 * MS,
    claim_rate=0.001,
    seed=1,
    started_at="2026-11-21T12:00:00+00:00",
    version="0",
    host={"machine": "x86_64"},
    plan={"sticks": 2},
)

# -- nonsense: whatever comes, in whatever order, comes to an end in some account ----------------------

WITNESSES = get_args(WitnessName)
SANE = st.integers(BEGIN, BEGIN + 40_000 * MS)
TIMES = st.one_of(
    SANE,
    st.integers(0, 200).map(lambda n: BEGIN + n * 50 * MS),
    st.sampled_from([-(2**70), -1, 0, 1, LATEST_NS, LATEST_NS + 1, 2**63, 2**64, 2**70]),
)
PORTS = st.sampled_from(["1-1", "1-2", "9-9", "", "no port", "1-1\0"])
COUNTS = st.one_of(st.integers(0, 5), st.sampled_from([-1, 2**32, 2**64, 2**70]))
NAMES = st.sampled_from(["bus/usb/001/002", "sda", "/dev/sda", "", "\0", "a" * 300])
DEVPATHS = st.sampled_from(
    [
        "/devices/usb1/1-1",
        "/devices/usb1/1-2",
        "/devices/usb1/1-1/1-1:1.0/host2/target2:0:0/2:0:0:0/block/sda",
        "/devices/usb9/9-9",
        "",
        "/",
    ]
)
UEVENTS = st.builds(
    Uevent,
    TIMES,
    st.sampled_from(["netlink", "udev", "netlink", "udev", *WITNESSES]),
    st.one_of(st.integers(1, 40), st.sampled_from([-(2**64), -1, 0, 1, 2**64 - 1, 2**64, 2**70])),
    st.sampled_from(["add", "remove", "bind", "change", ""]),
    DEVPATHS,
    st.sampled_from(["usb", "block", ""]),
    st.sampled_from(["usb_device", "disk", "usb_interface", ""]),
    NAMES,
)
DEVICES = st.builds(Device, PORTS, st.integers(-1, 3), st.integers(-1, 130))
RECORDS: st.SearchStrategy[Record] = st.one_of(
    UEVENTS,
    st.builds(Edge, TIMES, PORTS, st.booleans(), st.integers(-1, 4)),
    st.builds(Level, TIMES, PORTS, st.booleans()),
    st.builds(Driven, TIMES, PORTS, st.booleans()),
    st.builds(NodeEvent, TIMES, st.sampled_from(["create", "attrib", "delete", "?"]), NAMES),
    st.builds(
        Presence,
        TIMES,
        st.sampled_from(["last", "last_other_boot", "start", "resync", "end", "?"]),
        st.lists(DEVICES, max_size=3).map(tuple),
    ),
    st.builds(
        ListenerSample,
        TIMES,
        st.lists(
            st.builds(
                Listener, st.integers(0, 3), st.just("x"), st.integers(0, 3), COUNTS, st.integers(0, 3)
            ),
            max_size=3,
        ).map(tuple),
    ),
    st.builds(
        Gap,
        TIMES,
        st.sampled_from(WITNESSES),
        st.sampled_from(["socket_queue", "inotify_queue", "x"]),
        st.none() | COUNTS,
        TIMES,
    ),
    st.builds(Tally, TIMES, st.sampled_from(WITNESSES), COUNTS, COUNTS),
    st.builds(
        LineAccount, TIMES, PORTS, st.sampled_from(["", "MockFactory"]), st.booleans(), st.none() | COUNTS
    ),
    st.just(START),
    st.just(RunEnd(BEGIN)),
)
STEPS = st.lists(st.one_of(st.lists(RECORDS, max_size=12), TIMES), max_size=12)
STARTS = st.sampled_from(
    [
        START,
        replace(START, ports=(), witnesses=()),
        replace(START, truth="gpio", witnesses=("gpio", "netlink")),
        replace(START, debounce_ns=0, nominal_ns=0, lost_after_ns=0, storm_quiet_ns=0),
        replace(START, t_ns=0, nominal_ns=LATEST_NS, lost_after_ns=LATEST_NS, witnesses=("udev",)),
    ]
)


@settings(max_examples=300)
@given(STARTS, STEPS, st.none() | TIMES)
def test_nonsense_never_raises_and_is_always_accounted(
    start: RunStart, steps: list[list[Record] | int], end_ns: int | None
) -> None:
    pipeline = Pipeline(start)
    for step in steps:
        if isinstance(step, int):
            pipeline.advance(step)
        else:
            pipeline.feed(step)
    if end_ns is not None:
        pipeline.finish(RunEnd(end_ns))
        assert pipeline.verdicts.violations() == []
    report = build(pipeline)
    assert json.loads(to_json(report)) == report
    assert report["undecided"] >= 0
    assert report["expected"] == (
        report["matched"] + report["late"] + sum(report["lost"].values()) + report["undecided"]
    )
    if end_ns is None:
        assert report["certificate"]["reasons"] == ["the run has no end: its recording was cut"]
    elif pipeline.absurd or pipeline.timeline.stragglers:
        assert not report["certificate"]["valid"]


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"t_ns": -1}, "begun"),
        ({"t_ns": 2**63}, "begun"),
        ({"debounce_ns": -1}, "debounce"),
        ({"nominal_ns": -1}, "nominal_ns"),
        ({"nominal_ns": 31_000 * MS}, "nominal_ns"),
        ({"lost_after_ns": 2**63}, "nominal_ns"),
        ({"storm_quiet_ns": -1}, "quiet"),
        ({"claim_rate": 0.0}, "loss rate"),
        ({"claim_rate": float("nan")}, "loss rate"),
    ],
)
def test_a_start_that_cannot_be_is_refused(changed: dict[str, int | float], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Pipeline(replace(START, **changed))  # type: ignore[arg-type]  # one key at a time


# -- truth: runs whose fates are known beforehand --------------------------------------------------------


@dataclass(frozen=True)
class Fate:
    """One episode, and what happened to its uevents."""

    port: str
    ordinal: int
    t_ns: int
    fate: str

    @property
    def plugged(self) -> bool:
        return self.ordinal % 2 == 1


# A gap says when something was lost, not what. So no two fates of one run may be told apart by the time of
# a gap alone: a truth that the records do not hold cannot be had from them.
FAMILIES = (
    ("seen", "seen", "netlink", "netlink_silently", "udevd"),
    ("seen", "seen", "netlink", "netlink_silently", "udev"),
    ("seen", "seen", "netlink_silently", "udevd", "nobody"),
)
STAGES = {
    "netlink": Stage.SOCKET_QUEUE,
    "netlink_silently": Stage.SOCKET_QUEUE,
    "udevd": Stage.UDEVD,
    "udev": Stage.UDEV_SOCKET_QUEUE,
    "nobody": Stage.BEFORE_UEVENT,
}


@st.composite
def runs(draw: st.DrawFn) -> list[Fate]:
    fates = st.sampled_from(draw(st.sampled_from(FAMILIES)))
    episodes = []
    for place, port in enumerate(START.ports):
        t_ns = BEGIN + (200 + 31 * place) * MS
        for ordinal in range(1, 1 + draw(st.integers(1 - place, 10))):
            episodes.append(Fate(port, ordinal, t_ns, draw(fates)))
            t_ns += draw(st.integers(250, 2_000)) * MS
    return sorted(episodes, key=lambda each: each.t_ns)


def records_of(run: Sequence[Fate]) -> list[Record]:
    """What the witnesses say of a run, in order of time, without the accounts at the end."""
    records: list[Record] = [Level(BEGIN, port, False) for port in START.ports]
    for number, each in enumerate(run, start=1):
        action = "add" if each.plugged else "remove"
        t_ns = each.t_ns + (110 if each.plugged else 4) * MS
        devpath = f"/devices/usb1/{each.port}"
        records += [Edge(each.t_ns, each.port, each.plugged), Driven(each.t_ns, each.port, each.plugged)]
        if each.fate == "netlink":
            records.append(Gap(t_ns + 3 * MS, "netlink", "socket_queue", 1, t_ns - 3 * MS))
        elif each.fate not in ("nobody", "netlink_silently"):
            records.append(Uevent(t_ns, "netlink", number, action, devpath, "usb", "usb_device"))
        if each.fate == "udev":
            records.append(Gap(t_ns + 5 * MS, "udev", "socket_queue", 1, t_ns))
        elif each.fate not in ("nobody", "udevd"):
            records.append(Uevent(t_ns + MS, "udev", number, action, devpath, "usb", "usb_device"))
    return sorted(records, key=lambda record: record.t_ns)


def accounts_of(run: Sequence[Fate], records: Sequence[Record], t_ns: int) -> list[Record]:
    ends: list[Record] = []
    for port in START.ports:
        high = sum(each.port == port for each in run) % 2 == 1
        ends += [Level(t_ns, port, high), LineAccount(t_ns, port, "MockFactory", False)]
    for name in ("netlink", "udev"):
        offered = sum(isinstance(record, Uevent | Gap) and record.witness == name for record in records)
        ends.append(Tally(t_ns, name, offered))
    edges = sum(isinstance(record, Edge) for record in records)
    return [*ends, Tally(t_ns, "gpio", edges), Tally(t_ns, "inotify", 0)]


def end_of(run: Sequence[Fate]) -> int:
    return max((each.t_ns for each in run), default=BEGIN) + 31_000 * MS


@settings(max_examples=40)
@given(runs())
def test_a_truthful_run_gets_exactly_the_verdicts_that_are_known(run: list[Fate]) -> None:
    records = records_of(run)
    end_ns = end_of(run)
    pipeline = Pipeline(START)
    pipeline.feed([*records, *accounts_of(run, records, end_ns - 1)])
    pipeline.finish(RunEnd(end_ns))
    report = build(pipeline)
    assert fault_of(report) is None
    assert report["certificate"] == {**report["certificate"], "valid": True, "reasons": []}
    assert report["conservation"] == {"holds": True, "violations": []}
    named = {(loss["port"], loss["ordinal"], loss["action"], loss["stage"]) for loss in report["losses"]}
    assert named == {
        (each.port, each.ordinal, "plug" if each.plugged else "pull", str(STAGES[each.fate]))
        for each in run
        if each.fate in STAGES
    }
    for stage in Stage:
        assert report["lost"][stage] == sum(STAGES.get(each.fate) is stage for each in run)
    assert report["matched"] == sum(each.fate == "seen" for each in run)
    assert report["late"] == report["duplicates"] == report["orphans"] == report["ambiguous"] == 0


@settings(max_examples=40)  # a report takes its time: its histograms are walked bucket by bucket
@given(runs(), st.lists(st.integers(0, 60_000), max_size=30))
def test_a_report_does_not_depend_on_when_the_timeline_moved_on(run: list[Fate], moves_ms: list[int]) -> None:
    records = records_of(run)
    end_ns = end_of(run)
    accounts = accounts_of(run, records, end_ns - 1)

    at_once = Pipeline(START)
    at_once.feed([*records, *accounts])
    at_once.finish(RunEnd(end_ns))

    in_steps = Pipeline(START)
    last_ns = end_ns - 2  # the accounts come after it, and nothing may come from before a move
    moves_ns = [BEGIN - 1, *sorted(BEGIN + ms * MS for ms in moves_ms if BEGIN + ms * MS < last_ns), last_ns]
    for since_ns, until_ns in pairwise(moves_ns):
        in_steps.feed([record for record in records if since_ns < record.t_ns <= until_ns])
        in_steps.advance(until_ns)
    in_steps.feed(accounts)
    in_steps.finish(RunEnd(end_ns))
    stepped, whole = build(in_steps), build(at_once)
    assert {key: stepped[key] for key in whole if stepped[key] != whole[key]} == {}


# -- single cases --------------------------------------------------------------------------------------


def finished(
    records: Sequence[Record], start: RunStart = START, end_ns: int = BEGIN + 60_000 * MS
) -> Pipeline:
    pipeline = Pipeline(start)
    pipeline.feed(records)
    pipeline.finish(RunEnd(end_ns))
    return pipeline


def test_an_enumeration_on_a_port_without_a_line_is_excused() -> None:
    add = Uevent(BEGIN + MS, "netlink", 1, "add", "/devices/usb9/9-9", "usb", "usb_device")
    pipeline = finished([add])
    assert (pipeline.verdicts.excused, pipeline.verdicts.orphans) == (1, 0)
    wired = finished([add._replace(devpath="/devices/usb1/1-1")])
    assert (wired.verdicts.excused, wired.verdicts.orphans) == (0, 1)


@pytest.mark.parametrize("lead_ms", [4, 60, 96])
def test_a_pull_whose_contact_bounced_is_matched_with_the_remove_at_its_first_fall(lead_ms: int) -> None:
    fell_ns = BEGIN + 1_000 * MS
    records: list[Record] = [Level(BEGIN, "1-1", True), Edge(fell_ns, "1-1", False)]
    for bounce in range(10):
        t_ns = fell_ns + (bounce + 1) * lead_ms * MS // 10
        records.append(Edge(t_ns, "1-1", bounce % 2 == 0))
    removed_ns = fell_ns + 4 * MS
    for witness in ("netlink", "udev"):
        records.append(Uevent(removed_ns, witness, 1, "remove", "/devices/usb1/1-1", "usb", "usb_device"))
    verdicts = finished(records).verdicts
    assert (verdicts.expected, verdicts.matched, verdicts.lost_total, verdicts.excused) == (1, 1, 0, 0)


@pytest.mark.parametrize(
    ("from_ms", "until_ms", "stage"),
    [
        (-50, -1, "udevd"),
        (-50, 0, "udev_socket_queue"),
        (5, 10, "udev_socket_queue"),
        (990, 1010, "udev_socket_queue"),
        (1001, 1010, "udevd"),
    ],
)
def test_only_a_gap_at_the_time_when_udevd_sends_can_have_swallowed_it(
    from_ms: int, until_ms: int, stage: str
) -> None:
    told_ns = BEGIN + 120 * MS
    pipeline = finished(
        [
            Level(BEGIN, "1-1", False),
            Edge(BEGIN + 10 * MS, "1-1", True),
            Uevent(told_ns, "netlink", 1, "add", "/devices/usb1/1-1", "usb", "usb_device"),
            Gap(told_ns + until_ms * MS, "udev", "socket_queue", 1, told_ns + from_ms * MS),
        ]
    )
    assert [verdict.stage for verdict in pipeline.losses] == [stage]


@pytest.mark.parametrize(
    ("high", "there", "state"),
    [
        (False, False, "idle"),
        (True, False, "connecting"),
        (True, True, "active"),
        (False, True, "detached"),
    ],
)
def test_a_port_begins_as_level_and_coldplug_say(high: bool, there: bool, state: str) -> None:
    devices = (Device("1-1", 1, 2),) if there else ()
    pipeline = finished([Presence(BEGIN, "start", devices), Level(BEGIN + 1, "1-1", high)])
    assert build(pipeline)["ports"]["1-1"]["state"] == state


def test_a_stick_that_was_there_before_can_be_pulled() -> None:
    pipeline = finished(
        [
            Presence(BEGIN, "start", (Device("1-1", 1, 2),)),
            Level(BEGIN + 1, "1-1", True),
            Edge(BEGIN + 10 * MS, "1-1", False),
            Uevent(BEGIN + 14 * MS, "netlink", 1, "remove", "/devices/usb1/1-1", "usb", "usb_device"),
            Uevent(BEGIN + 15 * MS, "udev", 1, "remove", "/devices/usb1/1-1", "usb", "usb_device"),
        ]
    )
    port = build(pipeline)["ports"]["1-1"]
    assert (port["matched"], port["state"], port["illegal_transitions"]) == (1, "idle", 0)


def test_a_witness_that_the_run_does_not_know_of_makes_it_invalid() -> None:
    start = replace(START, witnesses=("gpio",))
    report = build(finished([NodeEvent(BEGIN, "create", "sda")], start))
    assert "witness inotify: it never said how much it was offered" in " ".join(
        report["certificate"]["reasons"]
    )


# -- news: for who follows a run while it is made -------------------------------------------------------


def plugs(count: int) -> list[Record]:
    """So many plugs and pulls that nobody saw, 200 ms apart."""
    return [Edge(BEGIN + n * 200 * MS, "1-1", n % 2 == 1, n) for n in range(1, 1 + count)]


def test_who_does_not_follow_has_no_news() -> None:
    pipeline = Pipeline(START)
    pipeline.feed([*plugs(4), Gap(BEGIN + MS, "udev", "socket_queue", 2, BEGIN)])
    pipeline.finish(RunEnd(BEGIN + 60_000 * MS))
    assert (pipeline.verdicts.expected, pipeline.take_news()) == (4, News())


def test_news_are_told_once_each_and_the_last_after_the_end() -> None:
    pipeline = Pipeline(START)
    pipeline.follow()
    gap = Gap(BEGIN + MS, "udev", "socket_queue", 2, BEGIN)
    pipeline.feed([*plugs(4), gap])
    pipeline.advance(BEGIN + 100 * MS)
    assert pipeline.take_news() == News((), (gap,))
    assert pipeline.take_news() == News()
    pipeline.advance(BEGIN + 50_000 * MS)
    first = pipeline.take_news()
    pipeline.feed([Edge(BEGIN + 51_000 * MS, "1-1", True, 5), Edge(BEGIN + 52_000 * MS, "1-1", False, 6)])
    pipeline.finish(RunEnd(BEGIN + 90_000 * MS))
    last = pipeline.take_news()
    told = [[verdict.episode.ordinal for verdict in news.verdicts] for news in (first, last)]
    assert told == [[1, 2, 3, 4], [5, 6]]
    assert {verdict.outcome for verdict in (*first.verdicts, *last.verdicts)} == {"lost"}
    assert pipeline.take_news() == News()


def test_news_that_nobody_takes_are_bounded_and_counted() -> None:
    pipeline = Pipeline(START)
    pipeline.follow()
    pipeline.feed([Gap(BEGIN + n, "udev", "socket_queue", 1, BEGIN) for n in range(NEWS_KEPT + 7)])
    pipeline.advance(BEGIN + MS)
    news = pipeline.take_news()
    assert (len(news.gaps), news.omitted) == (NEWS_KEPT, 7)
    assert pipeline.take_news() == News()
