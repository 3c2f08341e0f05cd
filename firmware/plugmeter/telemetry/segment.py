"""A segment: records with neighbouring numbers, packed and compressed into one value (pure).

One row for many records is what makes the outbox cheap: a record in a row of its own costs a page of the
log when it is written and another when it is deleted; and each row that is read gives the interpreter's
lock away, so that a busy thread beside it can slow reading down to 200 rows a second.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, NamedTuple

from plugmeter.telemetry import ranges
from plugmeter.telemetry.ranges import Ranges

MOST_RECORDS: Final = 256
MOST_BYTES: Final = 65_536
"""A segment's records and data; one record may be larger."""

_LEVEL: Final = 1
_PLAIN_LIMIT_BYTES: Final = 4_194_304
"""No segment is longer when it is unpacked: a damaged one must not eat the memory."""
_HEAD_DIGITS: Final = 8


class SegmentDamaged(ValueError):
    """These bytes are no segment; the text says why."""


class Entry(NamedTuple):
    """One record in a segment."""

    seq: int
    rank: int
    kind: str
    time_ns: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Span:
    """What is known of a segment without unpacking it: its numbers ``first`` .. ``last``, all but ``gone``
    of which are pending, and a bit for each rank that may be among them."""

    first: int
    last: int
    live: int
    ranks: int
    gone: Ranges

    @property
    def living(self) -> Ranges:
        """The numbers that are pending."""
        return ranges.subtract(((self.first, self.last),), self.gone)


def pack(entries: Sequence[Entry]) -> bytes:
    """The entries, ascending by number. A head with a line for each, and all data behind it; zlib's checksum
    (Adler-32) finds most of what a disk may do to it."""
    head = "\n".join([f"{e.seq} {e.rank} {e.time_ns} {len(e.data)} {e.kind}" for e in entries]).encode()
    return zlib.compress(b"".join([b"%08d" % len(head), head, *[e.data for e in entries]]), _LEVEL)


def unpack(body: bytes) -> list[Entry]:
    """The opposite of ``pack``. Raises SegmentDamaged, and nothing else, for any other bytes."""
    unpacker = zlib.decompressobj()
    try:
        plain = unpacker.decompress(body, _PLAIN_LIMIT_BYTES)
    except zlib.error as error:
        raise SegmentDamaged(f"a segment cannot be unpacked: {error}") from None
    if not unpacker.eof or unpacker.unused_data:
        raise SegmentDamaged("a segment is too long or cut off")
    entries = []
    try:
        at = _HEAD_DIGITS + int(plain[:_HEAD_DIGITS])
        for line in plain[_HEAD_DIGITS:at].decode().split("\n"):
            seq, rank, time_ns, length, kind = line.split(" ", 4)
            end = at + int(length)
            entries.append(Entry(int(seq), int(rank), kind, int(time_ns), plain[at:end]))
            at = end
    except ValueError:
        raise SegmentDamaged("a segment's head makes no sense") from None
    if at != len(plain) or any(left.seq >= right.seq for left, right in pairwise(entries)):
        raise SegmentDamaged("a segment's head does not fit its data")
    return entries


def mask(ranks: Iterable[int]) -> int:
    """A bit for each rank."""
    found = 0
    for rank in ranks:
        found |= 1 << rank
    return found


def gone_text(gone: Ranges) -> str:
    """Ranges as the database has them: 3-5,7-7."""
    return ",".join(f"{first}-{last}" for first, last in gone)


def parse_gone(text: str) -> Ranges:
    """The opposite of ``gone_text``. Raises SegmentDamaged."""
    if not text:
        return ()
    try:
        pairs = [(int(first), int(last)) for first, last in (part.split("-") for part in text.split(","))]
    except ValueError:
        raise SegmentDamaged(f"{text[:40]!r} are no ranges") from None
    found = ranges.normalise(pairs)
    if list(found) != pairs:
        raise SegmentDamaged(f"{text[:40]!r} are no ranges in order")
    return found
