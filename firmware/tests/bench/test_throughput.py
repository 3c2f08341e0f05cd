"""Throughput on small storms: each reader takes all of them, and bursts add up to the last uevent."""

from __future__ import annotations

from typing import Any

import pytest

from plugmeter.bench import throughput
from plugmeter.bench.throughput import READERS, burst, capacity
from tests.namespace import in_namespace, in_user_namespace


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("profile", ["sticks", "devices"])
def test_every_reader_takes_all_that_is_queued(reader: Any, profile: Any) -> None:
    found = in_namespace(lambda: capacity(reader, profile, 1500))
    assert (found.reader, found.events, found.taken) == (reader, 1500, 1500)
    assert found.events_per_s > 0
    assert found.cpu_us_per_event > 0


def test_a_small_buffer_makes_several_rounds() -> None:
    # An ordinary user's buffer ends at rmem_max: in a user namespace we are one.
    found = in_user_namespace(lambda: capacity("plugmeter", "sticks", 10_000))
    assert found.taken == 10_000


@pytest.mark.parametrize("buffer_bytes", [None, 2048, 65_536])
@pytest.mark.parametrize("pause_s", [0.0, 0.01])
def test_a_burst_adds_up(buffer_bytes: Any, pause_s: Any) -> None:
    found = in_namespace(lambda: burst(5000, buffer_bytes, pause_s))
    assert found.emitted == 5000
    assert found.delivered + found.known_lost == found.emitted
    assert found.accounted
    if buffer_bytes is None:
        assert found.known_lost == 0


def test_a_squeezed_burst_does_lose() -> None:
    found = in_namespace(lambda: burst(20_000, 2048, 0.02))
    assert found.known_lost > 0
    assert found.accounted


def test_measure_gives_medians_and_goals_their_figures() -> None:
    found = in_namespace(lambda: throughput.measure(runs=1, events=500, burst_events=1000))
    assert found.accounted
    assert found.burst_lost == 0
    assert found.witness_ratio == pytest.approx(found.witness_per_s / found.pyudev_per_s)
    assert found.as_json()["bursts"][0]["accounted"] is True


def test_payloads_are_whole_uevents_without_a_mark() -> None:
    for payload in throughput.payloads("sticks")[:64]:
        header, *pairs, rest = payload.split(b"\0")
        assert rest == b""
        assert b"plugmeter" not in payload
        assert pairs[1] == b"DEVPATH=" + header.partition(b"@")[2]
