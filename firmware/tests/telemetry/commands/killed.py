"""A device, killed and started again and again: ``python -m tests.telemetry.commands.killed DIR KILLS``.

Each start is a fork of this process, which has all imports done and no threads. The broker's memory is a
file of all that was published; the last document of a topic is retained, and handed to each start.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

from plugmeter.telemetry.commands.journal import Journal
from plugmeter.telemetry.commands.operator import Limits, Operator
from tests.telemetry.commands.orders import (
    DEVICE,
    NOW_NS,
    OPS,
    TOPICS,
    FileOperations,
    Message,
    payload,
    until,
)

ENDS = ("successful", "failed")
IDS = {f"{op}-{number}": op for number in range(6) for op in OPS}
LIMITS = Limits(waiting=1_000, commands_burst=1_000, answers_burst=1_000)


def retained(folder: Path) -> dict[str, bytes]:
    kept = {TOPICS.command(op, name): payload(op, name) for name, op in IDS.items()}
    path = folder / "published"
    for line in path.read_text().splitlines() if path.exists() else ():
        message = json.loads(line)
        kept[message["topic"]] = json.dumps(message["document"]).encode()
    return kept


def states(folder: Path) -> dict[str, str]:
    return {topic.rpartition("/")[2]: json.loads(data)["state"] for topic, data in retained(folder).items()}


def device(folder: Path) -> None:
    """One life of the device: until all has ended, or a restart was asked for."""
    published = os.open(folder / "published", os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def publish(topic: str, data: bytes, keep_s: int | None) -> None:
        line: dict[str, Any] = {"topic": topic, "document": json.loads(data)}
        os.write(published, f"{json.dumps(line)}\n".encode())

    journal = Journal(folder / "commands.sqlite", NOW_NS)
    operations: Any = FileOperations(folder, pause_s=0.002)
    operator = Operator(
        journal, TOPICS, DEVICE, OPS, None, operations, publish, lambda kind, data: None,
        now_ns=lambda: NOW_NS, limits=LIMITS,
    )  # fmt: skip
    operator.recover()
    for topic, data in retained(folder).items():
        operator.handle(Message(topic, data, retain=True))

    def over() -> bool:
        begun = {line.split()[1] for line in operations.lines("begun") if line.startswith("restart ")}
        now = states(folder)
        return all(state in ENDS for state in now.values()) or any(
            now[name] == "executing" and name in begun for name in now if IDS[name] == "restart"
        )

    until(over, "the end of all commands")
    operator.close(60)


def main() -> None:
    folder, kills = Path(sys.argv[1]), int(sys.argv[2])
    draw = random.Random(int.from_bytes(os.urandom(4)))
    killed = lives = 0
    while True:
        child = os.fork()
        if not child:
            status = 1
            try:
                device(folder)
                status = 0
            finally:
                os._exit(status)
        lives += 1
        if killed < kills:
            time.sleep(draw.uniform(0.0, 0.08))
            os.kill(child, signal.SIGKILL)
            killed += 1
        _, status = os.waitpid(child, 0)
        if os.waitstatus_to_exitcode(status) not in (0, -signal.SIGKILL):
            sys.exit(f"a life of the device ended with {status}")
        if killed == kills and all(state in ENDS for state in states(folder).values()):
            break
        if lives > kills + 60:
            sys.exit(f"it never ends: {states(folder)}")
    print(json.dumps({"kills": killed, "lives": lives, "ids": list(IDS), "retained": states(folder)}))


if __name__ == "__main__":
    main()
