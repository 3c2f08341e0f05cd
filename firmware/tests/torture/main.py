"""The full counts, and the table of them: what ``scripts/torture`` runs."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import pytest

from tests.torture.scenarios import SCENARIOS


def main() -> int:
    """Exit status 0 where every proof holds, 1 otherwise."""
    parser = argparse.ArgumentParser(
        prog="scripts/torture",
        description="Kills, cuts, fills and breaks what carries the records, and counts what arrives.",
    )
    parser.add_argument(
        "--only", metavar="WORD", default="", help="only scenarios with this word in the name"
    )
    parser.add_argument(
        "--share", type=float, default=1.0, metavar="PART", help="a part of the full counts: 0.1 is a tenth"
    )
    args = parser.parse_args()
    chosen = [scenario for scenario in SCENARIOS if args.only in scenario.name]
    if not chosen or not 0 < args.share <= 1:
        parser.error("nothing to do: --share is above 0 and at most 1, --only one of "
                     + ", ".join(scenario.name for scenario in SCENARIOS))  # fmt: skip
    print(f"{'scenario':<28}{'times':>6}{'stored':>10}{'lost':>6}{'holes':>7}{'twice':>7}"
          f"{'tombst.':>9}{'audit':>7}{'s':>8}")  # fmt: skip
    wrong = 0
    for scenario in chosen:
        times = max(1, round(scenario.all * args.share))
        began = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="plugmeter-torture-") as folder:
            try:
                proof = scenario.play(Path(folder, "rig"), times)
            except pytest.skip.Exception as skipped:
                print(f"{scenario.name:<28}{'':>6} not done: {skipped.msg}", flush=True)
                wrong += 1
                continue
            except (AssertionError, pytest.fail.Exception) as failure:
                print(f"{scenario.name:<28}{times:>6} FAILED: {failure}", flush=True)
                wrong += 1
                continue
        wrong += not proof.holds
        audit = "ok" if proof.audit_status == 0 else "WRONG"
        print(f"{scenario.name:<28}{times:>6}{proof.stored:>10,}{proof.lost:>6}{proof.holes:>7}"
              f"{proof.duplicates:>7}{proof.tombstoned:>9}{audit:>7}{time.monotonic() - began:>8.0f}",
              flush=True)  # fmt: skip
        if not proof.holds:
            print(proof, flush=True)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
