"""Conservation, and tombstones that are exact: a state machine drives an outbox beside a plain model of it.

The model knows of each number what became of it. The outbox commits in this thread (``flush`` without
``start``), so that nothing depends on time.
"""

from __future__ import annotations

import os
import random
import shutil
import tempfile
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from plugmeter.telemetry.age import Instant
from plugmeter.telemetry.database import open_foreign
from plugmeter.telemetry.intake import Intake
from plugmeter.telemetry.outbox import DATABASE_NAME, Limits, Outbox
from plugmeter.telemetry.reading import list_tombstones
from plugmeter.telemetry.record import DATA_LIMIT_BYTES, RANKS, Draft, StoredRecord, Tombstone

DAY_NS = 86_400 * 10**9
YEAR_NS = 365 * DAY_NS
MOST_BYTES = 1_048_576
MOST_AGE_NS = 10 * DAY_NS
KINDS = ("raw", "link", "verdict", "run-ended")
INTAKE_DRAFTS = 40
FAST = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
"""Where fsync costs nothing: what it is for has tests of its own."""
NOISE = random.Random(1).randbytes(DATA_LIMIT_BYTES + 1)


@dataclass(frozen=True)
class Kept:
    """What the model knows of a pending record."""

    kind: str
    serial: int
    born_ns: int


class Machine(RuleBasedStateMachine):
    @initialize()
    def begin(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="pm-outbox-", dir=FAST))
        self.told: list[str] = []
        self.wall_ns = 1_800_000_000 * 10**9
        self.boot = 1
        self.boot_ns = 10**9
        self.lived_ns = 0
        self.serial = 0
        self.offered: list[Kept | None] = []
        """What waits in the intake; None for a discard."""
        self.pending: dict[int, Kept] = {}
        self.acknowledged = 0
        self.produced = 0
        self.tombstoned: dict[int, tuple[int, str]] = {}
        """By number: rank and reason, as long as the controller has not acknowledged it."""
        self.tombstones = 0
        self.handed: set[tuple[int, int]] = set()
        self.outbox = self.open()
        self.saw_start("stream")

    def open(self) -> Outbox:
        return Outbox(
            self.folder / DATABASE_NAME,
            Limits(MOST_BYTES, MOST_AGE_NS, 0.2),
            self.told.append,
            wall_ns=lambda: self.wall_ns,
            instant=lambda: Instant(f"boot {self.boot}", self.boot_ns),
            intake=Intake(INTAKE_DRAFTS, 2_000_000),
        )

    def saw_start(self, kind: str) -> None:
        """Opening commits a record of its own."""
        self.produced += 1
        self.pending[self.produced] = Kept(kind, -1, self.lived_ns)
        self.settle_evictions()

    def teardown(self) -> None:
        if hasattr(self, "outbox"):
            self.outbox.close()
            shutil.rmtree(self.folder)

    @rule(kind=st.sampled_from(KINDS), count=st.integers(1, 60), size=st.sampled_from([10, 300, 9_000]))
    def offer(self, kind: str, count: int, size: int) -> None:
        for _ in range(count):
            self.offer_one(kind, size)

    @rule(kinds=st.lists(st.sampled_from(KINDS), min_size=1, max_size=20))
    def offer_a_mixture(self, kinds: list[str]) -> None:
        for kind in kinds:
            self.offer_one(kind, 2_000)

    @rule(kind=st.sampled_from(KINDS), size=st.sampled_from([100_000, DATA_LIMIT_BYTES]))
    def offer_large(self, kind: str, size: int) -> None:
        self.offer_one(kind, size)

    @rule(kind=st.sampled_from(KINDS))
    def offer_too_large(self, kind: str) -> None:
        assert not self.outbox.offer(Draft(kind, NOISE, self.wall_ns))
        self.offered.append(None)

    def offer_one(self, kind: str, size: int) -> None:
        self.serial += 1
        head = b"%d " % self.serial
        at = self.serial % 1_000
        taken = self.outbox.offer(Draft(kind, (head + NOISE[at : at + size])[:size], self.wall_ns))
        fits = sum(each is not None for each in self.offered) < INTAKE_DRAFTS
        assert taken <= fits
        self.offered.append(Kept(kind, self.serial, 0) if taken else None)

    @rule()
    def commit(self) -> None:
        assert self.outbox.flush(0)
        for each in self.offered:
            self.produced += 1
            if each is not None:
                self.pending[self.produced] = Kept(each.kind, each.serial, self.lived_ns)
        self.offered.clear()
        self.settle_evictions()

    @rule(data=st.data())
    def acknowledge(self, data: st.DataObject) -> None:
        self.commit()
        bound = st.integers(-2, self.produced + 3)
        wanted = data.draw(st.lists(st.tuples(bound, bound), max_size=4))
        self.outbox.acknowledge(wanted)
        assert self.outbox.flush(0)
        for first, last in wanted:
            for number in range(max(1, first), min(last, self.produced) + 1):
                if self.pending.pop(number, None) is not None:
                    self.acknowledged += 1
                self.tombstoned.pop(number, None)
        self.settle_evictions()

    @rule(most=st.integers(1, 50), most_bytes=st.sampled_from([1, 5_000, 1_000_000]))
    def hand_out_all(self, most: int, most_bytes: int) -> None:
        records: list[StoredRecord] = []
        tombstones: list[Tombstone] = []
        after = 0
        while after < self.produced:
            batch = self.outbox.next_batch(after, most, most_bytes)
            assert batch.last > after
            assert len(batch.records) <= most
            assert len(batch.tombstones) <= most
            assert sum(len(each.data) for each in batch.records[1:]) <= most_bytes
            assert all(after < each.seq <= batch.last for each in batch.records)
            records += batch.records
            tombstones += batch.tombstones
            after = batch.last
        self.check(records, tombstones)
        self.handed.update((each.first, each.last) for each in tombstones)

    @rule(clean=st.booleans(), power=st.booleans())
    def reopen(self, clean: bool, power: bool) -> None:
        if clean:
            self.commit()
            self.outbox.close()
        else:
            self.offered.clear()  # what waits was never produced
            self.outbox.abandon()
            self.handed.update((each.first, each.last) for each in self.look())
        if power:
            self.boot, self.boot_ns = self.boot + 1, 10**9
            self.lived_ns += self.boot_ns
        self.outbox = self.open()
        self.saw_start("start")
        batch = self.outbox.next_batch(self.produced - 1, 1, 1)
        self.handed.update((each.first, each.last) for each in batch.tombstones)
        if batch.records:
            assert (b'"clean": true' in batch.records[0].data) == clean

    @rule(step_ns=st.sampled_from([-YEAR_NS, YEAR_NS]))
    def set_wall_clock(self, step_ns: int) -> None:
        self.wall_ns += step_ns

    @rule(days=st.integers(1, 6))
    def wait(self, days: int) -> None:
        self.boot_ns += days * DAY_NS
        self.lived_ns += days * DAY_NS

    def look(self) -> list[Tombstone]:
        """The tombstones, without being handed them."""
        connection = open_foreign(self.folder / DATABASE_NAME)
        try:
            return list_tombstones(connection, 1_000_000)
        finally:
            connection.close()

    def settle_evictions(self) -> None:
        """Take over from the outbox which records it evicted, but nothing that it may not."""
        now = {
            number: (each.rank, each.reason)
            for each in self.look()
            for number in range(each.first, each.last + 1)
        }
        assert self.tombstoned.items() <= now.items()  # none is ever dropped
        new = sorted(now.keys() - self.tombstoned.keys())
        gone = {number: self.pending.pop(number, None) for number in new}
        for number in new:
            rank, reason = now[number]
            was = gone[number]
            if reason not in ("full", "age"):
                assert was is None
                continue
            assert was is not None
            assert RANKS[was.kind] == rank
            if reason == "age":
                assert self.lived_ns - was.born_ns >= MOST_AGE_NS
                assert not any(left < number for left in self.pending)
            else:
                assert not any(
                    left < number and RANKS[kept.kind] <= rank for left, kept in self.pending.items()
                )
        assert len(self.look()) < 200, "so few that none is joined that should not be"
        self.tombstoned = now
        self.tombstones += len(new)

    def check(self, records: list[StoredRecord], tombstones: list[Tombstone]) -> None:
        assert [each.seq for each in records] == sorted(self.pending)
        for record in records:
            kept = self.pending[record.seq]
            assert record.kind == kept.kind
            if kept.serial >= 0:
                head = b"%d " % kept.serial
                assert record.data.startswith(head[: len(record.data)])
        covered = [number for each in tombstones for number in range(each.first, each.last + 1)]
        assert covered == sorted(self.tombstoned)
        for left, right in pairwise(tombstones):
            if left.last + 1 == right.first and (left.rank, left.reason) == (right.rank, right.reason):
                assert self.was_handed(left) or self.was_handed(right)
        for each in tombstones:  # a name that was given keeps its bounds, but for what was acknowledged
            for name in self.handed:
                if name[0] <= each.last and each.first <= name[1]:
                    assert name[0] <= each.first
                    assert each.last <= name[1]

    def was_handed(self, tombstone: Tombstone) -> bool:
        return any(first <= tombstone.first and tombstone.last <= last for first, last in self.handed)

    @invariant()
    def books_add_up(self) -> None:
        if not hasattr(self, "outbox"):
            return
        account = self.outbox.account()
        assert account.adds_up
        assert (account.produced, account.pending) == (self.produced, len(self.pending))
        assert (account.acknowledged, account.tombstoned) == (self.acknowledged, self.tombstones)
        assert account.unannounced == len(self.tombstoned)
        assert account.oldest_pending == min(self.pending, default=self.produced + 1)
        assert account.bytes <= MOST_BYTES
        assert self.outbox.trouble is None
        assert not self.told


TestOutbox = Machine.TestCase
TestOutbox.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
