"""Records are deleted after their time; the audit still counts them, and known when they come again."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from plugmeter.controller import queries
from plugmeter.controller.retention import AT_ONCE, DAY_MS, ROUND_S, Retention
from plugmeter.controller.store import Store, open_store
from plugmeter.telemetry import ranges
from plugmeter.telemetry.record import Tombstone
from tests.controller.bookings import OTHER, STREAM, audit, document, message, receive, run_ended, verdicts
from tests.controller.devices import account, stored, summary, verdict

NOW_MS = 1_795_300_000_000


def keep(store: Store, days: int, now_ms: int) -> int:
    """One whole round. How many it deleted."""
    retention = Retention(store, days, lambda line: None)
    round_through(retention, now_ms)
    return retention.counters["deleted"]


def round_through(retention: Retention, now_ms: int, now: float = 1.0) -> list[int]:
    """Turns until it rests; how many each of them deleted."""
    steps = []
    for _ in range(10_000):
        before = retention.counters["deleted"]
        retention.turn(now, now_ms)
        steps.append(retention.counters["deleted"] - before)
        if retention.resting:
            return steps
        now += retention.patience_s(now)
    raise AssertionError("it never rests")


def many(numbers: Iterable[int], stream: str = STREAM, device: str = "bench-1") -> list[tuple[str, bytes]]:
    """As many batches as it takes."""
    left = list(numbers)
    return [
        message(verdicts(*left[first : first + 1_000]), stream=stream, device=device)
        for first in range(0, len(left), 1_000)
    ]


def bodies(store: Store) -> list[int]:
    with store.reading() as session:
        return [row[0] for row in session.rows("SELECT seq FROM record ORDER BY seq")]


def test_what_is_old_is_deleted_and_still_accounted_for(store: Store) -> None:
    receive(store, message(verdicts(*range(1, 51)), [Tombstone(51, 60, 0, "full", 1)]), now_ms=NOW_MS)
    receive(store, message(verdicts(*range(61, 81))), now_ms=NOW_MS + 3 * DAY_MS)
    receive(store, document("summary", summary(account(STREAM, 90, 70, 10, 81))))
    before = audit(store)
    assert keep(store, 7, NOW_MS + 7 * DAY_MS) == 0, "not a millisecond early"
    assert keep(store, 7, NOW_MS + 7 * DAY_MS + 1) == 50
    assert bodies(store) == list(range(61, 81))
    after = audit(store)
    assert after.ok
    assert (after.produced, after.stored, after.tombstoned, after.pending) == (90, 70, 10, 10)
    assert after.books.stored == after.books.covered == before.books.stored
    assert after.books.deleted == ((1, 50),)
    assert "50 of the stored are older than is kept: deleted since" in after.notes


def test_what_was_deleted_is_a_duplicate_when_it_comes_again(store: Store) -> None:
    receive(store, message(verdicts(*range(1, 11))), now_ms=NOW_MS)
    assert keep(store, 1, NOW_MS + 2 * DAY_MS) == 10
    again = message([*verdicts(3, 4, 5), *verdicts(11)])
    booked = receive(store, again, again, now_ms=NOW_MS + 2 * DAY_MS)
    assert booked.acknowledge == {"bench-1": {STREAM: ((3, 5), (11, 11))}}
    assert (booked.records, booked.duplicates, booked.conflicts) == (1, 7, 0)
    assert bodies(store) == [11], "and it is not stored anew"
    with store.reading() as session:
        device = queries.device(session, "bench-1")
    assert device is not None
    assert (device.records, device.verdicts, device.duplicates) == (11, 11, 7)
    assert audit(store).ok


def test_what_differs_from_what_is_still_there_is_a_conflict_as_ever(store: Store) -> None:
    receive(store, message(verdicts(1, 2)), now_ms=NOW_MS)
    receive(store, message(verdicts(3)), now_ms=NOW_MS + DAY_MS)
    assert keep(store, 1, NOW_MS + DAY_MS + 1) == 2
    different = [stored(n, "verdict", verdict(99), NOW_MS * 1_000_000) for n in (1, 2, 3)]
    booked = receive(store, message(different), now_ms=NOW_MS + DAY_MS)
    assert booked.acknowledge == {"bench-1": {STREAM: ((1, 3),)}}
    assert (booked.duplicates, booked.conflicts) == (2, 1)


def test_another_hand_is_still_found(store: Store) -> None:
    receive(store, message(verdicts(1, 2, 3)), now_ms=NOW_MS)
    receive(store, message(verdicts(4, 5, 6)), now_ms=NOW_MS + DAY_MS)
    keep(store, 1, NOW_MS + DAY_MS + 1)
    with store.writing() as session:
        session.run("DELETE FROM record WHERE seq = 5")
    assert audit(store).faults == (
        "the database was changed by another hand: its index does not fit its records at 5",
    )
    booked = receive(store, message(verdicts(5)), now_ms=NOW_MS + DAY_MS)
    assert booked.acknowledge == {"bench-1": {STREAM: ((5, 5),)}}, "and its coming again ends nobody"


def test_one_that_came_late_stays_and_holds_up_nothing(store: Store) -> None:
    last = 2 * AT_ONCE + 500
    receive(store, *many(n for n in range(1, last + 1) if n != 7), now_ms=NOW_MS)
    receive(store, message(verdicts(7)), now_ms=NOW_MS + DAY_MS)
    assert keep(store, 1, NOW_MS + DAY_MS + 1) == last - 1
    assert bodies(store) == [7]
    finding = audit(store)
    assert finding.books.deleted == ((1, 6), (8, last))
    assert finding.books.stored == finding.books.covered == ((1, last),)
    assert keep(store, 1, NOW_MS + 2 * DAY_MS + 1) == 1
    assert audit(store).books.deleted == ((1, last),)


def test_a_turn_is_bounded_and_all_streams_have_theirs(store: Store) -> None:
    receive(store, *many(range(1, 1_501)), now_ms=NOW_MS)
    receive(store, *many(range(1, 1_201), OTHER, "bench-2"), now_ms=NOW_MS)
    retention = Retention(store, 1, lambda line: None)
    steps = round_through(retention, NOW_MS + 2 * DAY_MS)
    assert max(steps) == AT_ONCE
    assert [step for step in steps if step] == [AT_ONCE, 500, AT_ONCE, 200]
    assert bodies(store) == []


def test_it_may_delete_while_another_controller_books_the_same(database: str) -> None:
    """Old numbers come again and again through one, while the other deletes them."""
    open_store(database).close()
    failures: list[BaseException] = []
    deleted: list[int] = []
    done = threading.Event()

    def book() -> None:
        store = open_store(database)
        try:
            for first in range(1, 600, 13):
                batch = message(verdicts(*range(max(1, first - 40), first + 13)))
                booked = receive(store, batch, now_ms=NOW_MS)
                assert booked.conflicts == 0
        except BaseException as failure:
            failures.append(failure)
            raise
        finally:
            done.set()
            store.close()

    def delete() -> None:
        store = open_store(database)
        try:
            while not done.is_set():
                deleted.append(keep(store, 1, NOW_MS + 2 * DAY_MS))
            deleted.append(keep(store, 1, NOW_MS + 2 * DAY_MS))
        except BaseException as failure:
            failures.append(failure)
            raise
        finally:
            store.close()

    threads = [threading.Thread(target=each) for each in (book, delete)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    store = open_store(database)
    finding = audit(store)
    assert bodies(store) == []
    assert finding.ok
    assert finding.books.deleted == finding.books.stored == finding.books.covered == ((1, sum(deleted)),)
    store.close()


def test_the_page_shows_what_is_left(store: Store) -> None:
    """Sums stay; what lists records lists those that are there."""
    lost = verdicts(1, 2, lost=True)
    receive(store, message([*lost, run_ended(3, NOW_MS, ("udevd", 5))]), now_ms=NOW_MS)
    young = [stored(4, "verdict", verdict(4, lost=True), NOW_MS * 1_000_000 - 10**15)]
    receive(store, message(young), now_ms=NOW_MS + DAY_MS)
    keep(store, 1, NOW_MS + DAY_MS + 1)
    with store.reading() as session:
        device = queries.device(session, "bench-1")
        assert device is not None
        assert (device.verdicts, device.losses, device.runs_valid) == (3, 3, 1)
        assert [each.seq for each in queries.losses(session, device.id, 1)] == [4], (
            "nothing stands in its way"
        )
        assert session.rows("SELECT topic, seq FROM notable") == [("loss", 4)]
        (run,) = queries.runs(session, device.id, 9)
        assert (run.valid, run.expected, run.report) == (True, 1, {})
        assert sum(n for *_, n in queries.hours(session, device.id, 0)) == 3
        assert [row[3] for row in queries.listeners(session, device.id, 9)] == [5]


def test_trouble_is_told_once_and_ends_nothing(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A folder in the place of the database, for a while."""
    folder = tmp_path_factory.mktemp("trouble")
    path = folder / "controller.db"
    store = open_store(str(path))
    receive(store, message(verdicts(1, 2)), now_ms=NOW_MS)
    store.close()
    told: list[str] = []
    store = open_store(str(path))
    store.close()
    path.rename(folder / "moved.db")
    path.mkdir()
    retention = Retention(store, 1, told.append)
    for now in (1.0, 2 * ROUND_S, 4 * ROUND_S):
        retention.turn(now, NOW_MS + 2 * DAY_MS)
    assert len(told) == 1
    assert "old records are not deleted until it can be written again" in told[0]
    assert retention.counters == {"deleted": 0, "delete_failures": 3}
    path.rmdir()
    (folder / "moved.db").rename(path)
    retention.turn(6 * ROUND_S, NOW_MS + 2 * DAY_MS)
    assert retention.counters["deleted"] == 2
    store.close()


_LIVES = st.lists(
    st.one_of(
        st.tuples(st.just("come"), st.lists(st.integers(1, 40), min_size=1, max_size=12, unique=True)),
        st.tuples(st.just("days"), st.integers(1, 3)),
        st.tuples(st.just("keep"), st.integers(1, 4)),
    ),
    max_size=14,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(life=_LIVES)
def test_whatever_is_deleted_when_the_books_stay_right(
    store: Store, life: list[tuple[str, int | list[int]]]
) -> None:
    """Against a model: number to day on which it came."""
    stream = str(uuid.uuid4())
    device = f"d{stream[:8]}"
    came: dict[int, int] = {}
    there: set[int] = set()
    day = 0
    for what, value in life:
        if isinstance(value, list):
            booked = receive(
                store,
                message(verdicts(*value), stream=stream, device=device),
                now_ms=NOW_MS + day * DAY_MS,
            )
            assert booked.acknowledge[device][stream] == ranges.runs(value)
            assert booked.records == len(set(value) - set(came))
            assert booked.conflicts == 0
            there |= set(value) - set(came)
            for number in value:
                came.setdefault(number, day)
        elif what == "days":
            day += value
        else:
            keep(store, value, NOW_MS + day * DAY_MS)
            there = {n for n in there if day - came[n] <= value}
    if not came:
        return
    finding = audit(store, stream)
    assert finding.books.stored == finding.books.covered == ranges.runs(came)
    assert finding.books.deleted == ranges.runs(set(came) - there)
    assert finding.ok
    with store.reading() as session:
        rows = session.rows(
            "SELECT seq FROM record JOIN stream ON stream.id = record.stream WHERE stream.name = ?", (stream,)
        )
    assert {row[0] for row in rows} == there
