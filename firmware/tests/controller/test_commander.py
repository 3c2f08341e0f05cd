"""Commands through a real broker to a device that answers, and those that are never sent."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from plugmeter.controller import commander
from plugmeter.controller.broker import settings_from
from plugmeter.controller.commander import Answer, Order
from plugmeter.errors import PlugmeterError, UsageError
from plugmeter.telemetry import desired
from plugmeter.telemetry.commands import message, signing
from tests.telemetry.broker import Mosquitto, eventually, free_port


@contextmanager
def answering(
    port: int, filters: str, answers: Sequence[Mapping[str, object]]
) -> Iterator[list[MQTTMessage]]:
    """A device that answers each message on ``filters`` with these documents, on the same topic (desired: on
    reported). What it heard, its own answers left out."""
    heard: list[MQTTMessage] = []
    subscribed: list[int] = []
    client = Client(CallbackAPIVersion.VERSION2, client_id="device", protocol=MQTTProtocolVersion.MQTTv5)

    def on_message(_client: Client, _userdata: object, received: MQTTMessage) -> None:
        if received.payload and b'"time"' in received.payload:
            return
        heard.append(received)
        if received.payload:
            topic = received.topic.replace("/desired", "/reported")
            for answer in answers:
                client.publish(topic, json.dumps(answer), qos=1, retain=True)

    client.on_message = on_message
    client.on_subscribe = lambda *_: subscribed.append(1)
    client.connect("127.0.0.1", port)
    client.loop_start()
    client.subscribe(filters, qos=1)
    eventually(lambda: bool(subscribed), "the device has subscribed")
    try:
        yield heard
    finally:
        client.disconnect()
        client.loop_stop()


def order(
    op: str = "selftest", command_id: str = "c-1", key: Path | None = None, **arguments: object
) -> Order:
    return commander.command("bench-1", op, command_id, arguments, valid_s=60, now_ns=time.time_ns(), key=key)


def send(port: int, what: Order, timeout_s: float = 20) -> tuple[Answer, list[str]]:
    states: list[str] = []
    answer = commander.send(
        settings_from(f"127.0.0.1:{port}"),
        what,
        client_id="commander",
        timeout_s=timeout_s,
        tell=lambda told: states.append(told.state),
    )
    return answer, states


def state(name: str, **more: object) -> Mapping[str, object]:
    return {"state": name, "op": "selftest", "id": "c-1", "time": "2026-11-21T10:00:00Z", **more}


def test_a_command_is_followed_to_its_end_and_taken_away(tmp_path: Path) -> None:
    answers = [state("accepted"), state("executing"), state("successful", result={"passed": True})]
    with (
        Mosquitto(tmp_path) as broker,
        answering(broker.port, "plugmeter/v1/bench-1/cmd/+/+", answers) as heard,
    ):
        answer, states = send(broker.port, order())
        assert states == ["accepted", "executing", "successful"]
        assert answer.document["result"] == {"passed": True}
        eventually(lambda: len(heard) == 2, "the topic is cleared")
        assert heard[1].payload == b""
        read = message.parse(heard[0].topic, bytes(heard[0].payload), device="bench-1")
        assert isinstance(read, message.Command)
        assert (read.op, read.id) == ("selftest", "c-1")


def test_a_refusal_comes_with_its_reason(tmp_path: Path) -> None:
    other = {**state("successful"), "id": "another"}
    with (
        Mosquitto(tmp_path) as broker,
        answering(broker.port, "plugmeter/v1/bench-1/cmd/+/+", [other, state("refused", reason="busy")]),
    ):
        answer, states = send(broker.port, order())
    assert (answer.state, answer.reason, states) == ("refused", "busy", ["refused"])


def test_a_device_that_says_nothing_is_told_of(tmp_path: Path) -> None:
    with (
        Mosquitto(tmp_path) as broker,
        pytest.raises(PlugmeterError, match=r"the device has not answered after 0\.5 s; the command stays"),
    ):
        send(broker.port, order(), timeout_s=0.5)


def test_a_command_that_nobody_takes_is_forgotten_by_the_broker_too(tmp_path: Path) -> None:
    with Mosquitto(tmp_path) as broker:
        with pytest.raises(PlugmeterError, match="until it expires"):
            send(broker.port, order(), timeout_s=0.5)
        with answering(broker.port, "plugmeter/v1/bench-1/cmd/+/+", []) as heard:
            eventually(lambda: len(heard) == 1, "the command is still there")
            left_s = getattr(heard[0].properties, "MessageExpiryInterval", None)
            assert left_s is not None
            assert 0 < left_s <= order().expires_s


def test_a_signed_command_is_good_for_its_key_only(tmp_path: Path) -> None:
    public, _ = signing.new_key_pair(tmp_path / "fleet.key")
    verify = signing.load_public_key(public).verify
    what = order("start-run", key=tmp_path / "fleet.key", rig="injected", sticks=5)
    read = message.parse(what.topic, what.payload, device="bench-1", verify=verify)
    assert isinstance(read, message.Command)
    assert read.signed
    assert dict(read.arguments) == {"rig": "injected", "sticks": 5}
    plain = order("start-run")
    refused = message.parse(plain.topic, plain.payload, device="bench-1", verify=verify)
    assert isinstance(refused, message.Refusal)


@pytest.mark.parametrize(
    ("op", "command_id", "arguments", "words"),
    [
        ("format-disk", "c-1", {}, "format-disk"),
        ("start-run", "c-1", {"sticks": 0}, "sticks"),
        ("start-run", "c/1", {}, "id"),
        ("selftest", "c-1", {"now": True}, "now"),
    ],
)
def test_what_no_device_would_take_is_not_sent(
    op: str, command_id: str, arguments: dict[str, object], words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        order(op, command_id, None, **arguments)


def test_a_device_whose_name_cannot_be_is_refused() -> None:
    with pytest.raises(UsageError, match="no device's name"):
        commander.command("Bench/+", "selftest", "c", {}, valid_s=1, now_ns=1)


def test_a_configuration_is_followed_until_it_is_in_effect(tmp_path: Path) -> None:
    what = commander.configuration("bench-1", "w-1", {"run": {"debounce_ms": 120}}, now_ns=time.time_ns())
    answers: list[Mapping[str, object]] = [
        {"id": "w-1", "state": "trial", "reason": None, "config": {}, "time": ""},
        {"id": "w-1", "state": "in_effect", "reason": None, "config": {}, "time": ""},
    ]
    with (
        Mosquitto(tmp_path) as broker,
        answering(broker.port, "plugmeter/v1/bench-1/desired", answers) as heard,
    ):
        answer, states = send(broker.port, what)
        assert (answer.state, states) == ("in_effect", ["trial", "in_effect"])
        assert len(heard) == 1, "it stays at the broker: it is what the device is to have"
        read = desired.parse(bytes(heard[0].payload), device="bench-1")
        assert isinstance(read, desired.Wish)
        assert read.config == {"run": {"debounce_ms": 120}}


def test_a_configuration_that_a_device_does_not_trust_is_refused_without_its_id(tmp_path: Path) -> None:
    wish = commander.configuration("bench-1", "w-1", {"run": {"debounce_ms": 120}}, now_ns=time.time_ns())
    answers = [
        state("refused", reason="unsigned: this device obeys signed messages only", id=None, config={})
    ]
    with Mosquitto(tmp_path) as broker:
        with answering(broker.port, "plugmeter/v1/bench-1/desired", answers):
            answer, _ = send(broker.port, wish)
            assert (answer.state, answer.reason) == ("refused", answers[0]["reason"])
        with pytest.raises(PlugmeterError, match="has not answered"):  # the refusal that the broker has kept
            send(broker.port, wish, timeout_s=0.5)


def test_what_may_not_be_changed_from_afar_is_not_sent() -> None:
    with pytest.raises(UsageError, match="cannot be changed from afar"):
        commander.configuration("bench-1", "w-1", {"commands": {"accept": []}}, now_ns=time.time_ns())


def test_a_broker_that_is_away_or_refuses_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(PlugmeterError, match="connection refused"):
        send(free_port(), order())
    with (
        Mosquitto(tmp_path, users={"lab": "secret"}) as broker,
        pytest.raises(PlugmeterError, match="the broker refuses: not authorized"),
    ):
        send(broker.port, order())
    with (
        Mosquitto(tmp_path, acl="topic read plugmeter/v1/#\n") as broker,
        pytest.raises(PlugmeterError, match="does not let us command: not authorized"),
    ):
        send(broker.port, order())
