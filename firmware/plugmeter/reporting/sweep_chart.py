"""The sweep's chart: loss against density, as an SVG file of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from plugmeter.reporting import words
from plugmeter.reporting.charts import PALETTE, STAND_IN, draw_svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def sweep_chart(
    points: Sequence[Mapping[str, Any]],
    folklore: Sequence[Mapping[str, float]] = (),
    *,
    knee: float | None,
    title: str = "Loss against density",
) -> str:
    """Loss against density, a standalone SVG: what was measured with its intervals, the knee, the folklore.

    ``points``: {"density" in plugs/s, "loss_rate", "ci95": [low, high]}; ``folklore``: {"density",
    "loss_rate"}, drawn apart as what is to be confirmed or refuted; ``knee``: in plugs/s, None where there is
    none. Raises UsageError where the report extras are not installed.
    """
    measured = sorted(points, key=lambda point: point["density"])

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
                color=STAND_IN["blue"],
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
                markeredgecolor=STAND_IN["orange"],
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
        if knee is not None:
            axes.axvline(knee, color=STAND_IN["red"], linewidth=1.2, linestyle=(0, (4, 3)))
            right = bool(everything) and knee > 0.75 * max(everything)
            axes.annotate(
                f"knee {knee:g} plugs/s",
                (knee, axes.get_ylim()[1]),
                xytext=(-6 if right else 6, -4),
                textcoords="offset points",
                ha="right" if right else "left",
                va="top",
                fontsize=9.5,
                color=STAND_IN["red"],
            )
        axes.set_xlabel("plugs per second", color=STAND_IN["quiet"])
        axes.set_ylabel("lost, %")
        axes.set_title(title, loc="left", fontsize=12, color=STAND_IN["ink"], pad=12)
        if measured or folklore:
            axes.legend(frameon=False, fontsize=9, loc="upper left", labelcolor=STAND_IN["ink"])

    said = "; ".join(
        f"{point['density']:g} plugs/s lost {words.percent(point['loss_rate'])}" for point in measured
    )
    where = f" The knee is at {knee:g} plugs/s." if knee is not None else " No knee was found."
    return _standalone(draw_svg("sweep", f"{title}: {said}.{where}", draw, (8.0, 4.4)))


def _standalone(svg: str) -> str:
    """The same chart as a file of its own, with the colours' values for light and dark screens in it."""
    light = ";".join(f"--{name}:{pair[0]}" for name, pair in PALETTE.items())
    dark = ";".join(f"--{name}:{pair[1]}" for name, pair in PALETTE.items())
    style = (
        f"<style>svg{{{light};background:#fff}}"
        f"@media(prefers-color-scheme:dark){{svg{{{dark};background:#12181f}}}}</style>"
    )
    head, rest = svg.split(">", 1)
    return f'<?xml version="1.0" encoding="utf-8"?>\n{head}>{style}{rest}'
