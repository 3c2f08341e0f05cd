"""The guard: an exception is a count and a line, and no event is told without end."""

from __future__ import annotations

from collections import Counter

from plugmeter.telemetry.guard import Guard
from tests.telemetry.outboxes import Diary

MINUTE_NS = 60_000_000_000


class Guarded:
    def __init__(self) -> None:
        self.now_ns = 0
        self.diary = Diary()
        self.counters: Counter[str] = Counter()
        self.guard = Guard(self.diary, self.counters, lambda: self.now_ns)


def test_an_exception_is_counted_each_time_and_told_once_a_connection() -> None:
    it = Guarded()
    for _ in range(3):
        assert it.guard.call("inbox", int, "x") is None
    it.guard.new_connection()
    assert it.guard.call("inbox", int, "x") is None
    assert it.guard.call("inbox", int, "7") == 7
    assert it.counters == {"inbox_errors": 4}
    assert it.diary.events() == ["exception"] * 2
    assert it.diary.says("ValueError")


def test_a_flood_of_one_event_is_told_now_and_then_with_its_number_and_leaves_room_for_others() -> None:
    it = Guarded()
    for number in range(10_000):
        it.guard.tell("inbound-too-large", {"bytes": number})
    it.guard.tell("disconnected", {"cause": "closed"})
    assert it.diary.events() == ["inbound-too-large"] * 30 + ["disconnected"]
    it.now_ns += MINUTE_NS + 1
    it.guard.tell("inbound-too-large", {"bytes": 7})
    assert it.diary.entries[-1] == ("inbound-too-large", {"bytes": 7, "withheld": 9_970})
    assert it.counters == {"diary_withheld": 9_970}
    for _ in range(100):
        it.guard.tell("connected", {}, always=True)
    assert it.diary.events().count("connected") == 100


def test_a_diary_that_fails_is_counted() -> None:
    def fails(event: str, details: object) -> None:
        raise OSError(28, "No space left on device")

    counters: Counter[str] = Counter()
    Guard(fails, counters).tell("connected", {})
    assert counters == {"diary_errors": 1}
