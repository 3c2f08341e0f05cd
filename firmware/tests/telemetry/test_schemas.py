from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping
from importlib import resources
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugmeter import config
from plugmeter.measure.stages import Stage
from plugmeter.recording import TYPES, encode
from plugmeter.records import Edge, RunEnd, Uevent
from plugmeter.telemetry import schemas
from plugmeter.telemetry.record import RANKS

NAMES = schemas.names()


def official(name: str) -> jsonschema.Draft7Validator:
    return jsonschema.Draft7Validator(
        schemas.schema(name), format_checker=jsonschema.Draft7Validator.FORMAT_CHECKER
    )


def parts(schema: Any) -> Iterator[Mapping[str, Any]]:
    """The schema and all schemas in it."""
    yield schema
    for key in ("items", "additionalProperties", "if", "then", "else"):
        inner = schema.get(key)
        for one in inner if isinstance(inner, list) else [inner]:
            if isinstance(one, dict):
                yield from parts(one)
    for one in schema.get("properties", {}).values():
        yield from parts(one)


def test_there_is_a_file_for_each_name_and_no_other() -> None:
    folder = resources.files("plugmeter.telemetry").joinpath("schema")
    files = {file.name for file in folder.iterdir() if file.name.endswith(".json")}
    files |= {f"records/{file.name}" for file in folder.joinpath("records").iterdir()}
    assert files == {f"{name}.json" for name in NAMES}
    assert set(RANKS) <= set(schemas.RECORDS)


@pytest.mark.parametrize("name", ["", "verdict", "records/no", "../acks", "records/../acks"])
def test_a_name_that_is_none(name: str) -> None:
    with pytest.raises(KeyError):
        schemas.schema(name)


@pytest.mark.parametrize("name", NAMES)
def test_each_is_a_schema_that_names_itself(name: str) -> None:
    schema = schemas.schema(name)
    jsonschema.Draft7Validator.check_schema(schema)
    assert schema["$id"] == f"urn:plugmeter:v1:{name.replace('/', ':')}"
    assert schema["title"]
    assert schema["description"]
    assert schema["examples"]


@pytest.mark.parametrize("name", NAMES)
def test_everything_is_bounded(name: str) -> None:
    for part in parts(schemas.schema(name)):
        kinds = part.get("type", ())
        kinds = {kinds} if isinstance(kinds, str) else set(kinds)
        assert "string" not in kinds or "maxLength" in part, part
        assert "array" not in kinds or "maxItems" in part, part
        assert "object" not in kinds or "maxProperties" in part, part
        if part.get("type") in ("integer", "number"):  # not where a configuration's value may be anything
            assert "minimum" in part, part
            assert "maximum" in part, part
        assert kinds or {"enum", "const", "if", "required", "properties"} & set(part), part


@pytest.mark.parametrize("name", NAMES)
def test_further_keys_pass_but_not_to_the_device(name: str) -> None:
    for example in schemas.schema(name)["examples"]:
        fault = schemas.fault_of(name, {**example, "a_newer_key": [1]})
        assert (fault is not None) == (name in ("command", "desired"))


@pytest.mark.parametrize("ports", ["", '[ports."1-1.1"]\nsense_gpio = 17\nswitch_gpio = 4\n'])
def test_any_configuration_can_be_reported(ports: str) -> None:
    described = config.describe(config.parse(ports, "test"))
    message = {"id": None, "state": "in_effect", "reason": None, "config": described}
    assert schemas.decode("reported", json.dumps(message).encode())["config"] == json.loads(
        json.dumps(described)
    )


@pytest.mark.parametrize("name", NAMES)
def test_examples_are_good_by_both_libraries(name: str) -> None:
    for example in schemas.schema(name)["examples"]:
        assert schemas.fault_of(name, example) is None
        assert official(name).is_valid(example)


WRONG: tuple[Any, ...] = ({}, [], "\0" * 70_000, -(2**70), 2**70, 1.5, None, True, [[]], {"\n": {}})


@pytest.mark.parametrize("name", NAMES)
def test_every_key_of_the_examples_must_have_its_type(name: str) -> None:
    """Both libraries agree on each single change, and something wrong is found in most."""
    refused = 0
    for example in schemas.schema(name)["examples"]:
        for key in example:
            for wrong in WRONG:
                changed = {**copy.deepcopy(example), key: wrong}
                fault = schemas.fault_of(name, changed)
                assert (fault is None) == official(name).is_valid(changed), (key, wrong)
                assert fault is None or (fault.isprintable() and len(fault) <= 160)
                refused += fault is not None
        for key in schemas.schema(name).get("required", ()):
            assert schemas.fault_of(name, {k: v for k, v in example.items() if k != key}) is not None
    assert refused > 3


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@given(st.sampled_from(NAMES), st.data())
def test_faults_are_one_line_whatever_the_value(name: str, data: st.DataObject) -> None:
    keys = st.sampled_from([*schemas.schema(name).get("properties", {}), "signed", "op"])
    value = data.draw(JSON | st.dictionaries(keys, JSON, max_size=6))
    fault = schemas.fault_of(name, value)
    assert fault is None or fault.isprintable()


def test_a_fault_names_its_place() -> None:
    assert schemas.fault_of("acks", []) == "acks must be object"
    assert schemas.record_fault("gap", {}) is not None
    assert schemas.record_fault("of-a-newer-device", {}) is None
    example = schemas.schema("records/verdict")["examples"][0]
    assert (
        schemas.record_fault("verdict", {**example, "enumerated": 1}) == "verdict.enumerated must be boolean"
    )


def test_decode_says_what_is_wrong() -> None:
    status = schemas.schema("status")["examples"][0]
    assert schemas.decode("status", json.dumps(status).encode()) == status
    with pytest.raises(ValueError, match=r"^status must contain"):
        schemas.decode("status", b"{}")
    with pytest.raises(ValueError, match=r"^it is too large: 300000 bytes, at most 262144"):
        schemas.decode("status", b" " * 300_000)
    with pytest.raises(ValueError, match="at most 10"):
        schemas.decode("status", json.dumps(status).encode(), 10)


@pytest.mark.parametrize(
    "change",
    [
        {"state": "accepted"},
        {"op": "Start Run"},
        {"id": "a.b"},
        {"unknown": 1},
        {"op": "x" * 33},
        {"id": "../../etc"},
        {"id": ""},
        {"device": "a/b"},
        {"expires": "tomorrow"},
        {"expires": 5},
        {"arguments": []},
        {"arguments": {str(n): n for n in range(101)}},
        {"signed": "{}"},
        {"signed": "{}", "signature": "short"},
        {"signed": "{}", "signature": "A" * 88},
        {"signed": 5, "signature": "A" * 86 + "=="},
    ],
)
def test_commands_that_are_none(change: dict[str, object]) -> None:
    good = schemas.schema("command")["examples"][0]
    assert schemas.fault_of("command", good) is None
    assert schemas.fault_of("command", {**good, **change}) is not None


def test_the_words_are_the_measuring_parts_own() -> None:
    stages = schemas.schema("records/verdict")["properties"]["stage"]["enum"]
    assert stages == [*Stage, None]


def test_a_recordings_lines_are_raw_records() -> None:
    inputs = (
        Edge(t_ns=1, port="1-1", rising=True, line_seqno=1),
        Uevent(2, "netlink", 3, "add", "/devices/x", "usb"),
        RunEnd(t_ns=5),
        9,
    )
    lines = [json.loads(encode(item)) for item in inputs]
    assert {line[0] for line in lines} <= set(TYPES)
    assert schemas.record_fault("raw", {"run": "r", "inputs": lines}) is None
    assert schemas.record_fault("raw", {"run": "r", "inputs": []}) is not None
    assert schemas.record_fault("raw", {"run": "r", "inputs": lines * 251}) is not None
