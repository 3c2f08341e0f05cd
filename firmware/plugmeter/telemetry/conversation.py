"""The conversation: all that is said on one connection, from CONNECT to its end, the goodbye included."""

from __future__ import annotations

import selectors
from collections.abc import Sequence
from typing import Final

from plugmeter.telemetry.breaker import Kind
from plugmeter.telemetry.client import Answered, Arrived, Connected, Ended, Refused, Session, Subscribed
from plugmeter.telemetry.documents import Document
from plugmeter.telemetry.failures import Failure, closed, ended_by_broker, of_error, refusal
from plugmeter.telemetry.link_memory import Inbound, Memory, Patience
from plugmeter.telemetry.publisher import Publisher
from plugmeter.telemetry.pulse import Pulse
from plugmeter.telemetry.subscription import Subscription
from plugmeter.telemetry.topics import Topics

INBOUND_LIMIT_BYTES: Final = 262_144
_CLOSING_S: Final = 1.0
_DEAF_CLOSING_S: Final = 0.1


class Conversation:
    """One connection. Times are monotonic seconds.

    The owner calls ``turn`` whenever the descriptor of ``waits_for`` is ready or ``next_s`` has come; it
    gives the failure that ended the connection, or None. After ``part`` it calls ``has_closed`` instead.
    """

    def __init__(
        self,
        session: Session,
        memory: Memory,
        topics: Topics,
        birth: Document | None,
        extra_filters: Sequence[str],
        patience: Patience,
        now_s: float,
    ) -> None:
        self.session = session
        self._memory = memory
        self._guard = memory.guard
        self._tally = memory.tally
        self._topics = topics
        self._patience = patience
        self.connected_s: float | None = None
        self.receive_maximum = 0
        self.draining = False
        self._sounded = False
        self._closing_s: float | None = None
        self._pulse = Pulse(memory.keepalive, patience.answer_s, now_s)
        self._subscription = Subscription(session, memory, topics, extra_filters, self._pulse)
        self._publisher = Publisher(
            session,
            memory,
            topics,
            birth,
            self._subscription,
            self._pulse,
            ack_s=patience.ack_s,
            now_s=now_s,
        )

    # --- one turn ------------------------------------------------------------------------------------

    def turn(self, now_s: float, *, readable: bool, writable: bool) -> Failure | None:
        session = self.session
        if writable:
            session.write()
        if readable or session.more_to_read:
            session.read()
        failure = self._events(now_s)
        if failure is None:
            self._signs_of_life(now_s)
            failure = self._silence(now_s)
        if failure is None and self.connected_s is not None:
            self._timers(now_s)
            self._publisher.pump(now_s)
            self._pulse.said(self.session.wire.sent_bytes, now_s)
            failure = self._events(now_s)  # publishing may have found out that the connection is over
        return failure

    @property
    def asked_s(self) -> float | None:
        """Since when (monotonic) the broker owes an answer; None where it owes none."""
        return self._pulse.asked_s

    @property
    def waits_for(self) -> tuple[int, int] | None:
        """The descriptor and its events (selectors.EVENT_*) that let it go on."""
        session = self.session
        if self.closing:
            writes = selectors.EVENT_WRITE if session.wants_write else 0
            return session.fileno(), selectors.EVENT_READ | writes
        events = selectors.EVENT_READ if session.wants_read else 0
        events |= selectors.EVENT_WRITE if session.wants_write else 0
        return (session.fileno(), events) if events else None

    def next_s(self, now_s: float) -> float:
        """When the next turn is due at the latest."""
        if self._closing_s is not None:
            return self._closing_s if self.session.wire.dry else now_s
        if self.session.more_to_read:
            return now_s
        times = [self._pulse.next_s]
        oldest_s = self._publisher.oldest_s
        if oldest_s is not None:
            times.append(oldest_s + self._patience.puback_s)
        timeout = self._memory.window.next_timeout_s()
        if timeout is not None:
            times.append(timeout)
        return min((*times, *self._publisher.pauses_s(now_s)))

    def _events(self, now_s: float) -> Failure | None:
        events = self.session.events
        while events:
            event = events.popleft()
            if isinstance(event, Answered):
                self._publisher.answered(event, now_s)
            elif isinstance(event, Arrived):
                self._arrived(event, now_s)
            elif isinstance(event, Connected):
                self._connected(event, now_s)
            elif isinstance(event, Subscribed):
                self._subscribed(event, now_s)
            elif isinstance(event, Refused):
                return refusal(event.code)
            else:
                return self._ended(event)
        return self._ended(Ended(None)) if self.session.over else None

    def _ended(self, event: Ended) -> Failure:
        if event.code is not None:
            failure = ended_by_broker(event.code)
            if failure.cause == "too-large":
                self._publisher.too_large()
            return failure
        trouble = self.session.wire.trouble
        if trouble is not None:
            doing = "connecting" if self.connected_s is None else "connected"
            return of_error(trouble, doing)
        return closed()

    # --- goodbye -------------------------------------------------------------------------------------

    def say_goodbye(self, document: Document) -> None:
        """As the last thing that is published; ``goodbye_answer`` tells when to ``part``. Idempotent."""
        self._publisher.goodbye = document

    @property
    def goodbye_answer(self) -> int | None:
        """The PUBACK's reason code to the goodbye."""
        return self._publisher.goodbye_answer

    def part(self, now_s: float, *, deaf: bool) -> None:
        """Say DISCONNECT, so that the last will is not published, and before it the goodbye, if it was not
        sent yet. Then the broker has a moment to close the connection: a short one if it is ``deaf``, as who
        has not answered in all this time will hardly close either."""
        self._publisher.last_words()
        self.session.disconnect()
        self._closing_s = now_s + (_DEAF_CLOSING_S if deaf else _CLOSING_S)

    def hasten(self, now_s: float) -> None:
        """After ``part``: somebody waits for the next connection, so the broker's moment is a short one."""
        assert self._closing_s is not None
        self._closing_s = min(self._closing_s, now_s + _DEAF_CLOSING_S)

    @property
    def closing(self) -> bool:
        """After ``part``."""
        return self._closing_s is not None

    def has_closed(self, now_s: float) -> bool:
        """After ``part``: whether the broker has closed its side, or its time for that is over."""
        assert self._closing_s is not None
        if self.session.wants_write:  # DISCONNECT may be behind records that the kernel had no room for
            self.session.write()
        return self.session.discard() or now_s >= self._closing_s

    # --- signs of life -------------------------------------------------------------------------------

    def _signs_of_life(self, now_s: float) -> None:
        if not self._pulse.heard(self.session.wire.received_bytes, now_s):
            return
        self._tally.last_received_s = now_s
        if self.connected_s is None:
            return  # only CONNACK answers CONNECT: who says anything else has no more time for it
        self._pulse.answered(now_s, waits=bool(self._waits_s()))

    def _waits_s(self) -> list[float]:
        """Since when PUBACKs and a SUBACK are waited for."""
        since = (self._publisher.oldest_s, self._subscription.asked_s)
        return [each for each in since if each is not None]

    def _silence(self, now_s: float) -> Failure | None:
        limit = self._patience
        if self._pulse.is_lost(now_s):
            return Failure("silence", Kind.NETWORK, f"the broker has not answered for {limit.answer_s:g} s")
        waits = self._waits_s()
        if waits and now_s - min(waits) >= limit.puback_s:
            return Failure("silence", Kind.NETWORK, f"a message without PUBACK for {limit.puback_s:g} s")
        return None

    def _timers(self, now_s: float) -> None:
        sounding = self.draining and not self._sounded  # whether it is worth while to say goodbye
        self._sounded = self._sounded or sounding
        if self._pulse.wants_ping(now_s, at_once=sounding):
            self.session.ping()
            self._pulse.asked(now_s)
        late = self._memory.window.overdue(now_s)
        if late:
            self._tally.counters["ack_timeouts"] += late
            words: dict[str, object] = {"batches": late, "after_s": self._patience.ack_s}
            self._memory.tell_change("unacknowledged", True, "unacknowledged", words)

    # --- what the broker says ------------------------------------------------------------------------

    def _connected(self, event: Connected, now_s: float) -> None:
        self.connected_s = now_s
        self._pulse.answered(now_s, waits=False)
        self.receive_maximum = event.receive_maximum
        self._memory.keepalive.limit(event.keepalive_s)
        self._guard.new_connection()
        self._publisher.connected(event, now_s)
        self._subscription.ask(now_s)

    def _subscribed(self, event: Subscribed, now_s: float) -> None:
        if not self._subscription.settle(event):
            self._tally.counters["strange_packets"] += 1
        elif not self._subscription.granted:  # without acknowledgements publishing is for nothing
            self._publisher.denied(now_s, "its acknowledgements may not be subscribed to")

    def _arrived(self, event: Arrived, now_s: float) -> None:
        counters = self._tally.counters
        counters["messages_received"] += 1
        if event.topic is None:
            counters["topics_not_utf8"] += 1
        elif len(event.payload) > INBOUND_LIMIT_BYTES:
            counters["messages_too_large"] += 1
            self._guard.tell("inbound-too-large", {"topic": event.topic[:200], "bytes": len(event.payload)})
        elif event.topic == self._topics.acks:
            self._acknowledged(event.payload, now_s)
        elif self.draining:
            counters["inbound_while_draining"] += 1
        else:
            inbound = Inbound(event.topic, event.payload, event.retain)
            self._guard.call("inbox", self._memory.inbox, inbound)

    def _acknowledged(self, payload: bytes, now_s: float) -> None:
        memory = self._memory
        try:
            ack = memory.decode_ack(payload)
        except ValueError as error:
            self._tally.counters["acks_malformed"] += 1
            memory.tell_change("ack", str(error)[:80], "ack-malformed", {"error": str(error)[:200]})
            return
        if ack.stream != memory.sender.stream:
            self._tally.counters["acks_of_another_stream"] += 1
            return
        # Nobody can have what was not sent. (It may have been, before a restart: then it is sent again.)
        highest = memory.sender.highest
        ranges = tuple((first, min(last, highest)) for first, last in ack.ranges if first <= highest)
        if ranges != ack.ranges:
            self._tally.counters["acks_of_the_unsent"] += 1
        self._tally.counters["acks"] += 1
        self._tally.last_ack_s = now_s
        memory.told.pop("unacknowledged", None)
        self._tally.acknowledged += memory.window.acknowledged(ranges)
        self._publisher.acknowledged(now_s)
        self._guard.call("acknowledge", memory.source.acknowledge, ranges, stream=ack.stream)
