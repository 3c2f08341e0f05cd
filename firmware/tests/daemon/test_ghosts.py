"""No ghosts at the broker: what a device was called, or where it told Home Assistant, is taken away there."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

from tests.daemon.process import DEVICE, Daemon, configuration
from tests.telemetry.broker import Mosquitto, eventually


def retained(broker: Mosquitto) -> set[str]:
    """The topics that have something."""
    command = ["mosquitto_sub", "-p", str(broker.port), "-t", "#", "-F", "%t", "-W", "1", "--retained-only"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10)
    except subprocess.TimeoutExpired:  # its alarm is lost where it comes before the CONNACK
        return set()
    assert done.returncode in (0, 27), done.stderr  # 27: its time was up
    return set(done.stdout.split())


def await_retained(broker: Mosquitto, daemon: Daemon, there: set[str], gone: set[str]) -> None:
    def is_so() -> bool:
        now = retained(broker)
        return there <= now and not gone & now

    eventually(is_so, f"{there} and not {gone}, but {retained(broker)}\n{daemon.log()}", 60)


def own(device: str) -> set[str]:
    return {f"plugmeter/v1/{device}/{kind}" for kind in ("status", "meta", "summary", "reported")}


def under(prefix: str, device: str = DEVICE) -> set[str]:
    return {f"{prefix}/device/plugmeter_{device}/config"}


def test_another_prefix_or_none_clears_the_old_one_for_good(tmp_path: Path) -> None:
    with Mosquitto(tmp_path) as broker:
        config = configuration(tmp_path, broker.port, 'discovery_prefix = "one"\n')
        text = config.read_text()
        with Daemon(tmp_path, config) as daemon:
            await_retained(broker, daemon, own(DEVICE) | under("one"), set())
            config.write_text(text.replace('"one"', '"two"'))
            daemon.send(signal.SIGHUP)
            await_retained(broker, daemon, own(DEVICE) | under("two"), under("one"))
            broker.restart()  # it has forgotten all, and gets it again
            await_retained(broker, daemon, own(DEVICE) | under("two"), under("one"))
            broker.stop()
            config.write_text(text.replace('"one"', '""'))
            daemon.send(signal.SIGHUP)
            eventually(lambda: "reload" in daemon.log() or "hup" in daemon.log(), "it was read")
            broker.start()
            await_retained(broker, daemon, own(DEVICE), under("one") | under("two"))
            assert daemon.stop() == 0


def test_a_device_that_was_killed_and_renamed_leaves_nothing_of_its_old_name(tmp_path: Path) -> None:
    with Mosquitto(tmp_path) as broker:
        config = configuration(tmp_path, broker.port, 'discovery_prefix = "ha"\n')
        with Daemon(tmp_path, config) as daemon:
            await_retained(broker, daemon, own(DEVICE) | under("ha"), set())
            daemon.kill()
            config.write_text(config.read_text().replace(f'device = "{DEVICE}"', 'device = "another"'))
            daemon.start()
            now = own("another") | under("ha", "another")
            await_retained(broker, daemon, now, own(DEVICE) | under("ha"))
            broker.restart()
            await_retained(broker, daemon, now, own(DEVICE) | under("ha"))
            assert daemon.stop() == 0
