"""What the daemon itself has to tell becomes a record here."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Mapping
from typing import Final

import msgspec

from plugmeter.telemetry.outbox import Outbox
from plugmeter.telemetry.record import Draft

EARLY_LIMIT: Final = 100
"""Records that may be made before the outbox is open: the signals and transitions of a start."""

_ENCODE: Final = msgspec.json.Encoder().encode


class Recorder:
    """Any thread may ``keep`` a record, also before the outbox is there. Never blocks, never raises for the
    outbox's sake: what finds it full is counted by it, and gets a tombstone."""

    def __init__(self) -> None:
        self._outbox: Outbox | None = None
        self._early: deque[Draft] = deque()
        self._lock = threading.Lock()  # of both, until the outbox is there
        self.discards: Counter[str] = Counter()

    def attach(self, outbox: Outbox) -> None:
        """The outbox is open: what was told before goes in first."""
        with self._lock:
            while self._early:
                outbox.offer(self._early.popleft())
            self._outbox = outbox

    def keep(self, kind: str, data: Mapping[str, object], time_ns: int | None = None) -> None:
        """Make a record of ``kind`` (telemetry.record.RANKS); ``data`` is encoded at once."""
        self.offer(Draft(kind, _ENCODE(data), time.time_ns() if time_ns is None else time_ns))

    def offer(self, draft: Draft) -> None:
        """As ``keep``, for what is encoded already."""
        outbox = self._outbox
        if outbox is None:
            with self._lock:
                outbox = self._outbox  # it may have come meanwhile
                if outbox is None:
                    self._keep_early(draft)
                    return
        outbox.offer(draft)

    def _keep_early(self, draft: Draft) -> None:
        if len(self._early) < EARLY_LIMIT:
            self._early.append(draft)
        else:
            self.discards["before_outbox"] += 1
