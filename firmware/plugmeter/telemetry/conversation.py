"""What is said on one connection: documents, records, acknowledgements, and signs of life."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from plugmeter.telemetry.breaker import BreakerState, Kind
from plugmeter.telemetry.client import Answered, Arrived, Connected, Ended, Refused, Session, Subscribed
from plugmeter.telemetry.documents import Document
from plugmeter.telemetry.failures import (
    Failure,
    ended_by_broker,
    is_denial,
    of_error,
    reason_words,
    refusal,
)
from plugmeter.telemetry.link_memory import Inbound, Memory, Patience
from plugmeter.telemetry.pulse import Pulse
from plugmeter.telemetry.sender import Parcel
from plugmeter.telemetry.topics import Topics
from plugmeter.telemetry.window import WINDOW_LIMIT

INBOUND_LIMIT_BYTES: Final = 262_144
_HEARD_BY_NOBODY: Final = 0x10
_OVERHEAD_BYTES: Final = 32
"""Of a PUBLISH beside topic and payload: at most 5 of header, 2 + 2 of lengths, 1 of properties."""
_DEFECT_PAUSE_S: Final = 1.0
_TOLD_LIMIT: Final = 2_000


@dataclass(frozen=True, slots=True)
class _Sent:
    """A PUBLISH without a PUBACK."""

    message: Document | Parcel
    sent_s: float
    ticket: int = 0
    """Of a parcel: its place in the window."""


class Conversation:
    """One connection, from CONNECT to its end. Times are monotonic seconds.

    The owner calls ``turn`` whenever the session's descriptor is ready or ``next_s`` has come; it gives the
    failure that ended the connection, or None.
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
        self._birth = birth
        self._filters = (topics.acks, topics.desired, topics.commands, *extra_filters)
        self._patience = patience
        self.connected_s: float | None = None
        self.receive_maximum = 0
        self.draining = False
        self.goodbye: Document | None = None
        self.goodbye_answer: int | None = None
        """The PUBACK's reason code to the goodbye."""
        self._goodbye_sent = False
        self._sounded = False
        self._pending: dict[int, _Sent] = {}
        """By packet identifier, in the order that they were sent."""
        self._subscribing: tuple[int, float] | None = None
        self._subscribed = False
        self._acks_granted = False
        self._slots = 1
        self._most_bytes = 0
        self._pulse = Pulse(memory.keepalive, patience.answer_s, now_s)
        self._busy_s = now_s
        self._pause_s = self._documents_pause_s = 0.0
        self._unheard = False
        self._birth_refused = False

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
            self._pump(now_s)
            self._pulse.said(self.session.wire.sent_bytes, now_s)
            failure = self._events(now_s)  # publishing may have found out that the connection is over
        return failure

    def part(self) -> None:
        """Say DISCONNECT, so that the last will is not published, and before it the goodbye, if it was not
        sent yet. That goes then with QoS 0, which waits for no place in the broker's Receive Maximum."""
        if self.goodbye is not None and not self._goodbye_sent:
            self._goodbye_sent = True
            self.session.publish(self.goodbye.topic, self.goodbye.payload, retain=True, qos=0)
        self.session.disconnect()

    @property
    def asked_s(self) -> float | None:
        """Since when (monotonic) the broker owes an answer; None where it owes none."""
        return self._pulse.asked_s

    def next_s(self, now_s: float) -> float:
        """When the next turn is due at the latest."""
        if self.session.more_to_read:
            return now_s
        times = [self._pulse.next_s]
        if self._pending:
            times.append(next(iter(self._pending.values())).sent_s + self._patience.puback_s)
        timeout = self._memory.window.next_timeout_s()
        if timeout is not None:
            times.append(timeout)
        times += [each for each in (self._pause_s, self._documents_pause_s) if each > now_s]
        return min(times)

    def _events(self, now_s: float) -> Failure | None:
        events = self.session.events
        while events:
            event = events.popleft()
            if isinstance(event, Answered):
                self._answered(event, now_s)
            elif isinstance(event, Arrived):
                self._arrived(event, now_s)
            elif isinstance(event, Connected):
                self._connected(event, now_s)
            elif isinstance(event, Subscribed):
                self._subscribed_to(event, now_s)
            elif isinstance(event, Refused):
                return refusal(event.code)
            else:
                return self._ended(event)
        return self._ended(Ended(None)) if self.session.over else None

    def _ended(self, event: Ended) -> Failure:
        if event.code is not None:
            failure = ended_by_broker(event.code)
            if failure.cause == "too-large":
                self._memory.sender.message_too_large()
            return failure
        trouble = self.session.wire.trouble
        if trouble is not None:
            doing = "connecting" if self.connected_s is None else "connected"
            return of_error(trouble, doing)
        return Failure("closed", Kind.NETWORK, "the broker closed the connection without a word")

    # --- signs of life -------------------------------------------------------------------------------

    def _signs_of_life(self, now_s: float) -> None:
        if not self._pulse.heard(self.session.wire.received_bytes, now_s):
            return
        self._tally.last_received_s = now_s
        if self.connected_s is None:
            return  # only CONNACK answers CONNECT: who says anything else has no more time for it
        self._pulse.answered(now_s, waits=bool(self._pending) or self._subscribing is not None)

    def _silence(self, now_s: float) -> Failure | None:
        limit = self._patience
        if self._pulse.is_lost(now_s):
            return Failure("silence", Kind.NETWORK, f"the broker has not answered for {limit.answer_s:g} s")
        waits = [each.sent_s for each in self._pending.values()][:1]
        waits += [self._subscribing[1]] if self._subscribing is not None else []
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
            self._tell_change("unacknowledged", True, "unacknowledged", words)

    # --- what the broker says ------------------------------------------------------------------------

    def _connected(self, event: Connected, now_s: float) -> None:
        self.connected_s = now_s
        self._pulse.answered(now_s, waits=False)
        self.receive_maximum = event.receive_maximum
        self._slots = max(1, min(WINDOW_LIMIT, event.receive_maximum))
        self._most_bytes = event.most_bytes
        self._memory.keepalive.limit(event.keepalive_s)
        room = event.most_bytes - len(self._topics.records.encode()) - _OVERHEAD_BYTES
        self._memory.sender.connected(event.receive_maximum, room)
        self._memory.documents.all_again()
        self._guard.new_connection()
        if self._birth is not None:  # the first thing that is said
            self._publish(self._birth, now_s)
        self._subscribe(now_s)

    def _subscribe(self, now_s: float) -> None:
        mid = self.session.subscribe(self._filters)
        if mid is not None:
            self._subscribing = (mid, now_s)
            self._pulse.asked(now_s)

    def _subscribed_to(self, event: Subscribed, now_s: float) -> None:
        if self._subscribing is None or event.mid != self._subscribing[0]:
            self._tally.counters["strange_packets"] += 1
            return
        self._subscribing = None
        self._subscribed = True
        for name, code in zip(self._filters, event.codes, strict=False):
            if code >= 0x80:
                self._tally.counters["subscriptions_refused"] += 1
                self._guard.tell("subscription-refused", {"topic": name, "reason": reason_words(code)})
        self._acks_granted = bool(event.codes) and event.codes[0] < 0x80
        if not self._acks_granted:  # without acknowledgements publishing is for nothing
            self._deny(now_s, "its acknowledgements may not be subscribed to")

    def _answered(self, event: Answered, now_s: float) -> None:
        sent = self._pending.pop(event.mid, None)
        if sent is None:
            self._tally.counters["strange_packets"] += 1
        elif isinstance(sent.message, Parcel):
            self._batch_answered(sent.ticket, event.code, now_s)
        elif sent.message is self.goodbye:
            self.goodbye_answer = event.code
        elif event.code >= 0x80:
            self._tally.counters["documents_refused"] += 1
            if sent.message is self._birth:
                self._birth_refused = True
            else:
                self._memory.documents.failed(sent.message)
            self._documents_pause_s = now_s + self._memory.document_backoff.after_failure()
            topic = sent.message.topic
            words = {"topic": topic, "reason": reason_words(event.code)}
            self._tell_change(f"document {topic}", event.code, "document-refused", words)
        else:
            self._memory.document_backoff.reset()
            self._memory.told.pop(f"document {sent.message.topic}", None)

    def _batch_answered(self, ticket: int, code: int, now_s: float) -> None:
        memory = self._memory
        heard = code != _HEARD_BY_NOBODY
        if code >= 0x80 or not heard:
            self._tally.refusals[code] += 1
        if code < 0x80:
            memory.window.answered(ticket, now_s, heard=heard)
            memory.sender.progressed()
            memory.publish_backoff.reset()
            memory.told.pop("publish", None)
            if memory.publishing.succeeded():
                self._guard.tell("publishing-allowed", {})
            if heard == self._unheard:
                self._unheard = not heard
                self._guard.tell("somebody-listens" if heard else "nobody-listens", {})
            return
        memory.window.refused(ticket)
        words = {"reason": reason_words(code)}
        if is_denial(code):
            self._deny(now_s, reason_words(code))
            return
        if now_s >= self._pause_s:  # the others of the same window tell nothing new
            self._pause_s = now_s + memory.publish_backoff.after_failure()
        self._tell_change("publish", code, "publish-refused", words)

    def _deny(self, now_s: float, words: str) -> None:
        publishing = self._memory.publishing
        if publishing.state(now_s) is BreakerState.OPEN:
            return  # the rest of the same window
        publishing.failed(Kind.REFUSED, now_s)
        self._guard.tell(
            "publishing-denied", {"reason": words, "pause_s": round((publishing.until_s or now_s) - now_s, 1)}
        )

    def _tell_change(
        self, what: str, value: object, event: str, details: dict[str, object] | dict[str, str]
    ) -> None:
        """What a broker says hundreds of times is told once."""
        if len(self._memory.told) > _TOLD_LIMIT:
            self._memory.told.clear()
        if self._memory.told.get(what) != value:
            self._memory.told[what] = value
            self._guard.tell(event, details)

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
            self._tell_change("ack", str(error)[:80], "ack-malformed", {"error": str(error)[:200]})
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
        self._busy_s = now_s
        self._guard.call("acknowledge", memory.source.acknowledge, ranges, stream=ack.stream)

    # --- what we say ---------------------------------------------------------------------------------

    def _publish(self, message: Document | Parcel, now_s: float) -> bool:
        if isinstance(message, Document):
            mid = self.session.publish(
                message.topic, message.payload, retain=message.retain, keep_s=message.keep_s
            )
        else:
            mid = self.session.publish(self._topics.records, message.payload, retain=False)
        if mid is None:
            return False
        ticket = 0
        if isinstance(message, Parcel):
            ticket = self._memory.window.sent(message.ranges, now_s, since_s=message.since_s)
        self._pending[mid] = _Sent(message, now_s, ticket)
        self._pulse.asked(now_s)
        return True

    def _pump(self, now_s: float) -> None:
        """Say what there is to say, as far as the broker's Receive Maximum goes."""
        while len(self._pending) < self._slots and not self.session.over:
            if self.goodbye is not None:
                if self._goodbye_sent or not self._publish(self.goodbye, now_s):
                    return
                self._goodbye_sent = True
                return
            if not self._pump_document(now_s) and not self._pump_records(now_s):
                return

    def _pump_document(self, now_s: float) -> bool:
        documents = self._memory.documents
        if self._birth_refused and self._birth is not None and now_s >= self._documents_pause_s:
            self._birth_refused = not self._publish(self._birth, now_s)
            return not self._birth_refused
        if not documents.waiting or now_s < self._documents_pause_s:
            return False
        document = documents.take(self._most_bytes - _OVERHEAD_BYTES - 256)
        if document is None:
            return False
        if not self._publish(document, now_s):
            documents.failed(document)
            return False
        return True

    def _pump_records(self, now_s: float) -> bool:
        memory = self._memory
        if not self._subscribed or now_s < self._pause_s or self.session.wants_write:
            return False
        allowed = memory.publishing.state(now_s)
        if allowed is BreakerState.OPEN:
            return False
        if not self._acks_granted:
            if self._subscribing is None:
                self._subscribe(now_s)
            return False
        if allowed is BreakerState.HALF_OPEN and self._probing():
            return False
        if memory.window.empty and now_s - self._busy_s >= self._patience.ack_s:
            self._busy_s = now_s
            memory.sender.rewind()
        before = self._tally.counters["outbox_errors"]
        parcel = self._guard.call("outbox", memory.sender.next)
        if self._tally.counters["outbox_errors"] != before:
            self._pause_s = now_s + _DEFECT_PAUSE_S
        self._tell_unsendable()
        if parcel is None:
            return False
        if not self._publish(parcel, now_s):
            return False
        self._busy_s = now_s
        self._tally.sent += parcel.count
        self._tally.resent += parcel.again
        self._tally.counters["batches"] += 1
        return True

    def _probing(self) -> bool:
        return any(isinstance(sent.message, Parcel) for sent in self._pending.values())

    def _tell_unsendable(self) -> None:
        unsendable = self._memory.sender.unsendable
        if not unsendable:
            return
        self._tally.counters["records_too_large"] += len(unsendable)
        self._tell_change(
            "unsendable",
            max(unsendable),
            "record-too-large",
            {"numbers": unsendable[:20], "limit": self._most_bytes},
        )
        unsendable.clear()
