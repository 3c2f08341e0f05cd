"""One line that shows a run as it goes: what was plugged, and how each witness counts."""

from __future__ import annotations

import time
from typing import TextIO

from plugmeter.measure.pipeline import Pipeline

_TERMINAL_EVERY_S = 0.1
_LOG_EVERY_S = 5.0


class ProgressLine:
    """Rewrites one line on a terminal; anywhere else it writes a line now and then."""

    def __init__(self, stream: TextIO, *, silent: bool = False) -> None:
        self._stream = stream
        self._silent = silent
        self._terminal = stream.isatty()
        self._begun_s = time.monotonic()
        self._due_s = self._begun_s
        self._width = 0

    def show(self, pipeline: Pipeline, done: int, total: int) -> None:
        """Show where the run is, if it is time to; ``done`` of ``total`` is 0 of 0 without a plan."""
        now_s = time.monotonic()
        if self._silent or now_s < self._due_s:
            return
        self._due_s = now_s + (_TERMINAL_EVERY_S if self._terminal else _LOG_EVERY_S)
        self._write(_line(pipeline, done, total, now_s - self._begun_s))

    def done(self) -> None:
        """Leave the line for what comes after it."""
        if self._width and self._terminal:
            self._stream.write("\r" + " " * self._width + "\r")
            self._stream.flush()

    def _write(self, line: str) -> None:
        if self._terminal:
            self._stream.write("\r" + line.ljust(self._width))
            self._width = len(line)
        else:
            self._stream.write(line + "\n")
            self._width = len(line)
        self._stream.flush()


def _line(pipeline: Pipeline, done: int, total: int, elapsed_s: float) -> str:
    counts = pipeline.verdicts
    parts = [f"{elapsed_s:5.1f} s"]
    if total:
        parts.append(f"{done}/{total} plugs and pulls")
    parts += [f"{name} {ledger.delivered}" for name, ledger in pipeline.witnesses.items()]
    parts.append(f"matched {counts.matched}, late {counts.late}, lost {counts.lost_total}")
    return " | ".join(parts)
