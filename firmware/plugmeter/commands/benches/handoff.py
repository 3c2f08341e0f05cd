"""``plugmeter bench handoff``: what handing events from one thread to another costs."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from plugmeter.bench import handoff
from plugmeter.bench.goals import Goal
from plugmeter.commands.benches.options import add_runs
from plugmeter.commands.benches.output import deliver, load_line, tell
from plugmeter.reporting.table import table

NAME = "handoff"
HELP = "what handing events from one thread to another costs"
EPILOG = """\
Messages of 300 bytes go from a thread that has them by 64, as recvmmsg leaves them, to one that looks at
each. The time is wall time for both, from the first to the last. What the netlink witness uses is "ring".
Not eligible is what is unbounded, or drops without counting.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``plugmeter bench handoff``."""
    add_runs(parser)


def run(args: argparse.Namespace) -> int:
    """Time every candidate, and name the fastest that may be used."""
    tell(f"{args.runs} runs of {len(handoff.CANDIDATES)} candidates")
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
        load_line(),
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
    deliver(
        NAME,
        args.json,
        lines,
        {"runs": args.runs, "fastest_eligible": best.name, "candidates": [asdict(each) for each in results]},
        goals,
    )
    return 0
