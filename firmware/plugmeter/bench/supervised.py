"""A daemon as a child process, supervised as systemd does: READY=1 is waited for, and a stop has a limit."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final

from plugmeter.errors import PlugmeterError

STOP_LIMIT_S: Final = 45.0
"""TimeoutStopSec of plugmeter.service, which EXTEND_TIMEOUT_USEC prolongs: after that comes SIGKILL."""
_READY_LIMIT_S: Final = 120.0
_EXTENSION: Final = "EXTEND_TIMEOUT_USEC="


@dataclass(frozen=True, slots=True)
class Stop:
    """How a process ended."""

    took_s: float
    """From SIGTERM until it was gone."""
    status: int
    """Its exit status, or minus the signal that ended it."""
    killed: bool
    """It had to be: it did not end in time."""


class Supervised:
    """The process of a ``with``; nothing of it outlives the block."""

    def __init__(
        self, name: str, command: Sequence[str], environment: Mapping[str, str] | None = None
    ) -> None:
        self._name = name
        self._command = list(command)
        self._more = dict(environment or {})

    def __enter__(self) -> Supervised:
        self._folder = tempfile.TemporaryDirectory(prefix="plugmeter-")
        path = Path(self._folder.name) / "notify"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._errors = tempfile.TemporaryFile()
        try:
            self._socket.bind(str(path))
            self._child = subprocess.Popen(
                self._command,
                env={**os.environ, **self._more, "NOTIFY_SOCKET": str(path)},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._errors,
            )
            self._pidfd = os.pidfd_open(self._child.pid)
        except BaseException:
            self._release()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._child.poll() is None:
            self._child.kill()
            self._child.wait()
        os.close(self._pidfd)
        self._release()

    @property
    def pid(self) -> int:
        return self._child.pid

    def wait_until_ready(self) -> None:
        """Until READY=1. Raises PlugmeterError where it ends before, or does not get there."""
        give_up_s = time.monotonic() + _READY_LIMIT_S
        while time.monotonic() < give_up_s:
            gone = self._wait(0.1)
            if "READY=1" in self.heard():
                return
            if gone:
                status = self._child.wait()
                raise PlugmeterError(
                    f"{self._name}: it ended before it was ready, with {status}{self.last_words()}"
                )
        raise PlugmeterError(f"{self._name}: it was not ready within {_READY_LIMIT_S:g} s{self.last_words()}")

    def stop(self, also: Callable[[], None] | None = None) -> Stop:
        """SIGTERM, and wait until it is gone; ``also`` is called right after the signal.

        Where it takes too long, SIGKILL, as systemd would.
        """
        begun_s = time.monotonic()
        self._child.send_signal(signal.SIGTERM)
        if also is not None:
            also()
        limit_s = begun_s + STOP_LIMIT_S
        killed = False
        while not self._wait(max(0.0, limit_s - time.monotonic())):
            for line in self.heard():
                if line.startswith(_EXTENSION):  # sd_notify(3): counted from now
                    limit_s = max(limit_s, time.monotonic() + int(line.removeprefix(_EXTENSION)) / 1e6)
            if time.monotonic() >= limit_s:
                killed = True
                self._child.kill()
                break
        took_s = time.monotonic() - begun_s
        return Stop(took_s, self._child.wait(), killed)

    def look(self) -> None:
        """Raises PlugmeterError if it has ended."""
        if self._wait(0):
            raise PlugmeterError(f"{self._name}: it has ended, with {self._child.wait()}{self.last_words()}")
        self.heard()

    def heard(self) -> list[str]:
        """What it has said to the service manager since the last time."""
        lines: list[str] = []
        while True:
            try:
                lines += self._socket.recv(65_536).decode(errors="replace").splitlines()
            except BlockingIOError:
                return lines

    def last_words(self) -> str:
        """The last line on standard error, behind a colon; empty where there is none."""
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return f": {lines[-1]}" if lines else ""

    def _wait(self, limit_s: float) -> bool:
        """Until it has ended, or said something, or ``limit_s`` is over; whether it has ended."""
        poller = select.poll()
        poller.register(self._pidfd, select.POLLIN)
        poller.register(self._socket, select.POLLIN)
        return any(descriptor == self._pidfd for descriptor, _ in poller.poll(limit_s * 1000))

    def _release(self) -> None:
        self._socket.close()
        self._errors.close()
        self._folder.cleanup()
