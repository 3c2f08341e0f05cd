"""What is asked from any thread is seen once, or stays, as it is meant."""

from __future__ import annotations

import threading

from plugmeter.telemetry.breaker import Kind
from plugmeter.telemetry.documents import Document
from plugmeter.telemetry.failures import Failure
from plugmeter.telemetry.link_requests import Kick, Requests

STOPPED = Document("t/status", b"stopped")


def kick(reason: str, since_ns: int | None = None) -> Kick:
    return Kick(Failure("kicked", Kind.NETWORK, reason), since_ns)


def test_nothing_is_asked_at_first() -> None:
    requests = Requests()
    assert requests.take_kick() is None and requests.goodbye is None
    assert requests.drain_until_s is None and not requests.stopping


def test_a_kick_is_taken_once_and_of_several_the_latest() -> None:
    requests = Requests()
    requests.kick(kick("first"))
    requests.kick(kick("second"))
    assert requests.take_kick() == kick("second")
    assert requests.take_kick() is None


def test_a_kick_of_one_connection_does_not_displace_one_of_any() -> None:
    requests = Requests()
    for first, second, taken in [
        (kick("a", 1), kick("b", 2), kick("b", 2)),
        (kick("a", 1), kick("b"), kick("b")),
        (kick("a"), kick("b", 2), kick("a")),
    ]:
        requests.kick(first)
        requests.kick(second)
        assert requests.take_kick() == taken


def test_draining_stays_and_the_latest_time_counts() -> None:
    requests = Requests()
    requests.drain(10.0)
    requests.drain(7.0)
    assert requests.drain_until_s == 7.0 and requests.drain_until_s == 7.0


def test_goodbye_is_said_once() -> None:
    requests = Requests()
    goodbye = requests.say_goodbye(STOPPED)
    assert goodbye is not None and goodbye.document is STOPPED and requests.goodbye is goodbye
    assert requests.say_goodbye(STOPPED) is None
    assert requests.goodbye is goodbye, "it stays"


def test_many_who_ask_at_once_and_one_who_may_say_it() -> None:
    requests = Requests()
    start = threading.Barrier(8)
    taken = []

    def ask() -> None:
        start.wait(30)
        taken.append(requests.say_goodbye(STOPPED))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join(30)
    assert len(taken) == 8 and [each for each in taken if each is not None] == [requests.goodbye]


def test_who_stops_says_nothing_any_more() -> None:
    requests = Requests()
    requests.stop()
    requests.stop()
    assert requests.stopping
    assert requests.say_goodbye(STOPPED) is None and requests.goodbye is None


def test_a_goodbye_that_nobody_says_expires() -> None:
    goodbye = Requests().say_goodbye(STOPPED)
    assert goodbye is not None and not goodbye.expired
    assert not goodbye.wait(0.0)
    assert goodbye.expired and not goodbye.delivered


def test_a_goodbye_that_is_done_wakes_who_waits() -> None:
    goodbye = Requests().say_goodbye(STOPPED)
    assert goodbye is not None
    goodbye.delivered = True
    threading.Timer(0.01, goodbye.done).start()
    assert goodbye.wait(60)
    goodbye.done()
    assert goodbye.wait(0.0) and not goodbye.expired
