"""Where a report goes: the options that every command with a report has, and their delivery."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from plugmeter.errors import UsageError
from plugmeter.measure.report import Report, to_json
from plugmeter.reporting import html, text
from plugmeter.reporting.files import write_text


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """--json and --html."""
    parser.add_argument(
        "--json", metavar="FILE", help="write the report as JSON; - is standard output, in place of the text"
    )
    parser.add_argument(
        "--html",
        metavar="FILE",
        help="write the report as one HTML page with plots (needs the extra 'report')",
    )


def check(args: argparse.Namespace) -> None:
    """Find out before a run of minutes whether its report can be written at all."""
    for option, name in (("--json", args.json), ("--html", args.html)):
        if name in (None, "-"):
            continue
        folder = Path(name).resolve().parent
        if not folder.is_dir():
            raise UsageError(f"{option} {name}: there is no folder {folder}; make it, or name another file")
        if Path(name).is_dir():
            raise UsageError(f"{option} {name}: that is a folder; name a file in it")
        special = Path(name).exists() and not Path(name).is_file()  # /dev/stdout, a FIFO: written to directly
        if not special and not os.access(folder, os.W_OK | os.X_OK):
            raise UsageError(f"{option} {name}: no permission to write in {folder}; name another file")
    _check_apart(args)
    if args.html:
        html.check_available()


def _check_apart(args: argparse.Namespace) -> None:
    """No two of the files of a command may be one: the later would overwrite the earlier."""
    taken: dict[str, str] = {}
    for name in ("config", "file", "record", "state", "json", "html"):
        value = getattr(args, name, None)
        if value in (None, "-"):
            continue
        place = os.path.realpath(value)
        if Path(place).exists() and not Path(place).is_file():
            continue  # /dev/null may well be named twice
        option = "FILE" if name == "file" else f"--{name}"
        if place in taken:
            raise UsageError(
                f"{taken[place]} and {option} are the same file, {value}; give each a file of its own"
            )
        taken[place] = option


def deliver(args: argparse.Namespace, report: Report) -> int:
    """Write the report to where it was asked for; the exit status that goes with it.

    Errors: PlugmeterError where a file cannot be written. What can be shown is shown before that.
    """
    if args.json == "-":
        sys.stdout.write(to_json(report))
    else:
        sys.stdout.write(text.render(report))
        sys.stdout.flush()
        if args.json:
            write_text(args.json, to_json(report))
    if args.html:
        write_text(args.html, html.render(report))
    return 0 if report["certificate"]["valid"] else 1
