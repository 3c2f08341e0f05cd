"""The link's course: from nothing to a connection, through its loss, and back, until goodbye.

What there is at a time: an attempt to connect (approach), a connection (conversation), or a wait for the next
attempt, which is short after a network failure (backoff), and long where a person has to mend something
(breaker). No thread and no clock here: the link's thread waits at the watch, and brings the time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from plugmeter.telemetry.approach import Approach
from plugmeter.telemetry.backoff import Backoff
from plugmeter.telemetry.breaker import Breaker, BreakerState, Kind
from plugmeter.telemetry.conversation import Conversation
from plugmeter.telemetry.documents import Document
from plugmeter.telemetry.failures import Failure, LinkError
from plugmeter.telemetry.link_memory import Memory, Patience
from plugmeter.telemetry.link_requests import Goodbye, Kick, Requests
from plugmeter.telemetry.link_settings import LinkSettings, Timing
from plugmeter.telemetry.link_status import LinkState, LinkStatus
from plugmeter.telemetry.setbacks import Setbacks
from plugmeter.telemetry.topics import Topics
from plugmeter.telemetry.watch import Watch

_DRAIN_RETRY_S: Final = 0.5


class Course:
    """Of one link, in its thread. Times are monotonic seconds.

    The owner calls ``turn`` when the watch has ended its wait, which is to be no longer than until
    ``next_s``, and in the end ``end`` and ``close``. ``birth`` and ``will`` are the link's.
    """

    def __init__(
        self,
        settings: LinkSettings,
        timing: Timing,
        topics: Topics,
        memory: Memory,
        requests: Requests,
        watch: Watch,
        *,
        client_id: str,
        birth: Callable[[], bytes],
        will: Callable[[], bytes],
        uniform: Callable[[float, float], float],
        now_s: float,
    ) -> None:
        self._settings = settings
        self._timing = timing
        self._topics = topics
        self._memory = memory
        self._guard = memory.guard
        self._requests = requests
        self._watch = watch
        self._birth = birth
        self._backoff = Backoff(
            uniform, base_s=timing.retry_s, cap_s=timing.longest_retry_s, stable_s=timing.stable_s
        )
        self._breaker = Breaker(uniform, first_s=timing.breaker_s, longest_s=timing.longest_breaker_s)
        self._setbacks = Setbacks(self._guard, settings.broker, short_life_s=timing.short_life_s)
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
        self._state = LinkState.OFF
        self._since_s = now_s
        self._next_attempt_s: float | None = now_s if settings.host else None
        self._conversation: Conversation | None = None
        self._leaving: Failure | None = None
        """Why a conversation that has parted is followed by another."""
        self._left_online = False
        """See LinkStatus.left_online."""
        self.status = self._status(now_s)
        """Of the last turn. Any thread may look."""

    # --- for the owner -------------------------------------------------------------------------------

    def turn(self, now_s: float, *, readable: bool, writable: bool) -> bool:
        """Whether there was something to do. Raises nothing: what fails is a failure of the connection."""
        counters = self._memory.tally.counters
        before = counters["turn_errors"]
        worked = self._guard.call("turn", self._turn, now_s, readable, writable)
        if counters["turn_errors"] != before:  # malformed packets, or a defect of ours
            self._fall(_defect(self._conversation is not None), now_s)
        self._tell_status(now_s)
        return bool(worked)

    def next_s(self, now_s: float) -> float | None:
        """When the next turn is due at the latest, whatever the watch sees; None where nothing is planned."""
        if self._conversation is not None:
            return self._conversation.next_s(now_s)
        if self._approach.deadline_s is not None:
            return self._approach.deadline_s
        return self._next_attempt_s

    def part(self, now_s: float) -> None:
        """The thread is to end: what is left of a goodbye is said. While ``parting`` there are more turns to
        take, so that closing does not make it unheard; then comes ``end``."""
        self._guard.call("goodbye", self._part, now_s)

    @property
    def parting(self) -> bool:
        """A conversation has said DISCONNECT, and waits a moment for the broker to close."""
        return self._conversation is not None and self._conversation.closing

    def end(self, now_s: float) -> None:
        """The thread ends: the connection as well, and whoever waits for the goodbye waits no more."""
        try:
            self._guard.call("end", self._gone, now_s)
            self._tell_status(now_s)
        finally:
            if self._requests.goodbye is not None:
                self._requests.goodbye.done()

    def close(self) -> None:
        """No other turn will follow."""
        self._approach.close()

    # --- one turn ------------------------------------------------------------------------------------

    def _turn(self, now_s: float, readable: bool, writable: bool) -> bool:
        worked = self._work(now_s, readable, writable)
        if self._conversation is not None:
            self._watch.look_at(self._conversation.waits_for)
        else:
            self._watch.look_at(self._approach.waits_for, anew=True)  # each address has a socket of its own
        return worked

    def _work(self, now_s: float, readable: bool, writable: bool) -> bool:
        self._obey(now_s)
        conversation = self._conversation
        if conversation is not None and conversation.closing:
            if conversation.has_closed(now_s):
                leaving, self._leaving = self._leaving, None
                if leaving is None or self._requests.stopping:
                    self._gone(now_s)
                else:
                    self._lost(leaving, now_s)
                    self._obey(now_s)  # a goodbye that came meanwhile does not wait for the backoff
            return True
        if conversation is not None:
            wire = conversation.session.wire
            before = wire.received_bytes + wire.sent_bytes
            self._converse(conversation, now_s, readable, writable)
            if self._requests.goodbye is not None and self._conversation is None:
                self._gone(now_s)  # lost before it was answered: nobody is left to say it to
            return wire.received_bytes + wire.sent_bytes != before or self._conversation is None
        if self._approach.deadline_s is not None:
            self._connect(now_s)
            worked = self._approach.deadline_s is None
        elif self._next_attempt_s is not None and now_s >= self._next_attempt_s:
            self._attempt(now_s)
            worked = True
        else:
            return False
        if self._requests.goodbye is not None and not self._is_trying:
            self._gone(now_s)  # it was the one attempt to say it
        return worked

    @property
    def _is_trying(self) -> bool:
        """Whether there is a connection, or an attempt to have one."""
        return self._conversation is not None or self._approach.deadline_s is not None

    def _obey(self, now_s: float) -> None:
        """What other threads ask for."""
        kick = self._requests.take_kick()
        drain_until_s = self._requests.drain_until_s
        goodbye = self._requests.goodbye
        if kick is not None:
            self._kicked(kick, now_s)
        if drain_until_s is not None and now_s < drain_until_s and self._state is LinkState.WAITING:
            # Nothing is won by waiting longer than the daemon lives.
            self._next_attempt_s = min(self._next_attempt_s or now_s, self._since_s + _DRAIN_RETRY_S)
        if goodbye is not None:
            self._say_goodbye(goodbye, now_s)

    def _kicked(self, kick: Kick, now_s: float) -> None:
        leaves = self._requests.drain_until_s is not None or self._requests.goodbye is not None
        if leaves or (kick.since_ns is not None and kick.since_ns != self._connected_ns):
            # Who leaves has no time for another connection: the window would be sent again, and
            # acknowledgements that are under way would be lost.
            self._memory.tally.counters["kicks_too_late"] += 1
            return
        conversation = self._conversation
        if conversation is not None and conversation.connected_s is not None:
            if not conversation.closing:
                self._leaving = kick.failure
                self._left_online = True
                # Nobody is to be told that we are lost.
                conversation.part(now_s, deaf=kick.failure.cause == "silence")
        elif self._is_trying:
            self._lost(kick.failure, now_s)
        if self._state is LinkState.WAITING:
            self._next_attempt_s = now_s

    @property
    def _connected_ns(self) -> int | None:
        return _ns(self._since_s) if self._state is LinkState.CONNECTED else None

    def _say_goodbye(self, goodbye: Goodbye, now_s: float) -> None:
        conversation = self._conversation
        if conversation is None or conversation.connected_s is None:
            if self._left_online and not goodbye.expired and self._comes_back(now_s):
                return
            if self._is_trying:
                self._lost(Failure("kicked", Kind.NETWORK, "the link is told to end"), now_s)
            self._gone(now_s)
        elif conversation.closing:
            if self._leaving is not None:
                conversation.hasten(now_s)
        else:
            conversation.say_goodbye(goodbye.document)
            answer = conversation.goodbye_answer
            if answer is not None or goodbye.expired:
                goodbye.delivered = answer is not None and answer < 0x80
                conversation.part(now_s, deaf=answer is None)

    def _comes_back(self, now_s: float) -> bool:
        """To say goodbye; whether there is an attempt. The kick's DISCONNECT took the last will away: should
        this one get no further than CONNECT, its own will is published."""
        if self._state is LinkState.WAITING:
            self._next_attempt_s = now_s
            return True
        return self._is_trying

    def _converse(self, conversation: Conversation, now_s: float, readable: bool, writable: bool) -> None:
        was_connected = conversation.connected_s is not None
        conversation.draining = self._requests.drain_until_s is not None
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
        self._memory.tell_change("warning", words, "warning", {"text": words})

    def _connect(self, now_s: float) -> None:
        try:
            session = self._approach.advance(now_s)
        except LinkError as error:
            self._lost(error.failure, now_s)
            return
        if session is None:
            return
        self._watch.look_at(None)
        goodbye = self._requests.goodbye
        birth = self._guard.call("birth", self._birth) if goodbye is None else None
        conversation = self._conversation = Conversation(
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
        if goodbye is not None:
            conversation.say_goodbye(goodbye.document)  # before all else
        if session.over:  # sending CONNECT has failed already: no descriptor will tell
            self._converse(conversation, now_s, False, False)

    def _extra_filters(self) -> Sequence[str]:
        prefix = self._settings.discovery_prefix
        return (f"{prefix}/status",) if prefix else ()

    def _connected(self, conversation: Conversation, now_s: float) -> None:
        self._connects += 1
        self._left_online = False
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
        self._setbacks.overcome(f"{self._approach.address}{', TLS' if self._settings.tls else ''}")

    def _lost(self, failure: Failure, now_s: float) -> None:
        """The connection, or the attempt to have one, is over."""
        conversation = self._conversation
        connected_s = conversation.connected_s if conversation is not None else None
        lasted_s = None if connected_s is None else now_s - connected_s
        self._drop()
        failure = self._setbacks.judged(failure, lasted_s)
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
            delay_s = self._backoff.after_failure(lasted_s or 0.0)
            self._next_attempt_s = now_s + (0.0 if failure.cause == "kicked" else delay_s)
        self._setbacks.add(
            failure,
            lasted_s=lasted_s,
            wait_s=(self._next_attempt_s or now_s) - now_s,
            opened=opened,
            now_s=now_s,
        )

    def _drop(self) -> None:
        self._watch.look_at(None)
        conversation, self._conversation = self._conversation, None
        self._leaving = None
        if conversation is not None:
            conversation.session.close()
        self._approach.give_up()
        self._memory.window.clear()

    def _fall(self, failure: Failure, now_s: float) -> None:
        """Lost for a defect. Should losing have one as well, there is another attempt nevertheless."""
        counters = self._memory.tally.counters
        before = counters["loss_errors"]
        self._guard.call("loss", self._lost, failure, now_s)
        if counters["loss_errors"] != before:
            self._conversation = self._leaving = None
            self._enter(LinkState.WAITING, now_s)
            self._next_attempt_s = now_s + self._timing.longest_retry_s

    def _gone(self, now_s: float) -> None:
        """Goodbye is said, as well as it could be."""
        self._drop()
        self._next_attempt_s = None
        if self._state is not LinkState.OFF:
            self._enter(LinkState.OFF, now_s)
        goodbye = self._requests.goodbye
        if goodbye is not None:
            self._tell_status(now_s)
            goodbye.done()

    def _part(self, now_s: float) -> None:
        """Told to stop before goodbye, whose time has run out, was said to the end: what can be sent is."""
        conversation, goodbye = self._conversation, self._requests.goodbye
        if conversation is None or conversation.connected_s is None or goodbye is None:
            return
        if not conversation.closing:
            conversation.say_goodbye(goodbye.document)
            conversation.part(now_s, deaf=True)

    # --- small change --------------------------------------------------------------------------------

    def _enter(self, state: LinkState, now_s: float) -> None:
        self._state, self._since_s = state, now_s

    def _tell_status(self, now_s: float) -> None:
        """The last one stays if there is none."""
        self.status = self._guard.call("status", self._status, now_s) or self.status

    def _status(self, now_s: float) -> LinkStatus:
        memory, tally, window = self._memory, self._memory.tally, self._memory.window
        breaker = self._breaker.state(now_s)
        if breaker is BreakerState.CLOSED:
            breaker = memory.publishing.state(now_s)
        conversation = self._conversation
        connected_s = conversation.connected_s if conversation is not None else None
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
            twin=self._setbacks.twin_suspected(None if connected_s is None else now_s - connected_s),
            next_attempt_ns=_ns(self._next_attempt_s),
            publish_refusals=dict(tally.refusals),
            tls_failures=self._setbacks.counts["tls"],
            left_online=self._left_online,
            socket=conversation.session.fileno() if conversation is not None else None,
            draining=self._requests.drain_until_s is not None,
            sent=tally.sent,
            resent=tally.resent,
            acknowledged=tally.acknowledged,
            counters={
                **tally.counters,
                "documents_forgotten": memory.documents.forgotten,
                "documents_without_room": memory.documents.without_room,
            },
        )


def _defect(talking: bool) -> Failure:
    """What a turn's exception means: paho raises what it likes at malformed packets; else it is ours."""
    if talking:
        return Failure("protocol", Kind.NETWORK, "what the broker says cannot be understood")
    return Failure("defect", Kind.NETWORK, "a defect of Plugmeter: see the diary")


def _ns(seconds: float | None) -> int | None:
    return None if seconds is None else int(seconds * 1e9)
