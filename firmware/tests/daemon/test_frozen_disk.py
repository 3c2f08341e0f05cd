"""Stopping the real daemon while the disk below its state directory hangs."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.daemon.frozen_disk import FrozenDisk
from tests.daemon.process import Daemon, Onlooker, configuration
from tests.telemetry.broker import Mosquitto, eventually

pytestmark = pytest.mark.privileged


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    with Mosquitto(tmp_path) as running:
        yield running


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[FrozenDisk]:
    with FrozenDisk(tmp_path) as made:
        yield made


def state(onlooker: Onlooker) -> object:
    return onlooker.document("status").get("state")


def freeze_a_busy(disk: FrozenDisk, daemon: Daemon, onlooker: Onlooker) -> None:
    """While it writes: what it is told makes records."""
    eventually(lambda: state(onlooker) == "online", "it is online")
    disk.freeze()
    daemon.send(signal.SIGUSR1)
    time.sleep(0.5)


@pytest.mark.parametrize("acknowledges", [False, True], ids=["silent", "acknowledging"])
@pytest.mark.parametrize("drain_s", [0.3, 3])
def test_the_stop_goes_its_way(
    tmp_path: Path, broker: Mosquitto, disk: FrozenDisk, drain_s: float, acknowledges: bool
) -> None:
    config = configuration(tmp_path, broker.port, f"[lifecycle]\ndrain_s = {drain_s}\n")
    with Onlooker(broker.port, acknowledges=acknowledges) as onlooker, Daemon(tmp_path, config) as daemon:
        try:
            freeze_a_busy(disk, daemon, onlooker)
            daemon.send(signal.SIGTERM)
            eventually(lambda: state(onlooker) == "stopped", f"its farewell; {daemon.log()}")
            log = daemon.log()
            assert "draining -> stopped (deadline)" in log and "records to write to the disk" in log
            eventually(lambda: "the state directory does not answer" in daemon.log(), daemon.log())
            assert daemon.process.poll() is None, "who waits for a disk cannot end"
        finally:
            disk.thaw()
        assert daemon.process.wait(60) == 0, daemon.log()
        assert daemon.log().count("the state directory does not answer") == 1
        assert "the outbox is left open" in daemon.log()
        assert "Thread 0x" not in daemon.log(), "the last resort was not needed"


def test_a_second_signal_is_heard(tmp_path: Path, broker: Mosquitto, disk: FrozenDisk) -> None:
    config = configuration(tmp_path, broker.port, "[lifecycle]\ndrain_s = 30\n")
    with Onlooker(broker.port) as onlooker, Daemon(tmp_path, config) as daemon:
        try:
            freeze_a_busy(disk, daemon, onlooker)
            daemon.send(signal.SIGTERM)
            eventually(lambda: "terminating -> draining" in daemon.log(), "it drains")
            time.sleep(1.1)  # an earlier one would be taken for the same press
            daemon.send(signal.SIGTERM)
            eventually(lambda: "draining -> stopped (force)" in daemon.log(), f"it ends; {daemon.log()}")
            eventually(lambda: state(onlooker) == "stopped", f"its farewell; {daemon.log()}")
        finally:
            disk.thaw()
        assert daemon.process.wait(60) == 0, daemon.log()


def test_a_disk_that_answers_again_loses_nothing(tmp_path: Path, broker: Mosquitto, disk: FrozenDisk) -> None:
    config = configuration(tmp_path, broker.port, "[lifecycle]\ndrain_s = 30\n")
    with Onlooker(broker.port, acknowledges=True) as onlooker, Daemon(tmp_path, config) as daemon:
        try:
            freeze_a_busy(disk, daemon, onlooker)
            daemon.send(signal.SIGTERM)
            eventually(lambda: "terminating -> draining" in daemon.log(), "it drains")
        finally:
            disk.thaw()
        assert daemon.process.wait(60) == 0, daemon.log()
        assert "draining -> stopped (drained)" in daemon.log()
        assert "does not answer" not in daemon.log()
        assert onlooker.kinds().count("signal") == 2


def test_a_start_that_hangs_can_be_ended(tmp_path: Path, disk: FrozenDisk) -> None:
    config = configuration(tmp_path, None)
    daemon = Daemon(tmp_path, config)
    try:
        disk.freeze()
        daemon.start(wait=False)
        eventually(lambda: "STATUS=initializing: opening the outbox" in daemon.notifications, daemon.log())
        time.sleep(0.5)  # so that it is in it
        daemon.send(signal.SIGTERM)
        time.sleep(1.1)  # an earlier one would be taken for the same press
        daemon.send(signal.SIGTERM)
        eventually(lambda: "Timeout (0:00:02)!" in daemon.log(), f"the stacks; {daemon.log()}")
        disk.thaw()
        assert daemon.process.wait(60) == 1, "by the last resort, as soon as the disk let it"
    finally:
        disk.thaw()
        daemon.__exit__()
