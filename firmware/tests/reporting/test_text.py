"""The terminal report: its first sentence, its width, and what an INVALID run may not say."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plugmeter.reporting import words
from plugmeter.reporting.table import columns
from plugmeter.reporting.text import render
from tests.reporting import samples


def test_the_verdict_comes_first() -> None:
    text = render(samples.clean(), width=120)
    assert text.splitlines()[0] == (
        "VALID (simulated truth): 1,200 expected, 1,200 captured, 0 lost; loss 0.00 % (95 %: 0 … 0.31 %)"
    )
    assert text.endswith("in all.\n")


def test_the_lossy_run_names_its_stages_and_those_alone() -> None:
    text = render(samples.lossy())
    assert "52 lost; loss 2.17 %" in text
    for line in (r"before_uevent +4 ", r"socket_queue +41 ", r"udevd +6 ", r"devtmpfs +1 "):
        assert re.search(line, text)
    assert "inotify_queue" not in text
    assert "netlink lost: socket_queue 656" in text
    assert re.search(r"upowerd +940 +udev +156", text)


@pytest.mark.parametrize("losses", [{}, {"socket_queue": 5}])
def test_an_invalid_run_never_says_how_many_were_lost(losses: dict[str, int]) -> None:
    report = samples.report(100, losses, reasons=("port 1-1.1: a hole",))
    for text in (render(report), words.verdict(report), words.claim(report)):
        assert not re.search(r"\d lost", text)
    assert render(report).startswith("INVALID: port 1-1.1: a hole\n")
    assert "captured" not in words.verdict(report)


def test_further_reasons_are_counted_first_and_listed_below() -> None:
    text = render(samples.invalid(), width=120)
    assert "(and 1 more)" in text.split("rig ")[0]
    assert "  - port 1-1.4: 150 edges, but 152 interrupts" in text


def test_a_run_that_expected_nothing_claims_nothing() -> None:
    text = render(samples.empty())
    assert text.startswith("VALID (simulated truth): nothing was expected, so nothing is known of losses\n")
    assert not re.search(r"\d lost", text)
    assert "\nLatency" not in text


def test_what_does_not_add_up_is_said() -> None:
    report = samples.clean()
    report["conservation"] = {"holds": False, "violations": ["netlink: 5 offered, 4 accounted"]}
    report["witnesses"]["netlink"]["conserved"] = False
    text = render(report)
    assert "Not conserved" in text
    assert "  - netlink: 5 offered, 4 accounted" in text
    assert "netlink !" in text


@pytest.mark.parametrize("name", samples.ALL)
@pytest.mark.parametrize("width", [60, 80, 120])
def test_no_line_is_wider_than_the_terminal(name: str, width: int) -> None:
    assert max(columns(line) for line in render(samples.ALL[name](), width).splitlines()) <= max(width, 72)
    if width >= 80:
        assert max(columns(line) for line in render(samples.ALL[name](), width).splitlines()) <= width


@pytest.mark.parametrize("name", samples.ALL)
def test_colour_changes_nothing_but_colour(name: str) -> None:
    coloured = render(samples.ALL[name](), colour=True)
    assert "\x1b[" in coloured
    assert re.sub(r"\x1b\[\d+m", "", coloured) == render(samples.ALL[name]())


def test_a_process_name_cannot_drive_the_terminal() -> None:
    report = samples.lossy()
    report["listeners"][1]["comm"] = "\x1b[2J\nevil"
    text = render(report)
    assert "\x1b" not in text
    assert "?[2J?evil" in text


@pytest.mark.parametrize(
    ("us", "says"),
    [
        (0, "0 µs"),
        (0.5, "0.5 µs"),
        (85.04, "85.0 µs"),
        (999.4, "999 µs"),
        (999.9, "1.00 ms"),
        (1240, "1.24 ms"),
        (999_990, "1.00 s"),
        (2_500_000, "2.50 s"),
        (150_000_000, "2.50 min"),
        (7_200_000_000, "2.00 h"),
        (-1500, "-1.50 ms"),
    ],
)
def test_durations(us: float, says: str) -> None:
    assert words.duration_us(us) == says


@pytest.mark.parametrize(
    ("share", "says"),
    [(0, "0.00 %"), (0.0217, "2.17 %"), (0.00001, "0.001 %"), (1, "100.00 %"), (0.999999, "99.99 %")],
)
def test_percentages_round_neither_to_nothing_nor_to_all(share: float, says: str) -> None:
    assert words.percent(share) == says


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 400), st.data())
def test_every_count_of_losses_is_the_reports_own(episodes: int, data: Any) -> None:
    n = data.draw(st.integers(0, episodes))
    report = samples.report(episodes, {"socket_queue": n})
    text = render(report, 200)
    if episodes:
        assert f"{episodes:,} expected, {episodes - n:,} captured, {n:,} lost" in text
    assert ("Lost, by stage" in text) == (n > 0)


def test_what_changed_while_nobody_looked_is_told() -> None:
    report = samples.clean()
    report["coldplug"]["at_start"] = 0
    assert "while nobody was looking" not in render(report)
    report["coldplug"] = {
        "at_start": 2,
        "before_start": {"appeared": 1, "vanished": 0, "replaced": 3},
        "resyncs": 1,
        "found_by_resync": {"appeared": 0, "vanished": 4},
        "at_end": 2,
    }
    told = render(report)
    assert "2 USB devices were there at the start" in told
    assert "since the run before: 1 appeared, 3 replaced" in told
    assert "found after an overrun: 4 vanished" in told
