"""Runs in processes of their own, from start to report: real children, as root and as an ordinary user."""

from __future__ import annotations

import io
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from plugmeter import config, recording
from plugmeter.measure import report
from plugmeter.measure.pipeline import Pipeline
from plugmeter.plan import Plan
from plugmeter.records import RunEnd, RunStart
from plugmeter.reporting.schema import fault_of
from plugmeter.runner import wire
from plugmeter.runner.drafts import drafts
from plugmeter.runner.parent import Runner
from plugmeter.runner.plans import plan_of
from plugmeter.runner.process import Process
from plugmeter.runner.wire import Message
from plugmeter.telemetry.record import DATA_LIMIT_BYTES
from tests.commands.conftest import FIRMWARE, CommandLine

GUARD_S = 120.0
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(FIRMWARE)}


class Run:
    """A runner, and all that it has said."""

    def __init__(self, runner: Runner) -> None:
        self.runner = runner
        self.messages: list[Message] = []
        runner.start()

    def hear(self, kind: type[Any], count: int = 1) -> Any:
        """Read until ``count`` messages of ``kind`` are there; the last of them."""
        ends_at = time.monotonic() + GUARD_S
        while len(self.all(kind)) < count:
            assert time.monotonic() < ends_at, self.messages
            assert not self.all(wire.Ended), self.messages
            select.select([self.runner], [], [], 1)
            self.messages += self.runner.read()
        return self.all(kind)[-1]

    def all(self, kind: type[Any]) -> list[Any]:
        return [each for each in self.messages if isinstance(each, kind)]


@pytest.fixture
def running() -> Iterator[Callable[..., Run]]:
    runners: list[Runner] = []

    def begin(
        table: dict[str, Any], arguments: dict[str, Any], user: CommandLine | None = None, **plan: Any
    ) -> Run:
        settings, asked = plan_of(config.from_table(table, "test"), arguments)
        more: dict[str, Any] = {"environment": ENVIRONMENT}
        if user is not None:
            more = {
                "environment": user.environment,
                "command": (*user.command, "runner", "--descriptor", "3"),
            }
        runner = Runner(settings, Plan(**{"rig": asked.rig, **plan}) if plan else asked, **more)
        runners.append(runner)
        return Run(runner)

    yield begin
    for runner in runners:
        runner.close()


@pytest.fixture(params=["plugmeter", "ordinary"])
def user(request: pytest.FixtureRequest) -> CommandLine:
    """Root, where root runs the tests, and an ordinary user."""
    command: CommandLine = request.getfixturevalue(request.param)
    return command


SHORT = {"rig": "injected", "sticks": 6, "cycles": 1, "seed": 5}
LONG = {"rig": "injected", "sticks": 1000, "cycles": 100, "seed": 5}


def test_a_run_is_told_from_its_start_to_its_report(running: Callable[..., Run], user: CommandLine) -> None:
    run = running({}, SHORT, user)
    assert run.hear(wire.Ended) == wire.Ended(0)
    first, second = [each for each in run.messages if not isinstance(each, wire.Note)][:2]
    assert isinstance(first, wire.Ready)
    assert isinstance(second, wire.Started)
    assert first.witnesses == ("gpio", "netlink", "udev", "inotify")
    assert (first.rig, first.devices) == ("injected", 0)
    assert second.start.ports == first.ports
    (finished,) = run.all(wire.Finished)
    assert fault_of(finished.report) is None
    assert finished.report["certificate"]["reasons"] == []
    assert (finished.report["expected"], finished.report["matched"]) == (12, 12)
    assert not finished.report["run"]["interrupted"]
    verdicts = [each.verdict for each in run.all(wire.Decided)]
    assert len(verdicts) == finished.verdicts == 12
    assert {each.outcome for each in verdicts} == {"matched"}
    assert (finished.raw, finished.discarded, run.all(wire.Raw)) == (0, 0, [])
    assert isinstance(run.messages[-2], wire.Bye)
    last = run.all(wire.Progress)[-1]
    assert (last.expected, last.matched, last.undecided) == (12, 12, 0)
    assert (last.steps_done, last.steps_total) == (12, 12)
    for name, counted in last.witnesses.items():
        account = finished.report["witnesses"][name]
        assert (counted.offered, counted.delivered) == (account["offered"], account["delivered"])
    assert last.rss_bytes > 0
    assert run.runner.progress.wakeups >= run.runner.progress.work > 0
    assert not run.runner.counters
    assert user.left_behind() == []


def test_a_run_that_is_stopped_tells_all_that_it_saw(running: Callable[..., Run], user: CommandLine) -> None:
    run = running({}, LONG, user)
    run.hear(wire.Decided, 5)
    run.runner.stop()
    assert run.hear(wire.Ended) == wire.Ended(0)
    (finished,) = run.all(wire.Finished)
    made = finished.report
    assert made["run"]["interrupted"]
    assert made["certificate"]["reasons"] == []
    assert len(run.all(wire.Decided)) == finished.verdicts == made["expected"] - made["undecided"]
    assert finished.verdicts >= 5
    assert user.left_behind() == []


def test_a_run_that_is_killed_has_failed(running: Callable[..., Run]) -> None:
    run = running({}, LONG)
    run.hear(wire.Decided)
    run.runner.kill()
    assert run.hear(wire.Ended) == wire.Ended(-signal.SIGKILL)
    (failure,) = run.all(wire.Failure)
    assert "SIGKILL" in failure.reason
    made = [draft for each in run.messages for draft in drafts("x", each, 1)]
    assert [draft.kind for draft in made if draft.kind.startswith("run-")] == ["run-started", "run-ended"]


PARENT = """
import select, sys
from plugmeter import config
from plugmeter.runner import wire
from plugmeter.runner.parent import Runner
from plugmeter.runner.plans import plan_of
runner = Runner(*plan_of(config.default(), {"rig": "injected", "sticks": 1000, "cycles": 100}))
runner.start()
while True:
    select.select([runner], [], [])
    for message in runner.read():
        if isinstance(message, wire.Decided):
            print(runner.pid, flush=True)
            while True: select.select([], [], [])
"""


def test_a_child_does_not_outlive_a_parent_that_is_killed(plugmeter: CommandLine) -> None:
    parent = subprocess.Popen(
        (sys.executable, "-c", PARENT),
        env=plugmeter.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert parent.stdout is not None
    child = os.pidfd_open(int(parent.stdout.readline()))
    assert plugmeter.left_behind() != [], "the rig's devices"
    parent.kill()
    ended, _, _ = select.select([child], [], [], GUARD_S)
    os.close(child)
    _, complaint = parent.communicate()
    assert ended, "the child lives on"
    assert complaint == ""
    assert plugmeter.left_behind() == [], "it has not ended in good order"


def status_of(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def test_signals_are_for_the_parent_alone(running: Callable[..., Run]) -> None:
    asked = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, asked)  # as the daemon does
    try:
        run = running({}, {"rig": "passive"})
        pid = run.hear(wire.Ready).pid
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    assert pid == run.runner.pid
    status = status_of(pid)
    assert int(status["SigBlk"], 16) == 0
    assert all(int(status["SigIgn"], 16) >> each - 1 & 1 for each in asked)
    assert os.getsid(pid) == pid
    for each in asked:
        os.kill(pid, each)
    alive = len(run.all(wire.Progress))
    run.hear(wire.Progress, alive + 2)
    run.runner.stop()
    assert run.hear(wire.Ended) == wire.Ended(0)
    assert run.all(wire.Finished)[0].report["run"]["interrupted"]


def test_what_the_parent_does_not_read_is_kept_and_is_the_whole_recording(
    running: Callable[..., Run],
) -> None:
    run = running({"daemon": {"records": "all"}}, {**SHORT, "sticks": 60, "gap_ms": 150})
    sleep_until_measured(run.runner.pid or 0)
    assert run.runner.poll() is None, "it cannot have said all"
    assert run.hear(wire.Ended) == wire.Ended(0)
    (finished,) = run.all(wire.Finished)
    assert len(run.all(wire.Decided)) == finished.verdicts == 120
    batches = run.all(wire.Raw)
    assert [each.number for each in batches] == list(range(1, len(batches) + 1))
    assert (sum(each.count for each in batches), finished.discarded) == (finished.raw, 0)
    for each in batches:
        (draft,) = drafts(run.runner.run_id, each, 1)
        assert len(draft.data) <= DATA_LIMIT_BYTES
    lines = [json.dumps(item).encode() for each in batches for item in json.loads(bytes(each.inputs))]
    assert replayed(lines) == finished.report


def sleep_until_measured(pid: int) -> None:
    """Until the run's witnesses and its rig, which have threads, have come and gone; and read nothing."""
    own = 3  # the main thread, orders, outgoing
    for there in (True, False):
        ends_at = time.monotonic() + GUARD_S
        while (int(status_of(pid)["Threads"]) > own) != there:
            assert time.monotonic() < ends_at
            time.sleep(0.05)


def replayed(lines: list[bytes]) -> dict[str, Any]:
    """The report that a recording of these lines gives."""
    file = io.BytesIO(b'{"plugmeter_recording":1}\n' + b"".join(line + b"\n" for line in lines))
    pipeline: Pipeline | None = None
    for item in recording.read_recording(file, "raw"):
        if isinstance(item, RunStart):
            pipeline = Pipeline(item)
            continue
        assert pipeline is not None
        if isinstance(item, int):
            pipeline.advance(item)
        elif isinstance(item, RunEnd):
            pipeline.finish(item)
        else:
            pipeline.feed([item])
    assert pipeline is not None
    made: dict[str, Any] = json.loads(json.dumps(report.build(pipeline)))
    return made


def test_a_resync_is_made_and_told(running: Callable[..., Run]) -> None:
    run = running({}, {"rig": "passive"})
    there = run.hear(wire.Ready).devices
    run.runner.resync()
    assert run.hear(wire.Resynced).devices == there
    run.runner.stop()
    run.hear(wire.Ended)
    assert run.all(wire.Finished)[0].report["coldplug"]["resyncs"] == 1


def test_what_happens_between_two_runs_does_not_go_unnoticed(
    running: Callable[..., Run], tmp_path: Path
) -> None:
    table = {"daemon": {"state_directory": str(tmp_path)}}
    reports = []
    for _ in range(2):
        run = running(table, {"rig": "passive", "duration_s": 0.2})
        assert run.hear(wire.Ended) == wire.Ended(0)
        reports.append(run.all(wire.Finished)[0].report)
    assert (tmp_path / "coldplug.json").is_file()
    assert reports[0]["coldplug"]["before_start"] is None
    assert reports[1]["coldplug"]["before_start"] == {"appeared": 0, "vanished": 0, "replaced": 0}


def test_a_rig_that_dies_makes_the_run_invalid_and_no_failure(running: Callable[..., Run]) -> None:
    run = running({}, SHORT, die_after_steps=4)
    assert run.hear(wire.Ended) == wire.Ended(0)
    made = run.all(wire.Finished)[0].report
    assert not made["certificate"]["valid"]
    assert any("the rig died after 4 of" in reason for reason in made["certificate"]["reasons"])


def test_a_run_that_cannot_be_made_is_one_line(running: Callable[..., Run]) -> None:
    """By a parent that has not looked whether it can."""
    run = running({}, {}, rig="relay")
    assert run.hear(wire.Ended) == wire.Ended(2)
    (failure,) = run.all(wire.Failure)
    assert failure.kind == "UsageError"
    assert failure.reason.startswith("every port needs a line that switches its VBUS")
    assert "\n" not in failure.reason
    assert [type(each) for each in run.messages] == [wire.Failure, wire.Bye, wire.Ended]


def test_the_equipments_notes_are_passed_on(running: Callable[..., Run], tmp_path: Path) -> None:
    (tmp_path / "coldplug.json").write_text("damaged")
    run = running({"daemon": {"state_directory": str(tmp_path)}}, {"rig": "passive", "duration_s": 0.1})
    run.hear(wire.Ended)
    (note,) = run.all(wire.Note)
    assert "was put aside as coldplug.json.damaged-1" in note.text


def served(data: bytes) -> tuple[list[Message], int | None]:
    """What a child answers to ``data`` and the end of the stream."""
    here, there = socket.socketpair()
    command = (sys.executable, "-m", "plugmeter", "runner", "--descriptor", "3")
    with here:
        with there:
            child = Process(command, [(there.fileno(), 3)], ENVIRONMENT)
        here.sendall(data)
        here.shutdown(socket.SHUT_WR)
        heard = b""
        while more := here.recv(65_536):
            heard += more
    status = child.wait(GUARD_S)
    child.close()
    return [wire.decode_message(line) for line in heard.splitlines()], status


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"garbage\n", "does not understand its parent"),
        (b'["setup",{"config":{}}]\n', "does not understand its parent .*; is that of another version"),
        (wire.encode(wire.StopRun()), "was told nothing to run"),
        (wire.encode(wire.Setup({"run": {"x": 1}}, "c", "passive")), "unknown key run.x"),
    ],
)
def test_a_setup_that_makes_no_sense_is_one_line(data: bytes, words: str) -> None:
    (failure, bye), status = served(data)
    assert isinstance(failure, wire.Failure)
    assert re.search(words, failure.reason)
    assert (bye, status) == (wire.Bye(), 2)


def test_a_parent_that_goes_before_it_asks_for_anything_costs_nothing() -> None:
    assert served(b"") == ([wire.Bye()], 0)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "--descriptor"),
        (["--descriptor", "99"], "--descriptor 99: bad file descriptor; plugmeter run starts this command"),
        (["--descriptor", "-1"], "--descriptor -1 is no socket"),
        (["--descriptor", "0"], "--descriptor 0 is no socket"),
    ],
)
def test_a_person_who_starts_it_is_told_so(arguments: list[str], words: str, plugmeter: CommandLine) -> None:
    done = plugmeter("runner", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1
    assert words in done.stderr


def test_the_help_does_not_list_it_and_yet_it_has_one(plugmeter: CommandLine) -> None:
    assert "runner" not in plugmeter("--help").stdout
    done = plugmeter("runner", "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert "example" in done.stdout
