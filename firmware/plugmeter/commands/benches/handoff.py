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
Not eligible is what is unbounded, or drops without counting. When full, an eligible one drops nothing: its
producer waits and leaves its socket alone, whose queue in the kernel holds the rest and counts what it
drops (sk_drops in /proc/net/netlink). "batches": a whole batch is one item of the queue, as in the ring.
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
            each.when_full,
            "yes" if each.eligible else "no",
        ]
        for each in results
    ]
    best = min((each for each in results if each.eligible), key=lambda each: each.ns_per_event)
    lines = [
        *table(
            ["hand-off", "ns/event", "× queue.Queue", "blocks/event", "when full", "eligible"],
            rows,
            width=100,
        ),
        "",
        f"fastest eligible: {best.name}, {best.ratio_to_queue:.1f} times as fast as queue.Queue"
        + ("" if best.name == "ring" else f", {1 / best.ring_ratio:.2f} times as fast as our ring"),
        *(
            f"ring against {each.name}: {each.ring_ratio:.2f} times as fast"
            for each in results
            if each.eligible and each.name != "ring"
        ),
        "what the ring gains on a queue of batches is its own; all else on queue.Queue is batching",
        *(f"what one pays for {each.name}: {each.price}" for each in results),
        load_line(),
    ]
    goals = [
        Goal(
            "the ring against queue.Queue, message by message",
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
