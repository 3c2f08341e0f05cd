"""A database that is damaged while the daemon runs: the controller sees the break."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

from tests.daemon.process import Daemon, Onlooker, configuration
from tests.daemon.test_service import account
from tests.telemetry.broker import Mosquitto, eventually


def test_the_controller_sees_the_break(tmp_path: Path) -> None:
    with (
        Mosquitto(tmp_path) as broker,
        Onlooker(broker.port) as onlooker,
        Daemon(tmp_path, configuration(tmp_path, broker.port)) as daemon,
    ):
        eventually(lambda: bool(onlooker.events), "records", 30)
        old = onlooker.document("status")["stream"]
        with contextlib.closing(sqlite3.connect(daemon.state / "outbox.sqlite")) as database:
            database.execute("UPDATE segments SET gone = 'nonsense'")
            database.commit()
        onlooker.acknowledges = True
        eventually(lambda: onlooker.document("status").get("stream") not in (None, old), "its name", 60)
        new = onlooker.document("status")["stream"]
        eventually(lambda: (new, 1) in of_stream(onlooker), "its first record", 30)
        first = of_stream(onlooker)[new, 1]
        assert first["previous"] == old and first["reason"] == "corrupt"
        assert (Path(first["set_aside"])).is_file()
        assert daemon.stop() == 0
        books = account(daemon)
        assert books["produced"] == books["acknowledged"]
        numbers = {number for stream, number in of_stream(onlooker) if stream == new}
        assert numbers == set(range(1, books["produced"] + 1))


def of_stream(onlooker: Onlooker) -> dict[tuple[str, int], dict[str, str]]:
    """The records by their names."""
    found = {}
    for event in list(onlooker.events):
        stream, _, number = event["id"].partition("/")
        found[stream, int(number)] = event["data"]
    return found
