"""The JSON Schemas of all that goes over MQTT: the files in ``schema/`` are the source of all validation.

They are draft-07, which fastjsonschema compiles and AsyncAPI 3 embeds. They are strict about types, bound
everything (lengths, numbers of items, values), and let further keys pass: a newer device may say more.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import cache
from importlib import resources
from typing import Any, Final, TypeAlias

from plugmeter.telemetry import strictjson
from plugmeter.telemetry.record import DATA_LIMIT_BYTES, RANKS

MESSAGES: Final = ("status", "meta", "summary", "acks", "desired", "reported", "command", "command_state")
"""The messages that are one JSON object each. (``records`` is a batch: see envelope; of ``event`` each.)"""
RECORDS: Final = (*RANKS, "tombstone")
"""The kinds of records. Their schemas, of an event's ``data``, are called ``records/<kind>``."""
MESSAGE_LIMIT_BYTES: Final = DATA_LIMIT_BYTES

Validator: TypeAlias = Callable[[object], str | None]
"""Says in one line what is wrong with a value; None where it follows the schema."""


def names() -> tuple[str, ...]:
    """Every schema there is."""
    return (*MESSAGES, "event", *(f"records/{kind}" for kind in RECORDS))


@cache
def schema(name: str) -> Mapping[str, Any]:
    """A JSON Schema (draft-07) by name. KeyError for a name that is not among ``names()``."""
    if name not in names():
        raise KeyError(name)
    text = (
        resources.files("plugmeter.telemetry")
        .joinpath("schema", *f"{name}.json".split("/"))
        .read_text("utf-8")
    )
    found: dict[str, Any] = json.loads(text)
    return found


@cache
def validator(name: str) -> Validator:
    """The compiled check of one schema; compiled when it is first asked for. KeyError as in ``schema``."""
    import fastjsonschema  # brings urllib and ssl along: a device that only sends does not need it

    check: Callable[[object], object] = fastjsonschema.compile(dict(schema(name)), use_default=False)

    def fault_of_value(value: object) -> str | None:
        try:
            check(value)
        except fastjsonschema.JsonSchemaValueException as fault:
            return _one_line(str(fault.message).replace("data", name.removeprefix("records/"), 1))
        return None

    return fault_of_value


def fault_of(name: str, value: object) -> str | None:
    """The first thing wrong with a value (decoded JSON) by the schema ``name``, in one line; or None."""
    return validator(name)(value)


def record_fault(kind: str, data: object) -> str | None:
    """The first thing wrong with a record's data (decoded), in one line; None also for an unknown kind."""
    return fault_of(f"records/{kind}", data) if kind in RECORDS else None


def decode(name: str, payload: bytes, limit_bytes: int = MESSAGE_LIMIT_BYTES) -> dict[str, Any]:
    """A message from a stranger: size, JSON, depth, keys given twice, schema. Raises ValueError in one line.

    A whole number may be a float with nothing behind the point (JSON Schema takes 1.0 for an integer):
    use int() on it.
    """
    value: dict[str, Any] = strictjson.decode(payload, limit_bytes=limit_bytes)
    fault = fault_of(name, value)
    if fault is not None:
        raise ValueError(fault)
    return value


def _one_line(text: str, limit: int = 160) -> str:
    """A fault may quote the message: nothing unprintable, not without end."""
    return "".join(c if c.isprintable() else "?" for c in text[:limit])
