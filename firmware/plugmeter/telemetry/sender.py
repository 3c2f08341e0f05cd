"""Which records go next: reads the outbox, forwards and what is due again, and makes messages of it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from plugmeter.telemetry import ranges
from plugmeter.telemetry.ranges import Ranges
from plugmeter.telemetry.record import StoredRecord, Tombstone
from plugmeter.telemetry.window import Window

MOST_RECORDS: Final = 100
MOST_BYTES: Final = 65_536
_LEAST_BYTES: Final = 4_096
_PASSED_OVER_AT_ONCE: Final = 16
_UNSENDABLE_RANGES: Final = 1_000

Encode = Callable[[str, str, Sequence[StoredRecord], Sequence[Tombstone]], bytes]
"""(stream, device, records, tombstones) as one message: envelope.batch."""


class Batch(Protocol):
    """What the outbox gives: things with a number > ``after``, ascending."""

    @property
    def records(self) -> tuple[StoredRecord, ...]: ...
    @property
    def tombstones(self) -> tuple[Tombstone, ...]: ...
    @property
    def last(self) -> int: ...
    @property
    def stream(self) -> str:
        """Whose numbers these are: a damaged outbox begins a new stream, at any moment."""
        ...


class Source(Protocol):
    """What the link needs of the outbox (outbox.Outbox)."""

    @property
    def stream(self) -> str: ...
    def next_batch(self, after: int, most_records: int, most_bytes: int) -> Batch: ...
    def acknowledge(self, wanted: Sequence[tuple[int, int]], *, stream: str | None = None) -> None: ...
    def on_commit(self, callback: Callable[[], None]) -> None: ...
    def off_commit(self, callback: Callable[[], None]) -> None: ...


@dataclass(frozen=True, slots=True)
class Parcel:
    """A message with records, ready to go."""

    payload: bytes
    ranges: Ranges
    count: int
    """Records in it, without the tombstones."""
    again: int
    """How many of these were sent before."""
    since_s: float | None
    """When its numbers were first sent; None if it is not known, or now."""


class Sender:
    """The records' way out of the outbox. Its owner's thread calls it, but for ``committed``."""

    def __init__(self, source: Source, encode: Encode, device: str, window: Window) -> None:
        self._source = source
        self._encode = encode
        self._device = device
        self._window = window
        self.stream = source.stream
        """Of what is under way. The outbox may have another one already: the next read tells."""
        self._cursor = 0
        self.highest = 0
        """Above this number of ``stream`` nothing was ever sent by this process."""
        self._fresh = threading.Event()
        self._most_bytes = MOST_BYTES
        self._message_limit = 0
        self.unsendable: list[int] = []
        """Numbers of records that are larger than what the broker takes, each once; the owner tells and
        clears them."""
        self._passed_over: Ranges = ()
        """Those that were among them: they stay in the outbox, and are met again at each rewind."""
        self._passed_over_now = 0

    def connected(self, receive_maximum: int, message_bytes: int) -> None:
        """Begin with the oldest that is pending. No payload is to be longer than ``message_bytes``."""
        self._window.open(receive_maximum)
        self._message_limit = message_bytes
        self.rewind()

    def rewind(self) -> None:
        """Read from the oldest again. For when nothing is under way: what is then pending was overlooked."""
        self._cursor = 0
        self._fresh.set()

    def committed(self) -> None:
        """There is something new in the outbox. Any thread."""
        self._fresh.set()

    def progressed(self) -> None:
        """The broker took a message: the next may be larger again."""
        self._most_bytes = min(MOST_BYTES, self._most_bytes * 2)

    def silence(self) -> None:
        """A connection went dead: perhaps it is so slow that smaller messages get through."""
        self._most_bytes = max(_LEAST_BYTES, self._most_bytes // 2)

    def next(self) -> Parcel | None:
        """The next message, if the window has room and there is something to send.

        The caller publishes it and tells the window (``Window.sent``). Raises what the outbox raises. None
        also after some that fit into no message: a broker that takes hardly anything must not keep us here
        for a whole backlog. So ask again soon, in any case.
        """
        self._passed_over_now = 0
        while self._window.room and self._passed_over_now < _PASSED_OVER_AT_ONCE:
            due = self._window.take_due()
            if due is not None:
                try:
                    parcel = self._again(*due)
                except BaseException:  # the outbox cannot be read: not forgotten, but tried again
                    self._window.still_due(*due)
                    raise
            elif self._fresh.is_set():
                parcel = self._forwards()
            else:
                return None
            if parcel is not None:
                return parcel
        return None

    def _forwards(self) -> Parcel | None:
        self._fresh.clear()  # before the read: a commit during it must not get lost
        try:
            batch = self._source.next_batch(self._cursor, MOST_RECORDS, self._most_bytes)
        except BaseException:
            self._fresh.set()
            raise
        if self._is_another(batch):
            return None
        if not batch.records and not batch.tombstones:
            return None
        self._fresh.set()
        items = _in_order(batch.records, batch.tombstones)
        parcel, taken = self._message(batch.stream, items, None)
        self._cursor = batch.last if taken == len(items) else _number(items[taken - 1])
        return parcel

    def _again(self, numbers: Ranges, since_s: float) -> Parcel | None:
        batch = self._source.next_batch(numbers[0][0] - 1, MOST_RECORDS, self._most_bytes)
        if self._is_another(batch):
            return None
        items = [
            each for each in _in_order(batch.records, batch.tombstones) if _first(each) <= numbers[-1][1]
        ]
        if not items:  # all acknowledged meanwhile
            return None
        parcel, taken = self._message(batch.stream, items, since_s)
        rest = ranges.subtract(numbers, ((0, _number(items[taken - 1])),))
        if rest:
            self._window.still_due(rest, since_s)
        return parcel

    def _is_another(self, batch: Batch) -> bool:
        """Whether it is of a new stream: then nothing of the old one is under way any more, and the new one
        is read from its beginning (this batch was asked for by the old one's numbers)."""
        if batch.stream == self.stream:
            return False
        self.stream = batch.stream
        self.highest = 0
        self._passed_over = ()
        self._window.clear()
        self.rewind()
        return True

    def _message(
        self, stream: str, items: Sequence[StoredRecord | Tombstone], since_s: float | None
    ) -> tuple[Parcel | None, int]:
        """As many of ``items`` as one message takes, and how many; no message for one that never fits."""
        taken = len(items)
        while True:
            records = [each for each in items[:taken] if isinstance(each, StoredRecord)]
            tombstones = [each for each in items[:taken] if isinstance(each, Tombstone)]
            payload = self._encoded(stream, records, tombstones)
            if payload is not None and len(payload) <= self._message_limit:
                break
            if taken == 1:
                self._pass_over(_number(items[0]))
                return None, 1
            taken //= 2
        again = sum(record.seq <= self.highest for record in records)
        self.highest = max(self.highest, _number(items[taken - 1]))
        numbers = ranges.normalise((_first(each), _number(each)) for each in items[:taken])
        return Parcel(payload, numbers, len(records), again, since_s), taken

    def _pass_over(self, number: int) -> None:
        self._passed_over_now += 1
        known = ranges.merge(self._passed_over, ((number, number),))
        if known == self._passed_over:
            return
        self.unsendable.append(number)
        if len(known) > _UNSENDABLE_RANGES:  # a gap is taken for told: rather one too few than many twice
            known = ((known[0][0], known[1][1]), *known[2:])
        self._passed_over = known

    def _encoded(
        self, stream: str, records: Sequence[StoredRecord], tombstones: Sequence[Tombstone]
    ) -> bytes | None:
        try:
            return self._encode(stream, self._device, records, tombstones)
        except ValueError:  # more than one message may hold: fewer, then; a single one is unsendable
            return None


def _in_order(
    records: Sequence[StoredRecord], tombstones: Sequence[Tombstone]
) -> list[StoredRecord | Tombstone]:
    if not tombstones:
        return list(records)
    return sorted((*records, *tombstones), key=_number)


def _number(item: StoredRecord | Tombstone) -> int:
    return item.seq if isinstance(item, StoredRecord) else item.last


def _first(item: StoredRecord | Tombstone) -> int:
    return item.seq if isinstance(item, StoredRecord) else item.first
