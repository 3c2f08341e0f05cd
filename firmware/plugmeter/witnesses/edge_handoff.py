"""The hand-off from a pin factory's callbacks to the loop that reads the witness."""

from __future__ import annotations

import os
import threading
import time

from plugmeter.records import Edge, Gap


class EdgeHandoff:
    """A bounded queue from the threads of a pin factory to the loop that reads the witness.

    When it is full the *newest* edges are refused, counted, and become one Gap at their place.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._lock = threading.Lock()
        self._queue: list[Edge | Gap] = []
        self._held = 0
        self._refused = 0
        self._refused_since_ns = 0
        self._last_ns = time.monotonic_ns()
        self._eventfd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.offered = 0

    def put(self, port: str, rising: bool) -> None:
        """Stamp an edge with CLOCK_MONOTONIC and queue it, or count it as refused."""
        with self._lock:
            if self._eventfd < 0:
                return  # a callback that was under way while the witness closed: after the run
            t_ns = time.monotonic_ns()  # with the lock, so that the queue is in order of time
            self.offered += 1
            if self._held >= self._capacity:
                if self._refused == 0:
                    self._refused_since_ns = self._last_ns
                self._refused += 1
            else:
                self._queue.append(Edge(t_ns, port, rising))
                self._held += 1
            self._last_ns = t_ns
            os.eventfd_write(self._eventfd, 1)

    def take(self) -> list[Edge | Gap]:
        """All that is queued, then the gap for what was refused since; empties the descriptor."""
        with self._lock:
            records, self._queue, self._held = self._queue, [], 0
            if self._refused:
                gap = Gap(self._last_ns, "gpio", "handoff", self._refused, self._refused_since_ns)
                records.append(gap)
                self._refused = 0
            if self._eventfd >= 0:
                try:
                    os.eventfd_read(self._eventfd)
                except BlockingIOError:
                    pass  # nothing came since the last time
        return records

    def pending(self) -> int:
        """Edges that are queued, and refused ones whose gap was not taken yet."""
        with self._lock:
            return self._held + self._refused

    def fileno(self) -> int:
        """Polls readable from a ``put`` to the next ``take``."""
        return self._eventfd

    def close(self) -> None:
        """Close the descriptor; edges that come now are nobody's."""
        with self._lock:
            if self._eventfd >= 0:
                os.close(self._eventfd)
                self._eventfd = -1
