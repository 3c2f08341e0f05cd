"""What goes into the outbox: drafts without an identity; what comes out: records that have one.

The identity of a record is (stream, sequence number). The stream is a UUID that the outbox makes with
its database; the sequence numbers of a stream count from 1 without a hole. A number whose record had to
go is told of by a tombstone, which is never dropped itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from types import MappingProxyType
from typing import Final


class Rank(IntEnum):
    """How much a record matters: where there is room for some only, the lowest rank's oldest go first."""

    RAW = 0
    """Edges, uevents and all else that verdicts are made of."""
    DIARY = 1
    """What the daemon did: signals, transitions, the link, health."""
    VERDICT = 2
    """What became of an episode; gaps."""
    RESULT = 3
    """A run's start and its report, with the certificate; what commands did; a stream's beginning."""


RANKS: Final[Mapping[str, Rank]] = MappingProxyType(
    {
        "raw": Rank.RAW,
        "health": Rank.DIARY,
        "signal": Rank.DIARY,
        "transition": Rank.DIARY,
        "diagnosis": Rank.DIARY,
        "link": Rank.DIARY,
        "start": Rank.DIARY,
        "verdict": Rank.VERDICT,
        "gap": Rank.VERDICT,
        "run-started": Rank.RESULT,
        "run-ended": Rank.RESULT,
        "command": Rank.RESULT,
        "config": Rank.RESULT,
        "stream": Rank.RESULT,
    }
)
"""Every kind of record there is, and its rank. Each has a JSON Schema of its name."""

DATA_LIMIT_BYTES: Final = 262_144
"""No record's data is larger as JSON: a broker may refuse the message."""


@dataclass(frozen=True, slots=True)
class Draft:
    """A record that is not in the outbox yet. ``data`` is one JSON object, encoded (UTF-8).

    ``time_ns`` is wall time, nanoseconds since 1970 (time.time_ns), for people: nothing is ordered by it.
    """

    kind: str
    data: bytes
    time_ns: int

    @property
    def rank(self) -> Rank:
        return RANKS[self.kind]


@dataclass(frozen=True, slots=True)
class StoredRecord:
    """A record in the outbox: a draft with its number in the stream."""

    seq: int
    kind: str
    data: bytes
    time_ns: int


@dataclass(frozen=True, slots=True)
class Tombstone:
    """The records ``first`` .. ``last`` (inclusive, all of them) of a stream are gone, for ``reason``.

    Reasons: full, age, intake_full, too_large. ``time_ns`` is when (wall time).
    """

    first: int
    last: int
    rank: int
    reason: str
    time_ns: int

    @property
    def count(self) -> int:
        return self.last - self.first + 1


@dataclass(frozen=True, slots=True)
class Account:
    """An outbox's books: produced = acknowledged + tombstoned + pending, or something is wrong with it.

    ``oldest_pending`` is the lowest number that is not acknowledged and has no tombstone; ``produced`` + 1
    where there is none. Below it the controller must have all that has no tombstone.
    ``unannounced`` counts the tombstones' numbers that the controller has not acknowledged yet; where very
    many had to be joined (see ``tombstones``), also numbers between them that it has acknowledged.
    """

    stream: str
    produced: int
    acknowledged: int
    tombstoned: int
    pending: int
    oldest_pending: int
    unannounced: int
    bytes: int
    """Of the database and its log on disk."""

    @property
    def adds_up(self) -> bool:
        return self.produced == self.acknowledged + self.tombstoned + self.pending
