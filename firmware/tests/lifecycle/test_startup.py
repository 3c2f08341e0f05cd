"""The start, a step at a time: what is told of it, and what ends it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from plugmeter.errors import PlugmeterError, UsageError
from plugmeter.lifecycle.deadline import CLOSING_NS
from plugmeter.lifecycle.defects import Defects
from plugmeter.lifecycle.notify import Notifier
from plugmeter.lifecycle.stages import Event
from plugmeter.lifecycle.startup import GUARD_S, Startup

S = 1_000_000_000


class Bench:
    def __init__(
        self, start: Callable[[], Iterator[str]] = lambda: iter(("one", "two")), *ready: bool | Exception
    ) -> None:
        self.happened: list[tuple[Event, str]] = []
        self.answers = list(ready)
        defects = Defects(self.happen)
        self.guards: list[float] = []
        self.startup = Startup(start, self.ready, defects, self.happen, Notifier(), self.guards.append)

    def happen(self, event: Event, reason: str) -> None:
        self.happened.append((event, reason))

    def ready(self) -> bool:
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def test_each_step_is_told_then_it_waits_until_it_is_ready() -> None:
    bench = Bench(lambda: iter(("one", "two")), False, True)
    startup = bench.startup
    startup.begin(30)
    seen = []
    while not bench.happened:
        seen.append((startup.has_steps, startup.go_on(0, 30), startup.doing))
    assert seen == [
        (True, True, "one"),
        (True, True, "two"),
        (True, False, "two"),
        (False, False, "waiting until all is up"),
        (False, False, "waiting until all is up"),
    ]
    assert bench.happened == [(Event.READY, "")]


@pytest.mark.parametrize(("spent_ns", "late"), [(2 * S - 1, False), (2 * S, True), (9 * S, True)])
def test_all_of_it_has_one_time(spent_ns: int, late: bool) -> None:
    bench = Bench()
    bench.startup.begin(30)
    bench.startup.go_on(0, 2.0)
    assert bench.startup.go_on(spent_ns, 2.0) is not late
    assert bench.happened == ([(Event.DEADLINE, "not ready within 2 s, but one")] if late else [])


def failing(error: Exception) -> Iterator[str]:
    yield "one"
    raise error


@pytest.mark.parametrize(
    ("error", "event", "reason", "status"),
    [
        (UsageError("no such key"), Event.FATAL, "no such key", 2),
        (PlugmeterError("disk full"), Event.FATAL, "disk full", 1),
        (ZeroDivisionError(), Event.DEFECT, "start failed: ZeroDivisionError", 1),
    ],
)
def test_a_step_that_fails_is_the_last(error: Exception, event: Event, reason: str, status: int) -> None:
    bench = Bench(lambda: failing(error))
    startup = bench.startup
    startup.begin(30)
    assert startup.go_on(0, 30)
    assert not startup.go_on(0, 30)
    assert not startup.has_steps
    assert bench.happened == [(event, reason)]
    assert startup.exit_status == status


@pytest.mark.parametrize(
    ("error", "event", "status"),
    [(UsageError("never"), Event.FATAL, 2), (ZeroDivisionError(), Event.DEFECT, 1)],
)
def test_it_may_turn_out_that_it_is_never_ready(error: Exception, event: Event, status: int) -> None:
    bench = Bench(lambda: iter(()), error)
    bench.startup.begin(30)
    bench.startup.go_on(0, 30)
    bench.startup.go_on(0, 30)
    assert [each for each, _ in bench.happened] == [event]
    assert bench.startup.exit_status == status


def test_a_start_that_does_not_even_begin_is_a_defect() -> None:
    def start() -> Iterator[str]:
        raise ZeroDivisionError

    bench = Bench(start)
    bench.startup.begin(30)
    assert not bench.startup.has_steps
    assert bench.happened == [(Event.DEFECT, "start failed: ZeroDivisionError")]


def test_told_to_end_it_does_no_more_steps_and_cleans_up() -> None:
    done: list[str] = []

    def start() -> Iterator[str]:
        try:
            yield "one"
            done.append("one")
            yield "two"
        finally:
            done.append("cleaned up")

    bench = Bench(start)
    bench.startup.begin(30)
    bench.startup.go_on(0, 30)
    bench.startup.end()
    assert (bench.startup.has_steps, done) == (False, ["cleaned up"])


def test_a_step_that_hangs_is_ended_by_force_after_that_time() -> None:
    bench = Bench()
    bench.startup.begin(30)
    assert bench.guards == [30 + GUARD_S]


def test_the_service_manager_gives_it_that_time_and_no_more(
    listener: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(listener.path))
    bench = Bench(lambda: iter(("one",)))
    bench.startup.begin(3600)
    bench.startup.go_on(0, 3600)
    assert listener.receive() == f"EXTEND_TIMEOUT_USEC={(3600 * S + CLOSING_NS) // 1000}"
    bench.startup.go_on(100 * S, 3600)
    assert listener.receive() == f"EXTEND_TIMEOUT_USEC={(3500 * S + CLOSING_NS) // 1000}"
