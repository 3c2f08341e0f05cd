"""A mosquitto of one's own: a temporary configuration, a free loopback port, nothing kept on disk."""

from __future__ import annotations

import os
import random
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Final

from plugmeter.errors import PlugmeterError

HOST: Final = "127.0.0.1"
_PLACES: Final = "/usr/sbin:/usr/local/sbin"
_PATIENCE_S: Final = 20.0
_POLL_S: Final = 0.01


def find_mosquitto(path: str | None = None) -> str:
    """The program, on ``path`` (default: PATH and the folders of servers). PlugmeterError: there is none."""
    found = shutil.which("mosquitto", path=path or f"{os.environ.get('PATH', '')}:{_PLACES}")
    if found is None:
        raise PlugmeterError(
            "there is no mosquitto on PATH or in /usr/sbin, and this bench wants a real broker: "
            "install the package mosquitto"
        )
    return found


def free_port() -> int:
    """A loopback port that nobody has, below those that the kernel gives to clients (ip(7))."""
    for _ in range(1_000):
        port = random.randrange(10_000, 32_000)
        with socket.socket() as probe:
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
        return port
    raise PlugmeterError("no free port was found at the loopback address")


class Broker:
    """mosquitto with its defaults, but anonymous and without persistence; ends with the ``with``."""

    def __init__(self, folder: Path) -> None:
        """``folder`` is an empty one of ours. Raises PlugmeterError."""
        self._program = find_mosquitto()
        self.folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self.port = 0

    def __enter__(self) -> Broker:
        try:
            for _ in range(5):  # another program may take the port between the look and the start
                self.port = free_port()
                if self._start():
                    return self
        except BaseException:
            self.close()
            raise
        raise PlugmeterError(f"mosquitto does not start: {_last_line(self._log())}")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def pause(self) -> None:
        """SIGSTOP: the kernel accepts connections for it, and nobody says anything."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        os.kill(self.pid, signal.SIGCONT)

    def wait_for_subscriber(self, topic: str, alive: Callable[[], None]) -> None:
        """Until somebody has subscribed to ``topic``; ``alive`` raises where he cannot any more."""
        give_up_s = time.monotonic() + _PATIENCE_S
        while not any(line.endswith(f" {topic}") for line in self._log().splitlines()):
            alive()
            if time.monotonic() > give_up_s:
                raise PlugmeterError(f"nobody has subscribed to {topic} within {_PATIENCE_S:g} s")
            time.sleep(_POLL_S)

    def close(self) -> None:
        """Ends it. Idempotent."""
        if self._process is not None:
            self._process.kill()  # a stopped one as well
            self._process.wait()
            self._process = None

    def _start(self) -> bool:
        lines = [
            "persistence false",
            "allow_anonymous true",
            "log_dest stderr",
            *(f"log_type {each}" for each in ("error", "warning", "subscribe")),
            f"listener {self.port} {HOST}",
        ]
        if os.geteuid() == 0:
            lines.append("user root")  # otherwise it becomes a user that need not exist
        file = self.folder / "mosquitto.conf"
        file.write_text("\n".join(lines) + "\n")
        with self._log_file.open("wb") as log:
            self._process = subprocess.Popen(
                [self._program, "-c", str(file)], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        give_up_s = time.monotonic() + _PATIENCE_S
        while self._process.poll() is None and time.monotonic() < give_up_s:
            with socket.socket() as probe:
                if probe.connect_ex((HOST, self.port)) == 0:
                    return True
            time.sleep(_POLL_S)
        self.close()
        return False

    @property
    def _log_file(self) -> Path:
        return self.folder / "mosquitto.log"

    def _log(self) -> str:
        return self._log_file.read_text(errors="replace") if self._log_file.exists() else ""


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["it says nothing"])[-1]
