"""What comes in from the broker: sorted by topic, bounded, counted."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from typing import Final, Protocol

from plugmeter.errors import PlugmeterError
from plugmeter.telemetry import discovery
from plugmeter.telemetry.topics import COMMAND, Topics

LOG: Final = logging.getLogger("plugmeter.daemon")


class Message(Protocol):
    """A message as the link hands it on."""

    @property
    def topic(self) -> str: ...
    @property
    def payload(self) -> bytes: ...
    @property
    def retain(self) -> bool: ...


class Hearing:
    """``take`` is the link's thread's, ``look`` the main thread's.

    ``command`` and ``birth`` are called on the link's thread, ``desire`` on the main one, by ``call``
    (conductor.Conductor.call). Of desired configurations only the last one waits: it is what is desired. So a
    flood of them takes one place among the main thread's calls, and those of commands keep theirs.
    """

    def __init__(
        self,
        topics: Topics,
        *,
        command: Callable[[Message], None],
        desire: Callable[[bytes], None],
        birth: Callable[[], None],
        call: Callable[[Callable[[], None]], Future[None]],
    ) -> None:
        self.prefix = ""
        """Home Assistant's discovery topic; empty for none."""
        self._topics = topics
        self._command = command
        self._desire = desire
        self._birth = birth
        self._call = call
        self._lock = threading.Lock()  # of all below
        self._wish: bytes | None = None
        self._called = False
        self._counters: Counter[str] = Counter()

    @property
    def counters(self) -> Counter[str]:
        """Messages by what they were: command, desired, births, other_births, strange (of no topic that we
        asked for); and desired_replaced, by a later one before they were looked at."""
        with self._lock:
            return Counter(self._counters)

    def take(self, message: Message) -> None:
        """A message."""
        topic = message.topic
        if topic.startswith(f"{self._topics.base}/{COMMAND}/"):
            self._count("command")
            self._command(message)
        elif topic == self._topics.desired:
            self._count("desired")
            with self._lock:
                self._counters["desired_replaced"] += self._wish is not None
                self._wish = message.payload
            self.look()
        elif self.prefix and topic == discovery.birth_topic(self.prefix):
            is_birth = message.payload == discovery.ONLINE
            self._count("births" if is_birth else "other_births")
            if is_birth:
                self._birth()
        else:
            self._count("strange")

    def look(self) -> None:
        """Have the main thread look at what is desired, if there is anything new. Once a second, too: it may
        have been busy."""
        with self._lock:
            if self._wish is None or self._called:
                return
            self._called = True
        try:
            self._call(self._look).add_done_callback(_tell)
        except PlugmeterError:  # too many calls wait: counted there, and tried again
            with self._lock:
                self._called = False

    def _look(self) -> None:
        with self._lock:
            wish, self._wish, self._called = self._wish, None, False
        if wish is not None:
            self._desire(wish)

    def _count(self, what: str) -> None:
        with self._lock:
            self._counters[what] += 1


def _tell(done: Future[None]) -> None:
    """Nobody else waits for it: what it raised is a defect of ours."""
    if not done.cancelled() and (error := done.exception()) is not None:
        LOG.error("a desired configuration met a defect", exc_info=error)
