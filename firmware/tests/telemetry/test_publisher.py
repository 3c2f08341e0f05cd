"""What goes out on one connection, in which order, and what a PUBACK's reason code does to it."""

from __future__ import annotations

import json

import pytest

from plugmeter.telemetry.client import Answered, Connected, Subscribed
from plugmeter.telemetry.documents import Document
from plugmeter.telemetry.publisher import Publisher
from plugmeter.telemetry.pulse import Pulse
from plugmeter.telemetry.subscription import Subscription
from tests.telemetry.talks import ACK_S, SUBSCRIBE, TOPICS, Published, Talk

BIRTH = Document(TOPICS.status, b"online")
STOPPED = Document(TOPICS.status, b"stopped")
DENIED, QUOTA, NOBODY = 0x87, 0x97, 0x10


class Desk:
    """A publisher, on a connection that stands; ``granted``: records may go as well."""

    def __init__(
        self,
        birth: Document | None = None,
        *,
        receive_maximum: int = 65_535,
        most_bytes: int = 100_000,
        granted: bool = True,
    ) -> None:
        self.talk = Talk()
        self.talk.connected()
        memory = self.memory = self.talk.memory
        pulse = Pulse(memory.keepalive, 15.0, 0.0)
        self.subscription = Subscription(self.talk.session, memory, TOPICS, (), pulse)
        self.publisher = Publisher(
            self.talk.session, memory, TOPICS, birth, self.subscription, pulse, ack_s=ACK_S, now_s=0.0
        )
        if granted:
            self.subscription.ask(0.0)
            assert self.subscription.settle(Subscribed(1, (1, 1, 1)))
            self.talk.broker.packets()
        self.publisher.connected(Connected(receive_maximum, most_bytes, None), 0.0)

    def pump(self, now_s: float = 0.0) -> list[Published]:
        self.publisher.pump(now_s)
        return self.talk.broker.published()

    def answer(self, message: Published, code: int = 0, now_s: float = 0.0) -> None:
        self.publisher.answered(Answered(message.mid, code), now_s)


def test_birth_then_documents_then_records() -> None:
    desk = Desk(BIRTH)
    desk.talk.outbox.produce(150)
    desk.memory.documents.set(Document(TOPICS.meta, b"{}"))
    desk.memory.documents.set(Document(TOPICS.summary, b"1", retain=False))
    sent = desk.pump()
    assert [(each.topic, each.retain) for each in sent] == [
        (TOPICS.status, True), (TOPICS.meta, True), (TOPICS.summary, False),
        (TOPICS.records, False), (TOPICS.records, False),
    ]  # fmt: skip
    assert all(each.mid for each in sent), "QoS 1"
    assert desk.memory.tally.sent == 150 and desk.memory.window.in_flight == 2
    assert desk.pump() == [] and desk.publisher.oldest_s == 0.0
    for each in sent:
        desk.answer(each)
    assert desk.publisher.oldest_s is None
    assert desk.memory.window.in_flight == 2, "the broker's word is not the controller's"


def test_no_more_under_way_than_the_broker_takes() -> None:
    desk = Desk(receive_maximum=2)
    for number in range(5):
        desk.memory.documents.set(Document(f"d/{number}", b""))
    first = desk.pump()
    assert [each.topic for each in first] == ["d/0", "d/1"]
    assert desk.pump() == []
    desk.answer(first[0])
    assert [each.topic for each in desk.pump()] == ["d/2"]


def test_no_record_goes_before_its_acknowledgement_could_be_heard() -> None:
    desk = Desk(granted=False)
    desk.talk.outbox.produce(1)
    desk.memory.documents.set(Document("d", b""))
    assert [each.topic for each in desk.pump()] == ["d"]
    desk.subscription.ask(0.0)
    desk.talk.broker.packets()
    assert desk.pump() == []
    assert desk.subscription.settle(Subscribed(2, (1, 1, 1)))
    assert [each.topic for each in desk.pump()] == [TOPICS.records]


def test_acknowledgements_that_were_refused_are_asked_for_again_when_the_breaker_lets_it() -> None:
    desk = Desk(granted=False)
    desk.talk.outbox.produce(1)
    desk.subscription.ask(0.0)
    assert desk.subscription.settle(Subscribed(1, (DENIED, 1, 1)))
    desk.publisher.denied(0.0, "no")
    desk.talk.broker.packets()
    desk.publisher.pump(89.0)
    assert desk.talk.broker.packets() == []
    desk.publisher.pump(90.0)
    desk.publisher.pump(91.0)
    assert desk.talk.broker.packets() == [SUBSCRIBE], "once, until it is answered"


def test_the_goodbye_goes_before_all_that_waits_and_nothing_after_it() -> None:
    desk = Desk()
    desk.talk.outbox.produce(500)
    desk.memory.documents.set(Document("d", b""))
    desk.publisher.goodbye = STOPPED
    (said,) = desk.pump()
    assert said.topic == TOPICS.status and said.payload == b"stopped" and said.retain and said.mid
    assert desk.pump() == [] and desk.publisher.goodbye_answer is None
    desk.publisher.last_words()
    assert desk.talk.broker.published() == [], "it was said"
    desk.answer(said, QUOTA)
    assert desk.publisher.goodbye_answer == QUOTA
    assert desk.pump() == []


def test_last_words_wait_for_no_place() -> None:
    desk = Desk(BIRTH, receive_maximum=1)
    assert len(desk.pump()) == 1  # and is not answered
    desk.publisher.goodbye = STOPPED
    assert desk.pump() == []
    desk.publisher.last_words()
    desk.publisher.last_words()
    assert desk.talk.broker.published() == [Published(TOPICS.status, b"stopped", 0, True)]


def test_no_last_words_without_a_goodbye() -> None:
    desk = Desk()
    desk.publisher.last_words()
    assert desk.talk.broker.published() == []


def test_a_denial_stops_the_records_and_one_probe_tries_again() -> None:
    desk = Desk()
    desk.talk.outbox.produce(300)
    first, second, third = desk.pump()
    desk.answer(first, DENIED)
    desk.answer(second, DENIED)
    assert desk.talk.diary.events() == ["publishing-denied"]
    assert desk.memory.tally.refusals == {DENIED: 2}
    desk.answer(third)
    assert desk.talk.diary.events() == ["publishing-denied", "publishing-allowed"], "one got through"
    desk.memory.window.clear()
    desk.memory.sender.rewind()
    (probe,) = desk.pump()[:1]
    desk.memory.documents.set(Document("d", b""))
    desk.answer(probe, DENIED, 10.0)
    assert [each.topic for each in desk.pump(99.0)] == ["d"], "documents go on"
    desk.memory.window.clear()
    desk.memory.sender.rewind()
    probes = desk.pump(100.0)
    assert [each.topic for each in probes] == [TOPICS.records], "one, though there is more"
    assert desk.pump(101.0) == []
    desk.answer(probes[0], 0, 102.0)
    assert desk.talk.diary.events()[-1] == "publishing-allowed"


def test_a_refusal_that_mends_itself_is_a_pause() -> None:
    desk = Desk()
    desk.talk.outbox.produce(1)
    (message,) = desk.pump()
    for turn in range(3):
        desk.answer(message, QUOTA, float(turn))
        assert desk.publisher.pauses_s(float(turn)) == [turn + 1.0]
        assert desk.pump(turn + 0.9) == []
        (again,) = desk.pump(turn + 1.0)
        assert again.payload == message.payload
        message = again
    assert desk.talk.diary.events() == ["publish-refused"], "told once"
    assert desk.memory.tally.resent == 3
    desk.answer(message)
    assert desk.publisher.pauses_s(5.0) == []


def test_nobody_listens_and_then_somebody_does() -> None:
    desk = Desk()
    desk.talk.outbox.produce(300)
    first, second, third = desk.pump()
    desk.answer(first, NOBODY)
    desk.answer(second, NOBODY)
    desk.answer(third)
    assert desk.talk.diary.events() == ["nobody-listens", "somebody-listens"]
    assert desk.memory.tally.refusals == {NOBODY: 2}


@pytest.mark.parametrize("birth", [False, True])
def test_a_document_that_is_refused_comes_again(birth: bool) -> None:
    document = Document(TOPICS.status, b"online")
    desk = Desk(document if birth else None)
    if not birth:
        desk.memory.documents.set(document)
    (message,) = desk.pump()
    desk.answer(message, QUOTA)
    assert desk.pump(4.9) == [] and desk.publisher.pauses_s(0.0) == [5.0]
    (message,) = desk.pump(5.0)
    assert message.payload == b"online"
    desk.answer(message, QUOTA, 5.0)
    assert desk.talk.diary.events() == ["document-refused"]
    assert desk.talk.counters["documents_refused"] == 2
    (message,) = desk.pump(10.0)
    desk.answer(message, 0, 10.0)
    assert desk.pump(20.0) == []


@pytest.mark.parametrize("code", [0, DENIED])
def test_what_is_to_be_answered_once_is_published_no_more_after_that(code: int) -> None:
    desk = Desk()
    codes: list[int] = []
    desk.memory.documents.set(Document("old", b"", answered=codes.append))
    (message,) = desk.pump()
    assert (message.topic, message.payload, message.retain) == ("old", b"", True)
    desk.answer(message, code)
    desk.memory.documents.all_again()
    assert desk.pump(99.0) == [] and codes == [code]
    assert desk.publisher.pauses_s(0.0) == [], "nothing else waits for it"


def test_what_ends_each_connection_is_given_up() -> None:
    """Some brokers disconnect whoever publishes what they deny."""
    desk = Desk()
    codes: list[int] = []
    desk.memory.documents.set(Document("old", b"", answered=codes.append))
    for _ in range(2):
        assert [each.topic for each in desk.pump()] == ["old"] and codes == []
        desk.memory.documents.all_again()  # another connection
    assert desk.pump() == [] and codes == [DENIED]


def test_a_document_that_is_too_large_is_told_once_and_left_out_until_it_changes() -> None:
    desk = Desk(most_bytes=2_000)
    documents = desk.memory.documents
    documents.set(Document("large", bytes(2_000)))
    documents.set(Document("d", b""))
    assert [each.topic for each in desk.pump()] == ["d"]
    told = [{"topic": "large", "bytes": 2_037, "limit": 2_000}]
    assert desk.talk.diary.details("document-too-large") == told
    assert desk.talk.counters["documents_too_large"] == 1
    documents.all_again()
    desk.pump()
    assert desk.talk.counters["documents_too_large"] == 1, "it is the same"
    documents.set(Document("large", bytes(2_001)))
    assert desk.pump() == []
    assert desk.talk.counters["documents_too_large"] == 2
    assert desk.talk.diary.details("document-too-large") == told, "the topic was told"
    documents.set(Document("large", bytes(1_000)))
    (message,) = desk.pump()
    assert len(message.payload) == 1_000


def test_a_document_that_is_too_large_goes_when_the_limit_lets_it() -> None:
    desk = Desk(most_bytes=2_000)
    desk.memory.documents.set(Document("large", bytes(2_000)))
    assert desk.pump() == []
    desk.publisher.connected(Connected(100, 1_900, None), 0.0)
    assert desk.pump() == []
    assert [each["limit"] for each in desk.talk.diary.details("document-too-large")] == [2_000, 1_900]
    desk.publisher.connected(Connected(100, 2_100, None), 0.0)
    assert [each.topic for each in desk.pump()] == ["large"]


def test_a_broker_that_takes_not_even_birth_and_goodbye_is_spared_them() -> None:
    desk = Desk(BIRTH, most_bytes=60)
    assert desk.pump() == []
    desk.publisher.goodbye = STOPPED
    assert desk.pump() == [] and desk.publisher.goodbye_answer == 0x95
    assert desk.talk.counters["documents_too_large"] == 2
    assert len(desk.talk.diary.details("document-too-large")) == 1


def test_a_goodbye_that_is_refused_is_counted_and_told() -> None:
    desk = Desk()
    desk.publisher.goodbye = STOPPED
    (said,) = desk.pump()
    desk.answer(said, QUOTA)
    assert desk.talk.counters["goodbyes_refused"] == 1
    assert desk.talk.diary.details("goodbye-refused") == [{"reason": "quota exceeded (0x97)"}]


def test_a_puback_that_nobody_waits_for_is_counted() -> None:
    desk = Desk(BIRTH)
    (message,) = desk.pump()
    desk.answer(message)
    desk.answer(message)
    assert desk.talk.counters["strange_packets"] == 1


def test_what_fits_into_no_message_is_told_and_does_not_hold_up_the_rest() -> None:
    desk = Desk(most_bytes=2_000)
    desk.talk.outbox.produce(1, data=b'"' + b"x" * 3_000 + b'"')
    desk.talk.outbox.produce(1)
    numbers = [record["first"] for each in desk.pump() for record in json.loads(each.payload)["events"]]
    assert numbers == [2]
    assert desk.talk.diary.details("record-too-large") == [{"numbers": [1], "limit": 2_000}]
    assert desk.talk.counters["records_too_large"] == 1
    desk.memory.window.clear()
    desk.memory.sender.rewind()
    desk.pump()
    assert desk.talk.counters["records_too_large"] == 1, "records are counted, not attempts"
    assert len(desk.talk.diary.details("record-too-large")) == 1


def test_an_outbox_that_cannot_be_read_is_left_alone_for_a_moment() -> None:
    desk = Desk()
    desk.talk.outbox.produce(1)
    desk.talk.outbox.fail = OSError(5, "Input/output error")
    assert desk.pump() == []
    assert desk.talk.counters["outbox_errors"] == 1 and desk.publisher.pauses_s(0.0) == [1.0]
    desk.talk.outbox.fail = None
    assert desk.pump(0.9) == []
    assert len(desk.pump(1.0)) == 1


def test_with_nothing_under_way_for_long_the_outbox_is_read_from_its_start() -> None:
    desk = Desk()
    desk.talk.outbox.produce(1)
    assert len(desk.pump()) == 1
    desk.memory.window.acknowledged([(1, 1)])  # but the outbox has not heard of it
    assert desk.pump(ACK_S - 1.0) == []
    desk.publisher.acknowledged(ACK_S - 1.0)
    assert desk.pump(ACK_S) == [], "the controller is alive"
    assert len(desk.pump(2 * ACK_S)) == 1
