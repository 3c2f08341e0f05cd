"""Signals, sent for real to a toy daemon: who sent them, what they coalesce to, when they force."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugmeter.lifecycle.signals import EVENTS, FORCE_AFTER_NS, Presses, command_of, name_of
from plugmeter.lifecycle.stages import Event

TERM, INT, HUP, USR1 = signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1


@pytest.mark.parametrize(
    ("presses", "events"),
    [
        ([(TERM, 0), (TERM, FORCE_AFTER_NS - 1)], [Event.TERM, Event.TERM]),
        ([(TERM, 0), (TERM, FORCE_AFTER_NS)], [Event.TERM, Event.FORCE]),
        ([(INT, 5), (TERM, 5 + FORCE_AFTER_NS)], [Event.INT, Event.FORCE]),
        ([(TERM, 0), (INT, 9), (INT, FORCE_AFTER_NS)], [Event.TERM, Event.INT, Event.FORCE]),
        ([(HUP, 0), (TERM, FORCE_AFTER_NS)], [Event.HUP, Event.TERM]),
        ([(USR1, 0), (TERM, 9 * FORCE_AFTER_NS), (USR1, 99 * FORCE_AFTER_NS)], [None, Event.TERM, None]),
    ],
)
def test_which_event_a_signal_is(presses: list[tuple[int, int]], events: list[Event | None]) -> None:
    machine = Presses()
    assert [machine.event(number, t_ns) for number, t_ns in presses] == events


@given(st.lists(st.tuples(st.sampled_from(sorted(EVENTS)), st.integers(0, FORCE_AFTER_NS - 1)), max_size=50))
def test_within_a_second_nothing_forces(presses: list[tuple[int, int]]) -> None:
    machine = Presses()
    for number, t_ns in sorted(presses, key=lambda each: each[1]):
        assert machine.event(number, t_ns) is EVENTS[number]


def test_the_audit_names_the_sender(launch: Any) -> None:
    toy = launch().running()
    command = ["sh", "-c", f"kill -HUP {toy.pid}; read word"]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as sender:
        line = toy.hear("signal", name="SIGHUP")
        sender.kill()
    assert (line["pid"], line["uid"], line["number"]) == (sender.pid, os.getuid(), signal.SIGHUP)
    assert line["command"] == " ".join(command)
    assert line["stage"] == "running"
    toy.send(signal.SIGTERM)
    last = toy.hear("signal", name="SIGTERM")
    assert last["pid"] == os.getpid()
    assert last["command"] == command_of(os.getpid())
    assert toy.finish() == 0


def test_signals_that_mean_nothing_are_told_and_that_is_all(launch: Any) -> None:
    """All whose default action is to end the process (signal(7)), but SIGQUIT and a thread's own faults."""
    names = ["USR1", "USR2", "ALRM", "VTALRM", "PROF", "IO", "PWR", "STKFLT", "XCPU"]
    numbers = [getattr(signal, f"SIG{name}") for name in names]
    numbers += range(signal.SIGRTMIN, signal.SIGRTMAX + 1)
    toy = launch().running()
    for number in numbers:
        toy.send(number)
        assert toy.hear("signal", number=number)["name"] == name_of(number)
    toy.send(signal.SIGTERM)
    assert toy.finish() == 0
    assert toy.stages() == ["running", "terminating", "draining", "stopped"]


def test_signals_that_do_nothing_are_left_alone(launch: Any) -> None:
    toy = launch().running()
    for number in (signal.SIGCHLD, signal.SIGCONT, signal.SIGURG, signal.SIGWINCH, signal.SIGPIPE):
        toy.send(number)
    toy.send(signal.SIGTERM)
    assert toy.finish() == 0
    assert [line["name"] for line in toy.said("signal")] == ["SIGTERM"]


@pytest.mark.parametrize(
    ("number", "name"),
    [(15, "SIGTERM"), (34, "SIGRTMIN"), (35, "SIGRTMIN+1"), (63, "SIGRTMIN+29"), (64, "SIGRTMAX")],
)
def test_every_number_has_a_name(number: int, name: str) -> None:
    assert name_of(number) == name


def test_being_stopped_and_continued_is_no_signal_of_ours(launch: Any) -> None:
    """Whatever waits with a time limit is interrupted by that (signal(7)), as by a debugger that looks on."""
    toy = launch().running()
    toy.send(signal.SIGUSR1)
    toy.hear("signal", name="SIGUSR1")
    for _ in range(3):
        toy.send(signal.SIGSTOP)
        time.sleep(1.2)  # longer than any wait of it
        toy.send(signal.SIGCONT)
        time.sleep(0.1)
    toy.send(signal.SIGTERM)
    assert toy.finish() == 0, toy.stderr()
    assert [line["name"] for line in toy.said("signal")] == ["SIGUSR1", "SIGTERM"]


def test_a_quick_second_term_does_not_force(launch: Any) -> None:
    toy = launch(backlog=1, drain_s=0.5).running()
    toy.send(signal.SIGTERM)
    toy.hear("transition", to="draining")
    toy.send(signal.SIGTERM)
    assert toy.finish() == 0
    assert len(toy.said("signal")) == 2
    assert toy.said("transition")[-1]["event"] == "deadline"
    assert not toy.said("say_goodbye")[0]["forced"]


@pytest.mark.parametrize(
    ("stage", "scenario"), [("draining", {"backlog": 1}), ("terminating", {"intake": 1})]
)
def test_a_second_term_after_a_second_forces(launch: Any, stage: str, scenario: dict[str, Any]) -> None:
    toy = launch(drain_s=60, intake_s=60, cap_s=120, **scenario).running()
    toy.send(signal.SIGTERM)
    toy.hear("transition", to=stage)
    time.sleep(FORCE_AFTER_NS / 1e9 + 0.05)
    toy.send(signal.SIGINT)
    assert toy.finish() == 0
    last = toy.said("transition")[-1]
    assert (last["from"], last["event"], last["to"]) == (stage, "force", "stopped")
    said = toy.said("say_goodbye")[0]
    assert (said["forced"], said["goodbye_s"]) == (True, 0)


def test_a_thousand_terms_are_one_stop(launch: Any) -> None:
    toy = launch(backlog=30, per_s=100).running()
    for _ in range(1000):
        toy.send(signal.SIGTERM)
    assert toy.finish() == 0
    assert toy.stages() == ["running", "terminating", "draining", "stopped"]
    assert 1 <= len(toy.said("signal")) <= 1000
    assert all(line["pid"] == os.getpid() for line in toy.said("signal"))


def test_a_flood_of_signals_meets_a_busy_conductor(launch: Any) -> None:
    """The inbox is full: the thread waits and the kernel keeps one of each. Nothing is lost but copies."""
    toy = launch(end_intake_s=0.5).running()
    toy.send(signal.SIGTERM)
    toy.hear("end_intake")
    for _ in range(200):
        toy.send(signal.SIGUSR1)
        toy.send(signal.SIGUSR2)
    assert toy.finish() == 0
    names = {line["name"] for line in toy.said("signal")}
    assert names == {"SIGTERM", "SIGUSR1", "SIGUSR2"}


def test_no_thread_starts_where_the_signals_are_not_blocked() -> None:
    program = (
        "from plugmeter.lifecycle import signals\n"
        "assert not signals.blocked()\n"
        "try: signals.SignalThread(lambda caught: True).start()\n"
        "except RuntimeError as error: print(error)\n"
        "signals.block(); assert signals.blocked()\n"
        "thread = signals.SignalThread(lambda caught: True); thread.start(); thread.close()\n"
        "print('closed')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "signals.block() was not called before the threads were started",
        "closed",
    ]


_BLOCKED = "from plugmeter.lifecycle import signals; import os, signal, subprocess, sys\nsignals.block()\n"
_MASK = ["grep", "SigBlk", "/proc/self/status"]  # by itself: some shells clear their mask


def output_of(program: str) -> str:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return done.stdout


def test_children_inherit_the_mask_unless_they_are_spawned() -> None:
    usual = output_of(f"{_BLOCKED}subprocess.run({_MASK!r})")
    assert int(usual.split()[1], 16) & 1 << (signal.SIGTERM - 1)
    spawned = output_of(
        f"{_BLOCKED}pid = signals.spawn({_MASK!r})\n"
        "sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))"
    )
    assert int(spawned.split()[1], 16) == 0


def test_spawned_with_descriptors_and_environment() -> None:
    program = (
        f"{_BLOCKED}reading, writing = os.pipe()\n"
        "pid = signals.spawn(['sh', '-c', 'echo $WORD; echo $WORD >&2'],"
        " {'WORD': 'said', 'PATH': os.defpath}, stdout=writing, stderr=writing)\n"
        "os.waitpid(pid, 0); print(os.read(reading, 100))"
    )
    assert output_of(program) == "b'said\\nsaid\\n'\n"


def test_a_child_that_unblocks_can_be_told_to_end() -> None:
    child = (
        "from plugmeter.lifecycle import signals; signals.unblock(); print(signals.blocked(), flush=True);"
    )
    child += "import time; time.sleep(60)"
    program = (
        f"{_BLOCKED}child = subprocess.Popen([sys.executable, '-c', {child!r}], stdout=subprocess.PIPE)\n"
        "print(child.stdout.readline()); child.terminate(); print(child.wait())"
    )
    assert output_of(program) == "b'False\\n'\n-15\n"


def test_the_command_of_a_process() -> None:
    asleep = [sys.executable, "-c", "import time; print(flush=True); time.sleep(60)"]
    with subprocess.Popen([*asleep, "a\nb\x1b\u00e9"], stdout=subprocess.PIPE) as odd:
        assert odd.stdout is not None and odd.stdout.readline()  # in the middle of exec it has none
        said = command_of(odd.pid)
        odd.kill()
    assert said == " ".join([*asleep, "a?b???"])
    assert command_of(odd.pid) == ""  # gone
    assert command_of(0) == command_of(-1) == ""
    with subprocess.Popen([*asleep, "y" * 500], stdout=subprocess.PIPE) as long:
        assert long.stdout is not None and long.stdout.readline()
        said = command_of(long.pid)
        long.kill()
    assert said == " ".join([*asleep, "y" * 500])[:200]
    with subprocess.Popen(["true"]) as zombie:
        while command_of(zombie.pid) != "[true]":  # dead, and nobody has waited for it yet
            time.sleep(0.01)
