"""Two reports side by side: latency as ratios, loss with its intervals and the interval of the difference.

The difference of the loss rates has Newcombe's hybrid score interval (Statistics in Medicine 17,
1998, method 10: Wilson's interval for each rate, joined), which keeps its coverage where a rate is 0.
Like Clopper-Pearson it takes losses to be independent; where both reports carry an interval by storm,
which does not, that one is compared as well and has the last word.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping
from typing import Any

from plugmeter.reporting import words
from plugmeter.reporting.table import table

SCHEMA_ID = "plugmeter-comparison/1"

_Z95 = 1.959963984540054
_METHOD = "Newcombe's hybrid score interval (1998, method 10), losses taken to be independent"
_FIGURES = ("p50", "p95", "p99", "tail_jitter")


def compare(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, Any]:
    """What differs between two reports, as one JSON object.

    Where one of the two is INVALID or expected nothing, ``loss.difference`` and the rest of the judgement
    are None: its figures of loss are no measurement. Ratios are b / a, None where a is 0.
    """
    stages: dict[str, Any] = {}
    for stage in words.LATENCY_STAGES:
        of_a, of_b = (_figures(report, stage) for report in (a, b))
        if of_a is None and of_b is None:
            continue
        stages[stage] = {
            figure: {
                "a": of_a and of_a[figure],
                "b": of_b and of_b[figure],
                "ratio": of_b[figure] / of_a[figure] if of_a and of_b and of_a[figure] else None,
            }
            for figure in _FIGURES
        }
    return {
        "schema": SCHEMA_ID,
        "a": _about(a),
        "b": _about(b),
        "latency_us": stages,
        "loss": _loss(a, b),
        "warnings": _warnings(a, b),
    }


def newcombe(lost_a: int, n_a: int, lost_b: int, n_b: int) -> tuple[float, float]:
    """The 95 % interval of rate b minus rate a. Raises ValueError without any event on a side."""
    low_a, high_a = wilson(lost_a, n_a)
    low_b, high_b = wilson(lost_b, n_b)
    rate_a, rate_b = lost_a / n_a, lost_b / n_b
    difference = rate_b - rate_a
    return (
        max(-1.0, difference - math.hypot(rate_b - low_b, high_a - rate_a)),
        min(1.0, difference + math.hypot(high_b - rate_b, rate_a - low_a)),
    )


def wilson(lost: int, n: int) -> tuple[float, float]:
    """Wilson's score interval, 95 %, of which Newcombe's is made."""
    if not 0 <= lost <= n or n == 0:
        raise ValueError(f"{lost} lost of {n} has no rate")
    z2 = _Z95 * _Z95
    middle = (lost + z2 / 2) / (n + z2)
    reach = _Z95 / (n + z2) * math.sqrt(lost * (n - lost) / n + z2 / 4)
    low = 0.0 if lost == 0 else max(0.0, middle - reach)
    high = 1.0 if lost == n else min(1.0, middle + reach)
    return low, high


def _figures(report: Mapping[str, Any], stage: str) -> Mapping[str, Any] | None:
    """A stage's latencies; None where there are none to compare."""
    figures: Mapping[str, Any] | None = report["latency_us"].get(stage)
    return figures if figures and figures["count"] else None


def render(comparison: Mapping[str, Any], width: int = 80) -> str:
    """The comparison as text, warnings first, ending in a newline."""
    a, b = comparison["a"], comparison["b"]
    lines = [
        line
        for warning in comparison["warnings"]
        for line in textwrap.wrap(f"WARNING: {warning}", width, subsequent_indent="  ")
    ]
    if lines:
        lines.append("")
    for name, side in (("A", a), ("B", b)):
        lines += textwrap.wrap(f"{name}  {_title(side)}", width, subsequent_indent="   ")
    lines += ["", "Latency"]
    rows = []
    for stage, figures in comparison["latency_us"].items():
        for figure in _FIGURES:
            pair = figures[figure]
            rows.append(
                [
                    words.LATENCY_STAGES[stage] if figure == _FIGURES[0] else "",
                    figure.replace("_", " "),
                    *("–" if pair[side] is None else words.duration_us(pair[side]) for side in ("a", "b")),
                    "–" if pair["ratio"] is None else f"{pair['ratio']:.2f} x",
                ]
            )
    lines += (
        table(["", "", "A", "B", "B / A"], rows, left=2, width=width) if rows else ["  no stage has samples"]
    )
    lines += ["", "Loss"]
    rows = [
        [
            name,
            words.count(side["expected"]),
            words.count(side["lost"]) if side["valid"] else "–",
            words.percent(side["loss_rate"]) if side["valid"] and side["expected"] else "–",
            words.interval(side["loss_ci95"]) if side["valid"] else "–",
            words.interval(side["loss_ci95_by_storm"])
            if side["valid"] and side["loss_ci95_by_storm"]
            else "–",
        ]
        for name, side in (("A", a), ("B", b))
    ]
    lines += table(["", "expected", "lost", "rate", "95 %", "95 % by storm"], rows, width=width)
    for sentence in _sentences(comparison["loss"]):
        lines += textwrap.wrap(sentence, width, initial_indent="  ", subsequent_indent="    ")
    return "\n".join(lines) + "\n"


def _about(report: Mapping[str, Any]) -> dict[str, Any]:
    run = report["run"]
    return {
        "host": dict(run["host"]),
        "rig": run["rig"],
        "truth": report["truth"],
        "started_at": run["started_at"],
        "valid": words.is_valid(report),
        "reasons": list(report["certificate"]["reasons"]),
        "expected": report["expected"],
        "lost": words.lost_total(report),
        "loss_rate": report["loss_rate"],
        "loss_ci95": list(report["loss_ci95"]),
        "loss_ci95_by_storm": report["loss_ci95_by_storm"] and list(report["loss_ci95_by_storm"]),
    }


def _loss(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, Any]:
    comparable = all(words.is_valid(report) and report["expected"] > 0 for report in (a, b))
    if not comparable:
        return {
            "comparable": False,
            "intervals_overlap": None,
            "storm_intervals_overlap": None,
            "difference": None,
            "difference_ci95": None,
            "differs": None,
            "method": _METHOD,
        }
    low, high = newcombe(words.lost_total(a), a["expected"], words.lost_total(b), b["expected"])
    storms_a, storms_b = a["loss_ci95_by_storm"], b["loss_ci95_by_storm"]
    storms_overlap = None if storms_a is None or storms_b is None else _overlap(storms_a, storms_b)
    return {
        "comparable": True,
        "intervals_overlap": _overlap(a["loss_ci95"], b["loss_ci95"]),
        "storm_intervals_overlap": storms_overlap,
        "difference": b["loss_rate"] - a["loss_rate"],
        "difference_ci95": [low, high],
        "differs": (low > 0 or high < 0) and storms_overlap is not True,
        "method": _METHOD,
    }


def _overlap(one: list[float], other: list[float]) -> bool:
    return one[0] <= other[1] and other[0] <= one[1]


def _warnings(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    found = []
    for name, report in (("A", a), ("B", b)):
        if not words.is_valid(report):
            reason = words.clean((report["certificate"]["reasons"] or ["no reason given"])[0])
            found.append(f"{name} is INVALID, its losses are not compared: {reason}")
        if not report["conservation"]["holds"]:
            found.append(f"{name} does not conserve: its figures do not add up")
        if report["run"]["interrupted"]:
            found.append(f"{name} was interrupted: it is short")
    if a["truth"] != b["truth"]:
        found.append("A and B rest on different truths (simulated against GPIO)")
    for key, what in (("rig", "rigs"), ("plan", "plans")):
        if a["run"][key] != b["run"][key]:
            found.append(f"A and B ran with different {what}")
    if (
        a["run"]["nominal_ms"] != b["run"]["nominal_ms"]
        or a["run"]["lost_after_ms"] != b["run"]["lost_after_ms"]
    ):
        found.append("A and B call different times late or lost")
    return found


def _title(side: Mapping[str, Any]) -> str:
    host = " ".join(
        words.clean(side["host"][key]) for key in ("machine", "hostname", "kernel") if key in side["host"]
    )
    word = "VALID" if side["valid"] else "INVALID"
    truth = "GPIO" if side["truth"] == "gpio" else "simulated"
    return f"{word}, {truth} truth, {words.clean(side['rig'])}: {host or 'host unknown'}"


def _sentences(loss: Mapping[str, Any]) -> list[str]:
    if not loss["comparable"]:
        return ["The losses cannot be compared: it takes two valid runs that expected something."]
    low, high = loss["difference_ci95"]
    sentences = [
        f"The 95 % intervals {'overlap' if loss['intervals_overlap'] else 'do not overlap'}.",
        f"B − A: {loss['difference'] * 100:+.2f} points (95 %: {low * 100:+.2f} … {high * 100:+.2f});",
        f"{loss['method']}.",
    ]
    if loss["storm_intervals_overlap"] is not None:
        together = "overlap" if loss["storm_intervals_overlap"] else "do not overlap"
        sentences.append(f"The intervals by storm, which allow for bursts, {together}.")
    sentences.append(
        "So the loss rates differ." if loss["differs"] else "So a difference of the loss rates is not shown."
    )
    return sentences
