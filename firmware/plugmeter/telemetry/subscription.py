"""The subscription: the topics that are heard on one connection, and whether the broker grants them."""

from __future__ import annotations

from collections.abc import Sequence

from plugmeter.telemetry.client import Session, Subscribed
from plugmeter.telemetry.failures import reason_words
from plugmeter.telemetry.link_memory import Memory
from plugmeter.telemetry.pulse import Pulse
from plugmeter.telemetry.topics import Topics


class Subscription:
    """All filters in one SUBSCRIBE, the acknowledgements' first. Times are monotonic seconds."""

    def __init__(
        self,
        session: Session,
        memory: Memory,
        topics: Topics,
        extra_filters: Sequence[str],
        pulse: Pulse,
    ) -> None:
        self._session = session
        self._memory = memory
        self._pulse = pulse
        self._filters = (topics.acks, topics.desired, topics.commands, *extra_filters)
        self._mid = 0
        self.asked_s: float | None = None
        """Since when the broker owes its answer; None where it owes none."""
        self.answered = False
        """Whether it has answered, be it with a no."""
        self.granted = False
        """Whether acknowledgements may be subscribed to."""

    def ask(self, now_s: float) -> None:
        """On each connection once; and again after a no, when it is worth another attempt."""
        mid = self._session.subscribe(self._filters)
        if mid is not None:
            self._mid, self.asked_s = mid, now_s
            self._pulse.asked(now_s)

    def settle(self, event: Subscribed) -> bool:
        """Take in the answer; what is refused is counted and told. False if it is none to our question."""
        if self.asked_s is None or event.mid != self._mid:
            return False
        self.asked_s = None
        self.answered = True
        for name, code in zip(self._filters, event.codes, strict=False):
            if code >= 0x80:
                self._memory.tally.counters["subscriptions_refused"] += 1
                self._memory.guard.tell("subscription-refused", {"topic": name, "reason": reason_words(code)})
        self.granted = bool(event.codes) and event.codes[0] < 0x80
        return True
