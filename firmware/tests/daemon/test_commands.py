"""Commands to the real daemon, and its end in the middle of them."""

from __future__ import annotations

import base64
import json
import signal
import sqlite3
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from plugmeter.moments import rfc3339
from plugmeter.telemetry.commands import message, signing
from tests.daemon.freeze import Thread
from tests.daemon.process import BASE, DEVICE, Daemon, Onlooker, configuration
from tests.telemetry.broker import Mosquitto, eventually

DONE = message.State.SUCCESSFUL


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


def test_only_its_owner_commands_a_device_that_has_a_key(tmp_path: Path) -> None:
    """Not who owns the broker: unsigned, signed by another, changed, replayed, for another device."""
    key = signing.new_key_pair(tmp_path / "fleet.key")[0]
    owner = signing.load_private_key(tmp_path / "fleet.key")
    signing.new_key_pair(tmp_path / "other.key")
    thief = signing.load_private_key(tmp_path / "other.key")

    def signed(by: signing.PrivateKey, command_id: str, *, device: str = DEVICE, **changed: str) -> bytes:
        document = {
            "state": "init", "device": device, "op": "log-level", "id": command_id,
            "issued": rfc3339(time.time_ns()), "expires": rfc3339(time.time_ns() + 600 * 10**9),
            "arguments": {"level": "info"},
        }  # fmt: skip
        text = json.dumps(document)
        signature = base64.b64encode(by.sign(text.encode())).decode()
        for old, new in changed.items():
            text = text.replace(old, new)
        return json.dumps({"signed": text, "signature": signature}).encode()

    with Mosquitto(tmp_path) as broker, Onlooker(broker.port, acknowledges=True) as onlooker:
        config = configuration(tmp_path, broker.port, f'[commands]\npublic_key_file = "{key}"\n')
        with Daemon(tmp_path, config) as daemon:

            def answer(command_id: str, payload: bytes) -> str:
                onlooker.publish(f"{BASE}/cmd/log-level/{command_id}", payload)
                found = onlooker.await_state("log-level", command_id)
                return str(found["reason"] or found["state"])

            good = signed(owner, "c1")
            assert answer("c1", good) == "successful"
            assert answer("c2", good).startswith("malformed")  # its text says c1
            assert answer("c3", signed(thief, "c3")).startswith("bad_signature")
            assert answer("c4", signed(owner, "c4", info="debug")).startswith("bad_signature")
            assert answer("c5", signed(owner, "c5", device="bench-2")).startswith("other_device")
            assert answer("c6", json.dumps({"state": "init"}).encode()).startswith("unsigned")
            onlooker.publish(f"{BASE}/desired", {"id": "w1", "config": {"run": {"nominal_ms": 7}}})
            eventually(lambda: str(onlooker.document("reported").get("reason")).startswith("unsigned"), "no")
            onlooker.publish(f"{BASE}/cmd/log-level/c1", good)  # again: its state, and no second effect
            eventually(lambda: daemon.figures()["commands"].get("repeated") == 1, "it is known")
            assert daemon.figures()["commands"]["accepted"] == 1
            assert daemon.stop() == 0


def test_commands_behind_more_old_answers_than_a_broker_hands_out_are_obeyed(tmp_path: Path) -> None:
    """mosquitto as it is installed: 1,000 messages may wait for a client, the others it drops."""
    with Mosquitto(tmp_path) as broker, Onlooker(broker.port, acknowledges=True) as onlooker:
        for number in range(1_500):
            where = f"{BASE}/cmd/resync/old-{number}"
            onlooker.publish(where, message.state_document("resync", f"old-{number}", DONE, None, {}, 10**18))
        for number in range(3):
            onlooker.command("log-level", f"new-{number}", {"level": "info"})
        eventually(lambda: len(onlooker.last) == 1_503, "all are at the broker", 60)
        with Daemon(tmp_path, configuration(tmp_path, broker.port)) as daemon:
            for number in range(3):
                ended = onlooker.await_state("log-level", f"new-{number}", 180)
                assert ended["state"] == "successful"

            def are_gone() -> bool:
                return not any(onlooker.last[f"{BASE}/cmd/resync/old-{each}"] for each in range(1_500))

            eventually(are_gone, "the old answers are taken away", 180)
            assert daemon.figures()["link"]["connects"] > 1  # else it proves nothing
            assert daemon.stop() == 0


def test_the_broker_is_told_for_how_long_to_keep_an_answer(tmp_path: Path) -> None:
    with (
        Mosquitto(tmp_path) as broker,
        Onlooker(broker.port, acknowledges=True) as onlooker,
        Daemon(tmp_path, configuration(tmp_path, broker.port)) as daemon,
    ):
        onlooker.command("log-level", "c1", {"level": "info"})  # expires in an hour
        onlooker.await_state("log-level", "c1")
        topic = f"{BASE}/cmd/log-level/c1"
        words = ["-h", "127.0.0.1", "-p", str(broker.port), "-V", "5", "-C", "1", "-t", topic, "-F", "%E"]
        said = subprocess.run(
            ["mosquitto_sub", *words], capture_output=True, text=True, timeout=60, check=True
        )
        assert 7 * 86_400 < int(said.stdout) <= 7 * 86_400 + 3_600
        assert daemon.stop() == 0


class HeldJournal:
    """The daemon's journal of commands, so that it cannot write: what it has done has no end there."""

    def __init__(self, daemon: Daemon) -> None:
        self._database = sqlite3.connect(daemon.state / "commands.sqlite", isolation_level=None, timeout=60)

    def __enter__(self) -> HeldJournal:
        return self

    def __exit__(self, *_: object) -> None:
        self._database.close()

    def hold(self) -> None:
        self._database.execute("BEGIN IMMEDIATE")

    def is_noted(self, command_id: str) -> bool:
        """Whether the operation has written down what it is about to do."""
        found = self._database.execute("SELECT note FROM commands WHERE id = ?", (command_id,)).fetchone()
        return found is not None and found[0] is not None


def records(onlooker: Onlooker, kind: str) -> list[dict[str, Any]]:
    """Each once: what a kill left without an acknowledgement on disk is sent again."""
    of_kind = (each for each in onlooker.events if each["type"] == f"plugmeter.{kind}.v1")
    return list({each["id"]: each["data"] for each in of_kind}.values())


def starts(onlooker: Onlooker) -> list[dict[str, Any]]:
    return records(onlooker, "run-started")


def test_a_kill_after_a_run_has_begun_and_before_that_is_written_down_begins_no_second_one(
    tmp_path: Path,
) -> None:
    with (
        Mosquitto(tmp_path) as broker,
        Onlooker(broker.port, acknowledges=True) as onlooker,
        Daemon(tmp_path, configuration(tmp_path, broker.port)) as daemon,
    ):
        with HeldJournal(daemon) as journal:
            onlooker.command("start-run", "s1", {"rig": "injected", "sticks": 500, "cycles": 9})
            eventually(lambda: journal.is_noted("s1"), "its note")
            journal.hold()  # while the run's process starts
            eventually(lambda: bool(starts(onlooker)), "the run", 60)
            assert onlooker.document("cmd/start-run/s1")["state"] == "executing"
            daemon.kill()
        daemon.start()
        ended = onlooker.await_state("start-run", "s1")
        assert ended["state"] == "failed"
        (begun,) = starts(onlooker)
        assert begun["command"] == "s1" and begun["run"] in ended["reason"]
        onlooker.command("start-run", "s2", {"rig": "injected"})
        result = onlooker.await_state("start-run", "s2")["result"]
        eventually(lambda: len(starts(onlooker)) == 2, "the next command's run")
        assert [(each["command"], each["run"]) for each in starts(onlooker)[1:]] == [("s2", result["run"])]
        assert daemon.stop() == 0


def test_an_orderly_end_after_a_run_has_begun_begins_no_second_one(tmp_path: Path) -> None:
    with (
        Mosquitto(tmp_path) as broker,
        Onlooker(broker.port, acknowledges=True) as onlooker,
        Daemon(tmp_path, configuration(tmp_path, broker.port)) as daemon,
    ):
        with HeldJournal(daemon) as journal:
            onlooker.command("start-run", "s1", {"rig": "injected", "sticks": 500, "cycles": 9})
            eventually(lambda: journal.is_noted("s1"), "its note")
            assert daemon.stop() == 0
        daemon.start()
        ended = onlooker.await_state("start-run", "s1")
        assert ended["state"] == "successful", ended
        eventually(lambda: bool(starts(onlooker)) or "ended" in ended["result"], "the run")
        assert daemon.stop() == 0
        eventually(lambda: "run-ended" in onlooker.kinds(), "its end")
        assert {each["run"] for each in starts(onlooker)} <= {ended["result"]["run"]}
        assert len(starts(onlooker)) <= 1


def test_a_stop_that_a_kill_cuts_off_leaves_the_next_daemons_run_alone(tmp_path: Path) -> None:
    config = configuration(tmp_path, None, rig="injected")
    with Mosquitto(tmp_path) as broker, Onlooker(broker.port, acknowledges=True) as onlooker:
        configuration(tmp_path, broker.port, rig="injected")
        config.write_text(config.read_text().replace("sticks = 4\ncycles = 1", "sticks = 1000\ncycles = 100"))
        with Daemon(tmp_path, config) as daemon:
            eventually(lambda: len(starts(onlooker)) == 1, "the first run")
            main = Thread(daemon.process.pid)
            with HeldJournal(daemon) as journal:
                with main:  # it waits: so there is time between the note and the effect
                    onlooker.command("stop-run", "s1")
                    eventually(lambda: journal.is_noted("s1"), "its note", 60)
                    journal.hold()
                eventually(lambda: "run-ended" in onlooker.kinds(), "the effect", 60)
                assert onlooker.document("cmd/stop-run/s1")["state"] == "executing"
                daemon.kill()
            daemon.start()
            ended = onlooker.await_state("stop-run", "s1")
            assert ended["state"] == "successful"
            assert ended["result"] == {"run": starts(onlooker)[0]["run"]}
            eventually(lambda: len(starts(onlooker)) == 2, "the next daemon's run")
            onlooker.command("resync", "r1")  # there is a run that can be asked
            assert onlooker.await_state("resync", "r1")["state"] == "successful"
            assert len(records(onlooker, "run-ended")) == 1
            assert daemon.stop() == 0


def test_a_start_run_that_the_machine_does_not_grant_ends_no_run(tmp_path: Path) -> None:
    script = 'echo 0 > /proc/sys/user/max_net_namespaces && exec "$@"'
    limited = ("unshare", "-Ur", "sh", "-c", script, "sh")
    tried = subprocess.run([*limited, "true"], capture_output=True, text=True, check=False)
    if tried.returncode:
        pytest.skip(f"needs user namespaces: {tried.stderr.strip()}")
    with (
        Mosquitto(tmp_path) as broker,
        Onlooker(broker.port, acknowledges=True) as onlooker,
        Daemon(tmp_path, configuration(tmp_path, broker.port), before=limited) as daemon,
    ):
        onlooker.command("start-run", "s1", {"rig": "injected"})
        failed = onlooker.await_state("start-run", "s1")
        assert failed["state"] == "failed" and "sysctl" in failed["reason"], failed
        assert daemon.figures()["run"]["state"] == "none"
        assert "run-started" not in onlooker.kinds()
        assert daemon.stop() == 0
