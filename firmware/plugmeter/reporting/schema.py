"""The report's JSON Schema (``report.schema.json``), and a check of a report against it.

The device does not carry a schema library, and ``compare`` and ``advise`` read reports that others
wrote. So the part of draft 2020-12 that our schema uses is checked here, by a walk that stops at the
first fault and names its place. A schema that uses another keyword is refused, not half obeyed; the
tests hold this walk against the jsonschema library.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, TypeAlias

from plugmeter.errors import UsageError

SCHEMA_ID = "plugmeter-report/1"
"""What a report's key ``schema`` says."""

Report: TypeAlias = Mapping[str, Any]
Schema: TypeAlias = Mapping[str, Any]
Json: TypeAlias = Any
"""Any value that JSON has."""

_REPORT_LIMIT_BYTES = 256 * 1024 * 1024


@cache
def report_schema() -> Mapping[str, Any]:
    """The JSON Schema (draft 2020-12) of a report."""
    text = resources.files("plugmeter.reporting").joinpath("report.schema.json").read_text("utf-8")
    schema: dict[str, Any] = json.loads(text)
    return schema


def fault_of(report: object, schema: Mapping[str, Any] | None = None) -> str | None:
    """The first thing wrong with a report, as ``place: what``; None where it follows the schema."""
    root = report_schema() if schema is None else schema
    return _fault(report, root, root, "report")


def read_report(path: Path) -> Report:
    """The report in a file. Raises UsageError, one line, where there is none that we understand."""
    try:
        if path.stat().st_size > _REPORT_LIMIT_BYTES:
            raise UsageError(f"{path} is too large for a report (over {_REPORT_LIMIT_BYTES >> 20} MiB)")
        text = path.read_text("utf-8")
        report = json.loads(text, parse_constant=_refuse_constant)
    except OSError as error:
        raise UsageError(
            f"cannot read the report {path}: {(error.strerror or str(error)).lower()}"
        ) from error
    except json.JSONDecodeError as error:
        raise UsageError(f"{path} is not JSON: {error.msg} at line {error.lineno}") from error
    except (ValueError, RecursionError) as error:  # not UTF-8, NaN, numbers or nesting beyond all measure
        raise UsageError(f"{path} is not a report: {_one_line(str(error))}") from error
    if not isinstance(report, dict) or "schema" not in report:
        raise UsageError(f"{path} is not a report: write one with 'plugmeter measure --json {path}'")
    if report["schema"] != SCHEMA_ID:
        found = _one_line(str(report["schema"]))
        raise UsageError(f"{path} has schema {found!r}, this Plugmeter reads {SCHEMA_ID!r}: measure again")
    fault = fault_of(report)
    if fault is not None:
        raise UsageError(f"{path} is not a whole report: {fault}")
    return report


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a number that JSON knows")


def _one_line(text: str, limit: int = 80) -> str:
    """Text from a file, fit for one line of a terminal: nothing unprintable, not without end."""
    return "".join(c if c.isprintable() else "?" for c in text[:limit])


def _fault(value: Json, schema: Schema, root: Schema, place: str) -> str | None:
    for keyword, limit in schema.items():
        if keyword in _ANNOTATIONS:
            continue
        check = _CHECKS.get(keyword)
        if check is None:
            raise ValueError(f"the schema's keyword {keyword!r} is not checked here")
        fault = check(value, limit, schema, root, place)
        if fault is not None:
            return fault
    return None


_Check: TypeAlias = Callable[[Json, Json, Schema, Schema, str], str | None]
_ANNOTATIONS = frozenset({"$schema", "$id", "$defs", "title", "description", "format"})
_TYPES: dict[str, Callable[[Json], bool]] = {
    "object": lambda v: isinstance(v, dict),
    "array": lambda v: isinstance(v, list),
    "string": lambda v: isinstance(v, str),
    "boolean": lambda v: isinstance(v, bool),
    "null": lambda v: v is None,
    "number": lambda v: isinstance(v, int | float) and not isinstance(v, bool),
    # JSON Schema: 1.0 is an integer too
    "integer": lambda v: (
        not isinstance(v, bool) and (isinstance(v, int) or (isinstance(v, float) and v.is_integer()))
    ),
}


def _is_number(value: object) -> bool:
    return _TYPES["number"](value)


def _type(value: Json, limit: Json, _s: Json, _r: Json, place: str) -> str | None:
    names = [limit] if isinstance(limit, str) else limit
    return (
        None if any(_TYPES[name](value) for name in names) else f"{place} is not of type {' or '.join(names)}"
    )


def _const(value: Json, limit: Json, _s: Json, _r: Json, place: str) -> str | None:
    return None if value == limit and type(value) is type(limit) else f"{place} is not {limit!r}"


def _enum(value: Json, limit: Json, _s: Json, _r: Json, place: str) -> str | None:
    return None if value in limit else f"{place} is none of {', '.join(map(str, limit))}"


def _minimum(value: Json, limit: Json, _s: Json, _r: Json, place: str) -> str | None:
    return f"{place} is below {limit}" if _is_number(value) and value < limit else None


def _maximum(value: Json, limit: Json, _s: Json, _r: Json, place: str) -> str | None:
    return f"{place} is above {limit}" if _is_number(value) and value > limit else None


def _min_items(value: Json, limit: Json, _s: Json, _r: Json, place: str) -> str | None:
    return f"{place} has fewer than {limit} items" if isinstance(value, list) and len(value) < limit else None


def _max_items(value: Json, limit: Json, _s: Json, _r: Json, place: str) -> str | None:
    return f"{place} has more than {limit} items" if isinstance(value, list) and len(value) > limit else None


def _required(value: Json, limit: Json, _s: Json, _r: Json, place: str) -> str | None:
    if isinstance(value, dict):
        for name in limit:
            if name not in value:
                return f"{place}.{name} is missing"
    return None


def _properties(value: Json, limit: Json, _s: Json, root: Schema, place: str) -> str | None:
    if isinstance(value, dict):
        for name, schema in limit.items():
            if name in value and (fault := _fault(value[name], schema, root, f"{place}.{name}")):
                return fault
    return None


def _additional(value: Json, limit: Json, schema: Schema, root: Schema, place: str) -> str | None:
    if isinstance(value, dict):
        for name in value.keys() - schema.get("properties", {}).keys():
            shown = f"{place}.{_one_line(name)}"
            if limit is False:
                return f"{shown} is unknown"
            if isinstance(limit, dict) and (fault := _fault(value[name], limit, root, shown)):
                return fault
    return None


def _items(value: Json, limit: Json, _s: Json, root: Schema, place: str) -> str | None:
    if isinstance(value, list):
        for index, item in enumerate(value):
            if fault := _fault(item, limit, root, f"{place}[{index}]"):
                return fault
    return None


def _any_of(value: Json, limit: Json, _s: Json, root: Schema, place: str) -> str | None:
    faults = [_fault(value, schema, root, place) for schema in limit]
    return None if None in faults else faults[0]


def _ref(value: Json, limit: Json, _s: Json, root: Schema, place: str) -> str | None:
    target: Json = root
    for part in limit.removeprefix("#/").split("/"):
        target = target[part]
    return _fault(value, target, root, place)


_CHECKS: dict[str, _Check] = {
    "type": _type,
    "const": _const,
    "enum": _enum,
    "minimum": _minimum,
    "maximum": _maximum,
    "minItems": _min_items,
    "maxItems": _max_items,
    "required": _required,
    "properties": _properties,
    "additionalProperties": _additional,
    "items": _items,
    "anyOf": _any_of,
    "$ref": _ref,
}
