"""Tombstones stay few, whatever is offered, asked for and acknowledged; and the controller misses none."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plugmeter.controller.store import open_store
from plugmeter.telemetry import ranges
from plugmeter.telemetry.outbox import DATABASE_NAME, Limits, Outbox
from plugmeter.telemetry.ranges import Ranges
from plugmeter.telemetry.record import DATA_LIMIT_BYTES, Draft, Tombstone
from plugmeter.telemetry.segments import Segments
from tests.controller.bookings import audit, document, message, receive
from tests.controller.devices import summary

SMALL = Limits(1_048_576, 0, 0.01)
MOST = SMALL.most_tombstones
KINDS = ("raw", "link", "gap", "run-ended")
TOO_LARGE = bytes(DATA_LIMIT_BYTES + 1)
FAST = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


class Ledger:
    """An outbox, its controller, and what is known of both."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / DATABASE_NAME
        self.store = open_store(str(folder / "controller.db"))
        self.chance = random.Random(1)
        self.outbox = self.open()
        self.stream = self.outbox.stream
        self.received: set[int] = set()
        """Numbers of records that the controller has, and that it has tombstones for."""
        self.buried: set[int] = set()
        self.acknowledged: set[int] = set()

    def open(self) -> Outbox:
        return Outbox(self.path, SMALL, lambda line: None)

    def close(self) -> None:
        self.outbox.close()
        self.store.close()

    def offer(self, count: int, size: int) -> None:
        for number in range(count):
            fill = b"%x" % self.chance.getrandbits(size * 4)
            self.outbox.offer(Draft(self.chance.choice(KINDS), b'{"f":"%b"}' % fill, number))
        assert self.outbox.flush(0)

    def alternate(self, count: int, size: int) -> None:
        """Each second one is too large, so that its tombstone has no neighbour."""
        for number in range(count):
            self.outbox.offer(Draft("gap", b"{}", number))
            self.outbox.offer(Draft("raw", TOO_LARGE, number))
        assert self.outbox.flush(0)

    def probe(self, count: int, size: int) -> None:
        """Handed out, and lost on the way."""
        self.outbox.next_batch(self.chance.randrange(self.produced), count, size * 100)

    def deliver(self, count: int, size: int) -> None:
        """One batch gets there, and the acknowledgement does not."""
        after = self.chance.randrange(self.produced)
        batch = self.outbox.next_batch(after, min(count, 500), size * 100)  # a message has 1,000 events
        receive(self.store, message(batch.records, batch.tombstones, stream=self.stream))
        self.received.update(each.seq for each in batch.records)
        self.buried.update(n for each in batch.tombstones for n in range(each.first, each.last + 1))

    def acknowledge(self, count: int, size: int) -> None:
        """Some of what the controller has, or only of its records."""
        known = sorted(self.received if size % 2 else self.received | self.buried)
        first = self.chance.randrange(len(known) + 1)
        self.tell(ranges.runs(known[first : first + count]))

    def deliver_records(self, count: int, size: int) -> None:
        """All records get there and are acknowledged, and no tombstone is."""
        after = 0
        while (batch := self.outbox.next_batch(after, 500, 10**6)).last > after:
            after = batch.last
            receive(self.store, message(batch.records, stream=self.stream))
            self.received.update(each.seq for each in batch.records)
        self.tell(ranges.runs(self.received))

    def reopen(self, count: int, size: int) -> None:
        if count % 2:
            self.outbox.close()
        else:
            self.outbox.abandon()
        self.outbox = self.open()

    def tell(self, wanted: Ranges) -> None:
        self.acknowledged.update(n for first, last in wanted for n in range(first, last + 1))
        self.outbox.acknowledge(wanted)
        while self.outbox.flush(0) and not self.settled(wanted):
            pass

    def settled(self, wanted: Ranges) -> bool:
        return not any(ranges.intersect(wanted, self.pending()))

    @property
    def produced(self) -> int:
        return self.outbox.account().produced

    def pending(self) -> Ranges:
        with closing(sqlite3.connect(self.path)) as connection:
            spans = Segments(connection)._spans("", ())
        return ranges.normalise(each for span in spans for each in span.living)

    def stones(self) -> list[Tombstone]:
        with closing(sqlite3.connect(self.path)) as connection:
            rows = connection.execute(
                "SELECT first, last, rank, reason, time_ns FROM tombstones ORDER BY first"
            )
            return [Tombstone(*row) for row in rows]

    def check(self) -> None:
        account, stones, pending = self.outbox.account(), self.stones(), self.pending()
        assert len(stones) <= max(MOST, 2 * (account.pending + 1))
        assert account.bytes <= SMALL.max_bytes
        assert account.adds_up
        assert account.pending == ranges.total(pending)
        assert all(left.last < right.first for left, right in pairwise(stones))
        covered = ranges.normalise((each.first, each.last) for each in stones)
        assert not ranges.intersect(covered, pending)
        let_go = ranges.subtract(((1, account.produced),), pending)
        evicted = ranges.subtract(let_go, ranges.runs(self.acknowledged))
        assert not ranges.subtract(evicted, covered)  # each is told of
        assert ranges.total(evicted) <= account.unannounced
        self.audit()

    def audit(self) -> None:
        """The controller never finds anything lost."""
        told = {**asdict(self.outbox.account()), "adds_up": None}
        receive(self.store, document("summary", summary(told)))
        found = audit(self.store, self.stream)
        assert (found.lost, found.faults) == (0, ())

    def deliver_all(self) -> None:
        """Until the device has nothing left."""
        while self.outbox.account().pending or self.outbox.account().unannounced:
            after = 0
            while (batch := self.outbox.next_batch(after, 500, 10**6)).last > after:
                after = batch.last
                receive(self.store, message(batch.records, batch.tombstones, stream=self.stream))
                spans = [(each.seq, each.seq) for each in batch.records]
                spans += [(each.first, each.last) for each in batch.tombstones]
                self.outbox.acknowledge(spans)
                assert self.outbox.flush(0)
        self.audit()
        found = audit(self.store, self.stream)
        every = ((1, self.produced),)
        assert ranges.merge(found.books.stored, found.books.buried) == every
        assert found.pending == 0
        account = self.outbox.account()
        # What the device let go of unread is buried, and it is not more than the controller knows.
        assert account.tombstoned <= found.tombstoned
        assert ranges.total(ranges.subtract(every, found.books.stored)) <= account.tombstoned


@contextmanager
def ledger() -> Iterator[Ledger]:
    folder = Path(tempfile.mkdtemp(prefix="pm-tombs-", dir=FAST))
    try:
        made = Ledger(folder)
        try:
            yield made
        finally:
            made.close()
    finally:
        shutil.rmtree(folder)


STEPS = ("offer", "alternate", "probe", "deliver", "deliver_records", "acknowledge", "reopen")


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(STEPS), st.integers(1, 700), st.sampled_from([5, 40, 301])),
        min_size=4,
        max_size=14,
    )
)
def test_they_stay_few_and_none_is_missed(steps: list[tuple[str, int, int]]) -> None:
    with ledger() as each:
        for step, count, size in steps:
            getattr(each, step)(count, size)
            each.check()
        each.deliver_all()


def test_a_small_outbox_is_not_choked_by_what_nobody_acknowledges() -> None:
    """One probe a commit, and no answer, for long."""
    with ledger() as each:
        for _ in range(150):
            each.offer(100, 300)
            each.outbox.next_batch(0, 100, 65_536)
        each.check()
        account = each.outbox.account()
        assert account.pending > 300
        assert account.tombstoned > 10_000
        each.deliver_all()


@pytest.mark.parametrize("probes", [False, True])
def test_tombstones_between_what_is_acknowledged_are_joined_too(probes: bool) -> None:
    with ledger() as each:
        for _ in range(8):
            each.alternate(200, 0)
            each.deliver_records(0, 0)
            if probes:
                each.outbox.next_batch(0, 1_000, 10**6)
            each.check()
        account = each.outbox.account()
        assert account.tombstoned == 1_600
        assert account.unannounced >= 1_600
        assert MOST // 2 < len(each.stones()) <= MOST  # as few are joined as must be
        each.deliver_all()


def test_only_those_that_were_handed_out_keep_their_bounds() -> None:
    with ledger() as each:
        each.outbox.offer(Draft("raw", TOO_LARGE, 1))
        each.outbox.offer(Draft("gap", b"{}", 1))
        each.outbox.offer(Draft("raw", TOO_LARGE, 1))
        assert each.outbox.flush(0)
        (stone,) = each.outbox.next_batch(0, 1, 1).tombstones or each.outbox.next_batch(1, 1, 1).tombstones
        assert (stone.first, stone.last) == (2, 2)
        each.outbox.offer(Draft("raw", TOO_LARGE, 1))
        assert each.outbox.flush(0)
        assert [(s.first, s.last) for s in each.stones()] == [(2, 2), (4, 5)]
        assert [s.last for s in each.outbox.next_batch(3, 9, 9).tombstones] == [5]
        for reopened in (False, True):
            if reopened:
                each.reopen(1, 0)  # which gives 7, a record
            each.outbox.offer(Draft("raw", TOO_LARGE, 1))
            assert each.outbox.flush(0)
        assert [(s.first, s.last) for s in each.stones()] == [(2, 2), (4, 5), (6, 6), (8, 8)]
