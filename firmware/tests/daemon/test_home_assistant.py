"""Home Assistant finds the device by itself, also when it starts later, or the broker has forgotten all."""

from __future__ import annotations

import json
from pathlib import Path

from tests.daemon.process import BASE, Daemon, Onlooker, configuration
from tests.telemetry.broker import Mosquitto, eventually

CONFIG = "homeassistant/device/plugmeter_bench-1/config"


def test_the_device_announces_itself_again_whenever_somebody_may_have_forgotten(tmp_path: Path) -> None:
    with (
        Mosquitto(tmp_path) as broker,
        Onlooker(broker.port, acknowledges=True) as onlooker,
        Daemon(tmp_path, configuration(tmp_path, broker.port)) as daemon,
    ):
        eventually(lambda: CONFIG in onlooker.last, "the announcement", 30)
        told = json.loads(onlooker.last[CONFIG])
        assert told["state_topic"] == f"{BASE}/summary"
        before = len(onlooker.all[CONFIG])
        onlooker.publish("homeassistant/status", b"offline", retain=False)
        onlooker.publish("homeassistant/status", b"online", retain=False)
        eventually(lambda: len(onlooker.all[CONFIG]) > before, "again, at Home Assistant's birth", 30)
        before = len(onlooker.all[CONFIG])
        broker.restart(kill=True)  # nothing was persisted
        eventually(lambda: len(onlooker.all[CONFIG]) > before, "again, on the next connection", 60)
        assert daemon.stop() == 0
