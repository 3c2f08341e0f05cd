"""The schema holds for every sample; what the device checks with judges as the jsonschema library does."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plugmeter.errors import UsageError
from plugmeter.reporting.schema import fault_of, read_report, report_schema
from tests.reporting import samples

LIBRARY = jsonschema.Draft202012Validator(report_schema())
SMALL = samples.report(40, {"socket_queue": 3, "udevd": 1})


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(report_schema())


@pytest.mark.parametrize("name", samples.ALL)
def test_every_sample_follows_it(name: str) -> None:
    report = samples.ALL[name]()
    assert [error.message for error in LIBRARY.iter_errors(report)] == []
    assert fault_of(report) is None


@pytest.mark.parametrize("name", samples.ALL)
def test_the_samples_add_up(name: str) -> None:
    report = samples.ALL[name]()
    lost = sum(report["lost"].values())
    assert report["expected"] == report["matched"] + report["late"] + lost
    assert report["captured"] == report["matched"] + report["late"] == sum(report["timeline"]["captured"])
    assert report["expected"] == sum(report["timeline"]["expected"])
    assert sum(port["lost"] for port in report["ports"].values()) == lost == len(report["losses"])


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path] if path else []
    if isinstance(value, dict):
        for key, item in value.items():
            found += _places(item, (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value[:2]):
            found += _places(item, (*path, index))
    return found


PLACES = _places(SMALL)
JSON = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 10**20),
    st.floats(allow_nan=False),
    st.text(max_size=4),
    st.lists(st.integers(), max_size=3),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)


@settings(deadline=None, max_examples=300)
@given(st.sampled_from(PLACES), st.sampled_from(("put", "drop", "add")), JSON)
def test_it_judges_as_the_library_does(place: tuple[Any, ...], what: str, value: Any) -> None:
    report = copy.deepcopy(SMALL)
    parent: Any = report
    for step in place[:-1]:
        parent = parent[step]
    if what == "put":
        parent[place[-1]] = value
    elif what == "drop":
        del parent[place[-1]]
    elif isinstance(parent[place[-1]], dict):
        parent[place[-1]]["a key of nobody's"] = value
    assert (fault_of(report) is None) == LIBRARY.is_valid(report)


def test_a_fault_names_its_place() -> None:
    report = samples.clean()
    del report["latency_us"]["uevent_to_udev"]["p99"]
    assert "report.latency_us.uevent_to_udev must contain" in str(fault_of(report))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"{", "is not JSON"),
        (b"\xff\xfe", "is not a report"),
        (b"[1]", "is not a report"),
        (b"{}", "plugmeter measure --json"),
        (b'{"schema": "plugmeter-report/2"}', "plugmeter-report/1"),
        (b'{"schema": "plugmeter-report/1"}', "report must contain"),
        (b'{"schema": NaN}', "NaN"),
        (b'{"schema": "\\u001b[2J\\n"}', "?[2J?"),
        (b"[" * 100_000, "is not a report"),
        (b"", "is not JSON"),
    ],
)
def test_what_is_no_report_gives_one_line(tmp_path: Any, text: bytes, says: str) -> None:
    path = tmp_path / "r.json"
    path.write_bytes(text)
    with pytest.raises(UsageError) as caught:
        read_report(path)
    line = str(caught.value)
    assert says in line
    assert line.isprintable()


def test_missing_files_and_directories_give_one_line(tmp_path: Any) -> None:
    for path in (tmp_path / "none.json", tmp_path):
        with pytest.raises(UsageError, match="cannot read the report"):
            read_report(path)


def test_a_report_is_read_back_whole(tmp_path: Any) -> None:
    path = tmp_path / "r.json"
    path.write_text(json.dumps(SMALL))
    assert read_report(path) == SMALL


def test_numbers_beyond_all_measure_are_refused(tmp_path: Any) -> None:
    path = tmp_path / "r.json"
    path.write_text(json.dumps(SMALL).replace('"duration_s": 2.0', '"duration_s": 1e999'))
    with pytest.raises(UsageError, match="duration_s must be smaller"):
        read_report(path)


def test_what_has_no_end_is_refused(tmp_path: Any) -> None:
    with pytest.raises(UsageError, match="no regular file"):
        read_report(Path("/dev/zero"))
    path = tmp_path / "r.json"
    with open(path, "wb") as file:
        file.truncate(1 << 40)  # a hole
    with pytest.raises(UsageError, match="too large"):
        read_report(path)
