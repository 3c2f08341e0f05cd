"""The toy daemon as a child process, and sockets that listen as systemd and journald do."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol

import pytest

PATIENCE_S = 60.0
"""Nothing takes as long; but a busy machine is no failure of the code."""

TOY = Path(__file__).with_name("toy.py")
FIRMWARE = Path(__file__).parents[2]


class ToyProcess:
    """A toy daemon that runs."""

    def __init__(self, environment: dict[str, str], scenario: dict[str, Any]) -> None:
        self.lines: list[dict[str, Any]] = []
        self._rest = b""
        self.process = subprocess.Popen(
            [sys.executable, str(TOY), json.dumps(scenario)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(FIRMWARE), "NOTIFY_SOCKET": "", **environment},
        )

    @property
    def pid(self) -> int:
        return self.process.pid

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def hear(self, what: str, **words: object) -> dict[str, Any]:
        """Wait for a line that says this, and give it."""
        while (line := self.next_line()) is not None:
            if line["what"] == what and words.items() <= line.items():
                return line
        raise AssertionError(f"the toy ended without {what} {words}: {self.lines} {self.stderr()}")

    def running(self) -> ToyProcess:
        """Wait until it runs."""
        self.hear("transition", to="running")
        return self

    def finish(self) -> int:
        """Wait for its end; the exit status."""
        while self.next_line() is not None:
            pass
        return self.process.wait(PATIENCE_S)

    def stderr(self) -> str:
        """All of it; waits for the end."""
        assert self.process.stderr is not None
        return self.process.stderr.read().decode()

    def said(self, what: str) -> list[dict[str, Any]]:
        return [line for line in self.lines if line["what"] == what]

    def stages(self) -> list[str]:
        return [line["to"] for line in self.said("transition") if line["from"] != line["to"]]

    def next_line(self) -> dict[str, Any] | None:
        assert self.process.stdout is not None
        descriptor = self.process.stdout.fileno()
        while b"\n" not in self._rest:
            if not select.select([descriptor], [], [], PATIENCE_S)[0]:
                raise AssertionError(f"the toy says nothing; so far {self.lines}")
            data = os.read(descriptor, 65536)
            if not data:
                return None
            self._rest += data
        text, _, self._rest = self._rest.partition(b"\n")
        line: dict[str, Any] = json.loads(text)
        self.lines.append(line)
        return line

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        for file in (self.process.stdout, self.process.stderr):
            if file is not None:
                file.close()


class Launch(Protocol):
    def __call__(self, environment: dict[str, str] | None = None, /, **scenario: Any) -> ToyProcess: ...


@pytest.fixture
def launch() -> Iterator[Launch]:
    """Starts toys; none outlives the test."""
    with ExitStack() as stack:

        def start(environment: dict[str, str] | None = None, /, **scenario: Any) -> ToyProcess:
            toy = ToyProcess(environment or {}, scenario)
            stack.callback(toy.close)
            return toy

        yield start


class DatagramListener:
    """A Unix datagram socket in a file, as PID 1 and journald have one.

    Its queue is short (net.unix.max_dgram_qlen, 10 where systemd has not raised it), unless ``collect()``
    empties it.
    """

    END = "END-OF-TEST=1"

    def __init__(self, path: Path) -> None:
        self.path = path
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(path))
        self.socket.settimeout(PATIENCE_S)
        self._heard: list[str] = []
        self._thread: threading.Thread | None = None

    def receive(self) -> str:
        """The next datagram."""
        return self.socket.recv(1 << 20).decode()

    def collect(self) -> None:
        """Read from now on."""
        self._thread = threading.Thread(target=self._collect)
        self._thread.start()

    def _collect(self) -> None:
        while (text := self.receive()) != self.END:
            self._heard.append(text)

    def all(self) -> list[str]:
        """What has arrived since ``collect()``, or since nothing was received any more."""
        if self._thread is None:
            self.collect()
        assert self._thread is not None
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.sendto(self.END.encode(), str(self.path))  # waits for its place in the queue
        self._thread.join()
        self._thread = None
        return self._heard

    def close(self) -> None:
        if self._thread is not None:
            self.all()
        self.socket.close()

    def fill(self) -> int:
        """As if PID 1 did not read: the queue is full. How many it holds."""
        filler = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        filler.setblocking(False)
        count = 0
        try:
            while True:
                filler.sendto(b"FILLER=1", str(self.path))
                count += 1
        except BlockingIOError:
            filler.close()
        return count


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[DatagramListener]:
    listening = DatagramListener(tmp_path / "socket")
    yield listening
    listening.close()
