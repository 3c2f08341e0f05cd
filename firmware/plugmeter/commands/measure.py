"""``plugmeter measure``: one run, from start to report."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

from plugmeter import config, equipment
from plugmeter.commands import outputs
from plugmeter.equipment import Plan
from plugmeter.errors import UsageError
from plugmeter.measure import report
from plugmeter.measure.pipeline import Pipeline
from plugmeter.recording import RecordingWriter
from plugmeter.reporting.progress import ProgressLine
from plugmeter.run import Stop, measure, ready_interpreter
from plugmeter.sections import Config

NAME = "measure"
HELP = "plug, watch, and say what was lost, where, and how sure that is"
EPILOG = """\
examples:
  plugmeter measure --rig injected --sticks 120 --cycles 5 --seed 7
      no hardware and no root needed: 600 plugs and 600 pulls through the kernel's uevent broadcast
  plugmeter measure --rig injected --density 20 --bounce contact --html report.html
  plugmeter measure --rig relay --config bench.toml --json report.json
  plugmeter measure --rig passive --config bench.toml --duration 60 --record run.jsonl
      you plug; the recording gives the same report again with: plugmeter replay run.jsonl

exit status: 0 the run is VALID (whatever it found), 1 it is INVALID or could not be made, 2 bad usage.
Ctrl-C ends the run early and reports what was seen; a second one ends it at once.
"""


_OF_THE_PLAN = {
    "sticks": "--sticks",
    "cycles": "--cycles",
    "ports": "--ports",
    "seed": "--seed",
    "gap_ms": "--gap-ms",
    "jitter_ms": "--jitter-ms",
    "density_per_s": "--density",
    "bounce": "--bounce",
}
"""The keys of [rig], and the options that win over them."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``plugmeter measure``."""
    parser.add_argument(
        "--rig", choices=equipment.RIGS, default="injected", help="who plugs (default: injected)"
    )
    parser.add_argument("--config", metavar="FILE", help="a configuration (TOML); see plugmeter check")
    plan = parser.add_argument_group(
        "what is plugged, where a rig does it (default: [rig] of the configuration)"
    )
    plan.add_argument("--sticks", type=int, metavar="N", help="how many different sticks take turns")
    plan.add_argument("--cycles", type=int, metavar="N", help="how often each is plugged and pulled")
    plan.add_argument("--ports", type=int, metavar="N", help="on how many ports (injected and gadget rigs)")
    plan.add_argument(
        "--seed", type=int, metavar="N", help="the same seed plugs the same sticks at the same times"
    )
    plan.add_argument(
        "--gap-ms", type=int, metavar="MS", help="least time between two changes of a port, from 50"
    )
    plan.add_argument("--jitter-ms", type=int, metavar="MS", help="how far each change may move")
    plan.add_argument(
        "--density", type=float, metavar="PER_S", dest="density_per_s", help="plugs a second over all ports"
    )
    plan.add_argument("--bounce", choices=("none", "contact", "dip"), help="how the contacts bounce")
    plan.add_argument("--duration", type=float, metavar="S", help="how long to watch (passive rig)")
    plan.add_argument(
        "--real-lines",
        action="store_true",
        help="injected rig: drive and sense the GPIO lines of [ports], not mock pins",
    )
    outputs.add_arguments(parser)
    parser.add_argument("--record", metavar="FILE", help="write all that was seen, for plugmeter replay")
    parser.add_argument(
        "--state", metavar="FILE", help="remember what is plugged, to tell what changed between two runs"
    )
    parser.add_argument("--quiet", action="store_true", help="no progress")


def run(args: argparse.Namespace) -> int:
    """Make the run and its report."""
    settings = _settings(args)
    outputs.check(args)
    if args.state and not Path(args.state).resolve().parent.is_dir():
        raise UsageError(f"--state {args.state}: there is no folder for it; make it, or name another file")
    asked = Plan(
        rig=args.rig,
        real_lines=args.real_lines,
        duration_s=args.duration,
        state=Path(args.state) if args.state else None,
    )
    return outputs.deliver(args, report.build(_measure(settings, asked, args)))


def _measure(settings: Config, asked: Plan, args: argparse.Namespace) -> Pipeline:
    progress = ProgressLine(sys.stderr, silent=args.quiet)
    with ExitStack() as stack:
        signals = stack.enter_context(_Signals())
        keep = stack.enter_context(_recording(args.record)).write if args.record else None
        gear = stack.enter_context(equipment.equipment(settings, asked, keep, _tell))
        ready_interpreter()
        signals.running = True
        try:
            return measure(gear, signals.stop, progress.show)
        finally:
            signals.running = False
            progress.done()


def _tell(note: str) -> None:
    print(f"plugmeter: {note}", file=sys.stderr)


@contextmanager
def _recording(name: str) -> Iterator[RecordingWriter]:
    try:
        file = open(name, "wb")  # noqa: SIM115  closed below, for its errors' sake
    except OSError as error:
        raise UsageError(f"--record {name}: {error.strerror}; give a file that can be written") from error
    try:
        yield RecordingWriter(file)
    finally:
        try:
            file.close()
        except OSError:
            pass  # the writer wrote all out at the run's end: what failed then is in the report


class _Signals:
    """SIGINT and SIGTERM: the first one in a run ends it gracefully; any other ends the command at once.

    At once, and yet tidily: as an exception, so that what was opened is closed and nothing is left behind.
    """

    def __init__(self) -> None:
        self.stop = Stop()
        self.running = False
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> _Signals:
        self._previous = {each: signal.signal(each, self._take) for each in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for each, before in self._previous.items():
            signal.signal(each, before)

    def _take(self, number: int, frame: FrameType | None) -> None:
        if self.running and not self.stop.asked:
            self.stop.ask()
        elif number == signal.SIGINT:
            raise KeyboardInterrupt
        else:
            raise SystemExit(128 + number)


def _settings(args: argparse.Namespace) -> Config:
    """The configuration, with what the command line says instead of it."""
    settings = config.load(args.config) if args.config else config.default()
    given = {name: value for name in _OF_THE_PLAN if (value := getattr(args, name)) is not None}
    if args.duration is not None and args.rig != "passive":
        raise UsageError("--duration is for --rig passive; the other rigs end with their plan")
    if args.real_lines and args.rig != "injected":
        raise UsageError("--real-lines is for --rig injected; the relay rig has real lines anyway")
    if given and args.rig == "passive":
        raise UsageError(
            f"{_OF_THE_PLAN[next(iter(given))]} is not for --rig passive, where you do the plugging"
        )
    if "ports" in given and (args.rig == "relay" or args.real_lines):
        rig = "--real-lines" if args.real_lines else "--rig relay"
        raise UsageError(f"--ports is not for {rig}, which takes the ports from [ports] of the configuration")
    return replace(settings, rig=config.with_rig(settings.rig, given))
