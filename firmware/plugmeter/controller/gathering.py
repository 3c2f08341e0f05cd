"""Gathering: what was read waits here for others, until it is committed with them in one transaction.

When the database fails, what was read is kept and tried again, and nothing is acknowledged; more is taken
as far as there is room.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from plugmeter.controller.arrivals import Arrivals
from plugmeter.controller.booking import Booked, book
from plugmeter.controller.store import Store, StoreTrouble

GROUP_EVENTS: Final = 1_000
"""So many are enough for a commit. A device has 20 messages of 100 records under way as a rule, and waits
then: one that waited for all of them would be idle while the device is not, and the other way round."""
MOST_EVENTS: Final = 5_000
"""While the database is in trouble: beyond this, what its sender does not keep (QoS 0) is dropped."""
MOST_BYTES: Final = 8 << 20
MOST_MESSAGES: Final = 20_000
"""Of these each may name a device that nobody knows, and have no bytes at all."""
LINGER_S: Final = 0.1
"""So long a message waits for others at most before it is committed."""
QUIET_S: Final = 0.01
"""When nothing came for so long, nothing is waited for."""

_RETRY_S: Final = (0.2, 5.0)
_BOOKED: Final = ("records", "duplicates", "conflicts", "refused", "tombstones", "problems")


class Gathering:
    """Of one thread, the store's one writer."""

    def __init__(self, store: Store, tell: Callable[[str], None], linger_s: float = LINGER_S) -> None:
        self.trouble = ""
        """Why the database cannot be written; empty if it can."""
        self.counters = dict.fromkeys(
            ("messages", *_BOOKED, "strangers", "commits", "commit_failures", "dropped"), 0
        )
        self._store = store
        self._tell = tell
        self._linger_s = linger_s
        self._missed = False
        self._arrivals = Arrivals()
        self._since = 0.0
        self._last = 0.0
        self._commit_after = 0.0
        self._pause_s = 0.0

    def __bool__(self) -> bool:
        """Whether anything waits to be committed."""
        return bool(self._arrivals)

    @property
    def events(self) -> int:
        """Records and tombstones that wait to be committed."""
        return self._arrivals.events

    def wants_more(self) -> bool:
        """Whether to read on before the next commit."""
        # While the database is in trouble the broker's pings must be read all the same.
        return bool(self.trouble) or (self._room() and self._arrivals.events < GROUP_EVENTS)

    def take(self, topic: str, payload: bytes, retained: bool) -> None:
        """One message."""
        now = time.monotonic()
        if not self._arrivals:
            self._since = now
        self._last = now
        self.counters["messages"] += 1
        if self.trouble and not self._room():
            self.counters["dropped"] += 1
            # Records are not acknowledged, so their device sends them again; documents it does not.
            self._missed = self._missed or not topic.endswith("/records")
            return
        self._arrivals.add(topic, payload, retained=retained, now_ms=_now_ms())

    def _room(self) -> bool:
        arrivals = self._arrivals
        return (
            arrivals.events < MOST_EVENTS
            and arrivals.payload_bytes < MOST_BYTES
            and arrivals.messages < MOST_MESSAGES
        )

    def missed(self) -> bool:
        """Whether anything was dropped, since this was asked last, that only the broker can tell again."""
        missed, self._missed = self._missed, False
        return missed

    def patience_s(self, now: float) -> float | None:
        """How long it is until a commit is due unless more comes; None while there is nothing to commit."""
        if not self._arrivals:
            return None
        due = min(self._since + self._linger_s, self._last + QUIET_S)
        return max(0.0, max(self._commit_after, due) - now)

    def due(self, now: float, *, full: bool) -> bool:
        """Whether to commit now. ``full``: no more will come before that."""
        if not self._arrivals or now < self._commit_after:
            return False
        return (
            full
            or not self._room()
            or (not self.trouble and self._arrivals.events >= GROUP_EVENTS)
            or now >= self._since + self._linger_s
            or now >= self._last + QUIET_S
        )

    def commit(self, now: float) -> Booked | None:
        """One transaction of all there is; None where that failed, and nothing of it happened."""
        try:
            booked = book(self._store, self._arrivals, _now_ms())
        except StoreTrouble as trouble:
            self.counters["commit_failures"] += 1
            if str(trouble) != self.trouble:
                self._tell(f"{trouble}; nothing is acknowledged until it can be written again")
                self.trouble = str(trouble)
            least, most = _RETRY_S
            self._pause_s = min(max(least, 2 * self._pause_s), most)
            self._commit_after = now + self._pause_s
            return None
        if self.trouble:
            self._tell(f"database {self._store.name} can be written again")
        self.trouble = ""
        self._pause_s = self._commit_after = 0.0
        self.counters["commits"] += 1
        self.counters["strangers"] += self._arrivals.strangers
        for name in _BOOKED:
            self.counters[name] += getattr(booked, name)
        self._arrivals = Arrivals()
        return booked


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
