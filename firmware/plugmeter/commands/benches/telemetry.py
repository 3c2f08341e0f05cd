"""``plugmeter bench telemetry``: how much outbox, link and controller take, and the daemon's memory."""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from plugmeter.bench import memory
from plugmeter.bench.broker import Broker, find_mosquitto
from plugmeter.bench.daemon import DaemonFolder, Listener, plugmeter
from plugmeter.bench.device import Sustained, acknowledge_here, report_here
from plugmeter.bench.drafts import RECORD_BYTES, fill
from plugmeter.bench.goals import Goal
from plugmeter.commands.benches.options import acknowledger, add_controller, controller, count, number
from plugmeter.commands.benches.output import deliver, load_line, tell
from plugmeter.errors import PlugmeterError
from plugmeter.reporting.table import table

NAME = "telemetry"
HELP = "records a second to the controller, and the daemon's memory with a backlog"
PARTS = ("rate", "memory")
EPILOG = f"""\
examples:
  plugmeter bench telemetry
  plugmeter bench telemetry --part rate --runs 5 --seconds 20
  plugmeter bench telemetry --part memory --backlog 100000

Records are verdicts of {RECORD_BYTES} bytes. The broker is a real mosquitto (on PATH or in /usr/sbin) with a
configuration of its own, without persistence, at a free port of the loopback address.

rate: a process with the real outbox and link makes records as quickly as it gets rid of them, and the
controller stores them in SQLite and acknowledges them after its commit. Counted is what the outbox has
committed as acknowledged while it was measured; afterwards everything must be acknowledged. The peer is the
same device and broker with one who acknowledges the numbers and stores nothing; runs take turns. Processor
time is that of each process, for a record.

memory: VmHWM, the peak of the resident memory, of plugmeter run without a rig: with the backlog and no
broker; and while the backlog goes to broker and controller. The backlog is put in through the outbox.

What it writes to the disk is told by: plugmeter bench outbox
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``plugmeter bench telemetry``."""
    parser.add_argument(
        "--part", choices=PARTS, action="append", help="only this; may be given again (default: all)"
    )
    parser.add_argument("--runs", type=count(1, 100), default=3, metavar="N", help="how often (default: 3)")
    parser.add_argument(
        "--seconds", type=number(0.1, 600), default=10.0, metavar="S", help="of a rate (default: 10)"
    )
    parser.add_argument(
        "--backlog",
        type=count(1, 10_000_000),
        default=1_000_000,
        metavar="N",
        help="records for the memory (default: 1000000)",
    )
    parser.add_argument(
        "--drain", type=number(0.1, 600), default=15.0, metavar="S",
        help="how long the daemon's memory is watched, each time (default: 15)",
    )  # fmt: skip
    add_controller(parser)
    parser.add_argument("--here", metavar="JSON", help=argparse.SUPPRESS)


def run(args: argparse.Namespace) -> int:
    """Measure the parts that were asked for."""
    if args.here:
        return _here(json.loads(args.here))
    parts = args.part or PARTS
    if "rate" in parts or "memory" in parts:
        find_mosquitto()  # before anything takes its time
    found: dict[str, Any] = {"record_bytes": RECORD_BYTES, "runs": args.runs}
    lines: list[str] = []
    goals: list[Goal] = []
    notes: list[str] = []
    if "rate" in parts:
        _rate(args, found, lines, goals, notes)
    if "memory" in parts:
        _memory(args, found, lines, goals, notes)
    notes = list(dict.fromkeys(notes))
    deliver(NAME, args.json, [*lines, *notes, load_line()], {**found, "notes": notes}, goals)
    return 0


def _rate(
    args: argparse.Namespace, found: dict[str, Any], lines: list[str], goals: list[Goal], notes: list[str]
) -> None:
    by_name: dict[str, list[Sustained]] = {}
    for number_ in range(args.runs):
        for stores in (True, False):
            with ExitStack() as stack:
                broker = stack.enter_context(Broker(_folder(stack)))
                name, command = (
                    controller(args, broker, notes) if stores else ("acknowledger", acknowledger(broker))
                )
                if stores and name == "acknowledger":
                    continue  # it is the peer
                tell(f"rate, run {number_ + 1} of {args.runs}: {args.seconds:g} s with the {name}")
                listener = stack.enter_context(Listener(name, command, broker))
                task = {
                    "role": "device",
                    "state": str(_folder(stack) / "state"),
                    "port": broker.port,
                    "seconds": args.seconds,
                    "warmup_s": min(2.0, args.seconds),
                    "others": {"broker": broker.pid, name: listener.pid},
                }
                result = _in_new_process(task, 3 * args.seconds + 120)
                listener.look()
                by_name.setdefault(name, []).append(_sustained(result))
    medians = {name: statistics.median(each.per_s for each in runs) for name, runs in by_name.items()}
    rows = []
    for name, runs in by_name.items():
        middle = sorted(runs, key=lambda each: each.per_s)[len(runs) // 2]
        cpu = [f"{middle.cpu_us[each]:.0f}" for each in ("device", "broker", name)]
        resent = sum(each.resent for each in runs)
        slowest = min(each.per_s for each in runs)
        rows.append([name, f"{medians[name]:,.0f}", f"{slowest:,.0f}", *cpu, f"{resent:,}"])
    header = ["acknowledged by", "records/s", "slowest", "device µs", "broker µs", "its µs", "resent"]
    lines += [f"rate, {args.runs} runs of {args.seconds:g} s", "", *table(header, rows, width=100), ""]
    stored = "controller" in medians
    if stored:
        ratio = medians["controller"] / medians["acknowledger"]
        lines += [f"  storing as well: {ratio:.2f} of the rate of acknowledging only", ""]
        found["controller_ratio"] = ratio
    goals.append(
        Goal(
            f"end to end with the {'controller' if stored else 'acknowledger'}",
            medians["controller" if stored else "acknowledger"], 5_000, "records/s", True,
        )
    )  # fmt: skip
    found["rate"] = {name: [each.as_json() for each in runs] for name, runs in by_name.items()}


def _memory(
    args: argparse.Namespace, found: dict[str, Any], lines: list[str], goals: list[Goal], notes: list[str]
) -> None:
    with ExitStack() as stack:
        folder = DaemonFolder(_folder(stack))
        tell(f"memory: putting {args.backlog:,} records into an outbox")
        fill(folder.state, args.backlog, tell)
        tell(f"memory: {args.drain:g} s with no broker")
        seen = [memory.without_broker(folder, args.drain)]
        broker = stack.enter_context(Broker(_folder(stack)))
        name, command = controller(args, broker, notes)
        listener = stack.enter_context(Listener(name, command, broker))
        tell(f"memory: {args.drain:g} s with a broker and the {name}")
        seen.append(memory.while_draining(folder, broker, args.drain, f"draining to the {name}"))
        listener.look()
    rows = [
        [
            each.name,
            f"{each.pending_before:,}",
            f"{each.pending_after:,}",
            f"{each.peak_mib:.1f}",
            f"{each.last_mib:.1f}",
            f"{each.anonymous_mib:.1f}",
        ]
        for each in seen
    ]
    header = ["memory of the daemon", "pending", "then", "peak MiB", "at the end", "of it private"]
    lines += [f"memory, {args.drain:g} s each", "", *table(header, rows, width=100), ""]
    goals += [
        Goal(f"memory, {args.backlog:,} pending, {each.name}", each.peak_mib, 60, "MiB", False)
        for each in seen
    ]
    found["memory"] = [each.as_json() for each in seen]


# The measured processes


def _here(task: dict[str, Any]) -> int:
    """Be one of them."""
    if task["role"] == "acknowledger":
        acknowledge_here(task["port"])
        return 1  # the broker is gone
    found = report_here(
        Path(task["state"]), task["port"], task["seconds"], task["warmup_s"], task["others"]
    ).as_json()
    sys.stdout.write(json.dumps(found) + "\n")
    return 0


def _in_new_process(task: dict[str, Any], limit_s: float) -> dict[str, Any]:
    command: Sequence[str] = plugmeter("bench", "telemetry", "--here", json.dumps(task))
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit_s, check=False)
    except subprocess.TimeoutExpired as error:
        raise PlugmeterError(f"the {task['role']} did not end within {error.timeout:g} s") from error
    if done.returncode:
        said = done.stderr.strip().splitlines()
        raise PlugmeterError(f"the {task['role']} failed: {said[-1] if said else done.returncode}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _sustained(found: dict[str, Any]) -> Sustained:
    return Sustained(**{name: value for name, value in found.items() if name != "per_s"})


def _folder(stack: ExitStack) -> Path:
    return Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="plugmeter-")))
