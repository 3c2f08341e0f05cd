"""``plugmeter sweep``: loss against density, for any listener."""

from __future__ import annotations

import argparse
import json
import math
import sys
from importlib.util import find_spec
from typing import Any

from plugmeter.bench.programs import PROGRAMS
from plugmeter.bench.sweep import (
    FOLKLORE,
    GOOD_RATE,
    IDLE_PER_S,
    Judged,
    Knee,
    Point,
    judge,
    knee,
    sweep,
    verdict,
)
from plugmeter.errors import UsageError
from plugmeter.reporting.charts import missing_extra
from plugmeter.reporting.files import write_text
from plugmeter.reporting.sweep_chart import sweep_chart
from plugmeter.reporting.table import table
from plugmeter.rigs import namespace

NAME = "sweep"
HELP = "find the density of plugs at which a listener begins to lose events"
EPILOG = """\
examples:
  plugmeter sweep                       a plain socket with a default buffer that does nothing with its
                                        events: on most machines it loses nothing at these densities
  plugmeter sweep --handler-ms 0.3      the same with a third of a millisecond of work an event, as many a
                                        callback has: now it loses, and about as much as the folklore has it
  plugmeter sweep --listener pyudev --handler-ms 0.5 --chart sweep.svg
  plugmeter sweep --listener "udevadm monitor --kernel" --densities 100,1000,2000 --seconds 2 --json -

A plug is a whole stick: 16 uevents when it comes and 16 when it goes, put on the kernel's broadcast in a
network namespace of its own, so nothing else on the machine sees them. Loss counts uevents. The knee is the
greatest density whose loss may be under 0.1 % (its 95 % interval reaches down to that), with all lower ones.
A command of yours prints one line an event, with the devpath in it; its handler time is its own.

exit status: 0 measured, whatever the loss; 1 it could not be; 2 bad usage
"""

DENSITIES = (10.0, 30.0, 60.0, 85.0, 110.0, 200.0, 400.0)
SECONDS = 4.0
_MOST_PER_S = 20_000.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``plugmeter sweep``."""
    parser.add_argument(
        "--listener",
        default="plain",
        metavar="NAME",
        help=f"{', '.join(PROGRAMS)}, or a command that prints a line an event (default: plain)",
    )
    parser.add_argument(
        "--handler-ms",
        type=float,
        default=0.0,
        metavar="MS",
        help="how long it works on each event (default: 0)",
    )
    parser.add_argument(
        "--densities",
        type=_densities,
        default=DENSITIES,
        metavar="N,N,...",
        help=f"plugs a second (default: {','.join(f'{each:g}' for each in DENSITIES)})",
    )
    parser.add_argument(
        "--seconds", type=float, default=SECONDS, metavar="S", help=f"each storm (default: {SECONDS:g})"
    )
    parser.add_argument("--json", metavar="FILE", help="write the figures; - is standard output")
    parser.add_argument("--chart", metavar="FILE", help="draw them, as SVG (needs the extra 'report')")


def _densities(text: str) -> tuple[float, ...]:
    try:
        found = tuple(float(part) for part in text.split(",") if part.strip())
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of numbers such as 10,85,110") from error
    if not found or not all(0 < each <= _MOST_PER_S for each in found):
        raise argparse.ArgumentTypeError(f"densities are from above 0 to {_MOST_PER_S:g} plugs a second")
    return found


def run(args: argparse.Namespace) -> int:
    """Sweep, and say what was found."""
    _check(args)
    if args.chart and find_spec("matplotlib") is None:  # better said now than after the storms
        raise missing_extra("charts")
    namespace.enter()
    points = sweep(args.listener, args.densities, args.seconds, args.handler_ms, tell=_tell)
    at = knee(points)
    judged = judge(points) if args.listener == "plain" else []
    found = _as_json(args, points, at, judged)
    if args.json == "-":
        write_text("-", json.dumps(found, indent=2) + "\n")
    else:
        sys.stdout.write(_text(args, points, at, judged))
        sys.stdout.flush()
        if args.json:
            write_text(args.json, json.dumps(found, indent=2) + "\n")
    if args.chart:
        folklore = [
            {"density": each.density, "loss_rate": each.loss_rate} for each in FOLKLORE if each.density
        ]
        title = f"{args.listener}, {args.handler_ms:g} ms an event"
        between = None if at.first_bad is None else at.last_good  # with no bad density the last is no knee
        write_text(
            args.chart,
            sweep_chart(found["points"], folklore if judged else (), knee=between, title=title),
        )
    return 0


def _check(args: argparse.Namespace) -> None:
    for option, value, low, high in (
        ("--seconds", args.seconds, 0.1, 3600),
        ("--handler-ms", args.handler_ms, 0, 1000),
    ):
        if not low <= value <= high or math.isnan(value):
            raise UsageError(f"sweep: {option} is from {low:g} to {high:g}, not {value:g}")
    if args.handler_ms and args.listener not in PROGRAMS:
        raise UsageError(
            "sweep: --handler-ms is for listeners of ours; a command of yours works as long as it works"
        )
    storms_s = args.seconds * len(args.densities)
    sys.stderr.write(
        f"{len(args.densities)} storms of {args.seconds:g} s and at most 3 more: "
        f"about {storms_s * 1.2:.0f} s\n"
    )


def _tell(point: Point) -> None:
    trial = point.trial
    sys.stderr.write(
        f"{point.density:g} plugs/s: {trial.lost:,} of {trial.emitted:,} uevents lost"
        f"{' (looking for the knee)' if point.refined else ''}"
        f"{f'; {trial.cut_bytes:,} bytes of over-long lines not looked at' if trial.cut_bytes else ''}\n"
    )
    sys.stderr.flush()


def _as_json(args: argparse.Namespace, points: list[Point], at: Knee, judged: list[Judged]) -> dict[str, Any]:
    return {
        "schema": "plugmeter-sweep/1",
        "listener": args.listener,
        "handler_ms": args.handler_ms,
        "seconds": args.seconds,
        "good_rate": GOOD_RATE,
        "points": [point.as_json() for point in points],
        "knee": {"last_good": at.last_good, "first_bad": at.first_bad},
        "folklore": {
            "answer": verdict(judged),
            "sayings": [each.as_json() for each in judged],
        }
        if judged
        else None,
    }


def _text(args: argparse.Namespace, points: list[Point], at: Knee, judged: list[Judged]) -> str:
    rows = [
        [
            f"{point.density:g}",
            f"{point.trial.plugs_per_s:.1f}",
            f"{point.trial.emitted:,}",
            f"{point.trial.lost:,}",
            _percent(point.trial.loss_rate),
            _interval(point.trial.ci95),
            f"{point.trial.latency_p99_us / 1000:.1f}",
        ]
        for point in points
    ]
    header = ["plugs/s", "had", "uevents", "lost", "loss", "95 %", "p99 ms"]
    lines = [
        f"Listener {args.listener}, {args.handler_ms:g} ms an event, storms of {args.seconds:g} s",
        "",
        *table(header, rows, left=0),
        "",
        _knee_line(at),
    ]
    if judged:
        lines += ["", f"Folklore: {verdict(judged)} on this machine, with {args.handler_ms:g} ms an event"]
        lines += [f"  {_saying_line(each)}" for each in judged]
    return "\n".join(lines) + "\n"


def _knee_line(at: Knee) -> str:
    if at.first_bad is None:
        return f"Knee: none up to {at.last_good:g} plugs/s"
    if at.last_good is None:
        return f"Knee: below {at.first_bad:g} plugs/s; try lower densities"
    beyond = f"at {at.first_bad:g} the loss is above {_percent(GOOD_RATE)} beyond doubt"
    return f"Knee: {at.last_good:g} plugs/s; {beyond}"


def _saying_line(each: Judged) -> str:
    where = f"at {each.saying.density:g} plugs/s" if each.saying.density else "when idle"
    said = f"{_percent(each.saying.loss_rate)} {where}: {each.answer}"
    if each.point is None:
        wanted = f"{each.saying.density:g}" if each.saying.density else f"{IDLE_PER_S:g} or less"
        return f"{said}; add {wanted} to --densities"
    at = "" if each.saying.density else f" at {each.point.density:g} plugs/s"
    return f"{said}; measured {_percent(each.point.trial.loss_rate)}{at} ({_interval(each.point.trial.ci95)})"


def _percent(rate: float) -> str:
    return f"{rate * 100:.2f} %" if 0 < rate < 0.1 else f"{rate * 100:.1f} %"


def _interval(bounds: tuple[float, float]) -> str:
    return f"{bounds[0] * 100:.2f} … {bounds[1] * 100:.2f} %"
