"""Failures are counted each time, and told where they say something new."""

from __future__ import annotations

import logging
from collections import Counter

import pytest

from plugmeter.telemetry.breaker import Kind
from plugmeter.telemetry.failures import Failure, closed, ended_by_broker
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


SHUTTING_DOWN = ended_by_broker(0x8B)
TAKEN_OVER = ended_by_broker(0x8E)
RESET = Failure("reset", Kind.NETWORK, "connection reset by peer")


@pytest.mark.parametrize(
    ("lives", "twin"),
    [
        ([(closed(), 1.0)], False),
        ([(closed(), 1.0), (closed(), 4.9)], False),
        ([(closed(), 1.0), (closed(), 4.9), (closed(), 0.0)], True),
        ([(TAKEN_OVER, 1.0), (closed(), 1.0), (TAKEN_OVER, 1.0)], True),
        ([(closed(), 1.0), (RESET, 0.1), (closed(), 1.0), (closed(), 1.0)], True),
        ([(RESET, 0.1)] * 9, False),
        ([(SHUTTING_DOWN, 0.1)] * 9, False),
        ([(closed(), 1.0), (SHUTTING_DOWN, 1.0), (closed(), 1.0), (closed(), 1.0)], False),
        ([(closed(), 1.0), (REFUSED, None), (closed(), 1.0), (closed(), 1.0)], False),
        ([(closed(), 1.0), (closed(), 5.0), (closed(), 1.0), (closed(), 1.0)], False),
        ([(closed(), 5.0)] * 9, False),
    ],
)
def test_short_lives_in_a_row_are_the_sign_of_a_twin(
    lives: list[tuple[Failure, float | None]], twin: bool
) -> None:
    subject = Setbacks(Guard(Diary(), Counter(), lambda: 0))
    causes = [subject.judged(failure, lasted_s).cause for failure, lasted_s in lives]
    assert "twin" not in causes[:-1] and (causes[-1] == "twin") is twin
    assert subject.twin_suspected(None) is subject.twin_suspected(4.9) is twin
    assert not subject.twin_suspected(5.0)


def test_the_journal_has_a_line_for_each_that_is_told(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "plugmeter.link")
    subject = Setbacks(Guard(Diary(), Counter(), lambda: 0), "broker.lan:1883")
    for second in range(100):
        subject.add(REFUSED, lasted_s=None, wait_s=10.0, opened=False, now_s=float(second))
    subject.overcome("192.0.2.1")
    subject.add(closed(), lasted_s=7.04, wait_s=1.0, opened=False, now_s=0.0)
    subject.add(Failure("refused", Kind.REFUSED, "no"), lasted_s=None, wait_s=300.0, opened=True, now_s=0.0)
    subject.add(Failure("kicked", Kind.NETWORK, "told so"), lasted_s=1.0, wait_s=0.0, opened=False, now_s=0.0)
    assert [(each.levelname, each.getMessage()) for each in caplog.records] == [
        ("WARNING", "broker.lan:1883 cannot be reached: connection refused; next attempt in 10.0 s"),
        ("INFO", "connected to broker.lan:1883 (192.0.2.1)"),
        (
            "WARNING",
            "disconnected from broker.lan:1883 after 7.0 s: the broker closed the connection without a word;"
            " next attempt in 1.0 s",
        ),
        ("WARNING", "broker.lan:1883 cannot be reached: no; the breaker opens, next attempt in 300.0 s"),
        ("INFO", "disconnected from broker.lan:1883 after 1.0 s: told so; next attempt in 0.0 s"),
    ]
