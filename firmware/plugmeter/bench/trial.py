"""One storm against one listener, in processes of their own, in the network namespace of the caller."""

from __future__ import annotations

import json
import os
import select
import signal
import time
import traceback
from dataclasses import asdict, dataclass
from typing import Any

from plugmeter.bench.command import Command, Lines
from plugmeter.bench.programs import PROGRAMS, Heard
from plugmeter.bench.storm import Emitted, Storm, blow, say_end
from plugmeter.errors import PlugmeterError
from plugmeter.measure.statistics import clopper_pearson
from plugmeter.rigs.injection import Injector

_START_S = 20.0
_END_EVERY_S = 0.02
_DRAIN_S = 120.0
"""How long a listener may go on reading what it has in its queue after the storm."""
_COMMAND_QUIET_S = 1.0
"""A command that has printed no event for so long has read all it will."""
_COMMAND_SETTLE_S = 1.0


@dataclass(frozen=True, slots=True)
class Trial:
    """What one listener made of one storm. Latencies are from injection to the listener's hands."""

    listener: str
    handler_ms: float
    emitted: int
    received: int
    devices_emitted: int
    devices_received: int
    plugs_per_s: float
    events_per_s: float
    """Received, over the time from the first to the last."""
    cpu_us_per_event: float
    latency_p50_us: float
    latency_p99_us: float
    latency_max_us: float
    known_lost: int
    cut_bytes: int = 0
    """Of over-long lines of a command, and not looked at."""

    @property
    def lost(self) -> int:
        """Uevents that did not reach the listener."""
        return max(0, self.emitted - self.received)

    @property
    def loss_rate(self) -> float:
        """Of all uevents."""
        return self.lost / self.emitted if self.emitted else 0.0

    @property
    def ci95(self) -> tuple[float, float]:
        """Clopper-Pearson, as if losses were independent; in bursts they are not."""
        return clopper_pearson(self.lost, self.emitted)

    def as_json(self) -> dict[str, Any]:
        """The trial with what is derived from it."""
        return {**asdict(self), "lost": self.lost, "loss_rate": self.loss_rate, "ci95": list(self.ci95)}


def try_listener(listener: str, storm: Storm, handler_ms: float = 0.0) -> Trial:
    """Blow ``storm`` at a listener: one of ``PROGRAMS`` by name, or a command that prints a line an event.

    Call it in a namespace where ``Injector`` works. Errors: UsageError for a command that cannot be
    run, PlugmeterError for a listener that dies.
    """
    if listener in PROGRAMS:
        return _try_program(listener, storm, handler_ms)
    return _try_command(listener, storm)


def _try_program(name: str, storm: Storm, handler_ms: float) -> Trial:
    ready_here, ready_there = os.pipe()
    result_here, result_there = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(ready_here)
        os.close(result_here)
        _play(name, handler_ms, ready_there, result_there)
    os.close(ready_there)
    os.close(result_there)
    try:
        if not select.select([ready_here], [], [], _START_S)[0] or not os.read(ready_here, 1):
            raise PlugmeterError(f"listener {name} did not start: {_said(result_here)}")
        with Injector() as injector:
            emitted = blow(storm, injector)
            give_up_s = time.monotonic() + _DRAIN_S
            while not select.select([result_here], [], [], _END_EVERY_S)[0]:
                say_end(injector)
                if time.monotonic() > give_up_s:
                    raise PlugmeterError(f"listener {name} still reads {_DRAIN_S:g} s after the storm")
        said = _said(result_here)
        _, status, usage = os.wait4(pid, 0)
        pid = 0
    finally:
        os.close(ready_here)
        os.close(result_here)
        if pid:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    if status or not said.startswith("{"):
        raise PlugmeterError(
            f"listener {name} died: {said.strip().splitlines()[-1] if said.strip() else status}"
        )
    heard = json.loads(said)
    return Trial(
        listener=name,
        handler_ms=handler_ms,
        emitted=emitted.uevents,
        devices_emitted=emitted.devices,
        plugs_per_s=emitted.plugs_per_s,
        cpu_us_per_event=_cpu_us(usage.ru_utime + usage.ru_stime, heard["received"]),
        **heard,
    )


def _play(name: str, handler_ms: float, ready: int, result: int) -> None:
    """The child's part; never returns."""
    status = 1
    try:
        heard = Heard(handler_s=handler_ms / 1000)
        PROGRAMS[name](heard, lambda: _tell(ready))
        os.write(result, json.dumps(_summary(heard)).encode())
        status = 0
    except PlugmeterError as error:
        os.write(result, str(error).encode())
    except BaseException:
        os.write(result, traceback.format_exc()[-2000:].encode())
        raise
    finally:
        os._exit(status)


def _tell(descriptor: int) -> None:
    os.write(descriptor, b"!")


def _said(descriptor: int) -> str:
    parts = []
    while select.select([descriptor], [], [], _START_S)[0] and (part := os.read(descriptor, 65536)):
        parts.append(part)
    return b"".join(parts).decode(errors="replace")


def _summary(heard: Heard) -> dict[str, float]:
    latency = heard.latency.summary()
    spent_ns = heard.last_ns - heard.first_ns
    return {
        "received": heard.uevents,
        "devices_received": heard.devices,
        "events_per_s": heard.uevents * 1e9 / spent_ns if spent_ns > 0 else 0.0,
        "latency_p50_us": latency.p50_us,
        "latency_p99_us": latency.p99_us,
        "latency_max_us": latency.max_us,
        "known_lost": heard.known_lost,
    }


def _try_command(command: str, storm: Storm) -> Trial:
    """A command of the user's: each line that names a devpath of the storm is an event received."""
    with Command(command, ", ".join(PROGRAMS)) as running:
        lines = running.lines
        settled_s = time.monotonic() + _COMMAND_SETTLE_S
        while (left_s := settled_s - time.monotonic()) > 0:
            lines.read_for(left_s)  # it says by nothing when it listens
        if running.has_ended():
            raise PlugmeterError(f"--listener {command!r} ended at once; give one that goes on listening")
        emitted = _blow_in_child(storm, lines)
        if not lines.read_until_quiet(_COMMAND_QUIET_S, time.monotonic() + _DRAIN_S):
            raise PlugmeterError(
                f"--listener {command!r} still prints events {_DRAIN_S:g} s after the storm; "
                "try a lower density"
            )
        received, cut_bytes = lines.uevents, lines.cut_bytes
    usage = running.usage
    assert usage is not None  # known after the end
    latency = lines.latency.summary()
    spent_ns = lines.last_ns - lines.first_ns
    return Trial(
        listener=command,
        handler_ms=0.0,
        emitted=emitted.uevents,
        received=received,
        devices_emitted=emitted.devices,
        devices_received=lines.devices,
        plugs_per_s=emitted.plugs_per_s,
        events_per_s=received * 1e9 / spent_ns if spent_ns > 0 else 0.0,
        cpu_us_per_event=_cpu_us(usage.ru_utime + usage.ru_stime, received),
        latency_p50_us=latency.p50_us,
        latency_p99_us=latency.p99_us,
        latency_max_us=latency.max_us,
        known_lost=0,
        cut_bytes=cut_bytes,
    )


def _blow_in_child(storm: Storm, lines: Lines) -> Emitted:
    """The storm in a process of its own, so that the command's pipe is read meanwhile and never full."""
    here, there = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            with Injector() as injector:
                os.write(there, json.dumps(asdict(blow(storm, injector))).encode())
            status = 0
        except PlugmeterError as error:
            os.write(there, str(error).encode())
        finally:
            os._exit(status)
    os.close(there)
    try:
        while not select.select([here], [], [], 0)[0]:
            lines.read_for(0.05)
        said = _said(here)
    except BaseException:
        os.kill(pid, signal.SIGKILL)  # a storm may have an hour to go
        raise
    finally:
        os.close(here)
        os.waitpid(pid, 0)
    if not said.startswith("{"):
        raise PlugmeterError(f"the storm died: {said}")
    return Emitted(**json.loads(said))


def _cpu_us(cpu_s: float, events: int) -> float:
    return cpu_s * 1e6 / events if events else 0.0
