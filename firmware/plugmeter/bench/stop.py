"""How quickly a daemon ends: SIGQUIT to stacks, and SIGTERM to the end of the process.

What is stopped is a program that runs as a process of its own, supervised as by systemd: it says READY=1 on
a notification socket, gets its signal, and is waited for. Any ``Case`` will do; commands/benches/stop.py has
those of the real daemon. Only for SIGQUIT there is a process made for it: the real one has no C code that
holds the interpreter's lock for long.
"""

from __future__ import annotations

import ctypes
import os
import resource
import select
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from plugmeter.bench.supervised import Stop, Supervised
from plugmeter.errors import PlugmeterError
from plugmeter.lifecycle import stacks

_PATIENCE_S: Final = 120.0
_SILENCE_S: Final = 0.05
"""So long nothing of the interpreter may run, or C code does not hold its lock."""
_HELD_S: Final = 600


def _nothing() -> None: ...


def _none_left() -> int:
    return 0


@dataclass(frozen=True, slots=True)
class Case:
    """A daemon, how long it is meant to take, and what is done around each stop of it."""

    name: str
    command: Sequence[str]
    planned_s: float = 0.0
    """Its deadline, where it is to run out; the latency is counted from there."""
    before: Callable[[], object] = _nothing
    """Before each start."""
    on_term: Callable[[], None] = _nothing
    """Right after SIGTERM."""
    left: Callable[[], int] = _none_left
    """After each stop: how many records are pending then."""


@dataclass(frozen=True, slots=True)
class Latencies:
    """Of one case, in milliseconds, ascending."""

    name: str
    planned_ms: float
    ms: tuple[float, ...]
    """Beyond the plan."""
    statuses: Mapping[int, int] = field(default_factory=dict)
    """Exit statuses, and how often each."""
    killed: int = 0
    """How many did not end in time, and had to be."""
    left: int = 0
    """Records that were pending after a stop, at the most."""

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
            "statuses": {str(status): count for status, count in self.statuses.items()},
            "killed": self.killed,
            "left": self.left,
            "ms": list(self.ms),
        }


def measure_stops(case: Case, runs: int) -> Latencies:
    """Start and stop ``case`` so often. PlugmeterError where it does not become ready."""
    stops: list[Stop] = []
    left = 0
    for _ in range(runs):
        case.before()
        with Supervised(case.name, case.command) as daemon:
            daemon.wait_until_ready()
            stops.append(daemon.stop(case.on_term))
        left = max(left, case.left())
    return Latencies(
        case.name,
        case.planned_s * 1000,
        tuple(sorted((each.took_s - case.planned_s) * 1000 for each in stops)),
        Counter(each.status for each in stops),
        sum(each.killed for each in stops),
        left,
    )


def measure_quits(command: Sequence[str], runs: int) -> Latencies:
    """Start ``command`` (which is ``hold_the_lock``) so often: from SIGQUIT to the last of its stacks."""
    found = [_quit_once(command) * 1000 for _ in range(runs)]
    return Latencies("SIGQUIT to stacks", 0, tuple(sorted(found)))


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
