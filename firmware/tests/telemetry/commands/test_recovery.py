"""What a restart in the middle leaves, and kill -9 at random moments."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from plugmeter.moments import NS
from plugmeter.telemetry.commands.message import Command, State
from plugmeter.telemetry.commands.operations import Interrupted
from tests.telemetry.commands.orders import ARGUMENTS, NOW_NS, Desk, sent, until

KILLS = 20


def interrupted(desk: Desk, op: str, command_id: str, attempts: int) -> None:
    """As if the daemon had ended after so many beginnings of this command."""
    asked = Command(op, command_id, NOW_NS - NS, NOW_NS + 600 * NS, ARGUMENTS.get(op, {}), False)
    desk.journal.accept(asked, NOW_NS)
    for _ in range(attempts):
        desk.journal.begin(command_id, NOW_NS)


@pytest.mark.parametrize("attempts", [0, 1, 2])
@pytest.mark.parametrize("op", ["start-run", "stop-run", "selftest", "resync", "config", "log-level"])
def test_what_was_accepted_is_carried_on(tmp_path: Path, op: str, attempts: int) -> None:
    desk = Desk(tmp_path)
    interrupted(desk, op, "a1", attempts)
    with desk:
        desk.until_state(op, "a1", "successful")
    assert desk.states(op, "a1") == ["executing", "successful"]
    assert [call[1] for call in desk.operations.calls] == ["a1"]
    assert desk.records[-1]["attempts"] == attempts + 1


def test_after_three_beginnings_it_has_failed(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    interrupted(desk, "selftest", "a1", 3)
    with desk:
        answer = desk.until_state("selftest", "a1", "failed")
        assert answer["reason"] == "begun 3 times, and each time the daemon ended before it did"
    assert desk.operations.calls == []


@pytest.mark.parametrize("attempts", [0, 1, 3])
def test_a_restart_is_successful_once_it_has_happened(tmp_path: Path, attempts: int) -> None:
    desk = Desk(tmp_path)
    interrupted(desk, "restart", "a1", attempts)
    with desk:
        assert desk.states("restart", "a1") == ["successful"]
    assert desk.operations.calls == []


def test_after_a_restart_was_carried_out_nothing_is_until_it_happens(tmp_path: Path) -> None:
    with Desk(tmp_path) as desk:
        desk.operations.gate.clear()
        desk.say(sent("restart"))
        desk.say(sent("resync", "c1"))
        desk.until_state("resync", "c1", "accepted")
        desk.operations.gate.set()
        until(lambda: len(desk.operations.calls) == 1, "the restart")
        desk.say(sent("resync", "c2"))  # as accepted as ever: the next life carries it out
        desk.until_state("resync", "c2", "accepted")
        assert desk.states("restart", "a1") == ["accepted", "executing"]
    assert [call[0] for call in desk.operations.calls] == ["restart"]
    with Desk(tmp_path) as again:
        assert again.states("restart", "a1") == ["successful"]
        again.until_state("resync", "c2", "successful")
        assert [call[1] for call in again.operations.calls] == ["c1", "c2"]


def test_what_an_orderly_end_interrupts_has_not_failed_and_is_carried_on(tmp_path: Path) -> None:
    with Desk(tmp_path) as desk:
        desk.operations.failures["a1"] = Interrupted("the daemon is stopping")
        desk.say(sent("selftest"))
        desk.say(sent("resync", "c1"))
        desk.until_state("resync", "c1", "accepted")
        until(lambda: desk.operations.calls, "it was begun")
    assert desk.states("selftest", "a1") == ["accepted", "executing"]
    assert [call[1] for call in desk.operations.calls] == ["a1"]  # and nothing after it
    assert desk.operator.counters["defects"] == 0
    with Desk(tmp_path) as again:
        again.until_state("selftest", "a1", "successful")
        again.until_state("resync", "c1", "successful")
    assert [call[1] for call in again.operations.calls] == ["a1", "c1"]


def test_a_hardware_test_is_not_begun_twice(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    interrupted(desk, "hwtest", "a1", 1)
    interrupted(desk, "hwtest", "a2", 0)
    with desk:
        answer = desk.until_state("hwtest", "a1", "failed")
        assert answer["reason"] == "interrupted by a restart"
        desk.until_state("hwtest", "a2", "successful")
    assert [call[1] for call in desk.operations.calls] == ["a2"]


def test_what_is_not_in_the_list_any_more_is_not_carried_on(tmp_path: Path) -> None:
    desk = Desk(tmp_path, accept=("resync",))
    interrupted(desk, "selftest", "a1", 0)
    with desk:
        answer = desk.until_state("selftest", "a1", "failed")
        assert answer["reason"] == "selftest is not in commands.accept any more"
    assert desk.operations.calls == []


def test_what_never_began_and_has_expired_is_not_carried_on(tmp_path: Path) -> None:
    desk = Desk(tmp_path, now_ns=NOW_NS + 601 * NS)
    interrupted(desk, "selftest", "a1", 0)
    interrupted(desk, "selftest", "a2", 1)
    with desk:
        desk.until_state("selftest", "a1", "failed")
        desk.until_state("selftest", "a2", "successful")  # it had begun in time


def test_kills_at_random_moments(tmp_path: Path) -> None:
    """Each command that the broker has kept comes to one end, with its effect once; see killed.py."""
    run = subprocess.run(
        [sys.executable, "-m", "tests.telemetry.commands.killed", str(tmp_path), str(KILLS)],
        env={"PYTHONPATH": str(Path(__file__).parents[3])}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    said = json.loads(run.stdout)
    assert said["kills"] == KILLS
    begun = Counter((tmp_path / "begun").read_text().split("\n")[:-1])
    effects = Counter((tmp_path / "effects").read_text().split("\n")[:-1])
    database = sqlite3.connect(tmp_path / "commands.sqlite")
    entries = {
        row[0]: row[1:] for row in database.execute("SELECT id, op, state, reason, attempts FROM commands")
    }
    database.close()
    assert set(entries) == set(said["ids"])
    for command_id, (op, state, reason, attempts) in entries.items():
        name = f"{'configure' if op == 'config' else op.replace('-', '_')} {command_id}"
        assert effects[name] <= 1
        assert begun[name] <= attempts <= 3
        if op == "hwtest":
            assert attempts <= 1
        if state == "successful" and op != "restart":
            assert effects[name] == 1
        elif op != "restart":
            assert state == "failed"
            assert "interrupted" in reason or "begun 3 times" in reason
    ends: dict[str, set[str]] = {}
    for line in (tmp_path / "published").read_text().splitlines():
        message = json.loads(line)
        where, state = message["topic"], message["document"]["state"]
        if state in ("successful", "failed"):
            ends.setdefault(where, set()).add(json.dumps(message["document"], sort_keys=True))
        else:
            assert where not in ends, f"{state} after the end of {where}"
    assert all(len(documents) == 1 for documents in ends.values())
    assert said["retained"] == {command_id: entry[1] for command_id, entry in entries.items()}
    assert Counter(entry[1] for entry in entries.values())["successful"] > len(entries) / 2
    assert State.SUCCESSFUL in said["retained"].values()
