"""The parent's end against children that do not behave."""

from __future__ import annotations

import os
import select
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from plugmeter import config
from plugmeter.errors import PlugmeterError
from plugmeter.plan import Plan
from plugmeter.runner import wire
from plugmeter.runner.drafts import drafts
from plugmeter.runner.parent import READ_BYTES, Runner
from plugmeter.runner.wire import Message

GUARD_S = 120.0

HEARD = "import os, socket, sys, time; end = socket.socket(fileno=3); end.recv(1 << 20); say = end.sendall\n"
"""A child that has read its setup (all of it fits into one piece)."""

BYE = b'["bye",{}]\n'
FINISHED = b'["finished",{"report":{"expected":1},"verdicts":1,"gaps":0,"raw":0,"discarded":0}]\n'


@pytest.fixture
def start() -> Iterator[Callable[[str], Runner]]:
    started: list[Runner] = []

    def begin(code: str) -> Runner:
        command = (sys.executable, "-I", "-c", HEARD + code)
        runner = Runner(config.default(), Plan("passive"), command=command)
        started.append(runner)
        runner.start()
        return runner

    yield begin
    for runner in started:
        runner.close()


def heard(runner: Runner, until: Callable[[list[Message]], bool]) -> list[Message]:
    """Read until what came suffices."""
    messages: list[Message] = []
    ends_at = time.monotonic() + GUARD_S
    while not until(messages):
        assert time.monotonic() < ends_at, messages
        select.select([runner], [], [], 1)
        messages += runner.read()
    return messages


def ended(messages: list[Message]) -> bool:
    return bool(messages) and isinstance(messages[-1], wire.Ended)


def test_garbage_is_counted_and_spoils_nothing_else(start: Callable[[str], Runner]) -> None:
    runner = start(
        'say(b\'garbage\\n\\xff\\x00\\n[]\\n["ended",{"status":0}]\\n\')\n'
        f"say({FINISHED!r} + b'\\n' + {BYE!r} + b'[\"by')"
    )
    messages = heard(runner, ended)
    assert messages == [wire.Finished({"expected": 1}, 1, 0, 0, 0), wire.Bye(), wire.Ended(0)]
    assert runner.counters == {"garbage": 5, "half_line": 1}
    assert runner.poll() == 0
    assert not select.select([runner], [], [], 0)[0], "nothing more comes"
    assert runner.read() == ()


@pytest.mark.parametrize(
    ("code", "status", "words"),
    [
        ("raise SystemExit(7)", 7, "the run's process ended with status 7 before it had made its report"),
        (
            "os.kill(os.getpid(), 9)",
            -9,
            "the run's process was ended by SIGKILL before it had made its report",
        ),
        ('say(b\'["finished",{"rep\')', 0, "the run's process ended with status 0 before it had"),
    ],
)
def test_a_child_that_dies_has_failed(
    code: str, status: int, words: str, start: Callable[[str], Runner]
) -> None:
    runner = start(code)
    failure, end = heard(runner, ended)
    assert isinstance(failure, wire.Failure)
    assert (failure.kind, failure.reason[: len(words)]) == ("died", words)
    assert end == wire.Ended(status)
    assert len(drafts(runner.run_id, failure, 1)) == 1


def test_a_run_ends_once(start: Callable[[str], Runner]) -> None:
    failure = b'["failure",{"kind":"x","reason":"y"}]\n'
    runner = start(f"say({FINISHED!r} + {FINISHED!r} + {failure!r} + {BYE!r}); raise SystemExit(1)")
    messages = heard(runner, ended)
    assert messages == [wire.Finished({"expected": 1}, 1, 0, 0, 0), wire.Bye(), wire.Ended(1)]
    assert runner.counters == {"out_of_place": 2}


def test_a_line_without_end_costs_no_memory_and_is_counted(start: Callable[[str], Runner]) -> None:
    runner = start(
        f"for _ in range({wire.LINE_LIMIT_BYTES // 65536 + 2}): say(b'x' * 65536)\nsay(b'\\n' + {FINISHED!r})"
    )
    assert [type(each) for each in heard(runner, ended)] == [wire.Finished, wire.Ended]
    assert runner.counters == {"too_long": 1}


def test_one_read_is_bounded(start: Callable[[str], Runner]) -> None:
    note = b'["note",{"text":"' + b"x" * 1000 + b'"}]\n'
    runner = start(f"say({note!r} * 5000)\nsay({FINISHED!r})")
    sizes = []
    messages: list[Message] = []
    while not ended(messages):
        select.select([runner], [], [], GUARD_S)
        messages = list(runner.read())
        sizes.append(sum(len(each.text) for each in messages if isinstance(each, wire.Note)))
    assert sum(sizes) == 5_000_000
    assert max(sizes) <= READ_BYTES + 65_536


def test_a_child_that_hangs_up_and_lives_on_is_ended_by_its_parent(start: Callable[[str], Runner]) -> None:
    runner = start("end.close(); sys.stdout.flush(); time.sleep(1000)")
    while runner._end is not None:
        select.select([runner], [], [], 0.1)
        assert runner.read() == []
    assert runner.poll() is None
    assert not select.select([runner], [], [], 0)[0], "it would spin"
    runner.stop()
    runner.kill()
    assert [type(each) for each in heard(runner, ended)] == [wire.Failure, wire.Ended]


def test_a_grandchild_that_keeps_the_socket_does_not_keep_the_end_back(
    start: Callable[[str], Runner],
) -> None:
    runner = start(
        f"say({FINISHED!r})\n"
        "pid = os.fork()\n"
        "if pid == 0: time.sleep(1000)\n"
        'say(b\'["note",{"text":"%d"}]\\n\' % pid)\n'
    )
    messages = heard(runner, ended)
    note = next(each for each in messages if isinstance(each, wire.Note))
    os.kill(int(note.text), 9)
    assert [type(each) for each in messages] == [wire.Finished, wire.Note, wire.Ended]


def test_progress_is_the_childs(start: Callable[[str], Runner]) -> None:
    runner = start('say(b\'["progress",{"t_ns":1,"wakeups":70,"work":50}]\\n\'); time.sleep(1000)')
    heard(runner, lambda messages: bool(messages))
    assert (runner.progress.name, runner.progress.wakeups, runner.progress.work) == ("runner", 70, 50)
    assert runner.latest == wire.Progress(1, 70, 50)


def test_orders_are_harmless_at_any_time(start: Callable[[str], Runner]) -> None:
    fresh = Runner(config.default(), Plan("passive"))
    fresh.stop()
    fresh.resync()
    fresh.kill()
    assert (fresh.poll(), fresh.pid, fresh.read()) == (None, None, ())
    fresh.close()
    fresh.close()
    runner = start("raise SystemExit(0)")
    heard(runner, ended)
    runner.stop()
    runner.resync()
    runner.kill()
    assert runner.poll() == 0
    with pytest.raises(PlugmeterError, match="starts only once"):
        runner.start()


def test_a_child_that_reads_no_orders_holds_nobody_up(start: Callable[[str], Runner]) -> None:
    runner = start("time.sleep(1000)")
    for _ in range(100_000):
        runner.stop()
    assert runner.counters["unheard_orders"] > 0


def test_a_program_that_is_not_there_is_one_line_and_leaves_nothing_open() -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    runner = Runner(config.default(), Plan("passive"), command=["/nonexistent"])
    with pytest.raises(PlugmeterError, match="cannot start /nonexistent"):
        runner.start()
    runner.close()
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_runners_leave_no_descriptor_behind() -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(3):
        runner = Runner(
            config.default(), Plan("passive"), command=(sys.executable, "-I", "-c", HEARD + "time.sleep(9)")
        )
        runner.start()
        runner.close()
    assert len(list(Path("/proc/self/fd").iterdir())) == before
