"""``plugmeter bench outbox``: what the outbox writes for a record, and how many it takes a second."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from plugmeter.bench import outbox
from plugmeter.bench.goals import Goal
from plugmeter.commands.benches.options import add_runs, count
from plugmeter.commands.benches.output import deliver, load_line, tell
from plugmeter.reporting.table import table

NAME = "outbox"
HELP = "bytes written for a record, and records a second, through the outbox"
EPILOG = """\
A burst of records of 300 bytes is offered as fast as the outbox takes it, and committed durably (SQLite,
WAL, synchronous=FULL). "burst": bytes written until the last record is committed. "whole life": until all
are read, acknowledged and deleted, and the log is copied back. "JSON" is like a verdict, "random" cannot be
compressed. The peer is a table of plain sqlite3 that commits, and deletes, each record by itself. Bytes are
what the process gave to write(2) (/proc/self/io, wchar); the disk's own amplification is on top.
The files are in the folder for temporary files (TMPDIR): name one on the disk that is meant.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``plugmeter bench outbox``."""
    add_runs(parser)
    parser.add_argument(
        "--records",
        type=count(100, 1_000_000),
        default=50_000,
        metavar="N",
        help="records in a burst (default: 50000)",
    )


def run(args: argparse.Namespace) -> int:
    """Measure both kinds of records and the peer."""
    bursts, peer = outbox.measure(args.records, args.runs, tell)
    rows = [
        [
            each.what,
            f"{each.records:,}",
            f"{each.per_s:,.0f}",
            f"{each.per_s / peer.per_s:,.0f}",
            f"{each.burst_bytes:,.0f}",
            f"{each.life_bytes:,.0f}",
            f"{peer.life_bytes / each.life_bytes:,.1f}",
        ]
        for each in (*bursts, peer)
    ]
    lines = [
        *table(
            [
                "records of 300 B", "records", "records/s", "× peer", "bytes each, burst", "whole life",
                "peer ÷ this",
            ],
            rows,
            width=110,
        ),
        load_line(),
    ]  # fmt: skip
    worst = max(bursts, key=lambda each: each.burst_bytes)
    usual = next(each for each in bursts if each.what == "JSON")
    slowest = min(bursts, key=lambda each: each.per_s)
    goals = [
        Goal("bytes written for a record in a burst, the worse", worst.burst_bytes, 600, "bytes", False),
        Goal("the same in its whole life, JSON", usual.life_bytes, 600, "bytes", False),
        Goal("records a second, the slower", slowest.per_s, 20_000, "per second", True),
    ]
    deliver(
        NAME,
        args.json,
        lines,
        {"runs": args.runs, "bursts": [asdict(each) for each in bursts], "peer": asdict(peer)},
        goals,
    )
    return 0
