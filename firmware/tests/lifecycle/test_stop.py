"""A stop: the time of its stages, what is remembered of its drain, and what is said at its end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from plugmeter.lifecycle.actions import Drained, Timing
from plugmeter.lifecycle.deadline import CLOSING_NS, Work
from plugmeter.lifecycle.drains import DrainMemory
from plugmeter.lifecycle.notify import Notifier
from plugmeter.lifecycle.stages import TABLE, Event, Stage, Transition
from plugmeter.lifecycle.stop import CLOSING_S, GOODBYE_S, GUARD_S, Stop

S = 1_000_000_000
TIMING = Timing(start_s=30, drain_s=2, stop_cap_s=20, intake_s=5)
TO_STOP = Transition(Stage.RUNNING, Event.TERM, Stage.TERMINATING)


class Bench:
    def __init__(self) -> None:
        self.guards: list[float] = []
        self.told: list[str] = []
        self.drains = DrainMemory(None, self.told.append)
        self.stop = Stop(Notifier(), self.drains, self.guards.append)


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    return Bench()


def left(items: int) -> list[Work]:
    return [Work("records to publish", items)]


def test_each_stage_has_its_time_and_all_of_it_the_cap(bench: Bench) -> None:
    stop = bench.stop
    stop.begin(100 * S, TIMING)
    assert (stop.ends_ns, stop.cap_ns) == (105 * S, 120 * S)
    stop.drain(103 * S, TIMING)
    assert (stop.ends_ns, stop.cap_ns) == (105 * S - int(CLOSING_S * S), 120 * S)
    stop.drain(119 * S, TIMING)
    assert stop.ends_ns == stop.cap_ns


def test_a_short_drain_leaves_less_for_closing(bench: Bench) -> None:
    bench.stop.begin(0, TIMING)
    bench.stop.drain(0, Timing(30, 0.1, 20))
    assert bench.stop.ends_ns == 75_000_000


@pytest.mark.parametrize(
    ("stage", "finished"), [(Stage.TERMINATING, Event.DRY), (Stage.DRAINING, Event.DRAINED)]
)
def test_what_becomes_of_a_stage(bench: Bench, stage: Stage, finished: Event) -> None:
    stop = bench.stop
    stop.begin(0, TIMING)
    assert stop.negotiate(1, stage, left(3)) is None
    assert stop.doing == "3 records to publish"
    assert stop.negotiate(2, stage, left(0)) == (finished, "")
    assert stop.negotiate(5 * S, stage, left(3)) == (
        Event.DEADLINE,
        "3 records to publish when the time had run out",
    )


def test_who_gets_on_gets_more_time_and_a_guard_that_knows(bench: Bench) -> None:
    stop = bench.stop
    stop.begin(0, TIMING)
    guarded = len(bench.guards)
    stop.negotiate(4 * S, Stage.TERMINATING, left(3))
    stop.negotiate(5 * S - 1, Stage.TERMINATING, left(2))
    assert (stop.ends_ns, len(bench.guards)) == (5 * S, guarded)
    assert stop.negotiate(5 * S, Stage.TERMINATING, left(2)) is None
    assert (stop.ends_ns, len(bench.guards)) == (7 * S, guarded + 1)
    assert stop.remaining_s(6 * S) == 1.0


def test_the_service_manager_is_asked_for_that_time_and_closing(
    listener: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(listener.path))
    stop = Bench().stop
    stop.begin(0, TIMING)
    assert listener.receive() == "STOPPING=1"
    stop.negotiate(5 * S - 1, Stage.TERMINATING, left(3))
    stop.negotiate(5 * S - 1, Stage.TERMINATING, left(2))
    stop.negotiate(5 * S, Stage.TERMINATING, left(2))
    assert listener.receive() == f"EXTEND_TIMEOUT_USEC={(2 * S + CLOSING_NS) // 1000}"


def test_every_stage_of_it_is_guarded_beyond_its_deadline(bench: Bench) -> None:
    far_ns = 1 << 62  # beyond the clock's time, so that something remains
    bench.stop.begin(far_ns, TIMING)
    bench.stop.drain(far_ns, TIMING)
    bench.stop.end()
    first, second, last = bench.guards
    assert first > second > last == GUARD_S
    assert bench.stop.doing == ""


def test_what_no_time_would_mend_is_not_remembered(bench: Bench) -> None:
    for broken, ran_out in ((True, 0), (False, 1)):
        bench.stop.caused(TO_STOP, "")
        bench.stop.begin(0, TIMING)
        bench.stop.drain(0, TIMING)
        works = [*left(3), Work("records to write to the disk", int(broken), wants_time=False)]
        outcome = bench.stop.negotiate(9 * S, Stage.DRAINING, works)
        assert outcome is not None and outcome[0] is Event.DEADLINE
        bench.stop.finish(Transition(Stage.DRAINING, Event.DEADLINE, Stage.STOPPED), 9.0)
        assert bench.drains.ran_out == ran_out


def ended(bench: Bench, by: Event, source: Stage = Stage.DRAINING, first: Transition = TO_STOP) -> None:
    bench.stop.caused(first, "")
    bench.stop.begin(0, TIMING)
    if source is Stage.DRAINING:
        bench.stop.drain(0, TIMING)
    bench.stop.finish(Transition(source, by, Stage.STOPPED), 1.5)


@pytest.mark.parametrize(
    ("by", "result", "ran_out"),
    [
        (Event.DRAINED, "drained", 0),
        (Event.DEADLINE, "ran_out", 2),
        (Event.FORCE, "forced", 1),
        (Event.DEFECT, "failed", 1),
    ],
)
def test_how_a_drain_ended(bench: Bench, by: Event, result: str, ran_out: int) -> None:
    bench.drains.remember(False)
    ended(bench, by)
    assert bench.drains.ran_out == ran_out
    ending = bench.stop.ending(by, failed=False)
    assert ending.drain == Drained(result, 1.5, 3.0)
    assert (ending.drained, ending.forced) == (by is Event.DRAINED, by is Event.FORCE)
    assert ending.goodbye_s == (GOODBYE_S if by is Event.DRAINED else 0.0)


@pytest.mark.parametrize(
    "end",
    [
        lambda bench: ended(bench, Event.FORCE, Stage.TERMINATING),
        lambda bench: ended(
            bench, Event.DEADLINE, first=Transition(Stage.INITIALIZING, Event.FATAL, Stage.TERMINATING)
        ),
    ],
    ids=["there was none", "after a start that failed"],
)
def test_a_drain_of_nothing_is_not_remembered(bench: Bench, end: Callable[[Bench], None]) -> None:
    end(bench)
    assert bench.drains.ran_out == 0


def test_a_drain_that_never_was_took_no_time(bench: Bench) -> None:
    ended(bench, Event.FORCE, Stage.TERMINATING)
    assert bench.stop.ending(Event.FORCE, failed=True).drain == Drained("forced", 0.0, 0.0)
    assert bench.stop.ending(Event.FORCE, failed=True).failed


def test_the_cause_is_what_began_it(bench: Bench) -> None:
    bench.stop.caused(TO_STOP, "SIGTERM from systemd")
    ending = bench.stop.ending(Event.DRAINED, failed=False)
    assert (ending.cause, ending.reason) == (Event.TERM, "SIGTERM from systemd")
    bench.stop.caused(TO_STOP, "")
    assert bench.stop.ending(Event.DRAINED, failed=False).reason == "term"


def test_every_stop_begins_with_terminating() -> None:
    """On which ``begin`` relies: nothing leads past it."""
    first = {target for (source, _), target in TABLE.items() if target.stopping and not source.stopping}
    assert first == {Stage.TERMINATING}
