from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugmeter.lifecycle.health import (
    DRAINS_KEPT,
    ERRORS_KEPT,
    FILE_NAME,
    Drain,
    HealthSnapshot,
    LastErrors,
    LogLine,
    read_health,
    with_drain,
    write_health,
)

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
WHOLE = st.integers(0, 2**62)
TIME_S = st.floats(0, 1e9)
SNAPSHOTS = st.builds(
    HealthSnapshot,
    time_ns=WHOLE,
    version=TEXT,
    device=TEXT,
    stage=TEXT,
    reason=TEXT,
    uptime_s=TIME_S,
    rss_bytes=WHOLE,
    peak_rss_bytes=WHOLE,
    threads=WHOLE,
    descriptors=WHOLE,
    backlog=WHOLE,
    account=st.dictionaries(TEXT, WHOLE | TEXT, max_size=4),
    findings=st.lists(TEXT, max_size=3).map(tuple),
    last_errors=st.lists(st.builds(LogLine, WHOLE, TEXT, TEXT, TEXT), max_size=ERRORS_KEPT).map(tuple),
    drains=st.lists(st.builds(Drain, WHOLE, TEXT, TIME_S, TIME_S, WHOLE), max_size=DRAINS_KEPT).map(tuple),
    drain_counts=st.dictionaries(TEXT, WHOLE, max_size=4),
)


@given(SNAPSHOTS)
def test_what_is_written_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, snapshot: HealthSnapshot
) -> None:
    directory = tmp_path_factory.mktemp("state")
    write_health(directory, snapshot)
    assert read_health(directory) == (snapshot, "")
    assert [each.name for each in directory.iterdir()] == [FILE_NAME], "nothing half-written beside it"


@given(
    st.binary(max_size=200)
    | st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(list(HealthSnapshot().document())) | TEXT, inner, max_size=6)
        ),
        max_leaves=12,
    ).map(lambda value: json.dumps(value).encode())
)
def test_whatever_is_in_the_file_something_is_said_of_it(
    tmp_path_factory: pytest.TempPathFactory, raw: bytes
) -> None:
    directory = tmp_path_factory.mktemp("state")
    (directory / FILE_NAME).write_bytes(raw)
    snapshot, why = read_health(directory)
    assert (snapshot is None) == bool(why)
    if snapshot is not None:
        write_health(directory, snapshot)  # and it is a snapshot like any other
        assert read_health(directory) == (snapshot, "")


def test_another_versions_file_gives_what_fits(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_text(
        '{"stage": "stopped", "backlog": "many", "uptime_s": 7, "shoe_size": 44, "threads": true,'
        ' "account": {"produced": 3, "odd": [1]}, "drains": [{"left": 5, "took_s": null}, 7], "findings": 1}'
    )
    snapshot, _ = read_health(tmp_path)
    assert snapshot == HealthSnapshot(
        stage="stopped", uptime_s=7.0, account={"produced": 3}, drains=(Drain(left=5),)
    )


@pytest.mark.parametrize(
    ("prepare", "why"),
    [
        (lambda file: None, "there is no "),
        (lambda file: file.mkdir(), "cannot be read: Is a directory"),
        (lambda file: file.write_bytes(b"[" * 100_000), "is damaged: no JSON"),
        (lambda file: file.write_bytes(b"[]"), "is damaged: no JSON object"),
        (lambda file: file.write_bytes(b" " * (2 << 20)), "cannot be read: it is too large"),
    ],
)
def test_a_file_that_is_none(tmp_path: Path, prepare: object, why: str) -> None:
    prepare(tmp_path / FILE_NAME)  # type: ignore[operator]  # a table of lambdas
    snapshot, said = read_health(tmp_path)
    assert snapshot is None
    assert why in said


def test_the_last_drains_are_remembered() -> None:
    history: tuple[Drain, ...] = ()
    for number in range(DRAINS_KEPT + 3):
        history = with_drain(history, Drain(time_ns=number))
    assert [each.time_ns for each in history] == list(range(3, DRAINS_KEPT + 3))


@pytest.fixture
def log() -> logging.Logger:
    made = logging.Logger("plugmeter.test")  # of no tree: what pytest listens to is left alone
    made.setLevel(logging.DEBUG)
    return made


def test_the_last_warnings_are_kept_and_all_are_counted(log: logging.Logger) -> None:
    errors = LastErrors()
    log.addHandler(errors)
    log.info("not of interest")
    for number in range(30):
        log.warning("number %d\nwith a second line", number)
    log.error("long %s", "x" * 10_000)
    lines = errors.lines()
    assert len(lines) == ERRORS_KEPT
    assert lines[0].text == "number 11 with a second line"
    assert (lines[-1].level, lines[-1].logger, len(lines[-1].text)) == ("ERROR", "plugmeter.test", 500)
    assert lines[-1].text.endswith("…")
    assert errors.counts == {"WARNING": 30, "ERROR": 1}


def test_an_exception_is_named_and_a_bad_message_is_kept_as_it_stands(log: logging.Logger) -> None:
    errors = LastErrors()
    log.addHandler(errors)
    try:
        raise ValueError("the reason")
    except ValueError:
        log.exception("it failed")
    log.warning("%d apples", "no")
    assert [each.text for each in errors.lines()] == ["it failed (ValueError: the reason)", "%d apples"]
    assert errors.lines()[0].time_ns > 1_600_000_000_000_000_000
