"""``plugmeter bench listeners``: the same storm at several listeners."""

from __future__ import annotations

import argparse

from plugmeter.bench import shootout
from plugmeter.bench.programs import PROGRAMS
from plugmeter.bench.storm import Storm
from plugmeter.commands.benches.options import add_runs, count, number
from plugmeter.commands.benches.output import deliver, load_line, tell
from plugmeter.errors import UsageError
from plugmeter.reporting.table import table
from plugmeter.rigs import namespace

NAME = "listeners"
HELP = "the same storm at several listeners"
EPILOG = """\
examples:
  plugmeter bench listeners
  plugmeter bench listeners --listener "udevadm monitor --kernel"
  plugmeter bench listeners --density 85 --seconds 10 --runs 3

Each listener runs in a process of its own and gets each storm alone. plugmeter is the netlink witness
with its default settings, pyudev its Monitor polled, plain a socket with a default buffer and one recv an
event. Latency is from injection to the listener's hands; for a command, to its line having been read. CPU
is user and system time of its whole process, start-up included. The rate is that of what it received, so
never above what was emitted.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``plugmeter bench listeners``."""
    add_runs(parser)
    parser.add_argument(
        "--listener",
        action="append",
        metavar="CMD",
        help=f"{', '.join(PROGRAMS)}, or a command that prints a line an event; more than once for several "
        f"(default: {', '.join(shootout.LISTENERS)}; a command comes beside these)",
    )
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--plugs", type=count(1, 1_000_000), metavar="N", help="at full speed (default: 1000)")
    how.add_argument("--density", type=number(0.1, 20_000), metavar="PER_S", help="plugs a second instead")
    parser.add_argument(
        "--seconds", type=number(0.1, 3600), metavar="S", help="how long, with --density (default: 5)"
    )


def run(args: argparse.Namespace) -> int:
    """Blow the storms at each listener, and say what each lost and took."""
    if args.seconds is not None and args.density is None:
        raise UsageError(
            "bench listeners: --seconds goes with --density; at full speed --plugs says how much"
        )
    if args.density is None:
        storm = Storm(args.plugs or 1000)
    else:
        storm = Storm(max(1, round(args.density * (args.seconds or 5.0))), args.density)
    asked = args.listener or []
    names = asked if any(name in PROGRAMS for name in asked) else [*shootout.LISTENERS, *asked]
    namespace.enter()
    found = shootout.compare(names, storm, args.runs, tell)
    rows = [
        [
            each.listener,
            f"{each.emitted:,}",
            f"{each.lost:,}",
            f"{each.lost / each.emitted * 100:.2f}",
            f"{each.ci95[0] * 100:.2f} … {each.ci95[1] * 100:.2f}",
            f"{each.median('events_per_s'):,.0f}",
            f"{each.median('latency_p50_us') / 1000:.2f}",
            f"{each.median('latency_p99_us') / 1000:.2f}",
            f"{each.median('cpu_us_per_event'):.1f}",
        ]
        for each in found
    ]
    header = ["listener", "uevents", "lost", "%", "95 %", "events/s", "p50 ms", "p99 ms", "µs CPU"]
    how = f"{storm.density_per_s:g} plugs/s" if storm.density_per_s else "full speed"
    lines = [
        f"{storm.plugs:,} plugs and pulls at {how}, {args.runs} times at each listener",
        "",
        *table(header, rows, width=100),
        "",
        "  lost: sum of all runs, its interval as if losses were independent; all else: medians",
        "  µs CPU: of the listener's process, for each event received",
        load_line(),
    ]
    deliver(
        NAME,
        args.json,
        lines,
        {
            "plugs": storm.plugs,
            "density": storm.density_per_s,
            "listeners": [each.as_json() for each in found],
        },
    )
    return 0
