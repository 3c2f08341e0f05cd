"""``plugmeter sweep`` as it is called: in a process of its own, since it enters a namespace for good."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest


def call(*words: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "plugmeter", "sweep", *words], capture_output=True, text=True, check=False
    )
    if done.returncode == 1 and "forbids the namespace" in done.stderr:
        pytest.skip(f"needs a network namespace: {done.stderr.strip()}")
    return done


def test_a_table_a_knee_and_the_folklore() -> None:
    done = call("--densities", "5,20", "--seconds", "0.3")
    assert done.returncode == 0, done.stderr
    assert "Knee: none up to 20 plugs/s" in done.stdout
    assert "Folklore: NOT MEASURED" in done.stdout
    assert "add 85 to --densities" in done.stdout
    assert "20 plugs/s: 0 of 192 uevents lost" in done.stderr


def test_idle_is_not_measured_at_a_high_density() -> None:
    done = call("--densities", "20", "--seconds", "0.1")
    assert "0.0 % when idle: NOT MEASURED; add 10 or less to --densities" in done.stdout, done.stderr


def test_json_and_chart(tmp_path: Path) -> None:
    chart = tmp_path / "sweep.svg"
    done = call(
        "--listener",
        "pyudev",
        "--densities",
        "5,10",
        "--seconds",
        "0.3",
        "--json",
        "-",
        "--chart",
        str(chart),
    )
    if "report extras" in done.stderr:
        pytest.skip(f"needs matplotlib: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["schema"] == "plugmeter-sweep/1"
    assert [point["density"] for point in found["points"]] == [5, 10]
    assert found["folklore"] is None
    assert all(point["received"] + point["lost"] == point["emitted"] for point in found["points"])
    assert "<svg" in chart.read_text()
    assert found["knee"] == {"last_good": 10, "first_bad": None}
    assert "No knee was found" in chart.read_text()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--densities", "ten"], "no list of numbers"),
        (["--densities", "0"], "densities are from"),
        (["--seconds", "0"], "--seconds is from"),
        (["--handler-ms", "nan"], "--handler-ms is from"),
        (["--handler-ms", "1", "--listener", "cat"], "is for listeners of ours"),
    ],
)
def test_mistakes_are_one_line(words: list[str], said: str) -> None:
    done = call(*words)
    assert done.returncode == 2
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_command_that_cannot_be_run() -> None:
    done = call("--listener", "/nowhere/listener", "--densities", "5", "--seconds", "0.1")
    assert done.returncode == 2
    assert "cannot be run" in done.stderr
    assert "Traceback" not in done.stderr
