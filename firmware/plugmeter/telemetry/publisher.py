"""The publisher: what is published on one connection, and what the broker's PUBACKs say to it.

The goodbye goes first, then documents, then records; all with QoS 1, as far as the broker's Receive Maximum
goes. A PUBACK stores nothing: it frees a place, and its reason code tells whether to go on.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Final

from plugmeter.telemetry.breaker import BreakerState, Kind
from plugmeter.telemetry.client import Answered, Connected, Session
from plugmeter.telemetry.documents import Document
from plugmeter.telemetry.failures import is_denial, reason_words
from plugmeter.telemetry.link_memory import Memory
from plugmeter.telemetry.packet_limit import packet_bytes
from plugmeter.telemetry.pulse import Pulse
from plugmeter.telemetry.sender import Parcel
from plugmeter.telemetry.subscription import Subscription
from plugmeter.telemetry.topics import Topics
from plugmeter.telemetry.window import WINDOW_LIMIT

LOG: Final = logging.getLogger("plugmeter.link")
_HEARD_BY_NOBODY: Final = 0x10
_PACKET_TOO_LARGE: Final = 0x95
_DEFECT_PAUSE_S: Final = 1.0
_NOT_AUTHORIZED: Final = 0x87
_TRIES: Final = 2
"""On so many connections is tried what the broker is to answer once."""


@dataclass(frozen=True, slots=True)
class _Sent:
    """A PUBLISH without a PUBACK."""

    message: Document | Parcel
    sent_s: float
    ticket: int = 0
    """Of a parcel: its place in the window."""


class Publisher:
    """Of one connection: ``connected``, then ``pump`` in each turn and ``answered`` for each PUBACK.

    ``birth`` is the first thing that is said. ``ack_s`` is how long is waited for the controller. Times are
    monotonic seconds.
    """

    def __init__(
        self,
        session: Session,
        memory: Memory,
        topics: Topics,
        birth: Document | None,
        subscription: Subscription,
        pulse: Pulse,
        *,
        ack_s: float,
        now_s: float,
    ) -> None:
        self._session = session
        self._memory = memory
        self._guard = memory.guard
        self._tally = memory.tally
        self._topics = topics
        self._birth = birth
        self._birth_refused = False
        self._subscription = subscription
        self._pulse = pulse
        self._ack_s = ack_s
        self.goodbye: Document | None = None
        """Once it is there, nothing else is published any more."""
        self.goodbye_answer: int | None = None
        """The PUBACK's reason code to the goodbye."""
        self._goodbye_sent = False
        self._pending: dict[int, _Sent] = {}
        """By packet identifier, in the order that they were sent."""
        self._slots = 1
        self._busy_s = now_s
        self._pause_s = self._documents_pause_s = 0.0
        self._unheard = False

    def connected(self, event: Connected, now_s: float) -> None:
        """The broker has told its limits."""
        self._slots = max(1, min(WINDOW_LIMIT, event.receive_maximum))
        limit = self._memory.packet_limit
        limit.connected(event.most_bytes)
        room = limit.records_bytes - packet_bytes(self._topics.records, b"")
        self._memory.sender.connected(event.receive_maximum, room)
        self._memory.documents.all_again()
        if self._birth is not None:
            if self._fits(self._birth):
                self._publish(self._birth, now_s)
            else:
                self._tell_left_out(self._birth)

    def acknowledged(self, now_s: float) -> None:
        """The controller has said something: it is alive, so nothing was overlooked yet."""
        self._busy_s = now_s

    def last_words(self) -> None:
        """Say the goodbye, if it was not said yet. It goes then with QoS 0, which waits for no place in the
        broker's Receive Maximum."""
        if self.goodbye is not None and not self._goodbye_sent:
            self._goodbye_sent = True
            if not self._fits(self.goodbye):
                self._tell_left_out(self.goodbye)
                return
            self._session.publish(self.goodbye.topic, self.goodbye.payload, retain=True, qos=0)

    @property
    def oldest_s(self) -> float | None:
        """When the oldest message without a PUBACK was sent."""
        return next(iter(self._pending.values())).sent_s if self._pending else None

    def pauses_s(self, now_s: float) -> list[float]:
        """When what the broker has refused is tried again."""
        return [each for each in (self._pause_s, self._documents_pause_s) if each > now_s]

    # --- what the broker says ------------------------------------------------------------------------

    def answered(self, event: Answered, now_s: float) -> None:
        """A PUBACK."""
        sent = self._pending.pop(event.mid, None)
        if sent is None:
            self._tally.counters["strange_packets"] += 1
        elif isinstance(sent.message, Parcel):
            self._batch_answered(sent.ticket, event.code, now_s)
        elif sent.message is self.goodbye:
            self.goodbye_answer = event.code
            if event.code >= 0x80:
                self._tally.counters["goodbyes_refused"] += 1
                LOG.warning("the broker refuses the goodbye: %s", reason_words(event.code))
                self._guard.tell("goodbye-refused", {"reason": reason_words(event.code)})
        elif sent.message.answered is not None:
            self._answered_once(sent.message, event.code)
        elif event.code >= 0x80:
            self._tally.counters["documents_refused"] += 1
            if sent.message is self._birth:
                self._birth_refused = True
            else:
                self._memory.documents.failed(sent.message)
            self._documents_pause_s = now_s + self._memory.document_backoff.after_failure()
            topic = sent.message.topic
            words = {"topic": topic, "reason": reason_words(event.code)}
            self._memory.tell_change(f"document {topic}", event.code, "document-refused", words)
        else:
            self._memory.document_backoff.reset()
            for what in ("document", "size of"):
                self._memory.told.pop(f"{what} {sent.message.topic}", None)

    def _answered_once(self, document: Document, code: int) -> None:
        self._tally.counters["documents_refused"] += code >= 0x80
        self._memory.documents.is_over(document)
        if document.answered is not None:
            self._guard.call("answered", document.answered, code)

    def too_large(self) -> None:
        """The broker ends the connection for a packet that was too large: the largest that it has not
        answered was so, whichever it means."""
        messages = [sent.message for sent in self._pending.values()]
        if messages:
            largest = max(messages, key=self._size_bytes)
            self._memory.packet_limit.exceeded(
                self._size_bytes(largest), divisible=isinstance(largest, Parcel)
            )

    def _size_bytes(self, message: Document | Parcel) -> int:
        if isinstance(message, Document):
            return message.size_bytes
        return packet_bytes(self._topics.records, message.payload)

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
                LOG.info("the broker allows publishing again")
                self._guard.tell("publishing-allowed", {})
            if heard == self._unheard:
                self._unheard = not heard
                self._guard.tell("somebody-listens" if heard else "nobody-listens", {})
            return
        memory.window.refused(ticket)
        words = {"reason": reason_words(code)}
        if is_denial(code):
            self.denied(now_s, reason_words(code))
            return
        if now_s >= self._pause_s:  # the others of the same window tell nothing new
            self._pause_s = now_s + memory.publish_backoff.after_failure()
        memory.tell_change("publish", code, "publish-refused", words)

    def denied(self, now_s: float, words: str) -> None:
        """Publishing records is for nothing, until somebody changes something at the broker."""
        publishing = self._memory.publishing
        if publishing.state(now_s) is BreakerState.OPEN:
            return  # the rest of the same window
        publishing.failed(Kind.REFUSED, now_s)
        pause_s = round((publishing.until_s or now_s) - now_s, 1)
        LOG.warning(
            "the broker denies publishing: %s; the breaker opens, next attempt in %g s", words, pause_s
        )
        self._guard.tell("publishing-denied", {"reason": words, "pause_s": pause_s})

    # --- what we say ---------------------------------------------------------------------------------

    def pump(self, now_s: float) -> None:
        """Say what there is to say, as far as the broker's Receive Maximum goes."""
        while len(self._pending) < self._slots and not self._session.over:
            if self.goodbye is not None:
                self._pump_goodbye(self.goodbye, now_s)
                return
            if not self._pump_document(now_s) and not self._pump_records(now_s):
                return

    def _pump_goodbye(self, goodbye: Document, now_s: float) -> None:
        if self._goodbye_sent:
            return
        if self._fits(goodbye):
            self._goodbye_sent = self._publish(goodbye, now_s)
            return
        self._goodbye_sent = True
        self.goodbye_answer = _PACKET_TOO_LARGE  # as the broker would say
        self._tell_left_out(goodbye)

    def _fits(self, document: Document) -> bool:
        return document.size_bytes <= self._memory.packet_limit.documents_bytes

    def _publish(self, message: Document | Parcel, now_s: float) -> bool:
        if isinstance(message, Document):
            mid = self._session.publish(
                message.topic, message.payload, retain=message.retain, keep_s=message.keep_s
            )
        else:
            mid = self._session.publish(self._topics.records, message.payload, retain=False)
        if mid is None:
            return False
        ticket = 0
        if isinstance(message, Parcel):
            ticket = self._memory.window.sent(message.ranges, now_s, since_s=message.since_s)
        self._pending[mid] = _Sent(message, now_s, ticket)
        self._pulse.asked(now_s)
        return True

    def _pump_document(self, now_s: float) -> bool:
        documents = self._memory.documents
        if self._birth_refused and self._birth is not None and now_s >= self._documents_pause_s:
            self._birth_refused = not self._publish(self._birth, now_s)
            return not self._birth_refused
        if not documents.waiting or now_s < self._documents_pause_s:
            return False
        document = documents.take(self._memory.packet_limit.documents_bytes)
        for each in documents.left_out:
            self._tell_left_out(each)
        documents.left_out.clear()
        if document is None:
            return False
        if document.answered is not None and documents.tried(document) > _TRIES:
            # Some brokers end the connection over what they deny: never again, then.
            self._answered_once(document, _NOT_AUTHORIZED)
            return True
        if not self._publish(document, now_s):
            documents.failed(document)
            return False
        return True

    def _pump_records(self, now_s: float) -> bool:
        memory = self._memory
        if not self._subscription.answered or now_s < self._pause_s or self._session.wants_write:
            return False
        allowed = memory.publishing.state(now_s)
        if allowed is BreakerState.OPEN:
            return False
        if not self._subscription.granted:
            if self._subscription.asked_s is None:
                self._subscription.ask(now_s)
            return False
        if allowed is BreakerState.HALF_OPEN and self._probing():
            return False
        if memory.window.empty and now_s - self._busy_s >= self._ack_s:
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
        limit = self._memory.packet_limit.records_bytes
        self._guard.tell("record-too-large", {"numbers": unsendable[:20], "limit": limit})
        unsendable.clear()

    def _tell_left_out(self, document: Document) -> None:
        """Once for each topic: one that changes each second is too large each second."""
        self._tally.counters["documents_too_large"] += 1
        limit = self._memory.packet_limit.documents_bytes
        words = {"topic": document.topic, "bytes": document.size_bytes, "limit": limit}
        self._memory.tell_change(f"size of {document.topic}", limit, "document-too-large", words)
