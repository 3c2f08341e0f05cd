"""What the tests of commands share: good commands, and operations whose effects can be counted."""

from __future__ import annotations

import json
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from plugmeter.errors import PlugmeterError
from plugmeter.moments import NS, instant, rfc3339
from plugmeter.telemetry.commands.journal import Journal
from plugmeter.telemetry.commands.operator import Limits, Operator
from plugmeter.telemetry.commands.signing import PublicKey
from plugmeter.telemetry.topics import Topics

DEVICE = "lab-3"
TOPICS = Topics(DEVICE)
NOW_NS = instant("2026-11-22T10:00:00Z") or 0
OPS = ("start-run", "stop-run", "selftest", "resync", "config", "log-level", "restart", "hwtest")
ARGUMENTS: dict[str, dict[str, Any]] = {
    "start-run": {"rig": "injected", "sticks": 5},
    "config": {"config": {"run": {"debounce_ms": 120}}},
    "log-level": {"level": "debug", "minutes": 5},
}


def document(op: str = "selftest", command_id: str = "a1", **changed: Any) -> dict[str, Any]:
    """A good command, issued a minute before ``NOW_NS``; fields that are changed to None are left out."""
    made = {
        "state": "init",
        "device": DEVICE,
        "op": op,
        "id": command_id,
        "issued": rfc3339(NOW_NS - 60 * NS),
        "expires": rfc3339(NOW_NS + 600 * NS),
        "arguments": ARGUMENTS.get(op, {}),
    }
    return {name: value for name, value in (made | changed).items() if value is not None}


def payload(op: str = "selftest", command_id: str = "a1", **changed: Any) -> bytes:
    return json.dumps(document(op, command_id, **changed)).encode()


@dataclass(frozen=True)
class Message:
    topic: str
    payload: bytes
    retain: bool = False


def sent(op: str = "selftest", command_id: str = "a1", **changed: Any) -> Message:
    return Message(TOPICS.command(op, command_id), payload(op, command_id, **changed))


def until(condition: Callable[[], object], what: str) -> None:
    """Waits for what must come; gives up after a time that no busy machine needs."""
    end = time.monotonic() + 60
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"never came: {what}")
        time.sleep(0.005)


class FileOperations:
    """Effects as lines of a file, one an id however often it is asked for; and all that were begun."""

    def __init__(self, folder: Path, pause_s: float = 0.0) -> None:
        self.folder = folder
        self.pause_s = pause_s

    def __getattr__(self, name: str) -> Callable[..., dict[str, Any]]:
        def effect(command_id: str, arguments: Mapping[str, Any], *_: object) -> dict[str, Any]:
            self._append("begun", f"{name} {command_id}")
            time.sleep(self.pause_s)
            if f"{name} {command_id}" not in self.lines("effects"):
                self._append("effects", f"{name} {command_id}")
            return {"did": name, "arguments": dict(arguments)}

        return effect

    def lines(self, file: str) -> list[str]:
        path = self.folder / file
        return path.read_text().splitlines() if path.exists() else []

    def _append(self, file: str, line: str) -> None:
        descriptor = os.open(self.folder / file, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(descriptor, f"{line}\n".encode())
        os.close(descriptor)


@dataclass
class Hand:
    """Operations in memory: what was called, and what comes of it. ``gate`` holds the next effect back."""

    calls: list[tuple[str, str, Mapping[str, Any]]] = field(default_factory=list)
    failures: dict[str, BaseException] = field(default_factory=dict)
    results: dict[str, Any] = field(default_factory=dict)
    gate: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.gate.set()

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("_"):
            raise AttributeError(name)

        def effect(command_id: str, arguments: Mapping[str, Any], *_: object) -> Any:
            self.calls.append((name, command_id, arguments))
            self.gate.wait()
            if command_id in self.failures:
                raise self.failures[command_id]
            return self.results.get(command_id, {"did": name})

        return effect


class Desk:
    """An operator with a journal in a file, and what it published and recorded."""

    def __init__(
        self,
        folder: Path,
        *,
        accept: tuple[str, ...] = OPS,
        public_key: PublicKey | None = None,
        operations: Any = None,
        limits: Limits = Limits(),  # noqa: B008  frozen
        now_ns: int = NOW_NS,
    ) -> None:
        self.now_ns = now_ns
        self.path = folder / "commands.sqlite"
        self.journal = Journal(self.path, now_ns)
        self.operations = Hand() if operations is None else operations
        self.published: list[tuple[str, dict[str, Any]]] = []
        self.kept_s: dict[str, int | None] = {}
        self.cleared: list[str] = []
        self.records: list[dict[str, Any]] = []
        self.withdrawn: list[str] = []
        self.operator = Operator(
            self.journal,
            TOPICS,
            DEVICE,
            accept,
            public_key,
            self.operations,
            self._publish,
            lambda kind, data: self.records.append({"kind": kind, **data}),
            withdrawn=self.withdrawn.append,
            now_ns=lambda: self.now_ns,
            limits=limits,
        )

    def _publish(self, topic: str, data: bytes, keep_s: int | None) -> None:
        if data:
            self.published.append((topic, json.loads(data)))
            self.kept_s[topic] = keep_s
        else:
            self.cleared.append(topic)

    def __enter__(self) -> Desk:
        self.operator.recover()
        return self

    def __exit__(self, *_: object) -> None:
        gate = getattr(self.operations, "gate", None)
        if isinstance(gate, threading.Event):
            gate.set()
        assert self.operator.close(60)
        self.journal.close()

    def journal_is_empty(self) -> bool:
        """Once it is closed."""
        database = sqlite3.connect(self.path)
        count: int = database.execute("SELECT count(*) FROM commands").fetchone()[0]
        database.close()
        return not count

    def say(self, message: Message) -> None:
        self.operator.handle(message)

    def states(self, op: str, command_id: str) -> list[str]:
        topic = TOPICS.command(op, command_id)
        return [each["state"] for where, each in list(self.published) if where == topic]

    def last(self, op: str, command_id: str) -> dict[str, Any]:
        topic = TOPICS.command(op, command_id)
        return [each for where, each in list(self.published) if where == topic][-1]

    def until_state(self, op: str, command_id: str, state: str) -> dict[str, Any]:
        until(lambda: state in self.states(op, command_id), f"{op} {command_id} {state}")
        return next(
            each
            for where, each in list(self.published)
            if where == TOPICS.command(op, command_id) and each["state"] == state
        )

    def until_counted(self, name: str, least: int = 1) -> None:
        until(lambda: self.operator.counters.get(name, 0) >= least, f"{least} {name}")


def failure(text: str) -> PlugmeterError:
    return PlugmeterError(text)
