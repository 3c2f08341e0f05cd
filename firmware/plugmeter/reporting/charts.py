"""Plots as SVG text, for the HTML report.

Nothing of matplotlib's is imported before a chart is drawn (it is one of the report extras). The SVG is
the same text for the same figures, byte for byte: no date, a fixed hash salt, text left as text. Colours
are CSS variables, so that one chart serves light and dark pages. Every chart carries its words in
``aria-label``.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from plugmeter.errors import UsageError
from plugmeter.reporting import words

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PALETTE: Mapping[str, tuple[str, str]] = {
    "ink": ("#1c2530", "#e6ebf1"),
    "quiet": ("#5d6b7a", "#9aa7b5"),
    "rule": ("#dde3e9", "#303b47"),
    "blue": ("#1f6fb5", "#5aa9e6"),
    "orange": ("#c25e00", "#f0a04b"),
    "green": ("#1e7d4f", "#56bf8b"),
    "violet": ("#7a4fb0", "#b494e6"),
    "red": ("#c0272d", "#f2777a"),
}
"""CSS variable to its colour on a light and on a dark page; contrast at least 4.5 to 1 for text colours."""

STAND_IN: Mapping[str, str] = {name: f"#0a0b{index:02x}" for index, name in enumerate(PALETTE, start=1)}
"""The colour that stands for a CSS variable while matplotlib draws; no colour of a plot is one by itself."""

_STAGE_COLOURS = dict(zip(words.LATENCY_STAGES, ("blue", "orange", "violet", "green"), strict=True))


def latency_histogram(report: Mapping[str, Any], stage: str) -> str:
    """How the latencies of one stage lie, on a logarithmic axis, with p50, p95 and p99 marked."""
    buckets = _edges(report["latency_histogram_us"].get(stage, []))
    figures = report["latency_us"][stage]
    title = words.LATENCY_STAGES[stage]

    def draw(axes: Axes) -> None:
        colour = STAND_IN[_STAGE_COLOURS[stage]]
        for low, high, n in buckets:
            axes.bar(low, n, width=(high - low) * 0.94, align="edge", color=colour, linewidth=0)
        top = max((n for _, _, n in buckets), default=1)
        axes.set_ylim(0, top * 1.42)
        for rank, key in enumerate(("p50", "p95", "p99")):
            height = 1.34 - 0.12 * rank
            axes.plot([figures[key]] * 2, [0, top * (height - 0.02)], color=STAND_IN["ink"], linewidth=1)
            axes.annotate(
                f"{key} {words.duration_us(figures[key])}",
                (figures[key], top * height),
                xytext=(4, 0),
                textcoords="offset points",
                va="center",
                fontsize=9,
                color=STAND_IN["ink"],
            )
        low = min([figures["min"], *(edge[0] for edge in buckets)])
        high = max([figures["max"], *(edge[1] for edge in buckets)])
        _log_time_axis(axes, low, high * 1.6)
        axes.set_ylabel("episodes")

    tail = ", ".join(f"{key} {words.duration_us(figures[key])}" for key in ("p50", "p95", "p99", "max"))
    return draw_svg(f"histogram-{stage}", f"Latency {title}: {tail}", draw, (5.2, 2.5))


def long_tail(report: Mapping[str, Any]) -> str:
    """What share of events took longer than a time: the tails of all stages, both axes logarithmic."""

    def draw(axes: Axes) -> None:
        lows, highs, smallest = [], [], 1.0
        for stage, title in words.LATENCY_STAGES.items():
            buckets = _edges(report["latency_histogram_us"].get(stage, []))
            total = sum(n for _, _, n in buckets)
            if not total:
                continue
            times, shares, left = [buckets[0][0]], [1.0], total
            for _, high, n in buckets:
                left -= n
                if left:
                    times.append(high)
                    shares.append(left / total)
            times.append(buckets[-1][1])
            shares.append(0.5 / total)  # the last is slower than no other; the axis has no zero
            smallest = min(smallest, 0.5 / total)
            axes.plot(times, shares, color=STAND_IN[_STAGE_COLOURS[stage]], linewidth=1.8, label=title)
            lows.append(buckets[0][0])
            highs.append(buckets[-1][1])
        axes.set_yscale("log")
        axes.set_ylim(smallest, 1.4)
        _log_time_axis(axes, min(lows, default=1.0), max(highs, default=10.0))
        _plain_log_ticks(axes, smallest)
        axes.set_ylabel("share that took longer")
        axes.grid(True, axis="x", color=STAND_IN["rule"], linewidth=0.7)
        axes.legend(frameon=False, fontsize=9, loc="lower left", labelcolor=STAND_IN["ink"])

    said = "; ".join(
        f"{title}: one in a hundred took longer than {words.duration_us(report['latency_us'][stage]['p99'])}"
        for stage, title in words.LATENCY_STAGES.items()
        if report["latency_us"].get(stage, {"count": 0})["count"]
    )
    return draw_svg("long-tail", f"The long tail of every stage. {said}", draw, (10.8, 3.4))


def loss_by_stage(report: Mapping[str, Any]) -> str:
    """Lost episodes by the stage that lost them, in the order of the way."""
    stages = list(words.LOSS_STAGES)
    counts = [report["lost"][stage] for stage in stages]

    def draw(axes: Axes) -> None:
        places = list(range(len(stages)))
        axes.barh(places, counts, height=0.62, color=STAND_IN["red"], linewidth=0)
        for place, n in zip(places, counts, strict=True):
            axes.annotate(
                words.count(n),
                (n, place),
                xytext=(5, 0),
                textcoords="offset points",
                va="center",
                fontsize=9,
                color=STAND_IN["ink" if n else "quiet"],
            )
        axes.set_yticks(places, stages)
        axes.invert_yaxis()
        axes.set_xlim(0, max([1, *counts]) * 1.12)
        axes.set_xticks([])
        axes.spines["bottom"].set_visible(False)
        axes.tick_params(axis="y", length=0, labelsize=9.5, labelcolor=STAND_IN["ink"])
        axes.grid(False)

    said = ", ".join(f"{stage} {n}" for stage, n in zip(stages, counts, strict=True) if n) or "none"
    return draw_svg("loss-by-stage", f"Lost episodes by stage: {said}", draw, (10.8, 2.6))


def timeline(report: Mapping[str, Any]) -> str:
    """Expected episodes over time, those captured in blue, those missing in red on top."""
    line = report["timeline"]
    expected, captured = line["expected"], line["captured"]
    step_s = line["bucket_ms"] / 1000

    def draw(axes: Axes) -> None:
        n = min(len(expected), len(captured))
        edges = [k * step_s for k in range(n + 1)]
        got = list(captured[:n])
        due = [max(a, b) for a, b in zip(expected, captured, strict=False)]
        if n:
            axes.stairs(
                got, edges, fill=True, color=STAND_IN["blue"], alpha=0.85, linewidth=0, label="captured"
            )
            if due != got:
                axes.stairs(
                    due,
                    edges,
                    baseline=got,
                    fill=True,
                    color=STAND_IN["red"],
                    linewidth=0,
                    label="not captured",
                )
            axes.set_xlim(0, edges[-1])
        axes.set_ylim(0, max([1, *due]) * 1.25)
        axes.set_xlabel("seconds since the start", color=STAND_IN["quiet"])
        axes.set_ylabel(f"episodes per {_tick(line['bucket_ms'] * 1000)}")
        if n:
            axes.legend(frameon=False, fontsize=9, loc="upper right", ncols=2, labelcolor=STAND_IN["ink"])

    said = f"{sum(expected)} expected, {sum(captured)} captured over {len(expected) * step_s:g} seconds"
    return draw_svg("timeline", f"Episodes over time: {said}", draw, (10.8, 2.6))


def witnesses(report: Mapping[str, Any]) -> str:
    """What each witness was offered: the shares delivered, lost and pending."""
    accounts = [(name, account) for name, account in report["witnesses"].items()]
    parts = (("delivered", "green"), ("lost", "red"), ("pending", "orange"))

    def draw(axes: Axes) -> None:
        for place, (_, account) in enumerate(accounts):
            begin = 0.0
            whole = sum(account[part] for part, _ in parts)
            for part, colour in parts:
                share = account[part] / whole if whole else 0.0
                axes.barh(place, share, left=begin, height=0.55, color=STAND_IN[colour], linewidth=0)
                begin += share
            said = f"{words.count(account['delivered'])} of {words.count(account['offered'])}"
            if account["lost"]:
                said += f", {words.count(account['lost'])} lost"
            if account["pending"]:
                said += f", {words.count(account['pending'])} pending"
            axes.annotate(
                said,
                (1.0 if whole else 0.0, place),
                xytext=(8, 0),
                textcoords="offset points",
                va="center",
                fontsize=9,
                color=STAND_IN["ink"],
            )
        axes.set_yticks(range(len(accounts)), [words.clean(name) for name, _ in accounts])
        axes.invert_yaxis()
        axes.set_xlim(0, 1.45)
        axes.set_xticks([])
        axes.spines["bottom"].set_visible(False)
        axes.tick_params(axis="y", length=0, labelsize=9.5, labelcolor=STAND_IN["ink"])
        axes.grid(False)

    said = "; ".join(
        f"{words.clean(name)} delivered {a['delivered']} of {a['offered']}, "
        f"lost {a['lost']}, pending {a['pending']}"
        for name, a in accounts
    )
    return draw_svg("witnesses", f"Witnesses: {said}", draw, (10.8, 0.5 + 0.42 * max(1, len(accounts))))


def _edges(buckets: Iterable[Sequence[float]]) -> list[tuple[float, float, float]]:
    """(lower, upper, count). Empty buckets are left out of a report, so a lower edge is the nearest of
    the bucket before and one step of a sixth of a decade, the step that our histograms have."""
    found: list[tuple[float, float, float]] = []
    for high, n in buckets:
        low = max(high / 10 ** (1 / 6), found[-1][1] if found else 0.0)
        found.append((low, high, n))
    return [(max(low, 0.1), max(high, 0.2), n) for low, high, n in found]


def _log_time_axis(axes: Axes, low_us: float, high_us: float) -> None:
    low_us, high_us = max(low_us, 0.1), max(high_us, 1.0)
    axes.set_xscale("log")
    axes.set_xlim(low_us, high_us)
    decades = range(math.floor(math.log10(low_us)), math.ceil(math.log10(high_us)) + 1)
    # At least two labels, however narrow the range: more steps a decade until there are.
    span = high_us / low_us
    steps = (1,) if span >= 300 else (1, 3) if span >= 12 else (1, 1.5, 2, 3, 5, 7)
    ticks = [step * 10.0**k for k in decades for step in steps if low_us <= step * 10.0**k <= high_us]
    axes.set_xticks(ticks, [_tick(tick) for tick in ticks])
    axes.set_xticks([], minor=True)


def _tick(us: float) -> str:
    figure, unit = words.duration_us(us).split(" ")
    return f"{float(figure):g} {unit}"


def _plain_log_ticks(axes: Axes, low: float) -> None:
    ticks = [10.0**-k for k in range(math.ceil(-math.log10(low)) + 1) if 10.0**-k >= low]
    axes.set_yticks(ticks, [f"{tick * 100:.10g} %" for tick in ticks])
    axes.set_yticks([], minor=True)


def draw_svg(name: str, label: str, draw: Callable[[Axes], None], size: tuple[float, float]) -> str:
    """What ``draw`` draws with the colours of ``STAND_IN``, as an SVG element; ``size`` in inches.

    ``name`` keeps its ids apart from those of the page's other charts, ``label`` says it in words. Raises
    UsageError where the report extras are not installed.
    """
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ImportError as error:
        raise missing_extra("plots") from error
    settings: dict[Any, Any] = {
        "svg.hashsalt": "plugmeter",
        "svg.fonttype": "none",
        "font.family": "sans-serif",
        "font.sans-serif": ["DejaVu Sans"],  # comes with matplotlib: the same layout everywhere
        "font.size": 9.5,
        "axes.unicode_minus": True,
        "axes.edgecolor": STAND_IN["rule"],
        "axes.labelcolor": STAND_IN["quiet"],
        "xtick.color": STAND_IN["rule"],
        "ytick.color": STAND_IN["rule"],
        "xtick.labelcolor": STAND_IN["quiet"],
        "ytick.labelcolor": STAND_IN["quiet"],
        "text.color": STAND_IN["ink"],
    }
    with rc_context(settings):
        figure = Figure(figsize=size, layout="constrained")
        figure.patch.set_visible(False)
        axes = figure.add_subplot()
        axes.patch.set_visible(False)
        for side in ("top", "right", "left"):
            axes.spines[side].set_visible(False)
        axes.grid(True, axis="y", color=STAND_IN["rule"], linewidth=0.7)
        axes.set_axisbelow(True)
        axes.tick_params(length=0)
        draw(axes)
        out = io.StringIO()
        figure.savefig(
            out, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None}
        )
    return _tidy(out.getvalue(), name, label)


def missing_extra(what: str) -> UsageError:
    """The report extras are not installed."""
    return UsageError(
        f"{what} need the report extras, which are not installed: pip install 'plugmeter[report]'"
    )


def _tidy(svg: str, name: str, label: str) -> str:
    """An SVG element fit for a page: named, its ids its own, its colours the page's, its font the page's."""
    body = svg[svg.index("<svg") :].strip()
    body = re.sub(r"<metadata>.*?</metadata>\s*", "", body, flags=re.DOTALL)
    body = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', body)
    body = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", body)
    body = re.sub(r'href="#([^"]+)"', rf'href="#{name}-\1"', body)
    for variable, sentinel in STAND_IN.items():
        body = body.replace(sentinel, f"var(--{variable})")
    body = body.replace("'DejaVu Sans'", "system-ui, 'DejaVu Sans'")
    body = re.sub(r' (?:width|height)="[\d.]+pt"', "", body, count=2)
    return body.replace("<svg", f'<svg role="img" aria-label="{escape(label)}"', 1)
