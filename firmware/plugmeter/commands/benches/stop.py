"""``plugmeter bench stop``: how quickly the daemon ends."""

from __future__ import annotations

import argparse
import sys

from plugmeter.bench import stop
from plugmeter.bench.goals import Goal
from plugmeter.commands.benches.options import count
from plugmeter.commands.benches.output import deliver, load_line, tell
from plugmeter.reporting.table import table

NAME = "stop"
HELP = "how quickly it ends: SIGQUIT to stacks, SIGTERM to the end"
EPILOG = """\
examples:
  plugmeter bench stop
  plugmeter bench stop --runs 1000

Each run is a process of its own. SIGQUIT: from the signal to the last of the stacks on standard error, while
C code holds the interpreter's lock and another thread waits for it. SIGTERM: from the signal to the end of
the process, of a daemon that has the real lifecycle and toy parts: with nothing to publish, with a broker
that takes it all, and with a dead one, where the latency is what it takes beyond the deadline. A process that
does not end by itself with status 0 is an error. Starting is not timed.
"""

_DEAD_S = 0.3
_PENDING = 10_000
_PER_S = 100_000
_TOYS = {
    "nothing pending": (0, 0.0, 10.0),
    f"{_PENDING:,} pending, live broker": (_PENDING, float(_PER_S), 10.0),
    f"{_PENDING:,} pending, dead broker": (_PENDING, 0.0, _DEAD_S),
}
"""Name: pending records, acknowledgements a second, deadline of the drain in seconds."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``plugmeter bench stop``."""
    parser.add_argument(
        "--runs", type=count(1, 10_000), default=20, metavar="N", help="how often each (default: 20)"
    )
    parser.add_argument("--here", choices=["hold", *_TOYS], help=argparse.SUPPRESS)


def cases() -> list[stop.Case]:
    """What is stopped. Another daemon is another case here, and a goal in ``run``."""
    return [
        stop.Case(name, [*_program(), "--here", name], planned_s=0.0 if per_s or not pending else drain_s)
        for name, (pending, per_s, drain_s) in _TOYS.items()
    ]


def run(args: argparse.Namespace) -> int:
    """Start and stop, again and again."""
    if args.here == "hold":
        stop.hold_the_lock()
        return 1  # nobody sent SIGQUIT
    if args.here:
        stop.be_the_toy(*_TOYS[args.here])
    tell(f"{args.runs} times SIGQUIT")
    found = [stop.measure_quits([*_program(), "--here", "hold"], args.runs)]
    for case in cases():
        tell(f"{args.runs} stops: {case.name}")
        found.append(stop.measure_stops(case, args.runs))
    rows = [
        [each.name, f"{each.planned_ms:,.0f}"]
        + [f"{each.quantile(share):,.1f}" for share in (0.5, 0.99, 1.0)]
        for each in found
    ]
    quits, *_, dead = found
    goals = [
        Goal("SIGQUIT to stacks, the slowest", quits.ms[-1], 100, "ms", False),
        Goal("dead broker: beyond the deadline, the slowest", dead.ms[-1], 50, "ms", False),
    ]
    lines = [
        f"{args.runs} times each",
        "",
        *table(["", "planned ms", "p50 ms beyond", "p99", "slowest"], rows, width=100),
        load_line(),
    ]
    deliver(NAME, args.json, lines, {"runs": args.runs, "cases": [each.as_json() for each in found]}, goals)
    return 0


def _program() -> list[str]:
    python = [sys.executable] if getattr(sys, "frozen", False) else [sys.executable, "-m", "plugmeter"]
    return [*python, "bench", "stop"]
