"""The report's JSON Schema (``report.schema.json``), and a check of a report against it.

``compare`` and ``advise`` read reports that others wrote, so they are checked before anything is
believed. fastjsonschema is pure Python, small enough for the device, and reads the keywords that our
schema uses alike in all drafts; the tests hold it against the jsonschema library.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, TypeAlias

import fastjsonschema

from plugmeter.errors import UsageError
from plugmeter.files import read_regular
from plugmeter.measure.report import SCHEMA

Report: TypeAlias = Mapping[str, Any]

_REPORT_LIMIT_BYTES = 64 * 1024 * 1024


@cache
def report_schema() -> Mapping[str, Any]:
    """The JSON Schema (draft 2020-12) of a report."""
    text = resources.files("plugmeter.reporting").joinpath("report.schema.json").read_text("utf-8")
    schema: dict[str, Any] = json.loads(text)
    return schema


@cache
def _validator() -> Callable[[object], object]:
    compiled: Callable[[object], object] = fastjsonschema.compile(
        {**report_schema(), "$schema": "http://json-schema.org/draft-07/schema#"}, use_default=False
    )
    return compiled


def fault_of(report: object) -> str | None:
    """The first thing wrong with a report, with its place; None where it follows the schema."""
    try:
        _validator()(report)
    except fastjsonschema.JsonSchemaValueException as fault:
        return _one_line(str(fault.message).replace("data", "report", 1), 160)
    return None


def read_report(path: Path) -> Report:
    """The report in a file. Raises UsageError, one line, where there is none that we understand."""
    try:
        text = read_regular(path, _REPORT_LIMIT_BYTES).decode("utf-8")
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
    if report["schema"] != SCHEMA:
        found = _one_line(str(report["schema"]))
        raise UsageError(f"{path} has schema {found!r}, this Plugmeter reads {SCHEMA!r}: measure again")
    fault = fault_of(report)
    if fault is not None:
        raise UsageError(f"{path} is not a whole report: {fault}")
    return report


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a number that JSON knows")


def _one_line(text: str, limit: int = 80) -> str:
    """Text from a file, fit for one line of a terminal: nothing unprintable, not without end."""
    return "".join(c if c.isprintable() else "?" for c in text[:limit])
