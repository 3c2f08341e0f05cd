"""An outbox whose device is renamed, or copied: what waits is kept for its owner, and a stream begins."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from plugmeter.telemetry import schemas
from plugmeter.telemetry.intake import Intake
from plugmeter.telemetry.outbox import DATABASE_NAME, Limits, Outbox
from plugmeter.telemetry.owner import NOBODY, Owner
from plugmeter.telemetry.record import Draft, StoredRecord

LIMITS = Limits(67_108_864, 0, 0.01)
OLD = Owner("bench-1", "a" * 32)
RENAMED = Owner("bench-2", "a" * 32)
COPIED = Owner("bench-1", "b" * 32)
BOTH = Owner("bench-2", "b" * 32)
OTHERS = [(RENAMED, "renamed"), (COPIED, "copied"), (BOTH, "copied")]


@contextmanager
def opened(path: Path, owner: Owner, told: list[str] | None = None) -> Iterator[Outbox]:
    outbox = Outbox(
        path, LIMITS, (told if told is not None else []).append, owner=owner, intake=Intake(3, 100_000)
    )
    try:
        yield outbox
    finally:
        outbox.close()


def records(outbox: Outbox) -> list[StoredRecord]:
    return list(outbox.next_batch(0, 1_000, 10**6).records)


def said(record: StoredRecord) -> dict[str, object]:
    value = json.loads(record.data)
    assert isinstance(value, dict)
    assert schemas.record_fault(record.kind, value) is None
    return value


def fill(outbox: Outbox) -> None:
    """3 records, and 2 numbers under a tombstone."""
    for _ in range(5):
        outbox.offer(Draft("gap", b"{}", 1))
    assert outbox.flush(0)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / DATABASE_NAME


def owner_of(path: Path) -> Owner:
    with closing(sqlite3.connect(path)) as connection:
        return Owner(*connection.execute("SELECT device, machine FROM books").fetchone())


@pytest.mark.parametrize(("other", "why"), OTHERS)
def test_what_waits_is_set_aside_whole_and_can_be_put_back(path: Path, other: Owner, why: str) -> None:
    told: list[str] = []
    with opened(path, OLD, told) as outbox:
        fill(outbox)
        stream = outbox.stream
    assert told == []
    with opened(path, other, told) as outbox:
        assert outbox.stream != stream
        (first,) = records(outbox)
        value = said(first)
        assert (first.seq, value["previous"], value["reason"]) == (1, stream, why)
        aside = Path(str(value["set_aside"]))
        assert outbox.account().adds_up
        new = outbox.stream
    assert owner_of(path) == other
    assert aside.name.startswith(f"{DATABASE_NAME}.{why}-")
    (line,) = told
    assert "\n" not in line
    for words in (str(aside), "4 records", "the tombstones of 2", 'daemon.device = "bench-1"', "new stream"):
        assert words in line
    # As the line says: in a directory of its own, as the device that it was.
    told.clear()
    elsewhere = path.parent.parent / "elsewhere"
    elsewhere.mkdir()
    old = Owner(OLD.device, other.machine)
    aside.rename(elsewhere / DATABASE_NAME)
    with opened(elsewhere / DATABASE_NAME, old, told) as outbox:
        assert outbox.stream == stream
        assert [each.kind for each in records(outbox)] == ["stream", "gap", "gap", "gap", "start"]
        account = outbox.account()
        assert (account.produced, account.pending, account.unannounced) == (7, 5, 2)
        outbox.acknowledge([(1, account.produced)], stream=stream)
        assert outbox.flush(0)
        assert (outbox.account().pending, outbox.account().unannounced) == (0, 0)
    assert owner_of(elsewhere / DATABASE_NAME) == old
    with opened(path, other, told) as outbox:
        assert outbox.stream == new
    assert told == []


def test_it_can_be_put_back_in_its_place(path: Path) -> None:
    with opened(path, OLD) as outbox:
        stream = outbox.stream
    with opened(path, RENAMED) as outbox:
        new = outbox.stream
    (aside,) = path.parent.glob(f"{DATABASE_NAME}.renamed-*")
    kept = path.with_name("kept")
    path.rename(kept)
    aside.rename(path)
    told: list[str] = []
    with opened(path, OLD, told) as outbox:
        assert outbox.stream == stream
        outbox.acknowledge([(1, 99)])
        outbox.flush(0)
    kept.replace(path)
    with opened(path, RENAMED, told) as outbox:
        assert outbox.stream == new
        assert [each.kind for each in records(outbox)] == ["stream", "start"]
    assert told == []


@pytest.mark.parametrize(("other", "why"), OTHERS)
def test_where_nothing_waits_a_stream_begins_in_place(path: Path, other: Owner, why: str) -> None:
    with opened(path, OLD) as outbox:
        fill(outbox)
        stream = outbox.stream
        outbox.acknowledge([(1, 6)])
        assert outbox.flush(0)
    told: list[str] = []
    with opened(path, other, told) as outbox:
        assert outbox.stream != stream
        (first,) = records(outbox)
        assert said(first) == {"previous": stream, "reason": why, "set_aside": None}
        account = outbox.account()
        assert (account.produced, account.acknowledged, account.tombstoned, account.pending) == (1, 0, 0, 1)
        fill(outbox)
        assert outbox.account().adds_up
        new = outbox.stream
    assert len(told) == 1 and "nothing waited" in told[0]
    assert not [each for each in path.parent.iterdir() if why in each.name]
    with opened(path, other, told) as outbox:
        assert outbox.stream == new
        assert outbox.account().produced == 7
    assert len(told) == 1


def test_a_tombstone_that_nobody_has_heard_of_waits_too(path: Path) -> None:
    with opened(path, OLD) as outbox:
        fill(outbox)
        outbox.acknowledge([(1, 4)])
        assert outbox.flush(0)
        assert (outbox.account().pending, outbox.account().unannounced) == (0, 2)
    told: list[str] = []
    with opened(path, RENAMED, told):
        assert "0 records and the tombstones of 2" in told[0]
        assert list(path.parent.glob(f"{DATABASE_NAME}.renamed-*"))


def test_after_a_kill_nothing_of_its_log_is_lost(path: Path) -> None:
    outbox = Outbox(path, LIMITS, lambda line: None, owner=OLD)
    fill(outbox)
    outbox.abandon()
    with opened(path, RENAMED):
        (aside,) = (each for each in path.parent.glob(f"{DATABASE_NAME}.renamed-*"))
    with opened(aside, OLD) as again:
        assert again.account().pending == 7
        assert said(records(again)[-1])["clean"] is False


@pytest.mark.parametrize("now", [OLD, Owner("bench-1", "")])
def test_the_same_owner_goes_on(path: Path, now: Owner) -> None:
    told: list[str] = []
    with opened(path, OLD) as outbox:
        stream = outbox.stream
    with opened(path, now, told) as outbox:
        assert outbox.stream == stream
    assert (told, owner_of(path)) == ([], OLD)


def test_without_an_owner_it_is_nobodys_and_stays_whose_it_is(path: Path) -> None:
    with opened(path, NOBODY) as outbox:
        stream = outbox.stream
    assert owner_of(path) == NOBODY
    told: list[str] = []
    for owner in (OLD, NOBODY, OLD):
        with opened(path, owner, told) as outbox:
            assert outbox.stream == stream
        assert owner_of(path) == OLD
    assert told == []


FORMAT_1 = """
CREATE TABLE books (
    id INTEGER PRIMARY KEY CHECK (id = 1), stream TEXT NOT NULL, produced INTEGER NOT NULL,
    acknowledged INTEGER NOT NULL, tombstoned INTEGER NOT NULL, commits INTEGER NOT NULL,
    handed_at INTEGER NOT NULL, clean INTEGER NOT NULL, lived_ns INTEGER NOT NULL,
    boot_id TEXT NOT NULL, boot_ns INTEGER NOT NULL
) STRICT;

CREATE TABLE segments (
    first INTEGER PRIMARY KEY, last INTEGER NOT NULL, live INTEGER NOT NULL, ranks INTEGER NOT NULL,
    gone TEXT NOT NULL, edition INTEGER NOT NULL
) STRICT;
CREATE TABLE bodies (first INTEGER PRIMARY KEY, body BLOB NOT NULL) STRICT;

CREATE TABLE tombstones (
    first INTEGER PRIMARY KEY, last INTEGER NOT NULL, rank INTEGER NOT NULL, reason TEXT NOT NULL,
    time_ns INTEGER NOT NULL, edition INTEGER NOT NULL
) STRICT;

CREATE TABLE ages (lived_ns INTEGER PRIMARY KEY, before INTEGER NOT NULL) STRICT;
PRAGMA user_version = 1;
"""
"""What the first outboxes were made of."""


def to_format_1(path: Path, *, instead: str = "", by: str = "") -> None:
    """Make an outbox as it was made before there were owners."""
    with closing(sqlite3.connect(path)) as new:
        script = FORMAT_1.replace(instead, by) if instead else FORMAT_1
        old = sqlite3.connect(path.with_name("old"), isolation_level=None)
        old.execute("PRAGMA auto_vacuum = INCREMENTAL")
        old.execute("PRAGMA journal_mode = WAL")
        old.executescript(script)
        for table in ("segments", "bodies", "ages"):
            for row in new.execute(f"SELECT * FROM {table}"):
                old.execute(f"INSERT INTO {table} VALUES ({','.join('?' * len(row))})", row)
        for row in new.execute("SELECT first, last, rank, reason, time_ns FROM tombstones"):
            old.execute("INSERT INTO tombstones VALUES (?, ?, ?, ?, ?, 3)", row)
        row = new.execute(
            "SELECT stream, produced, acknowledged, tombstoned, commits, 2, clean, lived_ns, boot_id, boot_ns"
            " FROM books"
        ).fetchone()
        old.execute("INSERT INTO books VALUES (1, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", row)
        old.close()
    os.replace(path.with_name("old"), path)  # noqa: PTH105


def test_one_made_before_there_were_owners_takes_the_present_one(path: Path) -> None:
    with opened(path, NOBODY) as outbox:
        fill(outbox)
        stream, before = outbox.stream, records(outbox)
    to_format_1(path)
    told: list[str] = []
    with opened(path, OLD, told) as outbox:
        assert outbox.stream == stream
        assert records(outbox)[:-1] == before
        (stone,) = outbox.next_batch(0, 100, 100).tombstones
        assert (stone.first, stone.last, stone.reason) == (5, 6, "intake_full")
        account = outbox.account()
        assert account.adds_up
        assert (account.produced, account.tombstoned, account.pending) == (7, 2, 5)
    with opened(path, OLD, told) as outbox:
        assert outbox.stream == stream
    assert (told, owner_of(path)) == ([], OLD)


def test_one_made_before_that_makes_no_sense_is_set_aside(path: Path) -> None:
    with opened(path, NOBODY) as outbox:
        stream = outbox.stream
    to_format_1(path, instead="boot_ns INTEGER NOT NULL", by="shoe_ns INTEGER NOT NULL")
    told: list[str] = []
    with opened(path, OLD, told) as outbox:
        assert outbox.stream != stream
        assert said(records(outbox)[0])["reason"] == "corrupt"
    assert len(told) == 1 and "not those of format 1" in told[0]
