from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from plugmeter.errors import PlugmeterError, UsageError
from plugmeter.runner.proof import selftest, without_reports

FIRMWARE = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(FIRMWARE)}


def python(code: str) -> Sequence[str]:
    return (sys.executable, "-I", "-c", code)


def test_the_self_test_in_a_child() -> None:
    ticks: list[int] = []

    def tick() -> bool:
        ticks.append(1)
        return True

    try:
        result = selftest({"sticks": 12, "seed": 3}, environment=ENVIRONMENT, tick=tick)
    except PlugmeterError as error:
        if "forbids the namespace" in str(error):
            pytest.skip(f"needs a namespace to inject uevents in: {error}")
        raise
    assert (result["passed"], result["sticks"], result["seed"]) == (True, 12, 3)
    assert ticks
    small = without_reports(result)
    assert [sorted(part) for part in small["parts"]] == [["checks", "did", "name", "passed"]] * 4
    assert "report" in result["parts"][0]
    assert len(json.dumps(small)) < 50_000


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"sticks": 5}, "--sticks 5: the self-test takes 12 to 1000"),
        ({"sticks": "24"}, "selftest: sticks must be a whole number, not '24'"),
        ({"sticks": True}, "selftest: sticks must be a whole number"),
        ({"seed": -1}, "selftest: seed must be a whole number"),
        ({"json": "/etc/passwd"}, "selftest: unknown argument 'json'"),
    ],
)
def test_arguments_that_cannot_be_are_one_line(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        selftest(arguments, environment=ENVIRONMENT)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("code", "limit_s", "words"),
    [
        ("import time; time.sleep(1000)", 0.5, "did not end within 0.5 s and was ended"),
        (
            "import signal, time; signal.signal(2, signal.SIG_DFL); time.sleep(1000)",
            0.5,
            "did not end within",
        ),
        ("import os; os.close(1); os.close(2); import time; time.sleep(1000)", 0.5, "did not end within"),
        ("import sys\nwhile True: sys.stdout.write('x' * 65536)", 100, "far more than any self-test does"),
        ("print('{')", 100, "could not be made: it ended with status 0"),
        ("print('[]')", 100, "could not be made: it ended with status 0"),
        ("print('[' * 100000)", 100, "could not be made: it ended with status 0"),
        ("raise SystemExit('plugmeter: no luck')", 100, "could not be made: no luck"),
        ("import os; os.kill(os.getpid(), 9)", 100, "could not be made: it ended with status -9"),
    ],
)
def test_a_child_that_does_not_behave_is_one_line(code: str, limit_s: float, words: str) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(PlugmeterError, match=words) as caught:
        selftest({}, command=python(code), limit_s=limit_s)
    assert "\n" not in str(caught.value)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_whoever_waits_may_give_it_up() -> None:
    with pytest.raises(PlugmeterError, match="was given up"):
        selftest({}, command=python("import time; time.sleep(1000)"), tick=lambda: False)
