"""The report as one HTML file that needs nothing else: no script, no font, no picture from elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from importlib.util import find_spec
from typing import Any

from plugmeter.reporting import charts, words


def check_available() -> None:
    """Raise UsageError where the report extras are not installed: before a run, not after it."""
    if any(find_spec(name) is None for name in ("jinja2", "matplotlib")):
        raise charts.missing_extra("HTML reports")


def render(report: Mapping[str, Any]) -> str:
    """The page of a report; the same text, byte for byte, for the same report.

    ``report`` follows report.schema.json. Everything in it is escaped. Raises UsageError where the report
    extras (jinja2, matplotlib) are not installed.
    """
    try:
        from jinja2 import Environment, StrictUndefined
        from markupsafe import Markup
    except ImportError as error:
        raise charts.missing_extra("HTML reports") from error
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(
        n=words.count, us=words.duration_us, percent=words.percent, interval=words.interval, clean=words.clean
    )
    template = environment.from_string(
        resources.files("plugmeter.reporting").joinpath("template.html").read_text("utf-8")
    )
    stages = [
        stage for stage in words.LATENCY_STAGES if report["latency_us"].get(stage, {"count": 0})["count"]
    ]
    valid = words.is_valid(report)
    lost = words.lost_total(report)
    page: str = template.render(
        report=report,
        words=words,
        palette=charts.PALETTE,
        valid=valid,
        tone="bad"
        if not valid or not report["conservation"]["holds"]
        else "warn"
        if lost or not report["expected"]
        else "good",
        lost=lost,
        stages=stages,
        histograms={stage: Markup(charts.latency_histogram(report, stage)) for stage in stages},
        tail=Markup(charts.long_tail(report)) if stages else None,
        loss_chart=Markup(charts.loss_by_stage(report)) if lost else None,
        timeline_chart=Markup(charts.timeline(report)) if report["timeline"]["expected"] else None,
        witness_chart=Markup(charts.witnesses(report)) if report["witnesses"] else None,
    )
    return page
