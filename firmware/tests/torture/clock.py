"""A wall clock that a test sets for another process, all of it: what it stamps, expires and compares.

A time namespace has no CLOCK_REALTIME of its own, and libfaketime sets off the clock that waits go by, too,
so that Python hangs. A small library, preloaded, sets off CLOCK_REALTIME alone (``clock_shift.c``).
"""

from __future__ import annotations

import mmap
import shutil
import struct
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

_SOURCE = Path(__file__).with_name("clock_shift.c")
DAY_S = 86_400


class WallClock:
    """That of the processes which get ``environ``."""

    def __init__(self, folder: Path, name: str) -> None:
        compiler = shutil.which("gcc") or shutil.which("cc")
        if compiler is None:
            pytest.skip("needs gcc, for a library that sets the clock of a process off")
        library = folder / f"clock-{name}.so"
        made = subprocess.run(
            [compiler, "-shared", "-fPIC", "-O2", "-o", str(library), str(_SOURCE)],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if made.returncode:
            pytest.skip(f"needs gcc and libc6-dev: {made.stderr[-300:]}")
        file = folder / f"clock-{name}"
        file.write_bytes(bytes(8))
        with open(file, "r+b") as opened:
            self._off = mmap.mmap(opened.fileno(), 8)
        self._off_s = 0
        self.environ: Mapping[str, str] = {"LD_PRELOAD": str(library), "TORTURE_CLOCK": str(file)}

    def set_off(self, days: int) -> None:
        """From this moment on, for everything in those processes."""
        self._off_s = days * DAY_S
        self._off[:] = struct.pack("@q", self._off_s)

    def shows(self, wall_s: float) -> bool:
        """Whether ``wall_s`` was read from this clock as it stands, give or take a day."""
        return abs(wall_s - time.time() - self._off_s) < DAY_S
