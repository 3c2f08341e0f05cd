"""Commands to the real daemon, and its end in the middle of them."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.daemon.process import Daemon, Onlooker, configuration
from tests.telemetry.broker import Mosquitto, eventually


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_command_survives_a_restart_in_the_middle(tmp_path: Path, number: signal.Signals) -> None:
    with Mosquitto(tmp_path) as broker, Onlooker(broker.port, acknowledges=True) as onlooker:
        config = configuration(tmp_path, broker.port)
        with Daemon(tmp_path, config) as daemon:
            onlooker.command("selftest", "s1")
            eventually(lambda: onlooker.document("cmd/selftest/s1").get("state") == "executing", "begun", 60)
            daemon.send(number)
            assert daemon.process.wait(60) in (0, -signal.SIGKILL)
            assert onlooker.document("cmd/selftest/s1")["state"] == "executing"
            daemon.start()
            ended = onlooker.await_state("selftest", "s1", 120)
            assert ended["state"] == "successful", ended
            assert daemon.stop() == 0
            told = [each["data"] for each in onlooker.events if each["type"] == "plugmeter.command.v1"]
            states = [each["state"] for each in told]  # kill -9 may cost the first: the loss window
            assert states[-2:] == ["executing", "successful"] and states.count("successful") == 1
            assert told[-1]["attempts"] == 2
