"""The outbox on a disk that fills up, fails or vanishes, and a process that is killed: nothing committed is
lost, and nothing is there twice. The proof is by counting."""

from __future__ import annotations

import errno
import json
import os
import random
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from plugmeter.errors import PlugmeterError
from plugmeter.telemetry.intake import Intake
from plugmeter.telemetry.outbox import DATABASE_NAME, Limits, Outbox
from plugmeter.telemetry.record import Draft, StoredRecord, Tombstone
from tests.namespace import in_namespace
from tests.telemetry.disks import make_read_only, mount_small

FIRMWARE = Path(__file__).parents[2]
LIMITS = Limits(67_108_864, 0, 0.005)
NOISE = random.Random(2).randbytes(100_000)
GUARD_S = 60
"""After this long something hangs; no test comes near it."""


def draft(number: int, size: int = 200) -> Draft:
    at = number * 37 % (len(NOISE) - size)
    return Draft("verdict", b"%d " % number + NOISE[at : at + size], 1)


def number_of(record: StoredRecord) -> int:
    return int(record.data.split(b" ", 1)[0]) if record.kind == "verdict" else 0


def read_all(outbox: Outbox) -> tuple[list[StoredRecord], list[Tombstone]]:
    records: list[StoredRecord] = []
    tombstones: list[Tombstone] = []
    after = 0
    while (batch := outbox.next_batch(after, 700, 10**6)).last > after:
        records += batch.records
        tombstones += batch.tombstones
        after = batch.last
    return records, tombstones


def wait_for(condition: Callable[[], bool]) -> None:
    give_up = time.monotonic() + GUARD_S
    while not condition():
        assert time.monotonic() < give_up, "it hangs"
        time.sleep(0.01)


def fill(file: Path) -> None:
    """Until the disk is full."""
    with file.open("wb", buffering=0) as filler:
        try:
            while True:
                filler.write(bytes(4_096))
        except OSError as error:
            assert error.errno == errno.ENOSPC


def produce(path: Path, seed: int, report: int) -> None:
    """The life of a child that is killed: offers, commits, acknowledges; and says what is certain by then.

    Each line: how many numbers are certain to be committed, and up to which it may have acknowledged.
    """
    chance = random.Random(seed)
    outbox = Outbox(path, Limits(2_097_152, 0, 0.002), lambda line: None)
    outbox.start()
    acknowledged = 0
    while True:
        for number in range(chance.randrange(1, 120)):
            outbox.offer(draft(number, chance.choice((20, 300, 3_000))), wait_s=5)
        assert outbox.flush(GUARD_S)
        produced = outbox.account().produced
        if chance.random() < 0.5:
            acknowledged = chance.randrange(acknowledged, produced + 1)
        os.write(report, b"%d %d\n" % (produced, acknowledged))
        outbox.acknowledge([(1, acknowledged)])


def kill_one(path: Path, seed: int) -> tuple[int, int]:
    """What the child said last before it was killed."""
    here, there = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(here)
            produce(path, seed, there)
        finally:
            os._exit(1)
    os.close(there)
    said = b""
    try:
        assert select.select([here], [], [], GUARD_S)[0]
        time.sleep(random.Random(seed).random() * 0.08)
        os.kill(child, signal.SIGKILL)
        while chunk := os.read(here, 65_536):
            said += chunk
    finally:
        os.close(here)
        _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL
    produced, acknowledged = said.splitlines()[-1].split()
    return int(produced), int(acknowledged)


def test_a_kill_at_any_moment_loses_nothing_that_was_committed(tmp_path: Path) -> None:
    path = tmp_path / DATABASE_NAME
    may_be_acknowledged = 0
    streams = set()
    for seed in range(25):
        produced, acknowledged = kill_one(path, seed)
        may_be_acknowledged = max(may_be_acknowledged, acknowledged)
        told: list[str] = []
        outbox = Outbox(path, LIMITS, told.append)
        streams.add(outbox.stream)
        account = outbox.account()
        records, tombstones = read_all(outbox)
        outbox.close()
        assert account.adds_up
        assert account.produced > produced
        numbers = [each.seq for each in records]
        buried = [number for each in tombstones for number in range(each.first, each.last + 1)]
        both = sorted(numbers + buried)
        assert len(set(both)) == len(both)  # each once
        missing = set(range(1, account.produced + 1)) - set(both)
        assert all(number <= may_be_acknowledged for number in missing)
        assert len(missing) == account.acknowledged + account.tombstoned - account.unannounced
        started = records[-1]
        assert (started.kind, json.loads(started.data)["clean"]) == ("start", False)
        assert told == []
    assert len(streams) == 1


def test_a_full_disk_loses_nothing_and_recovers_by_itself(tmp_path: Path) -> None:
    def body() -> dict[str, object]:
        mount_small(tmp_path, 4_096)
        told: list[str] = []
        intake = Intake(300, 1_000_000)
        outbox = Outbox(tmp_path / "state" / DATABASE_NAME, LIMITS, told.append, intake=intake)
        outbox.start()
        for number in range(1, 101):
            outbox.offer(draft(number))
        assert outbox.flush(GUARD_S)
        fill(tmp_path / "filler")
        offered = 100
        while outbox.trouble is None:
            offered += 1
            outbox.offer(draft(offered))
            time.sleep(0.001)
        trouble = outbox.trouble
        before = outbox.counters["intake_full"]
        refused = 0
        while refused < 50:
            offered += 1
            refused += not outbox.offer(draft(offered))
        progress = outbox.progress.wakeups
        wait_for(lambda: outbox.progress.wakeups > progress)
        (tmp_path / "filler").unlink()
        assert outbox.flush(GUARD_S)
        records, tombstones = read_all(outbox)
        account = outbox.account()
        counters = outbox.counters
        outbox.close()
        return {
            "before": before,
            "trouble": trouble,
            "after": outbox.trouble,
            "told": told,
            "offered": offered,
            "numbers": [number_of(each) for each in records[1:]],
            "buried": [(each.count, each.reason) for each in tombstones],
            "adds_up": account.adds_up,
            "produced": account.produced,
            "counters": counters,
        }

    found = in_namespace(body)
    assert "the disk is full" in str(found["trouble"])
    assert "\n" not in str(found["trouble"])
    assert found["after"] is None
    told = found["told"]
    assert isinstance(told, list)
    assert told[1:] == ["the outbox can be written again"]
    numbers = found["numbers"]
    assert isinstance(numbers, list)
    assert len(numbers) == len(set(numbers))
    assert numbers == sorted(numbers)
    counters = found["counters"]
    assert isinstance(counters, dict)
    assert counters["write_errors"] > 0
    assert found["buried"] == [(counters["intake_full"], "intake_full")]
    assert counters["intake_full"] >= 50
    assert len(numbers) + counters["intake_full"] == found["offered"]
    assert found["produced"] == found["offered"] + 1  # type: ignore[operator]  # a number
    assert found["adds_up"]


def test_it_begins_on_a_disk_that_is_full_or_read_only_with_one_line(tmp_path: Path) -> None:
    def body() -> list[str]:
        mount_small(tmp_path, 1_024)
        path = tmp_path / DATABASE_NAME
        Outbox(path, LIMITS, lambda line: None).close()
        said = []
        fill(tmp_path / "filler")
        for read_only in (False, True):
            if read_only:
                make_read_only(tmp_path)
            try:
                Outbox(path, LIMITS, lambda line: None)
                said.append("opened")
            except PlugmeterError as refused:
                said.append(str(refused))
        return [*said, *(each.name for each in tmp_path.glob("*corrupt*"))]

    full, read_only, *aside = in_namespace(body)
    assert "the disk is full" in full
    assert "ead-only" in read_only
    assert "\n" not in full + read_only
    assert aside == []


_CHILD = """
import json, os, random, sys, time
from pathlib import Path
from plugmeter.telemetry.outbox import Limits, Outbox
from tests.telemetry.test_outbox_disk import draft, number_of, read_all
def tell(line):
    os.write(1, f"told {line}\\n".encode())
outbox = Outbox(Path(sys.argv[1]), Limits(67_108_864, 0, 0.002), tell)
outbox.start()
os.write(1, b"ready\\n")
sys.stdin.readline()
def errors():
    return outbox.counters["write_errors"] + outbox.counters["read_errors"]
offered = 0
end = time.monotonic() + 20
while time.monotonic() < end and (errors() < 3 or offered < 500):
    offered += 1
    outbox.offer(draft(offered), wait_s=1)
    if offered % 20 == 0:
        outbox.flush(0.05)
        outbox.next_batch(0, 5, 10_000)
    if offered % 100 == 0:
        outbox.acknowledge([(1, 1)])
os.write(1, b"more\\n")
sys.stdin.readline()
flushed = outbox.flush(30)
records, tombstones = read_all(outbox)
account = outbox.account()
os.write(1, json.dumps({
    "flushed": flushed, "offered": offered, "numbers": [number_of(each) for each in records],
    "tombstones": len(tombstones), "adds_up": account.adds_up, "counters": outbox.counters,
    "trouble": outbox.trouble, "stream": outbox.stream,
}).encode() + b"\\n")
outbox.close()
"""


def next_line(child: subprocess.Popen[str]) -> str:
    assert child.stdout is not None
    line = child.stdout.readline()
    assert line, "the child is gone"
    return line


@pytest.mark.parametrize(
    "injection",
    [
        "fsync,fdatasync:error=EIO:when=3+4",
        "fsync,fdatasync:error=EIO:when=3+1",  # all: a commit that failed is found again in the log
        "pwrite64:error=EIO:when=20+17",
        "pwrite64:error=ENOSPC:when=20+17",
        "pread64:error=EIO:when=1+2",
    ],
)
def test_a_failing_disk_loses_nothing_and_doubles_nothing(tmp_path: Path, injection: str) -> None:
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("needs strace, to make system calls fail")
    path = tmp_path / DATABASE_NAME
    child = subprocess.Popen(
        [sys.executable, "-c", _CHILD, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(FIRMWARE)},
    )
    assert child.stdin is not None
    injector = None
    try:
        assert next_line(child) == "ready\n"
        calls = injection.split(":")[0]
        command = [strace, "-f", "-p", str(child.pid), "-e", f"trace={calls}", "-e", f"inject={injection}"]
        injector = subprocess.Popen(
            [*command, "-o", str(tmp_path / "strace")], stderr=subprocess.PIPE, text=True
        )
        assert injector.stderr is not None
        attached = injector.stderr.readline()
        if "attached" not in attached:
            pytest.skip(f"needs a system where strace may attach to a process: {attached.strip()}")
        child.stdin.write("\n")
        child.stdin.flush()
        told = []
        while (line := next_line(child)) != "more\n":
            told.append(line)
        injector.terminate()
        injector.wait()
        child.stdin.write("\n")
        child.stdin.flush()
        while not (line := next_line(child)).startswith("{"):
            told.append(line)
        found = json.loads(line)
        assert child.wait() == 0
    finally:
        for each in (injector, child):
            if each is not None and each.poll() is None:
                each.kill()
                each.wait()
    errors = found["counters"]["write_errors"] + found["counters"]["read_errors"]
    assert errors > 0, "nothing was injected"
    assert found["flushed"]
    assert found["trouble"] is None
    assert found["numbers"] == list(range(1, found["offered"] + 1))
    assert found["tombstones"] == 0
    assert found["adds_up"]
    assert not [each for each in tmp_path.iterdir() if "corrupt" in each.name]
    assert all(line.count("\n") == 1 for line in told)
    outbox = Outbox(path, LIMITS, lambda line: None)
    assert outbox.stream == found["stream"]
    assert [number_of(each) for each in read_all(outbox)[0]] == [*found["numbers"], 0]
    outbox.close()
