"""What the hand-off from a receive thread to the pipeline costs: our ring against the library's queues.

One thread hands over batches of messages as recvmmsg(2) leaves them, another takes them out and looks at
each. The same messages, the same notification (an eventfd, once a batch at the most) where the
candidate has none of its own. Candidates that are unbounded, or drop without counting, are measured
for comparison and may not be used.
"""

from __future__ import annotations

import contextlib
import gc
import os
import queue
import select
import statistics
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from plugmeter.witnesses.ring import MessageRing

BATCH = 64
CAPACITY = 2048
MESSAGE_BYTES = 300


class HandOff(Protocol):
    """``put`` hands a batch of ``count`` messages over; ``take`` waits, and takes out all there is."""

    def put(self, count: int) -> None: ...

    def take(self) -> int: ...


class _Doorbell:
    """An eventfd that is written only when the other side has gone to sleep over it."""

    def __init__(self) -> None:
        self._descriptor = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._poller = select.poll()
        self._poller.register(self._descriptor, select.POLLIN)
        self._rung = False

    def ring(self) -> None:
        if not self._rung:
            self._rung = True
            os.eventfd_write(self._descriptor, 1)

    def wait(self) -> None:
        self._poller.poll()
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._descriptor)
        self._rung = False

    def close(self) -> None:
        os.close(self._descriptor)


class RingHandOff:
    """What the netlink witness uses: messages stay where recvmmsg put them."""

    def __init__(self) -> None:
        self._ring = MessageRing(CAPACITY)
        self._bell = _Doorbell()

    def put(self, count: int) -> None:
        while self._ring.slots - len(self._ring) < count:
            time.sleep(0)
        self._ring.publish(count, time.monotonic_ns())
        self._bell.ring()

    def take(self) -> int:
        self._bell.wait()
        taken = 0
        while len(self._ring):
            batch = self._ring.peek(CAPACITY)
            for _t_ns, data, _length in zip(batch.stamps_ns, batch.slots, batch.lengths, strict=True):
                taken += data is not None
            self._ring.release(len(batch.lengths))
        return taken


class _Copying:
    """For the queues each message must be copied out of the receive buffer, with its time stamp."""

    def __init__(self) -> None:
        self._buffer = memoryview(bytearray(MESSAGE_BYTES))


class QueueHandOff(_Copying):
    """``queue.Queue`` with a bound: a lock and a condition for every message."""

    def __init__(self) -> None:
        super().__init__()
        self._queue: queue.Queue[tuple[int, bytes]] = queue.Queue(CAPACITY)

    def put(self, count: int) -> None:
        t_ns = time.monotonic_ns()
        for _ in range(count):
            self._queue.put((t_ns, bytes(self._buffer)))

    def take(self) -> int:
        _t_ns, data = self._queue.get()
        return 1 if data else 0


class SimpleQueueHandOff(_Copying):
    """``queue.SimpleQueue``: in C, and without any bound."""

    def __init__(self) -> None:
        super().__init__()
        self._queue: queue.SimpleQueue[tuple[int, bytes]] = queue.SimpleQueue()

    def put(self, count: int) -> None:
        t_ns = time.monotonic_ns()
        for _ in range(count):
            self._queue.put((t_ns, bytes(self._buffer)))

    def take(self) -> int:
        _t_ns, data = self._queue.get()
        return 1 if data else 0


class DequeHandOff(_Copying):
    """``collections.deque`` with a bound that is checked, and an eventfd."""

    def __init__(self) -> None:
        super().__init__()
        self._deque: deque[tuple[int, bytes]] = deque()
        self._bell = _Doorbell()

    def put(self, count: int) -> None:
        while CAPACITY - len(self._deque) < count:
            time.sleep(0)
        t_ns = time.monotonic_ns()
        append = self._deque.append
        for _ in range(count):
            append((t_ns, bytes(self._buffer)))
        self._bell.ring()

    def take(self) -> int:
        self._bell.wait()
        taken = 0
        popleft = self._deque.popleft
        for _ in range(len(self._deque)):
            _t_ns, data = popleft()
            taken += data is not None
        return taken


@dataclass(frozen=True, slots=True)
class Candidate:
    """One way to hand over. ``eligible``: bounded, and nothing is dropped without being counted."""

    name: str
    make: Callable[[], HandOff]
    eligible: bool
    price: str
    """What one pays for it, in words."""


CANDIDATES = (
    Candidate(
        "ring",
        RingHandOff,
        True,
        f"{CAPACITY} slots of 4 KiB are set aside for good, one producer and one consumer only, "
        "and a message must be read before the drain ends",
    ),
    Candidate("queue.Queue", QueueHandOff, True, "a lock, a condition and a copy for every message"),
    Candidate(
        "deque", DequeHandOff, True, "a copy and a tuple for every message; the bound is our own check"
    ),
    Candidate(
        "queue.SimpleQueue", SimpleQueueHandOff, False, "no bound: a stalled consumer costs all memory"
    ),
)


@dataclass(frozen=True, slots=True)
class HandOffResult:
    """One candidate's medians. ``ratio`` is queue.Queue's time over this one's, pair by pair."""

    name: str
    eligible: bool
    ns_per_event: float
    ratio_to_queue: float
    blocks_per_event: float
    price: str


def time_once(make: Callable[[], HandOff], events: int) -> float:
    """Hand ``events`` messages from one thread to another; wall nanoseconds for each."""
    hand_off = make()
    batches = events // BATCH

    def produce() -> None:
        for _ in range(batches):
            hand_off.put(BATCH)

    producer = threading.Thread(target=produce)
    begun_ns = time.perf_counter_ns()
    producer.start()
    taken = 0
    while taken < batches * BATCH:
        taken += hand_off.take()
    spent_ns = time.perf_counter_ns() - begun_ns
    producer.join()
    return spent_ns / taken


def blocks_per_event(make: Callable[[], HandOff]) -> float:
    """How many memory blocks each message in flight holds (sys.getallocatedblocks)."""
    hand_off = make()
    hand_off.put(BATCH)
    gc.collect()
    before = sys.getallocatedblocks()
    for _ in range(10):
        hand_off.put(BATCH)
    return max(0, sys.getallocatedblocks() - before) / (10 * BATCH)


def compare(events: int = 200_000, runs: int = 5) -> list[HandOffResult]:
    """Each candidate in turn, ``runs`` times over; medians, and ratios within each round."""
    rounds = [{c.name: time_once(c.make, events) for c in CANDIDATES} for _ in range(runs)]
    return [
        HandOffResult(
            name=c.name,
            eligible=c.eligible,
            ns_per_event=statistics.median(r[c.name] for r in rounds),
            ratio_to_queue=statistics.median(r["queue.Queue"] / r[c.name] for r in rounds),
            blocks_per_event=blocks_per_event(c.make),
            price=c.price,
        )
        for c in CANDIDATES
    ]
