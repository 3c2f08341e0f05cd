"""Where the figures of a bench go: a table and its goals, and JSON."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from typing import Any

from plugmeter.bench.goals import Goal, host
from plugmeter.reporting.files import write_text
from plugmeter.reporting.table import table


def tell(line: str) -> None:
    """Say to standard error what is going on."""
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def deliver(
    name: str, json_file: str | None, lines: list[str], found: dict[str, Any], goals: Sequence[Goal] = ()
) -> None:
    """Print ``lines`` and the goals' table, or write ``found`` as JSON to ``json_file``, or both.

    ``json_file``: as ``--json`` has it; - is standard output, in place of the text.
    """
    found = {"schema": f"plugmeter-bench-{name}/1", "host": host(), **found}
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
    if json_file == "-":
        write_text("-", json.dumps(found, indent=2) + "\n")
        return
    sys.stdout.write("\n".join(lines) + "\n")
    sys.stdout.flush()
    if json_file:
        write_text(json_file, json.dumps(found, indent=2) + "\n")


def load_line() -> str:
    """How busy the machine was: a figure of speed is worth little without it."""
    return (
        f"{os.cpu_count()} processors, load {os.getloadavg()[0]:.1f} at the end (above 1 the figures suffer)"
    )
