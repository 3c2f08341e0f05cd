"""``plugmeter bench``: what Plugmeter itself can do and costs, against others in the same run."""

from __future__ import annotations

import argparse

from plugmeter.commands.benches import (
    handoff,
    idle,
    listeners,
    outbox,
    receive,
    report,
    stop,
    telemetry,
    throughput,
)

NAME = "bench"
HELP = "measure Plugmeter itself: listeners, throughput, idle cost, outbox, telemetry, stopping and more"
EPILOG = """\
examples:
  plugmeter bench throughput            uevents a second against pyudev, and bursts that must add up
  plugmeter bench listeners             the same storm at plugmeter, pyudev and a plain socket
  plugmeter bench idle                  processor and memory while nothing happens
  plugmeter bench telemetry             records a second to the controller, bytes written, memory
  plugmeter bench WHAT --help           what it measures, and how

Storms blow in a network namespace of their own: nothing else on the machine sees them, and no root is
needed where the system lets a user have such namespaces. As an ordinary user receive buffers end at
net.core.rmem_max. Ratios are taken within one run, against the other program on the same machine at the
same time; figures are medians of --runs. On a machine that is busy with other things absolute figures are
worth little.

exit status: 0 measured, whether or not a goal is met; 1 it could not be, or a burst does not add up; 2
bad usage
"""

BENCHES = (listeners, handoff, receive, throughput, idle, report, outbox, telemetry, stop)
"""Each has what a command has: NAME, HELP, EPILOG, ``add_arguments`` and ``run``."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The sub-commands of ``plugmeter bench``."""
    subparsers = parser.add_subparsers(dest="what", metavar="WHAT", required=True)
    for bench in BENCHES:
        each = subparsers.add_parser(
            bench.NAME,
            help=bench.HELP,
            description=f"{bench.HELP[0].upper()}{bench.HELP[1:]}.",
            epilog=bench.EPILOG,
        )
        each.add_argument(
            "--json", metavar="FILE", help="write the figures; - is standard output, in place of the text"
        )
        bench.add_arguments(each)
        each.set_defaults(run_bench=bench.run)


def run(args: argparse.Namespace) -> int:
    """Measure what was asked for."""
    status: int = args.run_bench(args)
    return status
