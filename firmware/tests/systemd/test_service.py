"""The daemon under a real systemd: notify, reload, watchdog, stop, restart, and the sandbox around it."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.daemon.freeze import Frozen
from tests.daemon.process import Onlooker
from tests.systemd.container import Container
from tests.telemetry.broker import Mosquitto, eventually

UNIT = "plugmeter.service"
CONFIG = "etc/plugmeter/plugmeter.toml"


def configuration(port: int, more: str = "") -> str:
    """A device without wires, which reports to a broker of this test.

    No udev: its udevd runs only where /sys can be written to (ConditionPathIsReadWrite), in no container.
    """
    return (
        '[daemon]\ndevice = "box"\nrig = "passive"\n[witnesses]\nudev = false\n'
        f'[mqtt]\nhost = "127.0.0.1"\nport = {port}\n{more}'
    )


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    with Mosquitto(tmp_path) as running:
        yield running


@pytest.fixture
def service(box: Container, broker: Mosquitto) -> Iterator[Container]:
    """The unit, started, and with an empty state directory."""
    box.run("systemctl", "stop", UNIT, check=False)
    box.run("systemctl", "reset-failed", UNIT, check=False)
    box.run("sh", "-c", "rm -rf /var/lib/plugmeter/*")
    box.write(CONFIG, configuration(broker.port, "[lifecycle]\ndrain_s = 0.5\n"))
    box.run("sh", "-c", "journalctl --rotate; journalctl --vacuum-time=1s")
    start(box)
    yield box
    box.run("systemctl", "kill", "--signal=KILL", UNIT, check=False)
    box.run("systemctl", "stop", UNIT, check=False)
    box.run("systemctl", "reset-failed", UNIT, check=False)


def start(box: Container) -> None:
    done = box.run("systemctl", "start", UNIT, check=False)
    assert done.returncode == 0, box.run("journalctl", "-u", UNIT, "-n", "40", "--no-pager").stdout


def state(box: Container) -> dict[str, str]:
    return box.show(UNIT, "ActiveState", "SubState", "Result", "MainPID", "NRestarts", "StatusText")


def test_it_is_active_only_once_it_is_ready(service: Container) -> None:
    assert state(service)["ActiveState"] == "active"
    said = service.journal("-u", UNIT)
    moved = [entry for entry in said if entry.get("PLUGMETER_STAGE") == "running"]
    assert len(moved) == 1 and moved[0]["MESSAGE_ID"]
    asked = service.run("/usr/lib/plugmeter/plugmeter", "status", "--config", f"/{CONFIG}", "--json")
    assert json.loads(asked.stdout)["status"]["stage"] == "running"


def test_it_runs_as_its_own_user_with_no_capability(service: Container) -> None:
    status = service.run("cat", f"/proc/{state(service)['MainPID']}/status").stdout
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    uid = service.run("id", "-u", "plugmeter").stdout.strip()
    assert fields["Uid"].split() == [uid] * 4
    assert int(fields["CapEff"], 16) == int(fields["CapBnd"], 16) == 0
    assert fields["NoNewPrivs"].strip() == "1"


def test_a_reload_is_waited_for(service: Container, broker: Mosquitto) -> None:
    before = state(service)["MainPID"]
    service.write(CONFIG, configuration(broker.port).replace('rig = "passive"', 'rig = "none"'))
    service.run("systemctl", "reload", UNIT)
    service.wait(lambda: "run none" in state(service)["StatusText"], "the new configuration", 30)
    assert state(service)["MainPID"] == before


def test_a_bad_file_keeps_it_running(service: Container) -> None:
    service.write(CONFIG, "[run]\ndebounce_ms = 0\n")
    service.run("systemctl", "reload", UNIT, check=False)
    service.wait(lambda: "reload refused" in state(service)["StatusText"], "STATUS says so", 30)
    assert state(service)["ActiveState"] == "active"


def test_a_rig_that_the_sandbox_forbids_is_refused_before_the_run_is_ended(
    service: Container, broker: Mosquitto
) -> None:
    service.write(CONFIG, configuration(broker.port).replace('rig = "passive"', 'rig = "injected"'))
    service.run("systemctl", "reload", UNIT, check=False)
    service.wait(lambda: "reload refused" in state(service)["StatusText"], "STATUS says so", 30)
    said = [str(entry["MESSAGE"]) for entry in service.journal("-u", UNIT)]
    line = [each for each in said if "reload refused" in each][-1]  # another test's are before it
    assert "this service may make none (RestrictNamespaces= in plugmeter.service)" in line
    assert "plugmeter measure --rig injected" in line

    def run() -> tuple[str, str]:
        asked = service.run("/usr/lib/plugmeter/plugmeter", "status", "--config", f"/{CONFIG}", "--json",
                            "--socket", "unix:/run/plugmeter/metrics.sock")  # fmt: skip
        found = json.loads(asked.stdout)["status"]["run"]
        return found["state"], found["rig"]

    service.wait(lambda: run() == ("running", "passive"), "it goes on", 30)
    assert not [each for each in said if "INVALID" in each or "VALID" in each], "no run has ended"


def test_a_stop_goes_through_every_stage_and_is_never_killed(service: Container) -> None:
    service.run("systemctl", "stop", UNIT)
    assert state(service)["Result"] == "success"
    stages = [e["PLUGMETER_STAGE"] for e in service.journal("-u", UNIT) if "PLUGMETER_FROM" in e]
    assert stages == ["running", "terminating", "draining", "stopped"]
    signals = [entry for entry in service.journal("-u", UNIT) if "PLUGMETER_SIGNAL" in entry]
    assert [(each["PLUGMETER_SIGNAL"], each["PLUGMETER_SENDER_PID"]) for each in signals] == [
        ("SIGTERM", "1")
    ]
    assert "systemd" in signals[0]["PLUGMETER_SENDER_COMMAND"]
    health = json.loads(service.run("cat", "/var/lib/plugmeter/health.json").stdout)
    assert health["stage"] == "stopped"
    assert health["reason"].startswith("SIGTERM from ")


def test_a_kill_is_followed_by_a_start_with_the_same_stream(service: Container) -> None:
    def stream() -> str:
        done = service.run(
            "/usr/lib/plugmeter/plugmeter", "outbox", "--state", "/var/lib/plugmeter", "--json"
        )
        found: str = json.loads(done.stdout)["stream"]
        return found

    before = stream()
    service.run("systemctl", "kill", "--signal=KILL", UNIT)
    service.wait(lambda: state(service)["NRestarts"] == "1", "the restart")
    service.wait(lambda: state(service)["ActiveState"] == "active", "it is ready again")
    assert stream() == before


def test_a_hung_daemon_is_ended_by_the_watchdog(service: Container) -> None:
    service.run("systemctl", "stop", UNIT)
    service.write("etc/systemd/system/plugmeter.service.d/watchdog.conf", "[Service]\nWatchdogSec=3\n")
    try:
        service.run("systemctl", "daemon-reload")
        start(service)
        service.run("systemctl", "kill", "--signal=STOP", "--kill-whom=main", UNIT)
        service.wait(lambda: state(service)["NRestarts"] != "0", "the watchdog")
        service.wait(lambda: state(service)["ActiveState"] == "active", "it is ready again")
    finally:
        service.run("rm", "/etc/systemd/system/plugmeter.service.d/watchdog.conf")
        service.run("systemctl", "daemon-reload")


def test_systemd_waits_longer_while_the_drain_gets_on(service: Container, broker: Mosquitto) -> None:
    """A controller that takes a record now and then, for far longer than TimeoutStopSec."""
    service.run("systemctl", "stop", UNIT)
    drop_in = "etc/systemd/system/plugmeter.service.d/stop.conf"
    service.write(drop_in, "[Service]\nTimeoutStopSec=2\n")
    try:
        service.run("systemctl", "daemon-reload")
        with Onlooker(broker.port, device="box") as onlooker:
            start(service)
            main = state(service)["MainPID"]
            service.run("sh", "-c", f"for i in $(seq 25); do kill -USR1 {main}; sleep 0.02; done")
            eventually(lambda: onlooker.kinds().count("signal") >= 15, "the records")
            stopping = threading.Thread(target=service.run, args=("systemctl", "stop", UNIT))
            stopping.start()
            taken = 0
            while stopping.is_alive():
                taken += 1
                onlooker.acknowledge(onlooker.events[:taken])
                stopping.join(0.4)
        assert taken > 10
        assert state(service)["Result"] == "success"
        said = [entry for entry in service.journal("-u", UNIT) if entry.get("PLUGMETER_FROM") == "draining"]
        assert said[-1]["PLUGMETER_EVENT"] == "drained"
        assert int(said[-1]["PLUGMETER_SPENT_US"]) > 3_000_000, "longer than systemd would have waited"
    finally:
        service.run("rm", f"/{drop_in}")
        service.run("systemctl", "daemon-reload")


def test_a_stuck_worker_is_replaced_before_the_watchdog_restarts_all(
    service: Container, broker: Mosquitto
) -> None:
    """With the times of the unit and of the defaults, all of them divided by four."""
    service.run("systemctl", "stop", UNIT)
    drop_in = "etc/systemd/system/plugmeter.service.d/watchdog.conf"
    service.write(drop_in, "[Service]\nWatchdogSec=7.5\n")
    service.write(CONFIG, configuration(broker.port, "[lifecycle]\nstuck_s = 5\n"))
    try:
        service.run("systemctl", "daemon-reload")
        start(service)
        main = state(service)["MainPID"]
        with Frozen(service.outside(int(main)), "metrics"):
            service.wait(
                lambda: any("metrics is stuck" in str(e["MESSAGE"]) for e in service.journal("-u", UNIT)),
                "it is found",
            )
            time.sleep(10)  # longer than the watchdog waits
            assert (state(service)["MainPID"], state(service)["NRestarts"]) == (main, "0")
        asked = service.run("/usr/lib/plugmeter/plugmeter", "status", "--config", f"/{CONFIG}", "--json")
        assert json.loads(asked.stdout)["ready"] is True
    finally:
        service.run("rm", f"/{drop_in}")
        service.run("systemctl", "daemon-reload")


def test_a_mistake_in_the_configuration_is_no_restart_loop(service: Container) -> None:
    service.run("systemctl", "stop", UNIT)
    service.write(CONFIG, "[mqtt]\nprot = 1883\n")
    service.run("systemctl", "start", UNIT, check=False)
    service.wait(lambda: state(service)["ActiveState"] == "failed", "it gives up", 30)
    assert state(service)["NRestarts"] == "0"
    said = "\n".join(str(entry["MESSAGE"]) for entry in service.journal("-u", UNIT))
    assert "unknown key mqtt.prot; did you mean mqtt.port?" in said


def test_quit_leaves_the_stacks_in_the_journal(service: Container) -> None:
    service.run("systemctl", "kill", "--signal=QUIT", "--kill-whom=main", UNIT)
    service.wait(lambda: state(service)["NRestarts"] == "1", "the restart")
    said = "\n".join(str(entry["MESSAGE"]) for entry in service.journal("-u", UNIT))
    assert "conductor.py" in said


def test_the_self_test_is_run_from_the_sandbox(service: Container, broker: Mosquitto) -> None:
    service.run("systemctl", "start", "plugmeter-selftest.socket")
    with Onlooker(broker.port, acknowledges=True, device="box") as onlooker:
        onlooker.command("selftest", "t1")
        assert onlooker.await_state("selftest", "t1", 120)["state"] == "successful"
