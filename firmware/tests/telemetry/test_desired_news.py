from __future__ import annotations

import logging

from plugmeter.telemetry.desired import Outcome
from plugmeter.telemetry.desired_news import News

MINUTE = 60_000_000_000


class Told(News):
    def __init__(self) -> None:
        self.lines: list[tuple[int, str]] = []
        super().__init__(lambda level, line: self.lines.append((level, line)))


def test_a_line_for_each_outcome() -> None:
    news = Told()
    news.add("a", Outcome.TRIAL, None, 0, left_ns=10 * MINUTE)
    news.add("a", Outcome.IN_EFFECT, None, 1)
    news.add("b", Outcome.ROLLED_BACK, "not reached", 2)
    news.add("c", Outcome.REFUSED, "one\ntwo", 3)
    news.add(None, Outcome.REFUSED, "unsigned", 3, remembered=False)
    assert news.lines == [
        (logging.INFO, "the configuration a from afar is on trial: it stays if the controller is reached with"
                       " it within 600 s"),
        (logging.INFO, "the configuration a from afar is in effect"),
        (logging.WARNING, "the configuration b from afar is rolled back: not reached"),
        (logging.WARNING, "the configuration c from afar is refused: one; two"),
        (logging.WARNING, "the configuration without an id from afar is refused: unsigned"),
    ]  # fmt: skip


def test_what_is_as_before_is_not_told_again() -> None:
    news = Told()
    news.know("a", Outcome.IN_EFFECT, None)
    for now_ns in range(1_000):  # a broker that comes and goes, and what it has retained
        news.add("a", Outcome.IN_EFFECT, None, now_ns * MINUTE)
        news.add(None, Outcome.REFUSED, "unsigned", now_ns * MINUTE, remembered=False)
    assert len(news.lines) == 1
    news.add(None, Outcome.IN_EFFECT, None, 0)  # the device's own file
    assert len(news.lines) == 1


def test_a_flood_is_a_line_a_minute_and_the_last_one_is_told() -> None:
    news = Told()
    for number in range(10_000):
        news.add(f"w{number}", Outcome.REFUSED, "x" * 5_000, 0)
    assert len(news.lines) == 8
    assert all(len(line) < 700 for _, line in news.lines)
    news.tick(MINUTE // 2)
    assert len(news.lines) == 8
    news.tick(2 * MINUTE)
    assert "w9999" in news.lines[-1][1] and news.lines[-1][1].endswith(
        " (9991 changes before this one are not told)"
    )
    news.tick(9 * MINUTE)
    assert len(news.lines) == 9


def test_refusals_do_not_keep_a_rollback_from_being_told() -> None:
    news = Told()
    for number in range(100):
        news.add(f"w{number}", Outcome.REFUSED, "no", 0)
    news.add("a", Outcome.ROLLED_BACK, "not reached", 0)
    assert news.lines[-1][1] == "the configuration a from afar is rolled back: not reached"
