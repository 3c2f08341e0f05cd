"""``plugmeter bench outbox``: what the outbox writes for a record, and how many it takes a second."""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import asdict
from pathlib import Path

from plugmeter.bench import outbox, writing
from plugmeter.bench.goals import Goal
from plugmeter.commands.benches.options import add_runs, count
from plugmeter.commands.benches.output import deliver, load_line, tell
from plugmeter.reporting.table import table
from plugmeter.sections import Config
from plugmeter.telemetry.outbox import limits_of

NAME = "outbox"
HELP = "bytes written for a record, and records a second, through the outbox"
EPILOG = """\
A burst of records of 300 bytes is offered as fast as the outbox takes it, and committed durably (SQLite,
WAL, synchronous=FULL). "burst": bytes written until the last record is committed. "whole life": until all
are read, acknowledged and deleted, and the log is copied back. "JSON" is like a verdict, "random" cannot be
compressed. The peer is a table of plain sqlite3 that commits, and deletes, each record by itself. Bytes are
what the process gave to write(2) (/proc/self/io, wchar); the disk's own amplification is on top.
Small bursts come one after the other, each a commit of its own, and its acknowledgement another one; or
never acknowledged, as with a dead broker. "to the disk" is what the kernel sends on (write_bytes), in pages.
The files are in the folder for temporary files (TMPDIR): name one on the disk that is meant.
"""

_BURST = 100
_SMALL = (
    ("verdicts", 20, True),
    ("verdicts", _BURST, True),
    ("verdicts", 1_000, True),
    ("verdicts", _BURST, False),
    ("noise", _BURST, True),
)
"""Records, how many in a burst, whether they are acknowledged."""
_LIMITS = limits_of(Config().outbox)


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
    parser.add_argument(
        "--bursts", type=count(1, 100_000), default=300, metavar="N", help="small ones (default: 300)"
    )


def run(args: argparse.Namespace) -> int:
    """Measure both kinds of records and the peer, and small bursts."""
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
    small = _small(args.bursts, args.runs)
    lines = [
        *table(
            [
                "records of 300 B", "records", "records/s", "× peer", "bytes each, burst", "whole life",
                "peer ÷ this",
            ],
            rows,
            width=110,
        ),
        "",
        *table(
            [f"{args.bursts} small bursts", "records each", "bytes each", "to the disk"],
            [
                [
                    f"{each.source}, {'acknowledged' if each.acknowledged else 'never acknowledged'}",
                    f"{each.burst:,}",
                    f"{each.bytes_per_record:,.0f}",
                    f"{each.disk_bytes_per_record:,.0f}",
                ]
                for each in small
            ],
            width=110,
        ),
        load_line(),
    ]  # fmt: skip
    worst = max(bursts, key=lambda each: each.burst_bytes)
    usual = next(each for each in bursts if each.what == "JSON")
    slowest = min(bursts, key=lambda each: each.per_s)
    hundred = next(each for each in small if each.burst == _BURST)
    goals = [
        Goal("bytes written for a record in a burst, the worse", worst.burst_bytes, 600, "bytes", False),
        Goal("the same in its whole life, JSON", usual.life_bytes, 600, "bytes", False),
        Goal(f"the same in bursts of {_BURST}", hundred.bytes_per_record, 600, "bytes", False),
        Goal("records a second, the slower", slowest.per_s, 20_000, "per second", True),
    ]
    deliver(
        NAME,
        args.json,
        lines,
        {
            "runs": args.runs,
            "bursts": [asdict(each) for each in bursts],
            "peer": asdict(peer),
            "small_bursts": [each.as_json() for each in small],
        },
        goals,
    )
    return 0


def _small(bursts: int, runs: int) -> list[writing.Written]:
    """Medians, by size and what becomes of them."""
    found = []
    for source, burst, acknowledged in _SMALL:
        tell(f"{runs} times {bursts} bursts of {burst} {source}")
        written = []
        for _ in range(runs):
            with tempfile.TemporaryDirectory(prefix="plugmeter-bench-") as folder:
                written.append(writing.measure(Path(folder), _LIMITS, source, burst, bursts, acknowledged))
        found.append(sorted(written, key=lambda each: each.bytes_per_record)[len(written) // 2])
    return found
