"""``plugmeter selftest``: does the instrument find a loss that is known?"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from plugmeter import config
from plugmeter.bench.selftest import LEAST_STICKS, Check, Outcome, selftest
from plugmeter.errors import UsageError
from plugmeter.reporting.files import write_text
from plugmeter.run import ready_interpreter

NAME = "selftest"
HELP = "provoke losses that are known, and see that the report names exactly those"
EPILOG = """\
examples:
  plugmeter selftest
  plugmeter selftest --sticks 96 --seed 3 --json -

Four runs of the injected rig, 10 to 20 seconds in all; neither root nor hardware needed:
  socket queue   the netlink witness gets the smallest buffer and stops reading for a while
  nothing lost   nothing is provoked, and nothing may be named
  udevd          a udevd that loses every 3rd uevent
  dead rig       the rig dies midway: the run must be INVALID
Beside them listens a control that loses nothing and shares no code with the witnesses: what it has and
a witness lacks is the loss that the report must name, stick by stick.

exit status: 0 every figure is as proven, 1 not, 2 bad usage
"""

_STICKS = 24
_MOST_STICKS = 1000
_SHOWN = 8
"""Of a list of losses, as text; the JSON has all."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``plugmeter selftest``."""
    parser.add_argument(
        "--sticks", type=int, default=_STICKS, metavar="N", help=f"sticks in each run (default: {_STICKS})"
    )
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="what is plugged when (default: 1)")
    parser.add_argument(
        "--json", metavar="FILE", help="write checks and reports as JSON; - is standard output, for the text"
    )


def run(args: argparse.Namespace) -> int:
    """Run all parts, say of each how it went."""
    if not LEAST_STICKS <= args.sticks <= _MOST_STICKS:
        raise UsageError(f"--sticks {args.sticks}: the self-test takes {LEAST_STICKS} to {_MOST_STICKS}")
    settings = config.default()
    rig = config.with_rig(settings.rig, {"sticks": args.sticks, "cycles": 1, "seed": args.seed})
    ready_interpreter()
    as_text = args.json != "-"
    outcomes = []
    for outcome in selftest(replace(settings, rig=rig)):
        outcomes.append(outcome)
        if as_text:
            sys.stdout.write(render(outcome))
            sys.stdout.flush()
    passed = all(outcome.passed for outcome in outcomes)
    if as_text:
        failed = [outcome.name for outcome in outcomes if not outcome.passed]
        print("PASS: every figure is as proven" if passed else f"FAIL: {', '.join(failed)}")
    if args.json:
        write_text("-" if args.json == "-" else Path(args.json), _as_json(outcomes, args))
    return 0 if passed else 1


def render(outcome: Outcome) -> str:
    """One part as text: what was done, and a line for each figure."""
    lines = [f"{outcome.name}: {outcome.did}"]
    lines += [f"  {line}" for check in outcome.checks for line in _rendered(check)]
    return "\n".join(lines) + "\n\n"


def _rendered(check: Check) -> list[str]:
    if check.passed:
        return [f"PASS  {check.what}: {_shown(check.expected)}"]
    return [
        f"FAIL  {check.what}",
        f"      proven: {_shown(check.expected)}",
        f"      named:  {_shown(check.named)}",
    ]


def _shown(value: object) -> str:
    match value:
        case bool():
            return "yes" if value else "no"
        case dict():
            return ", ".join(f"{name} {count}" for name, count in value.items() if count) or "none"
        case tuple():
            shown = [f"{port} #{ordinal} {action}" for port, ordinal, action, _ in value[:_SHOWN]]
            more = [f"and {len(value) - _SHOWN} more"] if len(value) > _SHOWN else []
            return ", ".join([*shown, *more]) or "none"
        case set():
            return ", ".join(sorted(value)) or "none"
        case _:
            return str(value)


def _as_json(outcomes: Sequence[Outcome], args: argparse.Namespace) -> str:
    said: dict[str, Any] = {
        "passed": all(outcome.passed for outcome in outcomes),
        "sticks": args.sticks,
        "seed": args.seed,
        "parts": [
            {
                "name": outcome.name,
                "did": outcome.did,
                "passed": outcome.passed,
                "checks": [
                    {
                        "what": check.what,
                        "expected": _plain(check.expected),
                        "named": _plain(check.named),
                        "passed": check.passed,
                    }
                    for check in outcome.checks
                ],
                "report": outcome.report,
            }
            for outcome in outcomes
        ],
    }
    return json.dumps(said, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def _plain(value: object) -> object:
    return sorted(value) if isinstance(value, set) else value
