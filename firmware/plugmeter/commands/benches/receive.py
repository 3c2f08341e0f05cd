"""``plugmeter bench receive``: what taking a uevent out of the socket costs."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from plugmeter.bench import receive
from plugmeter.commands.benches.options import add_runs, count
from plugmeter.commands.benches.output import deliver, load_line, tell
from plugmeter.reporting.table import table
from plugmeter.rigs import namespace

NAME = "receive"
HELP = "taking uevents out of the socket, recvmmsg against recv_into"
EPILOG = f"""\
examples:
  sudo plugmeter bench receive
  plugmeter bench receive --events 1000 --runs 20

recvmmsg takes up to a thousand messages in one system call, straight into the ring; the netlink witness
does so. recv_into takes one a call, and gives the interpreter's lock away and takes it back for each. A
backlog of short uevents waits in the socket, and a thread empties it: alone; and beside another one that
computes, as the pipeline does, a fixed {receive.WORK:,} turns. Timed is wall time until both are done, per
message; so what the reader takes of the lock shows beside, and so does the computing itself: compare the two
ways, not the two columns. The ratio is taken within each run. Nothing is parsed.

An ordinary user's buffer holds a smaller backlog (net.core.rmem_max; plugmeter advise), over which little
but the computing is seen: run with sudo for figures.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``plugmeter bench receive``."""
    add_runs(parser)
    parser.add_argument(
        "--events",
        type=count(1, 500_000),
        default=receive.EVENTS,
        metavar="N",
        help=f"in the backlog, or as many as the buffer holds (default: {receive.EVENTS})",
    )


def run(args: argparse.Namespace) -> int:
    """Time both ways, alone and beside a computing thread."""
    namespace.enter()
    tell(f"{args.runs} runs of {len(receive.WAYS)} ways, alone and beside a computing thread")
    results = receive.compare(args.runs, args.events)
    rows = [
        [
            each.way,
            f"{each.alone_us:.2f}",
            f"{each.beside_us:.2f}",
            f"{each.ratio_to_recv_into:.2f}",
        ]
        for each in results
    ]
    fewest = min(each.events for each in results)
    short = f" (of {args.events:,}: the buffer holds no more)" if fewest < args.events else ""
    lines = [
        f"{fewest:,} uevents in the backlog{short}, {args.runs} times each way",
        "",
        *table(["way", "alone, µs/event", "beside, µs/event", "× recv_into, beside"], rows),
        "",
        load_line(),
    ]
    deliver(NAME, args.json, lines, {"runs": args.runs, "ways": [asdict(each) for each in results]})
    return 0
