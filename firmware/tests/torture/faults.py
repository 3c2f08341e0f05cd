"""System calls of a process that fail, put in by strace from outside; and proof that they did.

with Faults(it, "fdatasync", first=2) as faults:
    faults.await_hit(5.0)
"""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path

import pytest

from plugmeter.telemetry.database import SUFFIXES
from plugmeter.telemetry.outbox import DATABASE_NAME
from tests.torture.rig import Rig

IN_A_ROW = 3


def strace_words(trace: Path, call: str, first: int, state: Path) -> tuple[str, ...]:
    """strace's command line: the ``first`` call of each thread on the outbox in ``state``, and the two after
    it, fail with EIO."""
    if shutil.which("strace") is None:
        pytest.skip("needs strace")
    return (
        "strace", "-f", "-qq", "-y", "-o", str(trace), "-e", f"trace={call}",
        "-e", f"inject={call}:error=EIO:when={first}..{first + IN_A_ROW - 1}",
        *(word for suffix in SUFFIXES for word in ("-P", f"{state / DATABASE_NAME}{suffix}")),
    )  # fmt: skip


def hits_in(trace: Path) -> int:
    """How many calls have failed by our doing."""
    return trace.read_bytes().count(b"(INJECTED)") if trace.exists() else 0


class Faults:
    """strace upon the device that runs. With its end (``with``) calls work again."""

    def __init__(self, it: Rig, call: str, first: int) -> None:
        self._trace = it.folder / "trace"
        self._trace.unlink(missing_ok=True)
        self._strace = subprocess.Popen(
            [*strace_words(self._trace, call, first, it.state), "-p", str(it.life.process.pid)],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def __enter__(self) -> Faults:
        return self

    def __exit__(self, *_: object) -> None:
        if self._strace.poll() is None:
            self._strace.terminate()  # it lets go of the process
        self._strace.communicate(timeout=30)

    def await_hit(self, limit_s: float) -> bool:
        """Whether a call failed within the limit."""
        deadline = time.monotonic() + limit_s
        while not hits_in(self._trace):
            if self._strace.poll() is not None:
                said = self._strace.communicate()[1].strip()
                if "not permitted" in said:
                    pytest.skip(f"needs root, or kernel.yama.ptrace_scope = 0: {said}")
                return False
            if time.monotonic() > deadline:
                return False
            time.sleep(0.01)
        return True
