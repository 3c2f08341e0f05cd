"""Signs of life: a question once an idle interval, and an end for who never answers."""

from __future__ import annotations

from plugmeter.telemetry.keepalive import Keepalive
from plugmeter.telemetry.pulse import Pulse


def pulse() -> tuple[Pulse, Keepalive]:
    keepalive = Keepalive(40.0)  # begins with 10 s
    return Pulse(keepalive, 15.0, 0.0), keepalive


def test_a_broker_that_does_not_answer_connect_is_lost() -> None:
    subject, _ = pulse()
    assert subject.next_s == 15.0
    assert not subject.is_lost(14.9) and subject.is_lost(15.0)


def test_an_idle_link_is_asked_once_an_interval() -> None:
    subject, keepalive = pulse()
    assert subject.heard(10, 1.0)
    subject.answered(1.0, waits=False)
    subject.said(5, 1.0)
    assert not subject.heard(10, 2.0) and subject.next_s == 11.0
    assert not subject.wants_ping(10.9)
    assert subject.wants_ping(11.0) and not subject.wants_ping(12.0)
    subject.asked(11.0)
    subject.asked(13.0)
    assert subject.asked_s == 11.0 and subject.next_s == 26.0 and subject.is_lost(26.0)
    assert subject.heard(12, 14.0)
    subject.answered(14.0, waits=False)
    assert subject.asked_s is None and keepalive.interval_s == 10.0
    for turn in range(1, 4):  # four idle intervals that were survived: a longer one
        assert subject.wants_ping(14.0 + 20 * turn)
        subject.asked(14.0 + 20 * turn)
        subject.heard(12 + turn, 14.0 + 20 * turn)
        subject.answered(14.0 + 20 * turn, waits=False)
    assert keepalive.interval_s == 15.0


def test_who_says_something_has_all_the_time_again_for_the_rest() -> None:
    subject, _ = pulse()
    subject.heard(1, 10.0)
    subject.answered(10.0, waits=True)
    assert subject.asked_s == 10.0 and not subject.is_lost(24.9)


def test_one_side_that_is_silent_is_enough_to_ask() -> None:
    """A broker sends and sends: our own silence is what it would close the connection for."""
    subject, _ = pulse()
    for second in range(1, 10):
        subject.heard(second, float(second))
        subject.answered(float(second), waits=False)
    assert subject.wants_ping(10.0)
