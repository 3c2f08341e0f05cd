"""The outbox's writer, a turn at a time: when one is due, what it commits, and what it says of that."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from plugmeter.telemetry.age import Instant
from plugmeter.telemetry.change import Handing
from plugmeter.telemetry.intake import Intake
from plugmeter.telemetry.limits import Limits
from plugmeter.telemetry.lock import StateLock
from plugmeter.telemetry.reading import Ended, Reader
from plugmeter.telemetry.record import Draft
from plugmeter.telemetry.store import Store
from plugmeter.telemetry.writer import Writer

HOUR_S = 3_600.0
LIMITS = Limits(67_108_864, 0, HOUR_S)
SOON = Limits(67_108_864, 0, 0.01)


def draft(size: int = 10) -> Draft:
    return Draft("verdict", b"x" * size, 1)


class Bench:
    """A writer with what it needs, and no thread."""

    def __init__(self, path: Path, limits: Limits = LIMITS) -> None:
        self.told: list[str] = []
        self.path = path
        self.intake = Intake(most_drafts=100)
        handing = Handing()
        lock = StateLock(path.parent)
        store = Store(
            path, limits, handing, tell=self.told.append, wall_ns=time.time_ns, now=lambda: Instant("boot", 0)
        )
        self.reader = Reader(path, handing)
        self.writer = Writer(store, self.reader, self.intake, limits, lock, self.told.append)

    def due_ns(self, hurry: bool = False) -> int:
        with self.intake.changed:
            return self.writer.due_ns(hurry)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path / "outbox.sqlite")
    made.writer.turn()  # the first looks for what is overdue
    yield made
    made.writer.abandon()


def test_nothing_is_due_soon_where_nothing_waits(bench: Bench) -> None:
    assert not bench.writer.turn()
    assert bench.due_ns() == bench.due_ns(hurry=True) > time.monotonic_ns()


def test_what_was_offered_is_due_within_the_interval_or_at_once_in_a_hurry(bench: Bench) -> None:
    before_ns = time.monotonic_ns()
    bench.intake.offer(draft(), 0)
    after_ns = time.monotonic_ns()
    hour_ns = int(HOUR_S * 1e9)
    assert before_ns + hour_ns // 2 <= bench.due_ns() <= after_ns + hour_ns
    assert bench.due_ns(hurry=True) == 0


def test_a_crowd_is_due_at_once(bench: Bench) -> None:
    for _ in range(25):
        bench.intake.offer(draft(), 0)
    assert bench.due_ns() == 0
    assert bench.writer.turn()
    assert bench.due_ns() > 0


def test_acknowledgements_are_due_as_records_are(bench: Bench) -> None:
    bench.writer.acknowledge([(1, 1)], None)
    assert time.monotonic_ns() < bench.due_ns() <= time.monotonic_ns() + int(HOUR_S * 1e9)
    assert bench.due_ns(hurry=True) == 0
    assert bench.writer.pending == 1
    assert bench.writer.turn()
    assert bench.writer.pending == 0


def test_those_of_another_stream_are_none(bench: Bench) -> None:
    bench.writer.acknowledge([(1, 1), (3, 4)], "another")
    assert not bench.writer.turn()
    assert bench.writer.counters["foreign_acks"] == 2
    bench.writer.acknowledge([(1, 1)], bench.writer.stream)
    assert bench.writer.turn()


def test_a_mark_is_reached_with_all_that_came_before_it_and_not_with_less(bench: Bench) -> None:
    writer = bench.writer
    empty = writer.mark()
    bench.intake.offer(draft(), 0)
    records = writer.mark()
    assert writer.has_done(empty) and not writer.has_done(records)
    writer.turn()
    assert writer.has_done(records)
    writer.acknowledge([(1, 1)], None)
    acks = writer.mark()
    assert not writer.has_done(acks)
    writer.turn()
    assert writer.has_done(acks)


def test_new_limits_are_due_at_once_and_once(bench: Bench) -> None:
    bench.writer.set_limits(SOON)
    assert bench.due_ns() == 0
    assert bench.writer.turn()
    assert not bench.writer.turn()


def test_a_suspicion_is_due_at_once_and_six_in_a_row_begin_a_stream(bench: Bench) -> None:
    stream = bench.writer.stream
    bench.writer.acknowledge([(1, 1)], stream)
    mark = bench.writer.mark()
    for _ in range(5):
        bench.writer.suspect("batch", "it looks odd")
        bench.writer.suspect("batch", "it looks odd")  # not mended yet: counts once
        assert bench.due_ns() == 0
        bench.writer.turn()  # which finds nothing wrong
    assert (bench.writer.stream, bench.told) == (stream, [])
    bench.intake.offer(draft(), 0)
    bench.writer.acknowledge([(1, 1)], stream)
    bench.writer.suspect("batch", "it looks odd again")
    bench.writer.turn()
    assert bench.writer.stream != stream
    assert bench.writer.has_done(mark)
    assert (
        bench.writer.pending == 2
    )  # the stream's own record, not acknowledged by the old stream's, and ours
    assert len(bench.told) == 1
    assert "it looks odd again" in bench.told[0]


def test_suspicions_of_different_questions_or_answered_ones_begin_no_stream(bench: Bench) -> None:
    stream = bench.writer.stream
    for question in ["batch"] * 5 + ["account"] * 5:
        bench.writer.suspect(question, "it looks odd")
        bench.writer.turn()
    bench.writer.no_doubt("batch")
    for _ in range(5):
        bench.writer.suspect("batch", "it looks odd")
        bench.writer.turn()
    assert (bench.writer.stream, bench.told) == (stream, [])


def test_acknowledgements_of_a_stream_that_ended_never_count_for_the_next(bench: Bench) -> None:
    """Also where the next one takes several attempts: the file that names it cannot be written."""
    stream_file = bench.path.with_name(bench.path.name + ".stream")
    stream = bench.writer.stream
    bench.writer.acknowledge([(1, 1)], stream)
    mark = bench.writer.mark()
    stream_file.unlink()
    stream_file.mkdir()
    for _ in range(6):
        bench.writer.suspect("account", "it looks odd")
        bench.writer.turn()
    for _ in range(5):
        assert bench.writer.turn()
        assert bench.writer.trouble.text is not None
    assert len(list(bench.path.parent.glob("*.corrupt-*"))) == 1  # and not another one for each attempt
    assert len([line for line in bench.told if "set aside" in line]) == 1
    stream_file.rmdir()
    bench.writer.turn()
    assert bench.writer.stream != stream
    account = bench.reader.account()
    assert (account.produced, account.acknowledged, account.pending) == (1, 0, 1)
    assert bench.writer.has_done(mark)
    assert stream_file.read_text().strip() == bench.writer.stream


def test_who_wants_to_know_of_commits_hears_of_those_with_something_new(bench: Bench) -> None:
    heard: list[int] = []

    def callback() -> None:
        heard.append(bench.reader.account().pending)  # the writer holds no lock of the reader's

    bench.writer.on_commit(callback)
    bench.intake.offer(draft(), 0)
    bench.writer.turn()
    assert heard == [2]
    bench.writer.acknowledge([(1, 1)], None)
    bench.writer.turn()
    assert heard == [2]
    bench.writer.off_commit(callback)
    bench.intake.offer(draft(), 0)
    bench.writer.turn()
    assert heard == [2]


def test_more_than_a_transaction_takes_is_taken_in_order(bench: Bench) -> None:
    size = 262_000
    for _ in range(30):
        bench.intake.offer(draft(size), 0)
    turns = 0
    while bench.intake.drafts():
        assert bench.writer.turn()
        turns += 1
    assert turns > 1
    assert bench.writer.counters["commits"] >= turns
    assert bench.writer.pending == 31


def test_after_the_end_there_are_no_turns_and_the_directory_is_free(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "outbox.sqlite")
    bench.intake.offer(draft(), 0)
    bench.writer.close(flushed=False)
    assert bench.told == ["the outbox was closed with 1 records that could not be written: no time was left"]
    assert bench.writer.closed
    assert not bench.writer.turn()
    with pytest.raises(Ended):
        bench.reader.account()
    StateLock(tmp_path).close()
