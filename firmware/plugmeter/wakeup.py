"""What one thread waits for in its selector so that others can wake it."""

from __future__ import annotations

import os
import threading


class Wakeup:
    """An eventfd (eventfd(2)). ``wake`` from any thread, at any time, also after ``close``: the thread that
    waits may end, and close it, while others are about to wake it. Not for signal handlers: it locks."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._descriptor = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._closed = False

    def fileno(self) -> int:
        """For a selector: readable from ``wake`` to ``lower``. The number stays the same, and is another
        file's after ``close``."""
        return self._descriptor

    def wake(self) -> None:
        """End the wait that goes on, or else the next one at once."""
        with self._lock:
            if not self._closed:
                os.eventfd_write(self._descriptor, 1)

    def lower(self) -> None:
        """Before looking at what others want, so that none of it is missed."""
        with self._lock:
            if not self._closed:
                try:
                    os.eventfd_read(self._descriptor)
                except BlockingIOError:
                    pass  # nobody woke us

    def close(self) -> None:
        """Idempotent."""
        with self._lock:
            if not self._closed:
                self._closed = True
                os.close(self._descriptor)
