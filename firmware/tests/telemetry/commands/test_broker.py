"""The same through a real broker: what it retains, and what it hands out again."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from plugmeter.telemetry.commands.journal import Journal
from plugmeter.telemetry.commands.operator import Operator
from tests.telemetry.commands.orders import DEVICE, NOW_NS, OPS, TOPICS, Hand, Message, payload, until

TOPIC = TOPICS.command("selftest", "a1")


@pytest.fixture
def port(tmp_path: Path) -> Iterator[int]:
    program = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin")
    if program is None:
        pytest.skip("needs mosquitto")
    with socket.create_server(("127.0.0.1", 0)) as free:
        number = int(free.getsockname()[1])
    conf = tmp_path / "mosquitto.conf"
    conf.write_text(f"listener {number} 127.0.0.1\nallow_anonymous true\n")
    process = subprocess.Popen([program, "-c", conf], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def listens() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", number)) == 0

    until(listens, "the broker")
    yield number
    process.terminate()
    process.wait()


class Client:
    """paho with its own thread; ``last`` is the last payload of a topic."""

    def __init__(self, port: int, name: str) -> None:
        self.last: dict[str, Any] = {}
        self.operator: Operator | None = None
        self.subscribed = False
        self.client = mqtt.Client(CallbackAPIVersion.VERSION2, name, protocol=mqtt.MQTTv5)
        self.client.on_message = self._on_message
        self.client.on_subscribe = self._on_subscribe
        self.client.connect("127.0.0.1", port)
        self.client.loop_start()

    def subscribe(self) -> None:
        self.client.subscribe(TOPICS.commands, 1)
        until(lambda: self.subscribed, "the subscription")

    def say(self, topic: str, data: bytes) -> None:
        self.client.publish(topic, data, 1, retain=True).wait_for_publish(60)

    def tell(self, topic: str, data: bytes, keep_s: int | None) -> None:
        self.client.publish(topic, data, 1, retain=True)

    def state(self) -> str | None:
        data = self.last.get(TOPIC)
        return json.loads(data)["state"] if data else None

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()

    def _on_subscribe(self, *_: Any) -> None:
        self.subscribed = True

    def _on_message(self, _client: Any, _data: Any, message: mqtt.MQTTMessage) -> None:
        self.last[message.topic] = message.payload
        if self.operator is not None:
            self.operator.handle(Message(message.topic, bytes(message.payload), message.retain))


def device(port: int, journal: Journal, hand: Hand) -> tuple[Client, Operator]:
    client = Client(port, "device")
    operator = Operator(
        journal, TOPICS, DEVICE, OPS, None, hand, client.tell, lambda kind, data: None, now_ns=lambda: NOW_NS
    )
    operator.recover()
    client.operator = operator
    client.subscribe()
    return client, operator


def test_what_the_broker_has_kept_is_answered_and_corrected(port: int, tmp_path: Path) -> None:
    controller = Client(port, "controller")
    controller.subscribe()
    controller.say(TOPIC, payload())  # the device is not there yet
    journal, hand = Journal(tmp_path / "commands.sqlite", NOW_NS), Hand()
    hand.gate.clear()
    client, operator = device(port, journal, hand)
    until(lambda: controller.state() == "executing", "its beginning")
    client.close()  # the connection is lost, and then the effect ends: nobody hears of it
    hand.gate.set()
    until(lambda: (entry := journal.find("a1")) and entry.final, "its end")
    assert operator.close(60)
    assert controller.state() == "executing"

    client, operator = device(port, journal, hand)  # what is retained is our own old answer
    until(lambda: controller.state() == "successful", "the correction")
    controller.say(TOPIC, payload())  # the same again
    until(lambda: operator.counters.get("repeated"), "its repetition")
    until(lambda: controller.state() == "successful", "its answer")
    controller.say(TOPIC, b"")
    until(lambda: operator.counters.get("cleared"), "the end of it")
    assert [call[1] for call in hand.calls] == ["a1"]
    assert operator.close(60)
    client.close()
    controller.close()
    journal.close()
