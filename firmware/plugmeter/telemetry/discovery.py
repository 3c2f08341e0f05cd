"""Home Assistant: one retained message, by which the device appears there with all its entities.

It is device discovery (Home Assistant 2024.11 and later): ``<prefix>/device/<object_id>/config`` with the
device, the origin and the components. State comes from the native topics, through templates; nothing is
published twice. A template that gives ``None`` makes an entity's state unknown.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from plugmeter.telemetry.topics import Topics

DEFAULT_PREFIX: Final = "homeassistant"
ONLINE: Final = b"online"
"""What Home Assistant says on its birth topic; then the config is to be sent again."""

_ONLINE_OR_NOT: Final = "{{ 'online' if value_json.state == 'online' else 'offline' }}"


def birth_topic(prefix: str = DEFAULT_PREFIX) -> str:
    """Where Home Assistant says that it is there."""
    return f"{prefix}/status"


def config_topic(device: str, prefix: str = DEFAULT_PREFIX) -> str:
    """Where the device's config goes, retained. An empty message makes Home Assistant forget it."""
    return f"{prefix}/device/{_object_id(device)}/config"


def config(device: str, meta: Mapping[str, Any], prefix: str = DEFAULT_PREFIX) -> tuple[str, bytes]:
    """Topic and payload, of a device that says ``meta`` (the message of that name) of itself."""
    topics = Topics(device)
    identity = _object_id(device)
    payload = {
        "device": {
            "identifiers": [identity],
            "name": f"Plugmeter {device}",
            "manufacturer": "Plugmeter",
            "model": "Plugmeter",
            "sw_version": meta["version"],
            "hw_version": meta["host"].get("machine", "unknown"),
        },
        "origin": {"name": "plugmeter", "sw_version": meta["version"]},
        "state_topic": topics.summary,
        "qos": 1,
        "availability": [{"topic": topics.status, "value_template": _ONLINE_OR_NOT}],
        "components": {
            key: {"unique_id": f"{identity}_{key}", **component}
            for key, component in _components(topics).items()
        },
    }
    return config_topic(device, prefix), msgspec.json.encode(payload)


def _object_id(device: str) -> str:
    return f"plugmeter_{device}"


def _components(topics: Topics) -> dict[str, dict[str, Any]]:
    return {
        # These two must tell of a device that is not available, so they always are.
        "connection": {
            "platform": "binary_sensor",
            "name": "Connection",
            "device_class": "connectivity",
            "entity_category": "diagnostic",
            "state_topic": topics.status,
            "value_template": "{{ 'ON' if value_json.state == 'online' else 'OFF' }}",
            "availability": [],
        },
        "state": {
            "platform": "sensor",
            "name": "State",
            "device_class": "enum",
            "options": ["online", "stopped", "lost"],
            "entity_category": "diagnostic",
            "state_topic": topics.status,
            "value_template": "{{ value_json.state }}",
            "availability": [],
        },
        "loss_rate": {
            "platform": "sensor",
            "name": "Loss rate",
            "unit_of_measurement": "%",
            "state_class": "measurement",
            "suggested_display_precision": 3,
            "value_template": "{{ (value_json.run.loss_rate * 100) | round(6) if value_json.run else none }}",
        },
        "expected": _run_count("Expected", "expected"),
        "late": _run_count("Late", "late"),
        "lost": _run_count("Lost", "lost"),
        "verdict": {
            "platform": "sensor",
            "name": "Verdict",
            "device_class": "enum",
            "options": ["VALID", "INVALID"],
            "value_template": "{{ value_json.run.verdict if value_json.run else none }}",
        },
        # Device class problem: ON is bad. Open (the run goes on) is unknown.
        "certificate": {
            "platform": "binary_sensor",
            "name": "Certificate",
            "device_class": "problem",
            "value_template": "{% set c = value_json.run.certificate if value_json.run else none %}"
            "{{ none if c is none else 'OFF' if c else 'ON' }}",
        },
        "backlog": {
            "platform": "sensor",
            "name": "Backlog",
            "unit_of_measurement": "records",
            "state_class": "measurement",
            "entity_category": "diagnostic",
            "value_template": "{{ value_json.outbox.pending }}",
        },
        "produced": _outbox_count("Records produced", "produced"),
        "tombstoned": _outbox_count("Records under tombstones", "tombstoned"),
        "uptime": {
            "platform": "sensor",
            "name": "Uptime",
            "device_class": "duration",
            "unit_of_measurement": "s",
            "state_class": "measurement",
            "entity_category": "diagnostic",
            "suggested_display_precision": 0,
            "value_template": "{{ value_json.health.uptime_s }}",
        },
        "memory": {
            "platform": "sensor",
            "name": "Memory",
            "device_class": "data_size",
            "unit_of_measurement": "B",
            "state_class": "measurement",
            "entity_category": "diagnostic",
            "value_template": "{{ value_json.health.rss_bytes }}",
        },
    }


def _run_count(name: str, key: str) -> dict[str, Any]:
    """A total of the run; it begins again with each run, which total_increasing takes for a new cycle."""
    return {
        "platform": "sensor",
        "name": name,
        "unit_of_measurement": "events",
        "state_class": "total_increasing",
        "value_template": f"{{{{ value_json.run.{key} if value_json.run else none }}}}",
    }


def _outbox_count(name: str, key: str) -> dict[str, Any]:
    return {
        "platform": "sensor",
        "name": name,
        "unit_of_measurement": "records",
        "state_class": "total_increasing",
        "entity_category": "diagnostic",
        "value_template": f"{{{{ value_json.outbox.{key} }}}}",
    }
