"""Charts: the same text for the same figures, and the knee by its definition."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from typing import Any

import pytest

from tests.reporting import samples

pytest.importorskip("matplotlib", reason="needs the report extras")

from plugmeter.reporting import charts

FOLKLORE = [
    {"density": 5, "loss_rate": 0.0},
    {"density": 85, "loss_rate": 0.023},
    {"density": 110, "loss_rate": 0.187},
]


def points(*pairs: tuple[float, int], n: int = 1200) -> list[dict[str, Any]]:
    return [
        {"density": density, "loss_rate": lost / n, "ci95": samples.clopper_pearson(lost, n)}
        for density, lost in pairs
    ]


MEASURED = points((5, 0), (50, 0), (70, 4), (85, 31), (110, 230))


def test_the_sweep_is_a_picture_by_itself() -> None:
    svg = charts.sweep_chart(MEASURED, FOLKLORE)
    root = ET.fromstring(svg)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert "knee is at 85 plugs/s" in root.attrib["aria-label"]
    assert "--blue:" in svg
    assert svg == charts.sweep_chart(MEASURED, FOLKLORE)


@pytest.mark.parametrize("measured", [[], points((5, 0)), points((5, 0), (10, 1200))])
@pytest.mark.parametrize("folklore", [[], FOLKLORE])
def test_it_draws_whatever_there_is(measured: Any, folklore: Any) -> None:
    ET.fromstring(charts.sweep_chart(measured, folklore))


@pytest.mark.parametrize(
    ("measured", "knee"),
    [
        (MEASURED, 85.0),
        (list(reversed(MEASURED)), 85.0),
        (points((5, 0), (50, 0), (110, 0)), None),
        (points((5, 300), (50, 310)), None),
        ([], None),
    ],
)
def test_the_knee(measured: Any, knee: float | None) -> None:
    assert charts.knee_of(measured) == knee


def test_labels_are_escaped() -> None:
    svg = charts.sweep_chart(MEASURED, title='<a "b" & c>')
    assert '<a "b" & c>' in ET.fromstring(svg).attrib["aria-label"]


def test_one_value_makes_a_histogram() -> None:
    ET.fromstring(charts.latency_histogram(samples.report(2), "uevent_to_udev"))
