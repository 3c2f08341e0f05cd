"""The link: the thread that brings the outbox's records to the broker, and its messages to the daemon.

One thread owns everything here: it looks the broker up, connects, speaks (conversation), waits and connects
again. It never blocks but in its selector, so that it can be told to stop at any time, whatever the broker
does. Nothing of MQTT's session is relied on: each connection begins clean, and what was not acknowledged by
the controller is read from the outbox again (docs/decisions/2026-11-22-link.md).
"""

from __future__ import annotations

import random
import selectors
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from plugmeter.errors import PlugmeterError
from plugmeter.progress import Progress
from plugmeter.telemetry.approach import Approach
from plugmeter.telemetry.backoff import Backoff
from plugmeter.telemetry.breaker import Breaker, BreakerState, Kind
from plugmeter.telemetry.conversation import Conversation
from plugmeter.telemetry.documents import Document, Documents
from plugmeter.telemetry.failures import Failure, LinkError
from plugmeter.telemetry.guard import Diary, Guard
from plugmeter.telemetry.keepalive import Keepalive
from plugmeter.telemetry.link_memory import Acknowledged, Inbound, Memory, Patience, Tally
from plugmeter.telemetry.link_settings import LinkSettings, Timing
from plugmeter.telemetry.link_status import LinkState, LinkStatus
from plugmeter.telemetry.sender import Batch, Encode, Sender, Source
from plugmeter.telemetry.setbacks import Setbacks
from plugmeter.telemetry.topics import Topics
from plugmeter.telemetry.watch import Watch
from plugmeter.telemetry.window import Window

__all__ = ["Batch", "Inbound", "Link", "LinkSettings", "LinkState", "LinkStatus", "Source", "Timing"]

_LONGEST_SLEEP_S: Final = 1.0
_CLOSING_S: Final = 1.0
_STOPPING_S: Final = 10.0
_DRAIN_RETRY_S: Final = 0.5


@dataclass(slots=True)
class _Goodbye:
    document: Document
    done: threading.Event
    delivered: bool = False


class Link:
    """The connection to the broker. Start it once; all public methods may be called from any thread.

    ``diary(event, details)`` and ``inbox`` are called from the link's thread and must not block.
    ``birth()`` and ``will()`` give the status documents of each connection: "online", and "lost", the will.
    ``encode`` is envelope.batch, ``decode_ack`` acks.decode (raises ValueError). ``documents`` are those of
    the link whose place this one takes.
    """

    def __init__(
        self,
        settings: LinkSettings,
        outbox: Source,
        topics: Topics,
        *,
        client_id: str,
        inbox: Callable[[Inbound], None],
        diary: Diary,
        encode: Encode,
        decode_ack: Callable[[bytes], Acknowledged],
        birth: Callable[[], bytes],
        will: Callable[[], bytes],
        timing: Timing | None = None,
        documents: Documents | None = None,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self.progress = Progress("link")
        timing = self._timing = timing or Timing()
        self._settings = settings
        self._topics = topics
        self._birth = birth
        tally = self._tally = Tally()
        self._guard = Guard(diary, tally.counters)
        window = Window(settings.window, ack_timeout_s=settings.ack_timeout_s)
        self._memory = Memory(
            source=outbox,
            window=window,
            sender=Sender(outbox, encode, topics.device, window),
            documents=Documents() if documents is None else documents,
            keepalive=Keepalive(settings.keepalive_s, floor_s=timing.least_keepalive_s),
            publishing=Breaker(uniform, first_s=timing.breaker_s, longest_s=timing.longest_breaker_s),
            publish_backoff=Backoff(uniform, base_s=timing.retry_s / 2, cap_s=timing.longest_retry_s),
            document_backoff=Backoff(uniform, base_s=timing.retry_s, cap_s=timing.breaker_s),
            inbox=inbox,
            decode_ack=decode_ack,
            guard=self._guard,
            tally=tally,
        )
        self._backoff = Backoff(
            uniform, base_s=timing.retry_s, cap_s=timing.longest_retry_s, stable_s=timing.stable_s
        )
        self._breaker = Breaker(uniform, first_s=timing.breaker_s, longest_s=timing.longest_breaker_s)
        self._setbacks = Setbacks(self._guard)
        self._connects = 0
        self._approach = Approach(
            settings,
            client_id=client_id,
            will_topic=topics.status,
            will=will,
            warn=self._warn,
            connect_s=timing.connect_s,
            user_timeout_s=timing.user_timeout_s,
        )

        now_s = time.monotonic()
        self._state = LinkState.OFF
        self._since_s = now_s
        self._next_attempt_s: float | None = now_s if settings.host else None
        self._conversation: Conversation | None = None
        self._closing_s: float | None = None

        self._lock = threading.Lock()  # for what other threads ask for
        self._stopping = False
        self._finished = False
        self._kick: Failure | None = None
        self._drain_until_s: float | None = None
        self._goodbye: _Goodbye | None = None
        self._watch = Watch()
        self._thread = threading.Thread(target=self._run, name="link", daemon=True)
        self._snapshot = self._status(now_s)
        self._outbox = outbox
        outbox.on_commit(self._committed)

    # --- what others ask for -------------------------------------------------------------------------

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End the thread, and the connection without a word (see ``say_goodbye``). Idempotent, quick."""
        self._stopping = True
        self._outbox.off_commit(self._committed)
        self._watch.wake()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(_STOPPING_S)
            if self._thread.is_alive():
                raise PlugmeterError("the link does not stop: a callback of it blocks")
        elif not self._thread.ident:  # was never started
            self._release()

    def abandon(self) -> None:
        """For one whose thread hangs: waits for nothing, not even a lock. Should it go on, it ends."""
        self._stopping = True
        self._outbox.off_commit(self._committed)

    @property
    def documents(self) -> Documents:
        """What is published on each connection; for the link that takes this one's place."""
        return self._memory.documents

    def set_document(
        self,
        topic: str,
        payload: bytes,
        retain: bool = True,
        *,
        passing: bool = False,
        keep_s: int | None = None,
    ) -> bool:
        """Publish now, and again on each connection; the latest of a topic wins.

        Of those that are ``passing`` the oldest is forgotten when there are more than 250: what is answered
        for years must not fill up the place. False if there is no room for it (1,000 topics, 256 KiB each),
        which is counted. The broker is to forget it after ``keep_s``.
        """
        taken = self._memory.documents.set(Document(topic, payload, retain, passing, keep_s))
        if not taken:
            self._tally.counters["documents_without_room"] += 1
        self._watch.wake()
        return taken

    def remove_document(self, topic: str) -> None:
        """No longer published again. What the broker has stays there."""
        self._memory.documents.remove(topic)

    def drain(self, deadline_ns: int) -> None:
        """Take nothing in any more but acknowledgements; go on publishing. Returns at once.

        Until ``deadline_ns`` (monotonic) a network that failed is tried again at short intervals.
        """
        with self._lock:
            self._drain_until_s = deadline_ns / 1e9
        self._watch.wake()

    def say_goodbye(self, payload: bytes, timeout_s: float) -> bool:
        """Publish the status "stopped" and disconnect in order, so that the last will is not published.

        Whether the broker has taken it; waits no longer than ``timeout_s`` for that and for it to close the
        connection. Afterwards the link is off and stays so. False at once if there is no connection.
        """
        goodbye = _Goodbye(Document(self._topics.status, payload), threading.Event())
        with self._lock:
            if self._goodbye is not None or self._stopping or not self._thread.is_alive():
                return False
            self._goodbye = goodbye
        self._watch.wake()
        if not goodbye.done.wait(timeout_s):
            self._finished = True  # the thread still says DISCONNECT, for which it waits for nobody
            self._watch.wake()
        return goodbye.delivered

    def kick(self, reason: str, *, silent: bool = False) -> None:
        """Drop this connection and connect anew. An open breaker stays open. ``silent``: it is half-open,
        which counts as the silence that it is."""
        with self._lock:
            self._kick = Failure("silence" if silent else "kicked", Kind.NETWORK, reason)
        self._watch.wake()

    def status(self) -> LinkStatus:
        """How it is doing; at most a second old."""
        return self._snapshot

    # --- the thread ----------------------------------------------------------------------------------

    def _committed(self) -> None:
        self._memory.sender.committed()
        self._watch.wake()

    def _run(self) -> None:
        while not self._stopping:
            readable, writable = self._watch.wait(self._sleep_s())
            now_s = time.monotonic()
            before = self._tally.counters["turn_errors"]
            worked = self._guard.call("turn", self._turn, now_s, readable, writable)
            if self._tally.counters["turn_errors"] != before:  # malformed packets, or a defect of ours
                self._lost(_defect(self._conversation is not None), now_s)
            self._snapshot = self._status(now_s)
            self.progress.woke(bool(worked))
        self._end()

    def _sleep_s(self) -> float:
        now_s = time.monotonic()
        until_s = now_s + _LONGEST_SLEEP_S
        if self._closing_s is not None:
            until_s = min(until_s, self._closing_s)
        elif self._conversation is not None:
            until_s = min(until_s, self._conversation.next_s(now_s))
        elif self._approach.deadline_s is not None:
            until_s = min(until_s, self._approach.deadline_s)
        elif self._next_attempt_s is not None and not self._finished:
            until_s = min(until_s, self._next_attempt_s)
        return max(0.0, until_s - now_s)

    def _turn(self, now_s: float, readable: bool, writable: bool) -> bool:
        """Whether there was something to do."""
        worked = self._work(now_s, readable, writable)
        self._look()
        return worked

    def _work(self, now_s: float, readable: bool, writable: bool) -> bool:
        self._obey(now_s)
        conversation = self._conversation
        if self._closing_s is not None:
            assert conversation is not None
            if conversation.session.discard() or now_s >= self._closing_s:
                self._gone(now_s)
            return True
        if conversation is not None:
            wire = conversation.session.wire
            before = wire.received_bytes + wire.sent_bytes
            self._converse(conversation, now_s, readable, writable)
            if self._goodbye is not None and self._conversation is None:
                self._gone(now_s)  # lost before it was answered: nobody is left to say it to
            return wire.received_bytes + wire.sent_bytes != before or self._conversation is None
        if self._approach.deadline_s is not None:
            self._connect(now_s)
            return self._approach.deadline_s is None
        if self._finished:
            self._gone(now_s)
        elif self._next_attempt_s is not None and now_s >= self._next_attempt_s:
            self._attempt(now_s)
            return True
        return False

    def _obey(self, now_s: float) -> None:
        with self._lock:
            kick, self._kick = self._kick, None
            drain_until_s = self._drain_until_s
            goodbye = self._goodbye
        if kick is not None and (self._conversation is not None or self._approach.deadline_s is not None):
            if self._conversation is not None and self._conversation.connected_s is not None:
                self._conversation.session.disconnect()  # nobody is to be told that we are lost
            self._lost(kick, now_s)
        if kick is not None and self._state is LinkState.WAITING:
            self._next_attempt_s = now_s
        if drain_until_s is not None and now_s < drain_until_s and self._state is LinkState.WAITING:
            # Nothing is won by waiting longer than the daemon lives.
            self._next_attempt_s = min(self._next_attempt_s or now_s, self._since_s + _DRAIN_RETRY_S)
        if goodbye is None:
            return
        conversation = self._conversation
        if conversation is None or conversation.connected_s is None:
            self._finished = True
            if self._conversation is None and self._approach.deadline_s is None:
                self._gone(now_s)
            else:
                self._lost(Failure("kicked", Kind.NETWORK, "the link is told to end"), now_s)
                self._gone(now_s)
        elif self._closing_s is None:
            conversation.goodbye = goodbye.document
            if conversation.goodbye_answer is not None or self._finished:
                answer = conversation.goodbye_answer
                goodbye.delivered = answer is not None and answer < 0x80
                self._finished = True
                conversation.part()
                # Who has not answered in all this time will not close either.
                self._closing_s = now_s + (_CLOSING_S if answer is not None else 0.0)

    def _converse(self, conversation: Conversation, now_s: float, readable: bool, writable: bool) -> None:
        was_connected = conversation.connected_s is not None
        conversation.draining = self._drain_until_s is not None
        failure = conversation.turn(now_s, readable=readable, writable=writable)
        if conversation.connected_s is not None and not was_connected:
            self._connected(conversation, now_s)
        if failure is not None:
            self._lost(failure, now_s)
        elif conversation.goodbye_answer is not None:
            self._obey(now_s)

    # --- from nothing to a connection and back --------------------------------------------------------

    def _attempt(self, now_s: float) -> None:
        self._next_attempt_s = None
        self._enter(LinkState.CONNECTING, now_s)
        try:
            self._approach.begin(now_s)
        except LinkError as error:
            self._lost(error.failure, now_s)

    def _warn(self, words: str) -> None:
        if self._memory.told.get("warning") != words:
            self._memory.told["warning"] = words
            self._guard.tell("warning", {"text": words})

    def _connect(self, now_s: float) -> None:
        try:
            session = self._approach.advance(now_s)
        except LinkError as error:
            self._lost(error.failure, now_s)
            return
        if session is None:
            return
        self._watch.look_at(None)
        birth = self._guard.call("birth", self._birth)
        self._conversation = Conversation(
            session,
            self._memory,
            self._topics,
            Document(self._topics.status, birth) if birth is not None else None,
            self._extra_filters(),
            Patience(
                answer_s=self._timing.answer_s,
                puback_s=self._timing.puback_s,
                ack_s=self._settings.ack_timeout_s,
            ),
            now_s,
        )
        if session.over:  # sending CONNECT has failed already: no descriptor will tell
            self._converse(self._conversation, now_s, False, False)

    def _extra_filters(self) -> Sequence[str]:
        prefix = self._settings.discovery_prefix
        return (f"{prefix}/status",) if prefix else ()

    def _connected(self, conversation: Conversation, now_s: float) -> None:
        self._connects += 1
        self._enter(LinkState.CONNECTED, now_s)
        if self._breaker.succeeded():
            self._guard.tell("breaker-closed", {})
        self._guard.tell(
            "connected",
            {
                "broker": self._settings.broker,
                "address": self._approach.address,
                "tls": self._settings.tls,
                "receive_maximum": conversation.receive_maximum,
                "keepalive_s": round(self._memory.keepalive.interval_s, 1),
                "failed_attempts": self._setbacks.untold,
            },
            always=True,  # the controller acknowledges it, which proves to a trial that it is reached
        )
        self._setbacks.overcome()

    def _lost(self, failure: Failure, now_s: float) -> None:
        """The connection, or the attempt to have one, is over."""
        conversation = self._conversation
        connected_s = conversation.connected_s if conversation is not None else None
        lasted_s = 0.0 if connected_s is None else now_s - connected_s
        self._drop()
        if failure.cause == "silence":
            self._memory.sender.silence()
            if connected_s is not None:
                self._memory.keepalive.silence()
        opened = self._breaker.failed(failure.kind, now_s)
        if opened:
            self._enter(LinkState.BROKEN, now_s)
            self._next_attempt_s = self._breaker.until_s
        else:
            self._enter(LinkState.WAITING, now_s)
            delay_s = self._backoff.after_failure(lasted_s)
            self._next_attempt_s = now_s + (0.0 if failure.cause == "kicked" else delay_s)
        self._setbacks.add(
            failure,
            lasted_s=lasted_s if connected_s is not None else None,
            wait_s=(self._next_attempt_s or now_s) - now_s,
            opened=opened,
            now_s=now_s,
        )

    def _drop(self) -> None:
        self._watch.look_at(None)
        if self._conversation is not None:
            self._conversation.session.close()
            self._conversation = None
        self._approach.give_up()
        self._closing_s = None
        self._memory.window.clear()

    def _gone(self, now_s: float) -> None:
        """Goodbye is said, as well as it could be."""
        self._drop()
        self._next_attempt_s = None
        if self._state is not LinkState.OFF:
            self._enter(LinkState.OFF, now_s)
        if self._goodbye is not None:
            self._snapshot = self._status(now_s)
            self._goodbye.done.set()

    def _end(self) -> None:
        self._guard.call("goodbye", self._part)
        self._gone(time.monotonic())
        self._snapshot = self._status(time.monotonic())
        self._release()

    def _part(self) -> None:
        """Told to stop before goodbye, whose time has run out, was said to the end: what can be sent is."""
        conversation, goodbye = self._conversation, self._goodbye
        if conversation is None or conversation.connected_s is None or goodbye is None:
            return
        if self._closing_s is None:
            conversation.goodbye = goodbye.document
            conversation.part()

    def _release(self) -> None:
        self._memory.source.off_commit(self._committed)
        self._watch.close()
        self._approach.close()

    # --- small change --------------------------------------------------------------------------------

    def _enter(self, state: LinkState, now_s: float) -> None:
        self._state, self._since_s = state, now_s

    def _look(self) -> None:
        """Watch the descriptor that matters now, for the events that matter now."""
        if self._closing_s is not None and self._conversation is not None:
            self._watch.look_at((self._conversation.session.fileno(), selectors.EVENT_READ))
        elif self._conversation is not None:
            session = self._conversation.session
            events = selectors.EVENT_READ if session.wants_read else 0
            events |= selectors.EVENT_WRITE if session.wants_write else 0
            self._watch.look_at((session.fileno(), events) if events else None)
        else:
            self._watch.look_at(self._approach.waits_for, anew=True)  # each address has a socket of its own

    def _status(self, now_s: float) -> LinkStatus:
        memory, tally, window = self._memory, self._tally, self._memory.window
        breaker = self._breaker.state(now_s)
        if breaker is BreakerState.CLOSED:
            breaker = memory.publishing.state(now_s)
        conversation = self._conversation
        return LinkStatus(
            state=self._state,
            since_ns=_ns(self._since_s) or 0,
            broker=self._settings.broker if self._settings.host else "",
            address=self._approach.address,
            in_flight=window.in_flight,
            window=window.allowed,
            unacknowledged_records=window.records,
            oldest_unacknowledged_ns=_ns(window.oldest_s),
            unanswered_ns=_ns(conversation.asked_s) if conversation is not None else None,
            last_received_ns=_ns(tally.last_received_s),
            last_ack_ns=_ns(tally.last_ack_s),
            keepalive_s=memory.keepalive.interval_s,
            connects=self._connects,
            failures=dict(self._setbacks.counts),
            last_failure=self._setbacks.last.text if self._setbacks.last else None,
            breaker=breaker.value,
            distrusts=self._breaker.kind is Kind.TLS,
            next_attempt_ns=_ns(self._next_attempt_s),
            publish_refusals=dict(tally.refusals),
            tls_failures=self._setbacks.counts["tls"],
            socket=conversation.session.fileno() if conversation is not None else None,
            draining=self._drain_until_s is not None,
            sent=tally.sent,
            resent=tally.resent,
            acknowledged=tally.acknowledged,
            counters={**tally.counters, "documents_forgotten": memory.documents.forgotten},
        )


def _defect(talking: bool) -> Failure:
    """What a turn's exception means: paho raises what it likes at malformed packets; else it is ours."""
    if talking:
        return Failure("protocol", Kind.NETWORK, "what the broker says cannot be understood")
    return Failure("defect", Kind.NETWORK, "a defect of Plugmeter: see the diary")


def _ns(seconds: float | None) -> int | None:
    return None if seconds is None else int(seconds * 1e9)
