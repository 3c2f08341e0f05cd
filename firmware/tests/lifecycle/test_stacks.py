"""SIGQUIT: stacks and the end, whoever holds the interpreter's lock."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any


def test_quit_while_c_code_holds_the_lock(launch: Any) -> None:
    toy = launch(hold_s=600).running()
    toy.hear("holding")
    toy.send(signal.SIGQUIT)
    assert toy.finish() == -signal.SIGQUIT
    said = toy.stderr()
    assert "toy.py" in said and "in meddle" in said  # the thread that holds it
    assert "in _turn" in said or "in run" in said  # the main thread
    assert "in _run" in said  # the signal thread
    assert toy.stages() == ["running"]  # not part of the graceful path


def test_quit_also_where_it_is_ignored_or_blocked(tmp_path: Path) -> None:
    """As a shell's background job, and as the child of a program that blocks it."""
    out = tmp_path / "stacks"
    program = (
        "import signal, os\n"
        "from plugmeter.lifecycle import signals, stacks\n"
        "signal.signal(signal.SIGQUIT, signal.SIG_IGN)\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGQUIT})\n"
        "signals.block()\n"
        f"stacks.install(open({str(out)!r}, 'w'))\n"
        "os.kill(os.getpid(), signal.SIGQUIT)\n"
        "print('still here')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (-signal.SIGQUIT, "")
    assert 'File "<string>", line 7 in <module>' in out.read_text()


def test_a_crash_tells_its_stacks_too() -> None:
    program = "from plugmeter.lifecycle import stacks; stacks.install(); import ctypes; ctypes.string_at(0)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGSEGV
    assert "Fatal Python error: Segmentation fault" in done.stderr


def test_a_guard_that_is_called_off() -> None:
    program = (
        "import time; from plugmeter.lifecycle import stacks\n"
        "stacks.guard(0.1); stacks.unguard(); time.sleep(0.3); print('alive')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "alive\n", "")
