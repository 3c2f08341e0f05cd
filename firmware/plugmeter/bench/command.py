"""A command of the user's as a listener: what it prints, counted within bounds, and its end."""

from __future__ import annotations

import contextlib
import os
import re
import resource
import select
import shlex
import signal
import subprocess
import time
from types import TracebackType

from plugmeter.bench.storm import DEVICE, MARK
from plugmeter.errors import UsageError
from plugmeter.measure.latency import LatencyHistogram

LINE_LIMIT_BYTES = 16 * 1024
"""So much of a line is looked at; a devpath is at most some hundred bytes, a whole uevent at most 8 KiB."""
_READ_BYTES = 64 * 1024
_TERM_S = 2.0
"""So long a command has for its own end after SIGTERM."""
_POLL_S = 0.02

_BIND = re.compile(r"\b(?:un)?bind\b")
"""A line about a usb_device that is no add or remove."""


class Lines:
    """Counts the events in what a command prints; holds ``LINE_LIMIT_BYTES`` and no more."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._rest = b""
        self.ended = False
        """Whether the command has closed its end."""
        self.uevents = 0
        self.devices = 0
        self.cut_bytes = 0
        """What was beyond ``LINE_LIMIT_BYTES`` in a line, and not looked at."""
        self.first_ns = 0
        self.last_ns = 0
        self.latency = LatencyHistogram()

    def read_for(self, seconds: float) -> None:
        """Wait up to ``seconds`` for something, and take what is there; after the end only wait."""
        if self.ended:
            time.sleep(seconds)
        elif select.select([self._descriptor], [], [], seconds)[0]:
            data = os.read(self._descriptor, _READ_BYTES)
            self.ended = not data
            self._feed(data)

    def read_until_quiet(self, quiet_s: float, deadline_s: float) -> bool:
        """Read until no event has come for ``quiet_s``, whatever else does.

        False if the time.monotonic() ``deadline_s`` came first.
        """
        seen, quiet_since_s = self.uevents, time.monotonic()
        while not self.ended:
            now_s = time.monotonic()
            if self.uevents != seen:
                seen, quiet_since_s = self.uevents, now_s
            if now_s - quiet_since_s >= quiet_s:
                return True
            if now_s >= deadline_s:
                return False
            self.read_for(min(quiet_since_s + quiet_s, deadline_s) - now_s)
        return True

    def _feed(self, data: bytes) -> None:
        now_ns = time.monotonic_ns()
        *whole, last = data.split(b"\n")
        for part in whole:
            self._append(part)
            self._take(self._rest.decode(errors="replace"), now_ns)
            self._rest = b""
        self._append(last)

    def _append(self, part: bytes) -> None:
        kept = part[: LINE_LIMIT_BYTES - len(self._rest)]
        self._rest += kept
        self.cut_bytes += len(part) - len(kept)

    def _take(self, line: str, now_ns: int) -> None:
        mark = MARK.search(line)
        if mark is None:
            return
        self.uevents += 1
        self.devices += DEVICE.search(line) is not None and _BIND.search(line) is None
        self.first_ns = self.first_ns or now_ns
        self.last_ns = now_ns
        self.latency.record_ns(now_ns - int(mark[1]))


class Command:
    """A running command in a session of its own; leaving the ``with`` ends it and all of its process group.

    Raises UsageError for a command that cannot be run; ``choices`` are what else could have been named.
    """

    def __init__(self, command: str, choices: str) -> None:
        try:
            self._process = subprocess.Popen(
                shlex.split(command),
                stdout=subprocess.PIPE,
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # so that all that it starts can be ended with it
            )
        except (OSError, ValueError, IndexError) as error:
            raise UsageError(
                f"--listener {command!r} cannot be run ({error}); give a command, or one of {choices}"
            ) from error
        assert self._process.stdout is not None  # subprocess.PIPE
        self.lines = Lines(self._process.stdout.fileno())
        self.usage: resource.struct_rusage | None = None
        """What it used, with the children that it waited for; known when it has ended."""

    def __enter__(self) -> Command:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def has_ended(self) -> bool:
        """Whether it has; it stays a zombie, so that its number and its group's stay its own."""
        return os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is not None

    def _end(self) -> None:
        pid = self._process.pid
        try:
            self._signal(signal.SIGTERM)
            give_up_s = time.monotonic() + _TERM_S
            while not self.has_ended() and time.monotonic() < give_up_s:
                # Read on: one that flushes to a full pipe before it ends could not end.
                self.lines.read_for(_POLL_S)
        finally:  # also on a second Ctrl-C
            self._signal(signal.SIGKILL)
            _, status, self.usage = os.wait4(pid, 0)
            self._process.returncode = os.waitstatus_to_exitcode(status)
            assert self._process.stdout is not None  # subprocess.PIPE
            self._process.stdout.close()

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)
