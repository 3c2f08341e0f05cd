"""Reloading the real daemon: all of a file takes effect, or nothing of it."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from plugmeter.telemetry.commands.signing import new_key_pair
from tests.daemon.process import BASE, Daemon, Onlooker, configuration
from tests.telemetry.broker import Mosquitto, eventually


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    with Mosquitto(tmp_path) as running:
        yield running


class Hups:
    """SIGHUPs, each waited for."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self._count = 1

    def __call__(self) -> None:
        self._count += 1
        self._daemon.send(signal.SIGHUP)
        self._daemon.await_notified("READY=1", times=self._count)


def replaced(config: Path, old: str, new: str) -> None:
    text = config.read_text()
    assert old in text
    config.write_text(text.replace(old, new))


def states(onlooker: Onlooker) -> list[str]:
    return [json.loads(each)["state"] for each in onlooker.all[f"{BASE}/status"] if each]


def effective(onlooker: Onlooker) -> dict[str, Any]:
    found: dict[str, Any] = onlooker.document("reported").get("config", {})
    return found


def test_nothing_new_disturbs_nothing(tmp_path: Path, broker: Mosquitto) -> None:
    config = configuration(tmp_path, broker.port, rig="none")
    with Onlooker(broker.port, acknowledges=True) as onlooker, Daemon(tmp_path, config) as daemon:
        eventually(lambda: states(onlooker) == ["online"], "it is online")
        hup = Hups(daemon)
        hup()
        hup()
        assert daemon.figures()["link"]["connects"] == 1
        assert states(onlooker) == ["online"]
        assert daemon.stop() == 0


def test_a_part_that_cannot_be_had_keeps_all_of_the_old(tmp_path: Path, broker: Mosquitto) -> None:
    """Metrics at a place that is taken, and beside it what could take effect: a run, limits, a broker."""
    config = configuration(tmp_path, broker.port, "[run]\ndebounce_ms = 100\n")
    old = config.read_text()
    with (
        Onlooker(broker.port, acknowledges=True) as onlooker,
        Daemon(tmp_path, config) as daemon,
        socket.create_server(("127.0.0.1", 0)) as taken,
    ):
        eventually(lambda: bool(effective(onlooker)), "what is in effect")
        hup = Hups(daemon)
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        replaced(config, f"unix:{tmp_path}/metrics.sock", address)
        replaced(config, "debounce_ms = 100", "debounce_ms = 120")
        replaced(config, 'rig = "none"', 'rig = "injected"')
        replaced(config, f"port = {broker.port}", "port = 1")
        hup()
        assert "reload refused" in daemon.log() and address in daemon.log()
        assert daemon.ask("/readyz")[0] == 200, "the old metrics"
        assert daemon.figures()["run"]["state"] == "none"
        assert daemon.figures()["link"]["state"] == "connected"
        assert effective(onlooker)["run"]["debounce_ms"] == 100
        config.write_text(old)
        onlooker.command("config", "c1", {"config": {"run": {"debounce_ms": 130}}})
        assert onlooker.await_state("config", "c1")["state"] == "successful", "no trace of what was refused"
        assert daemon.stop() == 0


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('device = "bench-1"', 'device = "bench-2"', "daemon.device changes with a restart only"),
        ("/state", "/elsewhere", "daemon.state_directory changes with a restart only"),
        ('rig = "none"', 'rig = "relay"', "switch"),
        ("metrics.sock", "nowhere/metrics.sock", "its folder is not there"),
        ("ack_timeout_s = 1.0", 'username = "u"\npassword_file = "/nowhere/secret"', "/nowhere/secret"),
        ("ack_timeout_s = 1.0", '[commands]\npublic_key_file = "/nowhere/key.pem"', "/nowhere/key.pem"),
        ("[rig]", "[rig", "plugmeter.toml"),
    ],
)
def test_what_is_wrong_is_said_and_the_old_one_stays(
    tmp_path: Path, broker: Mosquitto, old: str, new: str, said: str
) -> None:
    config = configuration(tmp_path, broker.port)
    good = config.read_text()
    with Onlooker(broker.port, acknowledges=True) as onlooker, Daemon(tmp_path, config) as daemon:
        hup = Hups(daemon)
        replaced(config, old, new)
        hup()
        (line,) = (line for line in daemon.log().splitlines() if "reload refused" in line)
        assert said in line
        assert "Traceback" not in daemon.log()
        config.write_text(good)
        hup()
        # Nothing of it is left behind that would be in the way of a configuration from afar.
        onlooker.command("config", "c1", {"config": {"run": {"debounce_ms": 130}}})
        assert onlooker.await_state("config", "c1")["state"] == "successful"
        assert daemon.stop() == 0


@pytest.mark.parametrize("kind", ["gone", "folder", "fifo", "binary"])
def test_a_file_that_is_none_is_told_and_nothing_hangs(tmp_path: Path, kind: str) -> None:
    config = configuration(tmp_path, None)
    with Daemon(tmp_path, config) as daemon:
        config.unlink()
        if kind == "folder":
            config.mkdir()
        elif kind == "fifo":
            os.mkfifo(config)
        elif kind == "binary":
            config.write_bytes(os.urandom(5_000))
        Hups(daemon)()
        assert "reload refused" in daemon.log() and "Traceback" not in daemon.log()
        assert daemon.stop() == 0


def test_a_file_with_a_name_of_no_encoding_is_told_too(tmp_path: Path) -> None:
    """Its name is in the message, and the message in a record."""
    config = configuration(tmp_path, None)
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/odd-\xff.toml"))
    config.rename(odd)
    with Daemon(tmp_path, odd) as daemon:
        odd.write_text("[run]\ndebounce_ms = -1\n")
        Hups(daemon)()
        assert "reload refused" in daemon.log() and "Traceback" not in daemon.log()
        assert daemon.stop() == 0


def test_another_broker_and_the_old_one_hears_that_it_is_left_on_purpose(
    tmp_path: Path, broker: Mosquitto
) -> None:
    (tmp_path / "other").mkdir()
    config = configuration(tmp_path, broker.port)
    with (
        Mosquitto(tmp_path / "other") as other,
        Onlooker(broker.port, acknowledges=True) as before,
        Onlooker(other.port, acknowledges=True) as after,
        Daemon(tmp_path, config) as daemon,
    ):
        eventually(lambda: states(before) == ["online"], "it is online")
        replaced(config, f"port = {broker.port}", f"port = {other.port}")
        hup = Hups(daemon)
        hup()
        eventually(lambda: states(after) == ["online"], "it is online at the other one")
        eventually(lambda: len(states(before)) > 1, "its last word")
        assert states(before) == ["online", "stopped"]
        for _ in range(20):  # to and fro: nothing is left of the links that were
            replaced(config, f"port = {other.port}", f"port = {broker.port}")
            hup()
            replaced(config, f"port = {broker.port}", f"port = {other.port}")
            hup()
        open_files = daemon.figures()["process"]["descriptors"]
        hup()
        assert daemon.figures()["process"]["descriptors"] < open_files + 5
        assert daemon.figures()["process"]["thread_count"] < 15
        assert daemon.stop() == 0


def test_metrics_move_to_another_address(tmp_path: Path) -> None:
    config = configuration(tmp_path, None)
    with Daemon(tmp_path, config) as daemon:
        answered = daemon.figures()["http"]["answered"]
        replaced(config, "metrics.sock", "other.sock")
        Hups(daemon)()
        assert not (tmp_path / "metrics.sock").exists()
        (tmp_path / "metrics.sock").symlink_to("other.sock")
        assert daemon.ask("/livez")[0] == 200
        assert daemon.figures()["http"]["answered"] > answered
        assert daemon.stop() == 0


def test_what_commands_are_obeyed_changes_too(tmp_path: Path, broker: Mosquitto) -> None:
    config = configuration(tmp_path, broker.port, '[commands]\naccept = ["resync", "log-level"]\n')
    with Onlooker(broker.port, acknowledges=True) as onlooker, Daemon(tmp_path, config) as daemon:
        hup = Hups(daemon)
        onlooker.command("log-level", "l1", {"level": "info"})
        assert onlooker.await_state("log-level", "l1")["state"] == "successful"
        replaced(config, '["resync", "log-level"]', '["resync"]')
        hup()
        onlooker.command("log-level", "l2", {"level": "info"})
        assert onlooker.await_state("log-level", "l2")["state"] == "refused"
        eventually(lambda: onlooker.document("meta")["capabilities"] == ["resync"], "it says so")
        key, _ = new_key_pair(tmp_path / "private.pem")
        replaced(config, '["resync"]', f'["log-level"]\npublic_key_file = "{key}"')
        hup()
        onlooker.command("log-level", "l3", {"level": "info"})
        assert onlooker.await_state("log-level", "l3")["state"] == "refused", "it is not signed"
        assert daemon.stop() == 0


def test_two_hups_and_a_term_in_the_middle_of_a_reload(tmp_path: Path, broker: Mosquitto) -> None:
    config = configuration(tmp_path, broker.port, rig="injected")
    with Onlooker(broker.port, acknowledges=True) as onlooker, Daemon(tmp_path, config) as daemon:
        eventually(lambda: "run-started" in onlooker.kinds(), "a run")
        replaced(config, "sticks = 4", "sticks = 5")
        daemon.send(signal.SIGHUP)
        daemon.send(signal.SIGHUP)
        time.sleep(0.01)
        daemon.send(signal.SIGTERM)
        assert daemon.process.wait(60) == 0
        eventually(lambda: onlooker.document("status").get("state") == "stopped", "its last word")


def test_a_password_that_was_mended_is_tried_at_once(tmp_path: Path) -> None:
    """The breaker would wait for minutes; who reloads has done what it waits for."""
    secret = tmp_path / "secret"
    secret.write_text("wrong\n")
    secret.chmod(0o600)
    with Mosquitto(tmp_path, users={"device": "right"}) as broker:
        config = configuration(tmp_path, broker.port)
        broker_lines = f'username = "device"\npassword_file = "{secret}"\n'
        config.write_text(config.read_text().replace("[mqtt]\n", f"[mqtt]\n{broker_lines}"))
        with Daemon(tmp_path, config) as daemon:
            eventually(lambda: daemon.figures()["link"]["state"] == "broken", "it is refused", 30)
            secret.write_text("right\n")
            daemon.send(signal.SIGHUP)
            eventually(
                lambda: (daemon.figures()["link"] or {}).get("state") == "connected", "it is let in", 60
            )
            assert daemon.stop() == 0


@pytest.mark.parametrize("moves", [False, True], ids=["the same broker", "another link"])
def test_a_trial_goes_on_with_the_new_file_and_is_proved_with_it(
    tmp_path: Path, broker: Mosquitto, moves: bool
) -> None:
    """The broker stands, the controller comes back later: no other connection would be made by itself."""
    config = configuration(tmp_path, broker.port)
    with Onlooker(broker.port) as onlooker, Daemon(tmp_path, config) as daemon:
        onlooker.publish(f"{BASE}/desired", {"id": "w1", "config": {"run": {"debounce_ms": 120}}})
        eventually(lambda: onlooker.document("reported").get("state") == "trial", "a trial")
        replaced(config, "ack_timeout_s = 1.0", "ack_timeout_s = 2.0" if moves else
                 "ack_timeout_s = 1.0\n[run]\nnominal_ms = 1500")  # fmt: skip
        Hups(daemon)()
        eventually(lambda: daemon.figures()["link"]["connects"] == (1 if moves else 3), "it connects anew")
        onlooker.acknowledges = True
        eventually(lambda: onlooker.document("reported").get("state") == "in_effect", daemon.log(), 90)
        assert effective(onlooker)["run"]["debounce_ms"] == 120
        assert daemon.stop() == 0
