"""The measuring of stops: small, and no figure is asserted but that there is one."""

from __future__ import annotations

import sys

import pytest

from plugmeter.bench.stop import Case, Latencies, measure_quits, measure_stops
from plugmeter.commands.benches.stop import cases
from plugmeter.errors import PlugmeterError


def test_quantiles() -> None:
    found = Latencies("x", 0, tuple(float(n) for n in range(1, 101)))
    assert (found.quantile(0), found.quantile(0.5), found.quantile(0.99), found.quantile(1)) == (
        1,
        51,
        100,
        100,
    )
    assert found.as_json()["max_ms"] == 100


@pytest.mark.parametrize("case", cases(), ids=lambda each: each.name)
def test_each_daemon_ends_by_itself(case: Case) -> None:
    found = measure_stops(case, 2)
    assert len(found.ms) == 2
    assert found.ms[0] > 0 or case.planned_s == 0  # a dead broker is waited for


@pytest.mark.parametrize(
    ("program", "said"),
    [
        ("raise SystemExit(3)", "ended before it was ready, with 3"),
        (
            "import os, socket, signal, time; s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM);"
            " s.sendto(b'READY=1', os.environ['NOTIFY_SOCKET']); time.sleep(60)",
            "ended with -15",
        ),
    ],
)
def test_what_does_not_end_as_it_should_is_an_error(program: str, said: str) -> None:
    with pytest.raises(PlugmeterError, match=said):
        measure_stops(Case("bad", [sys.executable, "-c", program]), 1)


@pytest.mark.parametrize(
    ("program", "said"),
    [
        ("print('holding', flush=True); import time; time.sleep(60)", "did not end it with its stacks"),
        ("pass", "ended, or says nothing"),
    ],
)
def test_stacks_that_are_none_are_an_error(program: str, said: str) -> None:
    with pytest.raises(PlugmeterError, match=said):
        measure_quits([sys.executable, "-c", program], 1)
