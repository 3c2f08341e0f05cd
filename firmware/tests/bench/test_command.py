"""A command as a listener: floods, lines without end, and commands that will not go away."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import pytest

from plugmeter.bench.command import LINE_LIMIT_BYTES, Command, Lines
from plugmeter.bench.storm import Storm
from plugmeter.bench.trial import try_listener
from plugmeter.errors import UsageError
from tests.namespace import FailedInNamespace, in_namespace

EVENT = b"KERNEL add /devices/plugmeter-5/platform/usb1/1-1 (usb)\n"


def fed(data: bytes) -> Lines:
    here, there = os.pipe()
    lines = Lines(here)
    try:
        for at in range(0, len(data), 4096):
            os.write(there, data[at : at + 4096])
            lines.read_for(1)
        os.close(there)
        while not lines.ended:
            lines.read_for(1)
    finally:
        os.close(here)
    return lines


def test_events_are_counted_among_other_lines() -> None:
    lines = fed(b"header\n" + EVENT + b"y\n" * 3000 + EVENT)
    assert (lines.uevents, lines.devices, lines.cut_bytes) == (2, 2, 0)


def test_a_line_without_end_is_cut_and_the_rest_counted() -> None:
    lines = fed(
        b"x" * (LINE_LIMIT_BYTES + 1000) + b"\n" + EVENT + EVENT[:-1] + b" " * LINE_LIMIT_BYTES + b"\n"
    )
    assert (lines.uevents, lines.cut_bytes) == (2, 1000 + len(EVENT) - 1)


def test_events_without_end_meet_the_deadline() -> None:
    command = f"{sys.executable} -c \"while 1: print('/devices/plugmeter-5/usb1/1-1', flush=True)\""
    with Command(command, "") as running:
        while not running.lines.uevents:
            running.lines.read_for(1)
        assert not running.lines.read_until_quiet(30, time.monotonic() + 0.3)


@pytest.mark.parametrize("command", ["yes", "cat /dev/zero"])
def test_a_flood_of_anything_else_is_over_when_no_event_comes(command: str) -> None:
    trial = in_namespace(lambda: try_listener(command, Storm(2, 50)))
    assert (trial.emitted, trial.received) == (64, 0)
    assert (trial.cut_bytes > 0) == (command != "yes")


def test_one_that_ignores_sigterm_is_killed_with_what_it_started(tmp_path: Path) -> None:
    script = tmp_path / "deaf"
    pids = tmp_path / "pids"
    script.write_text(f"trap '' TERM\nsleep 1000 &\necho $$ $! >{pids}\nwhile :; do sleep 1000; done\n")
    with pytest.raises(KeyboardInterrupt), Command(f"sh {script}", "") as running:
        while not pids.exists() or not pids.read_text().endswith("\n"):
            running.lines.read_for(0.05)
        raise KeyboardInterrupt
    for pid in map(int, pids.read_text().split()):
        assert gone(pid)
    assert running.usage is not None


def gone(pid: int) -> bool:
    """Whether a process has ended; killed ones may be zombies for as long as nobody has waited for them."""
    for _ in range(500):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return True
        if state == "Z":
            return True
        time.sleep(0.02)
    os.kill(pid, signal.SIGKILL)
    return False


@pytest.mark.parametrize("command", ["", "/nonexistent/listener", "'"])
def test_what_cannot_be_run_is_one_line(command: str) -> None:
    with pytest.raises(UsageError, match="cannot be run"):
        Command(command, "plain")


def test_one_that_ends_at_once_is_said() -> None:
    with pytest.raises(FailedInNamespace, match="ended at once"):
        in_namespace(lambda: try_listener("true", Storm(1, 50)))
