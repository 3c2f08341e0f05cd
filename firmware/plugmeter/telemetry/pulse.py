"""Signs of life: when the broker was last heard, what it owes an answer to, when to ask for one (pure)."""

from __future__ import annotations

from plugmeter.telemetry.keepalive import Keepalive


class Pulse:
    """Of one connection, which begins with a question: CONNECT. Times are monotonic seconds."""

    def __init__(self, keepalive: Keepalive, answer_s: float, now_s: float) -> None:
        """``answer_s``: a broker that was asked and has said nothing at all for so long is not there."""
        self._keepalive = keepalive
        self._answer_s = answer_s
        self.asked_s: float | None = now_s
        """Since when the broker owes an answer; None where it owes none."""
        self._received_s = self._sent_s = now_s
        self._received_bytes = self._sent_bytes = 0
        self._pinged = False

    def heard(self, received_bytes: int, now_s: float) -> bool:
        """Whether anything came since the last look; ``received_bytes`` is the total."""
        if received_bytes == self._received_bytes:
            return False
        self._received_bytes = received_bytes
        if self._pinged and self.asked_s is not None:
            self._keepalive.answered()
        self._pinged = False
        self._received_s = now_s
        return True

    def said(self, sent_bytes: int, now_s: float) -> None:
        """``sent_bytes`` is the total."""
        if sent_bytes != self._sent_bytes:
            self._sent_bytes = sent_bytes
            self._sent_s = now_s

    def asked(self, now_s: float) -> None:
        """Something was sent that wants an answer."""
        if self.asked_s is None:
            self.asked_s = now_s

    def answered(self, now_s: float, *, waits: bool) -> None:
        """The broker has said something; whether it owes more: then it has all its time again."""
        self.asked_s = now_s if waits else None

    def wants_ping(self, now_s: float, *, at_once: bool = False) -> bool:
        """Whether the link was idle for an interval (or ``at_once``). True once, until something is heard."""
        interval_s = self._keepalive.interval_s
        idle = now_s - self._received_s >= interval_s or now_s - self._sent_s >= interval_s
        if not (idle or at_once) or self._pinged:
            return False
        self._pinged = True
        return True

    def is_lost(self, now_s: float) -> bool:
        """Whether the broker has not answered in time."""
        return self.asked_s is not None and now_s - self.asked_s >= self._answer_s

    @property
    def next_s(self) -> float:
        """When the next of this is due."""
        if self.asked_s is not None:
            return self.asked_s + self._answer_s
        return min(self._received_s, self._sent_s) + self._keepalive.interval_s
