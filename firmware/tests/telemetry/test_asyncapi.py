from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from plugmeter.telemetry import asyncapi, schemas
from plugmeter.telemetry.record import RANKS
from plugmeter.telemetry.topics import KINDS, ROOT, parse

KEPT = Path(__file__).parents[2] / "docs/asyncapi.json"
OFFICIAL = Path(__file__).parent / "asyncapi/3.0.0.json.gz"
DOCUMENT = asyncapi.document()
OPERATIONS = DOCUMENT["operations"]
RETAINED = {
    "status",
    "meta",
    "summary",
    "desired",
    "reported",
    "command",
    "command_state",
    "homeAssistantConfig",
}


def resolve(reference: dict[str, str]) -> Any:
    found: Any = DOCUMENT
    for step in reference["$ref"].removeprefix("#/").split("/"):
        found = found[step]
    return resolve(found) if "$ref" in found else found


def references(part: Any) -> Iterator[dict[str, str]]:
    if isinstance(part, dict):
        if set(part) == {"$ref"}:
            yield part
        for inner in part.values():
            yield from references(inner)
    elif isinstance(part, list):
        for inner in part:
            yield from references(inner)


def message_of(operation: dict[str, Any]) -> str:
    (reference,) = operation["messages"]
    return str(reference["$ref"].rpartition("/")[2])


def payload_validator(message: dict[str, Any]) -> jsonschema.Draft7Validator:
    return jsonschema.Draft7Validator(
        {**message["payload"], "components": DOCUMENT["components"]},
        format_checker=jsonschema.Draft7Validator.FORMAT_CHECKER,
    )


def test_the_kept_document_is_current() -> None:
    assert KEPT.read_text("utf-8") == asyncapi.text(), (
        "make it anew: scripts/plugmeter check --asyncapi > firmware/docs/asyncapi.json"
    )


def test_it_follows_the_official_schema() -> None:
    official = json.loads(gzip.decompress(OFFICIAL.read_bytes()))
    validator = jsonschema.Draft7Validator(official)
    assert [error.message for error in validator.iter_errors(DOCUMENT)] == []
    assert not validator.is_valid({**DOCUMENT, "asyncapi": "2.0.0"})
    wrong = json.loads(asyncapi.text())
    wrong["operations"]["sendStatus"]["action"] = "publish"
    assert not validator.is_valid(wrong)


def test_every_reference_leads_somewhere() -> None:
    found = list(references(DOCUMENT))
    assert len(found) > 50
    for reference in found:
        assert resolve(reference)


@pytest.mark.parametrize("name", DOCUMENT["components"]["messages"])
def test_every_example_follows_its_payloads_schema(name: str) -> None:
    message = DOCUMENT["components"]["messages"][name]
    validator = payload_validator(message)
    for example in message.get("examples", []):
        assert [error.message for error in validator.iter_errors(example["payload"])] == []
    assert "examples" in message or name == "homeAssistantStatus"
    assert not validator.is_valid(None)


def test_the_batch_has_a_record_of_every_kind_and_each_is_held_to_its_own_schema() -> None:
    batch = asyncapi.example_batch()
    kinds = {event["type"].split(".")[1] for event in batch}
    assert kinds == {*RANKS, "tombstone"}
    validator = payload_validator(DOCUMENT["components"]["messages"]["records"])
    for event in batch:
        changed = {**event, "type": "plugmeter.eclipse.v1"}
        assert validator.is_valid([event])
        assert not validator.is_valid([changed])
        assert not validator.is_valid([{**event, "data": {}}])


def test_every_message_is_sent_or_received_once_and_actions_are_the_devices() -> None:
    sent = {message_of(op) for op in OPERATIONS.values() if op["action"] == "send"}
    received = {message_of(op) for op in OPERATIONS.values() if op["action"] == "receive"}
    assert sent == {
        "status",
        "meta",
        "summary",
        "records",
        "reported",
        "command_state",
        "homeAssistantConfig",
    }
    assert received == {"acks", "desired", "command", "homeAssistantStatus"}
    assert sent | received == set(DOCUMENT["components"]["messages"])
    assert len(OPERATIONS) == len(sent) + len(received)


@pytest.mark.parametrize("name", OPERATIONS)
def test_every_operation_has_its_quality_of_service(name: str) -> None:
    binding = OPERATIONS[name]["bindings"]["mqtt"]
    assert binding == {
        "qos": 0 if name == "receiveHomeAssistantStatus" else 1,
        "retain": message_of(OPERATIONS[name]) in RETAINED,
        "bindingVersion": "0.2.0",
    }


@pytest.mark.parametrize("name", DOCUMENT["channels"])
def test_every_address_names_its_parameters(name: str) -> None:
    channel = DOCUMENT["channels"][name]
    found = re.findall(r"{(\w+)}", channel["address"])
    assert set(found) == set(channel.get("parameters", {}))
    if not name.startswith("homeAssistant"):
        assert channel["address"].startswith(f"{ROOT}/{{device}}/")
        topic = channel["address"].format(device="bench", op="start-run", id="c-1")
        assert parse(topic) is not None
        assert set(channel["parameters"]) >= {"device"}


def test_every_topic_of_the_tree_is_in_it() -> None:
    addresses = {channel["address"] for channel in DOCUMENT["channels"].values()}
    assert {f"{ROOT}/{{device}}/{kind}" for kind in KINDS} < addresses
    assert f"{ROOT}/{{device}}/cmd/{{op}}/{{id}}" in addresses


def test_schemas_are_embedded_whole() -> None:
    for name in schemas.names():
        source = dict(schemas.schema(name))
        del source["$schema"], source["$id"]
        assert DOCUMENT["components"]["schemas"][name.replace("/", ".")] == source


def test_the_last_will_is_a_status() -> None:
    binding = DOCUMENT["servers"]["broker"]["bindings"]["mqtt"]
    assert binding["sessionExpiryInterval"] == 0
    assert binding["lastWill"]["topic"] == DOCUMENT["channels"]["status"]["address"]
    message = json.loads(binding["lastWill"]["message"])
    assert schemas.fault_of("status", message) is None
    assert message["state"] == "lost"
