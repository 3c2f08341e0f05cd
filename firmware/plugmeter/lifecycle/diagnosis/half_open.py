"""A half-open connection: we take it for open, but nobody is at its other end."""

from __future__ import annotations

from plugmeter.lifecycle.diagnosis.finding import LINK, Finding, seconds
from plugmeter.lifecycle.samples import LinkSample, Observation, TcpSample

_MOST_STEP_NS = 2_000_000_000


class HalfOpen:
    """Accuses a connection on which something was sent and nothing came back, and TCP cannot do better.

    That takes ``unanswered_ns`` with TCP's own word for it (retransmissions, or probes without an answer).
    Without it, where the peer's kernel acknowledges but its program says nothing, or where TCP_INFO cannot
    be had, it takes ``silent_ns``. Data that the kernel holds and the link has not read acquits the peer.
    Only time that was looked at counts, at most 2 s between two looks. It ends with the connection, or with
    whatever comes in.
    """

    def __init__(self, unanswered_ns: int = 10_000_000_000, silent_ns: int = 30_000_000_000) -> None:
        self._unanswered_ns = unanswered_ns
        self._silent_ns = silent_ns
        self._most_step_ns = min(_MOST_STEP_NS, unanswered_ns // 4)
        self._looked_ns: int | None = None
        self._connection: int | None = None
        self._received_ns: int | None = None
        self._waited_ns = 0
        self._finding: Finding | None = None

    def look(self, seen: Observation) -> list[Finding]:
        """The finding, if it holds at this moment."""
        since_last = seen.now_ns - self._looked_ns if self._looked_ns is not None else 0
        step_ns = max(0, min(since_last, self._most_step_ns))
        self._looked_ns = seen.now_ns
        link = seen.link
        sent_ns = link.oldest_unacknowledged_ns if link and self._is_waiting(link) else None
        if link is None or sent_ns is None:
            self._waited_ns = 0
            self._finding = None
        else:
            self._waited_ns = max(0, min(self._waited_ns + step_ns, seen.now_ns - sent_ns))
            if self._finding is None:
                self._finding = self._judged(seen.now_ns, link, seen.tcp)
        self._connection = link.connected_since_ns if link else None
        self._received_ns = link.last_received_ns if link else None
        return [self._finding] if self._finding else []

    def _is_waiting(self, link: LinkSample) -> bool:
        """Whether the same connection as at the last look waits, and nothing came in since that look."""
        sent_ns = link.oldest_unacknowledged_ns
        if link.state != "connected" or sent_ns is None:
            return False
        heard_ns = link.last_received_ns
        return (
            link.connected_since_ns == self._connection
            and heard_ns == self._received_ns
            # At the same moment: it answered some of what was sent, and owes the rest since then.
            and (heard_ns is None or heard_ns <= sent_ns)
        )

    def _judged(self, now_ns: int, link: LinkSample, tcp: TcpSample | None) -> Finding | None:
        waited_ns = self._waited_ns
        if waited_ns < self._unanswered_ns:
            return None
        evidence = f"sent, but nothing received for {seconds(waited_ns)}"
        if tcp is not None and tcp.last_data_received_ms * 1_000_000 < waited_ns // 2:
            return None  # it answers: our link does not read
        if tcp is not None and tcp.is_unanswered:
            evidence += (
                f"; TCP: {tcp.unacked} segments unacknowledged, {tcp.retransmits} retransmissions and"
                f" {tcp.probes} probes unanswered"
            )
        elif waited_ns < self._silent_ns:
            return None
        elif tcp is not None:
            evidence += "; the peer's kernel acknowledges, its program does not answer"
        else:
            evidence += "; nothing is known of TCP's state"
        return Finding("half_open", LINK, now_ns - waited_ns, evidence, "reconnect")
