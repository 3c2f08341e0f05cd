"""The full counts, and the table of them: what ``scripts/torture`` runs."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, field, fields
from multiprocessing import get_context
from pathlib import Path
from typing import TextIO

import pytest

from tests.torture.proof import Proof
from tests.torture.rig import TURNS
from tests.torture.scenarios import SCENARIOS, Scenario

_HEAD = (
    f"{'scenario':<28}{'times':>6}{'hits':>6}{'missed':>7}{'stored':>10}{'lost':>6}{'holes':>7}{'twice':>7}"
    f"{'tombst.':>9}{'audit':>7}{'s':>7}  what struck"
)
EPILOG = """\
hits are turns with evidence that they struck (a call that strace made fail, a clock that the process itself
showed); one that missed is made again. s is the time of a scenario's parts together, of which several run at
once.

What is driven: a process with the outbox and the link of the daemon and nothing else of it
(tests.torture.device), by "kill -9 of plugmeter run" the daemon as it is; always the real controller, with
SQLite, and a real mosquitto.

exit status: 0 nothing was lost, nothing came twice, and all turns struck; 1 otherwise, or something could
not be done here; 2 bad usage; 130 Ctrl-C
"""


@dataclass(slots=True)
class Line:
    """One scenario: its parts as they end."""

    scenario: Scenario
    times: int
    left: int
    proof: Proof = field(default_factory=Proof)
    took_s: float = 0.0

    @property
    def wrong(self) -> list[str]:
        return self.proof.wrong(self.times)

    def text(self) -> str:
        proof = self.proof
        if proof.skipped:
            return f"{self.scenario.name:<28}{self.times:>6}  NOT DONE: {proof.skipped}"
        kinds = ", ".join(f"{kind} {count}" for kind, count in sorted(proof.kinds.items()))
        audit = "WRONG" if proof.audit_status else "ok"
        text = (
            f"{self.scenario.name:<28}{self.times:>6}{proof.hits:>6}{proof.missed:>7}{proof.stored:>10,}"
            f"{proof.lost:>6}{proof.holes:>7}{proof.duplicates:>7}{proof.tombstoned:>9}{audit:>7}"
            f"{self.took_s:>7.0f}  {kinds}"
        ).rstrip()
        return f"{text}\n  FAILED: {'; '.join(self.wrong)}\n{proof.audit}".rstrip() if self.wrong else text


def main() -> int:
    """Exit status 0 where every proof holds, 1 otherwise."""
    args = _parse()
    lines = [
        Line(scenario, times, 0)
        for scenario in SCENARIOS
        if args.only in scenario.name
        for times in [max(1, round(scenario.all * args.share))]
    ]
    began = time.monotonic()
    table = sys.stderr if args.json else sys.stdout
    print(_HEAD, file=table, flush=True)
    with tempfile.TemporaryDirectory(prefix="plugmeter-torture-") as folder:
        try:
            _play_all(lines, Path(folder), args.jobs, table)
        except KeyboardInterrupt:
            print("\nstopped; nothing of it counts", file=sys.stderr)
            return 130
    wrong = [line.scenario.name for line in lines if line.wrong]
    took_s = time.monotonic() - began
    verdict = f"NOT proven: {', '.join(wrong)}" if wrong else "nothing lost, nothing twice, no hole"
    print(
        f"{verdict}; {sum(line.proof.stored for line in lines):,} records stored; {took_s:.0f} s", file=table
    )
    if args.json:
        rows = [
            {"scenario": line.scenario.name, "times": line.times, "took_s": line.took_s, "wrong": line.wrong}
            | {each.name: getattr(line.proof, each.name) for each in fields(line.proof)}
            for line in lines
        ]
        print(json.dumps({"scenarios": rows, "took_s": took_s, "holds": not wrong}))
    return 1 if wrong else 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/torture",
        description="Kills, cuts, fills and breaks what carries the records, and counts what arrives.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--only", metavar="WORD", default="", help="only scenarios with this word in the name"
    )
    parser.add_argument(
        "--share", type=float, default=1.0, metavar="PART", help="a part of the full counts: 0.1 is a tenth"
    )
    jobs = 3 * (os.cpu_count() or 1)
    parser.add_argument(
        "--jobs", type=int, default=jobs, metavar="N",
        help=f"so many at a time, each with a broker and a controller of its own; most of the time they wait"
        f" (default: three for each core, {jobs})",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print one JSON object, and the table to stderr")
    parser.add_argument("--list", action="store_true", help="name the scenarios with their full counts")
    args = parser.parse_args()
    if args.list:
        for scenario in SCENARIOS:
            print(f"{scenario.all:>5}  {scenario.name}")
        sys.exit(0)
    if not any(args.only in scenario.name for scenario in SCENARIOS):
        parser.error(f"--only {args.only}: no scenario has that in its name; see --list")
    if not 0 < args.share <= 1:
        parser.error(f"--share {args.share:g}: above 0 and at most 1")
    if not 1 <= args.jobs <= 64:
        parser.error(f"--jobs {args.jobs}: 1 to 64")
    return args


def _play_all(lines: Sequence[Line], folder: Path, jobs: int, table: TextIO) -> None:
    total = sum(line.times for line in lines)
    progress = _Progress(folder, total)
    pool = ProcessPoolExecutor(jobs, mp_context=get_context("spawn"))
    waiting: dict[Future[tuple[Proof, float]], Line] = {}
    try:
        for line in lines:
            for part, times in enumerate(_parts(line.times, line.scenario.part)):
                where = folder / f"{SCENARIOS.index(line.scenario)}-{part}"
                future = pool.submit(_play, SCENARIOS.index(line.scenario), where, times, 1 + part)
                waiting[future] = line
                line.left += 1
        while waiting:
            done, _ = wait(waiting, timeout=1.0, return_when=FIRST_COMPLETED)
            for future in done:
                line = waiting.pop(future)
                proof, took_s = future.result()
                line.proof += proof
                line.took_s += took_s
                line.left -= 1
                if not line.left:
                    progress.clear()
                    print(line.text(), file=table, flush=True)
            progress.show()
        progress.clear()
    finally:
        pool.shutdown(cancel_futures=True)


def _parts(times: int, most: int) -> list[int]:
    """``times`` in parts of about the same size, none above ``most``."""
    count = -(-times // most)
    return [times // count + (part < times % count) for part in range(count)]


def _play(index: int, folder: Path, times: int, seed: int) -> tuple[Proof, float]:
    """In a process of the pool: never raises for what the scenario finds."""
    began = time.monotonic()
    try:
        proof = SCENARIOS[index].play(folder, times, seed)
    except pytest.skip.Exception as skipped:
        proof = Proof(skipped=str(skipped.msg))
    except (AssertionError, pytest.fail.Exception) as failure:
        proof = Proof(failure=str(failure))
    return proof, time.monotonic() - began


class _Progress:
    """One line on a terminal, which changes; elsewhere a line a minute."""

    def __init__(self, folder: Path, total: int) -> None:
        self._folder = folder
        self._total = total
        self._began = time.monotonic()
        self._last = self._began
        self._line = sys.stderr.isatty()

    def show(self) -> None:
        now = time.monotonic()
        if now - self._last < (1.0 if self._line else 60.0):
            return
        self._last = now
        done = sum(file.stat().st_size for file in self._folder.rglob(TURNS) if file.is_file())
        text = f"{done} of {self._total} turns, {now - self._began:.0f} s"
        print(f"\r{text}\x1b[K" if self._line else text, end="" if self._line else "\n",
              file=sys.stderr, flush=True)  # fmt: skip

    def clear(self) -> None:
        if self._line:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
