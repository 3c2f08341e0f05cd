"""A daemon with the real conductor and toy parts, run by the tests as a process of its own.

Its argument is a JSON object: see ``Scenario``. It says on standard output, a JSON object a line, what is
done with it, and ends with the conductor's exit status.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from plugmeter.errors import PlugmeterError, UsageError
from plugmeter.lifecycle import journal, signals, stacks

signals.block()

from plugmeter.lifecycle.actions import Ending, Timing  # noqa: E402  as commands/run.py has to do it
from plugmeter.lifecycle.audit import Audited  # noqa: E402
from plugmeter.lifecycle.conductor import Conductor, leave  # noqa: E402
from plugmeter.lifecycle.deadline import Work  # noqa: E402
from plugmeter.lifecycle.drains import DrainMemory  # noqa: E402
from plugmeter.lifecycle.stages import Event  # noqa: E402
from plugmeter.progress import Progress  # noqa: E402


@dataclass
class Scenario:
    """What the toy is to be like."""

    start_s: float = 30.0
    drain_s: float = 0.3
    cap_s: float = 5.0
    intake_s: float = 5.0
    start_error: str = ""
    """usage, fatal: with this PlugmeterError."""
    ready: bool = True
    raises: list[str] = field(default_factory=list)
    """Actions that raise what they must not."""
    intake: int = 0
    backlog: int = 0
    per_s: float = 0.0
    """Items of the backlog that are acknowledged a second; 0: the broker is dead."""
    reload: str = "good"
    stuck: bool = False
    """A worker that never moves."""
    goodbye_s: float = 0.0
    """How long say_goodbye takes."""
    end_intake_s: float = 0.0
    """How long end_intake takes."""
    drains: str | None = None
    then: list[str] = field(default_factory=list)
    """What another thread does once it runs: fatal, restart, call, bad-call, callback."""
    hold_s: int = 0
    """Once it runs, C code holds the interpreter's lock for so long."""


def say(what: str, **more: object) -> None:
    sys.stdout.write(json.dumps({"what": what, **more}) + "\n")
    sys.stdout.flush()


class Toy:
    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.worker = Progress("toy")
        self.draining_since: float | None = None
        self.was_ready = False
        drains = None if scenario.drains is None else Path(scenario.drains)
        self.conductor = Conductor(
            self,
            Timing(scenario.start_s, scenario.drain_s, scenario.cap_s, scenario.intake_s),
            drains=DrainMemory(drains, lambda line: say("told", line=line)),
            audit=self.audit,
        )

    def done(self, action: str, **more: object) -> None:
        say(action, stage=self.conductor.stage.value, **more)
        if action in self.scenario.raises:
            raise ZeroDivisionError(f"a defect in {action}")

    def audit(self, what: Audited) -> None:
        say(what.KIND, **what.data())
        if "audit" in self.scenario.raises:
            raise ZeroDivisionError("a defect in audit")

    def start(self) -> Iterator[str]:
        yield "the first step"
        self.done("start", pid=threading.get_native_id())
        if self.scenario.start_error == "usage":
            raise UsageError("the toy is mistaken")
        if self.scenario.start_error == "fatal":
            raise PlugmeterError("the toy is broken")
        yield "the second step"

    def ready(self) -> bool:
        if not self.was_ready:
            self.was_ready = True
            self.done("ready")
            if self.scenario.then or self.scenario.hold_s:
                threading.Thread(target=self.meddle, daemon=True).start()
        return self.scenario.ready

    def reload(self) -> None:
        self.done("reload")
        if self.scenario.reload == "bad":
            raise UsageError("toy.toml: this makes no sense")

    def end_intake(self) -> None:
        self.done("end_intake")
        time.sleep(self.scenario.end_intake_s)

    def intake(self) -> list[Work]:
        if "intake" in self.scenario.raises:
            raise ZeroDivisionError("a defect in intake")
        return [Work("runs to end", self.scenario.intake)]

    def flush_and_publish(self, ends_ns: int, cap_ns: int) -> None:
        self.draining_since = time.monotonic()
        self.done("flush_and_publish", budget_s=(ends_ns - time.monotonic_ns()) / 1e9)

    def backlog(self) -> list[Work]:
        if "backlog" in self.scenario.raises:
            raise ZeroDivisionError("a defect in backlog")
        assert self.draining_since is not None
        acknowledged = int((time.monotonic() - self.draining_since) * self.scenario.per_s)
        return [Work("records to publish", max(0, self.scenario.backlog - acknowledged))]

    def say_goodbye(self, ending: Ending) -> None:
        self.done(
            "say_goodbye",
            cause=ending.cause.value,
            reason=ending.reason,
            forced=ending.forced,
            drained=ending.drained,
            failed=ending.failed,
            goodbye_s=ending.goodbye_s,
        )
        time.sleep(self.scenario.goodbye_s)

    def tick(self) -> None:
        if "tick" in self.scenario.raises:
            raise ZeroDivisionError("a defect in tick")

    def status(self) -> str:
        return "toying"

    def workers(self) -> list[Progress]:
        if not self.scenario.stuck:
            self.worker.woke(False)
        return [self.worker]

    def meddle(self) -> None:
        while self.conductor.stage != "running":
            time.sleep(0.001)
        if self.scenario.hold_s:
            sleep = ctypes.PyDLL(None).sleep  # PyDLL, unlike CDLL, keeps the interpreter's lock
            say("holding")
            sleep(self.scenario.hold_s)
        if "fatal" in self.scenario.then:
            self.conductor.post(Event.FATAL, "the toy's part cannot go on")
        if "restart" in self.scenario.then:
            self.conductor.post(Event.RESTART, "told to from afar")
        if "call" in self.scenario.then:
            say("called", thread=self.conductor.call(threading.get_native_id).result())
        if "bad-call" in self.scenario.then:
            error = self.conductor.call(lambda: 1 // 0).exception()
            say("called", error=type(error).__name__)
        if "callback" in self.scenario.then:
            descriptor = self.conductor.call(self.register_something).result()
            say("registered", descriptor=descriptor)

    def register_something(self) -> int:
        reading, writing = os.pipe()
        os.write(writing, b"x")
        self.conductor.register(reading, lambda: self.callback(reading))
        return reading

    def callback(self, descriptor: int) -> None:
        self.done("callback", read=os.read(descriptor, 10).decode())
        self.conductor.post(Event.TERM, "the callback was called")


def main() -> None:
    stacks.install()
    journal.install("info")
    scenario = Scenario(**json.loads(sys.argv[1]))
    assert signal.SIGTERM in signal.pthread_sigmask(signal.SIG_BLOCK, ())
    leave(Toy(scenario).conductor.run())


if __name__ == "__main__":
    main()
