"""Starting the real daemon when things are not as they should be."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.daemon.process import Daemon, Onlooker, configuration, environment
from tests.telemetry.broker import Mosquitto, eventually


def test_a_reload_that_comes_too_early_is_made_once_it_runs(tmp_path: Path) -> None:
    config = configuration(tmp_path, None, rig="injected")
    with Daemon(tmp_path, config) as daemon:
        daemon.stop()
        daemon.start(wait=False)
        eventually(
            lambda: any("starting the run" in line for line in daemon.notifications), "its file is read"
        )
        config.write_text(config.read_text().replace('rig = "injected"', 'rig = "none"'))
        daemon.send(signal.SIGHUP)
        daemon.await_notified("READY=1")
        eventually(lambda: daemon.figures()["run"]["state"] == "none", f"{daemon.log()}")
        assert daemon.stop() == 0


@pytest.mark.parametrize("rig", ["none", "injected"])
def test_a_term_at_any_moment_of_the_start_is_an_orderly_end(tmp_path: Path, rig: str) -> None:
    config = configuration(tmp_path, None, "[lifecycle]\ndrain_s = 0.3\n", rig=rig)
    with Daemon(tmp_path, config) as daemon:
        daemon.stop()
        for _ in range(8):
            daemon.start(wait=False)
            eventually(lambda: bool(daemon.notifications), "its first word")
            time.sleep(random.uniform(0, 0.3))
            assert daemon.stop() == 0, daemon.log()
        assert "Traceback" not in daemon.log()


def test_a_kill_at_any_moment_of_the_start_costs_nothing(tmp_path: Path) -> None:
    config = configuration(tmp_path, None, rig="injected")
    daemon = Daemon(tmp_path, config)
    for _ in range(8):
        daemon.start(wait=False)
        time.sleep(random.uniform(0.3, 0.8))
        daemon.kill()
    with daemon:
        assert daemon.ask("/readyz")[0] == 200
        assert daemon.stop() == 0
    assert "Traceback" not in daemon.log()


def test_two_at_once_and_one_of_them_runs(tmp_path: Path) -> None:
    config = configuration(tmp_path, None)
    (tmp_path / "other").mkdir()
    first, second = Daemon(tmp_path, config), Daemon(tmp_path / "other", config)
    first.start(wait=False)
    second.start(wait=False)
    eventually(lambda: None not in (first.process.poll(), second.process.poll()) or any(
        each.process.poll() == 1 and "READY=1" in other.notifications
        for each, other in ((first, second), (second, first))
    ), f"one is refused, and one is ready; {first.log()}")  # fmt: skip
    lives = first if first.process.poll() is None else second
    refused = second if lives is first else first
    assert f"another plugmeter (pid {lives.process.pid}) uses" in refused.log()
    assert lives.stop() == 0


def test_metrics_that_somebody_else_serves_end_the_start_in_one_line(tmp_path: Path) -> None:
    config = configuration(tmp_path, None)
    with socket.socket(socket.AF_UNIX) as taken:
        taken.bind(str(tmp_path / "metrics.sock"))
        taken.listen()
        daemon = Daemon(tmp_path, config)
        daemon.start(wait=False)
        assert daemon.process.wait(60) == 1
        assert f"another program (pid {os.getpid()}) listens there" in daemon.log()
        assert "Traceback" not in daemon.log()


def checked(config: Path, *before: str, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*before, sys.executable, "-m", "plugmeter", "run", "--check", "--config", str(config)],
        capture_output=True, text=True, env=environment(**more), timeout=60, check=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("rig", "old", "new", "words"),
    [
        ("injected", "ports = 4", "ports = 12\ndensity_per_s = 60", "name more ports, or lower the density"),
        ("injected", "sticks = 4", "sticks = 1\ndensity_per_s = 7", "take more sticks"),
        ("injected", "sticks = 4\ncycles = 1", "sticks = 1000\ncycles = 100000", "take fewer sticks"),
        ("gadget", "ports = 4", "ports = 40", "dummy_hcd has 1 to 32"),
        ("relay", "[rig]", "[rig]", "add [ports"),
        ("passive", "[rig]", '[gpio]\nfactory = "nope"\n[ports."1-1"]\nsense_gpio = 4\n[rig]', "has lgpio"),
    ],
)
def test_a_plan_that_can_never_run_does_not_pass_the_check(
    tmp_path: Path, rig: str, old: str, new: str, words: str
) -> None:
    config = configuration(tmp_path, None, rig=rig)
    config.write_text(config.read_text().replace(old, new))
    done = checked(config)
    lines = [line for line in done.stderr.splitlines() if "needs root" not in line]  # the gadget rig's
    assert (done.returncode, done.stdout, len(lines)) == (2, "", 1), done.stderr
    assert words in lines[0]


@pytest.mark.parametrize(
    ("more", "words"), [({}, "sudo sysctl"), ({"NOTIFY_SOCKET": "/none"}, "sudo sysctl")]
)
def test_a_namespace_that_is_refused_does_not_pass_the_check(
    tmp_path: Path, more: dict[str, str], words: str
) -> None:
    config = configuration(tmp_path, None, rig="injected")
    assert checked(config, **more).returncode == 0
    script = 'echo 0 > /proc/sys/user/max_net_namespaces && exec "$@"'
    limited = ("unshare", "-Ur", "sh", "-c", script, "sh")
    tried = subprocess.run([*limited, "true"], capture_output=True, text=True, check=False)
    if tried.returncode:
        pytest.skip(f"needs user namespaces: {tried.stderr.strip()}")
    done = checked(config, *limited, **more)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr  # 2 is never started again
    assert words in done.stderr
    config.write_text(config.read_text().replace('rig = "injected"', 'rig = "passive"'))
    assert checked(config, *limited, **more).returncode == 0, "no other rig needs one"


POWERLESS = ("setpriv", "--bounding-set=-all") if os.geteuid() == 0 else ()
"""root's files are root's then, but nobody else's."""


@pytest.mark.parametrize(("what", "status"), [("state", 1), ("config", 2), ("parent", 1)])
def test_without_permission_it_says_so_in_one_line(tmp_path: Path, what: str, status: int) -> None:
    """A folder that cannot be written to may be read-only for a while: exit status 2 would be for good."""
    config = configuration(tmp_path, None)
    if what == "state":
        (tmp_path / "state").mkdir(mode=0o500)
    elif what == "config":
        config.chmod(0)
    else:
        tmp_path.chmod(0o500)
    done = subprocess.run(
        [*POWERLESS, sys.executable, "-m", "plugmeter", "run", "--config", str(config)],
        capture_output=True, text=True, env=environment(), timeout=60, check=False,
    )  # fmt: skip
    tmp_path.chmod(0o700)
    assert done.returncode == status, done.stderr
    assert done.stderr.count("\n") == 1 and "Traceback" not in done.stderr


def test_a_mistake_beside_what_may_pass_is_a_mistake(tmp_path: Path) -> None:
    config = configuration(tmp_path, None)
    config.write_text(config.read_text().replace("metrics.sock", "none/metrics.sock"))
    (tmp_path / "state").mkdir(mode=0o500)
    done = checked(config, *POWERLESS)
    assert (done.returncode, done.stderr.count("\n")) == (2, 2), done.stderr
    assert "daemon.metrics" in done.stderr and "cannot be written to" in done.stderr


def test_a_broker_that_is_not_there_is_no_reason_not_to_start(tmp_path: Path) -> None:
    with Mosquitto(tmp_path) as broker:
        broker.stop()
        config = configuration(tmp_path, broker.port, "[lifecycle]\ndrain_s = 0.3\n")
        with Daemon(tmp_path, config) as daemon:
            eventually(lambda: daemon.figures()["link"]["state"] == "waiting", "it waits")
            broker.start()
            with Onlooker(broker.port, acknowledges=True) as onlooker:
                eventually(lambda: bool(onlooker.events), "and finds it")
                assert daemon.stop() == 0


def test_a_start_that_is_refused_says_why_in_one_line(tmp_path: Path) -> None:
    config = configuration(tmp_path, None)
    with Daemon(tmp_path, config) as first:
        (tmp_path / "other").mkdir()
        other = Daemon(tmp_path / "other", config)
        other.start(wait=False)
        assert other.process.wait(60) == 1
        (line,) = other.log().splitlines()
        assert f"another plugmeter (pid {first.process.pid}) uses" in line
        assert first.stop() == 0
