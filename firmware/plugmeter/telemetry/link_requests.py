"""What other threads ask of the link's: to stop, to connect anew, to drain, to say goodbye."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from plugmeter.telemetry.documents import Document
from plugmeter.telemetry.failures import Failure


@dataclass(frozen=True, slots=True)
class Kick:
    """To lose the connection for this reason."""

    failure: Failure
    since_ns: int | None = None
    """Only the one that began then (LinkStatus.since_ns); None: whichever there is."""


class Goodbye:
    """The last word, and how it went. One thread asked for it and waits; the link's says it."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.delivered = False
        """Whether the broker has taken it."""
        self.expired = False
        """Nobody waits any more: the thread still says DISCONNECT, for which it waits for nobody."""
        self._done = threading.Event()

    def wait(self, timeout_s: float) -> bool:
        """Whether it is done. Waits no longer than ``timeout_s`` for that: then it has expired."""
        if self._done.wait(timeout_s):
            return True
        self.expired = True
        return False

    def done(self) -> None:
        """It is said, as well as it could be. Idempotent."""
        self._done.set()


class Requests:
    """Any thread asks, the link's looks in each of its turns; whoever asks wakes it then."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._stopping = False
        self._kick: Kick | None = None
        self._drain_until_s: float | None = None
        self._goodbye: Goodbye | None = None

    # --- any thread ----------------------------------------------------------------------------------

    def stop(self) -> None:
        """Once and for all. Without a lock: also for when the link's thread hangs."""
        self._stopping = True

    def kick(self, kick: Kick) -> None:
        """Lose the connection. Of several at once the latest counts, but one that means any connection more
        than one that may come too late."""
        with self._lock:
            if kick.since_ns is None or self._kick is None or self._kick.since_ns is not None:
                self._kick = kick

    def drain(self, until_s: float) -> None:
        """``until_s`` is monotonic; the latest counts."""
        with self._lock:
            self._drain_until_s = until_s

    def say_goodbye(self, document: Document) -> Goodbye | None:
        """To wait for; None if it was asked for already, or it is too late for it."""
        with self._lock:
            if self._goodbye is not None or self._stopping:
                return None
            self._goodbye = Goodbye(document)
            return self._goodbye

    # --- the link's thread ---------------------------------------------------------------------------

    @property
    def stopping(self) -> bool:
        return self._stopping

    def take_kick(self) -> Kick | None:
        """Each is taken once."""
        with self._lock:
            kick, self._kick = self._kick, None
        return kick

    @property
    def drain_until_s(self) -> float | None:
        """None while it is not to drain. It does not end with that time: it is for when to try again."""
        return self._drain_until_s

    @property
    def goodbye(self) -> Goodbye | None:
        """Stays there once it was asked for: nothing follows it."""
        return self._goodbye
