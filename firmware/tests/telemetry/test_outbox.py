"""The outbox as the daemon uses it: identity, the intake, reading, acknowledging, eviction, damage."""

from __future__ import annotations

import json
import os
import random
import resource
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from plugmeter import sections
from plugmeter.errors import PlugmeterError
from plugmeter.telemetry.age import Instant
from plugmeter.telemetry.intake import Intake
from plugmeter.telemetry.outbox import DATABASE_NAME, Limits, Outbox, limits_of
from plugmeter.telemetry.record import DATA_LIMIT_BYTES, Draft, Rank, StoredRecord, Tombstone
from tests.namespace import in_child

LIMITS = Limits(67_108_864, 0, 0.01)
SMALL = Limits(1_048_576, 0, 0.01)
DAY_NS = 86_400 * 10**9
GUARD_S = 60
NOISE = random.Random(4).randbytes(300_000)


def draft(number: int, kind: str = "verdict", size: int = 300) -> Draft:
    """One that cannot be compressed."""
    return Draft(kind, b"%d " % number + random.Random(number).randbytes(size), number)


@contextmanager
def opened(path: Path, limits: Limits = LIMITS, told: list[str] | None = None) -> Iterator[Outbox]:
    """Without its thread: what is offered is committed by ``flush``."""
    outbox = Outbox(path, limits, (told if told is not None else []).append)
    try:
        yield outbox
    finally:
        outbox.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / DATABASE_NAME


def everything(outbox: Outbox) -> tuple[list[StoredRecord], list[Tombstone]]:
    records: list[StoredRecord] = []
    tombstones: list[Tombstone] = []
    after = 0
    while (batch := outbox.next_batch(after, 500, 10**6)).last > after:
        records += batch.records
        tombstones += batch.tombstones
        after = batch.last
    return records, tombstones


def said(record: StoredRecord) -> dict[str, object]:
    value = json.loads(record.data)
    assert isinstance(value, dict)
    return value


def test_the_first_record_names_the_stream_and_the_next_start_says_how_it_ended(path: Path) -> None:
    with opened(path) as outbox:
        stream = outbox.stream
        (first,) = everything(outbox)[0]
        assert (first.seq, first.kind) == (1, "stream")
        assert said(first) == {"previous": None, "reason": "new", "set_aside": None}
    with opened(path) as outbox:
        assert outbox.stream == stream
        assert said(everything(outbox)[0][-1]) == {"clean": True}
        outbox.abandon()
    with opened(path) as outbox:
        last = everything(outbox)[0][-1]
        assert (last.seq, last.kind, said(last)) == (3, "start", {"clean": False, "window_ms": 10})


def test_a_database_that_is_gone_is_told(path: Path) -> None:
    with opened(path) as outbox:
        stream = outbox.stream
    path.unlink()
    with opened(path) as outbox:
        assert outbox.stream != stream
        assert said(everything(outbox)[0][0]) == {"previous": stream, "reason": "lost", "set_aside": None}


def test_damage_begins_a_new_stream_that_knows_the_old_one(path: Path) -> None:
    with opened(path) as outbox:
        stream = outbox.stream
        outbox.offer(draft(1))
    path.write_bytes(NOISE)
    told: list[str] = []
    with opened(path, told=told) as outbox:
        assert outbox.stream != stream
        first = said(everything(outbox)[0][0])
        assert (first["previous"], first["reason"]) == (stream, "corrupt")
        assert Path(str(first["set_aside"])).read_bytes() == NOISE
        assert outbox.account().adds_up
    assert len(told) == 1


def change(path: Path, sql: str) -> None:
    connection = sqlite3.connect(path)
    with connection:
        connection.execute(sql)
    connection.close()


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE books SET stream = 'no uuid'",
        "UPDATE books SET produced = -1",
        "UPDATE segments SET gone = 'nonsense'",
        "UPDATE segments SET last = 0",
        "UPDATE segments SET live = 0",
        "UPDATE bodies SET body = x'00'",
        "UPDATE bodies SET body = zeroblob(3000)",
        "DELETE FROM bodies",
        "UPDATE segments SET last = last + 5, live = live + 5",
    ],
)
def test_a_database_that_makes_no_sense_is_set_aside(path: Path, sql: str) -> None:
    with opened(path) as outbox:
        stream = outbox.stream
        outbox.offer(draft(1))
    change(path, sql)
    told: list[str] = []
    with opened(path, told=told) as outbox:
        assert outbox.stream != stream
        assert outbox.account().adds_up
    assert len(told) == 1
    assert "set aside" in told[0]


@pytest.mark.parametrize(("sql", "word"), [("acknowledged = 3", "too many"), ("produced = 9", "missing")])
def test_books_that_do_not_add_up_are_told_recorded_and_not_corrected(
    path: Path, sql: str, word: str
) -> None:
    with opened(path) as outbox:
        stream = outbox.stream
        outbox.offer(draft(1))
    change(path, f"UPDATE books SET {sql}")
    for _ in range(2):
        told: list[str] = []
        with opened(path, told=told) as outbox:
            assert outbox.stream == stream
            assert not outbox.account().adds_up
            start = everything(outbox)[0][-1]
            assert word in str(said(start)["books"])
        assert len(told) == 2  # at its start and at its end
        assert all(word in each for each in told)


def test_a_number_is_never_given_twice_even_if_the_books_were_wrong(path: Path) -> None:
    with opened(path) as outbox:
        for number in range(50):
            outbox.offer(draft(number))
    change(path, "UPDATE books SET produced = 10")
    with opened(path) as outbox:
        numbers = [each.seq for each in everything(outbox)[0]]
        assert numbers == list(range(1, 53))


def test_damage_that_is_found_while_it_runs(path: Path) -> None:
    told: list[str] = []
    with opened(path, told=told) as outbox:
        outbox.start()
        stream = outbox.stream
        outbox.offer(draft(1))
        assert outbox.flush(GUARD_S)
        change(path, "UPDATE bodies SET body = zeroblob(100)")
        assert outbox.next_batch(0, 10, 10**6).records == ()
        outbox.offer(draft(2))
        give_up = time.monotonic() + GUARD_S
        while outbox.stream == stream and time.monotonic() < give_up:
            time.sleep(0.01)
        assert outbox.flush(GUARD_S)
        batch = outbox.next_batch(0, 10, 10**6)
        assert batch.stream == outbox.stream != stream
        assert batch.records[0].kind == "stream"
        assert said(batch.records[0])["reason"] == "corrupt"
        assert outbox.trouble is None
        outbox.acknowledge([(1, 99)], stream=stream)  # of the stream that is no more
        assert outbox.flush(GUARD_S)
        assert outbox.account().acknowledged == 0
        assert outbox.account().adds_up
    assert sum("set aside" in line for line in told) == 1


def test_a_database_that_is_removed_under_it(path: Path) -> None:
    with opened(path) as outbox:
        outbox.start()
        stream = outbox.stream
        for each in path.parent.glob(f"{path.name}*"):
            each.unlink()
        outbox.offer(draft(1))
        outbox.flush(1)
        outbox.offer(draft(2))
        assert outbox.flush(GUARD_S)
        assert outbox.trouble is None
        # either SQLite goes on with the file that nobody sees, or it notices, and a new stream begins
        if outbox.stream != stream:
            assert said(everything(outbox)[0][0])["reason"] == "lost"
        assert outbox.account().adds_up


def test_another_daemon_is_refused_by_name(path: Path) -> None:
    with (
        opened(path),
        pytest.raises(PlugmeterError, match=rf"another plugmeter \(pid {os.getpid()}\) uses {path.parent}"),
    ):
        Outbox(path, LIMITS, lambda line: None)


def test_what_is_too_large_gets_a_number_and_a_tombstone(path: Path) -> None:
    with opened(path) as outbox:
        assert outbox.offer(Draft("raw", bytes(DATA_LIMIT_BYTES), 1))
        assert not outbox.offer(Draft("raw", bytes(DATA_LIMIT_BYTES + 1), 1), wait_s=GUARD_S)
        assert not outbox.offer(Draft("verdict", bytes(DATA_LIMIT_BYTES + 1), 1))
        assert outbox.offer(draft(7))
        assert outbox.flush(0)
        records, tombstones = everything(outbox)
        assert [each.seq for each in records] == [1, 2, 5]
        assert [(each.first, each.last, each.rank, each.reason) for each in tombstones] == [
            (3, 3, Rank.RAW, "too_large"),
            (4, 4, Rank.VERDICT, "too_large"),
        ]
        assert outbox.counters["too_large"] == 2


def test_a_full_intake_counts_and_buries(path: Path) -> None:
    outbox = Outbox(path, LIMITS, lambda line: None, intake=Intake(10, 100_000))
    taken = [outbox.offer(draft(number, kind)) for number in range(30) for kind in ("raw", "verdict")]
    assert taken == [True] * 10 + [False] * 50
    assert outbox.pending_now() == 11
    assert outbox.flush(0)
    records, tombstones = everything(outbox)
    assert [each.seq for each in records] == list(range(1, 12))
    assert sorted((each.rank, each.count, each.reason) for each in tombstones) == [
        (Rank.RAW, 25, "intake_full"),
        (Rank.VERDICT, 25, "intake_full"),
    ]
    assert outbox.account().adds_up
    assert outbox.offer(draft(1))
    outbox.close()


def test_who_may_wait_finds_room_when_there_is_a_commit(path: Path) -> None:
    outbox = Outbox(path, LIMITS, lambda line: None, intake=Intake(10, 100_000))
    for number in range(10):
        assert outbox.offer(draft(number))
    outcome: list[bool] = []
    waiting = threading.Thread(target=lambda: outcome.append(outbox.offer(draft(10), wait_s=GUARD_S)))
    waiting.start()
    assert outbox.flush(0)
    waiting.join()
    assert outcome == [True]
    outbox.close()


def test_many_threads_offer_and_all_of_it_is_there_in_each_ones_order(path: Path) -> None:
    with opened(path) as outbox:
        outbox.start()

        def offer_some(first: int) -> None:
            for number in range(first, first + 2_000):
                assert outbox.offer(draft(number), wait_s=GUARD_S)

        threads = [threading.Thread(target=offer_some, args=(each * 10_000,)) for each in range(4)]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
        assert outbox.flush(GUARD_S)
        numbers = [each.time_ns for each in everything(outbox)[0][1:]]
        assert sorted(numbers) == [
            n for first in range(0, 40_000, 10_000) for n in range(first, first + 2_000)
        ]
        for first in range(0, 40_000, 10_000):
            mine = [number for number in numbers if first <= number < first + 10_000]
            assert mine == sorted(mine)
        assert outbox.progress.work > 0


def test_a_commit_is_told_and_comes_by_itself(path: Path) -> None:
    with opened(path) as outbox:
        told = threading.Event()
        outbox.on_commit(told.set)
        outbox.start()
        outbox.offer(draft(1))
        assert told.wait(GUARD_S)
        assert outbox.next_batch(1, 1, 1).records[0].time_ns == 1
        told.clear()
        outbox.off_commit(told.set)
        later = threading.Event()
        outbox.on_commit(later.set)
        outbox.offer(draft(2))
        assert later.wait(GUARD_S) and not told.is_set()


def test_its_thread_moves_while_it_is_idle(path: Path) -> None:
    with opened(path) as outbox:
        outbox.start()
        give_up = time.monotonic() + GUARD_S
        while outbox.progress.wakeups < 2 and time.monotonic() < give_up:
            time.sleep(0.05)
        assert outbox.progress.wakeups >= 2
        assert outbox.progress.work == 0


@pytest.mark.parametrize("most_records", [1, 7, 256, 1_000])
@pytest.mark.parametrize("most_bytes", [1, 4_000, 10**7])
def test_batches_are_bounded_and_complete(path: Path, most_records: int, most_bytes: int) -> None:
    with opened(path) as outbox:
        for number in range(600):
            outbox.offer(draft(number))
        outbox.flush(0)
        outbox.acknowledge([(10, 12), (300, 310), (601, 601)])
        outbox.flush(0)
        found: list[int] = []
        after = 0
        while (batch := outbox.next_batch(after, most_records, most_bytes)).last > after:
            assert len(batch.records) <= most_records
            assert sum(len(each.data) for each in batch.records[1:]) <= most_bytes
            found += [each.seq for each in batch.records]
            after = batch.last
        assert after == 601
        gone = {*range(10, 13), *range(300, 311), 601}
        assert found == [number for number in range(1, 602) if number not in gone]


def test_absurd_acknowledgements_are_counted_and_harmless(path: Path) -> None:
    with opened(path) as outbox:
        outbox.offer(draft(1))
        outbox.flush(0)
        outbox.acknowledge([(-5, 0), (2, 1), (3, 9), (2**63, 2**70), (2, 2), (2, 2)])
        assert outbox.flush(0)
        assert outbox.counters["absurd_acks"] == 4
        account = outbox.account()
        assert (account.acknowledged, account.pending, account.oldest_pending) == (1, 1, 1)
        outbox.acknowledge([(0, 10**9)])
        outbox.acknowledge([])
        assert outbox.flush(0)
        account = outbox.account()
        assert (account.acknowledged, account.pending, account.oldest_pending) == (2, 0, 3)


def test_a_tombstone_is_trimmed_and_one_that_was_handed_out_keeps_its_bounds(path: Path) -> None:
    outbox = Outbox(path, LIMITS, lambda line: None, intake=Intake(1, 100_000))

    def discard(count: int) -> None:
        while outbox.offer(draft(0)):
            pass
        for _ in range(count - 1):
            outbox.offer(draft(0))
        assert outbox.flush(0)

    def bounds() -> list[tuple[int, int]]:
        return [(each.first, each.last) for each in everything(outbox)[1]]

    discard(9)
    assert bounds() == [(3, 11)]
    outbox.acknowledge([(5, 6)])
    outbox.flush(0)
    assert bounds() == [(3, 4), (7, 11)]
    outbox.acknowledge([(1, 4), (11, 11)])
    outbox.flush(0)
    assert bounds() == [(7, 10)]
    discard(4)
    assert bounds() == [(7, 10), (13, 16)]
    account = outbox.account()
    assert (account.tombstoned, account.unannounced) == (13, 8)
    assert account.adds_up
    outbox.close()


def test_the_lowest_rank_goes_first_and_the_file_keeps_its_limit(path: Path) -> None:
    with opened(path, SMALL) as outbox:
        kinds = ["raw", "link", "verdict", "run-ended"]
        largest = 0
        for number in range(6_000):
            outbox.offer(draft(number, kinds[number % 4]), wait_s=0)
            if number % 50 == 49:
                assert outbox.flush(0)
                largest = max(largest, outbox.account().bytes)
        records, tombstones = everything(outbox)
        account = outbox.account()
        assert account.adds_up
        assert account.tombstoned > 3_000
        assert largest <= SMALL.max_bytes
        assert {each.kind for each in records} <= {"run-ended", "stream", "verdict"}
        assert {each.reason for each in tombstones} == {"full"}
        assert outbox.counters["evicted"] == account.tombstoned
        newest = [each.seq for each in records if each.kind == "run-ended"]
        assert newest == list(range(newest[0], 6_002, 4))


def test_smaller_limits_take_effect_at_once(path: Path) -> None:
    with opened(path) as outbox:
        outbox.start()
        for number in range(8_000):
            outbox.offer(draft(number), wait_s=GUARD_S)
        assert outbox.flush(GUARD_S)
        outbox.set_limits(SMALL)
        give_up = time.monotonic() + GUARD_S
        while outbox.account().tombstoned == 0 and time.monotonic() < give_up:
            time.sleep(0.01)
        account = outbox.account()
        assert account.tombstoned > 1_000
        assert account.adds_up


class Clocks:
    def __init__(self) -> None:
        self.wall_ns = 1_800_000_000 * 10**9
        self.boot_id = "one"
        self.boot_ns = 10**9

    def opened(self, path: Path) -> Outbox:
        return Outbox(
            path,
            Limits(67_108_864, 10 * DAY_NS, 0.01),
            lambda line: None,
            wall_ns=lambda: self.wall_ns,
            instant=lambda: Instant(self.boot_id, self.boot_ns),
        )


def test_age_takes_what_is_too_old_and_only_that(path: Path) -> None:
    clocks = Clocks()
    outbox = clocks.opened(path)
    for day in range(30):
        outbox.offer(draft(day))
        assert outbox.flush(0)
        records, tombstones = everything(outbox)
        young = [each.time_ns for each in records if each.kind == "verdict"]
        assert young == list(range(max(0, day - 9), day + 1))
        assert {each.reason for each in tombstones} <= {"age"}
        assert outbox.account().adds_up
        clocks.boot_ns += DAY_NS + DAY_NS // 100
        if day == 15:  # at once a new process, in the same boot
            outbox.close()
            outbox = clocks.opened(path)
    outbox.close()


@pytest.mark.parametrize("years", [-1, 1, 30, -40])
@pytest.mark.parametrize("reboot", [False, True])
def test_a_clock_on_the_wall_that_is_set_destroys_nothing(path: Path, years: int, reboot: bool) -> None:
    clocks = Clocks()
    outbox = clocks.opened(path)
    for number in range(100):
        outbox.offer(draft(number))
    outbox.flush(0)
    clocks.wall_ns += years * 365 * DAY_NS
    if reboot:
        outbox.close()
        clocks.boot_id, clocks.boot_ns = "two", 10**9
        outbox = clocks.opened(path)
    outbox.offer(draft(100))
    assert outbox.flush(0)
    records, tombstones = everything(outbox)
    assert len(records) == 102 + reboot
    assert tombstones == []
    outbox.close()


def test_tombstones_stay_few(path: Path) -> None:
    """Every second record is of a rank that stays a while: no tombstone has a neighbour of its rank."""
    with opened(path, SMALL) as outbox:
        for number in range(60_000):
            outbox.offer(draft(number, ("raw", "verdict")[number % 2], 10))
            if number % 5_000 == 4_999:
                outbox.flush(0)
                with sqlite3.connect(path) as connection:
                    (count,) = connection.execute("SELECT count(*) FROM tombstones").fetchone()
                assert count <= max(SMALL.most_tombstones, 2 * (outbox.account().pending + 1))
        assert outbox.account().adds_up
        assert outbox.account().tombstoned > 20_000
        assert outbox.account().pending > 1_000


def test_a_large_backlog_costs_neither_memory_nor_time_to_open(path: Path) -> None:
    count = 120_000
    with opened(path) as outbox:
        for first in range(0, count, 5_000):
            for number in range(first, first + 5_000):
                assert outbox.offer(draft(number, size=60))
            assert outbox.flush(0)

    def body() -> tuple[int, int]:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with opened(path) as outbox:
            seen = outbox.account().pending
            after = 0
            while (batch := outbox.next_batch(after, 500, 10**6)).last > after:
                after = batch.last
                outbox.acknowledge([(batch.records[0].seq, batch.last)])
                outbox.flush(0)
            assert outbox.account().pending == 0
        return seen, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before

    seen, grown_kib = in_child(body)
    assert seen == count + 2
    assert grown_kib < 12_000


def test_what_was_freed_is_given_back(path: Path) -> None:
    def wait_until(condition: Callable[[], bool]) -> None:
        give_up = time.monotonic() + GUARD_S
        while not condition() and time.monotonic() < give_up:
            time.sleep(0.02)
        assert condition()

    with opened(path) as outbox:
        outbox.start()
        for number in range(2_000):
            outbox.offer(draft(number, size=8_000), wait_s=GUARD_S)
        assert outbox.flush(GUARD_S)
        assert outbox.account().bytes > 15_000_000
        outbox.acknowledge([(1, 2_001)])
        assert outbox.flush(GUARD_S)
        outbox.offer(draft(1))
        wait_until(lambda: path.stat().st_size < 9_000_000)
        assert outbox.account().adds_up


def test_closing_twice_and_using_it_afterwards_is_harmless(path: Path) -> None:
    outbox = Outbox(path, LIMITS, lambda line: None)
    outbox.start()
    outbox.offer(draft(1))
    outbox.close()
    outbox.close()
    outbox.abandon()
    assert outbox.next_batch(0, 1, 1).records == ()
    assert outbox.account().produced >= 1
    assert not path.with_name(path.name + "-wal").exists()


def test_the_configuration() -> None:
    limits = limits_of(sections.Outbox(commit_interval_ms=250, max_bytes=2_097_152, max_age_days=0.5))
    assert limits == Limits(2_097_152, DAY_NS // 2, 0.25)
    assert limits_of(sections.Outbox(max_age_days=0)).max_age_ns == 0
