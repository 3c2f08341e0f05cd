"""Each illness in the real daemon: found, named in STATUS, metric and record, remedied, and no restart."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.daemon.freeze import Frozen
from tests.daemon.frozen_disk import FrozenDisk
from tests.daemon.process import Daemon, Onlooker, configuration, environment
from tests.telemetry.broker import Authority, Mosquitto, eventually
from tests.telemetry.chaos import Chaos


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    with Mosquitto(tmp_path) as running:
        yield running


def accused(daemon: Daemon, name: str) -> list[str]:
    """The workers that the metric accuses of ``name``."""
    text = daemon.ask("/metrics")[1]
    return re.findall(rf'plugmeter_finding{{finding="{name}",worker="([^"]*)"}} 1', text)


def diagnoses(onlooker: Onlooker, name: str) -> list[dict[str, Any]]:
    events = [each["data"] for each in onlooker.events if each["type"] == "plugmeter.diagnosis.v1"]
    return [each for each in events if each["finding"] == name]


def in_status(daemon: Daemon, words: str) -> bool:
    return any(line.startswith("STATUS=") and words in line for line in daemon.notifications)


def link(daemon: Daemon) -> dict[str, Any]:
    found: dict[str, Any] = daemon.figures()["link"]
    return found


def test_a_stuck_metrics_server_is_replaced(tmp_path: Path, broker: Mosquitto) -> None:
    config = configuration(tmp_path, broker.port, "[lifecycle]\nstuck_s = 3\n")
    with Onlooker(broker.port, acknowledges=True) as onlooker, Daemon(tmp_path, config) as daemon:
        assert daemon.ask("/livez")[0] == 200
        with Frozen(daemon.process.pid, "metrics"):
            eventually(lambda: bool(diagnoses(onlooker, "stuck")), f"it is found; {daemon.log()}", 60)
            assert (diagnoses(onlooker, "stuck")[0]["worker"]) == "metrics"
            assert "http.py" in diagnoses(onlooker, "stuck")[0]["evidence"]
            eventually(lambda: in_status(daemon, "metrics is stuck"), "STATUS")
            eventually(lambda: daemon.ask("/metrics")[0] == 200, "another one serves")
            before = daemon.figures()["http"]["answered"]
        eventually(
            lambda: diagnoses(onlooker, "stuck")[-1]["state"] == "ended", f"its end; {daemon.log()}", 30
        )
        assert daemon.ask("/livez")[0] == 200
        assert daemon.figures()["http"]["answered"] >= before > 0, "its counters do not fall"
        assert daemon.stop() == 0


def test_a_stuck_link_is_replaced(tmp_path: Path, broker: Mosquitto) -> None:
    config = configuration(tmp_path, broker.port, "[lifecycle]\nstuck_s = 3\n")
    with Onlooker(broker.port, acknowledges=True) as onlooker, Daemon(tmp_path, config) as daemon:
        eventually(lambda: onlooker.document("status").get("state") == "online", "it is online")
        with Frozen(daemon.process.pid, "link"):
            eventually(lambda: "link" in accused(daemon, "stuck"), f"the metric; {daemon.log()}", 60)
            eventually(lambda: bool(diagnoses(onlooker, "stuck")), f"the record; {daemon.log()}", 60)
            assert diagnoses(onlooker, "stuck")[0]["remedy"] == "restart_worker"
            eventually(lambda: in_status(daemon, "link is stuck"), "STATUS")
            eventually(lambda: onlooker.document("status").get("state") == "online", "it is online again")
            daemon.send(signal.SIGUSR1)
            eventually(lambda: "signal" in onlooker.kinds(), "records go on their way")
        eventually(
            lambda: diagnoses(onlooker, "stuck")[-1]["state"] == "ended", f"its end; {daemon.log()}", 30
        )
        assert daemon.stop() == 0


def test_a_half_open_connection_is_named_and_made_anew(tmp_path: Path, broker: Mosquitto) -> None:
    """The broker's kernel acknowledges all, and its program says nothing any more."""
    with (
        Chaos(broker.port) as chaos,
        Onlooker(broker.port, acknowledges=True) as onlooker,
        Daemon(tmp_path, configuration(tmp_path, chaos.port)) as daemon,
    ):
        eventually(lambda: link(daemon)["state"] == "connected", "connected")
        chaos.blackhole()
        eventually(lambda: "link" in accused(daemon, "half_open"), f"the metric; {daemon.log()}", 60)
        eventually(lambda: in_status(daemon, "broker connection half-open"), "STATUS")
        eventually(lambda: bool(diagnoses(onlooker, "half_open")), f"the record; {daemon.log()}", 60)
        found = diagnoses(onlooker, "half_open")[0]
        assert (found["worker"], found["remedy"], found["state"]) == ("link", "reconnect", "begun")
        eventually(lambda: diagnoses(onlooker, "half_open")[-1]["state"] == "ended", "its end")
        assert link(daemon)["failures"] == {"silence": 1}
        assert daemon.stop() == 0


def test_failing_handshakes_are_named_and_the_breaker_opens(tmp_path: Path) -> None:
    ours, theirs = Authority(tmp_path, "ours"), Authority(tmp_path, "theirs")
    with Mosquitto(tmp_path, authority=theirs) as broker:
        text = f'tls = true\nca_file = "{ours.ca_file}"\n'
        config = configuration(tmp_path, broker.tls_port, text)
        with Daemon(tmp_path, config) as daemon:
            eventually(lambda: "link" in accused(daemon, "tls_handshakes"), f"{daemon.log()}")
            eventually(lambda: in_status(daemon, "TLS handshakes fail"), "STATUS")
            assert link(daemon)["state"] == "broken" and link(daemon)["breaker"] == "open"
            (found,) = daemon.figures()["findings"]
            assert "signed by an authority that is not in ca_file" in found["evidence"]
            config.write_text(config.read_text().replace(str(ours.ca_file), str(theirs.ca_file)))
            with Onlooker(broker.port, acknowledges=True) as onlooker:
                daemon.send(signal.SIGHUP)
                eventually(
                    lambda: (
                        [each["state"] for each in diagnoses(onlooker, "tls_handshakes")]
                        == ["begun", "ended"]
                    ),
                    f"both records, once it can tell; {daemon.log()}",
                )
                assert daemon.stop() == 0


def test_a_link_that_wakes_up_in_vain_is_named(tmp_path: Path, broker: Mosquitto) -> None:
    """Each commit wakes the link, which has no broker and can do nothing."""
    config = configuration(
        tmp_path,
        broker.port,
        "[lifecycle]\nspin_wakeups_per_s = 20\ndrain_s = 0.3\n[outbox]\ncommit_interval_ms = 1\n",
    )
    broker.stop()
    with Daemon(tmp_path, config) as daemon:

        def spins() -> bool:
            for _ in range(20):
                daemon.send(signal.SIGUSR1)
                time.sleep(0.005)
            return "link" in accused(daemon, "spinning")

        eventually(spins, f"the metric; {daemon.log()}", 60)
        eventually(lambda: in_status(daemon, "link spins"), "STATUS")
        broker.start()
        with Onlooker(broker.port, acknowledges=True) as onlooker:
            eventually(
                lambda: [each["state"] for each in diagnoses(onlooker, "spinning")] == ["begun", "ended"],
                f"both records; {daemon.log()}", 60,
            )  # fmt: skip
            assert diagnoses(onlooker, "spinning")[0]["remedy"] == "reconnect"
            assert daemon.stop() == 0


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[FrozenDisk]:
    with FrozenDisk(tmp_path) as made:
        yield made


@pytest.mark.privileged
def test_a_disk_that_hangs_is_told_of_and_waited_for(
    tmp_path: Path, broker: Mosquitto, disk: FrozenDisk
) -> None:
    config = configuration(tmp_path, broker.port, "[lifecycle]\nstuck_s = 3\n")
    with (
        Onlooker(broker.port, acknowledges=True) as onlooker,
        Daemon(tmp_path, config, WATCHDOG_USEC="4000000") as daemon,
    ):
        try:
            disk.freeze()
            daemon.send(signal.SIGUSR1)
            eventually(lambda: "outbox" in accused(daemon, "stuck"), f"the metric; {daemon.log()}", 60)
            eventually(lambda: in_status(daemon, "outbox is stuck"), "STATUS")
            assert daemon.ask("/livez")[0] == daemon.ask("/readyz")[0] == 503
            found = next(each for each in daemon.figures()["findings"] if each["worker"] == "outbox")
            assert found["remedy"] == "none" and "state D" in found["evidence"]
            fed = daemon.notifications.count("WATCHDOG=1")
            time.sleep(5)
            assert daemon.notifications.count("WATCHDOG=1") == fed
        finally:
            disk.thaw()
        daemon.await_notified("WATCHDOG=1", times=fed + 1)
        eventually(lambda: "signal" in onlooker.kinds(), "the record of that time")
        states = ["begun", "ended"]
        eventually(
            lambda: [
                each["state"] for each in diagnoses(onlooker, "stuck") if each["worker"] == "outbox"
            ] == states,
            f"and its end; {diagnoses(onlooker, 'stuck')} {daemon.log()}",
        )  # fmt: skip
        assert daemon.stop() == 0


LEAKY = """
import os, signal, sys, threading, time

def leak():
    while True:
        time.sleep(0.1)
        if os.path.exists(os.environ["LEAK"]):
            os.open("/dev/null", os.O_RDONLY)

if "run" in sys.argv or "run" in sys.orig_argv:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 32))  # as any thread of the daemon
    threading.Thread(target=leak, daemon=True).start()
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
"""


def test_a_leak_of_descriptors_is_named(tmp_path: Path, broker: Mosquitto) -> None:
    """A library that leaks, in the daemon's process."""
    (tmp_path / "sitecustomize.py").write_text(LEAKY)
    config = configuration(tmp_path, broker.port, "[lifecycle]\nfd_growth = 32\n")
    path = f"{tmp_path}:{environment()['PYTHONPATH']}"
    with (
        Onlooker(broker.port, acknowledges=True) as onlooker,
        Daemon(tmp_path, config, PYTHONPATH=path, LEAK=str(tmp_path / "leak")) as daemon,
    ):
        (tmp_path / "leak").touch()
        eventually(lambda: "process" in accused(daemon, "fd_leak"), f"the metric; {daemon.log()}", 120)
        eventually(lambda: in_status(daemon, "descriptors leak"), "STATUS")
        eventually(lambda: bool(diagnoses(onlooker, "fd_leak")), "the record")
        assert "/dev/null +" in diagnoses(onlooker, "fd_leak")[0]["evidence"]
        assert daemon.stop() == 0


def test_the_watchdog_is_fed_only_while_every_worker_moves(tmp_path: Path, broker: Mosquitto) -> None:
    config = configuration(tmp_path, broker.port, "[lifecycle]\nstuck_s = 600\n")
    with Daemon(tmp_path, config, WATCHDOG_USEC="2000000") as daemon:
        daemon.await_notified("WATCHDOG=1", times=3)
        with Frozen(daemon.process.pid, "signals"):
            eventually(lambda: "signals: no sign of life" in daemon.log(), "it is missed")
            fed = daemon.notifications.count("WATCHDOG=1")
            time.sleep(3)
            assert daemon.notifications.count("WATCHDOG=1") == fed
            eventually(lambda: in_status(daemon, "stuck: signals"), "STATUS")
        daemon.await_notified("WATCHDOG=1", times=fed + 1)
        assert daemon.stop() == 0


def test_metrics_whose_address_is_taken_cost_metrics_and_nothing_else(
    tmp_path: Path, broker: Mosquitto
) -> None:
    config = configuration(tmp_path, broker.port, "[lifecycle]\nstuck_s = 3\n")
    with Daemon(tmp_path, config) as daemon:
        path = tmp_path / "metrics.sock"
        path.unlink()
        path.mkdir()  # nobody can listen there now
        with Frozen(daemon.process.pid, "metrics"):
            eventually(lambda: "metrics cannot be served" in daemon.log(), f"it is told; {daemon.log()}", 60)
        path.rmdir()
        eventually(lambda: path.is_socket(), "it is tried again", 30)
        assert daemon.ask("/livez")[0] == 200
        assert daemon.stop() == 0
