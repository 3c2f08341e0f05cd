"""The metrics endpoint on real sockets: another server takes over, or none can be had for a while."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from plugmeter.daemon.endpoint import MetricsEndpoint
from plugmeter.errors import PlugmeterError
from plugmeter.lifecycle.address import parse_address
from plugmeter.lifecycle.ask import ask
from plugmeter.lifecycle.exchange import Request, Response
from tests.telemetry.broker import eventually


def pages(request: Request) -> Response | None:
    return Response(b"hello\n") if request.path == "/" else None


def get(address: str) -> bytes:
    return ask(parse_address(address), "/", 60.0)[1]


@pytest.fixture
def endpoint() -> Iterator[MetricsEndpoint]:
    made = MetricsEndpoint()
    yield made
    made.close(1.0)


@pytest.fixture
def address(tmp_path: Path) -> str:
    (tmp_path / "run").mkdir()
    return f"unix:{tmp_path}/run/metrics.sock"


def test_no_address_is_no_server(endpoint: MetricsEndpoint) -> None:
    endpoint.open("", pages)
    endpoint.tick()
    assert endpoint.progress is None and endpoint.counters == {}


def test_what_was_served_outlasts_the_server(endpoint: MetricsEndpoint, address: str) -> None:
    endpoint.open(address, pages)
    assert get(address) == b"hello\n"
    eventually(lambda: endpoint.counters["answered"] == 1, "its handler has ended")
    before = endpoint.progress
    endpoint.restart()
    assert endpoint.progress is not None and endpoint.progress is not before
    assert get(address) == b"hello\n"
    eventually(lambda: endpoint.counters["answered"] == 2, "both are counted")


def test_another_address_is_listened_at_before_the_old_one_is_left(
    endpoint: MetricsEndpoint, address: str, tmp_path: Path
) -> None:
    other = f"unix:{tmp_path}/other.sock"
    endpoint.open(address, pages)
    take_its_place = endpoint.prepare(other)
    assert get(address) == b"hello\n"
    take_its_place()
    assert get(other) == b"hello\n"
    assert not (tmp_path / "run" / "metrics.sock").exists()
    endpoint.prepare("")()
    assert endpoint.progress is None and not (tmp_path / "other.sock").exists()


def test_the_same_address_keeps_its_server(endpoint: MetricsEndpoint, address: str) -> None:
    endpoint.open(address, pages)
    before = endpoint.progress
    endpoint.prepare(address)()
    assert endpoint.progress is before
    assert get(address) == b"hello\n"


def test_an_address_that_cannot_be_had_leaves_the_old_one(
    endpoint: MetricsEndpoint, address: str, tmp_path: Path
) -> None:
    endpoint.open(address, pages)
    with pytest.raises(PlugmeterError):
        endpoint.prepare(f"unix:{tmp_path}/nowhere/metrics.sock")
    assert get(address) == b"hello\n"


def test_what_cannot_be_begun_anew_is_told_once_and_tried_again(
    endpoint: MetricsEndpoint, address: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    endpoint.open(address, pages)
    hidden = (tmp_path / "run").rename(tmp_path / "hidden")
    endpoint.restart()
    endpoint.tick()
    endpoint.tick()
    assert endpoint.progress is None
    told = [each for each in caplog.records if each.name == "plugmeter.daemon"]
    assert [each.levelno for each in told] == [logging.ERROR]
    hidden.rename(tmp_path / "run")
    endpoint.tick()
    assert get(address) == b"hello\n"
