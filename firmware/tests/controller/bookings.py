"""Booking without a broker: messages in, one transaction, and what the store has then."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from plugmeter.controller.arrivals import Arrivals
from plugmeter.controller.audit import Finding, examine
from plugmeter.controller.booking import Booked, book
from plugmeter.controller.books import read_books
from plugmeter.controller.store import Store
from plugmeter.telemetry import envelope
from plugmeter.telemetry.record import StoredRecord, Tombstone
from plugmeter.telemetry.topics import Topics
from tests.controller.devices import stored, verdict

STREAM = "6e0f8a52-3f0e-4a0b-9d0c-2b8f5f3a7c11"
OTHER = "0b6f3b1e-52b4-4f7b-8f62-7f0f6f0d9a31"


def message(
    records: Sequence[StoredRecord] = (),
    tombstones: Sequence[Tombstone] = (),
    *,
    stream: str = STREAM,
    device: str = "bench-1",
) -> tuple[str, bytes]:
    """A batch, with its topic."""
    return Topics(device).records, envelope.batch(stream, device, records, tombstones)


def document(kind: str, value: Mapping[str, object], *, device: str = "bench-1") -> tuple[str, bytes]:
    """A status, summary, ... with its topic."""
    return f"{Topics(device).base}/{kind}", json.dumps(value).encode()


def verdicts(*numbers: int, lost: bool = False) -> list[StoredRecord]:
    """Records with these numbers; always the same for the same number."""
    return [stored(n, "verdict", verdict(n, lost=lost), 1_795_300_000_000_000_000) for n in numbers]


def run_ended(seq: int, at_ms: int, *drops: tuple[str, int]) -> StoredRecord:
    """A run with a certificate, and what was dropped for which listener in it."""
    report = {
        "schema": "plugmeter-report/1",
        "expected": 1,
        "captured": 1,
        "matched": 1,
        "late": 0,
        "loss_rate": 0.0,
        "lost": {},
        "certificate": {"valid": True, "reasons": []},
        "listeners": [{"pid": 1, "comm": comm, "groups": 2, "drops": n} for comm, n in drops],
    }
    ended = {"run": f"r-{seq}", "verdict": "VALID", "interrupted": False, "report": report}
    return stored(seq, "run-ended", ended, at_ms * 1_000_000)


@contextmanager
def away(store: Store, path: Path) -> Iterator[None]:
    """Where the database was there is a folder."""
    store.close()
    moved = path.with_suffix(".moved")
    path.rename(moved)
    path.mkdir()
    yield
    path.rmdir()
    moved.rename(path)


def receive(
    store: Store, *messages: tuple[str, bytes], retained: bool = False, now_ms: int | None = None
) -> Booked:
    """Book messages in one transaction."""
    now_ms = time.time_ns() // 1_000_000 if now_ms is None else now_ms
    arrivals = Arrivals()
    for topic, payload in messages:
        arrivals.add(topic, payload, retained=retained, now_ms=now_ms)
    return book(store, arrivals, now_ms)


def audit(store: Store, stream: str = STREAM) -> Finding:
    """Of one stream."""
    (books,) = [books for books in read_books(store)[0] if books.stream == stream]
    return examine(books)
