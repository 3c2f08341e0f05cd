"""The preloaded clock: a step shows everywhere in the process, and no wait hangs on it."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.torture.clock import WallClock

_PROGRAM = """
import datetime, queue, sqlite3, sys, threading, time
print("ready", flush=True)
done = threading.Event()
threading.Thread(target=lambda: (sys.stdin.readline(), done.set())).start()
before = time.monotonic()
while not done.wait(0.01):  # the clock is set while it waits
    pass
lock = threading.Lock()
lock.acquire()
lock.acquire(timeout=0.01)
try:
    queue.Queue().get(timeout=0.01)
except queue.Empty:
    pass
time.sleep(0.01)
assert time.monotonic() - before < 86_400
print(datetime.date.fromtimestamp(time.time()), datetime.datetime.now(datetime.UTC).date(),
      sqlite3.connect(":memory:").execute("SELECT date('now')").fetchone()[0])
"""


@pytest.mark.parametrize("days", [365, -365])
def test_a_step_shows_everywhere_and_waits_go_on(tmp_path: Path, days: int) -> None:
    clock = WallClock(tmp_path, "test")
    with subprocess.Popen(
        [sys.executable, "-c", _PROGRAM],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={**os.environ, **clock.environ, "TZ": "UTC"},
    ) as child:  # fmt: skip
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        before = datetime.now(UTC)
        clock.set_off(days)
        said, _ = child.communicate("\n", timeout=60)
        there = timedelta(days=days)
        possible = {f"{(now + there).date()}" for now in (before, datetime.now(UTC))}
    assert child.returncode == 0
    assert len(said.split()) == 3
    assert set(said.split()) <= possible


def test_without_its_file_a_process_ends(tmp_path: Path) -> None:
    clock = WallClock(tmp_path, "test")
    environ = {**os.environ, **clock.environ, "TORTURE_CLOCK": str(tmp_path / "none")}
    ended = subprocess.run([sys.executable, "-c", ""], env=environ, capture_output=True, check=False)
    assert ended.returncode == 97
