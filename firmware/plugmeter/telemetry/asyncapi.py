"""The AsyncAPI 3.0 document of the topics, made of ``topics`` and ``schemas`` and nothing else.

Actions are the device's: it sends its status, it receives acknowledgements. The generated document is
kept in firmware/docs/asyncapi.json; ``plugmeter check --asyncapi`` prints it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final

from plugmeter.sections import Commands
from plugmeter.telemetry import discovery, envelope, schemas
from plugmeter.telemetry.record import StoredRecord, Tombstone
from plugmeter.telemetry.topics import Topics

_STREAM: Final = "6e0f8a52-3f0e-4a0b-9d0c-2b8f5f3a7c11"
_DEVICE: Final = "bench-3"
_TIME_NS: Final = 1_795_255_200_000_000_000  # 2026-11-21T10:00:00Z
_TOPICS: Final = Topics(_DEVICE)
_BINDING: Final = "0.2.0"
_JSON: Final = "application/json"


@dataclass(frozen=True, slots=True)
class _Channel:
    name: str
    topic: str
    """Of the device that stands for all."""
    description: str
    sends: tuple[str, ...] = ()
    """Messages from the device."""
    receives: tuple[str, ...] = ()
    retain: bool = True
    qos: int = 1

    @property
    def address(self) -> str:
        return self.topic.replace(_DEVICE, "{device}")

    @property
    def parameters(self) -> dict[str, Any]:
        return {name: _PARAMETERS[name] for name in _PARAMETERS if f"{{{name}}}" in self.address}


_PARAMETERS: Final[dict[str, dict[str, Any]]] = {
    "device": {
        "description": "The device's name: a to z, 0 to 9, _ and -, at most 63 (daemon.device).",
        "examples": [_DEVICE],
    },
    "op": {"description": "The operation.", "enum": list(Commands().accept)},
    "id": {"description": "The command's id; one id has one effect.", "examples": ["c-0001"]},
    "prefix": {
        "description": "Home Assistant's discovery prefix (mqtt.discovery_prefix).",
        "default": discovery.DEFAULT_PREFIX,
    },
}

_CHANNELS: Final = (
    _Channel(
        "status",
        _TOPICS.status,
        "Birth, death on purpose, and the last will that the broker publishes when the connection breaks.",
        sends=("status",),
    ),
    _Channel("meta", _TOPICS.meta, "What the device is.", sends=("meta",)),
    _Channel("summary", _TOPICS.summary, "How it is doing, at most every 5 s.", sends=("summary",)),
    _Channel(
        "records",
        _TOPICS.records,
        "Records and tombstones, at least once each, in batches. Sent again until they are acknowledged.",
        sends=("records",),
        retain=False,
    ),
    _Channel(
        "acks",
        _TOPICS.acks,
        "What a controller has committed. Only this makes the device delete records: PUBACK does not.",
        receives=("acks",),
        retain=False,
    ),
    _Channel("desired", _TOPICS.desired, "The configuration wanted.", receives=("desired",)),
    _Channel("reported", _TOPICS.reported, "The configuration in effect.", sends=("reported",)),
    _Channel(
        "command",
        _TOPICS.command("{op}", "{id}"),
        "A command, and on the same topic its state. An empty message clears it.",
        sends=("command_state",),
        receives=("command",),
    ),
    _Channel(
        "homeAssistantConfig",
        discovery.config_topic(_DEVICE, "{prefix}"),
        "Home Assistant's discovery of the device.",
        sends=("homeAssistantConfig",),
    ),
    _Channel(
        "homeAssistantStatus",
        discovery.birth_topic("{prefix}"),
        "Home Assistant came (online) or went; the device answers online with its config.",
        receives=("homeAssistantStatus",),
        retain=False,  # Home Assistant's defaults
        qos=0,
    ),
)


def document() -> dict[str, Any]:
    """The whole document, fit for JSON."""
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Plugmeter",
            "version": "1.0.0",
            "description": "What a Plugmeter device says and hears over MQTT 5. Everything is JSON, QoS 1."
            " Payloads may hold more keys than their schemas know.",
            "license": {"name": "MIT"},
        },
        "defaultContentType": _JSON,
        "servers": {
            "broker": {
                "host": "broker.example:8883",
                "protocol": "secure-mqtt",
                "protocolVersion": "5.0",
                "description": "Any MQTT 5 broker; mqtt.host and mqtt.port name it.",
                "bindings": {"mqtt": _server_binding()},
            }
        },
        "channels": {channel.name: _channel(channel) for channel in _CHANNELS},
        "operations": _operations(),
        "components": {"messages": _messages(), "schemas": _schemas()},
    }


def text() -> str:
    """The document as it is printed and kept."""
    return json.dumps(document(), indent=2, ensure_ascii=False) + "\n"


def _server_binding() -> dict[str, Any]:
    lost = schemas.schema("status")["examples"][-1]
    return {
        "cleanSession": True,
        "sessionExpiryInterval": 0,
        "lastWill": {
            "topic": _CHANNELS[0].address,
            "qos": 1,
            "message": json.dumps(lost),
            "retain": True,
        },
        "bindingVersion": _BINDING,
    }


def _channel(channel: _Channel) -> dict[str, Any]:
    found: dict[str, Any] = {
        "address": channel.address,
        "description": channel.description,
        "messages": {
            name: {"$ref": f"#/components/messages/{name}"} for name in channel.sends + channel.receives
        },
    }
    if channel.parameters:
        found["parameters"] = channel.parameters
    return found


def _operations() -> dict[str, Any]:
    found = {}
    for channel in _CHANNELS:
        for action, names in (("send", channel.sends), ("receive", channel.receives)):
            for name in names:
                words = "".join(word[0].upper() + word[1:] for word in name.split("_"))
                found[f"{action}{words}"] = {
                    "action": action,
                    "channel": {"$ref": f"#/channels/{channel.name}"},
                    "messages": [{"$ref": f"#/channels/{channel.name}/messages/{name}"}],
                    "bindings": {
                        "mqtt": {
                            "qos": channel.qos,
                            "retain": channel.retain,
                            "bindingVersion": _BINDING,
                        }
                    },
                }
    return found


def _messages() -> dict[str, Any]:
    found = {name: _message(name) for name in schemas.MESSAGES}
    found["records"] = {
        "title": "Records",
        "contentType": envelope.CONTENT_TYPE,
        "payload": {"$ref": "#/components/schemas/batch"},
        "examples": [{"payload": example_batch()}],
    }
    topic, payload = discovery.config(_DEVICE, schemas.schema("meta")["examples"][0])
    found["homeAssistantConfig"] = {
        "title": "Home Assistant device discovery",
        "summary": "By Home Assistant's own rules (MQTT device discovery).",
        "contentType": _JSON,
        "payload": {"type": "object", "required": ["device", "origin", "components"]},
        "examples": [{"summary": topic, "payload": json.loads(payload)}],
    }
    found["homeAssistantStatus"] = {
        "title": "Home Assistant's birth and last will",
        "contentType": "text/plain",
        "payload": {"type": "string", "enum": ["online", "offline"]},
    }
    return found


def _message(name: str) -> dict[str, Any]:
    schema = schemas.schema(name)
    return {
        "title": schema["title"],
        "summary": schema["description"],
        "contentType": _JSON,
        "payload": {"$ref": f"#/components/schemas/{name}"},
        "examples": [{"payload": example} for example in schema["examples"]],
    }


def _schemas() -> dict[str, Any]:
    found = {name.replace("/", "."): _embedded(name) for name in schemas.names()}
    for kind in schemas.RECORDS:
        found[f"events.{kind}"] = {
            "allOf": [
                {"$ref": "#/components/schemas/event"},
                {
                    "properties": {
                        "type": {"const": f"plugmeter.{kind}.v1"},
                        "data": {"$ref": f"#/components/schemas/records.{kind}"},
                    }
                },
            ]
        }
    found["batch"] = {
        "title": "Batch",
        "description": "A CloudEvents batch. A newer device may send further kinds of records.",
        "type": "array",
        "maxItems": envelope.BATCH_LIMIT_EVENTS,
        "items": {"oneOf": [{"$ref": f"#/components/schemas/events.{kind}"} for kind in schemas.RECORDS]},
    }
    return found


def _embedded(name: str) -> dict[str, Any]:
    """A schema as part of the document, where it has no name and no draft of its own."""
    return {key: value for key, value in schemas.schema(name).items() if key not in ("$schema", "$id")}


def example_batch() -> list[Any]:
    """A batch with a record of every kind and a tombstone, as the device encodes it."""
    records = [
        StoredRecord(
            seq, kind, json.dumps(schemas.schema(f"records/{kind}")["examples"][0]).encode(), _TIME_NS
        )
        for seq, kind in enumerate(sorted(set(schemas.RECORDS) - {envelope.TOMBSTONE}), start=1)
    ]
    tombstone = Tombstone(first=1200, last=1399, rank=0, reason="full", time_ns=_TIME_NS)
    batch: list[Any] = json.loads(envelope.batch(_STREAM, _DEVICE, records, [tombstone]))
    return batch
