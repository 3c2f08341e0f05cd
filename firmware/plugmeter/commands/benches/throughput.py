"""``plugmeter bench throughput``: uevents a second against pyudev, and bursts that must add up."""

from __future__ import annotations

import argparse
import statistics

from plugmeter.bench import throughput
from plugmeter.bench.goals import Goal
from plugmeter.commands.benches.options import add_runs, count
from plugmeter.commands.benches.output import deliver, load_line, tell
from plugmeter.reporting.table import table
from plugmeter.rigs import namespace

NAME = "throughput"
HELP = "uevents a second, against pyudev"
EPILOG = f"""\
Capacity: the listener's queue is filled with the uevents of sticks (of their usb_device alone, for the
pipeline) while it waits; then the time is taken until it has had them all. So the figure is what the
listener can sustain, whoever emits. pyudev is its Monitor, polled, with as large a buffer: bare, nothing
is asked of its devices; with fields read, the six that each record of ours holds. Burst: 100,000 uevents
at the kernel's full speed at a witness that reads as ever; once with the default settings, once with a
buffer of {throughput.SMALL_BUFFER_BYTES:,} bytes and a reader that rests now and then, where what is
delivered and what the witness knows to have lost must be what was emitted, to the last one. An ordinary
user's buffer is too small for the burst: run with sudo for the goals.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``plugmeter bench throughput``."""
    add_runs(parser)
    parser.add_argument(
        "--events",
        type=count(100, 10_000_000),
        default=80_000,
        metavar="N",
        help="for the capacity (default: 80000)",
    )
    parser.add_argument(
        "--burst",
        type=count(100, 10_000_000),
        default=throughput.BURST_EVENTS,
        metavar="N",
        help="for a burst (default: 100000)",
    )


def run(args: argparse.Namespace) -> int:
    """Measure capacity and bursts; 1 where a burst does not add up."""
    namespace.enter()
    found = throughput.measure(args.runs, args.events, args.burst, tell)
    rows = [
        [
            "netlink witness",
            f"{found.witness_per_s:,.0f}",
            f"{found.witness_cpu_us:.2f}",
            f"{found.witness_ratio:.1f}",
        ],
        ["pyudev, bare polling", f"{found.pyudev_per_s:,.0f}", f"{found.pyudev_cpu_us:.2f}", "1.0"],
        [
            "pyudev, fields read",
            f"{found.pyudev_fields_per_s:,.0f}",
            f"{found.pyudev_fields_cpu_us:.2f}",
            f"{found.witness_ratio / found.witness_ratio_fields:.1f}",
        ],
        [
            "pipeline, usb_device only",
            f"{found.pipeline_per_s:,.0f}",
            f"{found.pipeline_cpu_us:.2f}",
            f"{found.pipeline_ratio:.1f}",
        ],
    ]
    emitted = sum(each.emitted for each in found.squeezed)
    known = sum(each.known_lost for each in found.squeezed)
    lines = [
        *table(["capacity", "events/s", "µs CPU/event", "× pyudev"], rows),
        "",
        f"burst, default settings: {found.burst_lost:,} of {sum(b.emitted for b in found.bursts):,} lost, "
        "emitted at "
        f"{statistics.median(b.emitted_per_s for b in found.bursts):,.0f}/s",
        f"burst, small buffer: emitted {emitted:,} = delivered {sum(b.delivered for b in found.squeezed):,} "
        f"+ known lost {known:,}"
        if found.accounted
        else "burst: DOES NOT ADD UP, delivered + known lost is not what was emitted; this is a defect",
        load_line(),
    ]
    goals = [
        Goal("netlink witness", found.witness_per_s, 200_000, "/s", True),
        Goal("netlink witness against pyudev's bare polling", found.witness_ratio, 5, "×", True),
        Goal("netlink witness against pyudev, fields read", found.witness_ratio_fields, 5, "×", True),
        Goal("whole pipeline against pyudev's bare polling", found.pipeline_ratio, 2, "×", True),
        Goal("lost in bursts with default settings", found.burst_lost, 0, "", False),
    ]
    deliver(NAME, args.json, lines, found.as_json(), goals)
    return 0 if found.accounted else 1
