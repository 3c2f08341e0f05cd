"""Stopping the real daemon when things are not as they should be."""

from __future__ import annotations

import json
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.daemon.process import BASE, Daemon, Onlooker, SmallDisk, configuration
from tests.telemetry.broker import Mosquitto, eventually


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    with Mosquitto(tmp_path) as running:
        yield running


def records_that_find_no_room(daemon: Daemon) -> None:
    """Until the outbox says that it cannot write."""

    def asked() -> bool:
        daemon.send(signal.SIGUSR1)  # each makes a record
        time.sleep(0.05)
        return "the outbox cannot be written" in daemon.log()

    eventually(asked, "the outbox finds the disk full")


def test_a_full_disk_is_no_crash_at_the_stop(tmp_path: Path) -> None:
    disk = SmallDisk(tmp_path)
    config = configuration(tmp_path, None, "[lifecycle]\ndrain_s = 0.5\n")
    with Daemon(tmp_path, config, before=disk.before) as daemon:
        disk.fill(daemon)
        records_that_find_no_room(daemon)
        assert daemon.stop() == 0
        assert re.search(r"draining -> stopped \(deadline\).* records to write to the disk", daemon.log())
        assert "records that could not be written" in daemon.log()
        assert "Thread 0x" not in daemon.log(), "the last resort was not needed"


def test_a_second_signal_is_heard_while_the_disk_takes_nothing(tmp_path: Path) -> None:
    disk = SmallDisk(tmp_path)
    config = configuration(tmp_path, None, "[lifecycle]\ndrain_s = 30.0\n")
    with Daemon(tmp_path, config, before=disk.before) as daemon:
        disk.fill(daemon)
        records_that_find_no_room(daemon)
        daemon.send(signal.SIGTERM)
        eventually(lambda: "terminating -> draining" in daemon.log(), "it drains")
        time.sleep(1.1)  # an earlier one would be taken for the same press
        daemon.send(signal.SIGTERM)
        assert daemon.process.wait(60) == 0
        assert "draining -> stopped (force)" in daemon.log()


def test_room_that_is_made_while_it_drains_saves_the_records(tmp_path: Path) -> None:
    disk = SmallDisk(tmp_path)
    config = configuration(tmp_path, None, "[lifecycle]\ndrain_s = 30.0\n")
    with Daemon(tmp_path, config, before=disk.before) as daemon:
        filler = disk.fill(daemon)
        records_that_find_no_room(daemon)
        daemon.send(signal.SIGTERM)
        eventually(lambda: "terminating -> draining" in daemon.log(), "it drains")
        filler.unlink()
        assert daemon.process.wait(60) == 0
        assert "draining -> stopped (drained)" in daemon.log()
        assert "could not be written" not in daemon.log()


def test_a_death_on_purpose_is_told_also_while_the_controller_is_silent(
    tmp_path: Path, broker: Mosquitto
) -> None:
    config = configuration(tmp_path, broker.port, "[lifecycle]\ndrain_s = 0.3\n")
    with Onlooker(broker.port) as onlooker, Daemon(tmp_path, config) as daemon:
        eventually(lambda: onlooker.document("status").get("state") == "online", "it is online")
        assert daemon.stop() == 0
        assert "draining -> stopped (deadline)" in daemon.log()
        said_nothing_else(onlooker, ["online", "stopped"])


def test_a_death_on_purpose_is_told_also_where_it_is_forced(tmp_path: Path, broker: Mosquitto) -> None:
    config = configuration(tmp_path, broker.port, "[lifecycle]\ndrain_s = 30\n")
    with Onlooker(broker.port) as onlooker, Daemon(tmp_path, config) as daemon:
        eventually(lambda: onlooker.document("status").get("state") == "online", "it is online")
        daemon.send(signal.SIGTERM)
        eventually(lambda: "terminating -> draining" in daemon.log(), "it drains")
        time.sleep(1.1)  # an earlier one would be taken for the same press
        assert daemon.stop() == 0
        assert "draining -> stopped (force)" in daemon.log()
        said_nothing_else(onlooker, ["online", "stopped"])


def said_nothing_else(onlooker: Onlooker, states: list[str]) -> None:
    """The states that the device's status had, in order: what comes after a marker would have come before."""
    eventually(lambda: len(onlooker.all[f"{BASE}/status"]) >= len(states), "its last word")
    onlooker.publish("marker", b"x", retain=False)
    eventually(lambda: "marker" in onlooker.last, "the marker")
    assert [json.loads(each)["state"] for each in onlooker.all[f"{BASE}/status"]] == states
