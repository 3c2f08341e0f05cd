"""What the hand-off from a receive thread to the pipeline costs: our ring against the library's queues.

One thread hands over batches of messages as recvmmsg(2) leaves them, another takes them out and looks at
each. The same messages, the same notification (an eventfd, once a batch at the most) where the
candidate has none of its own. Candidates that are unbounded, or drop without counting, are measured
for comparison and may not be used.

Per message the queues pay a lock and a wake-up that the ring pays once a batch; so they are there once
more with a whole batch as one item, and what is left between those and the ring is the ring's own doing.

A hand-off that is full drops nothing itself: its producer waits, does not read its socket meanwhile, and
the kernel's queue of that socket holds what comes, and counts what it has to drop (sk_drops, in
/proc/net/netlink; netlink(7)).
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
from typing import Protocol, TypeAlias

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


Message: TypeAlias = tuple[int, bytes]


class QueueHandOff(_Copying):
    """A queue of the standard library, a message at a time: ``queue.Queue`` or ``queue.SimpleQueue``."""

    def __init__(self, between: queue.Queue[Message] | queue.SimpleQueue[Message]) -> None:
        super().__init__()
        self._queue = between

    def put(self, count: int) -> None:
        t_ns = time.monotonic_ns()
        for _ in range(count):
            self._queue.put((t_ns, bytes(self._buffer)))

    def take(self) -> int:
        _t_ns, data = self._queue.get()
        return 1 if data else 0


def bounded_queue() -> QueueHandOff:
    """``queue.Queue``: a lock and a condition for every message."""
    return QueueHandOff(queue.Queue(CAPACITY))


def simple_queue() -> QueueHandOff:
    """``queue.SimpleQueue``: in C, and without any bound."""
    return QueueHandOff(queue.SimpleQueue())


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


class _Batching(_Copying):
    """A whole batch is one item; the bound is on messages, counted on either side by one writer alone."""

    def __init__(self) -> None:
        super().__init__()
        self._put = 0
        self._taken = 0

    def _make(self, count: int) -> tuple[int, list[bytes]]:
        while CAPACITY - (self._put - self._taken) < count:
            time.sleep(0)
        self._put += count
        buffer = self._buffer
        return time.monotonic_ns(), [bytes(buffer) for _ in range(count)]

    def _look(self, batch: tuple[int, list[bytes]]) -> int:
        seen = 0
        for data in batch[1]:
            seen += data is not None
        self._taken += len(batch[1])
        return seen


class QueueBatchHandOff(_Batching):
    """``queue.Queue`` of batches: a lock and a condition once a batch, a copy for every message."""

    def __init__(self) -> None:
        super().__init__()
        self._queue: queue.Queue[tuple[int, list[bytes]]] = queue.Queue()  # bounded by _make

    def put(self, count: int) -> None:
        self._queue.put(self._make(count))

    def take(self) -> int:
        return self._look(self._queue.get())


class DequeBatchHandOff(_Batching):
    """``collections.deque`` of batches, and an eventfd."""

    def __init__(self) -> None:
        super().__init__()
        self._deque: deque[tuple[int, list[bytes]]] = deque()  # bounded by _make
        self._bell = _Doorbell()

    def put(self, count: int) -> None:
        self._deque.append(self._make(count))
        self._bell.ring()

    def take(self) -> int:
        self._bell.wait()
        return sum(self._look(self._deque.popleft()) for _ in range(len(self._deque)))


WAITS = "waits; kernel counts"
"""The producer waits, and the kernel's socket queue holds the rest and counts what it drops."""
GROWS = "grows without end"


@dataclass(frozen=True, slots=True)
class Candidate:
    """One way to hand over. ``eligible``: bounded, and nothing is dropped without being counted."""

    name: str
    make: Callable[[], HandOff]
    eligible: bool
    when_full: str
    """What becomes of a message for which there is no room: ``WAITS`` or ``GROWS``."""
    price: str
    """What one pays for it, in words."""


CANDIDATES = (
    Candidate(
        "ring",
        RingHandOff,
        True,
        WAITS,
        f"{CAPACITY} slots of 4 KiB are set aside for good, one producer and one consumer only, "
        "and a message must be read before the drain ends",
    ),
    Candidate("queue.Queue", bounded_queue, True, WAITS, "a lock, a condition and a copy for every message"),
    Candidate(
        "deque", DequeHandOff, True, WAITS, "a copy and a tuple for every message; the bound is our own check"
    ),
    Candidate(
        "queue.Queue, batches",
        QueueBatchHandOff,
        True,
        WAITS,
        "a copy for every message; the bound is our own count of messages",
    ),
    Candidate(
        "deque, batches",
        DequeBatchHandOff,
        True,
        WAITS,
        "a copy for every message; the bound is our own count of messages",
    ),
    Candidate(
        "queue.SimpleQueue", simple_queue, False, GROWS, "no bound: a stalled consumer costs all memory"
    ),
)


@dataclass(frozen=True, slots=True)
class HandOffResult:
    """One candidate's medians. ``ratio_to_queue`` is queue.Queue's time over this one's, pair by pair."""

    name: str
    eligible: bool
    ns_per_event: float
    ratio_to_queue: float
    ring_ratio: float
    """This one's time over the ring's, pair by pair: above 1 the ring is faster."""
    blocks_per_event: float
    when_full: str
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
            ring_ratio=statistics.median(r[c.name] / r["ring"] for r in rounds),
            blocks_per_event=blocks_per_event(c.make),
            when_full=c.when_full,
            price=c.price,
        )
        for c in CANDIDATES
    ]
