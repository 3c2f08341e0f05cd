"""What commands wait for, with a real inbox of the main thread."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from plugmeter.daemon.log_level import LogLevel
from plugmeter.daemon.operations import DaemonOperations
from plugmeter.errors import PlugmeterError
from plugmeter.lifecycle.inbox import Inbox
from plugmeter.telemetry.commands.operations import Interrupted
from tests.telemetry.broker import eventually


class Asked:
    """An operation that is being carried out on a thread of its own, and what came of it."""

    def __init__(self, operation: Callable[[], Any]) -> None:
        self.outcome: object = None
        self._operation = operation
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        try:
            self.outcome = self._operation()
        except (PlugmeterError, OSError) as error:
            self.outcome = error


class Main:
    """The conductor as far as operations go: its inbox, emptied when the test says so."""

    def __init__(self, begin_s: float, *, stopping: bool = False) -> None:
        self.inbox = Inbox()
        self.stopping = stopping
        self.done: list[str] = []
        self.effect: Callable[[], dict[str, Any]] = dict
        self.operations = DaemonOperations(
            self.inbox,  # type: ignore[arg-type]  # all of the conductor that is used
            None,  # type: ignore[arg-type]  # no run is asked for
            self,  # type: ignore[arg-type]  # the keeper of desired configurations
            LogLevel(),
            is_stopping=lambda: self.stopping,
            is_signed=lambda _: False,
            begin_s=begin_s,
        )

    def configure(self, command_id: str, config: object, *, signed: bool) -> dict[str, Any]:
        assert not signed
        self.done.append(command_id)
        return self.effect()

    def ask(self, command_id: str = "c1") -> Asked:
        return Asked(lambda: self.operations.configure(command_id, {}))

    def turn(self) -> int:
        calls = self.inbox.take().calls
        for call in calls:
            call.run()
        return len(calls)


def test_what_does_not_begin_in_time_is_called_off_and_never_happens() -> None:
    main = Main(0.0)
    asked = main.ask()
    asked.thread.join(60)
    assert str(asked.outcome) == "it did not begin within 0 s, and was called off"
    assert main.turn() == 1
    assert main.done == []


def test_what_has_begun_in_time_is_waited_for(caplog: pytest.LogCaptureFixture) -> None:
    main = Main(0.0)
    begun, go_on = threading.Event(), threading.Event()

    def slow() -> dict[str, Any]:
        begun.set()
        go_on.wait(60)
        return {"done": True}

    main.effect = slow
    asked = main.ask()
    at_work = threading.Thread(target=lambda: eventually(lambda: main.turn() == 1, "the call"))
    at_work.start()
    assert begun.wait(60)
    eventually(lambda: "cannot be called off" in caplog.text, "it is told")
    assert asked.outcome is None and asked.thread.is_alive()
    go_on.set()
    asked.thread.join(60)
    at_work.join(60)
    assert asked.outcome == {"done": True}


def test_an_operations_own_timeout_is_its_failure() -> None:
    main = Main(60.0)

    def fails() -> dict[str, Any]:
        raise TimeoutError("the disk")

    main.effect = fails
    asked = main.ask()
    eventually(lambda: main.turn() == 1, "the call")
    asked.thread.join(60)
    assert isinstance(asked.outcome, TimeoutError) and str(asked.outcome) == "the disk"


def test_what_the_end_of_the_daemon_meets_is_interrupted() -> None:
    main = Main(60.0)
    asked = main.ask()
    main.stopping = True
    main.inbox.close()
    asked.thread.join(60)
    assert isinstance(asked.outcome, Interrupted)
    assert main.done == []
