"""The conductor with toy parts, in a process of its own: all its ways to the end, and what it tells."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from plugmeter.lifecycle.audit import TRANSITION_MESSAGE_IDS
from plugmeter.lifecycle.stages import Stage
from plugmeter.lifecycle.stop import CLOSING_S

WHOLE_WAY = ["running", "terminating", "draining", "stopped"]


def goodbye(toy: Any) -> dict[str, Any]:
    (line,) = toy.said("say_goodbye")
    assert isinstance(line, dict)
    return line


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_whole_way(launch: Any, number: signal.Signals) -> None:
    toy = launch(backlog=50, per_s=1000).running()
    toy.send(number)
    assert toy.finish() == 0
    assert toy.stages() == WHOLE_WAY
    actions = [line for line in toy.lines if line["what"] not in ("transition", "signal")]
    assert [(line["what"], line["stage"]) for line in actions] == [
        ("start", "initializing"),
        ("ready", "initializing"),
        ("end_intake", "terminating"),
        ("flush_and_publish", "draining"),
        ("say_goodbye", "stopped"),
    ]
    said = goodbye(toy)
    assert (said["drained"], said["forced"], said["failed"], said["goodbye_s"]) == (True, False, False, 1.0)
    assert said["cause"] == number.name.removeprefix("SIG").lower()


def test_a_dead_broker_is_given_up_at_the_deadline(launch: Any) -> None:
    toy = launch(backlog=50, drain_s=0.2).running()
    toy.send(signal.SIGTERM)
    assert toy.finish() == 0  # what is left is on disk: no failure
    last = toy.said("transition")[-1]
    assert (last["from"], last["event"]) == ("draining", "deadline")
    assert last["reason"] == "50 records to publish when the time had run out"
    assert last["spent_s"] >= 0.2 - CLOSING_S  # which is for what comes after
    assert (goodbye(toy)["drained"], goodbye(toy)["goodbye_s"]) == (False, 0.0)


def test_a_slow_broker_is_waited_for_while_it_moves(launch: Any, listener: Any) -> None:
    listener.collect()
    toy = launch({"NOTIFY_SOCKET": str(listener.path)}, backlog=40, per_s=20, drain_s=0.3, cap_s=60).running()
    toy.send(signal.SIGTERM)
    assert toy.finish() == 0
    assert goodbye(toy)["drained"]
    assert toy.said("transition")[-1]["spent_s"] > 1.5
    told = listener.all()
    stopping = told[told.index("STOPPING=1") :]
    asked = [line for line in stopping if line.startswith("EXTEND_TIMEOUT_USEC=")]
    assert asked
    assert all(10_000_000 < int(line.partition("=")[2]) <= 12_000_000 for line in asked)


def test_never_beyond_the_cap(launch: Any) -> None:
    toy = launch(backlog=10_000_000, per_s=1000, drain_s=0.1, cap_s=1.0).running()
    toy.send(signal.SIGTERM)
    assert toy.finish() == 0
    assert not goodbye(toy)["drained"]
    steps = toy.said("transition")[-2:]
    assert steps[-1]["event"] == "deadline"
    assert sum(step["spent_s"] for step in steps) >= 1.0 - 0.001


def test_an_intake_that_does_not_end_is_left_at_its_deadline(launch: Any) -> None:
    toy = launch(intake=1, intake_s=0.2).running()
    toy.send(signal.SIGTERM)
    assert toy.finish() == 0
    assert toy.said("transition")[-2]["reason"] == "1 runs to end when the time had run out"
    assert goodbye(toy)["drained"]


def test_how_drains_end_is_remembered(launch: Any, tmp_path: Path) -> None:
    file = tmp_path / "drains.json"
    budgets = []
    for per_s in (0, 0, 1000, 1000):
        toy = launch(backlog=5, per_s=per_s, drain_s=0.1, drains=str(file)).running()
        toy.send(signal.SIGTERM)
        assert toy.finish() == 0
        budgets.append(toy.said("flush_and_publish")[0]["budget_s"])
    for budget_s, expected_s in zip(budgets, (0.1, 0.15, 0.225, 0.15), strict=True):
        assert 0.5 * expected_s < budget_s <= expected_s
    assert json.loads(file.read_bytes()) == {"ran_out": 0}


@pytest.mark.parametrize(("kind", "status"), [("usage", 2), ("fatal", 1)])
def test_a_start_that_fails_is_one_line_and_an_orderly_stop(launch: Any, kind: str, status: int) -> None:
    toy = launch(start_error=kind)
    assert toy.finish() == status
    assert toy.stages() == WHOLE_WAY[1:]
    assert goodbye(toy)["cause"] == "fatal"
    assert "Traceback" not in toy.stderr()


def test_a_start_that_takes_too_long(launch: Any) -> None:
    toy = launch(ready=False, start_s=0.2)
    assert toy.finish() == 1
    assert toy.said("transition")[0]["event"] == "deadline"
    assert toy.stages() == WHOLE_WAY[1:]
    assert goodbye(toy)["reason"] == "not ready within 0.2 s, but waiting until all is up"


def test_told_to_stop_while_it_starts(launch: Any) -> None:
    toy = launch(ready=False)
    toy.hear("ready")
    toy.send(signal.SIGTERM)
    assert toy.finish() == 0
    assert toy.stages() == WHOLE_WAY[1:]


@pytest.mark.parametrize(("action", "cause"), [("start", "defect"), ("ready", "defect"), ("tick", "fatal")])
def test_a_defect_on_the_way_up_or_at_work_is_an_orderly_stop(launch: Any, action: str, cause: str) -> None:
    toy = launch(raises=[action], backlog=20, per_s=1000)
    assert toy.finish() == 1
    assert toy.stages()[-3:] == WHOLE_WAY[1:]
    said = goodbye(toy)
    assert (said["cause"], said["drained"], said["failed"]) == (cause, True, True)
    assert f"ZeroDivisionError: a defect in {action}" in toy.stderr()


@pytest.mark.parametrize(
    "actions",
    [
        ["end_intake"],
        ["intake"],
        ["flush_and_publish"],
        ["backlog"],
        ["say_goodbye"],
        ["end_intake", "flush_and_publish", "say_goodbye"],
        ["intake", "backlog", "say_goodbye"],
    ],
    ids="+".join,
)
def test_a_defect_on_the_way_out_leaves_no_stage_out(launch: Any, actions: list[str]) -> None:
    toy = launch(raises=actions, backlog=20, per_s=1000).running()
    toy.send(signal.SIGTERM)
    assert toy.finish() == 1
    assert [line["stage"] for line in toy.said("end_intake")] == ["terminating"]
    assert [line["stage"] for line in toy.said("flush_and_publish")] == ["draining"]
    assert goodbye(toy)["stage"] == "stopped"
    stderr = toy.stderr()
    assert all(f"a defect in {action}" in stderr for action in actions)


def test_a_defect_of_the_audit_ends_the_work_and_cuts_nothing_short(launch: Any) -> None:
    toy = launch(raises=["audit"], backlog=20, per_s=1000)
    assert toy.finish() == 1
    assert [line["stage"] for line in toy.said("end_intake")] == ["terminating"]
    assert (goodbye(toy)["cause"], goodbye(toy)["drained"]) == ("fatal", True)
    assert "a defect in audit" in toy.stderr()


def test_a_part_that_cannot_go_on(launch: Any) -> None:
    toy = launch(then=["fatal"])
    assert toy.finish() == 1
    assert toy.stages() == WHOLE_WAY
    assert goodbye(toy)["reason"] == "the toy's part cannot go on"


def test_a_restart_is_an_orderly_stop(launch: Any) -> None:
    toy = launch(then=["restart"])
    assert toy.finish() == 0
    assert (goodbye(toy)["cause"], goodbye(toy)["reason"]) == ("restart", "told to from afar")


def test_calls_run_in_the_main_thread(launch: Any) -> None:
    toy = launch(then=["call"]).running()
    assert toy.hear("called")["thread"] == toy.said("start")[0]["pid"] == toy.pid
    toy.send(signal.SIGTERM)
    assert toy.finish() == 0


def test_what_a_call_raises_is_its_callers(launch: Any) -> None:
    toy = launch(then=["bad-call"]).running()
    assert toy.hear("called")["error"] == "ZeroDivisionError"
    toy.send(signal.SIGTERM)
    assert toy.finish() == 0


def test_descriptors_are_read_in_the_main_thread(launch: Any) -> None:
    toy = launch(then=["callback"])
    assert toy.finish() == 0
    assert [line["read"] for line in toy.said("callback")] == ["x"]
    assert goodbye(toy)["reason"] == "the callback was called"


def test_a_callback_with_a_defect_is_called_once(launch: Any) -> None:
    toy = launch(then=["callback"], raises=["callback"], backlog=20, per_s=1000)
    assert toy.finish() == 1
    assert len(toy.said("callback")) == 1
    assert (goodbye(toy)["cause"], goodbye(toy)["drained"]) == ("fatal", True)


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ({}, "while running"),
        ({"reload": "bad"}, "refused, the old configuration stays: toy.toml: this makes no sense"),
        ({"raises": ["reload"]}, "refused, the old configuration stays: a defect, ZeroDivisionError"),
    ],
)
def test_reload(launch: Any, listener: Any, how: dict[str, Any], reason: str) -> None:
    listener.collect()
    toy = launch({"NOTIFY_SOCKET": str(listener.path)}, **how).running()
    for _ in range(2):
        toy.send(signal.SIGHUP)
        line = toy.hear("transition", event="hup")
        assert (line["from"], line["to"]) == ("running", "running")
        assert line["reason"].endswith(reason)
    toy.send(signal.SIGTERM)
    assert toy.finish() == 0
    heard = [line for line in listener.all() if not line.startswith("STATUS=toying")]
    reloads = [line for line in heard if line.startswith("RELOADING=1\nMONOTONIC_USEC=")]
    assert len(reloads) == 2
    for line in reloads:
        place = heard.index(line)
        assert heard[place + 1] == "STATUS=reloading"
        assert heard[place + 2] == "READY=1"
    assert ("STATUS=reload refused:" in "".join(heard)) is bool(how)
    assert ("Traceback" in toy.stderr()) is ("raises" in how)


def assignments(heard: list[str]) -> list[str]:
    """All but words, and wishes for time."""
    return [line for line in heard if not line.startswith(("STATUS=", "EXTEND_TIMEOUT_USEC="))]


def test_what_systemd_hears_and_in_which_order(launch: Any, listener: Any) -> None:
    listener.collect()
    toy = launch({"NOTIFY_SOCKET": str(listener.path)}, backlog=50, per_s=1000).running()
    toy.send(signal.SIGTERM)
    assert toy.finish() == 0
    heard = listener.all()
    assert assignments(heard) == ["READY=1", "STOPPING=1"]
    # At least as often as there are steps, so that the service manager's time does not end before ours.
    begun = heard[: heard.index("READY=1")]
    assert sum(line.startswith("EXTEND_TIMEOUT_USEC=") for line in begun) >= 2
    status = [line.removeprefix("STATUS=") for line in heard if line.startswith("STATUS=")]
    assert status[:3] == ["initializing", "initializing: the first step", "initializing: the second step"]
    assert status[3] == "toying"
    assert status[-1] == "stopped"
    assert heard.index("READY=1") < heard.index("STATUS=toying") < heard.index("STOPPING=1")


def test_no_ready_where_it_never_was(launch: Any, listener: Any) -> None:
    listener.collect()
    toy = launch({"NOTIFY_SOCKET": str(listener.path)}, start_error="fatal")
    assert toy.finish() == 1
    assert assignments(listener.all()) == ["STOPPING=1"]


def test_the_watchdog_is_fed_while_all_move(launch: Any, listener: Any) -> None:
    toy = launch({"NOTIFY_SOCKET": str(listener.path), "WATCHDOG_USEC": "100000"}).running()
    heard: list[str] = []
    while heard.count("WATCHDOG=1") < 4:
        heard.append(listener.receive())
    toy.send(signal.SIGTERM)
    assert toy.finish() == 0


def test_a_worker_that_rests_starves_the_watchdog(launch: Any, listener: Any) -> None:
    toy = launch({"NOTIFY_SOCKET": str(listener.path), "WATCHDOG_USEC": "100000"}, stuck=True).running()
    while listener.receive() != "STATUS=stuck: toy; toying":
        pass
    toy.send(signal.SIGHUP)
    toy.hear("transition", event="hup")
    toy.send(signal.SIGTERM)
    assert toy.finish() == 0
    assert "WATCHDOG=1" not in listener.all()
    assert "toy: no sign of life; the watchdog is not fed" in toy.stderr()


def test_a_stalled_pid_1_stops_nothing(launch: Any, listener: Any) -> None:
    assert listener.fill() > 0
    toy = launch({"NOTIFY_SOCKET": str(listener.path)}, backlog=20, per_s=1000).running()
    toy.send(signal.SIGHUP)
    toy.hear("transition", event="hup")
    toy.send(signal.SIGTERM)
    assert toy.finish() == 0
    assert toy.stages() == WHOLE_WAY


def test_a_pid_1_that_wakes_up_hears_what_matters(launch: Any, listener: Any) -> None:
    listener.fill()
    toy = launch({"NOTIFY_SOCKET": str(listener.path)}).running()
    heard: list[str] = []
    while "READY=1" not in heard:
        heard.append(listener.receive())
    toy.send(signal.SIGTERM)
    assert toy.finish() == 0
    assert assignments(listener.all()) == ["STOPPING=1"]


def test_what_hangs_at_the_end_is_ended_with_its_stacks(launch: Any) -> None:
    toy = launch(goodbye_s=600).running()
    toy.send(signal.SIGTERM)
    assert toy.finish() == 1
    said = toy.stderr()
    assert "Timeout" in said
    assert "in say_goodbye" in said


def test_every_arrow_of_a_whole_life_has_its_id(launch: Any) -> None:
    toy = launch().running()
    toy.send(signal.SIGTERM)
    toy.finish()
    for line in toy.said("transition"):
        assert (Stage(line["from"]), Stage(line["to"])) in TRANSITION_MESSAGE_IDS
