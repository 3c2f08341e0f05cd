"""What Plugmeter costs when nothing happens: processor time and memory of a process that only waits.

The measured process is a new one, as the device's daemon is: it imports all that a device has (no jinja2,
no matplotlib), opens all witnesses, with mock pins for the sense lines, and runs ``run.measure`` with the
passive rig. Its processor time is user and system time of all its threads over the whole of the run,
opening and imports left out; its memory is VmRSS at the end of it (proc(5)).
"""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from plugmeter import __version__
from plugmeter.errors import PlugmeterError
from plugmeter.records import Record, RunStart
from plugmeter.rigs.lines import mock_lines
from plugmeter.rigs.passive import PassiveRig
from plugmeter.run import Equipment, Stop, measure, ready_interpreter
from plugmeter.witnesses import coldplug
from plugmeter.witnesses.gpio import GpioWitness
from plugmeter.witnesses.inotify import InotifyWitness
from plugmeter.witnesses.listeners import ListenerScanner
from plugmeter.witnesses.netlink import NetlinkWitness
from plugmeter.witnesses.udev import UdevWitness
from plugmeter.witnesses.witness import Witness

PORTS = ("1-1", "1-2", "1-3", "1-4")
REPORT_EXTRAS = ("jinja2", "matplotlib", "numpy")


@dataclass(frozen=True, slots=True)
class Idle:
    """What the process used while it ran for ``seconds``. ``uevents`` ought to be 0, else it was not idle."""

    seconds: float
    cpu_percent: float
    """Of one core."""
    rss_mib: float
    wakeups_per_s: float
    """Times that one of its threads went to sleep of itself (voluntary context switches)."""
    uevents: int
    modules: int
    extras: tuple[str, ...]
    """Report extras that were imported all the same; there must be none."""

    def as_json(self) -> dict[str, Any]:
        """All figures."""
        return asdict(self)


def measure_in_new_process(command: list[str], seconds: float) -> Idle:
    """Run ``command``, which must call ``measure_here`` and print its JSON."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 60, check=False)
    except subprocess.TimeoutExpired as error:
        raise PlugmeterError(f"the idle process did not end within {error.timeout:g} s") from error
    if done.returncode:
        said = done.stderr.strip().splitlines()
        raise PlugmeterError(f"the idle process failed: {said[-1] if said else done.returncode}")
    found = json.loads(done.stdout)
    return Idle(**{**found, "extras": tuple(found["extras"])})


def measure_here(seconds: float, modules: Sequence[str]) -> Idle:
    """Be the process that is measured: import ``modules``, wait for ``seconds``, and say what it cost."""
    for name in modules:
        importlib.import_module(name)
    with ExitStack() as stack:
        gear = _equipment(seconds, stack)
        ready_interpreter()
        switches = _switches()
        begun_s, cpu_s = time.monotonic(), time.process_time()
        pipeline = measure(gear, Stop())
        cpu_s = time.process_time() - cpu_s
        spent_s = time.monotonic() - begun_s
        return Idle(
            seconds=spent_s,
            cpu_percent=100 * cpu_s / spent_s,
            rss_mib=_status("VmRSS") / 1024,
            wakeups_per_s=(_switches() - switches) / spent_s,
            uevents=pipeline.witnesses["netlink"].delivered,
            modules=len(sys.modules),
            extras=tuple(name for name in REPORT_EXTRAS if name in sys.modules),
        )


def _equipment(seconds: float, stack: ExitStack) -> Equipment:
    lines = mock_lines(PORTS)
    stack.callback(lines.factory.close)
    truth = GpioWitness(lines.pins, lines.factory)
    stack.callback(truth.close)
    witnesses: list[Witness] = [truth]
    for opened in (NetlinkWitness(), UdevWitness(), InotifyWitness([Path("/dev")])):
        stack.callback(opened.close)
        witnesses.append(opened)
    scanner = ListenerScanner()

    def sample(reason: str) -> list[Record]:
        return [*coldplug.look(reason), scanner.sample()]

    start = RunStart(
        t_ns=time.monotonic_ns(),
        rig="passive",
        truth="gpio",
        ports=PORTS,
        witnesses=tuple(each.name for each in witnesses),
        debounce_ns=100_000_000,
        nominal_ns=3_000_000_000,
        lost_after_ns=30_000_000_000,
        storm_quiet_ns=1_000_000_000,
        claim_rate=0.001,
        seed=0,
        started_at="",
        version=__version__,
    )
    rig = PassiveRig(PORTS, seconds)
    stack.callback(rig.close)
    return Equipment(start, witnesses, rig, truth, sample)


def _switches() -> int:
    total = 0
    for task in Path("/proc/self/task").iterdir():
        with suppress(FileNotFoundError):  # a thread that has just ended
            total += _status("voluntary_ctxt_switches", task / "status")
    return total


def _status(key: str, path: Path = Path("/proc/self/status")) -> int:
    for line in path.read_text().splitlines():
        name, _, value = line.partition(":")
        if name == key:
            return int(value.split()[0])
    raise PlugmeterError(f"{path} has no {key}")
