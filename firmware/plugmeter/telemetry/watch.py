"""What the link's thread waits for: the one descriptor that matters now, or to be woken."""

from __future__ import annotations

import selectors

from plugmeter.wakeup import Wakeup


class Watch:
    """``wake`` from any thread, also after ``close``; the rest is the link's."""

    def __init__(self) -> None:
        self._wakeup = Wakeup()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._wakeup, selectors.EVENT_READ)
        self._watched: tuple[int, int] | None = None

    def wake(self) -> None:
        """End the wait that goes on, or else the next one at once."""
        self._wakeup.wake()

    def wait(self, seconds: float) -> tuple[bool, bool]:
        """Whether the descriptor is readable, and writable; neither where it was time, or we were woken."""
        readable = writable = False
        for key, events in self._selector.select(seconds):
            if key.fd == self._wakeup.fileno():
                self._wakeup.lower()
            else:
                readable = bool(events & selectors.EVENT_READ)
                writable = bool(events & selectors.EVENT_WRITE)
        return readable, writable

    def look_at(self, wanted: tuple[int, int] | None, *, anew: bool = False) -> None:
        """A descriptor and its events (selectors.EVENT_*), or none. ``anew``: that number may be another
        file's by now."""
        if wanted == self._watched and not anew:
            return
        if self._watched is not None:
            self._selector.unregister(self._watched[0])
            self._watched = None
        if wanted is not None:
            self._selector.register(*wanted)  # raises for what is none, and then nothing is watched
            self._watched = wanted

    def close(self) -> None:
        """Idempotent."""
        self._selector.close()
        self._wakeup.close()
