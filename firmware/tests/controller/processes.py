"""The controller as a process, for tests that kill it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from pathlib import Path
from types import TracebackType

from tests.telemetry.broker import eventually

FIRMWARE = Path(__file__).parents[2]
PROGRAM = Path(__file__).with_name("run_controller.py")
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(FIRMWARE)}


def run_controller(*arguments: str, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
    """Run a sub-command to its end."""
    return subprocess.run(
        [sys.executable, PROGRAM, *arguments],
        env=ENVIRONMENT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )


class Controller:
    """``plugmeter controller serve`` with these arguments; killed at the end if it still runs."""

    def __init__(self, *arguments: str) -> None:
        self.lines: list[str] = []
        self.process = subprocess.Popen(
            [sys.executable, PROGRAM, "serve", *arguments],
            env=ENVIRONMENT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> Controller:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._reader.join()
        assert self.process.stderr is not None
        self.process.stderr.close()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line.rstrip("\n"))

    def said(self, pattern: str) -> bool:
        return any(re.search(pattern, line) for line in self.lines)

    def await_said(self, pattern: str) -> str:
        """The first line with ``pattern`` in it, once there is one."""
        eventually(
            lambda: self.said(pattern) or self.process.poll() is not None,
            f"the controller says {pattern!r}",
        )
        found = [line for line in self.lines if re.search(pattern, line)]
        assert found, self.lines
        return found[0]

    def end(self) -> int:
        """SIGTERM; the exit status."""
        self.process.terminate()
        return self.process.wait(30)
