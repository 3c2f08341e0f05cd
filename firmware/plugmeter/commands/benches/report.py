"""``plugmeter bench report``: how long the report of a long recording takes."""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

from plugmeter.bench.goals import Goal
from plugmeter.bench.synthetic import recording
from plugmeter.commands.benches.options import add_runs, count
from plugmeter.commands.benches.output import deliver, load_line, tell
from plugmeter.commands.replay import replayed
from plugmeter.measure import report
from plugmeter.recording import RecordingWriter

NAME = "report"
HELP = "how long the report of a long recording takes"
EPILOG = """\
A recording in the proportions of a run is made in memory and written to a temporary file. The time is
that of plugmeter replay: read, decode, the whole pipeline, the report as JSON; and, where the extra
'report' is installed, the HTML page with its plots (in the first run the import of matplotlib is within
it). Making the recording is not within.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``plugmeter bench report``."""
    add_runs(parser)
    parser.add_argument(
        "--records",
        type=count(100, 10_000_000),
        default=100_000,
        metavar="N",
        help="in the recording (default: 100000)",
    )


def run(args: argparse.Namespace) -> int:
    """Make a recording, and time its replay and report."""
    with tempfile.TemporaryDirectory(prefix="plugmeter-") as folder:
        path = Path(folder) / "synthetic.jsonl"
        records = _write_recording(path, args.records)
        times = []
        for number in range(args.runs):
            tell(f"run {number + 1} of {args.runs}: {records:,} records")
            times.append(_time_report(path))
        size_bytes = path.stat().st_size
    replay_s = statistics.median(each[0] for each in times)
    pages_s = [html_s for _, html_s in times if html_s is not None]
    html_s = statistics.median(pages_s) if pages_s else None
    lines = [
        f"{records:,} records, {size_bytes / 1e6:.1f} MB: replay and report {replay_s:.2f} s, "
        + (
            f"HTML page {html_s:.2f} s more"
            if html_s is not None
            else "no HTML page (the extra 'report' is not installed)"
        ),
        load_line(),
    ]
    goals = [
        Goal(
            f"report of {records:,} records" + (" with its page" if html_s else ""),
            replay_s + (html_s or 0),
            5,
            "s",
            False,
        )
    ]
    deliver(
        NAME,
        args.json,
        lines,
        {"records": records, "size_bytes": size_bytes, "report_s": replay_s, "html_s": html_s, "runs": times},
        goals,
    )
    return 0


def _write_recording(path: Path, wanted: int) -> int:
    records = 0
    with path.open("wb") as file:
        writer = RecordingWriter(file)
        for item in recording(wanted):
            writer.write(item)
            records += not isinstance(item, int)
    return records


def _time_report(path: Path) -> tuple[float, float | None]:
    """Seconds for the JSON report, and for the HTML page beyond it."""
    begun_s = time.perf_counter()
    made = report.build(replayed(str(path)))
    report.to_json(made)
    report_s = time.perf_counter() - begun_s
    if find_spec("matplotlib") is None or find_spec("jinja2") is None:
        return report_s, None
    from plugmeter.reporting import html  # with matplotlib behind it

    begun_s = time.perf_counter()
    html.render(made)
    return report_s, time.perf_counter() - begun_s
