"""One connection from CONNECT to its end; the test is the broker, and brings the time."""

from __future__ import annotations

import selectors

from plugmeter.telemetry.conversation import Conversation
from plugmeter.telemetry.documents import Document
from plugmeter.telemetry.failures import Failure
from plugmeter.telemetry.link_memory import Inbound, Patience
from tests.telemetry.talks import (
    ACK_S,
    CONNACK,
    DISCONNECT,
    PINGREQ,
    SUBSCRIBE,
    TOPICS,
    Published,
    Talk,
    puback,
    publish,
    suback,
)

BIRTH = Document(TOPICS.status, b"online")
STOPPED = Document(TOPICS.status, b"stopped")
PATIENCE = Patience(answer_s=15.0, puback_s=120.0, ack_s=ACK_S)


class Table:
    """A conversation, and the broker it is held with."""

    def __init__(self, birth: Document | None = None) -> None:
        self.talk = Talk()
        self.subject = Conversation(self.talk.session, self.talk.memory, TOPICS, birth, (), PATIENCE, 0.0)

    def says(self, data: bytes, now_s: float = 0.0) -> Failure | None:
        if data:
            self.talk.broker.socket.sendall(data)
        return self.subject.turn(now_s, readable=bool(data), writable=False)

    def connected(self) -> None:
        """SUBSCRIBE is answered, and a birth if there is one."""
        assert self.says(CONNACK) is None
        sent = self.talk.broker.packets()
        assert sent[-1] == SUBSCRIBE
        first = [each for each in sent if isinstance(each, Published)]
        answers = b"".join(puback(each.mid) for each in first) + suback(len(first) + 1, 1, 1, 1)
        assert self.says(answers) is None
        assert self.subject.asked_s is None


def test_first_the_birth_then_the_subscription() -> None:
    table = Table(BIRTH)
    assert table.subject.connected_s is None and table.subject.asked_s == 0.0, "it owes CONNACK"
    assert table.says(CONNACK, 1.0) is None
    assert table.subject.connected_s == 1.0
    assert table.talk.broker.packets() == [Published(TOPICS.status, b"online", 1, True), SUBSCRIBE]


def test_refused() -> None:
    failure = Table().says(b"\x20\x03\x00\x87\x00")
    assert failure is not None and failure.cause == "refused"


def test_the_end_has_a_reason() -> None:
    table = Table()
    table.connected()
    failure = table.says(b"\xe0\x01\x8e")
    assert failure is not None and failure.cause == "taken-over"
    table = Table()
    table.connected()
    table.talk.broker.socket.close()
    failure = table.subject.turn(0.0, readable=True, writable=False)
    assert failure is not None and failure.cause == "closed"


def test_an_acknowledgement_that_may_not_be_subscribed_to() -> None:
    table = Table()
    table.says(CONNACK)
    assert table.says(suback(1, 0x87, 1, 1)) is None
    assert table.talk.diary.events() == ["subscription-refused", "publishing-denied"]
    assert table.says(suback(1, 1, 1, 1)) is None
    assert table.talk.counters["strange_packets"] == 1


def test_records_until_their_acknowledgement() -> None:
    table = Table()
    table.connected()
    table.talk.outbox.produce(3)
    assert table.says(b"") is None
    (batch,) = table.talk.broker.published()
    assert table.subject.asked_s == 0.0
    assert table.says(puback(batch.mid), 1.0) is None
    assert table.subject.asked_s is None and table.talk.outbox.pending == 3
    stream = table.talk.outbox.stream
    ack = b'{"stream":"%b","ranges":[[1,9]]}' % stream.encode()
    assert table.says(publish(TOPICS.acks, ack), 2.0) is None
    assert table.talk.outbox.pending == 0 and table.talk.memory.tally.acknowledged == 3
    assert table.talk.counters["acks_of_the_unsent"] == 1
    assert table.says(publish(TOPICS.acks, b"{}"), 2.0) is None
    assert table.says(publish(TOPICS.acks, b'{"stream":"x","ranges":[]}'), 2.0) is None
    assert table.talk.counters["acks_malformed"] == table.talk.counters["acks_of_another_stream"] == 1


def test_an_acknowledgement_that_does_not_come_is_told_and_the_records_go_again() -> None:
    table = Table()
    table.connected()
    table.talk.outbox.produce(3)
    table.says(b"")
    (batch,) = table.talk.broker.published()
    table.says(puback(batch.mid), 1.0)
    assert table.subject.next_s(1.0) == 10.0, "the next ping"
    table.says(puback(99), 30.9)
    assert table.subject.next_s(30.9) == 31.0
    assert table.says(b"", 31.0) is None
    assert [each.payload for each in table.talk.broker.published()] == [batch.payload]
    assert table.talk.diary.details("unacknowledged") == [{"batches": 1, "after_s": ACK_S}]


def test_a_broker_that_is_silent_is_asked_and_then_lost() -> None:
    table = Table()
    table.connected()
    table.talk.broker.packets()
    assert table.subject.next_s(0.0) == 10.0
    assert table.says(b"", 9.9) is None and table.talk.broker.packets() == []
    assert table.says(b"", 10.0) is None and table.talk.broker.packets() == [PINGREQ]
    assert table.subject.next_s(10.0) == 25.0
    assert table.says(b"", 24.9) is None
    failure = table.says(b"", 25.0)
    assert failure is not None and failure.cause == "silence"


def test_a_message_without_puback_while_the_broker_says_other_things() -> None:
    table = Table(BIRTH)
    table.says(CONNACK)
    table.says(suback(2, 1, 1, 1))
    for second in range(1, 120):
        assert table.says(puback(99), float(second)) is None
        assert table.subject.asked_s == second, "it owes the one of the birth"
    assert table.subject.next_s(119.0) == 120.0
    failure = table.says(puback(99), 120.0)
    assert failure is not None and "PUBACK" in failure.text


def test_messages_for_the_daemon_until_it_drains() -> None:
    table = Table()
    table.connected()
    table.talk.broker.packets()
    assert table.says(publish(TOPICS.desired, b"1")) is None
    assert table.talk.inbox == [Inbound(TOPICS.desired, b"1", False)]
    table.subject.draining = True
    assert table.says(publish(TOPICS.desired, b"2")) is None
    assert len(table.talk.inbox) == 1 and table.talk.counters["inbound_while_draining"] == 1
    assert table.talk.broker.packets() == [PINGREQ], "whether it is worth while to say goodbye"
    assert table.says(publish(TOPICS.desired, b"3")) is None and table.talk.broker.packets() == []


# --- goodbye ---------------------------------------------------------------------------------------------


def test_goodbye_is_answered_and_the_broker_closes() -> None:
    table = Table()
    table.connected()
    table.subject.say_goodbye(STOPPED)
    assert table.says(b"") is None
    (said,) = table.talk.broker.published()
    assert said.payload == b"stopped" and table.subject.goodbye_answer is None
    assert table.says(puback(said.mid), 1.0) is None
    assert table.subject.goodbye_answer == 0 and not table.subject.closing
    table.subject.part(1.0, deaf=False)
    assert table.subject.closing and table.talk.broker.packets() == [DISCONNECT]
    assert table.subject.next_s(1.0) == 2.0, "it has a moment"
    assert table.subject.waits_for == (table.talk.session.fileno(), selectors.EVENT_READ)
    table.talk.broker.socket.sendall(publish("x", b"whatever comes is thrown away"))
    assert not table.subject.has_closed(1.0)
    table.talk.broker.socket.close()
    assert table.subject.has_closed(1.0)


def test_a_broker_that_does_not_close_has_a_moment() -> None:
    table = Table()
    table.connected()
    table.subject.say_goodbye(STOPPED)
    table.says(b"")
    (said,) = table.talk.broker.published()
    table.says(puback(said.mid))
    table.subject.part(5.0, deaf=False)
    assert not table.subject.has_closed(5.9) and table.subject.has_closed(6.0)


def test_who_has_not_answered_the_goodbye_is_hardly_waited_for() -> None:
    table = Table()
    table.connected()
    table.talk.broker.packets()
    table.subject.say_goodbye(STOPPED)
    table.subject.part(5.0, deaf=True)
    assert table.talk.broker.packets() == [Published(TOPICS.status, b"stopped", 0, True), DISCONNECT]
    assert table.subject.next_s(5.0) == 5.1 and table.subject.has_closed(5.1)


def test_a_broker_that_sends_and_sends_does_not_keep_us_from_parting() -> None:
    table = Table()
    table.connected()
    table.subject.part(5.0, deaf=False)
    broker = table.talk.broker.socket
    broker.settimeout(30)
    for _ in range(100):
        broker.sendall(bytes(10_000))
        assert not table.subject.has_closed(5.9)
    assert table.subject.has_closed(6.0)


# --- too large -------------------------------------------------------------------------------------------

TOO_LARGE = b"\xe0\x01\x95"


def test_a_document_that_the_broker_ends_the_connection_for_is_left_out_and_records_are_not() -> None:
    table = Table()
    table.connected()
    limit = table.talk.memory.packet_limit
    large = Document("d/large", bytes(20_000))
    table.talk.memory.documents.set(large)
    table.talk.memory.documents.set(Document("d/small", b"x"))
    table.talk.outbox.produce(1)
    assert table.says(b"") is None
    assert len(table.talk.broker.published()) == 3
    failure = table.says(TOO_LARGE)
    assert failure is not None and failure.cause == "too-large"
    assert limit.documents_bytes == limit.records_bytes == large.size_bytes - 1
    table.talk.memory.documents.all_again()
    taken = table.talk.memory.documents.take(limit.documents_bytes)
    assert taken is not None and taken.topic == "d/small"
    assert table.talk.memory.documents.left_out == [large]


def test_records_that_the_broker_ends_the_connection_for_go_in_smaller_messages() -> None:
    table = Table()
    table.connected()
    table.talk.memory.documents.set(Document("d/small", b"x"))
    table.talk.outbox.produce(100)
    assert table.says(b"") is None
    batch = table.talk.broker.published()[-1]
    assert table.says(TOO_LARGE) is not None
    limit = table.talk.memory.packet_limit
    assert limit.records_bytes < len(batch.payload) <= limit.documents_bytes


def test_too_large_with_nothing_under_way_teaches_nothing() -> None:
    table = Table()
    table.connected()
    limit = table.talk.memory.packet_limit
    before = limit.documents_bytes
    assert table.says(TOO_LARGE) is not None
    assert limit.documents_bytes == limit.records_bytes == before


def test_disconnect_behind_what_the_kernel_has_no_room_for_is_said_nevertheless() -> None:
    table = Table()
    table.connected()
    for number in range(10):
        table.talk.memory.documents.set(Document(f"d/{number}", bytes(200_000)))
    assert table.says(b"") is None
    assert table.talk.session.wants_write, "the far end has not read"
    table.subject.part(5.0, deaf=False)
    waits = table.subject.waits_for
    assert waits is not None and waits[1] & selectors.EVENT_WRITE
    packets: list[int | Published] = []
    for _ in range(1_000):
        packets += table.talk.broker.packets()
        if DISCONNECT in packets:
            break
        assert not table.subject.has_closed(5.9)
    assert packets[-1] == DISCONNECT and len(packets) == 11
