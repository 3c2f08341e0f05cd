"""Gathering while the database cannot be written: bounded, and what was let go is counted."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from plugmeter.controller.gathering import MOST_BYTES, MOST_MESSAGES, Gathering
from plugmeter.controller.store import open_store
from tests.controller.bookings import away, document, message, verdicts


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "controller.db"


def test_messages_of_no_bytes_under_new_names_have_an_end(path: Path) -> None:
    store = open_store(str(path))
    told: list[str] = []
    gathering = Gathering(store, told.append)
    with away(store, path):
        gathering.take(*message(verdicts(1)), False)
        assert gathering.commit(time.monotonic()) is None
        for n in range(MOST_MESSAGES + 500):
            gathering.take(f"plugmeter/v1/d{n}/status", b"", False)
    assert gathering.counters["dropped"] == 501
    booked = gathering.commit(time.monotonic())
    assert booked is not None
    assert booked.records == 1
    assert "can be written again" in told[-1]
    assert gathering.missed()
    assert not gathering.missed(), "told once"
    store.close()


def test_records_that_are_let_go_come_again_by_themselves(path: Path) -> None:
    store = open_store(str(path))
    gathering = Gathering(store, lambda line: None)
    with away(store, path):
        gathering.take("plugmeter/v1/bench-1/meta", b"x" * MOST_BYTES, False)
        assert gathering.commit(time.monotonic()) is None
        gathering.take(*message(verdicts(1)), False)
        assert not gathering.missed()
        gathering.take(*document("status", {}), False)
    assert gathering.counters["dropped"] == 2
    assert gathering.commit(time.monotonic()) is not None
    assert gathering.missed()
    store.close()
