"""The commander: sends one command (or a configuration) to a device and waits for what becomes of it."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from plugmeter.controller.broker import BrokerSettings
from plugmeter.errors import PlugmeterError, UsageError
from plugmeter.moments import NS, rfc3339
from plugmeter.telemetry import desired, desired_scope, schemas, strictjson
from plugmeter.telemetry.commands import message, signing
from plugmeter.telemetry.topics import Topics, is_device

FINAL_STATES: Final = frozenset({"successful", "failed", "refused"})
FINAL_CONFIGS: Final = frozenset({"in_effect", "rolled_back", "refused"})


@dataclass(frozen=True, slots=True)
class Order:
    """What is published, retained, and how the answer to it is known. ``clear``: take it away afterwards."""

    topic: str
    payload: bytes
    answer_topic: str
    final_states: frozenset[str]
    id: str
    clear: bool
    expires_s: int | None = None
    """After so long the broker forgets it, too; None for never."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A document that the device wrote in answer."""

    state: str
    reason: str | None
    document: Mapping[str, Any] = field(default_factory=dict)


def command(
    device: str,
    op: str,
    command_id: str,
    arguments: Mapping[str, Any],
    *,
    valid_s: int,
    now_ns: int,
    key: Path | None = None,
) -> Order:
    """A command, signed with ``key`` if there is one. Raises UsageError for one that no device would take."""
    _check_device(device)
    topic = f"{Topics(device).base}/cmd/{op}/{command_id}"
    document = {
        "state": "init",
        "device": device,
        "op": op,
        "id": command_id,
        "issued": rfc3339(now_ns),
        "expires": rfc3339(now_ns + valid_s * NS),
        "arguments": dict(arguments),
    }
    payload = _signed(document, key)
    read = message.parse(topic, payload, device=device)
    if isinstance(read, message.Refusal):
        raise UsageError(f"controller command: {read.detail}")
    return Order(topic, payload, topic, FINAL_STATES, command_id, clear=True, expires_s=valid_s)


def configuration(
    device: str, wish_id: str, config: Mapping[str, Any], *, now_ns: int, key: Path | None = None
) -> Order:
    """A desired configuration; it stays at the broker, since that is what the device is to have from now on.

    Raises UsageError for one that no device would take.
    """
    _check_device(device)
    topics = Topics(device)
    payload = _signed(
        {"device": device, "id": wish_id, "issued": rfc3339(now_ns), "config": dict(config)}, key
    )
    read = desired.parse(payload, device=device)
    if isinstance(read, message.Refusal):
        raise UsageError(f"controller config: {read.detail}")
    problems = desired_scope.forbidden(config)
    if problems:
        raise UsageError("\n".join(f"controller config: {line}" for line in problems))
    return Order(topics.desired, payload, topics.reported, FINAL_CONFIGS, wish_id, clear=False)


def _check_device(device: str) -> None:
    if not is_device(device):
        raise UsageError(f"{device!r} is no device's name: a to z, 0 to 9, _ and -, at most 63 of them")


def _signed(document: Mapping[str, Any], key: Path | None) -> bytes:
    text = json.dumps(document)
    if key is None:
        return text.encode()
    signature = signing.load_private_key(key).sign(text.encode())
    return json.dumps({"signed": text, "signature": base64.b64encode(signature).decode("ascii")}).encode()


def send(
    settings: BrokerSettings,
    order: Order,
    *,
    client_id: str,
    timeout_s: float,
    tell: Callable[[Answer], None],
) -> Answer:
    """Publish and wait for the final answer; each answer on the way is told. Raises PlugmeterError."""
    return _Exchange(settings, order, client_id, tell).run(timeout_s)


class _Exchange:
    """One connection, in the caller's thread."""

    def __init__(
        self, settings: BrokerSettings, order: Order, client_id: str, tell: Callable[[Answer], None]
    ) -> None:
        self._settings = settings
        self._order = order
        self._tell = tell
        self._final: Answer | None = None
        self._problem: str | None = None
        self._published = False
        self._told: list[Answer] = []
        self._client = settings.client(client_id)
        self._client.on_connect = self._on_connect
        self._client.on_subscribe = self._on_subscribe
        self._client.on_publish = self._on_publish
        self._client.on_message = self._on_message

    def run(self, timeout_s: float) -> Answer:
        settings, order = self._settings, self._order
        try:
            self._client.connect(settings.host, settings.port, settings.keepalive_s, clean_start=True)
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else error
            raise PlugmeterError(f"no connection to {settings.name}: {str(reason).lower()}") from error
        self._loop(time.monotonic() + timeout_s, lambda: self._final is not None)
        if self._final is None:
            heard = f"it is {self._told[-1].state}" if self._told else "the device has not answered"
            stays = "; the command stays at the broker until it expires" if order.clear else ""
            raise PlugmeterError(f"{order.id}: {heard} after {timeout_s:g} s{stays}")
        if order.clear:
            cleared = self._client.publish(order.topic, b"", qos=1, retain=True)
            self._loop(time.monotonic() + 5, cleared.is_published)
        self._client.disconnect()
        return self._final

    def _loop(self, deadline: float, done: Callable[[], bool]) -> None:
        while not done() and self._problem is None and time.monotonic() < deadline:
            rc = self._client.loop(min(0.2, max(0.0, deadline - time.monotonic())))
            if rc != MQTTErrorCode.MQTT_ERR_SUCCESS and self._problem is None:
                self._problem = f"the connection broke ({rc.name.removeprefix('MQTT_ERR_').lower()})"
        if self._problem is not None:
            raise PlugmeterError(f"{self._settings.name}: {self._problem}")

    def _on_connect(
        self, client: Client, userdata: object, flags: object, code: ReasonCode, properties: object
    ) -> None:
        if code.is_failure:
            self._problem = f"the broker refuses: {str(code).lower()}"
            return
        client.subscribe(self._order.answer_topic, options=SubscribeOptions(qos=1))

    def _on_subscribe(
        self, client: Client, userdata: object, mid: int, codes: list[ReasonCode], properties: object
    ) -> None:
        if any(code.is_failure for code in codes):
            self._problem = f"the broker does not let us hear the answer: {str(codes[0]).lower()}"
            return
        properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]  # paho gives it no types
        if self._order.expires_s is not None:
            properties.MessageExpiryInterval = self._order.expires_s
        client.publish(self._order.topic, self._order.payload, qos=1, retain=True, properties=properties)

    def _on_publish(
        self, client: Client, userdata: object, mid: int, code: ReasonCode, properties: object
    ) -> None:
        if code.is_failure:
            self._problem = f"the broker does not let us command: {str(code).lower()}"

    def _on_message(self, client: Client, userdata: object, received: MQTTMessage) -> None:
        # A wish that a device does not trust it refuses without repeating its id: unsigned, say. One that the
        # broker kept was about another.
        nameless = not self._order.clear and not received.retain
        answer = _answer(bytes(received.payload), self._order.id, nameless=nameless)
        if answer is None or (self._told and answer == self._told[-1]):
            return
        self._told.append(answer)
        self._tell(answer)
        if answer.state in self._order.final_states:
            self._final = answer


def _answer(payload: bytes, wanted_id: str, *, nameless: bool) -> Answer | None:
    """The device's answer in a document; None for our own command, and for what is about something else.

    ``nameless``: a refusal without an id is an answer, too.
    """
    try:
        found = strictjson.decode(payload, limit_bytes=schemas.MESSAGE_LIMIT_BYTES)
    except ValueError:
        return None
    if not isinstance(found, dict):
        return None
    state, reason = found.get("state"), found.get("reason")
    if found.get("id") != wanted_id and not (nameless and found.get("id") is None and state == "refused"):
        return None
    if not isinstance(state, str) or state == "init":
        return None
    return Answer(state, reason if isinstance(reason, str) else None, found)
