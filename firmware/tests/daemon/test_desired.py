"""Configurations from afar, and what they must not do to the real daemon: lead its password away, destroy
records while they are on trial."""

from __future__ import annotations

import base64
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from plugmeter.moments import rfc3339
from plugmeter.sections import Outbox as Section
from plugmeter.telemetry import desired
from plugmeter.telemetry.commands import signing
from plugmeter.telemetry.desired import Standing, Wish
from plugmeter.telemetry.outbox import DATABASE_NAME, Outbox, limits_of
from plugmeter.telemetry.record import Draft
from tests.daemon.process import BASE, DEVICE, Daemon, Onlooker, configuration
from tests.telemetry.broker import Mosquitto, eventually

PASSWORD = "correct-horse"
CREDENTIALS = 'username = "bench"\npassword_file = "{folder}/password"\n'


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    with Mosquitto(tmp_path) as running:
        yield running


@pytest.fixture
def foreign() -> Iterator[socket.socket]:
    """Where somebody waits for the password."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        yield listener


def heard(foreign: socket.socket) -> bytes | None:
    """What the next connection says first; None if there was none."""
    try:
        connection, _ = foreign.accept()
    except BlockingIOError:
        return None
    with connection:
        connection.settimeout(30)
        return connection.recv(65_536)


def reported(onlooker: Onlooker, wish_id: str, state: str, limit_s: float = 60.0) -> dict[str, Any]:
    def is_it() -> bool:
        found = onlooker.document("reported")
        return (found.get("id"), found.get("state")) == (wish_id, state)

    eventually(is_it, f"{wish_id} is {state}", limit_s)
    return onlooker.document("reported")


def test_no_unsigned_wish_leads_the_password_away(
    tmp_path: Path, broker: Mosquitto, foreign: socket.socket
) -> None:
    (tmp_path / "password").write_text(f"{PASSWORD}\n")
    (tmp_path / "password").chmod(0o600)
    evil = {"mqtt": {"host": "localhost", "port": foreign.getsockname()[1], "tls": False}}
    key = signing.new_key_pair(tmp_path / "fleet.key")[0]
    config = configuration(tmp_path, broker.port, CREDENTIALS.format(folder=tmp_path))
    with Onlooker(broker.port, acknowledges=True) as onlooker, Daemon(tmp_path, config) as daemon:
        onlooker.publish(f"{BASE}/desired", {"id": "w1", "config": evil})
        reason = reported(onlooker, "w1", "refused")["reason"]
        assert reason.startswith("mqtt.host, mqtt.port cannot be changed from afar without a signature")
        onlooker.command("config", "c1", {"config": evil})
        assert onlooker.await_state("config", "c1")["state"] == "failed"
        onlooker.publish(f"{BASE}/desired", {"id": "w2", "config": {"mqtt": {"port": evil["mqtt"]["port"]}}})
        reported(onlooker, "w2", "refused")
        assert daemon.stop() == 0  # whatever it had begun has ended with it
        assert heard(foreign) is None
        assert daemon.log().count("the configuration w1 from afar is refused: mqtt.host, mqtt.port") == 1
        # The owner's own will, as a control: that is what would have been there to be heard.
        config.write_text(f'{config.read_text()}[commands]\npublic_key_file = "{key}"\n')
        daemon.start()
        text = json.dumps({"device": DEVICE, "id": "w3", "issued": rfc3339(time.time_ns()), "config": evil})
        made = signing.load_private_key(tmp_path / "fleet.key").sign(text.encode())
        sealed = {"signed": text, "signature": base64.b64encode(made).decode()}
        onlooker.publish(f"{BASE}/desired", sealed)
        said: list[bytes] = []

        def is_heard() -> bool:
            if (first := heard(foreign)) is not None:
                said.append(first)
            return bool(said)

        eventually(is_heard, "the signed one is obeyed", 60)
        assert PASSWORD.encode() in said[0]
        daemon.kill()


def test_a_command_from_before_there_was_a_key_is_not_the_owners(
    tmp_path: Path, broker: Mosquitto, foreign: socket.socket
) -> None:
    """Accepted unsigned, interrupted, and carried on by a daemon that has a key."""
    (tmp_path / "password").write_text(f"{PASSWORD}\n")
    (tmp_path / "password").chmod(0o600)
    key = signing.new_key_pair(tmp_path / "fleet.key")[0]
    config = configuration(tmp_path, broker.port, CREDENTIALS.format(folder=tmp_path))
    with Onlooker(broker.port, acknowledges=True) as onlooker, Daemon(tmp_path, config) as daemon:
        onlooker.command("selftest", "s1")  # keeps the one after it waiting
        onlooker.command("config", "c1", {"config": {"mqtt": {"port": foreign.getsockname()[1]}}})
        eventually(lambda: onlooker.document("cmd/config/c1").get("state") == "accepted", "it waits")
        daemon.kill()
        config.write_text(f'{config.read_text()}[commands]\npublic_key_file = "{key}"\n')
        daemon.start()
        ended = onlooker.await_state("config", "c1", 180)
        assert ended["state"] == "failed" and "without a signature" in ended["reason"], ended
        assert daemon.stop() == 0
        assert heard(foreign) is None


def filled(state: Path) -> None:
    """An outbox of far more than 1 MiB that nobody has acknowledged."""
    outbox = Outbox(state / DATABASE_NAME, limits_of(Section()), lambda _: None)
    try:
        for number in range(3_000):
            data = json.dumps({"number": number, "text": os.urandom(750).hex()}).encode()
            assert outbox.offer(Draft("verdict", data, time.time_ns()), wait_s=30)
            if number % 200 == 199:
                assert outbox.flush(30)
        assert outbox.flush(30)
    finally:
        outbox.close(30)


def tombstoned(state: Path) -> int:
    outbox = Outbox(state / DATABASE_NAME, limits_of(Section()), lambda _: None)
    try:
        return outbox.account().tombstoned
    finally:
        outbox.close(30)


def test_smaller_limits_that_are_rolled_back_have_destroyed_nothing(
    tmp_path: Path, broker: Mosquitto
) -> None:
    filled(tmp_path / "state")
    text = "[commands]\nrollback_minutes = 0.05\n[outbox]\nmax_bytes = 268435456\n"
    config = configuration(tmp_path, broker.port, text)
    with Onlooker(broker.port) as onlooker, Daemon(tmp_path, config) as daemon:
        wanted = {"outbox": {"max_bytes": 1 << 20, "max_age_days": 0.05}}
        onlooker.publish(f"{BASE}/desired", {"id": "w1", "config": wanted})
        assert reported(onlooker, "w1", "trial")["config"]["outbox"]["max_bytes"] == 268_435_456
        reported(onlooker, "w1", "rolled_back")
        log = daemon.log()
        assert (
            log.count("w1 from afar is on trial")
            == log.count("w1 from afar is rolled back: the controller")
            == 1
        )
        assert daemon.stop() == 0
        assert tombstoned(daemon.state) == 0
        # The owner's own will, as a control: there was something to destroy.
        config.write_text(config.read_text().replace("268435456", "1048576"))
        daemon.start()
        assert daemon.stop() == 0
        assert tombstoned(daemon.state) > 0


def test_what_is_kept_holds_from_the_first_moment_of_a_start(tmp_path: Path, broker: Mosquitto) -> None:
    """The file has smaller limits, and a journal that tells errors only."""
    filled(tmp_path / "state")
    kept = Wish("w1", {"outbox": {"max_bytes": 268_435_456}, "daemon": {"log_level": "info"}})
    (tmp_path / "state" / "desired.json").write_bytes(desired.encode(Standing(kept=kept, id="w1")))
    config = configuration(tmp_path, broker.port, "[outbox]\nmax_bytes = 1048576\n")
    config.write_text(config.read_text().replace('rig = "none"\n', 'rig = "none"\nlog_level = "error"\n', 1))
    with Onlooker(broker.port) as onlooker, Daemon(tmp_path, config) as daemon:
        reported(onlooker, "w1", "in_effect")
        more = {**kept.config, "run": {"debounce_ms": 120}}
        onlooker.publish(f"{BASE}/desired", {"id": "w2", "config": more})
        reported(onlooker, "w2", "trial")
        assert "the configuration w2 from afar is on trial" in daemon.log()
        assert daemon.stop() == 0
        assert tombstoned(daemon.state) == 0


def test_a_kept_wish_that_cannot_be_run_leaves_the_device_on_the_air(
    tmp_path: Path, broker: Mosquitto
) -> None:
    """It was in effect once; after a restart it is the first thing that is tried, and the controller has to
    be reached all the same to mend it."""
    config = configuration(
        tmp_path, broker.port, '[commands]\nrollback_minutes = 0.1\n[gpio]\nfactory = "mock"\n'
    )
    good = {"daemon": {"rig": "passive"}, "witnesses": {"udev": False}, "ports": {"1-1": {"sense_gpio": 4}}}
    bad = {**good, "ports": {"1-1": {"sense_gpio": 999}}}
    with Onlooker(broker.port, acknowledges=True) as onlooker, Daemon(tmp_path, config) as daemon:
        onlooker.publish(f"{BASE}/desired", {"id": "w1", "config": bad})
        reported(onlooker, "w1", "in_effect")
        assert daemon.stop() == 0
        for _ in range(2):
            daemon.start()  # until READY=1
            eventually(lambda: daemon.figures()["link"]["state"] == "connected", f"{daemon.log()}")
            run = daemon.figures()["run"]
            assert run["state"] in ("failed", "starting"), run
            assert "GPIO line 999 will not do" in run["failure"]
            assert daemon.stop() == 0
        daemon.start()
        eventually(
            lambda: any(each["name"] == "run_failures" for each in daemon.figures()["findings"]),
            f"it is found; {daemon.log()}",
            60,
        )
        assert onlooker.document("reported")["state"] == "in_effect", "it is not taken back behind our back"
        onlooker.publish(f"{BASE}/desired", {"id": "w2", "config": good})
        reported(onlooker, "w2", "in_effect")
        eventually(lambda: daemon.figures()["run"]["state"] == "running", f"it is mended; {daemon.log()}", 90)
        assert daemon.figures()["run"]["failure"] == ""
        assert daemon.stop() == 0
    assert "Traceback" not in daemon.log()


def test_a_kept_wish_with_a_plan_that_has_become_impossible_is_none_for_good_either(
    tmp_path: Path, broker: Mosquitto
) -> None:
    """The start itself finds that out; the device's own file is good."""
    (tmp_path / "state").mkdir()
    kept = Wish("w1", {"daemon": {"rig": "relay"}})  # needs lines that the file does not name
    (tmp_path / "state" / "desired.json").write_bytes(desired.encode(Standing(kept=kept, id="w1")))
    config = configuration(tmp_path, broker.port)
    with Onlooker(broker.port, acknowledges=True) as onlooker, Daemon(tmp_path, config) as daemon:
        assert daemon.figures()["run"]["state"] == "failed"
        onlooker.publish(f"{BASE}/desired", {"id": "w2", "config": {}})
        reported(onlooker, "w2", "in_effect")
        assert daemon.figures()["run"]["state"] == "none"
        assert daemon.stop() == 0
