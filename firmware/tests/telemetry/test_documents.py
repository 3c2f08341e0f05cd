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
    assert documents.without_room == 2
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


def test_one_that_the_broker_does_not_take_does_not_hold_up_the_others() -> None:
    documents = Documents()
    large = Document("large", bytes(500))
    documents.set(large)
    documents.set(Document("small", b"x"))
    assert documents.take(100) == Document("small", b"x")
    assert documents.left_out == [large] and not documents.waiting
    documents.all_again()
    documents.set(Document("large", bytes(500)))
    documents.take(100), documents.take(100)
    assert documents.left_out == [large], "once"
    documents.all_again()
    documents.take(99)
    assert documents.left_out == [large, large], "at each limit"
    documents.all_again()
    assert documents.take(large.size_bytes) == large
    documents.remove("small")
    assert documents.take(100) is None


def test_the_topic_counts_for_the_size() -> None:
    document = Document("plugmeter/v1/" + "x" * 300, bytes(100))
    assert document.size_bytes > 413
    documents = Documents()
    documents.set(document)
    assert documents.take(document.size_bytes - 1) is None
    documents.all_again()
    assert documents.take(document.size_bytes) is document
