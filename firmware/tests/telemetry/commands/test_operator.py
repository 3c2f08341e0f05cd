from __future__ import annotations

import base64
import json
import resource
import sqlite3
import threading
from pathlib import Path
from typing import Any

import pytest

from plugmeter.moments import NS, rfc3339
from plugmeter.telemetry.commands import message, signing
from plugmeter.telemetry.commands.journal import MOST_ENTRIES
from plugmeter.telemetry.commands.message import State
from plugmeter.telemetry.commands.operator import Limits
from tests.telemetry.commands.orders import (
    ARGUMENTS,
    NOW_NS,
    OPS,
    TOPICS,
    Desk,
    Hand,
    Message,
    document,
    failure,
    payload,
    sent,
    until,
)

METHODS = {op: op.replace("-", "_") for op in OPS} | {"config": "configure"}


@pytest.mark.parametrize("op", [op for op in OPS if op != "restart"])
def test_a_command_is_carried_out_and_answered(tmp_path: Path, op: str) -> None:
    with Desk(tmp_path) as desk:
        desk.say(sent(op))
        answer = desk.until_state(op, "a1", "successful")
        assert desk.states(op, "a1") == ["accepted", "executing", "successful"]
    expected = ARGUMENTS.get(op, {})
    assert desk.operations.calls == [(METHODS[op], "a1", expected["config"] if op == "config" else expected)]
    assert answer == {
        "state": "successful",
        "op": op,
        "id": "a1",
        "reason": None,
        "result": {"did": METHODS[op]},
        "time": rfc3339(NOW_NS),
    }
    assert [(each["kind"], each["state"], each["id"]) for each in desk.records] == [
        ("command", "accepted", "a1"),
        ("command", "successful", "a1"),
    ]


def test_a_failure_is_told_in_one_line(tmp_path: Path) -> None:
    with Desk(tmp_path) as desk:
        desk.operations.failures["a1"] = failure("no rig:\n  plug one in")
        desk.say(sent())
        assert desk.until_state("selftest", "a1", "failed")["reason"] == "no rig: plug one in"


def test_they_are_carried_out_one_at_a_time_in_their_order(tmp_path: Path) -> None:
    with Desk(tmp_path) as desk:
        desk.operations.gate.clear()
        for number in range(5):
            desk.say(sent("resync", f"c{number}"))
        for number in range(5):  # all are answered, though the first is still under way
            desk.until_state("resync", f"c{number}", "accepted")
        desk.until_state("resync", "c0", "executing")
        assert len(desk.operations.calls) == 1
        executing = desk.operator.executing
        assert executing is not None
        assert executing[:2] == ("resync", "c0")
        desk.operations.gate.set()
        desk.until_state("resync", "c4", "successful")
        assert [call[1] for call in desk.operations.calls] == [f"c{number}" for number in range(5)]
        assert desk.operator.executing is None


def test_the_same_id_again_has_no_second_effect(tmp_path: Path) -> None:
    with Desk(tmp_path) as desk:
        desk.say(sent())
        answer = desk.until_state("selftest", "a1", "successful")
        for _ in range(5):
            desk.say(sent())
        desk.until_counted("repeated", 5)
        desk.say(sent("resync", "end"))
        desk.until_state("resync", "end", "successful")
        assert [call[1] for call in desk.operations.calls] == ["a1", "end"]
        assert desk.states("selftest", "a1")[3:] == ["successful"] * len(desk.states("selftest", "a1")[3:])
        assert len(desk.states("selftest", "a1")) > 3
        assert desk.last("selftest", "a1") == answer
        assert sum(each["state"] == "successful" and each["id"] == "a1" for each in desk.records) == 1


def test_the_same_command_after_it_has_expired_is_still_known(tmp_path: Path) -> None:
    with Desk(tmp_path) as desk:
        desk.say(sent())
        desk.until_state("selftest", "a1", "successful")
        desk.now_ns = NOW_NS + 10_000 * NS
        desk.say(sent())
        desk.until_counted("repeated")
        assert "refused_expired" not in desk.operator.counters


def test_an_id_of_another_command_is_refused_and_the_first_ones_state_stays(tmp_path: Path) -> None:
    with Desk(tmp_path) as desk:
        desk.say(sent("log-level"))
        answer = desk.until_state("log-level", "a1", "successful")
        desk.say(sent("log-level", arguments={"level": "error"}))
        refusal = desk.until_state("log-level", "a1", "refused")
        assert refusal["reason"] == (
            "id_reused: a1 is the id of another log-level, which is successful: each command needs an id of"
            " its own"
        )
        desk.say(sent("resync"))  # the same id on another topic
        desk.until_state("resync", "a1", "refused")
        desk.say(sent("selftest", "end"))
        desk.until_state("selftest", "end", "successful")
        assert desk.last("log-level", "a1") == answer
        assert [call[1] for call in desk.operations.calls] == ["a1", "end"]


def test_garbage_on_a_topic_does_not_take_its_commands_state(tmp_path: Path) -> None:
    with Desk(tmp_path) as desk:
        desk.say(sent())
        answer = desk.until_state("selftest", "a1", "successful")
        desk.say(Message(TOPICS.command("selftest", "a1"), b"garbage"))
        desk.until_state("selftest", "a1", "refused")
        desk.say(sent("resync", "end"))
        desk.until_state("resync", "end", "successful")
        assert desk.last("selftest", "a1") == answer


@pytest.mark.parametrize(
    ("sent_message", "options", "reason"),
    [
        (Message(TOPICS.command("selftest", "a1"), b"{"), {}, "malformed: "),
        (
            sent(expires=rfc3339(NOW_NS - NS)),
            {},
            "expired: at 2026-11-22T09:59:59.000000Z; this device has ",
        ),
        (sent(), {"accept": ("resync",)}, "not_accepted: selftest is not in this device's commands.accept"),
        (Message(TOPICS.command("reboot", "a1"), payload("reboot")), {}, 'unknown_op: "reboot"; '),
        (Message(TOPICS.command("selftest", "a 1"), payload()), {}, 'bad_id: "a 1"; an id is 1 to 64'),
        (sent(device="lab-4"), {}, 'other_device: it is for "lab-4"'),
        (sent(arguments={"x": 1}), {}, "bad_arguments: unknown key arguments.x"),
        (Message(TOPICS.command("selftest", "a1"), b" " * 20_000), {}, "too_large: 20000 bytes"),
    ],
)
def test_a_refusal_has_an_answer_a_record_and_no_effect(
    tmp_path: Path, sent_message: Message, options: dict[str, Any], reason: str
) -> None:
    with Desk(tmp_path, **options) as desk:
        desk.say(sent_message)
        desk.until_counted(f"refused_{reason.partition(':')[0]}")
    assert desk.operations.calls == []
    ((topic, answer),) = desk.published
    assert topic == sent_message.topic
    assert answer["state"] == "refused"
    assert answer["reason"].startswith(reason)
    assert [(each["state"], each["reason"]) for each in desk.records] == [("refused", answer["reason"])]
    assert desk.journal_is_empty()


def test_only_signed_commands_where_there_is_a_key(tmp_path: Path) -> None:
    public_path, _ = signing.new_key_pair(tmp_path / "k")
    with Desk(tmp_path, public_key=signing.load_public_key(public_path)) as desk:
        desk.say(sent())
        assert desk.until_state("selftest", "a1", "refused")["reason"].startswith("unsigned: ")
        text = json.dumps(document())
        signature = signing.load_private_key(tmp_path / "k").sign(text.encode())
        data = json.dumps({"signed": text, "signature": base64.b64encode(signature).decode()}).encode()
        desk.say(Message(TOPICS.command("selftest", "a1"), data))
        desk.until_state("selftest", "a1", "successful")
        assert [each["signed"] for each in desk.records[1:]] == [True, True]


def test_another_devices_topic_is_not_answered(tmp_path: Path) -> None:
    with Desk(tmp_path) as desk:
        desk.say(Message("plugmeter/v1/lab-4/cmd/selftest/a1", payload(device="lab-4")))
        desk.until_counted("refused_other_device")
    assert desk.published == []
    assert desk.records[0]["reason"].startswith("other_device: ")


def test_our_own_answers_and_cleared_topics_have_no_effect(tmp_path: Path) -> None:
    topic = TOPICS.command("selftest", "a1")
    with Desk(tmp_path) as desk:
        for state in ("accepted", "executing", "successful", "failed", "refused"):
            desk.say(
                Message(topic, message.state_document("selftest", "a1", State(state), None, None, 0), True)
            )
        desk.say(Message(topic, b""))
        desk.until_counted("cleared")
        assert desk.operator.counters["echoes"] == 5
        assert (desk.published, desk.records, desk.withdrawn) == ([], [], [topic])


def test_a_cleared_topic_forgets_nothing(tmp_path: Path) -> None:
    with Desk(tmp_path) as desk:
        desk.say(sent())
        desk.until_state("selftest", "a1", "successful")
        desk.say(Message(TOPICS.command("selftest", "a1"), b""))
        desk.say(sent())
        desk.until_counted("repeated")
        assert len(desk.operations.calls) == 1


def test_an_answer_that_did_not_reach_the_broker_is_given_again(tmp_path: Path) -> None:
    with Desk(tmp_path) as desk:
        desk.say(sent())
        desk.until_state("selftest", "a1", "successful")
        old = message.state_document("selftest", "a1", State.EXECUTING, None, None, 0)
        desk.say(Message(TOPICS.command("selftest", "a1"), old))  # live: our own, on its way
        desk.say(sent("resync", "end"))
        desk.until_state("resync", "end", "successful")
        assert len(desk.states("selftest", "a1")) == 3
        desk.say(Message(TOPICS.command("selftest", "a1"), old, retain=True))  # what the broker has kept
        desk.say(sent("resync", "end2"))
        desk.until_state("resync", "end2", "successful")
        assert desk.states("selftest", "a1")[3:] == ["successful"]


def test_a_flood_of_garbage_is_counted_and_told_of_only_a_little(tmp_path: Path) -> None:
    limits = Limits(intake=100_000, answers_burst=5, answers_per_s=0.0)
    with Desk(tmp_path, limits=limits) as desk:
        for number in range(2_000):
            desk.say(Message(TOPICS.command("selftest", f"g{number}"), b"garbage"))
        desk.until_counted("refused_malformed", 2_000)
        desk.say(sent())
        desk.until_state("selftest", "a1", "successful")
    assert desk.operator.counters["withheld"] == 1_995
    assert sum(each["state"] == "refused" for _, each in desk.published) == 5
    assert sum(each["state"] == "refused" for each in desk.records) == 5


def test_what_was_withheld_is_told_of_later_in_one_record(tmp_path: Path) -> None:
    limits = Limits(answers_burst=2, answers_per_s=2.0)
    with Desk(tmp_path, limits=limits) as desk:
        for number in range(50):
            desk.say(Message(TOPICS.command("selftest", f"g{number}"), b"garbage"))
        desk.until_counted("refused_malformed", 50)
        until(
            lambda: (
                sum(each.get("withheld", 0) for each in list(desk.records))
                == desk.operator.counters["withheld"]
            ),
            "a record of all that was withheld",
        )
        assert desk.operator.counters["withheld"] > 0


def test_a_full_intake_does_not_block_and_refuses(tmp_path: Path) -> None:
    desk = Desk(tmp_path, limits=Limits(intake=3))
    for number in range(10):  # before it works, so that nothing is taken out meanwhile
        desk.say(sent("resync", f"c{number}"))
    assert desk.operator.counters["turned_away"] == 7
    with desk:
        for number in range(3):
            desk.until_state("resync", f"c{number}", "successful")
        for number in range(3, 6):  # as many are answered as the intake holds
            answer = desk.until_state("resync", f"c{number}", "refused")
            assert answer["reason"] == "busy: too many messages at once: send it again later"
        desk.say(sent("resync", "c9"))
        desk.until_state("resync", "c9", "successful")


def test_too_many_that_wait_are_refused_and_may_come_again(tmp_path: Path) -> None:
    with Desk(tmp_path, limits=Limits(waiting=2)) as desk:
        desk.operations.gate.clear()
        for number in range(3):
            desk.say(sent("resync", f"c{number}"))
        assert desk.until_state("resync", "c2", "refused")["reason"].startswith(
            "busy: 2 commands wait already"
        )
        desk.operations.gate.set()
        desk.until_state("resync", "c1", "successful")
        desk.say(sent("resync", "c2"))
        desk.until_state("resync", "c2", "successful")


def test_too_many_good_commands_are_refused(tmp_path: Path) -> None:
    with Desk(tmp_path, limits=Limits(commands_burst=2, commands_per_s=0.0)) as desk:
        for number in range(3):
            desk.say(sent("resync", f"c{number}"))
        answer = desk.until_state("resync", "c2", "refused")
        assert answer["reason"] == "busy: too many commands in a short time: send it again later"


def test_a_result_that_is_too_large_for_an_answer(tmp_path: Path) -> None:
    with Desk(tmp_path) as desk:
        desk.operations.results["a1"] = {"text": "x" * 100_000}
        desk.say(sent())
        answer = desk.until_state("selftest", "a1", "successful")
        assert answer["result"] == {"omitted_bytes": 100_011}


def test_a_command_that_expires_while_it_waits_is_not_begun(tmp_path: Path) -> None:
    with Desk(tmp_path) as desk:
        desk.operations.gate.clear()
        desk.say(sent("resync", "c0"))
        desk.say(sent("resync", "c1"))
        desk.until_state("resync", "c1", "accepted")
        desk.until_state("resync", "c0", "executing")
        desk.now_ns = NOW_NS + 601 * NS
        desk.operations.gate.set()
        assert desk.until_state("resync", "c1", "failed")["reason"].startswith(
            "expired at 2026-11-22T10:10:00"
        )
        assert [call[1] for call in desk.operations.calls] == ["c0"]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_defect_of_an_operation_fails_its_command_alone(tmp_path: Path) -> None:
    with Desk(tmp_path) as desk:
        desk.operations.failures["a1"] = ZeroDivisionError()
        desk.operations.results["a2"] = {"no": object()}
        desk.say(sent())
        reason = desk.until_state("selftest", "a1", "failed")["reason"]
        assert reason == "a defect of plugmeter (ZeroDivisionError): its traceback is in the device's journal"
        desk.say(sent("selftest", "a2"))
        assert "(TypeError)" in desk.until_state("selftest", "a2", "failed")["reason"]
        desk.say(sent("resync", "a3"))
        desk.until_state("resync", "a3", "successful")
        assert desk.operator.counters["defects"] == 2


def test_the_effect_comes_after_the_journal(tmp_path: Path) -> None:
    """What an operation sees of the journal, in a copy of its files, as a power cut at that moment would."""
    seen: list[tuple[str, int]] = []

    class Looking(Hand):
        def selftest(self, command_id: str, arguments: Any) -> dict[str, Any]:
            copy = tmp_path / "copy"
            copy.mkdir()
            for suffix in ("", "-wal"):
                name = f"commands.sqlite{suffix}"
                (copy / name).write_bytes((tmp_path / name).read_bytes())
            database = sqlite3.connect(copy / "commands.sqlite")
            seen.extend(database.execute("SELECT state, attempts FROM commands"))
            database.close()
            return {}

    with Desk(tmp_path, operations=Looking()) as desk:
        desk.say(sent())
        desk.until_state("selftest", "a1", "successful")
    assert seen == [("executing", 1)]


def test_it_shows_progress_also_while_an_operation_takes_long(tmp_path: Path) -> None:
    with Desk(tmp_path) as desk:
        desk.operations.gate.clear()
        desk.say(sent())
        desk.until_state("selftest", "a1", "executing")
        before = desk.operator.progress.wakeups
        until(lambda: desk.operator.progress.wakeups > before + 1, "progress")
        assert desk.operator.progress.name == "operator"


def test_closing_does_not_wait_for_ever(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    desk.operator.recover()
    desk.operations.gate.clear()
    desk.say(sent())
    desk.until_state("selftest", "a1", "executing")
    assert not desk.operator.close(0.05)
    desk.operations.gate.set()
    assert desk.operator.close(60)
    assert desk.until_state("selftest", "a1", "successful")
    desk.say(sent("resync", "too-late"))
    assert desk.operator.counters["turned_away"] == 1
    desk.journal.close()


def test_handle_may_be_called_from_many_threads(tmp_path: Path) -> None:
    with Desk(tmp_path, limits=Limits(waiting=1_000, commands_burst=1_000)) as desk:

        def say_all(k: int) -> None:
            for n in range(10):
                desk.say(sent("resync", f"t{k}-{n % 5}"))

        threads = [threading.Thread(target=say_all, args=(k,)) for k in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for k in range(4):
            for n in range(5):
                desk.until_state("resync", f"t{k}-{n}", "successful")
        desk.until_counted("received", 40)
    assert sorted(call[1] for call in desk.operations.calls) == sorted(
        f"t{k}-{n}" for k in range(4) for n in range(5)
    )


def test_while_the_journal_cannot_be_written_nothing_is_accepted(tmp_path: Path) -> None:
    with Desk(tmp_path) as desk:
        desk.say(sent("resync", "c1"))
        desk.until_state("resync", "c1", "successful")
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))  # as on a full disk
        try:
            desk.say(sent("resync", "c2"))
            reason = desk.until_state("resync", "c2", "refused")["reason"]
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert reason.startswith(f"journal: the journal of commands {desk.path} cannot be used: ")
        desk.say(sent("resync", "c2"))
        desk.until_state("resync", "c2", "successful")
        assert [call[1] for call in desk.operations.calls] == ["c1", "c2"]


def test_an_end_that_cannot_be_written_is_told_once_it_can(tmp_path: Path) -> None:
    with Desk(tmp_path) as desk:
        desk.operations.gate.clear()
        desk.say(sent())
        desk.until_state("selftest", "a1", "executing")
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
        try:
            desk.operations.gate.set()
            until(lambda: desk.operator.trouble, "trouble")
            assert desk.states("selftest", "a1") == ["accepted", "executing"]
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        desk.until_state("selftest", "a1", "successful")
        assert desk.operator.trouble is None
        assert len(desk.operations.calls) == 1


def test_a_thousand_answers_that_the_broker_has_kept_are_no_commands(tmp_path: Path) -> None:
    """They come all at once, more than the intake holds, and commands among them."""
    with Desk(tmp_path) as desk:
        desk.say(sent("resync", "known"))
        known = desk.until_state("resync", "known", "successful")
        kept = message.state_document("resync", "known", State.ACCEPTED, None, None, NOW_NS)
        for number in range(1_200):
            text = message.state_document("resync", f"k{number}", State.ACCEPTED, None, {}, NOW_NS)
            desk.say(Message(TOPICS.command("resync", f"k{number}"), text, retain=True))
            if number % 400 == 0:
                desk.say(sent("selftest", f"new{number}"))
        desk.say(Message(TOPICS.command("resync", "known"), kept, retain=True))
        for number in (0, 400, 800):
            desk.until_state("selftest", f"new{number}", "successful")
        until(lambda: desk.states("resync", "known").count("successful") == 2, "the correction")
        assert desk.last("resync", "known") == known
        counters = desk.operator.counters
        assert counters["echoes"] == 1_201
        assert "turned_away" not in counters and "refused_busy" not in counters
        assert not [each for _, each in desk.published if each and each["state"] == "refused"]


def test_who_finds_the_intake_full_with_a_known_id_gets_its_answer(tmp_path: Path) -> None:
    with Desk(tmp_path) as desk:
        desk.say(sent("resync", "c1"))
        answer = desk.until_state("resync", "c1", "successful")
    again = Desk(tmp_path, limits=Limits(intake=2))
    for command_id in ("c00", "c0", "c1", "c2"):  # before it works, so that nothing is taken out meanwhile
        again.say(sent("resync", command_id))
    with again:
        again.until_state("resync", "c2", "refused")
        again.until_state("resync", "c1", "successful")
    assert again.states("resync", "c1") == ["successful"]
    assert again.last("resync", "c1") == answer
    assert again.operator.counters["refused_busy"] == 1


def test_answers_of_commands_that_are_forgotten_are_taken_away(tmp_path: Path) -> None:
    """Ours, and final; never one of a command that is known, nor what is no answer of ours."""

    def kept(command_id: str, state: State = State.SUCCESSFUL, topic_id: str = "") -> Message:
        text = message.state_document("resync", command_id, state, None, None, NOW_NS)
        return Message(TOPICS.command("resync", topic_id or command_id), text, retain=True)

    limits = Limits(clears_burst=500)
    with Desk(tmp_path, limits=limits) as desk:
        desk.say(sent("resync", "known"))
        desk.until_state("resync", "known", "successful")
        desk.say(kept("known"))
        desk.say(kept("other", topic_id="another"))
        desk.say(kept("running", State.EXECUTING))
        desk.say(kept("refused", State.REFUSED))
        for number in range(300):
            desk.say(kept(f"k{number}"))
        desk.until_counted("outdated", 300)
        desk.say(sent("resync", "end"))
        desk.until_state("resync", "end", "successful")
    assert sorted(desk.cleared) == sorted(TOPICS.command("resync", f"k{number}") for number in range(300))


def test_where_a_journal_was_lost_answers_from_before_stay(tmp_path: Path) -> None:
    (tmp_path / "commands.sqlite").write_bytes(b"no database" * 1_000)
    with Desk(tmp_path) as desk:
        assert desk.journal.lost_ns == NOW_NS
        for command_id, time_ns in (("before", NOW_NS - NS), ("after", NOW_NS + NS)):
            text = message.state_document("resync", command_id, State.FAILED, "why", None, time_ns)
            desk.say(Message(TOPICS.command("resync", command_id), text, retain=True))
        desk.until_counted("outdated")
    assert desk.cleared == [TOPICS.command("resync", "after")]


def test_what_the_journal_forgets_is_taken_away_at_the_broker(tmp_path: Path) -> None:
    limits = Limits(waiting=10_000, commands_burst=10_000, intake=10_000, clears_burst=500)
    with Desk(tmp_path, limits=limits) as desk:
        for number in range(MOST_ENTRIES):
            desk.say(sent("resync", f"c{number}"))
        desk.until_state("resync", f"c{MOST_ENTRIES - 1}", "successful")
        desk.now_ns = NOW_NS + 700 * NS
        desk.say(sent("resync", "more", expires=rfc3339(NOW_NS + 1_000 * NS)))
        desk.until_state("resync", "more", "successful")
        desk.until_counted("outdated", MOST_ENTRIES // 20 + 1)
        for topic in list(desk.cleared):
            assert desk.journal.find(topic.rpartition("/")[2]) is None
    assert len(desk.cleared) == MOST_ENTRIES // 20 + 1


def test_how_long_the_broker_keeps_an_answer(tmp_path: Path) -> None:
    with Desk(tmp_path) as desk:
        desk.say(sent())  # expires in 600 s
        desk.until_state("selftest", "a1", "successful")
        desk.say(Message(TOPICS.command("selftest", "a2"), b"garbage"))
        desk.until_state("selftest", "a2", "refused")
        far = "2090-01-01T00:00:00Z", "2090-02-01T00:00:00Z"  # a clock that is wrong, ours or another's
        desk.say(sent("selftest", "a3", issued=far[0], expires=far[1]))
        desk.until_state("selftest", "a3", "successful")
    day_s = 86_400
    kept = {topic.rpartition("/")[2]: seconds for topic, seconds in desk.kept_s.items()}
    assert kept == {"a1": 600 + 7 * day_s, "a2": day_s, "a3": (31 + 7) * day_s}
