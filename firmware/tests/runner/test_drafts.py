from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugmeter.measure import report
from plugmeter.measure.episodes import Episode
from plugmeter.measure.pipeline import Pipeline
from plugmeter.measure.stages import Stage
from plugmeter.measure.verdicts import Verdict
from plugmeter.records import Gap, RunEnd, RunStart
from plugmeter.reporting.schema import fault_of
from plugmeter.runner import wire
from plugmeter.runner.drafts import drafts, reduced
from plugmeter.telemetry.record import DATA_LIMIT_BYTES, Draft, Rank

RUN = "5a1cf1a0-8a4c-4c7b-9a57-000000000001"
START = RunStart(
    t_ns=1,
    rig="injected",
    truth="simulated",
    ports=("1-1", "1-2"),
    witnesses=("gpio", "netlink"),
    debounce_ns=100_000_000,
    nominal_ns=3_000_000_000,
    lost_after_ns=30_000_000_000,
    storm_quiet_ns=1_000_000_000,
    claim_rate=0.001,
    seed=7,
    started_at="2026-11-21T12:00:00+00:00",
    version="0.1.0",
    host={"kernel": "6.18"},
    plan={"sticks": 3},
)


def one(message: wire.Message) -> tuple[Draft, dict[str, Any]]:
    (draft,) = drafts(RUN, message, 12345)
    data = json.loads(draft.data)
    assert draft.time_ns == 12345
    assert data.pop("run") == RUN
    return draft, data


def test_a_start_that_a_command_asked_for() -> None:
    (draft,) = drafts(RUN, wire.Started(START), 12345, "c1")
    assert json.loads(draft.data)["command"] == "c1"


def test_the_start() -> None:
    draft, data = one(wire.Started(START))
    assert (draft.kind, draft.rank) == ("run-started", Rank.RESULT)
    assert data == {
        "t_ns": 1,
        "rig": "injected",
        "truth": "simulated",
        "ports": ["1-1", "1-2"],
        "witnesses": ["gpio", "netlink"],
        "seed": 7,
        "plan": {"sticks": 3},
        "host": {"kernel": "6.18"},
        "version": "0.1.0",
        "started_at": "2026-11-21T12:00:00+00:00",
        "debounce_ms": 100.0,
        "nominal_ms": 3000.0,
        "lost_after_ms": 30000.0,
    }


@pytest.mark.parametrize(
    ("verdict", "words"),
    [
        (
            Verdict(Episode("1-1", 2, True, 5_000, 9_000, 1_000), "matched", None, True, 6_500, 7_000, 8_000),
            {"action": "plug", "outcome": "matched", "stage": None, "enumerated": True, "t_ns": 5_000}
            | {"latency_us": {"netlink": 1.5, "udev": 2.0, "node": 3.0}},
        ),
        (  # of a pull the first fall counts
            Verdict(Episode("1-1", 2, False, 5_000, 9_000, 1_000), "late", None, True, 6_500, None, None),
            {"action": "pull", "outcome": "late", "stage": None, "enumerated": True, "t_ns": 5_000}
            | {"latency_us": {"netlink": 2.5, "udev": None, "node": None}},
        ),
        (
            Verdict(Episode("1-1", 2, True, 5_000, 9_000), "lost", Stage.BEFORE_UEVENT),
            {
                "action": "plug",
                "outcome": "lost",
                "stage": "before_uevent",
                "enumerated": False,
                "t_ns": 5_000,
            }
            | {"latency_us": {"netlink": None, "udev": None, "node": None}},
        ),
    ],
)
def test_a_verdict(verdict: Verdict, words: dict[str, Any]) -> None:
    draft, data = one(wire.Decided(verdict))
    assert (draft.kind, draft.rank) == ("verdict", Rank.VERDICT)
    assert data == {"port": "1-1", "ordinal": 2, **words}


@pytest.mark.parametrize("count", [3, None])
def test_a_gap(count: int | None) -> None:
    draft, data = one(wire.Missed(Gap(9, "udev", "socket_queue", count, 4)))
    assert (draft.kind, draft.rank) == ("gap", Rank.VERDICT)
    assert data == {"t_ns": 9, "since_ns": 4, "witness": "udev", "cause": "socket_queue", "count": count}


def test_what_was_discarded_is_a_gap_of_the_runner() -> None:
    draft, data = one(wire.Discarded("raw", 96, 4, 9))
    assert draft.kind == "gap"
    assert data == {"t_ns": 9, "since_ns": 4, "witness": "runner", "cause": "discarded_raw", "count": 96}


def test_raw_inputs_are_passed_on_as_they_are() -> None:
    inputs = b'[["advance",5],["edge",{"t_ns":6,"port":"1-1","rising":true,"line_seqno":1}]]'
    draft, data = one(wire.Raw(3, 2, msgspec.Raw(inputs)))
    assert (draft.kind, draft.rank) == ("raw", Rank.RAW)
    assert data == {"number": 3, "count": 2, "inputs": json.loads(inputs)}


def finished_report() -> dict[str, Any]:
    pipeline = Pipeline(START)
    pipeline.finish(RunEnd(10**9))
    return report.build(pipeline)


def test_a_report_that_fits_is_left_alone() -> None:
    made = finished_report()
    draft, data = one(wire.Finished(made, 5, 1, 100, 3))
    assert (draft.kind, draft.rank) == ("run-ended", Rank.RESULT)
    assert data.pop("report") == json.loads(json.dumps(made))
    assert data == {"failure": None, "reduced": [], "verdicts": 5, "gaps": 1, "raw": 100, "discarded": 3}


def test_a_report_that_is_too_large_is_cut_and_says_so_and_stays_a_report() -> None:
    loss = {"port": "1-1", "ordinal": 1, "action": "plug", "t_ms": 1.5, "stage": "udevd"}
    port = {"expected": 1, "ambiguous": 0, "matched": 1, "late": 0, "lost": 0} | {
        "state": "configured",
        "illegal_transitions": 0,
    }
    made = finished_report()
    made["losses"] = [loss] * 1000
    made["ports"] = {f"1-{number}": port for number in range(3000)}
    made["conservation"] = {"holds": False, "violations": ["x" * 1000] * 100}
    before = json.dumps(made)
    draft, data = one(wire.Finished(made, 0, 0, 0, 0))
    assert json.dumps(made) == before, "the report itself is not touched"
    assert len(draft.data) <= DATA_LIMIT_BYTES
    kept = data["report"]
    assert any(line.startswith("ports: ") and line.endswith(" of 3000") for line in data["reduced"])
    assert len(kept["losses"]) + kept["losses_omitted"] == 1000
    assert fault_of(kept) is None
    assert {
        name: kept[name] for name in kept if name not in ("losses", "losses_omitted", "ports", "conservation")
    } == {
        name: value
        for name, value in json.loads(before).items()
        if name not in ("losses", "losses_omitted", "ports", "conservation")
    }


def test_a_run_that_failed_has_an_end_without_a_report() -> None:
    draft, data = one(wire.Failure("UsageError", "no ports"))
    assert draft.kind == "run-ended"
    assert data == {
        "failure": "no ports",
        "report": None,
        "reduced": [],
        "verdicts": 0,
        "gaps": 0,
        "raw": 0,
        "discarded": 0,
    }


@pytest.mark.parametrize(
    "message",
    [
        wire.Note("x"),
        wire.Ready(1, "passive", "gpio", (), (), 0, "1"),
        wire.Resynced(1, 2),
        wire.Progress(1, 2, 3),
        wire.Bye(),
        wire.Ended(0),
    ],
    ids=lambda message: type(message).__name__,
)
def test_the_rest_makes_no_record(message: wire.Message) -> None:
    assert drafts(RUN, message, 1) == []


VALUES = st.recursive(
    st.text(max_size=30) | st.integers(),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from("abcd"), st.lists(VALUES, max_size=5)), st.integers(60, 200))
def test_whatever_is_in_the_lists_of_a_report_it_is_cut_to_the_limit(
    made: dict[str, Any], limit: int
) -> None:
    cut, said = reduced(made, limit)
    assert len(msgspec.json.encode(cut)) <= limit
    assert (cut == made) == (not said)
    assert cut.keys() == made.keys()
