"""How large a packet may be, as it is told or found out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugmeter.telemetry.packet_limit import PacketLimit, packet_bytes


def limit(most_bytes: int = 100_000) -> PacketLimit:
    subject = PacketLimit()
    subject.connected(most_bytes)
    return subject


def test_what_the_broker_tells() -> None:
    subject = limit(5_000)
    assert subject.documents_bytes == subject.records_bytes == 5_000


def test_records_can_be_divided_and_documents_cannot() -> None:
    subject = limit()
    subject.exceeded(40_000, divisible=True)
    assert (subject.documents_bytes, subject.records_bytes) == (39_999, 20_000)
    subject.exceeded(30_000, divisible=False)
    assert (subject.documents_bytes, subject.records_bytes) == (29_999, 20_000)
    subject.exceeded(10_000, divisible=False)
    assert (subject.documents_bytes, subject.records_bytes) == (9_999, 9_999)


def test_records_shrink_to_no_less_than_a_few() -> None:
    subject = limit()
    for _ in range(50):
        subject.exceeded(subject.records_bytes, divisible=True)
    assert subject.records_bytes == 1_024


def test_the_same_broker_again_and_another_configuration() -> None:
    subject = limit()
    subject.exceeded(40_000, divisible=True)
    subject.connected(100_000)
    assert subject.records_bytes == 20_000
    subject.connected(100_001)
    assert subject.records_bytes == subject.documents_bytes == 100_001


@given(st.lists(st.tuples(st.integers(1, 10**6), st.booleans()), max_size=20), st.integers(0, 10**6))
def test_what_was_too_large_is_not_sent_again(sizes: list[tuple[int, bool]], told: int) -> None:
    subject = limit(told)
    for size, divisible in sizes:
        subject.exceeded(size, divisible=divisible)
        assert subject.documents_bytes < size
        assert subject.records_bytes < size or subject.records_bytes <= 1_024
        assert max(subject.documents_bytes, subject.records_bytes) <= told


@pytest.mark.parametrize(("topic", "length"), [("t", 0), ("ü" * 300, 10), ("a/b", 300_000)])
def test_a_packet_has_room_for_all_that_may_be_in_it(topic: str, length: int) -> None:
    # header 1 + 4, topic's length 2, identifier 2, properties 1 + 5
    assert packet_bytes(topic, bytes(length)) >= 15 + len(topic.encode()) + length
