"""TLS handshakes that fail again and again: a certificate, a clock or a broker that is not ours."""

from __future__ import annotations

from collections import deque

from plugmeter.lifecycle.diagnosis.finding import LINK, Finding, seconds
from plugmeter.lifecycle.samples import LinkSample, Observation


class TlsHandshakes:
    """Accuses at ``failures`` failed handshakes within ``window_ns``, or at one for which the link has opened
    its breaker: the next comes an hour later, perhaps.

    It ends with a connection that was made after the last of them, or when the window is empty and the
    breaker closed.
    """

    def __init__(self, failures: int = 3, window_ns: int = 600_000_000_000) -> None:
        self._failures = failures
        self._window_ns = window_ns
        self._counted: int | None = None
        self._recent: deque[int] = deque(maxlen=failures)
        """When the latest failures were seen."""
        self._finding: Finding | None = None

    def look(self, seen: Observation) -> list[Finding]:
        """The finding, if it holds at this moment."""
        link = seen.link
        if link is None:
            self._counted = None
            self._recent.clear()
            self._finding = None
            return []
        # A link that was made anew counts from 0; what failed before the first look is not ours to judge.
        before = link.tls_failures if self._counted is None else min(self._counted, link.tls_failures)
        self._recent.extend([seen.now_ns] * min(self._failures, link.tls_failures - before))
        self._counted = link.tls_failures
        while self._recent and seen.now_ns - self._recent[0] > self._window_ns:
            self._recent.popleft()
        since_ns = link.connected_since_ns if link.state == "connected" else None
        if self._recent and since_ns is not None and since_ns > self._recent[-1]:
            self._recent.clear()
        if link.distrusts:
            self._finding = self._finding or _distrusts(seen.now_ns, link)
        elif not self._recent:
            self._finding = None
        elif self._finding is None and len(self._recent) >= self._failures:
            took_ns = seen.now_ns - self._recent[0]
            evidence = f"{len(self._recent)} TLS handshakes failed within {seconds(took_ns)}"
            evidence += f"; the last: {link.tls_cause}" if link.tls_cause else "; the cause was not told"
            self._finding = Finding("tls_handshakes", LINK, self._recent[0], evidence, "breaker")
        return [self._finding] if self._finding else []


def _distrusts(now_ns: int, link: LinkSample) -> Finding:
    evidence = f"a TLS handshake failed in a way that stays: {link.tls_cause or 'the cause was not told'}"
    return Finding("tls_handshakes", LINK, now_ns, evidence, "breaker")
