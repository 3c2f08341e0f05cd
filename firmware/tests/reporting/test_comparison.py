"""The comparison: the interval of a difference against published values and a simulation of its own."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from plugmeter.reporting import comparison
from plugmeter.reporting.table import columns
from tests.reporting import samples


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        # Newcombe 1998, table II, examples a to h, method 10; theirs is first minus second
        ((48, 80), (56, 70), (0.0524, 0.3339)),
        ((3, 10), (9, 10), (0.1705, 0.8090)),
        ((2, 7), (6, 7), (0.0582, 0.8062)),
        ((0, 29), (5, 56), (-0.0381, 0.1926)),
        ((0, 20), (0, 10), (-0.1611, 0.2775)),
        ((0, 10), (10, 10), (0.6075, 1.0)),
    ],
)
def test_newcombe_is_newcombes(a: tuple[int, int], b: tuple[int, int], expected: tuple[float, float]) -> None:
    assert comparison.newcombe(*a, *b) == pytest.approx(expected, abs=6e-5)


@given(st.integers(1, 10_000), st.data())
def test_wilson_is_scipys(n: int, data: st.DataObject) -> None:
    lost = data.draw(st.integers(0, n))
    interval = binomtest(lost, n).proportion_ci(0.95, method="wilson")
    assert comparison.wilson(lost, n) == pytest.approx((interval.low, interval.high), abs=1e-9)


@given(st.integers(1, 500), st.integers(1, 500), st.data())
def test_the_other_way_round_it_is_its_mirror(n: int, m: int, data: st.DataObject) -> None:
    x, y = data.draw(st.integers(0, n)), data.draw(st.integers(0, m))
    low, high = comparison.newcombe(x, n, y, m)
    assert low <= y / m - x / n <= high
    assert comparison.newcombe(y, m, x, n) == pytest.approx((-high, -low))


def test_no_event_has_no_rate() -> None:
    with pytest.raises(ValueError, match="no rate"):
        comparison.newcombe(0, 0, 1, 2)


def test_ratios_are_b_over_a() -> None:
    found = comparison.compare(samples.clean(), samples.clean(slower=2.0, machine="aarch64"))
    ratio = found["latency_us"]["uevent_to_udev"]["p50"]["ratio"]
    assert ratio == pytest.approx(2.0, rel=0.01)
    assert found["loss"]["differs"] is False
    assert found["warnings"] == []
    assert json.loads(json.dumps(found)) == found


def test_a_loss_that_differs() -> None:
    found = comparison.compare(samples.clean(), samples.lossy())
    assert found["loss"]["intervals_overlap"] is False
    assert found["loss"]["differs"] is True
    assert "So the loss rates differ." in comparison.render(found)


def test_the_interval_by_storm_has_the_last_word() -> None:
    a, b = samples.report(2400, {"unknown": 20}), samples.report(2400, {"unknown": 50})
    a["loss_ci95_by_storm"], b["loss_ci95_by_storm"] = [0.0, 0.02], [0.01, 0.04]
    found = comparison.compare(a, b)
    assert found["loss"]["difference_ci95"][0] > 0
    assert found["loss"]["differs"] is False


@pytest.mark.parametrize("name", ["invalid", "empty"])
def test_no_measurement_is_not_compared(name: str) -> None:
    found = comparison.compare(samples.lossy(), samples.ALL[name]())
    assert found["loss"]["comparable"] is False
    assert found["loss"]["difference_ci95"] is None
    text = comparison.render(found)
    assert "cannot be compared" in text
    if name == "invalid":
        assert text.startswith("WARNING: B is INVALID")
        assert found["b"]["reasons"]


def test_stages_of_one_side_alone_are_shown() -> None:
    b = samples.clean()
    del b["latency_us"]["edge_to_node"]
    found = comparison.compare(samples.clean(), b)
    assert found["latency_us"]["edge_to_node"]["p50"]["b"] is None
    assert found["latency_us"]["edge_to_node"]["p50"]["ratio"] is None


@pytest.mark.parametrize("one", samples.ALL)
@pytest.mark.parametrize("other", samples.ALL)
def test_it_fits_the_terminal(one: str, other: str) -> None:
    text = comparison.render(comparison.compare(samples.ALL[one](), samples.ALL[other]()))
    assert max(columns(line) for line in text.splitlines()) <= 80
