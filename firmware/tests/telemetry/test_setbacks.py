"""Failures are counted each time, and told where they say something new."""

from __future__ import annotations

from collections import Counter

from plugmeter.telemetry.breaker import Kind
from plugmeter.telemetry.failures import Failure
from plugmeter.telemetry.guard import Guard
from plugmeter.telemetry.setbacks import Setbacks
from tests.telemetry.outboxes import Diary

REFUSED = Failure("tcp", Kind.NETWORK, "connection refused")


def test_the_like_of_the_last_is_told_once_an_hour_with_its_number() -> None:
    diary = Diary()
    subject = Setbacks(Guard(diary, Counter(), lambda: 0))
    for second in range(0, 3_700, 10):
        subject.add(REFUSED, lasted_s=None, wait_s=10.0, opened=False, now_s=float(second))
    assert diary.events() == ["connect-failed", "connect-failed"]
    assert diary.entries[0][1] == {"cause": "tcp", "text": "connection refused", "next_attempt_s": 10.0}
    assert diary.entries[1][1]["untold"] == 359
    other = Failure("refused", Kind.REFUSED, "not authorized")
    subject.add(other, lasted_s=None, wait_s=300.0, opened=True, now_s=3_700.0)
    assert diary.entries[2][1] == {
        "cause": "refused", "text": "not authorized", "next_attempt_s": 300.0, "breaker": "refused",
        "untold": 9,
    }  # fmt: skip
    assert subject.counts == {"tcp": 370, "refused": 1} and subject.last is other


def test_a_connection_that_is_lost_is_always_told_and_one_that_stands_forgets_the_rest() -> None:
    diary = Diary()
    subject = Setbacks(Guard(diary, Counter(), lambda: 0))
    for _ in range(3):
        subject.add(REFUSED, lasted_s=7.04, wait_s=1.0, opened=False, now_s=1.0)
    assert diary.events() == ["disconnected"] * 3 and diary.entries[0][1]["after_s"] == 7.0
    subject.overcome()
    assert subject.last is None and subject.untold == 0
    subject.add(REFUSED, lasted_s=None, wait_s=1.0, opened=False, now_s=2.0)
    assert diary.events()[-1] == "connect-failed"
