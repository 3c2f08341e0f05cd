"""Commands to the real daemon, and its end in the middle of them."""

from __future__ import annotations

import base64
import json
import signal
import subprocess
import time
from pathlib import Path

import pytest

from plugmeter.moments import rfc3339
from plugmeter.telemetry.commands import message, signing
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
