"""How quickly a daemon ends: SIGQUIT to stacks, and SIGTERM to the end of the process.

What is measured is a program that runs as a process of its own, supervised as by systemd: it says READY=1
on a notification socket, gets its signal, and is waited for. So any ``Case`` will do: the toy daemon here,
which is the real conductor with parts that only count, or ``plugmeter run`` with a configuration.
"""

from __future__ import annotations

import ctypes
import os
import resource
import select
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NoReturn

from plugmeter.errors import PlugmeterError
from plugmeter.lifecycle import signals, stacks
from plugmeter.lifecycle.actions import Ending, Timing
from plugmeter.lifecycle.conductor import Conductor, leave
from plugmeter.lifecycle.deadline import Work
from plugmeter.lifecycle.drains import DrainMemory
from plugmeter.progress import Progress

_PATIENCE_S: Final = 120.0
_SILENCE_S: Final = 0.05
"""So long nothing of the interpreter may run, or C code does not hold its lock."""
_HELD_S: Final = 600


@dataclass(frozen=True, slots=True)
class Case:
    """A daemon, and how long it is meant to take."""

    name: str
    command: Sequence[str]
    planned_s: float = 0.0
    """Its deadline, where it is to run out; the latency is counted from there."""
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Latencies:
    """Of one case, in milliseconds, ascending."""

    name: str
    planned_ms: float
    ms: tuple[float, ...]
    """Beyond the plan."""

    def quantile(self, share: float) -> float:
        """The smallest that is not exceeded by this share of them."""
        return self.ms[min(len(self.ms) - 1, int(share * len(self.ms)))]

    def as_json(self) -> dict[str, Any]:
        """All figures."""
        return {
            "name": self.name,
            "planned_ms": self.planned_ms,
            "p50_ms": self.quantile(0.5),
            "p99_ms": self.quantile(0.99),
            "max_ms": self.ms[-1],
            "ms": list(self.ms),
        }


def measure_stops(case: Case, runs: int) -> Latencies:
    """Start and stop ``case`` so often. PlugmeterError where it does not end by itself, with status 0."""
    found = [_stop_once(case) * 1000 - case.planned_s * 1000 for _ in range(runs)]
    return Latencies(case.name, case.planned_s * 1000, tuple(sorted(found)))


def measure_quits(command: Sequence[str], runs: int) -> Latencies:
    """Start ``command`` (which is ``hold_the_lock``) so often: from SIGQUIT to the last of its stacks."""
    found = [_quit_once(command) * 1000 for _ in range(runs)]
    return Latencies("SIGQUIT to stacks", 0, tuple(sorted(found)))


def _stop_once(case: Case) -> float:
    with tempfile.TemporaryDirectory(prefix="plugmeter-") as folder:
        path = Path(folder) / "notify"
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
            listening.bind(str(path))
            child = subprocess.Popen(
                case.command,
                env={**os.environ, **case.environment, "NOTIFY_SOCKET": str(path)},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
            )
            with _ended(child):
                _wait_for_ready(case, child, listening)
                begun_s = time.monotonic()
                child.send_signal(signal.SIGTERM)
                try:
                    _, said = child.communicate(timeout=_PATIENCE_S)
                except subprocess.TimeoutExpired as error:
                    raise PlugmeterError(f"{case.name}: it did not end within {error.timeout:g} s") from error
                took_s = time.monotonic() - begun_s
    if child.returncode != 0:
        last = said.decode(errors="replace").strip().splitlines()[-1:]
        raise PlugmeterError(f"{case.name}: it ended with {child.returncode}: {''.join(last)}")
    return took_s


def _wait_for_ready(case: Case, child: subprocess.Popen[bytes], listening: socket.socket) -> None:
    """Until READY=1; all else that it says is read as well, so that it need not wait."""
    give_up_s = time.monotonic() + _PATIENCE_S
    listening.settimeout(0.1)
    while time.monotonic() < give_up_s:
        with suppress(TimeoutError):
            if listening.recv(4096) == b"READY=1":
                return
        if child.poll() is not None:
            raise PlugmeterError(f"{case.name}: it ended before it was ready, with {child.returncode}")
    raise PlugmeterError(f"{case.name}: it was not ready within {_PATIENCE_S:g} s")


def _quit_once(command: Sequence[str]) -> float:
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    with _ended(child):
        assert child.stdout is not None and child.stderr is not None
        words, errors = child.stdout.fileno(), child.stderr.fileno()
        heard = b""
        while b"holding" not in heard:
            heard += _read(words)
        while select.select([words], [], [], _SILENCE_S)[0]:  # until the other thread falls silent
            _read(words)
        begun_s = last_s = time.monotonic()
        child.send_signal(signal.SIGQUIT)
        said = b""
        while True:
            data = os.read(errors, 65536) if select.select([errors], [], [], _PATIENCE_S)[0] else b""
            if not data:
                break
            last_s = time.monotonic()
            said += data
        status = child.wait()
    if status != -signal.SIGQUIT or said.count(b"hread 0x") < 2 or b"hold_the_lock" not in said:
        raise PlugmeterError(f"SIGQUIT did not end it with its stacks, but with {status}: {said[-200:]!r}")
    return last_s - begun_s


def _read(descriptor: int) -> bytes:
    if not select.select([descriptor], [], [], _PATIENCE_S)[0] or not (data := os.read(descriptor, 65536)):
        raise PlugmeterError("the process that is to hold the interpreter's lock ended, or says nothing")
    return data


class _ended:
    """Whatever happens, the child does not outlive the block."""

    def __init__(self, child: subprocess.Popen[bytes]) -> None:
        self._child = child

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None:
        if self._child.poll() is None:
            self._child.kill()
            self._child.wait()
        for pipe in (self._child.stdout, self._child.stderr):
            if pipe is not None:
                pipe.close()


# The measured processes' part


def hold_the_lock() -> None:
    """Be a process whose C code holds the interpreter's lock, while another thread would like to go on."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core takes its time, and is not what is measured
    stacks.install()
    threading.Thread(target=_chatter, daemon=True).start()
    os.write(1, b"holding")
    ctypes.PyDLL(None).sleep(_HELD_S)  # PyDLL, unlike CDLL, does not let go of the lock


def _chatter() -> None:
    while True:
        os.write(1, b".")
        time.sleep(_SILENCE_S / 10)


def be_the_toy(pending: int, acknowledged_per_s: float, drain_s: float) -> NoReturn:
    """Be a daemon that has only its lifecycle, and a number for a backlog."""
    signals.block()
    stacks.install()
    toy = _Toy(pending, acknowledged_per_s)
    timing = Timing(start_s=60, drain_s=drain_s, stop_cap_s=60)
    memory = DrainMemory(None, lambda line: None)
    leave(Conductor(toy, timing, drains=memory, audit=lambda what: None).run())


class _Toy:
    """Actions that do nothing but count. A broker acknowledges ``per_s`` records a second, or none."""

    def __init__(self, pending: int, per_s: float) -> None:
        self._pending = pending
        self._per_s = per_s
        self._since_s = 0.0

    def start(self) -> Iterator[str]:
        yield "nothing"

    def ready(self) -> bool:
        return True

    def reload(self) -> None: ...

    def end_intake(self) -> None: ...

    def intake(self) -> Sequence[Work]:
        return ()

    def flush_and_publish(self, ends_ns: int, cap_ns: int) -> None:
        self._since_s = time.monotonic()

    def backlog(self) -> Sequence[Work]:
        gone = int((time.monotonic() - self._since_s) * self._per_s)
        return (Work("records to publish", max(0, self._pending - gone)),)

    def say_goodbye(self, ending: Ending) -> None: ...

    def tick(self) -> None: ...

    def status(self) -> str:
        return "counting"

    def workers(self) -> Iterable[Progress]:
        return ()
