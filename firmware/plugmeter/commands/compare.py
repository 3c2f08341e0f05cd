"""``plugmeter compare A B``: two reports side by side."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from plugmeter.reporting import comparison
from plugmeter.reporting.files import write_text
from plugmeter.reporting.schema import read_report

NAME = "compare"
HELP = "show two reports side by side, for instance arm64 against x86-64"
EPILOG = """examples:
  plugmeter compare arm64.json x86-64.json
  plugmeter compare before.json after.json --json difference.json

Latencies come with their ratio, losses with their intervals. An INVALID report is shown with a warning,
and its losses are not compared."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of ``compare``."""
    parser.add_argument(
        "a", metavar="A", type=Path, help="a report, as written by 'plugmeter measure --json'"
    )
    parser.add_argument("b", metavar="B", type=Path, help="the report to hold against it")
    parser.add_argument(
        "--json",
        nargs="?",
        const="-",
        metavar="FILE",
        help="write the comparison as JSON instead, to FILE or to standard output",
    )


def run(args: argparse.Namespace) -> int:
    """Compare and print; 0 also where a report is INVALID, since that is said first."""
    found = comparison.compare(read_report(args.a), read_report(args.b))
    if args.json is None:
        write_text("-", comparison.render(found))
    else:
        write_text(args.json, json.dumps(found, indent=2, ensure_ascii=False) + "\n")
    return 0
