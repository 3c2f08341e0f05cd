"""Stopping the real daemon when things are not as they should be."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.daemon.process import Daemon, SmallDisk, configuration
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
