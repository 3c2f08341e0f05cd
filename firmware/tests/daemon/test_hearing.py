"""What comes in is sorted and counted; a flood of wishes takes one place among the main thread's calls."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Future

import pytest

from plugmeter.daemon.hearing import Hearing
from plugmeter.errors import PlugmeterError
from plugmeter.telemetry.link import Inbound
from plugmeter.telemetry.topics import Topics

TOPICS = Topics("bench-1")


class Main:
    """A main thread that does what it is asked when it is told to."""

    def __init__(self, room: int = 32) -> None:
        self.room = room
        self.calls: list[tuple[Callable[[], None], Future[None]]] = []

    def call(self, function: Callable[[], None]) -> Future[None]:
        if len(self.calls) >= self.room:
            raise PlugmeterError("the daemon is busy; ask again later")
        future: Future[None] = Future()
        self.calls.append((function, future))
        return future

    def turn(self) -> None:
        calls, self.calls = self.calls, []
        for function, future in calls:
            try:
                future.set_result(function())
            except RuntimeError as error:
                future.set_exception(error)


class Heard:
    def __init__(self, room: int = 32) -> None:
        self.main = Main(room)
        self.commands: list[str] = []
        self.wishes: list[bytes] = []
        self.births = 0
        self.hearing = Hearing(
            TOPICS,
            command=lambda message: self.commands.append(message.topic),
            desire=self.wishes.append,
            birth=self._birth,
            call=self.main.call,
        )
        self.hearing.prefix = "homeassistant"

    def _birth(self) -> None:
        self.births += 1

    def take(self, topic: str, payload: bytes = b"{}") -> None:
        self.hearing.take(Inbound(topic, payload, False))


def test_each_message_goes_where_it_belongs_and_is_counted() -> None:
    it = Heard()
    it.take(TOPICS.command("restart", "c1"))
    it.take(f"{TOPICS.base}/cmd/{'x' * 500}/c2")  # refused with a reason, by the operator
    it.take(TOPICS.desired, b"wish")
    it.take("homeassistant/status", b"online")
    it.take("homeassistant/status", b"offline")
    for topic in ("plugmeter/v1/bench-2/desired", TOPICS.records, "other", "", f"{TOPICS.base}/cmd"):
        it.take(topic, b"online")
    it.main.turn()
    assert it.commands == [TOPICS.command("restart", "c1"), f"{TOPICS.base}/cmd/{'x' * 500}/c2"]
    assert it.wishes == [b"wish"] and it.births == 1
    assert +it.hearing.counters == {"command": 2, "desired": 1, "births": 1, "other_births": 1, "strange": 5}


def test_of_a_flood_of_wishes_the_last_one_counts_and_takes_one_place() -> None:
    it = Heard()
    for number in range(1_000):
        it.take(TOPICS.desired, b"%d" % number)
    assert len(it.main.calls) == 1
    it.main.turn()
    assert it.wishes == [b"999"] and it.hearing.counters["desired_replaced"] == 999
    it.take(TOPICS.desired, b"later")
    it.main.turn()
    assert it.wishes == [b"999", b"later"]


def test_a_main_thread_that_is_busy_is_asked_again() -> None:
    it = Heard(room=0)
    it.take(TOPICS.desired, b"wish")
    it.main.room = 1
    it.main.turn()
    assert it.wishes == []
    it.hearing.look()
    it.hearing.look()
    assert len(it.main.calls) == 1
    it.main.turn()
    it.hearing.look()
    assert it.wishes == [b"wish"] and not it.main.calls


def test_a_defect_is_told(caplog: pytest.LogCaptureFixture) -> None:
    main = Main()

    def defect(_: bytes) -> None:
        raise RuntimeError("of ours")

    hearing = Hearing(TOPICS, command=lambda _: None, desire=defect, birth=lambda: None, call=main.call)
    hearing.take(Inbound(TOPICS.desired, b"wish", False))
    with caplog.at_level(logging.ERROR):
        main.turn()
    assert "a desired configuration met a defect" in caplog.text and "of ours" in caplog.text
    hearing.take(Inbound(TOPICS.desired, b"another", False))
    assert len(main.calls) == 1
