"""What is subscribed to, and what a broker may say to that."""

from __future__ import annotations

from plugmeter.telemetry.client import Subscribed
from plugmeter.telemetry.pulse import Pulse
from plugmeter.telemetry.subscription import Subscription
from tests.telemetry.talks import SUBSCRIBE, TOPICS, Talk


def subscription(talk: Talk, *extra: str) -> tuple[Subscription, Pulse]:
    talk.connected()
    pulse = Pulse(talk.memory.keepalive, 15.0, 0.0)
    pulse.answered(0.0, waits=False)
    return Subscription(talk.session, talk.memory, TOPICS, extra, pulse), pulse


def test_all_is_asked_for_at_once_and_the_broker_owes_an_answer() -> None:
    talk = Talk()
    subject, pulse = subscription(talk, "homeassistant/status")
    assert subject.asked_s is None
    subject.ask(7.0)
    sent = talk.broker.socket.recv(4096)
    assert sent[0] >> 4 == SUBSCRIBE
    places = [
        sent.index(each.encode())
        for each in (TOPICS.acks, TOPICS.desired, TOPICS.commands, "homeassistant/status")
    ]
    assert places == sorted(places)
    assert subject.asked_s == 7.0 and pulse.asked_s == 7.0
    assert not subject.answered and not subject.granted


def test_granted() -> None:
    talk = Talk()
    subject, _ = subscription(talk)
    subject.ask(0.0)
    assert subject.settle(Subscribed(1, (1, 1, 0)))
    assert subject.asked_s is None and subject.answered and subject.granted
    assert not talk.diary.entries


def test_an_answer_to_what_was_not_asked_changes_nothing() -> None:
    talk = Talk()
    subject, _ = subscription(talk)
    assert not subject.settle(Subscribed(0, (1, 1, 1))) and not subject.answered
    subject.ask(0.0)
    assert not subject.settle(Subscribed(9, (1, 1, 1))) and subject.asked_s == 0.0
    assert subject.settle(Subscribed(1, (1, 1, 1)))
    assert not subject.settle(Subscribed(1, (0x87, 1, 1))) and subject.granted, "a second time"


def test_what_is_refused_is_counted_and_told_and_the_rest_is_had() -> None:
    talk = Talk()
    subject, _ = subscription(talk)
    subject.ask(0.0)
    assert subject.settle(Subscribed(1, (1, 0x87, 0x80)))
    assert subject.granted
    assert talk.counters["subscriptions_refused"] == 2
    assert [each["topic"] for each in talk.diary.details("subscription-refused")] == [
        TOPICS.desired,
        TOPICS.commands,
    ]


def test_without_acknowledgements_it_may_be_asked_again() -> None:
    talk = Talk()
    subject, _ = subscription(talk)
    subject.ask(0.0)
    assert subject.settle(Subscribed(1, (0x87, 1, 1)))
    assert subject.answered and not subject.granted
    subject.ask(100.0)
    assert subject.asked_s == 100.0
    assert subject.settle(Subscribed(2, (1, 1, 1))) and subject.granted


def test_a_broker_that_says_too_little_has_granted_nothing() -> None:
    talk = Talk()
    subject, _ = subscription(talk)
    subject.ask(0.0)
    assert subject.settle(Subscribed(1, ())) and not subject.granted


def test_on_a_connection_that_is_over_nothing_is_owed() -> None:
    talk = Talk()
    subject, pulse = subscription(talk)
    talk.session.close()
    subject.ask(0.0)
    assert subject.asked_s is None and pulse.asked_s is None
