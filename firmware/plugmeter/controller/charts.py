"""The page's charts: SVG made here, coloured by the style sheet. Everything in them is escaped. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from markupsafe import Markup, escape

_WIDTH, _HEIGHT = 960, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 8, 12, 30
_LABELLED = {1: 10, 60: 3, 360: 4, 1_440: 4}
"""Minutes of a column to how many of them get one label: at round times."""


def columns(found: Sequence[Mapping[str, Any]], stages: Sequence[str]) -> Markup:
    """Losses in stacked columns, one a bucket, by stage; ``found`` as in ``over_time``."""
    most = max((column["lost"] for column in found), default=0)
    top, step = _scale(most)
    plot_width, plot_height = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM
    parts: list[Markup] = []
    value = 0
    while value <= top:
        y = _TOP + plot_height * (1 - value / top)
        parts.append(
            Markup('<line class="grid" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(
                _LEFT, _WIDTH - _RIGHT, _n(y), _n(y)
            )
        )
        parts.append(
            Markup('<text class="tick end" x="{}" y="{}">{}</text>').format(
                _LEFT - 8, _n(y + 4), f"{value:,}"
            )
        )
        value += step
    slot = plot_width / max(1, len(found))
    for index, column in enumerate(found):
        x = _LEFT + slot * index
        parts.append(_column(column, stages, x, slot, plot_height, top))
        number = column["start_ms"] // (column["minutes"] * 60_000)
        if number % _LABELLED.get(column["minutes"], 8) == 0:
            label = _moment(column["start_ms"], column["minutes"])
            parts.append(
                Markup('<text class="tick middle" x="{}" y="{}">{}</text>').format(
                    _n(x + slot / 2), _HEIGHT - 10, label
                )
            )
    parts.append(
        Markup('<line class="axis" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(
            _LEFT, _WIDTH - _RIGHT, _TOP + plot_height, _TOP + plot_height
        )
    )
    total = sum(column["lost"] for column in found)
    label = f"{total:,} lost episodes in {len(found)} columns, at most {most:,} in one"
    return Markup('<svg class="columns" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        _WIDTH, _HEIGHT, label, Markup("").join(parts)
    )


def _column(
    column: Mapping[str, Any], stages: Sequence[str], x: float, slot: float, height: float, top: int
) -> Markup:
    gap = min(4.0, slot * 0.2)
    bottom = _TOP + height
    bars = []
    for stage in stages:
        n = column["stages"].get(stage, 0)
        if not n:
            continue
        tall = max(2.0, height * n / top)
        bottom -= tall
        bars.append(
            Markup('<rect class="stage-{}" x="{}" y="{}" width="{}" height="{}" rx="1.5"/>').format(
                stage, _n(x + gap / 2), _n(bottom), _n(slot - gap), _n(tall)
            )
        )
    if not bars and column["verdicts"]:  # measured, and nothing lost: not the same as no measurement
        bars.append(
            Markup('<rect class="clear" x="{}" y="{}" width="{}" height="2"/>').format(
                _n(x + gap / 2), _n(_TOP + height - 2), _n(slot - gap)
            )
        )
    words = [f"{column['lost']:,} lost of {column['verdicts']:,} verdicts"]
    words += [f"{stage}: {column['stages'][stage]:,}" for stage in stages if column["stages"].get(stage)]
    title = f"{_moment(column['start_ms'], column['minutes'], whole=True)} UTC\n" + "\n".join(words)
    return Markup(
        '<g class="bucket"><rect class="hit" x="{}" y="{}" width="{}" height="{}"/>{}<title>{}</title></g>'
    ).format(_n(x), _TOP, _n(slot), _n(height), Markup("").join(bars), title)


def spark(values: Sequence[int], active: Sequence[bool] | None = None, label: str = "") -> Markup:
    """A small column chart without axes. A zero is a low line, or a hairline where nothing was measured."""
    width, height = 4 * len(values), 22
    most = max(values, default=0)
    parts = []
    for index, value in enumerate(values):
        if value:
            tall = max(3.0, height * value / most)
            parts.append(
                Markup('<rect class="lost" x="{}" y="{}" width="3" height="{}"/>').format(
                    4 * index, _n(height - tall), _n(tall)
                )
            )
        elif active is None or active[index]:
            parts.append(
                Markup('<rect class="clear" x="{}" y="{}" width="3" height="2"/>').format(
                    4 * index, height - 2
                )
            )
        else:
            parts.append(
                Markup('<rect class="none" x="{}" y="{}" width="3" height="1"/>').format(
                    4 * index, height - 1
                )
            )
    return Markup(
        '<svg class="spark" viewBox="0 0 {} {}" width="{}" height="{}" preserveAspectRatio="none" role="img"'
        ' aria-label="{}">{}</svg>'
    ).format(width, height, width, height, escape(label), Markup("").join(parts))


def shares(stages: Mapping[str, int], order: Sequence[str]) -> Markup:
    """One bar, divided by stage."""
    total = sum(stages.values())
    x = 0.0
    parts = []
    for stage in order:
        n = stages.get(stage, 0)
        if n:
            wide = 100 * n / total
            parts.append(
                Markup(
                    '<rect class="stage-{}" x="{}" y="0" width="{}" height="10"><title>{}</title></rect>'
                ).format(stage, _n(x), _n(wide), f"{stage}: {n:,}")
            )
            x += wide
    label = ", ".join(f"{stage} {stages[stage]:,}" for stage in order if stages.get(stage))
    return Markup(
        '<svg class="shares" viewBox="0 0 100 10" preserveAspectRatio="none" role="img" aria-label="{}">'
        "{}</svg>"
    ).format(label or "nothing lost", Markup("").join(parts))


def _scale(most: int) -> tuple[int, int]:
    """The top of the axis, and the distance of its lines: 1, 2 or 5 times a power of ten."""
    step = 1
    while True:
        for factor in (1, 2, 5):
            if factor * step * 5 >= most:
                lines = max(1, -(-most // (factor * step)))
                return factor * step * lines, factor * step
        step *= 10


def _moment(start_ms: int, minutes: int, *, whole: bool = False) -> str:
    moment = datetime.fromtimestamp(start_ms / 1_000, UTC)
    if whole:
        later = f" to {minutes // 60} h later" if minutes > 60 else ""
        return moment.strftime("%Y-%m-%d %H:%M") + later
    return moment.strftime("%d %b") if minutes >= 360 else moment.strftime("%H:%M")


def _n(value: float) -> str:
    """A coordinate, short."""
    return f"{value:.2f}".rstrip("0").rstrip(".")
