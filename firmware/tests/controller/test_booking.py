"""The contract of both stores: once in effect, acknowledged only if there, one device's stream its own."""

from __future__ import annotations

import hashlib
import json
import sqlite3
import threading
import uuid
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from plugmeter.controller import queries, schema
from plugmeter.controller.audit import as_value, examine, render, well
from plugmeter.controller.booking import contradiction
from plugmeter.controller.books import read_books
from plugmeter.controller.store import Store, StoreTrouble, open_store
from plugmeter.errors import UsageError
from plugmeter.telemetry import ranges
from plugmeter.telemetry.record import Tombstone
from tests.controller.bookings import (
    OTHER,
    STREAM,
    audit,
    document,
    message,
    receive,
    run_ended,
    verdicts,
)
from tests.controller.devices import account, stored, summary, verdict


def numbers(store: Store) -> list[int]:
    with store.reading() as session:
        return [row[0] for row in session.rows("SELECT seq FROM record ORDER BY seq")]


def the_device(store: Store, name: str = "bench-1") -> queries.DeviceRow:
    with store.reading() as session:
        found = queries.device(session, name)
    assert found is not None
    return found


def test_records_are_stored_and_acknowledged_in_ranges(store: Store) -> None:
    booked = receive(store, message(verdicts(1, 2, 3)), message(verdicts(7, 5)))
    assert booked.acknowledge == {"bench-1": {STREAM: ((1, 3), (5, 5), (7, 7))}}
    assert (booked.records, booked.duplicates) == (5, 0)
    assert numbers(store) == [1, 2, 3, 5, 7]


def test_what_came_before_is_acknowledged_again_and_stored_once(store: Store) -> None:
    receive(store, message(verdicts(1, 2, 3)))
    booked = receive(store, message(verdicts(2, 3, 4)), message(verdicts(4)))
    assert booked.acknowledge == {"bench-1": {STREAM: ((2, 4),)}}
    assert (booked.records, booked.duplicates, booked.conflicts) == (1, 3, 0)
    assert numbers(store) == [1, 2, 3, 4]
    assert the_device(store).records == 4
    assert the_device(store).verdicts == 4


def test_a_number_that_comes_with_another_content_is_kept_beside_the_first(store: Store) -> None:
    receive(store, message(verdicts(1, 2)))
    different = [stored(2, "verdict", verdict(99), 1_795_300_000_000_000_000)]
    booked = receive(store, message(different), message(verdicts(3)))
    assert booked.acknowledge == {"bench-1": {STREAM: ((2, 3),)}}, "it is safe, so it may go"
    assert (booked.records, booked.conflicts) == (1, 1)
    again = receive(store, message(different))
    assert (again.duplicates, again.conflicts) == (1, 0), "and counted once"
    with store.reading() as session:
        ((kept,),) = session.rows("SELECT data FROM conflict")
        ((first,),) = session.rows("SELECT data FROM record WHERE seq = 2")
    assert json.loads(kept) == verdict(99)
    assert json.loads(first) == verdict(2)
    finding = audit(store)
    assert not finding.ok
    assert "another content" in finding.faults[0]


def test_a_stream_is_its_first_devices_own(store: Store) -> None:
    receive(store, message(verdicts(1, 2)))
    booked = receive(store, message(verdicts(3), device="thief"), message(verdicts(4)))
    assert booked.refused == 1
    assert booked.acknowledge == {"bench-1": {STREAM: ((4, 4),)}}
    assert numbers(store) == [1, 2, 4]
    thief = the_device(store, "thief")
    assert (thief.refused, thief.records) == (1, 0)
    assert "belongs to another device" in thief.problem
    told = receive(store, document("summary", summary(account(STREAM, 9, 9, 0, 10)), device="thief"))
    assert told.refused == 1, "nor may it tell the stream's account"
    assert audit(store).ok, "the stream itself is whole"
    books, standings = read_books(store)
    findings = [examine(each) for each in books]
    assert not well(findings, standings), "what was refused is nowhere else"
    owner, found = standings
    assert (owner.device, owner.faults) == ("bench-1", ())
    (fault,) = found.faults
    assert fault.startswith(
        f"REFUSED: 2 records or accounts of thief: stream {STREAM} belongs to bench-1; it has a copy of "
    )
    text = render(findings, standings)
    assert "every record is accounted for" not in text
    assert fault in text
    (alone,) = read_books(store, "thief")[1]
    assert "no device has reported" not in render([], [alone])
    assert as_value(findings, standings)["accounted"] is False


def test_a_status_that_names_anothers_stream_is_a_fault(store: Store) -> None:
    receive(store, message(verdicts(1, 2)))
    status = {"state": "online", "stream": STREAM, "time": "2026-11-21T10:00:00Z", "reason": None}
    receive(store, document("status", status), document("status", status, device="renamed"))
    ours, renamed = read_books(store)[1]
    assert not ours.faults
    assert renamed.faults[0].startswith(f"renamed reports as stream {STREAM}, which belongs to bench-1; ")


def test_refusals_of_before_they_were_told_apart_are_a_fault(store: Store) -> None:
    receive(store, message(verdicts(1, 2)))
    with store.writing() as session:
        session.run("UPDATE device SET refused = 7")
    (standing,) = read_books(store)[1]
    assert standing.faults[0].startswith("REFUSED: 7 records or accounts of bench-1, of streams that belong")


def test_a_number_that_comes_again_at_another_time_is_another_record(store: Store) -> None:
    """A device that was restored from a copy counts on from there, and what it tells may read the same."""
    at_ns = 1_795_300_000_000_000_000
    first = [stored(n, "verdict", verdict(n), at_ns) for n in (1, 2)]
    receive(store, message(first))
    restored = [stored(2, "verdict", verdict(2), at_ns + 1_000)]
    booked = receive(store, message(restored))
    assert (booked.duplicates, booked.conflicts) == (0, 1), "a microsecond tells them apart"
    assert receive(store, message(restored)).conflicts == 0, "counted once"
    assert receive(store, message(first)).conflicts == 0
    no_clock = [stored(3, "verdict", verdict(3), at) for at in (0, 10**9)]
    receive(store, message(no_clock[:1]), now_ms=at_ns // 10**6)
    booked = receive(store, message(no_clock[1:]), now_ms=at_ns // 10**6)
    assert booked.conflicts == 1, "also where our clock stands for theirs"
    assert not audit(store).ok


def test_records_of_before_the_time_was_kept_are_compared_without_it(store: Store) -> None:
    receive(store, message(verdicts(1, 2)))
    different = [stored(2, "verdict", verdict(99), 1_795_300_000_000_000_000)]
    receive(store, message(different))
    digest = hashlib.sha256(b"verdict\n" + different[0].data).hexdigest()
    with store.writing() as session:
        session.run("UPDATE record SET time = ''")
        session.run("UPDATE conflict SET time = '', digest = ?", (digest,))
    later = [stored(n, "verdict", verdict(n), 1_795_300_000_000_001_000) for n in (1, 2)]
    assert receive(store, message(later)).conflicts == 0
    assert receive(store, message(different)).conflicts == 0


def test_a_device_may_not_tell_of_streams_without_end(store: Store) -> None:
    receive(store, message(verdicts(1)))
    inventions = [str(uuid.UUID(int=n)) for n in range(1, 131)]
    refused = sum(
        receive(store, document("summary", summary(account(stream, 1, 0, 0, 1)))).refused
        for stream in inventions
    )
    with store.reading() as session:
        assert session.rows("SELECT count(*) FROM stream") == [(101,)]
        assert session.rows("SELECT count(*) FROM account") == [(100,)]
        assert session.rows("SELECT stream, count FROM refusal") == [("", 30)]
    assert refused == the_device(store).refused == 30
    assert "more than 100 streams without a record" in the_device(store).problem
    (standing,) = read_books(store)[1]
    assert standing.faults[0].startswith("REFUSED: 30 accounts of bench-1: it tells of stream after stream")
    booked = receive(store, message(verdicts(1), stream=OTHER))
    assert booked.records == 1, "one with records is taken all the same"


def test_refusals_are_told_apart_within_bounds(store: Store) -> None:
    for n in range(130):
        stream = str(uuid.UUID(int=n + 1))
        receive(store, message(verdicts(1), stream=stream))
        receive(store, message(verdicts(2), stream=stream, device="thief"))
    with store.reading() as session:
        assert session.rows("SELECT count(*), sum(count) FROM refusal") == [(100, 100)]
    standing = read_books(store)[1][1]
    assert (standing.refused, len(standing.faults)) == (130, 7), "five of them, how many more, and the rest"


def test_two_devices_of_one_name_are_seen(store: Store) -> None:
    first = document("summary", summary(account(STREAM, 1, 1, 0, 2)))
    second = document("summary", summary(account(OTHER, 1, 1, 0, 2)))
    receive(store, message(verdicts(1)), message(verdicts(1), stream=OTHER))
    faults = []
    for _ in range(4):
        receive(store, first)
        receive(store, second)
        faults.append(len(read_books(store)[1][0].faults))
    assert faults == [0, 0, 0, 1], "one that changes and changes back is no twin yet"
    (fault,) = read_books(store)[1][0].faults
    assert fault.startswith(
        "two devices have the name bench-1: it reports as one stream and as another in turn"
    )


def test_a_stream_that_is_never_heard_again_is_a_mere_break(store: Store) -> None:
    status = {"state": "lost", "stream": STREAM, "time": "2026-11-21T10:00:00Z", "reason": None}
    receive(store, message(verdicts(1)), message(verdicts(1), stream=OTHER))
    receive(store, document("summary", summary(account(STREAM, 1, 1, 0, 2))))
    for _ in range(9):
        receive(store, document("summary", summary(account(OTHER, 1, 1, 0, 2))))
        receive(store, document("summary", summary(account(STREAM, 1, 1, 0, 2))), retained=True)
        receive(store, document("status", status))  # the last will of a connection of before
    (standing,) = read_books(store)[1]
    assert (standing.streams, standing.returned, standing.faults) == (2, (), ())


def test_tombstones_are_stored_united_and_acknowledged(store: Store) -> None:
    receive(store, message(verdicts(1, 2, 3, 4)))
    stones = [Tombstone(5, 8, 0, "full", 1), Tombstone(3, 6, 1, "age", 2)]
    booked = receive(store, message(verdicts(9), stones))
    assert booked.acknowledge == {"bench-1": {STREAM: ((3, 9),)}}
    receive(store, message((), [Tombstone(5, 10, 0, "full", 3)]))
    finding = audit(store)
    assert (finding.stored, finding.tombstoned, finding.pending, finding.lost) == (5, 8, 0, 0)
    with store.reading() as session:
        assert session.rows("SELECT tombstoned FROM stream") == [(8,)]


def test_a_record_that_comes_after_its_tombstone_is_stored_all_the_same(store: Store) -> None:
    receive(store, message((), [Tombstone(1, 5, 0, "full", 1)]))
    booked = receive(store, message(verdicts(3)))
    assert booked.acknowledge == {"bench-1": {STREAM: ((3, 3),)}}
    assert numbers(store) == [3]


def test_the_largest_numbers_have_room(store: Store) -> None:
    top = 2**63 - 1
    booked = receive(
        store,
        message(verdicts(top), [Tombstone(1, top - 1, 0, "full", 1), Tombstone(top - 2, top, 0, "age", 1)]),
    )
    assert booked.acknowledge == {"bench-1": {STREAM: ((1, top),)}}
    receive(store, message(verdicts(top), [Tombstone(1, top, 0, "full", 1)]))
    assert audit(store).tombstoned == top


def test_content_that_no_schema_knows_is_stored_as_it_is(store: Store) -> None:
    odd = [
        stored(1, "verdict", {"port": 7}),
        stored(2, "run-ended", {"run": "r", "report": {"expected": "many"}}),
        stored(3, "newer-kind", {"text": "\0 und \u2028 <script>"}),
    ]
    booked = receive(store, message(odd))
    assert booked.acknowledge == {"bench-1": {STREAM: ((1, 3),)}}
    assert booked.problems >= 2
    assert numbers(store) == [1, 2, 3]
    assert the_device(store).problem


def test_what_is_no_event_is_counted_and_not_acknowledged(store: Store) -> None:
    topic, good = message(verdicts(1))
    bad = good.replace(b'"specversion":"1.0"', b'"specversion":"9.0"')
    booked = receive(store, (topic, bad), (topic, b"\xff"), (topic, b""), ("plugmeter/v1/x/y", b"{}"))
    assert booked.acknowledge == {}
    assert the_device(store).problems == 3


def test_what_the_page_sums_up_is_what_the_records_say(store: Store) -> None:
    report = {
        "schema": "plugmeter-report/1",
        "expected": 12,
        "captured": 10,
        "matched": 10,
        "late": 0,
        "loss_rate": 0.166,
        "lost": {"socket_queue": 2},
        "certificate": {"valid": True, "reasons": []},
        "listeners": [
            {"pid": 411, "comm": "udevd", "groups": 1, "drops": 3},
            {"pid": 411, "comm": "udevd", "groups": 1, "drops": 4},
            {"comm": 5},
            "nonsense",
        ],
    }
    run = {"run": "r-1", "verdict": "VALID", "interrupted": False, "report": report}
    invalid = {**run, "run": "r-2", "report": {**report, "certificate": {"valid": False}}}
    records = [
        *verdicts(*range(1, 11)),
        *verdicts(11, 12, lost=True),
        stored(13, "run-ended", run),
        stored(14, "run-ended", invalid),
        stored(15, "run-ended", {"run": "r-3", "report": None, "failure": "the rig died"}),
    ]
    receive(store, message(records))
    receive(store, message(records))
    found = the_device(store)
    assert (found.verdicts, found.losses) == (12, 2)
    assert (found.runs, found.runs_valid, found.decided_valid, found.lost_valid) == (3, 1, 12, 2)
    with store.reading() as session:
        hours = queries.hours(session, found.id, 0)
        assert sum(n for *_, n in hours) == 12
        assert sum(n for *_, outcome, _, n in hours if outcome == "lost") == 2
        assert [row[:4] for row in queries.listeners(session, found.id, 9)] == [("udevd", 1, 2, 14)]
        lost = queries.losses(session, found.id, 9)
        assert sorted(each.seq for each in lost) == [11, 12]
        assert {row.id: row.valid for row in queries.runs(session, found.id, 9)} == {
            "r-1": True,
            "r-2": False,
            "r-3": False,
        }


def test_an_old_summary_that_a_broker_kept_is_no_news(store: Store) -> None:
    receive(store, document("summary", summary(account(STREAM, 20, 10, 0, 11))))
    receive(store, document("summary", summary(account(STREAM, 10, 5, 0, 6))), retained=True)
    with store.reading() as session:
        assert session.rows("SELECT produced, contradictions FROM account") == [(20, 0)]
    receive(store, document("summary", summary(account(STREAM, 10, 5, 0, 6))))
    with store.reading() as session:
        ((produced, contradictions, why),) = session.rows(
            "SELECT produced, contradictions, contradiction FROM account"
        )
    assert (produced, contradictions) == (10, 1)
    assert why == "produced went back from 20 to 10"


@pytest.mark.parametrize(
    ("books", "before", "words"),
    [
        ((10, 4, 1, 5, 5), None, ""),
        ((0, 0, 0, 0, 1), None, ""),
        ((10, 10, 0, 0, 11), (10, 4), ""),
        ((10, 4, 1, 6, 5), None, "produced 10 is not acknowledged 4 + tombstoned 1 + pending 6"),
        ((10, 10, 0, 0, 12), None, "oldest pending 12 is outside of 1 to 11"),
        ((10, 5, 0, 5, 8), None, "5 pending do not fit between 8 and 10"),
        ((10, 5, 0, 5, 6), (12, 6), "produced went back from 12 to 10"),
        ((10, 5, 0, 5, 4), (10, 6), "oldest pending went back from 6 to 4"),
    ],
)
def test_an_account_that_cannot_be_is_named(
    books: tuple[int, int, int, int, int], before: tuple[int, int] | None, words: str
) -> None:
    assert contradiction(*books, before) == words


def test_a_command_that_comes_again_retained_is_not_new(store: Store) -> None:
    said = document("cmd/selftest/c-1", {"state": "successful", "op": "selftest", "id": "c-1"})
    receive(store, said, now_ms=1_000)
    receive(store, said, now_ms=2_000, retained=True)
    receive(store, ("plugmeter/v1/bench-1/cmd/selftest/c-1", b""), now_ms=3_000)
    with store.reading() as session:
        assert session.rows("SELECT received_ms, state FROM command") == [(1_000, "successful")]


def test_sums_by_the_minute_are_of_the_last_two_hours_only(store: Store) -> None:
    minute, minute_ms = 1_000_000 * 60, 60_000
    for at, first in ((minute, 1), (minute + 90, 3), (minute + 180, 5)):
        records = [stored(n, "verdict", verdict(n), at * minute_ms * 1_000_000) for n in (first, first + 1)]
        receive(store, message(records), now_ms=(at + 1) * minute_ms)
    long_ago = [stored(7, "verdict", verdict(7), minute * minute_ms * 1_000_000)]
    receive(store, message(long_ago), now_ms=(minute + 181) * minute_ms)
    found = the_device(store)
    with store.reading() as session:
        kept = queries.minutes(session, found.id, 0)
        assert {at for at, *_ in kept} == {minute + 90, minute + 180}
        assert sum(n for *_, n in kept) == 4
        assert sum(n for *_, n in queries.hours(session, found.id, 0)) == 7


def test_drops_of_listeners_are_summed_up_over_time(store: Store) -> None:
    minute_ms = 60_000
    hour = 500_000
    start = hour * 60
    records = [
        run_ended(1, start * minute_ms, ("udevd", 5), ("udisksd", 0)),
        run_ended(2, start * minute_ms + 59_999, ("udevd", 7)),
        run_ended(3, (start + 59) * minute_ms, ("udevd", 1), ("udevd", 1)),
        run_ended(4, (start + 60) * minute_ms, ("udevd", 100)),
    ]
    receive(store, message(records), now_ms=(start + 61) * minute_ms)
    receive(store, message(records), now_ms=(start + 61) * minute_ms)
    found = the_device(store)
    with store.reading() as session:
        by_minute = queries.listener_minutes(session, found.id, 0, 9)
        by_hour = queries.listener_hours(session, found.id, 0, 9)
        assert queries.listener_hours(session, found.id, hour + 1, 9) == [(hour + 1, "udevd", 2, 100)]
        assert queries.listener_hours(session, found.id, 0, 1) == [
            (hour, "udevd", 2, 14), (hour + 1, "udevd", 2, 100)
        ], "of the worst only"  # fmt: skip
        totals = {comm: drops for comm, _, _, drops, _ in queries.listeners(session, found.id, 9)}
    assert sorted(by_minute) == [
        (start, "udevd", 2, 12), (start, "udisksd", 2, 0), (start + 59, "udevd", 2, 2),
        (start + 60, "udevd", 2, 100),
    ]  # fmt: skip
    assert sorted(by_hour) == [(hour, "udevd", 2, 14), (hour, "udisksd", 2, 0), (hour + 1, "udevd", 2, 100)]
    assert totals == {"udevd": 114, "udisksd": 0}
    later = start + 60 + 121
    receive(store, message([run_ended(5, later * minute_ms, ("udevd", 1))]), now_ms=later * minute_ms)
    with store.reading() as session:
        assert queries.listener_minutes(session, found.id, 0, 9) == [(later, "udevd", 2, 1)], "two hours only"
        assert sum(drops for *_, drops in queries.listener_hours(session, found.id, 0, 9)) == 115


def test_a_listener_was_last_seen_when_its_latest_run_ended(store: Store) -> None:
    """Whatever order the records come in, in one transaction or in several."""
    receive(
        store,
        message(
            [run_ended(2, 1_795_300_200_000, ("udevd", 1)), run_ended(1, 1_795_300_100_000, ("udevd", 1))]
        ),
    )
    receive(store, message([run_ended(3, 1_795_300_000_000, ("udevd", 1))]))
    with store.reading() as session:
        found = queries.listeners(session, the_device(store).id, 9)
    assert found == [("udevd", 2, 3, 3, 1_795_300_200_000)]


def test_who_commands_a_device_that_is_none_makes_none(store: Store) -> None:
    ours = {"state": "init", "op": "selftest", "id": "c-1"}
    receive(store, document("cmd/selftest/c-1", ours, device="misspelt"))
    receive(store, ("plugmeter/v1/misspelt/cmd/selftest/c-1", b""))
    with store.reading() as session:
        assert session.rows("SELECT name FROM device") == []
    receive(store, document("cmd/selftest/c-1", {**ours, "state": "accepted"}))
    receive(store, document("cmd/selftest/c-2", {**ours, "id": "c-2"}))
    with store.reading() as session:
        assert session.rows("SELECT name FROM device") == [("bench-1",)]
        assert session.rows("SELECT id FROM command ORDER BY id") == [("c-1",), ("c-2",)], (
            "that of a known one"
        )


def test_a_last_will_and_a_retained_document_are_no_sign_of_life(store: Store) -> None:
    status = {"state": "lost", "stream": STREAM, "time": "2026-11-21T10:00:00Z", "reason": None}
    receive(store, document("status", status))
    receive(store, document("status", {**status, "state": "online"}), retained=True)
    assert the_device(store).heard_ms is None
    receive(store, document("status", {**status, "state": "online"}), now_ms=5_000)
    assert the_device(store).heard_ms == 5_000


def test_nothing_of_a_transaction_that_fails_happened(store: Store) -> None:
    receive(store, message(verdicts(1)))

    class Stop(Exception):
        pass

    with pytest.raises(Stop), store.writing() as session:
        session.insert_records(1, 5, [(2, "verdict", 5, "{}", "")])
        raise Stop
    assert numbers(store) == [1]
    receive(store, message(verdicts(2)))
    assert numbers(store) == [1, 2], "and the next one begins anew"


def test_a_store_is_opened_again_as_it_was(database: str) -> None:
    first = open_store(database)
    receive(first, message(verdicts(1, 2)))
    first.close()
    second = open_store(database)
    assert numbers(second) == [1, 2]
    second.close()


def test_tables_of_a_newer_plugmeter_are_refused(database: str) -> None:
    store = open_store(database)
    with store.writing() as session:
        if store.dialect == "sqlite":
            session.run(f"PRAGMA user_version = {schema.VERSION + 1}")
        else:
            session.run("UPDATE plugmeter_tables SET version = ?", (schema.VERSION + 1,))
    store.close()
    with pytest.raises(UsageError, match="made by a newer Plugmeter"):
        open_store(database)


def test_tables_of_the_first_version_are_brought_forward(database: str) -> None:
    """A database as version 1 left it, with records in it."""
    store = open_store(database)
    receive(store, message([*verdicts(1, 2), run_ended(3, 1_795_300_000_000, ("udevd", 5))]))
    with store.writing() as session:
        for table in ("listener_hour", "listener_minute", "refusal"):
            session.run(f"DROP TABLE {table}")
        for table, column in (
            ("record", "time"), ("conflict", "time"), ("stream", "reported"), ("stream", "returns"),
            ("device", "present"),
        ):  # fmt: skip
            session.run(f"ALTER TABLE {table} DROP COLUMN {column}")
        if store.dialect == "sqlite":
            session.run("PRAGMA user_version = 1")
        else:
            session.run("UPDATE plugmeter_tables SET version = 1")
    store.close()
    store = open_store(database)
    receive(store, message([run_ended(4, 1_795_300_000_000, ("udevd", 7))]))
    device = the_device(store)
    with store.reading() as session:
        assert [drops for *_, drops in queries.listener_hours(session, device.id, 0, 9)] == [7]
        assert [drops for *_, drops, _ in queries.listeners(session, device.id, 9)] == [12]
    assert numbers(store) == [1, 2, 3, 4]
    assert receive(store, message(verdicts(1, 2))).duplicates == 2, "compared as they were before"
    assert audit(store).ok
    store.close()


def test_a_file_of_another_program_is_refused(tmp_path: Path) -> None:
    other = tmp_path / "other.db"
    connection = sqlite3.connect(other)
    connection.execute("CREATE TABLE theirs (x)")
    connection.close()
    with pytest.raises(UsageError, match="another program"):
        open_store(str(other))
    text = tmp_path / "text.db"
    text.write_text("dear diary, " * 100)
    with pytest.raises(UsageError, match="no SQLite database"):
        open_store(str(text))
    with pytest.raises(UsageError, match="there is no folder"):
        open_store(str(tmp_path / "no" / "where.db"))
    with pytest.raises(UsageError, match="there is no database"):
        open_store(str(tmp_path / "none.db"), create=False)
    with pytest.raises(UsageError, match="postgresql://user@host/name"):
        open_store("mysql://host/x")


def test_a_server_that_is_away_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(StoreTrouble) as caught:
        open_store(f"postgresql://me:secret@/x?host={tmp_path}")
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)
    assert "No such file or directory" in str(caught.value), "what is wrong, not libpq's hint"


def test_two_controllers_on_one_database_store_each_record_once(database: str) -> None:
    """Both get all of it, at the same time, in batches that overlap."""
    open_store(database).close()
    booked: list[int] = []
    failures: list[BaseException] = []
    start = threading.Barrier(2)

    def one(step: int) -> None:
        store = open_store(database)
        try:
            start.wait()
            for first in range(1, 400, step):
                booked.append(receive(store, message(verdicts(*range(first, first + 20)))).records)
        except BaseException as failure:
            failures.append(failure)
            raise
        finally:
            store.close()

    threads = [threading.Thread(target=one, args=(step,)) for step in (7, 11)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    store = open_store(database)
    there = numbers(store)
    assert len(there) == len(set(there)) == sum(booked)
    assert there == list(range(1, there[-1] + 1))
    assert audit(store).ok
    assert the_device(store).verdicts == len(there), "and counted once"
    store.close()


_ARRIVALS = st.lists(
    st.tuples(
        st.lists(st.integers(1, 40), max_size=12, unique=True),
        st.lists(st.tuples(st.integers(1, 40), st.integers(1, 6)), max_size=2, unique=True),
    ),
    max_size=8,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(arrivals=_ARRIVALS)
def test_whatever_comes_in_whatever_order_the_index_agrees_with_the_records(
    store: Store, arrivals: list[tuple[list[int], list[tuple[int, int]]]]
) -> None:
    stream = str(uuid.uuid4())
    device = f"d{stream[:8]}"
    seen: set[int] = set()
    buried: set[int] = set()
    for records, stones in arrivals:
        tombstones = [Tombstone(first, first + more, 0, "full", 1) for first, more in stones]
        if not records and not tombstones:
            continue
        booked = receive(store, message(verdicts(*records), tombstones, stream=stream, device=device))
        told = {n for stone in tombstones for n in range(stone.first, stone.last + 1)}
        assert booked.acknowledge[device][stream] == ranges.runs(told | set(records))
        assert booked.records == len(set(records) - seen)
        seen |= set(records)
        buried |= told
    if not seen | buried:
        return
    finding = audit(store, stream)
    assert finding.books.stored == finding.books.covered == ranges.runs(seen)
    assert finding.books.buried == ranges.runs(buried)
    assert not any("another hand" in fault for fault in finding.faults)


def test_an_index_that_does_not_fit_the_records_is_found(store: Store) -> None:
    receive(store, message(verdicts(1, 2, 3)))
    with store.writing() as session:
        session.run("DELETE FROM record WHERE seq = 2")
    finding = audit(store)
    assert not finding.ok
    assert finding.faults == (
        "the database was changed by another hand: its index does not fit its records at 2",
    )


def test_a_break_of_the_stream_is_seen(store: Store) -> None:
    receive(store, message(verdicts(1, 2, 3)), document("summary", summary(account(STREAM, 9, 3, 0, 4))))
    began = stored(1, "stream", {"previous": STREAM, "reason": "corrupt", "set_aside": "/var/lib/x.corrupt"})
    receive(
        store,
        message([began, *verdicts(2)], stream=OTHER),
        document("summary", summary(account(OTHER, 2, 2, 0, 3))),
    )
    old, new = audit(store, STREAM), audit(store, OTHER)
    assert new.ok
    assert new.books.previous == STREAM
    assert (old.cut_off, old.pending, old.lost) == (6, 0, 0)
    assert "corrupt" in old.notes[0]
    assert not old.ok
