"""``plugmeter bench`` as it is called: small, in a process of its own, and no figure is asserted but sums."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from plugmeter.bench.broker import find_mosquitto
from plugmeter.commands.bench import BENCHES
from plugmeter.errors import PlugmeterError


def call(*words: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "plugmeter", "bench", *words],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == 1 and "forbids the namespace" in done.stderr:
        pytest.skip(f"needs a network namespace: {done.stderr.strip()}")
    return done


def figures(*words: str) -> Any:
    done = call(*words, "--json", "-")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_throughput() -> None:
    found = figures("throughput", "--runs", "1", "--events", "500", "--burst", "2000")
    assert found["accounted"] is True
    for each in (*found["bursts"], *found["squeezed"]):
        assert each["delivered"] + each["known_lost"] == each["emitted"] == 2000
    assert [goal["goal"] for goal in found["goals"]] == [200_000, 5, 5, 2, 0]


def test_listeners() -> None:
    found = figures("listeners", "--density", "20", "--seconds", "0.3", "--runs", "1")
    assert [each["listener"] for each in found["listeners"]] == ["plugmeter", "pyudev", "plain"]
    assert all(each["emitted"] == 192 and each["lost"] == 0 for each in found["listeners"])


def test_listeners_as_a_table() -> None:
    done = call("listeners", "--plugs", "5", "--runs", "1", "--listener", "plain")
    assert done.returncode == 0, done.stderr
    assert "5 plugs and pulls at full speed, 1 times at each listener" in done.stdout
    assert "pyudev" not in done.stdout


def test_handoff_names_the_fastest() -> None:
    found = figures("handoff", "--runs", "1")
    assert found["fastest_eligible"] in {each["name"] for each in found["candidates"] if each["eligible"]}
    assert all(each["price"] and each["when_full"] for each in found["candidates"])
    ratios = {each["name"]: each["ring_ratio"] for each in found["candidates"]}
    assert {"queue.Queue, batches", "deque, batches"} <= ratios.keys()


def test_receive() -> None:
    found = figures("receive", "--runs", "1", "--events", "50")
    assert found["schema"] == "plugmeter-bench-receive/1"
    assert [(each["way"], each["events"]) for each in found["ways"]] == [("recvmmsg", 50), ("recv_into", 50)]


def test_receive_as_a_table() -> None:
    done = call("receive", "--runs", "1", "--events", "50")
    assert done.returncode == 0, done.stderr
    assert "50 uevents in the backlog, 1 times each way" in done.stdout
    assert [line.split()[0] for line in done.stdout.splitlines() if line.startswith("  recv")] == [
        "recvmmsg",
        "recv_into",
    ]


@pytest.mark.parametrize("bench", BENCHES, ids=lambda each: each.NAME)
def test_each_bench_explains_itself(bench: Any) -> None:
    done = call(bench.NAME, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert bench.EPILOG.strip() in done.stdout
    assert "--json FILE" in done.stdout
    assert f" {bench.NAME} " in call("--help").stdout


def test_idle_has_everything_open_and_no_report_extras() -> None:
    found = figures("idle", "--seconds", "1")
    assert found["extras"] == []
    assert found["rss_mib"] > 0
    assert found["seconds"] >= 1


def test_report() -> None:
    found = figures("report", "--records", "500", "--runs", "1")
    assert found["records"] > 400
    assert found["report_s"] > 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "the following arguments are required: WHAT"),
        (["nothing"], "invalid choice"),
        (["listeners", "--seconds", "3"], "--seconds goes with --density"),
        (["listeners", "--runs", "0"], "is not within 1 to 100"),
        (["idle", "--seconds", "nan"], "is not within"),
        (["receive", "--events", "0"], "is not within 1 to 500000"),
        (["receive", "--events", "few"], "is no whole number"),
        (["stop", "--times", "0"], "is not within 1 to 10000"),
        (["telemetry", "--part", "all"], "invalid choice"),
        (
            ["telemetry", "--part", "rate", "--controller", "x {what}"],
            "--controller 'x {what}' cannot be read",
        ),
    ],
)
def test_mistakes_are_one_line(words: list[str], said: str) -> None:
    done = call(*words)
    assert done.returncode == 2
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def needs_mosquitto() -> None:
    try:
        find_mosquitto()
    except PlugmeterError as error:
        pytest.skip(f"needs mosquitto: {error}")


def test_stop() -> None:
    needs_mosquitto()
    found = figures("stop", "--times", "1", "--pending", "300", "--drain", "0.1")
    assert [each["name"] for each in found["cases"]] == [
        "SIGQUIT to stacks",
        "300 pending, live broker",
        "300 pending, silent broker",
        "300 pending, no broker",
    ]
    assert all(len(each["ms"]) == 1 and each["killed"] == 0 for each in found["cases"])
    live, *dead = found["cases"][1:]
    assert live["left"] < 300 <= min(each["left"] for each in dead)
    assert all(each["statuses"] == {"0": 1} for each in (live, *dead))


def test_telemetry_reaches_the_controller() -> None:
    needs_mosquitto()
    found = figures("telemetry", "--part", "rate", "--runs", "1", "--seconds", "0.5")
    assert set(found["rate"]) == {"controller", "acknowledger"}
    for (run,) in found["rate"].values():
        assert run["records"] > 0
        assert run["produced"] == run["acknowledged"] > run["records"]
    assert found["notes"] == []


def test_telemetry_watches_the_memory() -> None:
    needs_mosquitto()
    found = figures("telemetry", "--part", "memory", "--backlog", "2000", "--drain", "2")
    waiting, draining = found["memory"]
    assert waiting["pending_after"] >= waiting["pending_before"] >= 2000
    assert draining["pending_after"] < 2000
    assert all(each["peak_mib"] >= each["last_mib"] > each["anonymous_mib"] > 1 for each in found["memory"])


def test_a_controller_that_ends_is_an_error() -> None:
    needs_mosquitto()
    done = call("telemetry", "--part", "rate", "--runs", "1", "--controller", "sh -c 'echo no; exit 4'")
    assert done.returncode == 1
    assert "the controller has ended, with 4: no" in done.stderr


def test_outbox_in_small_bursts() -> None:
    found = figures("outbox", "--runs", "1", "--records", "100", "--bursts", "2")
    assert [
        (each["source"], each["burst"], each["acknowledged"], each["records"])
        for each in found["small_bursts"]
    ] == [
        ("verdicts", 20, True, 40),
        ("verdicts", 100, True, 200),
        ("verdicts", 1_000, True, 2_000),
        ("verdicts", 100, False, 200),
        ("noise", 100, True, 200),
    ]
    assert all(each["bytes_per_record"] > 0 for each in found["small_bursts"])
