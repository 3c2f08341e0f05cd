"""The config as Home Assistant reads it. Which keys and words it knows is from its documentation (MQTT
integration, "Device discovery payload"; sensor.mqtt; binary_sensor.mqtt; their device classes)."""

from __future__ import annotations

import json
import re
from typing import Any

import jinja2
import pytest

from plugmeter.telemetry import discovery, schemas
from plugmeter.telemetry.topics import Topics

META = schemas.schema("meta")["examples"][0]
RUNNING, FRESH = schemas.schema("summary")["examples"]
TOPICS = Topics("bench-3")
TOPIC, PAYLOAD = discovery.config("bench-3", META)
CONFIG = json.loads(PAYLOAD)
COMPONENTS = CONFIG["components"]
SENSOR_KEYS = {
    "platform", "unique_id", "name", "device_class", "entity_category", "state_topic", "value_template",
    "availability", "enabled_by_default", "icon",
}  # fmt: skip
KEYS = {
    "sensor": SENSOR_KEYS
    | {"unit_of_measurement", "state_class", "options", "suggested_display_precision", "expire_after"},
    "binary_sensor": SENSOR_KEYS | {"payload_on", "payload_off", "expire_after", "off_delay"},
}
UNITS = {"duration": {"d", "h", "min", "s", "ms", "µs"}, "data_size": {"bit", "B", "kB", "MB", "KiB", "MiB"}}
CLASSES = {"sensor": {"enum", *UNITS}, "binary_sensor": {"connectivity", "problem", "running"}}


def rendered(template: str, message: dict[str, Any]) -> str:
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined)
    return environment.from_string(template).render(value=json.dumps(message), value_json=message)


def state(component: str, summary: dict[str, Any]) -> str:
    assert schemas.fault_of("summary", summary) is None
    return rendered(COMPONENTS[component]["value_template"], summary)


def run(**change: object) -> dict[str, Any]:
    return {**RUNNING, "run": {**RUNNING["run"], **change}}


def test_the_topic() -> None:
    assert TOPIC == "homeassistant/device/plugmeter_bench-3/config"
    assert discovery.config("bench-3", META, "ha/two")[0] == "ha/two/device/plugmeter_bench-3/config"
    assert discovery.birth_topic() == "homeassistant/status"
    object_id = TOPIC.split("/")[2]
    assert re.fullmatch(r"[a-zA-Z0-9_-]+", object_id)


def test_the_keys_are_home_assistants() -> None:
    assert set(CONFIG) == {"device", "origin", "state_topic", "qos", "availability", "components"}
    assert set(CONFIG["device"]) <= {
        "identifiers", "connections", "name", "manufacturer", "model", "model_id", "hw_version", "sw_version",
        "serial_number", "suggested_area", "via_device", "configuration_url",
    }  # fmt: skip
    assert set(CONFIG["origin"]) <= {"name", "sw_version", "support_url"}
    for availability in CONFIG["availability"]:
        assert set(availability) <= {"topic", "value_template", "payload_available", "payload_not_available"}
    assert CONFIG["device"]["identifiers"] == ["plugmeter_bench-3"]
    assert CONFIG["device"]["sw_version"] == META["version"]


@pytest.mark.parametrize("key", COMPONENTS)
def test_a_component(key: str) -> None:
    component = COMPONENTS[key]
    assert set(component) <= KEYS[component["platform"]]
    assert component["unique_id"] == f"plugmeter_bench-3_{key}"
    assert component.get("entity_category", "diagnostic") == "diagnostic"
    assert component.get("state_class", "measurement") in {"measurement", "total", "total_increasing"}
    device_class = component.get("device_class")
    assert device_class is None or device_class in CLASSES[component["platform"]]
    if device_class in UNITS:
        assert component["unit_of_measurement"] in UNITS[device_class]
    if device_class == "enum":
        assert component["options"]
        assert not {"state_class", "unit_of_measurement"} & set(component)
    if "state_class" in component:
        float(state(key, RUNNING))


def test_names_and_identities_are_unique() -> None:
    assert len({component["unique_id"] for component in COMPONENTS.values()}) == len(COMPONENTS)
    assert len({component["name"] for component in COMPONENTS.values()}) == len(COMPONENTS)


@pytest.mark.parametrize(
    ("key", "running", "fresh"),
    [
        ("loss_rate", "0.25", "None"),
        ("expected", "400", "None"),
        ("late", "1", "None"),
        ("lost", "1", "None"),
        ("verdict", "None", "None"),
        ("certificate", "None", "None"),
        ("backlog", "21", "0"),
        ("produced", "4711", "0"),
        ("tombstoned", "0", "0"),
        ("uptime", "301.5", "1"),
        ("memory", "41943040", "31457280"),
    ],
)
def test_states_from_a_summary(key: str, running: str, fresh: str) -> None:
    assert COMPONENTS[key].get("state_topic", CONFIG["state_topic"]) == TOPICS.summary
    assert (state(key, RUNNING), state(key, FRESH)) == (running, fresh)


def test_every_component_is_looked_at() -> None:
    assert set(COMPONENTS) == {
        "connection", "state", "loss_rate", "expected", "late", "lost", "verdict", "certificate", "backlog",
        "produced", "tombstoned", "uptime", "memory",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("certificate", "verdict", "problem"),
    [(True, "VALID", "OFF"), (False, "INVALID", "ON"), (None, None, "None")],
)
def test_a_run_without_a_certificate_is_a_problem(
    certificate: bool | None, verdict: str | None, problem: str
) -> None:
    summary = run(certificate=certificate, verdict=verdict)
    assert state("certificate", summary) == problem
    assert state("verdict", summary) in {*COMPONENTS["verdict"]["options"], "None"}
    assert state("verdict", summary) == str(verdict)


def test_a_small_loss_rate_is_no_zero() -> None:
    assert state("loss_rate", run(loss_rate=0.00001)) == "0.001"
    assert state("loss_rate", run(loss_rate=0)) == "0"
    assert state("loss_rate", run(loss_rate=1.0)) == "100.0"


@pytest.mark.parametrize(
    ("status", "available", "connected"),
    [("online", "online", "ON"), ("stopped", "offline", "OFF"), ("lost", "offline", "OFF")],
)
def test_who_is_there(status: str, available: str, connected: str) -> None:
    message = {**schemas.schema("status")["examples"][0], "state": status}
    assert schemas.fault_of("status", message) is None
    (availability,) = CONFIG["availability"]
    assert availability["topic"] == TOPICS.status
    assert rendered(availability["value_template"], message) == available
    for key, value in (("connection", connected), ("state", status)):
        component = COMPONENTS[key]
        assert component["state_topic"] == TOPICS.status
        assert component["availability"] == []  # they tell of a device that is away
        assert rendered(component["value_template"], message) == value
    assert status in COMPONENTS["state"]["options"]


def test_it_is_a_small_message() -> None:
    assert len(PAYLOAD) < 8_192
