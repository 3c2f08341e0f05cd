"""Plots as SVG text: for the HTML report, and the sweep's chart on its own.

Nothing of matplotlib's is imported before a chart is drawn (it is one of the report extras). The SVG is
the same text for the same figures, byte for byte: no date, a fixed hash salt, text left as text. Colours
are CSS variables, so that one chart serves light and dark pages; ``standalone`` gives them values
for a file of its own. Every chart carries its words in ``aria-label``.
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

# Stands for a CSS variable while matplotlib draws; no colour of a plot has these values by itself.
_SENTINEL = {name: f"#0a0b{index:02x}" for index, name in enumerate(PALETTE, start=1)}
_STAGE_COLOURS = dict(zip(words.LATENCY_STAGES, ("blue", "orange", "violet", "green"), strict=True))


def latency_histogram(report: Mapping[str, Any], stage: str) -> str:
    """How the latencies of one stage lie, on a logarithmic axis, with p50, p95 and p99 marked."""
    buckets = _edges(report["latency_histogram_us"].get(stage, []))
    figures = report["latency_us"][stage]
    title = words.LATENCY_STAGES[stage]

    def draw(axes: Axes) -> None:
        colour = _SENTINEL[_STAGE_COLOURS[stage]]
        for low, high, n in buckets:
            axes.bar(low, n, width=(high - low) * 0.94, align="edge", color=colour, linewidth=0)
        top = max((n for _, _, n in buckets), default=1)
        axes.set_ylim(0, top * 1.42)
        for rank, key in enumerate(("p50", "p95", "p99")):
            height = 1.34 - 0.12 * rank
            axes.plot([figures[key]] * 2, [0, top * (height - 0.02)], color=_SENTINEL["ink"], linewidth=1)
            axes.annotate(
                f"{key} {words.duration_us(figures[key])}",
                (figures[key], top * height),
                xytext=(4, 0),
                textcoords="offset points",
                va="center",
                fontsize=9,
                color=_SENTINEL["ink"],
            )
        low = min([figures["min"], *(edge[0] for edge in buckets)])
        high = max([figures["max"], *(edge[1] for edge in buckets)])
        _log_time_axis(axes, low, high * 1.6)
        axes.set_ylabel("episodes")

    tail = ", ".join(f"{key} {words.duration_us(figures[key])}" for key in ("p50", "p95", "p99", "max"))
    return _svg(f"histogram-{stage}", f"Latency {title}: {tail}", draw, (5.2, 2.5))


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
            axes.plot(times, shares, color=_SENTINEL[_STAGE_COLOURS[stage]], linewidth=1.8, label=title)
            lows.append(buckets[0][0])
            highs.append(buckets[-1][1])
        axes.set_yscale("log")
        axes.set_ylim(smallest, 1.4)
        _log_time_axis(axes, min(lows, default=1.0), max(highs, default=10.0))
        _plain_log_ticks(axes, smallest)
        axes.set_ylabel("share that took longer")
        axes.grid(True, axis="x", color=_SENTINEL["rule"], linewidth=0.7)
        axes.legend(frameon=False, fontsize=9, loc="lower left", labelcolor=_SENTINEL["ink"])

    said = "; ".join(
        f"{title}: one in a hundred took longer than {words.duration_us(report['latency_us'][stage]['p99'])}"
        for stage, title in words.LATENCY_STAGES.items()
        if stage in report["latency_us"]
    )
    return _svg("long-tail", f"The long tail of every stage. {said}", draw, (10.8, 3.4))


def loss_by_stage(report: Mapping[str, Any]) -> str:
    """Lost episodes by the stage that lost them, in the order of the way."""
    stages = list(words.LOSS_STAGES)
    counts = [report["lost"][stage] for stage in stages]

    def draw(axes: Axes) -> None:
        places = list(range(len(stages)))
        axes.barh(places, counts, height=0.62, color=_SENTINEL["red"], linewidth=0)
        for place, n in zip(places, counts, strict=True):
            axes.annotate(
                words.count(n),
                (n, place),
                xytext=(5, 0),
                textcoords="offset points",
                va="center",
                fontsize=9,
                color=_SENTINEL["ink" if n else "quiet"],
            )
        axes.set_yticks(places, stages)
        axes.invert_yaxis()
        axes.set_xlim(0, max([1, *counts]) * 1.12)
        axes.set_xticks([])
        axes.spines["bottom"].set_visible(False)
        axes.tick_params(axis="y", length=0, labelsize=9.5, labelcolor=_SENTINEL["ink"])
        axes.grid(False)

    said = ", ".join(f"{stage} {n}" for stage, n in zip(stages, counts, strict=True) if n) or "none"
    return _svg("loss-by-stage", f"Lost episodes by stage: {said}", draw, (10.8, 2.6))


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
                got, edges, fill=True, color=_SENTINEL["blue"], alpha=0.85, linewidth=0, label="captured"
            )
            if due != got:
                axes.stairs(
                    due,
                    edges,
                    baseline=got,
                    fill=True,
                    color=_SENTINEL["red"],
                    linewidth=0,
                    label="not captured",
                )
            axes.set_xlim(0, edges[-1])
        axes.set_ylim(0, max([1, *due]) * 1.25)
        axes.set_xlabel("seconds since the start", color=_SENTINEL["quiet"])
        axes.set_ylabel(f"episodes per {_tick(line['bucket_ms'] * 1000)}")
        if n:
            axes.legend(frameon=False, fontsize=9, loc="upper right", ncols=2, labelcolor=_SENTINEL["ink"])

    said = f"{sum(expected)} expected, {sum(captured)} captured over {len(expected) * step_s:g} seconds"
    return _svg("timeline", f"Episodes over time: {said}", draw, (10.8, 2.6))


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
                axes.barh(place, share, left=begin, height=0.55, color=_SENTINEL[colour], linewidth=0)
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
                color=_SENTINEL["ink"],
            )
        axes.set_yticks(range(len(accounts)), [words.clean(name) for name, _ in accounts])
        axes.invert_yaxis()
        axes.set_xlim(0, 1.45)
        axes.set_xticks([])
        axes.spines["bottom"].set_visible(False)
        axes.tick_params(axis="y", length=0, labelsize=9.5, labelcolor=_SENTINEL["ink"])
        axes.grid(False)

    said = "; ".join(
        f"{words.clean(name)} delivered {a['delivered']} of {a['offered']}, "
        f"lost {a['lost']}, pending {a['pending']}"
        for name, a in accounts
    )
    return _svg("witnesses", f"Witnesses: {said}", draw, (10.8, 0.5 + 0.42 * max(1, len(accounts))))


def sweep_chart(
    points: Sequence[Mapping[str, Any]],
    folklore: Sequence[Mapping[str, float]] = (),
    *,
    knee: float | None = None,
    title: str = "Loss against density",
) -> str:
    """Loss against density, a standalone SVG: what was measured with its intervals, the knee, the folklore.

    ``points``: {"density" in plugs/s, "loss_rate", "ci95": [low, high]}; ``folklore``: {"density",
    "loss_rate"}, drawn apart as what is to be confirmed or refuted. The knee is that of ``knee_of`` unless
    given.
    """
    measured = sorted(points, key=lambda point: point["density"])
    at = knee_of(measured) if knee is None else knee

    def draw(axes: Axes) -> None:
        densities = [point["density"] for point in measured]
        rates = [point["loss_rate"] * 100 for point in measured]
        reach = [
            [max(0.0, rate - point["ci95"][0] * 100) for rate, point in zip(rates, measured, strict=True)],
            [max(0.0, point["ci95"][1] * 100 - rate) for rate, point in zip(rates, measured, strict=True)],
        ]
        if measured:
            axes.errorbar(
                densities,
                rates,
                yerr=reach,
                color=_SENTINEL["blue"],
                marker="o",
                markersize=5,
                linewidth=1.8,
                elinewidth=1.2,
                capsize=3,
                label="measured, 95 % interval",
                zorder=3,
                clip_on=False,
            )
        if folklore:
            axes.plot(
                [point["density"] for point in folklore],
                [point["loss_rate"] * 100 for point in folklore],
                linestyle="none",
                marker="D",
                markersize=6,
                markerfacecolor="none",
                markeredgecolor=_SENTINEL["orange"],
                markeredgewidth=1.5,
                label="folklore",
                zorder=4,
                clip_on=False,
            )
        top = max(
            [
                1.0,
                *(r + up for r, up in zip(rates, reach[1], strict=True)),
                *(f["loss_rate"] * 100 for f in folklore),
            ]
        )
        axes.set_ylim(0, min(108.0, top * 1.15))
        everything = [*densities, *(point["density"] for point in folklore)]
        if everything:
            axes.set_xlim(0, max(everything) * 1.06 or 1.0)
        if at is not None:
            axes.axvline(at, color=_SENTINEL["red"], linewidth=1.2, linestyle=(0, (4, 3)))
            right = bool(everything) and at > 0.75 * max(everything)
            axes.annotate(
                f"knee {at:g} plugs/s",
                (at, axes.get_ylim()[1]),
                xytext=(-6 if right else 6, -4),
                textcoords="offset points",
                ha="right" if right else "left",
                va="top",
                fontsize=9.5,
                color=_SENTINEL["red"],
            )
        axes.set_xlabel("plugs per second", color=_SENTINEL["quiet"])
        axes.set_ylabel("lost, %")
        axes.set_title(title, loc="left", fontsize=12, color=_SENTINEL["ink"], pad=12)
        if measured or folklore:
            axes.legend(frameon=False, fontsize=9, loc="upper left", labelcolor=_SENTINEL["ink"])

    said = "; ".join(
        f"{point['density']:g} plugs/s lost {words.percent(point['loss_rate'])}" for point in measured
    )
    where = f" The knee is at {at:g} plugs/s." if at is not None else " No knee was found."
    return standalone(_svg("sweep", f"{title}: {said}.{where}", draw, (8.0, 4.4)))


def knee_of(points: Sequence[Mapping[str, Any]]) -> float | None:
    """The lowest density whose loss is above that of the lowest density beyond doubt.

    Beyond doubt: its interval lies wholly above the interval of the lowest density measured. None where
    there is no such density.
    """
    measured = sorted(points, key=lambda point: point["density"])
    for point in measured[1:]:
        if point["ci95"][0] > measured[0]["ci95"][1]:
            return float(point["density"])
    return None


def standalone(svg: str) -> str:
    """The same chart as a file of its own, with the colours' values for light and dark screens in it."""
    light = ";".join(f"--{name}:{pair[0]}" for name, pair in PALETTE.items())
    dark = ";".join(f"--{name}:{pair[1]}" for name, pair in PALETTE.items())
    style = (
        f"<style>svg{{{light};background:#fff}}"
        f"@media(prefers-color-scheme:dark){{svg{{{dark};background:#12181f}}}}</style>"
    )
    head, rest = svg.split(">", 1)
    return f'<?xml version="1.0" encoding="utf-8"?>\n{head}>{style}{rest}'


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


def _svg(name: str, label: str, draw: Callable[[Axes], None], size: tuple[float, float]) -> str:
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
        "axes.edgecolor": _SENTINEL["rule"],
        "axes.labelcolor": _SENTINEL["quiet"],
        "xtick.color": _SENTINEL["rule"],
        "ytick.color": _SENTINEL["rule"],
        "xtick.labelcolor": _SENTINEL["quiet"],
        "ytick.labelcolor": _SENTINEL["quiet"],
        "text.color": _SENTINEL["ink"],
    }
    with rc_context(settings):
        figure = Figure(figsize=size, layout="constrained")
        figure.patch.set_visible(False)
        axes = figure.add_subplot()
        axes.patch.set_visible(False)
        for side in ("top", "right", "left"):
            axes.spines[side].set_visible(False)
        axes.grid(True, axis="y", color=_SENTINEL["rule"], linewidth=0.7)
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
    for variable, sentinel in _SENTINEL.items():
        body = body.replace(sentinel, f"var(--{variable})")
    body = body.replace("'DejaVu Sans'", "system-ui, 'DejaVu Sans'")
    body = re.sub(r' (?:width|height)="[\d.]+pt"', "", body, count=2)
    return body.replace("<svg", f'<svg role="img" aria-label="{escape(label)}"', 1)
