"""A device that is renamed: it reports as the new one, and what waited in the old outbox can be sent."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.controller.processes import Controller, run_controller
from tests.daemon.process import DEVICE, Daemon, Onlooker, configuration
from tests.daemon.test_service import account
from tests.telemetry.broker import Mosquitto, eventually

NEW = "bench-9"
QUICK = "[lifecycle]\ndrain_s = 5.0\n"


def call(config: Path, name: str) -> None:
    """Give the device another name."""
    config.write_text(config.read_text().replace(f'device = "{DEVICE}"', f'device = "{name}"'))


def audits(database: Path) -> dict[str, dict[str, Any]]:
    """What the audit says of each stream."""
    done = run_controller("audit", "--database", str(database), "--json")
    return {each["stream"]: each for each in json.loads(done.stdout)["streams"]}


def test_a_renamed_device_reports_and_the_rest_of_the_old_one_can_be_sent(tmp_path: Path) -> None:
    database = tmp_path / "controller.db"
    with (
        Mosquitto(tmp_path) as broker,
        Controller("--database", str(database), "--broker", f"127.0.0.1:{broker.port}", "--no-page") as home,
        Onlooker(broker.port, device=NEW) as onlooker,
    ):
        home.await_said("connected|subscribed|listening|receiving")
        config = configuration(tmp_path, broker.port, QUICK)
        with Daemon(tmp_path, config) as daemon:
            eventually(lambda: '"acknowledged"' in json.dumps(daemon.figures()), "its account")
            assert daemon.stop() == 0
            old = account(daemon)
            assert old["pending"] == 0  # the controller has a part of the stream
            broker.stop()
            daemon.start()
            assert daemon.stop() == 0
            waiting = account(daemon)
            assert waiting["pending"] > 0
            stream = str(waiting["stream"])
            broker.start()

            call(config, NEW)
            daemon.start()
            eventually(lambda: onlooker.document("summary").get("outbox") is not None, "a summary", 60)
            eventually(
                lambda: any(each["device"] == NEW and each["stored"] for each in audits(database).values()),
                "the controller has records under the new name",
                60,
            )
            assert daemon.stop() == 0
            new: dict[str, Any] = dict(account(daemon))
            assert (new["device"], new["pending"]) == (NEW, 0)
            assert new["stream"] != stream
            (line,) = (each for each in daemon.log().splitlines() if "a new stream begins" in each)
            (aside,) = daemon.state.glob("outbox.sqlite.renamed-*")
            assert str(aside) in line and f'daemon.device = "{DEVICE}"' in line
            assert f"{waiting['pending']} records" in line
        found = audits(database)
        assert {each["device"]: each["accounted"] for each in found.values()} == {DEVICE: True, NEW: True}
        assert found[new["stream"]]["previous"] == stream
        assert found[new["stream"]]["stored"] == new["produced"]
        assert found[stream]["stored"] == old["produced"]

        # What the line in the log says.
        elsewhere = tmp_path / "elsewhere"
        (elsewhere / "state").mkdir(parents=True)
        aside.rename(elsewhere / "state" / "outbox.sqlite")
        again = configuration(elsewhere, broker.port, QUICK)
        with Daemon(elsewhere, again) as daemon:
            assert daemon.stop() == 0
            sent: dict[str, Any] = dict(account(daemon))
            assert (sent["stream"], sent["device"], sent["pending"]) == (stream, DEVICE, 0)
            assert "a new stream begins" not in daemon.log()
        found = audits(database)
        assert all(each["accounted"] and not each["lost"] and not each["pending"] for each in found.values())
        assert found[stream]["stored"] == sent["produced"] > waiting["produced"]
        assert home.end() == 0
