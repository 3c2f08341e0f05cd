"""Stopping the real daemon when things are not as they should be."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.daemon.process import BASE, Daemon, Onlooker, SmallDisk, configuration, environment
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


def health_of(daemon: Daemon) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((daemon.state / "health.json").read_text())
    return found


def test_how_the_last_stops_went_is_kept_and_shown(tmp_path: Path, broker: Mosquitto) -> None:
    config = configuration(tmp_path, broker.port, "[lifecycle]\ndrain_s = 0.4\n")
    with Daemon(tmp_path, config) as daemon:
        assert daemon.stop() == 0
        first = health_of(daemon)
        assert first["stage"] == "stopped" and "SIGTERM" in first["reason"]
        (drain,) = first["drains"]
        assert (drain["result"], drain["deadline_s"]) == ("ran_out", 0.4)
        assert drain["took_s"] >= 0.3 and drain["left"] == first["backlog"] > 0
        with Onlooker(broker.port, acknowledges=True) as onlooker:
            daemon.start()
            eventually(lambda: bool(onlooker.events), "it is heard")
            assert 'plugmeter_drains_total{result="ran_out"} 1.0' in daemon.ask("/metrics")[1]
            assert daemon.figures()["last_drains"] == first["drains"]
            assert daemon.stop() == 0
            (told,) = (each["data"] for each in onlooker.events if each["type"] == "plugmeter.health.v1"
                       and each["data"]["uptime_s"] < health_of(daemon)["uptime_s"]
                       and each["data"]["time_ns"] > first["time_ns"])  # fmt: skip
        assert "SIGTERM" in told["reason"]
        second = health_of(daemon)
        assert [each["result"] for each in second["drains"]] == ["ran_out", "drained"]
        assert second["drains"][1]["deadline_s"] == pytest.approx(0.6)
        assert second["drain_counts"] == {"ran_out": 1, "drained": 1}
        shown = subprocess.run(
            [sys.executable, "-m", "plugmeter", "status", "--config", str(config)],
            capture_output=True, text=True, env=environment(), check=False,
        ).stdout  # fmt: skip
        assert "ran_out after" in shown and "drained after" in shown


def test_a_second_daemon_leaves_what_the_first_one_remembers(tmp_path: Path) -> None:
    config = configuration(tmp_path, None)
    with Daemon(tmp_path, config) as daemon:
        (daemon.state / "drains.json").write_text('{"ran_out": 3}\n')
        (daemon.state / "health.json").write_text("{}\n")
        (tmp_path / "other").mkdir()
        other = Daemon(tmp_path / "other", config)
        other.start(wait=False)
        assert other.process.wait(60) == 1
        assert (daemon.state / "drains.json").read_text() == '{"ran_out": 3}\n'
        assert (daemon.state / "health.json").read_text() == "{}\n"
        assert daemon.ask("/livez")[0] == 200
        assert daemon.stop() == 0


def test_signals_are_audited_whatever_the_log_level(tmp_path: Path, broker: Mosquitto) -> None:
    config = configuration(tmp_path, broker.port)
    config.write_text(config.read_text().replace("[rig]", 'log_level = "error"\n[rig]'))
    with Onlooker(broker.port, acknowledges=True) as onlooker, Daemon(tmp_path, config) as daemon:
        daemon.send(signal.SIGALRM)
        eventually(lambda: "signal" in onlooker.kinds(), "its record")
        assert "SIGALRM from " in daemon.log()
        assert daemon.stop() == 0
        assert "SIGTERM from " in daemon.log() and "running -> terminating" in daemon.log()
