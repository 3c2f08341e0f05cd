"""``plugmeter outbox`` and its bench, as they are called."""

from __future__ import annotations

import json
import os
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from plugmeter import cli
from plugmeter.commands import bench, outbox
from plugmeter.errors import PlugmeterError, UsageError
from plugmeter.telemetry.intake import Intake
from plugmeter.telemetry.outbox import DATABASE_NAME, Limits, Outbox
from plugmeter.telemetry.owner import Owner, machine_of
from plugmeter.telemetry.record import Draft

LIMITS = Limits(67_108_864, 0, 0.01)


def call(*arguments: str) -> int:
    parser = cli.Parser(prog="plugmeter outbox")
    outbox.add_arguments(parser)
    return outbox.run(parser.parse_args(arguments))


def value(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, Any]:
    status = call(*arguments, "--json")
    return status, json.loads(capsys.readouterr().out)


def opened(state: Path) -> Outbox:
    """5 records pending, 1 of 8 acknowledged, 2 in a tombstone."""
    found = Outbox(state / DATABASE_NAME, LIMITS, lambda line: None, intake=Intake(5, 10**6))
    for number in range(7):
        found.offer(Draft("verdict", b'{"n": %d}' % number, 1_800_000_000 * 10**9))
    assert found.flush(0)
    found.acknowledge([(1, 1)])
    assert found.flush(0)
    return found


@pytest.mark.parametrize("name", ["state", "odd ?#%41 näme", os.fsdecode(b"\xff")])
def test_while_the_daemon_runs_and_after_it_and_after_a_crash(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    state = tmp_path / name
    found = opened(state)
    expected = {
        "produced": 8,
        "acknowledged": 1,
        "tombstoned": 2,
        "pending": 5,
        "counted": 5,
        "unannounced": 2,
    }
    status, said = value(capsys, "--state", str(state))
    assert status == 0
    assert said["adds_up"] is True
    assert {key: said[key] for key in expected} == expected
    assert "tombstones" not in said
    assert found.account().pending == 5
    found.close()
    before = sorted(each.name for each in state.iterdir())
    assert value(capsys, "--state", str(state))[0] == 0
    assert sorted(each.name for each in state.iterdir()) == before  # nothing is created beside it
    again = Outbox(state / DATABASE_NAME, LIMITS, lambda line: None)
    again.abandon()
    status, said = value(capsys, "--state", str(state), "--tombstones")
    assert (status, said["produced"]) == (0, 9)
    assert [(each["from"], each["to"], each["reason"], each["rank"]) for each in said["tombstones"]] == [
        (7, 8, "intake_full", "verdict")
    ]


def test_as_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    opened(tmp_path).close()
    assert call("--state", str(tmp_path), "--tombstones", "5") == 0
    text = capsys.readouterr().out
    assert "The books add up: produced = acknowledged + tombstoned + pending." in text
    assert "of which 2 it does not know of yet" in text
    assert "intake_full" in text
    assert "the oldest has number 2" in text
    assert "of no device yet" in text


def test_whose_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    machine = machine_of()
    there = Owner("bench-1", "0" * 32)
    for owner, words in (
        (there, "on another machine" if machine else ""),
        (Owner("bench-1", machine), "on this machine" if machine else ""),
    ):
        state = tmp_path / (words or "unknown")
        Outbox(state / DATABASE_NAME, LIMITS, lambda line: None, owner=owner).close()
        assert call("--state", str(state)) == 0
        text = capsys.readouterr().out
        assert "of the device bench-1" in text
        assert words in text
    _, said = value(capsys, "--state", str(state))
    assert (said["device"], said["machine"]) == ("bench-1", machine or "0" * 32)


def test_another_format_is_named(tmp_path: Path) -> None:
    opened(tmp_path).close()
    with sqlite3.connect(tmp_path / DATABASE_NAME) as connection:
        connection.execute("PRAGMA user_version = 1")
    with pytest.raises(PlugmeterError, match="has format 1 and not 2: "):
        call("--state", str(tmp_path))


@pytest.mark.parametrize(
    ("sql", "words"),
    [
        ("produced = 11", "3 records are missing"),
        ("acknowledged = 3", "2 records too many"),
    ],
)
def test_books_that_do_not_add_up(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], sql: str, words: str
) -> None:
    opened(tmp_path).close()
    with sqlite3.connect(tmp_path / DATABASE_NAME) as connection:
        connection.execute(f"UPDATE books SET {sql}")
    assert call("--state", str(tmp_path)) == 1
    text = capsys.readouterr().out
    assert "DO NOT ADD UP" in text
    assert words in text


def test_what_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    for name, sql in (("damaged", "bodies SET body = zeroblob(9)"), ("miscounted", "segments SET live = 9")):
        opened(tmp_path / name).close()
        with sqlite3.connect(tmp_path / name / DATABASE_NAME) as connection:
            connection.execute(f"UPDATE {sql}")
    (tmp_path / "garbage").mkdir()
    (tmp_path / "garbage" / DATABASE_NAME).write_bytes(bytes(range(256)) * 99)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / DATABASE_NAME).touch()
    (tmp_path / "folder" / DATABASE_NAME).mkdir(parents=True)
    for name in ("damaged", "miscounted", "garbage", "empty", "folder", "none"):
        with pytest.raises(PlugmeterError) as refused:
            call("--state", str(tmp_path / name))
        assert "\n" not in str(refused.value)
        assert refused.value.exit_status == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ("--state", ""),
        ("--state", "a", "--config", "b"),
        ("--tombstones", "0"),
        ("--tombstones", "many"),
        ("--config", "/no/such/file"),
        ("extra",),
    ],
)
def test_bad_usage(arguments: tuple[str, ...]) -> None:
    with pytest.raises(UsageError):
        call(*arguments)


def test_the_configuration_names_the_directory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    opened(tmp_path / "state").close()
    file = tmp_path / "plugmeter.toml"
    file.write_text(f'[daemon]\nstate_directory = "{tmp_path}/state"\n')
    assert value(capsys, "--config", str(file))[0] == 0


def test_the_bench(capsys: pytest.CaptureFixture[str]) -> None:
    parser = cli.Parser(prog="plugmeter bench")
    bench.add_arguments(parser)
    assert bench.run(parser.parse_args(["outbox", "--runs", "1", "--records", "3000", "--json", "-"])) == 0
    found = json.loads(capsys.readouterr().out)
    assert [each["what"] for each in found["bursts"]] == ["JSON", "random"]
    # bytes that were counted, not time: a burst of this size is one or two commits on any machine
    assert all(200 < each["burst_bytes"] < 600 for each in found["bursts"] if each["what"] == "random")
    assert found["peer"]["life_bytes"] > 4 * max(each["life_bytes"] for each in found["bursts"])
