"""The sweep's chart: the same text for the same figures, and the knee where it is told to be."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from typing import Any

import pytest

from tests.reporting import samples

pytest.importorskip("matplotlib", reason="needs the report extras")

from plugmeter.reporting.sweep_chart import sweep_chart

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
    svg = sweep_chart(MEASURED, FOLKLORE, knee=85)
    root = ET.fromstring(svg)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert "knee is at 85 plugs/s" in root.attrib["aria-label"]
    assert "--blue:" in svg
    assert svg == sweep_chart(MEASURED, FOLKLORE, knee=85)


@pytest.mark.parametrize("measured", [[], points((5, 0)), points((5, 0), (10, 1200))])
@pytest.mark.parametrize("folklore", [[], FOLKLORE])
@pytest.mark.parametrize("knee", [None, 5])
def test_it_draws_whatever_there_is(measured: Any, folklore: Any, knee: Any) -> None:
    ET.fromstring(sweep_chart(measured, folklore, knee=knee))


def test_without_a_knee_it_marks_none() -> None:
    svg = sweep_chart(MEASURED, FOLKLORE, knee=None)
    assert "No knee was found" in ET.fromstring(svg).attrib["aria-label"]
    assert "knee 85 plugs/s" not in svg
    assert "knee 85 plugs/s" in sweep_chart(MEASURED, FOLKLORE, knee=85)


def test_labels_are_escaped() -> None:
    svg = sweep_chart(MEASURED, knee=None, title='<a "b" & c>')
    assert '<a "b" & c>' in ET.fromstring(svg).attrib["aria-label"]
