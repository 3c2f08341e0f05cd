"""``plugmeter bench idle``: what waiting costs."""

from __future__ import annotations

import argparse
import json
import sys

from plugmeter.bench import idle
from plugmeter.bench.goals import Goal
from plugmeter.commands.benches.options import number
from plugmeter.commands.benches.output import deliver, tell
from plugmeter.rigs import namespace

NAME = "idle"
HELP = "what waiting costs"
EPILOG = """\
A new process opens all witnesses (mock pins for the lines), imports all but the report extras, and runs
as the device's daemon does, while nothing happens: it moves into a network namespace of its own for that.
CPU is user and system time of all its threads, in per cent of one core; memory is VmRSS at the end.
"""

_LOADED = ("plugmeter.equipment", "plugmeter.commands.measure", "plugmeter.commands.replay")
"""What the measured process of ``bench idle`` has imported: all that the device's daemon needs."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``plugmeter bench idle``."""
    parser.add_argument(
        "--seconds", type=number(1, 3600), default=30.0, metavar="S", help="how long (default: 30)"
    )
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)


def run(args: argparse.Namespace) -> int:
    """Wait in a new process, which is this command with ``--here``, and say what that took."""
    if args.here:
        namespace.enter()
        sys.stdout.write(json.dumps(idle.measure_here(args.seconds, _LOADED).as_json()) + "\n")
        return 0
    tell(f"waiting for {args.seconds:g} s")
    program = [sys.executable] if getattr(sys, "frozen", False) else [sys.executable, "-m", "plugmeter"]
    found = idle.measure_in_new_process(
        [*program, "bench", "idle", "--here", "--seconds", f"{args.seconds:g}"], args.seconds
    )
    lines = [
        f"{found.seconds:.1f} s idle: {found.cpu_percent:.2f} % of a core, {found.rss_mib:.1f} MiB, "
        f"{found.wakeups_per_s:.1f} wake-ups/s, {found.modules} modules, {found.uevents} uevents came",
        *([f"report extras were imported: {', '.join(found.extras)}"] if found.extras else []),
    ]
    goals = [
        Goal("processor", found.cpu_percent, 0.5, "% of a core", False),
        Goal("memory", found.rss_mib, 45, "MiB", False),
    ]
    deliver(NAME, args.json, lines, found.as_json(), goals)
    return 0
