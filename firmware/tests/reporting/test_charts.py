"""Charts: they draw whatever figures there are."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest

from tests.reporting import samples

pytest.importorskip("matplotlib", reason="needs the report extras")

from plugmeter.reporting import charts


def test_one_value_makes_a_histogram() -> None:
    ET.fromstring(charts.latency_histogram(samples.report(2), "uevent_to_udev"))
