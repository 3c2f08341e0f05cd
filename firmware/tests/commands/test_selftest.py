from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from plugmeter.bench.selftest import Check, Outcome
from plugmeter.commands.selftest import render
from plugmeter.reporting.schema import fault_of

FIRMWARE = Path(__file__).parents[2]


def selftest(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        (sys.executable, "-m", "plugmeter", "selftest", *arguments),
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(FIRMWARE)},
        check=False,
    )


def test_the_instrument_finds_the_losses_that_are_known() -> None:
    done = selftest("--sticks", "16", "--json", "-")
    if "forbids the namespace" in done.stderr:
        pytest.skip(f"needs a namespace to inject uevents in: {done.stderr.strip()}")
    said = json.loads(done.stdout)
    failed = [
        (part["name"], check) for part in said["parts"] for check in part["checks"] if not check["passed"]
    ]
    assert (failed, done.returncode, done.stderr) == ([], 0, "")
    assert [part["name"] for part in said["parts"]] == ["socket queue", "nothing lost", "udevd", "dead rig"]
    assert said["passed"]
    for part in said["parts"]:
        assert fault_of(part["report"]) is None
    assert said["parts"][0]["report"]["lost"]["socket_queue"] > 0


@pytest.mark.parametrize(
    "arguments",
    [["--sticks", "-1"], ["--sticks", "11"], ["--sticks", "1001"], ["--seed", "abc"], ["--seed=-1"]],
)
def test_absurd_options_are_one_line(arguments: list[str]) -> None:
    done = selftest(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1


def test_what_is_wrong_is_shown_beside_what_is_proven() -> None:
    losses = tuple((f"1-{number}", 1, "plug", "socket_queue") for number in range(1, 11))
    outcome = Outcome("part", "something was done", (Check("losses", losses, ()), Check("lost", 1, 1)), {})
    shown = ", ".join(f"1-{number} #1 plug" for number in range(1, 9))
    assert not outcome.passed
    assert render(outcome) == (
        f"part: something was done\n  FAIL  losses\n      proven: {shown}, and 2 more\n".replace(
            "      ", "        ", 1
        )
        + "        named:  none\n"
        "  PASS  lost: 1\n\n"
    )
