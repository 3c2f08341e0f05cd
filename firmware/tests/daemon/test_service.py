"""The daemon from outside: a real process, a real broker, and what an operator sees of them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from plugmeter.telemetry import schemas
from tests.daemon.process import BASE, DEVICE, Daemon, Onlooker, configuration, environment
from tests.telemetry.broker import Mosquitto, eventually


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    with Mosquitto(tmp_path) as running:
        yield running


def account(daemon: Daemon) -> dict[str, int]:
    """What `plugmeter outbox` says."""
    done = subprocess.run(
        [sys.executable, "-m", "plugmeter", "outbox", "--state", str(daemon.state), "--json"],
        capture_output=True, text=True, env=environment(), check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found: dict[str, int] = json.loads(done.stdout)
    return found


def test_a_run_reaches_the_controller_whole(tmp_path: Path, broker: Mosquitto) -> None:
    config = configuration(tmp_path, broker.port, rig="injected")
    with Onlooker(broker.port, acknowledges=True) as onlooker, Daemon(tmp_path, config) as daemon:
        eventually(lambda: "run-ended" in onlooker.kinds(), f"a report; {daemon.log()}", 90)
        assert daemon.stop() == 0
        books = account(daemon)
        assert books["pending"] == 0
        assert books["produced"] == books["acknowledged"]
        numbers = Counter(int(event["id"].partition("/")[2]) for event in onlooker.events)
        assert sorted(numbers) == list(range(1, books["produced"] + 1))
        kinds = Counter(onlooker.kinds())
        ended = next(e["data"] for e in onlooker.events if e["type"] == "plugmeter.run-ended.v1")
        assert ended["report"]["certificate"]["valid"] is True
        assert ended["report"]["expected"] == 8
        verdicts = {e["id"] for e in onlooker.events if e["type"] == "plugmeter.verdict.v1"
                    and e["data"]["run"] == ended["run"]}  # fmt: skip
        assert len(verdicts) == 8
        assert {"stream", "transition", "signal", "health", "link"} <= set(kinds)
        eventually(lambda: onlooker.document("status").get("state") == "stopped", "the death on purpose")


def test_all_that_is_published_is_what_the_schemas_say(tmp_path: Path, broker: Mosquitto) -> None:
    config = configuration(tmp_path, broker.port, rig="injected")
    with Onlooker(broker.port, acknowledges=True) as onlooker, Daemon(tmp_path, config) as daemon:
        onlooker.command("resync", "r1")
        onlooker.command("log-level", "l1", {"level": "debug"})
        onlooker.await_state("log-level", "l1")
        eventually(lambda: "run-ended" in onlooker.kinds(), "a report", 90)
        eventually(lambda: "summary" in str(list(onlooker.last)), "a summary", 30)
        eventually(lambda: len(onlooker.document("meta").get("ports", ())) == 4, "its ports", 30)
        daemon.send(signal.SIGHUP)
        daemon.await_notified("READY=1", times=2)
        assert daemon.stop() == 0
        for event in onlooker.events:
            assert schemas.record_fault(event["type"].split(".")[1], event["data"]) is None, event
        for topic in ("status", "meta", "summary", "reported"):
            for payload in onlooker.all[f"{BASE}/{topic}"]:
                assert schemas.fault_of(topic, json.loads(payload)) is None, payload


def test_meta_tells_who_plugs_where_also_after_the_run(tmp_path: Path, broker: Mosquitto) -> None:
    config = configuration(tmp_path, broker.port)
    with Onlooker(broker.port, acknowledges=True) as onlooker, Daemon(tmp_path, config) as daemon:
        onlooker.command("start-run", "s1", {"rig": "injected", "sticks": 2, "cycles": 1, "ports": 3})
        onlooker.await_state("start-run", "s1")
        eventually(lambda: "run-ended" in onlooker.kinds(), "a report", 90)
        ports = ["1-1", "1-2", "1-3"]
        eventually(lambda: onlooker.document("meta").get("ports") == ports, "its ports are told", 30)
        assert onlooker.document("meta")["rig"] == "injected"
        assert daemon.stop() == 0


def test_the_stages_are_told_to_systemd_in_order(tmp_path: Path, broker: Mosquitto) -> None:
    config = configuration(tmp_path, broker.port)
    with Daemon(tmp_path, config) as daemon:
        daemon.send(signal.SIGHUP)
        daemon.await_notified("READY=1", times=2)
        assert daemon.stop() == 0
        words = [line for line in daemon.notifications if line in ("READY=1", "RELOADING=1", "STOPPING=1")]
        assert words == ["READY=1", "RELOADING=1", "READY=1", "STOPPING=1"]
        assert any(line.startswith("MONOTONIC_USEC=") for line in daemon.notifications)
        assert any(line.startswith("STATUS=") for line in daemon.notifications)


def test_without_a_broker_nothing_is_lost(tmp_path: Path, broker: Mosquitto) -> None:
    config = configuration(tmp_path, broker.port, "[lifecycle]\ndrain_s = 0.5\n")
    broker.stop()
    with Daemon(tmp_path, config) as daemon:
        assert daemon.stop() == 0
        waiting = account(daemon)
        assert waiting["pending"] == waiting["produced"] > 0
        broker.start()
        with Onlooker(broker.port, acknowledges=True) as onlooker:
            daemon.start()
            eventually(lambda: len(onlooker.events) > waiting["produced"], "the backlog arrives")
            assert daemon.stop() == 0
            assert account(daemon)["pending"] == 0
            numbers = {int(event["id"].partition("/")[2]) for event in onlooker.events}
            assert set(range(1, waiting["produced"] + 1)) <= numbers


def test_a_stop_without_a_broker_ends_by_itself(tmp_path: Path, broker: Mosquitto) -> None:
    config = configuration(tmp_path, broker.port, "[lifecycle]\ndrain_s = 0.3\n")
    with Daemon(tmp_path, config) as daemon:
        broker.pause()
        assert daemon.stop(limit_s=20) == 0
        assert "deadline" in daemon.log()


def test_a_bad_file_keeps_the_old_configuration(tmp_path: Path) -> None:
    config = configuration(tmp_path, None)
    with Daemon(tmp_path, config) as daemon:
        config.write_text(config.read_text() + "[run]\ndebounce_ms = -4\n")
        daemon.send(signal.SIGHUP)
        daemon.await_notified("READY=1", times=2)
        assert "run.debounce_ms = -4 is out of range" in daemon.log()
        eventually(
            lambda: any("reload refused" in line for line in daemon.notifications), "STATUS says so", 10
        )
        assert daemon.stop() == 0


def test_a_good_file_takes_effect(tmp_path: Path, broker: Mosquitto) -> None:
    config = configuration(tmp_path, None)
    with Daemon(tmp_path, config) as daemon, Onlooker(broker.port) as onlooker:
        configuration(tmp_path, broker.port)
        daemon.send(signal.SIGHUP)
        eventually(lambda: onlooker.document("status").get("state") == "online", "the link", 30)
        assert daemon.stop() == 0


def test_sigquit_prints_the_stacks_and_ends(tmp_path: Path) -> None:
    with Daemon(tmp_path, configuration(tmp_path, None)) as daemon:
        daemon.send(signal.SIGQUIT)
        assert daemon.process.wait(20) == -signal.SIGQUIT
        assert "Thread 0x" in daemon.log() and "conductor.py" in daemon.log()


def test_a_second_daemon_is_refused_by_name(tmp_path: Path) -> None:
    config = configuration(tmp_path, None)
    with Daemon(tmp_path, config) as daemon:
        done = subprocess.run(
            [sys.executable, "-m", "plugmeter", "run", "--config", str(config)],
            capture_output=True, text=True, env=environment(), timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 1
        assert str(daemon.process.pid) in done.stderr and "Traceback" not in done.stderr
        assert daemon.stop() == 0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[mqtt]\nhost = 'x'\npassword_file = '/nowhere/secret'\nusername = 'u'\n", "/nowhere/secret"),
        ("[mqtt]\nhost = 'x'\ntls = true\nca_file = '/nowhere/ca.pem'\n", "/nowhere/ca.pem"),
        ("[commands]\npublic_key_file = '/nowhere/key.pem'\n", "/nowhere/key.pem"),
        ("[daemon]\nrig = 'relay'\n", "switch"),
        ("[daemon]\nrig = 'none'\nstate_directory = '/etc/hostname/state'\n", "/etc/hostname is no folder"),
        ("[daemon]\nrig = 'none'\nmetrics = 'unix:/nowhere/metrics.sock'\n", "/nowhere/metrics.sock"),
    ],
)
def test_what_is_wrong_is_said_before_anything_starts(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "bad.toml"
    if "[daemon]" not in text:
        text += f"[daemon]\nrig = 'none'\nstate_directory = '{tmp_path}/state'\nmetrics = ''\n"
    path.write_text(text)
    done = subprocess.run(
        [sys.executable, "-m", "plugmeter", "run", "--config", str(path)],
        capture_output=True, text=True, env=environment(), timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_configuration_that_is_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.toml")
    done = subprocess.run(
        [sys.executable, "-m", "plugmeter", "run", "--config", str(tmp_path / "pipe.toml")],
        capture_output=True, text=True, env=environment(), timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr


def test_kill_9_costs_nothing_that_was_committed(tmp_path: Path, broker: Mosquitto) -> None:
    config = configuration(tmp_path, broker.port, rig="injected")
    with Onlooker(broker.port, acknowledges=True) as onlooker, Daemon(tmp_path, config) as daemon:
        for _ in range(3):
            eventually(lambda: "verdict" in onlooker.kinds(), "verdicts", 60)
            committed = account(daemon)["produced"]
            daemon.kill()
            assert account(daemon)["produced"] >= committed
            eventually(lambda: onlooker.document("status").get("state") == "lost", "the last will", 30)
            daemon.start()
        assert daemon.stop() == 0
        books = account(daemon)
        assert books["pending"] == 0
        numbers = {int(event["id"].partition("/")[2]) for event in onlooker.events}
        assert numbers == set(range(1, books["produced"] + 1))
        starts = [e["data"]["clean"] for e in onlooker.events if e["type"] == "plugmeter.start.v1"]
        assert starts.count(False) == 3


def test_commands_have_their_effect(tmp_path: Path, broker: Mosquitto) -> None:
    config = configuration(tmp_path, broker.port)
    with Onlooker(broker.port, acknowledges=True) as onlooker, Daemon(tmp_path, config) as daemon:
        onlooker.command("start-run", "s1", {"rig": "injected", "sticks": 2, "cycles": 1, "ports": 2})
        begun = onlooker.await_state("start-run", "s1")
        assert begun["state"] == "successful", begun
        eventually(lambda: "run-ended" in onlooker.kinds(), "its report", 60)
        ended = [e["data"] for e in onlooker.events if e["type"] == "plugmeter.run-ended.v1"]
        assert [each["run"] for each in ended] == [begun["result"]["run"]]
        onlooker.command("start-run", "s1", {"rig": "injected", "sticks": 2, "cycles": 1, "ports": 2})
        onlooker.command("hwtest", "h1")
        assert onlooker.await_state("hwtest", "h1")["state"] == "failed"
        assert onlooker.kinds().count("run-started") == 1
        onlooker.command("restart", "r1")
        assert daemon.process.wait(30) == 0
        daemon.start()
        assert onlooker.await_state("restart", "r1")["state"] == "successful"
        assert daemon.stop() == 0


def test_a_configuration_from_afar_is_tried_and_kept(tmp_path: Path, broker: Mosquitto) -> None:
    config = configuration(tmp_path, broker.port)
    with Onlooker(broker.port, acknowledges=True) as onlooker, Daemon(tmp_path, config) as daemon:
        onlooker.command("config", "c1", {"config": {"run": {"debounce_ms": 120}}})
        assert onlooker.await_state("config", "c1")["state"] == "successful"
        eventually(lambda: onlooker.document("reported").get("state") == "in_effect"
                   and onlooker.document("reported").get("id") == "c1", "it is in effect", 60)  # fmt: skip
        assert onlooker.document("reported")["config"]["run"]["debounce_ms"] == 120
        daemon.kill()
        daemon.start()
        eventually(lambda: onlooker.document("reported").get("id") == "c1", "it outlasts a restart", 30)
        assert daemon.stop() == 0


def test_a_configuration_that_loses_the_controller_is_given_up(tmp_path: Path, broker: Mosquitto) -> None:
    config = configuration(tmp_path, broker.port, "[commands]\nrollback_minutes = 0.05\n")
    with Onlooker(broker.port, acknowledges=True) as onlooker, Daemon(tmp_path, config) as daemon:
        onlooker.command("config", "c1", {"config": {"mqtt": {"port": 1}}})
        eventually(lambda: onlooker.document("reported").get("state") == "rolled_back", f"{daemon.log()}", 60)
        assert onlooker.document("reported")["config"]["mqtt"]["port"] == broker.port
        assert daemon.stop() == 0


def test_a_run_that_dies_is_told_and_the_next_one_begins(tmp_path: Path, broker: Mosquitto) -> None:
    config = configuration(tmp_path, broker.port, rig="injected")
    with Onlooker(broker.port, acknowledges=True) as onlooker, Daemon(tmp_path, config) as daemon:
        child = _runner_of(daemon)
        subprocess.run(["kill", "-9", str(child)], check=True)
        eventually(lambda: any(
            e["type"] == "plugmeter.run-ended.v1" and e["data"]["failure"] for e in onlooker.events
        ), "the failure is told", 30)  # fmt: skip
        eventually(lambda: onlooker.kinds().count("run-started") >= 2, "the next run", 30)
        assert daemon.process.poll() is None
        assert daemon.stop() == 0


def test_metrics_and_probes_follow_the_life(tmp_path: Path, broker: Mosquitto) -> None:
    config = configuration(tmp_path, broker.port)
    with Daemon(tmp_path, config) as daemon:
        assert daemon.ask("/livez")[0] == 200
        assert daemon.ask("/readyz")[0] == 200
        status, text = daemon.ask("/metrics")
        assert status == 200
        assert 'plugmeter_stage{stage="running"} 1' in text
        done = subprocess.run(
            [sys.executable, "-m", "plugmeter", "status", "--config", str(config), "--json"],
            capture_output=True, text=True, env=environment(), check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["status"]["device"] == DEVICE
        assert daemon.stop() == 0
        assert not (tmp_path / "metrics.sock").exists()
        done = subprocess.run(
            [sys.executable, "-m", "plugmeter", "status", "--config", str(config)],
            capture_output=True, text=True, env=environment(), check=False,
        )  # fmt: skip
        assert done.returncode == 1
        assert "not run" in done.stdout + done.stderr


def test_a_thousand_terms_are_one(tmp_path: Path) -> None:
    with Daemon(tmp_path, configuration(tmp_path, None)) as daemon:
        for _ in range(1000):
            if daemon.process.poll() is not None:
                break
            daemon.send(signal.SIGTERM)
        assert daemon.process.wait(30) == 0


def _runner_of(daemon: Daemon) -> int:
    found: list[int] = []

    def look() -> bool:
        children = Path(f"/proc/{daemon.process.pid}/task/{daemon.process.pid}/children").read_text().split()
        found[:] = [int(child) for child in children]
        return bool(found)

    eventually(look, "a runner")
    time.sleep(0.2)
    return found[0]
