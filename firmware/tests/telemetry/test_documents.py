"""Retained documents: the latest wins, all again on a new connection, a bound on all."""

from __future__ import annotations

from plugmeter.telemetry.documents import (
    DOCUMENT_LIMIT_BYTES,
    DOCUMENTS_LIMIT,
    PASSING_LIMIT,
    Document,
    Documents,
)


def test_the_latest_wins_and_all_come_again() -> None:
    documents = Documents()
    for number in range(5):
        documents.set(Document("a", b"%d" % number))
    documents.set(Document("b", b"x"))
    assert documents.take(1_000) == Document("a", b"4")
    assert documents.take(1_000) == Document("b", b"x")
    assert documents.take(1_000) is None and not documents.waiting
    documents.all_again()
    documents.remove("a")
    assert documents.take(1_000) == Document("b", b"x")
    assert documents.take(1_000) is None


def test_what_failed_comes_again_but_not_over_a_newer_one() -> None:
    documents = Documents()
    old = Document("a", b"old")
    documents.set(old)
    assert documents.take(1_000) is old
    documents.failed(old)
    assert documents.take(1_000) is old
    documents.set(Document("a", b"new"))
    documents.failed(old)
    assert documents.take(1_000) == Document("a", b"new")
    documents.failed(old)
    assert documents.take(1_000) is None


def test_bounds() -> None:
    documents = Documents()
    assert not documents.set(Document("a", bytes(DOCUMENT_LIMIT_BYTES + 1)))
    for number in range(DOCUMENTS_LIMIT):
        assert documents.set(Document(str(number), b""))
    assert not documents.set(Document("one too many", b""))
    assert documents.set(Document("7", b"known ones may change"))
    documents.remove("8")
    assert documents.set(Document("room again", b""))


def test_answers_without_end_take_no_room_from_each_other_nor_from_the_lasting_ones() -> None:
    documents = Documents()
    documents.set(Document("status", b"online"))
    for number in range(5_000):
        assert documents.set(Document(f"cmd/{number}", b"accepted", passing=True))
        assert documents.set(Document(f"cmd/{number}", b"successful", passing=True))
    assert documents.forgotten == 5_000 - PASSING_LIMIT
    documents.all_again()
    there = []
    while (document := documents.take(1_000)) is not None:
        there.append(document.topic)
    assert there == ["status", *(f"cmd/{number}" for number in range(5_000 - PASSING_LIMIT, 5_000))]
    assert not documents.set(Document("cmd/4999", bytes(DOCUMENT_LIMIT_BYTES + 1), passing=True))
    documents.set(Document("cmd/4998", b"lasting now"))
    assert documents.set(Document("cmd/5000", b"", passing=True))
    assert documents.forgotten == 5_000 - PASSING_LIMIT


def test_what_only_clears_up_goes_before_what_says_something() -> None:
    documents = Documents()
    for number in range(PASSING_LIMIT - 1):
        documents.set(Document(f"cmd/{number}", b"successful", passing=True))
    for number in range(500):
        documents.set(Document(f"old/{number}", b"", passing=True))
    documents.set(Document("cmd/new", b"accepted", passing=True))
    there = []
    while (document := documents.take(1_000)) is not None:
        there.append(document.topic)
    assert there == [*(f"cmd/{number}" for number in range(PASSING_LIMIT - 1)), "cmd/new"]


def test_one_that_the_broker_does_not_take_does_not_hold_up_the_others() -> None:
    documents = Documents()
    documents.set(Document("large", bytes(500)))
    documents.set(Document("small", b"x"))
    assert documents.take(100) == Document("small", b"x")
    assert documents.take(100) is None
    assert documents.waiting
