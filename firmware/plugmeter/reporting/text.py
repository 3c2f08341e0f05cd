"""The report that a person reads in the terminal: the verdict first, then what it rests on."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from plugmeter.reporting import words
from plugmeter.reporting.table import table

_BOLD, _GREEN, _RED, _YELLOW, _RESET = "\x1b[1m", "\x1b[32m", "\x1b[31m", "\x1b[33m", "\x1b[0m"


def render(report: Mapping[str, Any], width: int = 80, colour: bool = False) -> str:
    """The report as text of at most ``width`` columns (40 at least), ending in a newline.

    ``colour`` puts ANSI colours on the verdict and bold on the headings; without it the text is the same
    but for them. ``report`` follows report.schema.json.
    """
    width = max(40, width)
    lines: list[str] = []
    for line, emphasis in _lines(report, width):
        lines.append(f"{emphasis}{line}{_RESET}" if colour and emphasis and line else line)
    return "\n".join(lines) + "\n"


def _lines(report: Mapping[str, Any], width: int) -> Iterator[tuple[str, str]]:
    for line in _wrap(words.verdict(report), width, indent=0):
        yield line, _BOLD + _verdict_colour(report)
    for part in _run(report):
        yield from ((line, "") for line in _wrap(part, width, indent=0))
    sections: tuple[tuple[str, list[str]], ...] = (
        ("Why it is INVALID", _reasons(report, width)),
        ("Not conserved: these figures do not add up", _violations(report, width)),
        (
            "Episodes" if words.is_valid(report) else "Episodes (what was seen, no measure of loss)",
            _episodes(report, width),
        ),
        ("Lost, by stage" if words.is_valid(report) else "Unmatched, by stage", _lost(report, width)),
        ("Latency", _latency(report, width)),
        ("Witnesses", _witnesses(report, width)),
        ("Listeners on this machine that dropped uevents", _listeners(report, width)),
        ("Plugged already, or changed while nobody was looking", _coldplug(report, width)),
        ("Certificate", _certificate(report, width)),
        ("Still to prove", _wrap(words.claim(report), width)),
    )
    for heading, body in sections:
        if body:
            yield "", ""
            yield from ((line, _BOLD) for line in _wrap(heading, width, indent=0))
            yield from ((line, "") for line in body)


def _verdict_colour(report: Mapping[str, Any]) -> str:
    if not words.is_valid(report) or not report["conservation"]["holds"]:
        return _RED
    return _YELLOW if words.lost_total(report) or report["expected"] == 0 else _GREEN


def _run(report: Mapping[str, Any]) -> list[str]:
    run = report["run"]
    host = " ".join(
        words.clean(run["host"][key]) for key in ("hostname", "machine", "kernel") if key in run["host"]
    )
    ports = len(run["ports"])
    what = f"rig {words.clean(run['rig'])}, {ports} port{'s' if ports != 1 else ''}, seed {run['seed']}"
    when = f"{words.clean(run['started_at'])}, {words.duration_us(run['duration_s'] * 1e6)}"
    return [f"{what}; {when}{', interrupted' if run['interrupted'] else ''}", *([host] if host else [])]


def _reasons(report: Mapping[str, Any], width: int) -> list[str]:
    if words.is_valid(report):
        return []
    return _items(report["certificate"]["reasons"], width)


def _violations(report: Mapping[str, Any], width: int) -> list[str]:
    if report["conservation"]["holds"]:
        return []
    return _items(report["conservation"]["violations"] or ["the ledger does not say where"], width)


def _episodes(report: Mapping[str, Any], width: int) -> list[str]:
    plan = report["run"]
    lines = [
        f"expected {words.count(report['expected'])} "
        f"({words.count(report['expected_plugs'])} plugs, {words.count(report['expected_pulls'])} pulls); "
        f"matched {words.count(report['matched'])}, late {words.count(report['late'])} "
        f"(after {words.duration_us(plan['nominal_ms'] * 1e3)}), "
        f"excused {words.count(report['excused'])}, undecided {words.count(report['undecided'])}"
    ]
    others = [f"{words.count(report[key])} {word}" for key, word in _BESIDE if report[key]]
    if others:
        lines.append("beside these: " + ", ".join(others))
    storms = report["storms"]
    if storms["count"]:
        many = "storm" if storms["count"] == 1 else "storms"
        lines.append(
            f"{words.count(storms['count'])} {many}, the largest of {words.count(storms['largest'])} episodes"
        )
    return [line for text in lines for line in _wrap(text, width)]


_BESIDE = (
    ("ambiguous", "ambiguous pulses (shorter than the debounce time)"),
    ("duplicates", "duplicates"),
    ("orphans", "orphans (enumerations that no edge explains)"),
)


def _lost(report: Mapping[str, Any], width: int) -> list[str]:
    rows = [
        [stage, words.count(report["lost"][stage]), meaning]
        for stage, meaning in words.LOSS_STAGES.items()
        if report["lost"][stage]
    ]
    lines: list[str] = []
    if rows:
        stage_width = max(len(row[0]) for row in rows)
        count_width = max(len(row[1]) for row in rows)
        for stage, n, meaning in rows:
            start = f"  {stage:<{stage_width}}  {n:>{count_width}}  "
            lines += textwrap.wrap(meaning, width, initial_indent=start, subsequent_indent=" " * len(start))
    together = words.bursts(report)
    if together and words.is_valid(report):
        lines += _wrap(together, width)
    worst = [
        (port, row)
        for port, row in sorted(report["ports"].items(), key=lambda item: (-item[1]["lost"], item[0]))
        if row["lost"]
    ]
    if worst:
        shown = ", ".join(
            f"{words.clean(port)} {words.count(row['lost'])} of {words.count(row['expected'])}"
            for port, row in worst[:8]
        )
        more = f", and {len(worst) - 8} ports more" if len(worst) > 8 else ""
        lines += _wrap(f"by port: {shown}{more}", width)
    return lines


def _latency(report: Mapping[str, Any], width: int) -> list[str]:
    rows = []
    notes = []
    for stage, meaning in words.LATENCY_STAGES.items():
        figures = report["latency_us"].get(stage)
        if figures is None:
            continue
        keys = ("p50", "p95", "p99", "max", "tail_jitter")
        shown = [words.duration_us(figures[key]) if figures["count"] else "–" for key in keys]
        rows.append([meaning, *shown, words.count(figures["count"])])
        for key, what in (
            ("negative", "before its cause: one of the two was stamped late"),
            ("over_range", "of over an hour"),
        ):
            if figures[key]:
                notes.append(f"{meaning}: {words.count(figures[key])} {what}; counted, in no figure above")
    if not rows:
        return []
    lines = table(["", "p50", "p95", "p99", "max", "jitter", "n"], rows, width=width)
    lines += _wrap("jitter is the tail's: p99 − p50", width)
    return lines + [line for note in notes for line in _wrap(note, width)]


def _witnesses(report: Mapping[str, Any], width: int) -> list[str]:
    rows = []
    notes = []
    for name, account in report["witnesses"].items():
        rows.append(
            [
                words.clean(name) + ("" if account["conserved"] else " !"),
                *(words.count(account[key]) for key in ("offered", "delivered", "lost", "pending")),
            ]
        )
        causes = ", ".join(
            f"{words.clean(c)} {words.count(n)}" for c, n in account["lost_by_cause"].items() if n
        )
        if causes:
            notes.append(f"{words.clean(name)} lost: {causes}")
        if account["uncounted_gaps"]:
            notes.append(
                f"{words.clean(name)}: {words.count(account['uncounted_gaps'])} gaps of unknown size"
            )
        if not account["conserved"]:
            notes.append(f"{words.clean(name)} ! offered is not delivered + lost + pending")
    if not rows:
        return []
    lines = table(["", "offered", "delivered", "lost", "pending"], rows, width=width)
    return lines + [line for note in notes for line in _wrap(note, width)]


def _listeners(report: Mapping[str, Any], width: int) -> list[str]:
    dropped = sorted(
        (row for row in report["listeners"] if row["drops"]), key=lambda row: (-row["drops"], row["pid"])
    )
    if not dropped:
        return []
    rows = [
        [words.clean(row["comm"]), str(row["pid"]), words.groups(row["groups"]), words.count(row["drops"])]
        for row in dropped
    ]
    return table(["", "pid", "group", "drops"], rows, width=width)


def _coldplug(report: Mapping[str, Any], width: int) -> list[str]:
    """Nothing where nothing was plugged at the start and no scan found a change."""
    found = report["coldplug"]
    lines = []
    if found["at_start"]:
        lines.append(f"{words.count(found['at_start'])} USB devices were there at the start")
    for key, when in (
        ("before_start", "since the run before"),
        ("found_by_resync", "found after an overrun"),
    ):
        changes = {what: n for what, n in (found[key] or {}).items() if n}
        if changes:
            told = ", ".join(f"{words.count(n)} {what}" for what, n in changes.items())
            lines.append(f"{when}: {told}")
    return [line for text in lines for line in _wrap(text, width)]


def _certificate(report: Mapping[str, Any], width: int) -> list[str]:
    certificate = report["certificate"]
    lines = certificate["lines"]
    rows = [
        [
            words.clean(line["port"]),
            words.clean(line["factory"]) or "–",
            words.count(line["edges"]),
            *("–" if line[key] is None else words.count(line[key]) for key in ("driven", "interrupts")),
        ]
        for line in lines[:16]
    ]
    word = "valid" if certificate["valid"] else "not given"
    body = _wrap(
        f"{word}; {words.truth(report)}, {len(lines)} sense line{'s' if len(lines) != 1 else ''}", width
    )
    if rows:
        body += table(["", "factory", "edges", "driven", "interrupts"], rows, left=2, width=width)
    if len(lines) > 16:
        body += _wrap(f"and {len(lines) - 16} lines more", width)
    return body


def _items(texts: Sequence[str], width: int) -> list[str]:
    return [
        line
        for text in texts
        for line in textwrap.wrap(words.clean(text), width, initial_indent="  - ", subsequent_indent="    ")
    ]


def _wrap(text: str, width: int, indent: int = 2) -> list[str]:
    """Lines of a sentence; a figure is not torn from its unit (textwrap keeps no-break spaces)."""
    bound = re.sub(r"(?<=\d) (?=%|µs|ms|s\b|min\b|h\b)", "\xa0", text)
    lines = textwrap.wrap(bound, width, initial_indent=" " * indent, subsequent_indent=" " * (indent or 2))
    return [line.replace("\xa0", " ") for line in lines]
