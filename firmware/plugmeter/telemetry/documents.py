"""The retained documents: what is published once now, and again on each connection. The latest wins."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from plugmeter.telemetry.packet_limit import packet_bytes

DOCUMENTS_LIMIT: Final = 1_000
PASSING_LIMIT: Final = 250
DOCUMENT_LIMIT_BYTES: Final = 262_144


@dataclass(frozen=True, slots=True)
class Document:
    """One topic's newest payload."""

    topic: str
    payload: bytes
    retain: bool = True
    passing: bool = False
    """Whether it may be forgotten when there are very many of them: the oldest goes first, and before it one
    without a payload, which only takes away what the broker has kept."""
    keep_s: int | None = None
    """For how long the broker keeps it; None: for ever."""
    answered: Callable[[int], None] | None = field(default=None, compare=False)
    """Called once with the PUBACK's reason code, in the link's thread: then it is published no more."""

    @property
    def size_bytes(self) -> int:
        """As a packet, at the most."""
        return packet_bytes(self.topic, self.payload)


class Documents:
    """At most 1,000 of 256 KiB, of which 250 are passing. ``set`` and ``remove`` from any thread, the rest
    from the link's."""

    def __init__(self) -> None:
        self.forgotten = 0
        """Passing ones that made room; what was not published yet among them too."""
        self.without_room = 0
        """Those that ``set`` has refused."""
        self.left_out: list[Document] = []
        """Those that ``take`` has found too large for the broker, each once at each limit; the owner tells
        and clears them. They stay the latest of their topics, and go when the limit lets them."""
        self._too_large: dict[str, int] = {}  # the limit that was too low
        self._lock = threading.Lock()
        self._passing: dict[str, None] = {}  # an ordered set, the oldest first
        self._documents: dict[str, Document] = {}
        self._waiting: dict[str, None] = {}  # an ordered set
        self._tries: dict[str, int] = {}  # of those that are to be answered once

    def set(self, document: Document) -> bool:
        """False if there is no room for it, or it is too large."""
        with self._lock:
            known = document.topic in self._documents
            if len(document.payload) > DOCUMENT_LIMIT_BYTES or (
                not known and len(self._documents) >= DOCUMENTS_LIMIT
            ):
                self.without_room += 1
                return False
            if self._documents.get(document.topic) != document:
                self._too_large.pop(document.topic, None)
            self._tries.pop(document.topic, None)
            self._documents[document.topic] = document
            self._waiting[document.topic] = None
            self._passing.pop(document.topic, None)
            if document.passing:
                self._passing[document.topic] = None
            if len(self._passing) > PASSING_LIMIT:
                empty = (each for each in self._passing if not self._documents[each].payload)
                self._forget(next(empty, next(iter(self._passing))))
                self.forgotten += 1
        return True

    def remove(self, topic: str) -> None:
        with self._lock:
            self._forget(topic)

    def _forget(self, topic: str) -> None:
        self._documents.pop(topic, None)
        self._waiting.pop(topic, None)
        self._passing.pop(topic, None)
        self._too_large.pop(topic, None)
        self._tries.pop(topic, None)

    def all_again(self) -> None:
        """A new connection: its broker may have forgotten them."""
        with self._lock:
            self._waiting = dict.fromkeys(self._documents)

    def take(self, limit_bytes: int) -> Document | None:
        """The next one to publish, as a packet of no more than ``limit_bytes``. Larger ones wait no longer:
        they are ``left_out`` until another is set, or a connection takes them."""
        with self._lock:
            while self._waiting:
                topic = next(iter(self._waiting))
                del self._waiting[topic]
                document = self._documents[topic]
                if document.size_bytes <= limit_bytes:
                    self._too_large.pop(topic, None)
                    return document
                if self._too_large.get(topic) != limit_bytes:
                    self._too_large[topic] = limit_bytes
                    self.left_out.append(document)
        return None

    def tried(self, document: Document) -> int:
        """How often it is published now, in vain until now. For one that is to be answered once."""
        with self._lock:
            self._tries[document.topic] = self._tries.get(document.topic, 0) + 1
            return self._tries[document.topic]

    def is_over(self, document: Document) -> None:
        """It was answered, and is not to be published again; unless there is a newer one."""
        with self._lock:
            if self._documents.get(document.topic) is document:
                self._forget(document.topic)

    def failed(self, document: Document) -> None:
        """It was not taken: publish it later, if there is no newer one, which waits anyway."""
        with self._lock:
            if self._documents.get(document.topic) is document:
                self._waiting[document.topic] = None

    @property
    def waiting(self) -> bool:
        return bool(self._waiting)
