"""The bench's own mosquitto."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from plugmeter.bench.broker import HOST, Broker, find_mosquitto
from plugmeter.errors import PlugmeterError


@pytest.fixture
def _mosquitto() -> None:
    try:
        find_mosquitto()
    except PlugmeterError as error:
        pytest.skip(f"needs mosquitto: {error}")


@pytest.mark.usefixtures("_mosquitto")
def test_it_listens_and_ends(tmp_path: Path) -> None:
    with Broker(tmp_path) as broker:
        socket.create_connection((HOST, broker.port), timeout=5).close()
        pid = broker.pid
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


@pytest.mark.usefixtures("_mosquitto")
def test_it_ends_also_while_it_is_stopped(tmp_path: Path) -> None:
    with Broker(tmp_path) as broker:
        broker.pause()
        pid = broker.pid
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


@pytest.mark.usefixtures("_mosquitto")
def test_waiting_for_a_subscriber_ends_with_him(tmp_path: Path) -> None:
    def gone() -> None:
        raise PlugmeterError("he has ended")

    with Broker(tmp_path) as broker, pytest.raises(PlugmeterError, match="he has ended"):
        broker.wait_for_subscriber("plugmeter/v1/+/records", gone)


def test_without_mosquitto_it_says_what_to_install(tmp_path: Path) -> None:
    with pytest.raises(PlugmeterError, match="install the package mosquitto"):
        find_mosquitto(str(tmp_path))
