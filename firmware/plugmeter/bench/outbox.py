"""What the outbox writes and how fast it is: against one SQLite commit for each record, in the same run."""

from __future__ import annotations

import os
import random
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from plugmeter.errors import PlugmeterError
from plugmeter.telemetry.outbox import DATABASE_NAME, Limits, Outbox
from plugmeter.telemetry.record import Draft

RECORD_BYTES: Final = 300
_LIMITS: Final = Limits(268_435_456, 0, 0.2)
_BATCH: Final = 500
_GUARD_S: Final = 600.0
_PEER_MOST: Final = 2_000


@dataclass(frozen=True, slots=True)
class Burst:
    """One burst of records of 300 bytes; bytes as write(2) and its kin were given them, a record each."""

    what: str
    records: int
    per_s: float
    """From the first that was offered to the commit of the last."""
    burst_bytes: float
    """Until the last was committed."""
    life_bytes: float
    """Until all were acknowledged, deleted and the log was copied back."""


def random_record(number: int) -> bytes:
    """One that no compression makes smaller."""
    return random.Random(number).randbytes(RECORD_BYTES)


def json_record(number: int) -> bytes:
    """One like a verdict: JSON, whose words repeat and whose numbers do not."""
    chance = random.Random(number)
    text = (
        f'{{"run":"0190c2f4-6d1e-7c3a-9f00-{chance.randrange(16**4):012x}","port":"1-1.{number % 8}",'
        f'"episode":{number},"outcome":"matched","stage":null,"direction":"on","t_ns":{chance.randrange(10**15)},'
        f'"latency_ns":{chance.randrange(10**9)},"seqnum":{number * 12},"witnesses":["gpio","netlink","udev",'
        f'"inotify"],"serial":"'
    ).encode()
    rest = RECORD_BYTES - len(text) - 2
    return text + chance.randbytes(rest).hex()[:rest].encode() + b'"}'


KINDS: Final[dict[str, Callable[[int], bytes]]] = {"JSON": json_record, "random": random_record}


def measure(records: int, runs: int, progress: Callable[[str], None]) -> tuple[list[Burst], Burst]:
    """Medians of ``runs``: bursts of each kind, and the peer's. Raises PlugmeterError where /proc or the disk
    refuse."""
    with tempfile.TemporaryDirectory(prefix="plugmeter-bench-") as name:
        place = Path(name)
        bursts = []
        for kind, make in KINDS.items():
            progress(f"{runs} bursts of {records} records, {kind}")
            drafts = [Draft("verdict", make(number), number) for number in range(records)]
            bursts.append(_median([_burst(place / f"{kind}{run}", kind, drafts) for run in range(runs)]))
        most = min(records, _PEER_MOST)
        progress(f"{runs} times {most} records, each committed by itself")
        return bursts, _median([_one_by_one(place / f"peer{run}", most) for run in range(runs)])


def _burst(place: Path, what: str, drafts: list[Draft]) -> Burst:
    outbox = Outbox(place / DATABASE_NAME, _LIMITS, _complain)
    outbox.start()
    before = _written()
    began_ns = time.perf_counter_ns()
    for draft in drafts:
        if not outbox.offer(draft, wait_s=_GUARD_S):
            raise PlugmeterError("the outbox took no more records: is the disk full?")
    if not outbox.flush(_GUARD_S):
        raise PlugmeterError(outbox.trouble or "the outbox was not written in time")
    seconds = (time.perf_counter_ns() - began_ns) / 1e9
    committed = _written() - before
    after = 0
    while (batch := outbox.next_batch(after, _BATCH, 1 << 20)).last > after:
        after = batch.last
        outbox.acknowledge([(batch.records[0].seq, batch.last)])
    if not outbox.flush(_GUARD_S) or outbox.account().pending or not outbox.account().adds_up:
        raise PlugmeterError("the outbox's books do not add up after the burst")
    outbox.close()
    count = len(drafts)
    return Burst(what, count, count / seconds, committed / count, (_written() - before) / count)


def _one_by_one(place: Path, records: int) -> Burst:
    place.mkdir()
    connection = sqlite3.connect(place / "peer.sqlite", isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute(
        "CREATE TABLE records (seq INTEGER PRIMARY KEY, kind TEXT, time_ns INTEGER, data BLOB)"
    )
    before = _written()
    began_ns = time.perf_counter_ns()
    for number in range(records):
        connection.execute(
            "INSERT INTO records VALUES (?, 'verdict', ?, ?)", (number, number, json_record(number))
        )
    seconds = (time.perf_counter_ns() - began_ns) / 1e9
    committed = _written() - before
    for number in range(records):
        connection.execute("DELETE FROM records WHERE seq = ?", (number,))
    connection.close()
    return Burst("peer", records, records / seconds, committed / records, (_written() - before) / records)


def _median(bursts: list[Burst]) -> Burst:
    def middle(figure: Callable[[Burst], float]) -> float:
        return statistics.median(figure(each) for each in bursts)

    return Burst(
        bursts[0].what,
        bursts[0].records,
        middle(lambda each: each.per_s),
        middle(lambda each: each.burst_bytes),
        middle(lambda each: each.life_bytes),
    )


def _written() -> int:
    """What this process has given to write(2) and its kin (proc(5): /proc/self/io, wchar)."""
    try:
        with open("/proc/self/io", encoding="ascii") as file:
            return next(int(line.split()[1]) for line in file if line.startswith("wchar:"))
    except (OSError, StopIteration):
        raise PlugmeterError(
            "the kernel does not say here what a process writes (/proc/self/io); run it on another"
        ) from None


def _complain(line: str) -> None:
    os.write(2, f"{line}\n".encode())
