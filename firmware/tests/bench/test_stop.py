"""The measuring of stops: small, and no figure is asserted but that there is one."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest

from plugmeter.bench.stop import Case, Latencies, measure_quits, measure_stops
from plugmeter.errors import PlugmeterError

READY = (
    "import os, socket, signal, time; s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM);"
    " s.connect(os.environ['NOTIFY_SOCKET']); signal.signal(signal.SIGTERM, lambda *_: {end});"
    " s.send(b'READY=1'); time.sleep(60)"
)


def program(text: str) -> list[str]:
    return [sys.executable, "-c", text]


def test_quantiles() -> None:
    found = Latencies("x", 0, tuple(float(n) for n in range(1, 101)))
    shares = (0, 0.5, 0.99, 1)
    assert [found.quantile(share) for share in shares] == [1, 51, 100, 100]
    assert found.as_json()["max_ms"] == 100


def test_stops_are_timed_and_told_by_status() -> None:
    called: list[str] = []

    def note(word: str) -> Callable[[], None]:
        return lambda: called.append(word)

    command = program(READY.format(end="os._exit(3)"))
    case = Case("x", command, before=note("before"), on_term=note("term"), left=lambda: 7)
    found = measure_stops(case, 2)
    assert called == ["before", "term"] * 2
    assert (found.statuses, found.killed, found.left) == ({3: 2}, 0, 7)
    assert len(found.ms) == 2
    assert found.ms[0] > 0


def test_a_signal_that_ends_it_is_its_status() -> None:
    command = program(READY.format(end="os.kill(os.getpid(), signal.SIGABRT)"))
    found = measure_stops(Case("x", command), 1)
    assert found.statuses == {-6: 1}
    assert found.as_json()["statuses"] == {"-6": 1}


def test_what_never_becomes_ready_is_an_error() -> None:
    command = program("import sys; sys.stderr.write('no such thing\\n'); raise SystemExit(3)")
    with pytest.raises(PlugmeterError, match="ended before it was ready, with 3: no such thing"):
        measure_stops(Case("bad", command), 1)


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
