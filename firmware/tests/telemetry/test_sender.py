"""The sender on an outbox in memory: everything goes, in messages that fit, and again if need be."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugmeter.telemetry.sender import Parcel, Sender
from plugmeter.telemetry.window import Window
from tests.telemetry.outboxes import MemoryBatch, MemoryOutbox, encode


def sender(outbox: MemoryOutbox, most: int = 20, limit: int = 1_000_000) -> tuple[Sender, Window]:
    window = Window(most, ack_timeout_s=1.0)
    subject = Sender(outbox, encode, "bench", window)
    outbox.on_commit(subject.committed)
    subject.connected(65_535, limit)
    return subject, window


def numbers(parcel: Parcel) -> list[int]:
    return [each["first"] for each in json.loads(parcel.payload)["events"]]


def test_sends_forwards_and_rests_when_there_is_nothing() -> None:
    outbox = MemoryOutbox()
    subject, window = sender(outbox)
    assert subject.next() is None
    reads = outbox.reads
    assert subject.next() is None and outbox.reads == reads  # no commit, no look
    outbox.produce(250)
    sizes = []
    while (parcel := subject.next()) is not None:
        window.sent(parcel.ranges, 0.0)
        sizes.append(parcel.count)
    assert sizes == [100, 100, 50]


def test_what_is_refused_goes_again_without_what_was_acknowledged_and_with_tombstones() -> None:
    outbox = MemoryOutbox()
    subject, window = sender(outbox)
    outbox.produce(100)
    parcel = subject.next()
    assert parcel is not None and parcel.ranges == ((1, 100),) and parcel.again == 0
    ticket = window.sent(parcel.ranges, 0.0)
    outbox.acknowledge([(1, 10), (50, 60)])
    window.acknowledged([(1, 10), (50, 60)])
    outbox.evict(20, 29)
    window.refused(ticket)
    again = subject.next()
    assert again is not None and again.since_s == 0.0
    assert again.ranges == ((11, 49), (61, 100))
    assert again.again == again.count == 69
    assert [20, 29] in [[e["first"], e["last"]] for e in json.loads(again.payload)["events"]]


def test_larger_messages_than_the_broker_takes_are_divided() -> None:
    outbox = MemoryOutbox()
    subject, window = sender(outbox, limit=2_000)
    outbox.produce(40)
    seen: list[int] = []
    while len(seen) < 40:
        parcel = subject.next()
        assert parcel is not None and len(parcel.payload) <= 2_000
        seen += numbers(parcel)
        window.acknowledged(parcel.ranges)
    assert seen == list(range(1, 41))


def test_a_record_that_never_fits_is_told_and_does_not_stop_the_others() -> None:
    outbox = MemoryOutbox()
    subject, _ = sender(outbox, limit=2_000)
    outbox.produce(1)
    outbox.produce(1, data=b'"' + b"x" * 3_000 + b'"')
    outbox.produce(1)
    seen = []
    while (parcel := subject.next()) is not None:
        seen += numbers(parcel)
    assert seen == [1, 3] and subject.unsendable == [2]


def test_a_broker_that_takes_hardly_anything_does_not_keep_the_thread() -> None:
    outbox = MemoryOutbox()
    subject, _ = sender(outbox, limit=100)
    outbox.produce(1_000)
    assert subject.next() is None
    assert 0 < len(subject.unsendable) <= 100 and outbox.reads <= 100
    for _ in range(1_000):
        assert subject.next() is None
    assert sorted(subject.unsendable) == list(range(1, 1_001))


def test_what_was_passed_over_is_told_once_however_often_it_is_met() -> None:
    outbox = MemoryOutbox()
    subject, _ = sender(outbox, limit=100)
    for _ in range(2_200):  # in turns, so that no two are neighbours
        outbox.produce(1)
    outbox.acknowledge([(number, number) for number in range(2, 2_201, 2)])
    for _ in range(3):
        for _ in range(200):
            assert subject.next() is None
        subject.rewind()
    assert subject.unsendable == list(range(1, 2_200, 2))
    outbox.break_stream()
    outbox.produce(1)
    for _ in range(3):
        subject.next()
    assert subject.unsendable[1_100:] == [1], "another stream's"


def test_an_outbox_that_cannot_be_read_is_read_later() -> None:
    outbox = MemoryOutbox()
    subject, window = sender(outbox)
    outbox.produce(10)
    outbox.fail = OSError(5, "Input/output error")
    with pytest.raises(OSError, match="Input/output"):
        subject.next()
    outbox.fail = None
    parcel = subject.next()
    assert parcel is not None
    window.refused(window.sent(parcel.ranges, 3.0))
    outbox.fail = OSError(5, "Input/output error")
    with pytest.raises(OSError, match="Input/output"):
        subject.next()
    assert window.records == 10  # still due
    outbox.fail = None
    again = subject.next()
    assert again is not None and again.ranges == ((1, 10),) and again.since_s == 3.0


def test_smaller_messages_after_silence() -> None:
    outbox = MemoryOutbox()
    subject, _ = sender(outbox)
    for _ in range(10):
        subject.silence()
    outbox.produce(100)
    parcel = subject.next()
    assert parcel is not None and parcel.count < 20
    for _ in range(10):
        subject.progressed()
    parcel = subject.next()
    assert parcel is not None and parcel.count > 80


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("produce"), st.integers(1, 40)),
            st.tuples(st.just("evict"), st.integers(0, 60)),
            st.tuples(st.just("send"), st.integers(1, 5)),
            st.tuples(st.just("acknowledge"), st.integers(0, 10)),
            st.tuples(st.just("refuse"), st.integers(0, 10)),
            st.tuples(st.just("reconnect"), st.just(0)),
        ),
        max_size=40,
    )
)
def test_whatever_happens_everything_is_acknowledged_in_the_end(steps: list[tuple[str, int]]) -> None:
    outbox = MemoryOutbox()
    subject, window = sender(outbox, limit=4_000)
    under_way: list[tuple[int, Parcel]] = []

    def send() -> bool:
        parcel = subject.next()
        if parcel is not None:
            under_way.append((window.sent(parcel.ranges, 0.0, since_s=parcel.since_s), parcel))
        return parcel is not None

    for what, how in steps:
        if what == "produce":
            outbox.produce(how)
        elif what == "evict" and how < outbox.produced:
            pending = [each.seq for each in outbox.next_batch(how, 5, 10_000).records]
            if pending and pending == list(range(pending[0], pending[0] + len(pending))):
                outbox.evict(pending[0], pending[-1])
        elif what == "send":
            for _ in range(how):
                send()
        elif what == "reconnect":
            subject.connected(how + 5, 4_000)
            under_way.clear()
        elif under_way and what in ("acknowledge", "refuse"):
            ticket, parcel = under_way.pop(how % len(under_way))
            if what == "refuse":
                window.refused(ticket)
            else:
                window.acknowledged(parcel.ranges)
                outbox.acknowledge(parcel.ranges)
    for _ in range(1_000):
        while send():
            pass
        if not under_way:
            break
        for _, parcel in under_way:
            window.acknowledged(parcel.ranges)
            outbox.acknowledge(parcel.ranges)
        under_way.clear()
    subject.rewind()  # as the link does when nothing is under way: tombstones behind its back
    while send():
        for _, parcel in under_way:
            window.acknowledged(parcel.ranges)
            outbox.acknowledge(parcel.ranges)
    assert outbox.pending == 0
    assert window.empty


class Breaking(MemoryOutbox):
    """Its database is found to be damaged between a read and the use of what was read."""

    breaks = False

    def next_batch(self, after: int, most_records: int, most_bytes: int) -> MemoryBatch:
        batch = super().next_batch(after, most_records, most_bytes)
        if self.breaks:
            self.breaks = False
            self.break_stream()
        return batch


def test_a_stream_that_breaks_while_it_is_read_mixes_no_numbers() -> None:
    """Else the old stream's records would get the new one's name, which another record is to have."""
    outbox = Breaking()
    subject, window = sender(outbox)
    old = outbox.stream
    outbox.produce(150)
    outbox.breaks = True
    parcel = subject.next()
    assert parcel is not None and json.loads(parcel.payload)["stream"] == old
    window.sent(parcel.ranges, 0.0)
    outbox.produce(3)
    after = subject.next()
    assert after is not None and json.loads(after.payload)["stream"] == outbox.stream != old
    assert numbers(after) == [1, 2, 3] and after.again == 0
    assert window.records == 0 and subject.highest == 3


def test_what_is_due_of_an_old_stream_is_forgotten_with_it() -> None:
    outbox = MemoryOutbox()
    subject, window = sender(outbox)
    outbox.produce(100)
    parcel = subject.next()
    assert parcel is not None
    ticket = window.sent(parcel.ranges, 0.0)
    outbox.break_stream()
    outbox.produce(40)
    window.refused(ticket)
    after = subject.next()
    assert after is not None and numbers(after) == list(range(1, 41))
    assert json.loads(after.payload)["stream"] == outbox.stream and after.again == 0
