"""The link's course without its thread: the test is the broker, and brings the time."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator

import pytest

from plugmeter.telemetry.breaker import Kind
from plugmeter.telemetry.course import Course
from plugmeter.telemetry.documents import Document
from plugmeter.telemetry.failures import Failure
from plugmeter.telemetry.link_memory import Inbound
from plugmeter.telemetry.link_requests import Goodbye, Kick, Requests
from plugmeter.telemetry.link_settings import LinkSettings, Timing
from plugmeter.telemetry.link_status import LinkState
from plugmeter.telemetry.watch import Watch
from tests.telemetry.broker import eventually
from tests.telemetry.outboxes import Diary, MemoryOutbox
from tests.telemetry.talks import (
    CONNACK,
    DISCONNECT,
    SUBSCRIBE,
    TOPICS,
    FarEnd,
    Published,
    least,
    memory_of,
    puback,
    publish,
)

BEGIN_S = 1_000.0
STOPPED = Document(TOPICS.status, b"stopped")
NOT_AUTHORIZED = b"\x20\x03\x00\x87\x00"


class Trip:
    """A course, and a port where a test may be the broker. The clock stands still unless ``now_s`` is set."""

    def __init__(self, *, host: str = "127.0.0.1") -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.listener.settimeout(30)
        self.diary = Diary()
        self.outbox = MemoryOutbox()
        inbox: list[Inbound] = []
        self.memory = memory_of(self.outbox, self.diary, inbox)
        self.requests = Requests()
        self.watch = Watch()
        self.now_s = BEGIN_S
        self.defect: Exception | None = None
        self.unlucky: Exception | None = None
        self.course = Course(
            LinkSettings(host=host, port=self.listener.getsockname()[1], device="bench"),
            Timing(retry_s=2.0, breaker_s=300.0),
            TOPICS,
            self.memory,
            self.requests,
            self.watch,
            client_id="bench",
            birth=lambda: b"online",
            will=self._will,
            uniform=self._least,
            now_s=BEGIN_S,
        )

    def _least(self, low: float, high: float) -> float:
        if self.unlucky is not None:
            raise self.unlucky
        return least(low, high)

    def _will(self) -> bytes:
        if self.defect is not None:
            raise self.defect
        return b"lost"

    def at(self, state: LinkState) -> bool:
        return self.course.status.state is state

    def turn(self) -> bool:
        readable, writable = self.watch.wait(0.01)
        return self.course.turn(self.now_s, readable=readable, writable=writable)

    def until(self, condition: Callable[[], bool], what: str) -> None:
        def turned() -> bool:
            self.turn()
            return condition()

        eventually(turned, f"{what}: {self.course.status}")

    def accepted(self) -> FarEnd:
        """CONNECT has come."""
        self.until(lambda: self.course.status.unanswered_ns is not None, "CONNECT is sent")
        far = FarEnd(self.listener.accept()[0])
        self.until(lambda: bool(far.packets()), "CONNECT came")
        return far

    def connected(self) -> FarEnd:
        far = self.accepted()
        far.socket.sendall(CONNACK)
        self.until(lambda: self.at(LinkState.CONNECTED), "connected")
        sent = far.packets()
        assert [each if isinstance(each, int) else each.payload for each in sent[:2]] == [
            b"online",
            SUBSCRIBE,
        ]
        return far

    def end(self) -> None:
        self.course.end(self.now_s)
        self.watch.close()
        self.course.close()
        self.listener.close()


@pytest.fixture
def trip() -> Iterator[Trip]:
    trip = Trip()
    yield trip
    trip.end()
    assert not [name for name in trip.memory.tally.counters if name.endswith("_errors")], trip.diary.entries


def kick(cause: str = "kicked", since_ns: int | None = None) -> Kick:
    return Kick(Failure(cause, Kind.NETWORK, "for a test"), since_ns)


def test_reports_to_nobody_without_a_host() -> None:
    trip = Trip(host="")
    assert trip.course.next_s(BEGIN_S) is None
    assert not trip.turn()
    trip.requests.kick(kick())
    assert not trip.turn()
    assert trip.at(LinkState.OFF) and trip.course.status.broker == ""
    trip.end()


def test_a_network_that_fails_is_tried_again_after_a_while(trip: Trip) -> None:
    trip.listener.close()
    assert trip.course.next_s(BEGIN_S) == BEGIN_S, "at once"
    trip.until(lambda: trip.at(LinkState.WAITING), "refused")
    assert trip.course.status.failures == {"tcp": 1} and trip.course.status.last_failure
    assert trip.course.next_s(BEGIN_S) == BEGIN_S + 2.0
    trip.now_s = BEGIN_S + 1.9
    assert not trip.turn()
    trip.now_s = BEGIN_S + 2.0
    trip.until(lambda: trip.course.status.failures["tcp"] == 2, "again")
    assert trip.diary.events() == ["connect-failed"], "the same is not told again"


def test_a_drain_waits_no_longer_than_half_a_second_until_its_time_is_over(trip: Trip) -> None:
    trip.listener.close()
    trip.until(lambda: trip.at(LinkState.WAITING), "refused")
    trip.requests.drain(BEGIN_S + 10.0)
    trip.turn()
    assert trip.course.next_s(BEGIN_S) == BEGIN_S + 0.5 and trip.course.status.draining
    trip.now_s = BEGIN_S + 11.0
    trip.until(lambda: trip.course.status.failures["tcp"] == 2, "again")
    trip.turn()
    assert trip.course.next_s(trip.now_s) == trip.now_s + 2.0


def test_a_kick_ends_a_wait(trip: Trip) -> None:
    trip.listener.close()
    trip.until(lambda: trip.at(LinkState.WAITING), "refused")
    trip.requests.kick(kick())
    trip.until(lambda: trip.course.status.failures["tcp"] == 2, "at once")


def test_who_is_refused_waits_for_a_person_whatever_is_asked(trip: Trip) -> None:
    far = trip.accepted()
    far.socket.sendall(NOT_AUTHORIZED)
    trip.until(lambda: trip.at(LinkState.BROKEN), "the breaker")
    until_s = BEGIN_S + 300.0 * 0.9
    trip.requests.kick(kick())
    trip.requests.drain(BEGIN_S + 10.0)
    trip.turn()
    assert trip.at(LinkState.BROKEN) and trip.course.next_s(BEGIN_S) == until_s
    trip.now_s = until_s
    trip.connected()
    assert trip.diary.events() == ["connect-failed", "breaker-closed", "connected"]
    assert trip.course.status.breaker == "closed" and trip.course.status.last_failure is None


def test_a_kick_loses_the_connection_without_the_last_will(trip: Trip) -> None:
    far = trip.connected()
    trip.requests.kick(kick())
    trip.until(lambda: DISCONNECT in far.packets(), "DISCONNECT")
    far.socket.sendall(publish(TOPICS.desired, b"what was under way"))
    for _ in range(3):
        trip.turn()
    assert trip.at(LinkState.CONNECTED), "until the broker has closed: a reset might overtake DISCONNECT"
    far.socket.settimeout(30)
    assert far.socket.recv(1) == b"", "an orderly end"
    far.socket.close()
    trip.until(lambda: trip.course.status.failures.get("kicked") == 1, "kicked")
    trip.connected()
    assert trip.course.status.connects == 2


@pytest.mark.parametrize(("cause", "moment_s"), [("kicked", 1.0), ("silence", 0.1)])
def test_who_was_kicked_and_does_not_close_has_a_moment(trip: Trip, cause: str, moment_s: float) -> None:
    far = trip.connected()
    trip.requests.kick(kick(cause))
    trip.until(lambda: DISCONNECT in far.packets(), "DISCONNECT")
    trip.requests.kick(kick(cause))  # again, while it parts
    assert trip.course.next_s(BEGIN_S) == BEGIN_S + moment_s
    trip.turn()
    assert trip.at(LinkState.CONNECTED)
    trip.now_s += moment_s
    trip.until(lambda: trip.course.status.failures.get(cause) == 1, "lost")


def test_a_kick_for_a_connection_that_is_gone_does_not_hit_the_next(trip: Trip) -> None:
    trip.connected().socket.close()
    gone_ns = trip.course.status.since_ns
    trip.until(lambda: trip.at(LinkState.WAITING), "lost")
    trip.requests.kick(kick(since_ns=gone_ns))
    trip.turn()
    assert trip.course.next_s(trip.now_s) == BEGIN_S + 2.0, "nor ends the wait"
    trip.now_s = BEGIN_S + 2.0
    far = trip.connected()
    trip.requests.kick(kick(since_ns=gone_ns))
    trip.turn()
    assert trip.memory.tally.counters["kicks_too_late"] == 2 and far.packets() == []
    trip.requests.kick(kick(since_ns=trip.course.status.since_ns))
    trip.until(lambda: DISCONNECT in far.packets(), "the one that is meant")


def parting(trip: Trip, cause: str = "kicked") -> FarEnd:
    """A kick has said DISCONNECT: the broker retains "online", and has forgotten the last will."""
    far = trip.connected()
    trip.requests.kick(kick(cause))
    trip.until(lambda: DISCONNECT in far.packets(), "DISCONNECT")
    return far


def goodbye_of(trip: Trip) -> Goodbye:
    goodbye = trip.requests.say_goodbye(STOPPED)
    assert goodbye is not None
    return goodbye


def answer_the_goodbye(trip: Trip, far: FarEnd, goodbye: Goodbye) -> None:
    """On a connection that was made for it, from CONNACK on."""
    far.socket.sendall(CONNACK)
    trip.until(lambda: trip.at(LinkState.CONNECTED), "connected")
    assert not trip.course.status.left_online, "there is a last will again"
    (said,) = far.published()
    assert said.payload == b"stopped", 'and not "online" before it'
    far.socket.sendall(puback(said.mid))
    trip.until(lambda: DISCONNECT in far.packets(), "DISCONNECT")
    far.socket.close()
    trip.until(lambda: trip.at(LinkState.OFF), "off")
    assert goodbye.wait(0.0) and goodbye.delivered


@pytest.mark.parametrize("closes", [True, False])
@pytest.mark.parametrize("cause", ["kicked", "silence"])
def test_goodbye_while_the_connection_parts_for_a_kick_is_said_on_another(
    trip: Trip, cause: str, closes: bool
) -> None:
    far = parting(trip, cause)
    assert trip.course.status.left_online
    goodbye = goodbye_of(trip)
    if closes:
        far.socket.close()
    else:
        trip.turn()
        assert trip.course.next_s(trip.now_s) == BEGIN_S + 0.1, "no second for who does not close"
        trip.now_s += 0.1
    answer_the_goodbye(trip, trip.accepted(), goodbye)


@pytest.mark.parametrize("moment", ["waiting", "connecting"])
def test_goodbye_between_a_kick_and_the_next_connection_is_said_there(trip: Trip, moment: str) -> None:
    parting(trip, "silence").socket.close()
    trip.until(lambda: trip.at(LinkState.WAITING), "lost")
    if moment == "waiting":
        goodbye = goodbye_of(trip)
        far = trip.accepted()
    else:
        trip.now_s += 2.0
        far = trip.accepted()
        goodbye = goodbye_of(trip)
        trip.turn()
    if moment == "connecting":  # its conversation had begun: it is online, and then stopped
        far.socket.sendall(CONNACK)
        trip.until(lambda: trip.at(LinkState.CONNECTED), "connected")
        trip.turn()
        online, stopped = far.published()
        assert (online.payload, stopped.payload) == (b"online", b"stopped")
        far.socket.sendall(puback(online.mid) + puback(stopped.mid))
        trip.until(lambda: goodbye.delivered, "taken")
    else:
        answer_the_goodbye(trip, far, goodbye)


def test_a_goodbye_after_a_kick_that_finds_nobody_is_tried_once(trip: Trip) -> None:
    far = parting(trip)
    trip.listener.close()
    goodbye = goodbye_of(trip)
    far.socket.close()
    trip.until(lambda: trip.at(LinkState.OFF), "off")
    assert goodbye.wait(0.0) and not goodbye.delivered
    assert trip.course.next_s(trip.now_s) is None and trip.course.status.left_online


def test_a_goodbye_after_a_kick_that_expires_leaves_the_rest_to_the_last_will(trip: Trip) -> None:
    parting(trip).socket.close()
    goodbye = goodbye_of(trip)
    far = trip.accepted()  # who does not answer CONNECT
    assert not goodbye.wait(0.0)
    trip.until(lambda: trip.at(LinkState.OFF), "off")
    far.socket.settimeout(30)
    assert far.socket.recv(1) == b"", "without DISCONNECT: the broker publishes the will"


def test_who_drains_or_says_goodbye_is_not_kicked(trip: Trip) -> None:
    far = trip.connected()
    trip.requests.drain(BEGIN_S + 10.0)
    trip.requests.kick(kick())
    trip.turn()
    assert trip.memory.tally.counters["kicks_too_late"] == 1
    assert DISCONNECT not in far.packets() and not trip.course.parting
    goodbye_of(trip)
    trip.requests.kick(kick())
    trip.turn()
    assert trip.memory.tally.counters["kicks_too_late"] == 2
    assert not trip.course.parting and not trip.course.status.left_online
    assert [each.payload for each in far.published()] == [b"stopped"]


def test_short_lives_are_taken_for_a_twin(trip: Trip) -> None:
    trip.connected().socket.close()
    trip.until(lambda: trip.at(LinkState.WAITING), "lost")
    assert not trip.course.status.twin
    for _ in range(2):
        assert not trip.course.status.twin
        trip.now_s += 60.0
        far = trip.connected()
        trip.now_s += 4.9
        far.socket.close()
        trip.until(lambda: trip.at(LinkState.WAITING), "lost again")
    status = trip.course.status
    assert status.twin and status.failures == {"closed": 2, "twin": 1}
    assert "another device has this name" in (status.last_failure or "")
    trip.now_s += 60.0
    trip.connected()
    assert trip.course.status.twin
    trip.now_s += 5.0
    trip.turn()
    assert not trip.course.status.twin, "it stands"


def test_losing_that_raises_as_well_leaves_another_attempt(trip: Trip) -> None:
    far = trip.connected()
    trip.unlucky = ZeroDivisionError("a defect of ours")
    far.socket.close()
    trip.until(lambda: trip.at(LinkState.WAITING), "lost")
    counters = trip.memory.tally.counters
    assert counters.pop("turn_errors") == counters.pop("loss_errors") == 1
    assert trip.course.next_s(BEGIN_S) == BEGIN_S + Timing().longest_retry_s
    trip.unlucky = None
    trip.now_s += Timing().longest_retry_s
    trip.connected()


def test_a_turn_that_raises_ends_the_attempt_and_not_the_course(trip: Trip) -> None:
    trip.defect = ZeroDivisionError("a defect of ours")
    trip.until(lambda: trip.at(LinkState.WAITING), "given up")
    assert trip.course.status.failures == {"defect": 1}
    assert trip.memory.tally.counters.pop("turn_errors") == 1
    assert trip.diary.events() == ["exception", "connect-failed"]
    trip.defect = None
    trip.now_s += 2.0
    trip.connected()


# --- goodbye ---------------------------------------------------------------------------------------------


def test_goodbye_on_a_connection(trip: Trip) -> None:
    far = trip.connected()
    goodbye = trip.requests.say_goodbye(STOPPED)
    assert goodbye is not None
    trip.turn()
    (said,) = far.published()
    far.socket.sendall(puback(said.mid))
    trip.until(lambda: DISCONNECT in far.packets(), "DISCONNECT")
    assert goodbye.delivered and trip.at(LinkState.CONNECTED), "until the broker has closed"
    far.socket.close()
    trip.until(lambda: trip.at(LinkState.OFF), "off")
    assert goodbye.wait(0.0)
    trip.requests.kick(kick())
    trip.now_s += 1_000.0
    assert not trip.turn()
    assert trip.at(LinkState.OFF) and trip.course.next_s(trip.now_s) is None, "and stays so"


def test_a_goodbye_that_was_refused_is_not_delivered(trip: Trip) -> None:
    far = trip.connected()
    goodbye = trip.requests.say_goodbye(STOPPED)
    assert goodbye is not None
    trip.turn()
    (said,) = far.published()
    far.socket.sendall(puback(said.mid, 0x97))
    trip.until(lambda: DISCONNECT in far.packets(), "DISCONNECT")
    trip.now_s += 1.0  # and the broker does not close
    trip.until(lambda: trip.at(LinkState.OFF), "off")
    assert goodbye.wait(0.0) and not goodbye.delivered


def test_a_goodbye_that_has_expired_parts_at_once(trip: Trip) -> None:
    far = trip.connected()
    goodbye = trip.requests.say_goodbye(STOPPED)
    assert goodbye is not None
    trip.turn()
    assert not goodbye.wait(0.0)
    trip.until(lambda: trip.course.parting, "DISCONNECT")
    trip.now_s += 0.1
    trip.until(lambda: trip.at(LinkState.OFF), "off")
    assert [type(each) for each in far.packets()] == [Published, int] and not goodbye.delivered


def test_a_goodbye_whose_connection_is_lost_meanwhile(trip: Trip) -> None:
    far = trip.connected()
    goodbye = trip.requests.say_goodbye(STOPPED)
    assert goodbye is not None
    trip.turn()
    far.socket.close()
    trip.until(lambda: trip.at(LinkState.OFF), "off")
    assert goodbye.wait(0.0) and not goodbye.delivered
    assert trip.course.next_s(trip.now_s) is None, "no other attempt"


def test_goodbye_without_a_connection(trip: Trip) -> None:
    far = trip.accepted()  # who says nothing
    goodbye = trip.requests.say_goodbye(STOPPED)
    assert goodbye is not None
    trip.turn()
    assert trip.at(LinkState.OFF) and goodbye.wait(0.0) and not goodbye.delivered
    assert trip.course.status.failures == {"kicked": 1} and far.packets() == []


def test_the_end_says_a_goodbye_that_was_not_said(trip: Trip) -> None:
    far = trip.connected()
    goodbye = trip.requests.say_goodbye(STOPPED)
    assert goodbye is not None
    trip.requests.stop()
    trip.course.part(trip.now_s)
    assert far.packets() == [Published(TOPICS.status, b"stopped", 0, True), DISCONNECT]
    assert trip.course.parting and not goodbye.wait(0.0)
    trip.turn()
    assert trip.course.parting, "the broker has a moment"
    far.socket.close()
    trip.until(lambda: not trip.course.parting, "closed")
    trip.course.end(trip.now_s)
    assert goodbye.wait(0.0) and trip.at(LinkState.OFF)


def test_the_end_keeps_nobody_waiting_who_was_not_served(trip: Trip) -> None:
    trip.connected()
    goodbye = trip.requests.say_goodbye(STOPPED)
    assert goodbye is not None
    trip.course.end(trip.now_s)
    assert goodbye.wait(0.0) and not goodbye.delivered and trip.at(LinkState.OFF)


def test_the_end_without_a_goodbye_is_without_a_word(trip: Trip) -> None:
    far = trip.connected()
    trip.course.part(trip.now_s)
    assert not trip.course.parting
    trip.course.end(trip.now_s)
    assert far.packets() == [] and trip.at(LinkState.OFF)
