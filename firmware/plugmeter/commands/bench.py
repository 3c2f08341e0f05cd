"""``plugmeter bench``: what Plugmeter itself can do and costs, against others in the same run."""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeAlias

from plugmeter.bench import handoff, idle, shootout, throughput
from plugmeter.bench.goals import Goal, host
from plugmeter.bench.programs import PROGRAMS
from plugmeter.bench.storm import Storm
from plugmeter.bench.synthetic import recording
from plugmeter.commands.replay import replayed
from plugmeter.errors import UsageError
from plugmeter.measure import report
from plugmeter.recording import RecordingWriter
from plugmeter.reporting.files import write_text
from plugmeter.reporting.table import table
from plugmeter.rigs import namespace

NAME = "bench"
HELP = "measure Plugmeter itself: against other listeners, its hand-off, throughput, idle cost, report"
EPILOG = """\
examples:
  plugmeter bench throughput            uevents a second against pyudev, and bursts that must add up
  plugmeter bench listeners             the same storm at plugmeter, pyudev and a plain socket
  plugmeter bench idle                  processor and memory while nothing happens
  plugmeter bench WHAT --help           what it measures, and how

Storms blow in a network namespace of their own: nothing else on the machine sees them, and no root is
needed where the system lets a user have such namespaces. As an ordinary user receive buffers end at
net.core.rmem_max. Ratios are taken within one run, against the other program on the same machine at the
same time; figures are medians of --runs. On a machine that is busy with other things absolute figures are
worth little.

exit status: 0 measured, whether or not a goal is met; 1 it could not be, or a burst does not add up; 2
bad usage
"""

_LOADED = ("plugmeter.daemon", "plugmeter.commands.measure", "plugmeter.commands.replay")
"""What the measured process of ``bench idle`` has imported: all that the device's daemon needs."""

Found: TypeAlias = dict[str, Any]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The sub-commands of ``plugmeter bench``."""
    subparsers = parser.add_subparsers(dest="what", metavar="WHAT", required=True)

    def sub(
        name: str, help_: str, text: str, run_: Callable[[argparse.Namespace], int], runs: int
    ) -> argparse.ArgumentParser:
        each = subparsers.add_parser(
            name, help=help_, description=f"{help_[0].upper()}{help_[1:]}.", epilog=text
        )
        each.add_argument(
            "--json", metavar="FILE", help="write the figures; - is standard output, in place of the text"
        )
        if runs:
            each.add_argument(
                "--runs", type=_count(1, 100), default=runs, metavar="N", help=f"how often (default: {runs})"
            )
        each.set_defaults(run_bench=run_)
        return each

    listeners = sub("listeners", "the same storm at several listeners", _LISTENERS_TEXT, _run_listeners, 5)
    listeners.add_argument(
        "--listener",
        action="append",
        metavar="CMD",
        help=f"{', '.join(PROGRAMS)}, or a command that prints a line an event; more than once for several "
        f"(default: {', '.join(shootout.LISTENERS)}; a command comes beside these)",
    )
    how = listeners.add_mutually_exclusive_group()
    how.add_argument("--plugs", type=_count(1, 1_000_000), metavar="N", help="at full speed (default: 1000)")
    how.add_argument("--density", type=_number(0.1, 20_000), metavar="PER_S", help="plugs a second instead")
    listeners.add_argument(
        "--seconds", type=_number(0.1, 3600), metavar="S", help="how long, with --density (default: 5)"
    )
    sub("handoff", "what handing events from one thread to another costs", _HANDOFF_TEXT, _run_handoff, 5)
    through = sub("throughput", "uevents a second, against pyudev", _THROUGHPUT_TEXT, _run_throughput, 5)
    through.add_argument(
        "--events",
        type=_count(100, 10_000_000),
        default=80_000,
        metavar="N",
        help="for the capacity (default: 80000)",
    )
    through.add_argument(
        "--burst",
        type=_count(100, 10_000_000),
        default=throughput.BURST_EVENTS,
        metavar="N",
        help="for a burst (default: 100000)",
    )
    idling = sub("idle", "what waiting costs", _IDLE_TEXT, _run_idle, 0)
    idling.add_argument(
        "--seconds", type=_number(1, 3600), default=30.0, metavar="S", help="how long (default: 30)"
    )
    idling.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    reporting = sub("report", "how long the report of a long recording takes", _REPORT_TEXT, _run_report, 5)
    reporting.add_argument(
        "--records",
        type=_count(100, 10_000_000),
        default=100_000,
        metavar="N",
        help="in the recording (default: 100000)",
    )


def run(args: argparse.Namespace) -> int:
    """Measure what was asked for."""
    status: int = args.run_bench(args)
    return status


def _count(low: int, high: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        try:
            value = int(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"{text!r} is no whole number") from error
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{value} is not within {low} to {high}")
        return value

    return read


def _number(low: float, high: float) -> Callable[[str], float]:
    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"{text!r} is no number") from error
        if math.isnan(value) or not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{value:g} is not within {low:g} to {high:g}")
        return value

    return read


def _tell(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def _deliver(args: argparse.Namespace, lines: list[str], found: Found, goals: list[Goal]) -> None:
    found = {"schema": f"plugmeter-bench-{args.what}/1", "host": host(), **found}
    if goals:
        found["goals"] = [goal.as_json() for goal in goals]
        rows = [
            [
                goal.what,
                f"{goal.figure:,.2f} {goal.unit}".rstrip(),
                f"{'≥' if goal.at_least else '≤'} {goal.goal:,g}",
                "met" if goal.met else "not met",
            ]
            for goal in goals
        ]
        lines = [*lines, "", *table(["goal", "measured", "wanted", ""], rows, width=100)]
    if args.json == "-":
        write_text("-", json.dumps(found, indent=2) + "\n")
        return
    sys.stdout.write("\n".join(lines) + "\n")
    sys.stdout.flush()
    if args.json:
        write_text(args.json, json.dumps(found, indent=2) + "\n")


def _load_line() -> str:
    return (
        f"{os.cpu_count()} processors, load {os.getloadavg()[0]:.1f} at the end (above 1 the figures suffer)"
    )


# -- listeners --------------------------------------------------------------------------------------

_LISTENERS_TEXT = """\
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


def _run_listeners(args: argparse.Namespace) -> int:
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
    found = shootout.compare(names, storm, args.runs, _tell)
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
        _load_line(),
    ]
    _deliver(
        args,
        lines,
        {
            "plugs": storm.plugs,
            "density": storm.density_per_s,
            "listeners": [each.as_json() for each in found],
        },
        [],
    )
    return 0


# -- handoff ----------------------------------------------------------------------------------------

_HANDOFF_TEXT = """\
Messages of 300 bytes go from a thread that has them by 64, as recvmmsg leaves them, to one that looks at
each. The time is wall time for both, from the first to the last. What the netlink witness uses is "ring".
Not eligible is what is unbounded, or drops without counting.
"""


def _run_handoff(args: argparse.Namespace) -> int:
    _tell(f"{args.runs} runs of {len(handoff.CANDIDATES)} candidates")
    results = handoff.compare(runs=args.runs)
    rows = [
        [
            each.name,
            f"{each.ns_per_event:,.0f}",
            f"{each.ratio_to_queue:.1f}",
            f"{each.blocks_per_event:.1f}",
            "yes" if each.eligible else "no",
        ]
        for each in results
    ]
    best = min((each for each in results if each.eligible), key=lambda each: each.ns_per_event)
    lines = [
        *table(["hand-off", "ns/event", "× queue.Queue", "blocks/event", "eligible"], rows),
        "",
        f"fastest eligible: {best.name}, {best.ratio_to_queue:.1f} times as fast as queue.Queue",
        *(f"what one pays for {each.name}: {each.price}" for each in results),
        _load_line(),
    ]
    goals = [
        Goal(
            "the ring against queue.Queue",
            next(r.ratio_to_queue for r in results if r.name == "ring"),
            5,
            "×",
            True,
        )
    ]
    _deliver(
        args,
        lines,
        {"runs": args.runs, "fastest_eligible": best.name, "candidates": [asdict(each) for each in results]},
        goals,
    )
    return 0


# -- throughput -------------------------------------------------------------------------------------

_THROUGHPUT_TEXT = f"""\
Capacity: the listener's queue is filled with the uevents of sticks (of their usb_device alone, for the
pipeline) while it waits; then the time is taken until it has had them all. So the figure is what the
listener can sustain, whoever emits. pyudev is its Monitor, polled, with as large a buffer: bare, nothing
is asked of its devices; with fields read, the six that each record of ours holds. Burst: 100,000 uevents
at the kernel's full speed at a witness that reads as ever; once with the default settings, once with a
buffer of {throughput.SMALL_BUFFER_BYTES:,} bytes and a reader that rests now and then, where what is
delivered and what the witness knows to have lost must be what was emitted, to the last one. An ordinary
user's buffer is too small for the burst: run with sudo for the goals.
"""


def _run_throughput(args: argparse.Namespace) -> int:
    namespace.enter()
    found = throughput.measure(args.runs, args.events, args.burst, _tell)
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
        _load_line(),
    ]
    goals = [
        Goal("netlink witness", found.witness_per_s, 200_000, "/s", True),
        Goal("netlink witness against pyudev's bare polling", found.witness_ratio, 5, "×", True),
        Goal("netlink witness against pyudev, fields read", found.witness_ratio_fields, 5, "×", True),
        Goal("whole pipeline against pyudev's bare polling", found.pipeline_ratio, 2, "×", True),
        Goal("lost in bursts with default settings", found.burst_lost, 0, "", False),
    ]
    _deliver(args, lines, found.as_json(), goals)
    return 0 if found.accounted else 1


# -- idle -------------------------------------------------------------------------------------------

_IDLE_TEXT = """\
A new process opens all witnesses (mock pins for the lines), imports all but the report extras, and runs
as the device's daemon does, while nothing happens: it moves into a network namespace of its own for that.
CPU is user and system time of all its threads, in per cent of one core; memory is VmRSS at the end.
"""


def _run_idle(args: argparse.Namespace) -> int:
    if args.here:
        namespace.enter()
        sys.stdout.write(json.dumps(idle.measure_here(args.seconds, _LOADED).as_json()) + "\n")
        return 0
    _tell(f"waiting for {args.seconds:g} s")
    program = [sys.executable] if getattr(sys, "frozen", False) else [sys.executable, "-m", "plugmeter"]
    found = idle.measure_in_new_process(
        [*program, "bench", "idle", "--here", "--seconds", f"{args.seconds:g}"], args.seconds
    )
    lines = [
        f"{found.seconds:.1f} s idle: {found.cpu_percent:.2f} % of a core, {found.rss_mib:.1f} MiB, "
        f"{found.wakeups_per_s:.1f} wake-ups/s, {found.modules} modules, {found.uevents} uevents came",
        *([f"report extras were imported: {', '.join(found.extras)}"] if found.extras else []),
    ]
    goals = [
        Goal("processor", found.cpu_percent, 0.5, "% of a core", False),
        Goal("memory", found.rss_mib, 45, "MiB", False),
    ]
    _deliver(args, lines, found.as_json(), goals)
    return 0


# -- report -----------------------------------------------------------------------------------------

_REPORT_TEXT = """\
A recording in the proportions of a run is made in memory and written to a temporary file. The time is
that of plugmeter replay: read, decode, the whole pipeline, the report as JSON; and, where the extra
'report' is installed, the HTML page with its plots (in the first run the import of matplotlib is within
it). Making the recording is not within.
"""


def _run_report(args: argparse.Namespace) -> int:
    with tempfile.TemporaryDirectory(prefix="plugmeter-") as folder:
        path = Path(folder) / "synthetic.jsonl"
        records = _write_recording(path, args.records)
        times = []
        for number in range(args.runs):
            _tell(f"run {number + 1} of {args.runs}: {records:,} records")
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
        _load_line(),
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
    _deliver(
        args,
        lines,
        {"records": records, "size_bytes": size_bytes, "report_s": replay_s, "html_s": html_s, "runs": times},
        goals,
    )
    return 0


def _write_recording(path: Path, count: int) -> int:
    records = 0
    with path.open("wb") as file:
        writer = RecordingWriter(file)
        for item in recording(count):
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
