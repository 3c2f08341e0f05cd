"""How large and how old an outbox may become, and how often it commits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from plugmeter.telemetry.record import DATA_LIMIT_BYTES

_LARGEST_WAL_BYTES: Final = 16_777_216
_LARGEST_TRANSACTION_BYTES: Final = 8_388_608
_MOST_TOMBSTONES: Final = 10_000
_TOMBSTONES_PART: Final = 20
_TOMBSTONE_BYTES: Final = 64
"""In the database, with the part of a page that is left empty; rather more."""
_SLACK_BYTES: Final = 2 * DATA_LIMIT_BYTES + 65_536
"""The largest record is added, to the log and to the pages, before others make room for it."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of an outbox. ``max_bytes``: 1 MiB at the least."""

    max_bytes: int
    """Of the database and its log on disk."""
    max_age_ns: int
    """Of a record, while the device is on (see ``age``); 0 keeps them."""
    commit_interval_s: float
    """What a kill or a power cut costs: records wait at most this long for their commit."""

    @property
    def wal_bytes(self) -> int:
        """How large the log grows before it is copied back. The larger, the more of what is acknowledged
        soon is never copied at all."""
        return min(_LARGEST_WAL_BYTES, self.max_bytes // 16)

    @property
    def transaction_bytes(self) -> int:
        """Of the data of one commit, or one record."""
        return min(_LARGEST_TRANSACTION_BYTES, self.wal_bytes)

    @property
    def most_tombstones(self) -> int:
        """Beyond so many, a twentieth of the pages, they are joined; see ``change``."""
        return min(_MOST_TOMBSTONES, self.data_bytes // _TOMBSTONES_PART // _TOMBSTONE_BYTES)

    @property
    def data_bytes(self) -> int:
        """Of the database's pages that are in use. The log may have twice its size for a moment: a commit
        is added before it is copied back."""
        return max(65_536, self.max_bytes - 2 * self.wal_bytes - _SLACK_BYTES)
