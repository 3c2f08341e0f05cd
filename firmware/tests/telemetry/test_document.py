"""firmware/docs/telemetry.md says what is there, and the controller in it works."""

from __future__ import annotations

import json
import os
import re
import select
import shutil
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from plugmeter.telemetry import acks, envelope, schemas
from plugmeter.telemetry.record import StoredRecord, Tombstone
from plugmeter.telemetry.topics import KINDS, Topics

TEXT = (Path(__file__).parents[2] / "docs/telemetry.md").read_text("utf-8")
EXAMPLES = re.findall(r"<!-- example: (\S+) -->\n```json\n(.*?)\n```\n", TEXT, re.DOTALL)
MOSQUITTO = shutil.which("mosquitto", path="/usr/sbin:/usr/bin:/usr/local/sbin")
STREAM = "6e0f8a52-3f0e-4a0b-9d0c-2b8f5f3a7c11"


@pytest.mark.parametrize(("name", "text"), [pair for pair in EXAMPLES if pair[0] != "batch"])
def test_an_example_is_its_schemas_own(name: str, text: str) -> None:
    assert json.loads(text) in schemas.schema(name)["examples"]
    assert schemas.decode(name, text.encode())


def test_every_message_and_record_has_an_example() -> None:
    assert {name for name, _ in EXAMPLES} == {*schemas.names(), "batch"} - {"event"}
    assert TEXT.count("```json") == len(EXAMPLES)


def test_the_batch_is_read_without_a_problem() -> None:
    (text,) = [text for name, text in EXAMPLES if name == "batch"]
    found = envelope.parse_batch(text.encode(), "bench-3")
    assert found.problems == ()
    assert [event.kind for event in found.events] == ["verdict", "tombstone"]
    assert [event.fault for event in found.events] == [None, None]


@pytest.mark.parametrize("kind", [*KINDS, "cmd/<op>/<id>"])
def test_the_table_has_every_topic(kind: str) -> None:
    assert TEXT.count(f"\n| `{kind}` |") == 1


def test_the_limits_are_the_codes() -> None:
    assert f"{envelope.BATCH_LIMIT_EVENTS:,} events and {envelope.BATCH_LIMIT_BYTES >> 20} MiB" in TEXT
    assert f"At most {acks.RANGES_LIMIT:,} ranges" in TEXT


class Program:
    """A program, and the lines that it has said so far."""

    def __init__(self, *command: str) -> None:
        self._process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, bufsize=0
        )
        self._said = b""

    def __enter__(self) -> Program:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        assert self._process.stdout
        self._process.stdout.close()

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def line(self, part: str, patience_s: float = 60) -> str | None:
        """The next line with ``part`` in it, None if it does not come."""
        assert self._process.stdout
        while True:
            while b"\n" in self._said:
                line, _, self._said = self._said.partition(b"\n")
                if part in (text := line.decode("utf-8", "replace")):
                    return text
            if not select.select([self._process.stdout], [], [], patience_s)[0]:
                return None
            more = os.read(self._process.stdout.fileno(), 65_536)
            if not more:
                return None
            self._said += more


@contextmanager
def broker(folder: Path) -> Iterator[tuple[int, Program]]:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    settings = folder / "mosquitto.conf"
    settings.write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\n")
    with Program(str(MOSQUITTO), "-v", "-c", str(settings)) as program:
        assert program.line(" running") is not None
        yield port, program


def controller(folder: Path) -> Path:
    (code,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    place = folder / "controller.py"
    place.write_text(code)
    return place


def test_the_controller_stores_once_commits_and_acknowledges(tmp_path: Path) -> None:
    if MOSQUITTO is None or shutil.which("mosquitto_pub") is None:
        pytest.skip("needs mosquitto and mosquitto-clients")
    topics = Topics("bench")
    records = [StoredRecord(seq, "link", b'{"event":"connected","details":{}}', 0) for seq in (3, 4)]
    batch = envelope.batch(STREAM, "bench", records, [Tombstone(1, 2, 0, "full", 0)])
    database = tmp_path / "events.db"
    hostile = (b"}{", b"[1]", b'[{"id":"x/y"}]', b'[{"id":"x/%b","source":""}]' % (b"9" * 99), b"\xff")

    with broker(tmp_path) as (port, server):

        def publish(payload: bytes) -> None:
            command = ["mosquitto_pub", "-p", str(port), "-q", "1", "-t", topics.records, "-s"]
            subprocess.run(command, input=payload, check=True, timeout=60)

        arguments = ("127.0.0.1", str(port), str(database))
        with (
            Program("mosquitto_sub", "-p", str(port), "-t", topics.acks, "-F", "ack %p") as listener,
            Program(sys.executable, "-u", str(controller(tmp_path)), *arguments) as program,
        ):
            assert server.line(f"{topics.acks} (QoS 0)")
            first = None
            while first is None:  # as a device does: again, until somebody acknowledges
                assert program.alive
                publish(batch)
                first = listener.line("ack ", patience_s=0.2)
            for payload in hostile:
                publish(payload)
            publish(batch)
            second = listener.line("ack ")
            assert second
            for line in (first, second):
                found = acks.decode(line.removeprefix("ack ").encode())
                assert found == acks.Acknowledgement(STREAM, ((3, 3), (4, 4), (1, 2)))
            assert program.alive

    with closing(sqlite3.connect(database)) as stored:
        rows = stored.execute("SELECT source, stream, first, last FROM event ORDER BY first").fetchall()
    assert rows == [("/plugmeter/bench", STREAM, *span) for span in ((1, 2), (3, 3), (4, 4))]
