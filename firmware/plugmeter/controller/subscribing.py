"""What is subscribed to, and in which order, so that a broker's queue is never more than full. Pure.

A broker answers a subscription with all retained messages at once. mosquitto drops what goes beyond
``max_queued_messages`` (1,000) without a word: of QoS 1 beyond our Receive Maximum, of QoS 0 beyond what the
socket takes (some megabytes). Measured with 2.0.11, 5,000 devices: of one SUBSCRIBE for all with QoS 1 1,050
messages came, kind by kind with QoS 0 all of three kinds and half of the fourth. A packet of QoS 1 that finds
1,000 packets before it is dropped as well, and then holds its place in the Receive Maximum for ever: so what
floods is asked for with QoS 0, kind by kind, before anything else.

    each kind of document, QoS 0 -> again, QoS 1, nothing retained -> commands -> what is missing -> records

What is missing where a kind came in such numbers that some may have been dropped is asked for by name, a few
at a time: of every device whose name is known, from its other documents or from before.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final

from plugmeter.telemetry.topics import Topics, every_device

DOCUMENTS: Final = ("status", "summary", "meta", "reported")
"""Small ones that tell a device's name first."""
MANY: Final = 100
"""Of fewer retained messages of one kind no broker has dropped any."""
AT_ONCE: Final = 50
"""So many topics are asked for by name at once: each has one retained message."""
MOST_NAMES: Final = 100_000
"""Of so many devices the names are kept while it subscribes; of more nothing is asked for by name."""


@dataclass(frozen=True, slots=True)
class Step:
    """One SUBSCRIBE or UNSUBSCRIBE. The next follows when it is answered and what it brought is read."""

    filters: tuple[str, ...]
    qos: int = 1
    retained: bool = True
    """Whether the retained messages are wanted."""
    away: bool = False
    """Whether it is an UNSUBSCRIBE."""
    floods: bool = False
    """Whether so much may come that even its answer is dropped."""
    needed: bool = True
    """Whether to go on is of no use where it is refused."""


class Plan:
    """Of one connection. ``heard`` with each topic that something came of, and the steps one by one."""

    def __init__(self, records: str, known: Iterable[str]) -> None:
        self._records = records
        self._names = set(islice(known, MOST_NAMES))
        self._heard: dict[str, set[str]] = {kind: set() for kind in DOCUMENTS}
        self._done = False

    def heard(self, device: str, kind: str) -> None:
        """A document came of this device."""
        if self._done or kind not in self._heard or len(self._names) >= MOST_NAMES:
            return
        self._names.add(device)
        self._heard[kind].add(device)

    def steps(self) -> Iterator[Step]:
        """To be taken one by one, each when the one before is over: later ones hang on what came."""
        every = tuple(every_device(kind) for kind in DOCUMENTS)
        for each in every:
            yield Step((each,), qos=0, floods=True)
        yield Step(every, retained=False)
        yield Step((every_device("cmd"),))
        missing = self._missing()
        for start in range(0, len(missing), AT_ONCE):
            some = missing[start : start + AT_ONCE]
            yield Step(some, needed=False)
            yield Step(some, away=True, needed=False)
        self._done = True
        self._names.clear()
        self._heard.clear()
        yield Step((self._records,))

    def _missing(self) -> tuple[str, ...]:
        topics: Sequence[tuple[str, str]] = [
            (name, kind)
            for kind, heard in self._heard.items()
            if len(heard) >= MANY
            for name in sorted(self._names - heard)
        ]
        return tuple(f"{Topics(name).base}/{kind}" for name, kind in topics)
