"""Runs that hang, die or cannot begin, in the real daemon."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.daemon.freeze import WALL, Thread
from tests.daemon.process import Daemon, Onlooker, SmallDisk, configuration, environment
from tests.telemetry.broker import Mosquitto, eventually

LONG = "[rig]\nsticks = 1000\ncycles = 100\nports = 4\n"


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    with Mosquitto(tmp_path) as running:
        yield running


def long_runs(folder: Path, port: int | None, text: str = "") -> Path:
    """A configuration whose runs outlast the test."""
    path = configuration(folder, port, text, rig="injected")
    path.write_text(path.read_text().replace("[rig]\nsticks = 4\ncycles = 1\nports = 4\n", LONG))
    return path


def runner_of(daemon: Daemon) -> int:
    """The pid of the run's process."""
    pid = daemon.process.pid
    (child,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(child)


def diagnoses(onlooker: Onlooker) -> list[dict[str, Any]]:
    return [each["data"] for each in onlooker.events if each["type"] == "plugmeter.diagnosis.v1"]


def test_a_run_that_waits_for_a_full_disk_is_not_taken_for_a_stuck_one(tmp_path: Path) -> None:
    disk = SmallDisk(tmp_path, 4096)
    config = long_runs(tmp_path, None, "[lifecycle]\nstuck_s = 2\ndrain_s = 0.3\n")
    with Daemon(tmp_path, config, before=disk.before) as daemon:
        run = runner_of(daemon)
        disk.fill(daemon)

        def more_than_half_of_the_intake() -> bool:
            for _ in range(1_000):  # each that is taken makes a record, and many are taken as one
                daemon.send(signal.SIGUSR1)
            return daemon.log().count("SIGUSR1") > 6_000

        eventually(more_than_half_of_the_intake, "crowded", 60)
        time.sleep(6)  # three times what makes a worker stuck
        assert runner_of(daemon) == run
        assert "runner is stuck" not in daemon.log()


def test_a_run_that_hangs_is_found_told_and_replaced(tmp_path: Path, broker: Mosquitto) -> None:
    config = long_runs(tmp_path, broker.port, "[lifecycle]\nstuck_s = 4\n")
    with Onlooker(broker.port, acknowledges=True) as onlooker, Daemon(tmp_path, config) as daemon:
        hung = runner_of(daemon)
        os.kill(hung, signal.SIGSTOP)
        eventually(lambda: bool(diagnoses(onlooker)), f"it is found; {daemon.log()}", 60)
        found = diagnoses(onlooker)[0]
        assert (found["finding"], found["worker"], found["state"]) == ("stuck", "runner", "begun")
        assert found["remedy"] == "restart_worker"
        assert f"process {hung}, state T" in found["evidence"]
        eventually(
            lambda: any("runner is stuck" in line for line in daemon.notifications), "STATUS names it", 10
        )
        eventually(lambda: onlooker.kinds().count("run-started") >= 2, "the next run", 60)
        (ended,) = (each["data"] for each in onlooker.events if each["type"] == "plugmeter.run-ended.v1")
        assert "SIGKILL" in ended["failure"]
        assert runner_of(daemon) != hung
        eventually(lambda: [each["state"] for each in diagnoses(onlooker)] == ["begun", "ended"], "its end")
        assert 'plugmeter_finding{finding="stuck",worker=""} 0' in daemon.ask("/metrics")[1]
        assert daemon.stop() == 0


def test_a_run_that_hangs_before_it_is_ready_is_replaced_too(tmp_path: Path, broker: Mosquitto) -> None:
    config = long_runs(tmp_path, broker.port, "[lifecycle]\nstuck_s = 4\n")
    with Onlooker(broker.port, acknowledges=True) as onlooker, Daemon(tmp_path, config) as daemon:
        first = runner_of(daemon)
        os.kill(first, signal.SIGKILL)

        def stop_the_next_one() -> bool:
            pid = daemon.process.pid
            for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
                # Before its execve the daemon itself would wait for it (CLONE_VFORK).
                executes = b"runner" in Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")
                if int(child) != first and executes:
                    os.kill(int(child), signal.SIGSTOP)
                    return True
            return False

        eventually(stop_the_next_one, "the next run's process")
        eventually(lambda: onlooker.kinds().count("run-started") >= 2, f"another; {daemon.log()}", 60)
        assert [each["worker"] for each in diagnoses(onlooker) if each["state"] == "begun"] == ["runner"]
        assert daemon.stop() == 0


def test_a_hung_run_does_not_hold_up_the_stop(tmp_path: Path, broker: Mosquitto) -> None:
    config = long_runs(tmp_path, broker.port)
    with Onlooker(broker.port, acknowledges=True) as onlooker, Daemon(tmp_path, config) as daemon:
        os.kill(runner_of(daemon), signal.SIGSTOP)
        assert daemon.stop() == 0
        assert "1 run to end (about 1.5 s) when the time had run out" in daemon.log()
        eventually(lambda: "run-ended" in onlooker.kinds(), "its end is a record")


@pytest.mark.privileged
@pytest.mark.parametrize("forced", [False, True])
def test_a_run_that_cannot_be_killed_is_left_behind_and_all_else_is_closed(
    tmp_path: Path, broker: Mosquitto, forced: bool
) -> None:
    """As one whose process is in the middle of something in the kernel. Its tracer hears of its end first;
    until that has listened, its parent hears nothing."""
    config = long_runs(tmp_path, broker.port, "[lifecycle]\ndrain_s = 1.0\n")
    with Onlooker(broker.port, acknowledges=True) as onlooker, Daemon(tmp_path, config) as daemon:
        eventually(lambda: "run-started" in onlooker.kinds(), "a run")
        with Thread(runner_of(daemon)) as held:
            daemon.send(signal.SIGTERM)
            if forced:
                time.sleep(1.1)  # an earlier one would be taken for the same press
                daemon.send(signal.SIGTERM)
            status = daemon.process.wait(60)
            os.waitpid(held.tid, WALL)
        assert status == 0, daemon.log()
        assert daemon.log().count("does not end when it is killed") == 1
        assert "Thread 0x" not in daemon.log(), "the last resort was not needed"
        eventually(lambda: onlooker.document("status").get("state") == "stopped", "its farewell")
        onlooker.events.clear()
        daemon.start()

        def ends() -> list[bool]:
            return [each["data"]["clean"] for each in onlooker.events if "clean" in each["data"]]

        eventually(lambda: ends() == [True], "the next life says that the outbox was closed")
        assert daemon.stop() == 0


def test_a_run_that_finds_no_descriptor_free_is_tried_again(tmp_path: Path, broker: Mosquitto) -> None:
    config = long_runs(tmp_path, broker.port)
    with Onlooker(broker.port, acknowledges=True) as onlooker, Daemon(tmp_path, config) as daemon:
        pid = daemon.process.pid
        before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        eventually(lambda: onlooker.kinds().count("run-started") == 1, "the run")
        # What is open stays so; nothing more can be opened.
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (8, before[1]))  # less, and poll(2) fails
        os.kill(runner_of(daemon), signal.SIGKILL)
        eventually(lambda: "no run can be begun" in daemon.log(), f"it cannot; {daemon.log()}", 30)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
        eventually(lambda: onlooker.kinds().count("run-started") == 2, "the next run", 60)
        assert daemon.stop() == 0


def test_what_cannot_be_run_ends_the_start_as_a_mistake(tmp_path: Path) -> None:
    config = configuration(tmp_path, None, '[gpio]\nfactory = "nosuch"\n[ports."1-1"]\nsense_gpio = 4\n')
    config.write_text(config.read_text().replace('rig = "none"', 'rig = "passive"'))
    daemon = Daemon(tmp_path, config)
    daemon.start(wait=False)
    assert daemon.process.wait(60) == 2, daemon.log()
    assert daemon.log().count("plugmeter: gpio.factory = 'nosuch'") == 1
    assert "Traceback" not in daemon.log()


def test_a_line_that_is_not_there_ends_the_start_but_not_for_good(tmp_path: Path) -> None:
    """Only the run's process can tell, and not whether it will be there, or free, another time."""
    config = configuration(tmp_path, None, '[gpio]\nfactory = "mock"\n[ports."1-1"]\nsense_gpio = 999\n')
    config.write_text(config.read_text().replace('rig = "none"', 'rig = "passive"'))
    daemon = Daemon(tmp_path, config)
    daemon.start(wait=False)
    assert daemon.process.wait(60) == 1, daemon.log()
    assert daemon.log().count("GPIO line 999 will not do") == 1
    assert "Traceback" not in daemon.log()


@pytest.mark.parametrize(
    ("old", "new", "arguments", "words"),
    [
        ("[rig]", "[rig]\ndensity_per_s = 60", {"density_per_s": 60}, "60 plugs/s need 30 ports"),
        ('rig = "injected"', 'rig = "relay"', {"rig": "relay"}, "switches its VBUS"),
        ("sticks = 1000", "sticks = 1000000", {"sticks": 1_000_000}, "take fewer sticks"),
    ],
)
def test_what_could_never_run_ends_no_run(
    tmp_path: Path, broker: Mosquitto, old: str, new: str, arguments: dict[str, Any], words: str
) -> None:
    """By none of the ways: a reload, a command, a configuration from afar."""
    config = long_runs(tmp_path, broker.port)
    with Onlooker(broker.port, acknowledges=True) as onlooker, Daemon(tmp_path, config) as daemon:
        run = runner_of(daemon)
        good = config.read_text()
        config.write_text(good.replace(old, new))
        daemon.send(signal.SIGHUP)
        daemon.await_notified("READY=1", times=2)
        (line,) = (line for line in daemon.log().splitlines() if "reload refused" in line)
        assert words in line
        onlooker.command("start-run", "s1", {"rig": "injected", "ports": 4, **arguments} if
                         "rig" not in arguments else arguments)  # fmt: skip
        failed = onlooker.await_state("start-run", "s1")
        assert failed["state"] != "successful" and words in str(failed)
        trial = {"daemon": arguments} if "rig" in arguments else {"rig": arguments}
        onlooker.command("config", "c1", {"config": trial})
        failed = onlooker.await_state("config", "c1")
        assert failed["state"] != "successful" and words in str(failed)
        assert runner_of(daemon) == run
        eventually(lambda: daemon.figures()["run"]["state"] == "running", "it goes on")
        assert runner_of(daemon) == run
        config.write_text(good)
        assert daemon.stop() == 0


def test_runs_that_fail_again_and_again_are_a_finding_and_have_no_certificate(tmp_path: Path) -> None:
    """What only the run itself can find out: its process cannot load what it needs."""
    broken = tmp_path / "broken"
    config = configuration(tmp_path, None, rig="injected")
    hook = tmp_path / "sitecustomize.py"
    hook.write_text(
        "import os, sys\n"
        f"if 'runner' in sys.argv and '--descriptor' in sys.argv and os.path.exists({str(broken)!r}):\n"
        "    os._exit(9)\n"
    )
    path = os.pathsep.join([str(tmp_path), environment()["PYTHONPATH"]])
    with Daemon(tmp_path, config, PYTHONPATH=path) as daemon:
        eventually(lambda: daemon.figures()["run"]["certificate"] == "valid", "a report", 60)
        broken.touch()
        eventually(
            lambda: any(each["name"] == "run_failures" for each in daemon.figures()["findings"]),
            f"it is found; {daemon.log()}",
            60,
        )
        (finding,) = daemon.figures()["findings"]
        assert (finding["worker"], finding["remedy"]) == ("runner", "none")
        run = daemon.figures()["run"]
        assert run["failure"] and run["failure"] in finding["evidence"]
        shown = subprocess.run(
            [sys.executable, "-m", "plugmeter", "status", "--config", str(config)],
            capture_output=True, text=True, env=environment(), timeout=60, check=False,
        ).stdout.splitlines()  # fmt: skip
        assert f"run failed: {run['failure']}" in shown[0]
        assert any("last run: certificate valid" in line for line in shown)
        broken.unlink()
        eventually(
            lambda: not daemon.figures()["findings"], f"a run that ends well ends it; {daemon.log()}", 90
        )
        assert daemon.figures()["run"]["failure"] == ""
        assert daemon.stop() == 0


def test_a_command_is_told_of_its_own_run_and_no_other(tmp_path: Path, broker: Mosquitto) -> None:
    """One that comes while another run is still starting."""
    config = configuration(tmp_path, broker.port)
    with Onlooker(broker.port, acknowledges=True) as onlooker, Daemon(tmp_path, config) as daemon:
        config.write_text(config.read_text().replace('rig = "none"', 'rig = "injected"'))
        daemon.send(signal.SIGHUP)  # begins the standing run
        onlooker.command("start-run", "s1", {"rig": "injected", "sticks": 7, "cycles": 1, "ports": 2})
        begun = onlooker.await_state("start-run", "s1")
        assert begun["state"] == "successful", begun

        def plan() -> str:
            started = (each["data"] for each in onlooker.events if each["type"] == "plugmeter.run-started.v1")
            return next((str(each["plan"]) for each in started if each["run"] == begun["result"]["run"]), "")

        eventually(lambda: bool(plan()), "its record")
        assert "'sticks': 7" in plan()
        assert daemon.stop() == 0
