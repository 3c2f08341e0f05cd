"""The kernel's own uevents: NETLINK_KOBJECT_UEVENT, group 1, by a receive path of our own.

A thread that does nothing else moves messages from the socket to a preallocated ring; whoever polls
``fileno`` takes them out with ``read``. Whatever the kernel could not queue for us it counts
(sk_drops, by SO_MEMINFO), and that count comes back in-band as a ``Gap``.

Source: lib/kobject_uevent.c, net/netlink/af_netlink.c (netlink_overrun), netlink(7).
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import threading
import time
from dataclasses import dataclass
from typing import cast

from plugmeter.errors import PlugmeterError
from plugmeter.records import Gap, Tally, Uevent, WitnessName
from plugmeter.witnesses import uevent
from plugmeter.witnesses.ring import Batch, MessageRing
from plugmeter.witnesses.socket_queue import KERNEL_GROUP, NETLINK_KOBJECT_UEVENT, SocketQueue

KERNEL_PORT = 0

MOST_PER_READ = 512
"""Records in one ``read``: a storm must not keep the loop from its other descriptors. Few enough, too, to be
still in the processor's cache when they are used; and what is given back is used again for the next ones."""


@dataclass(frozen=True, slots=True)
class Privileges:
    """What the kernel granted of what was asked; the report says so."""

    receive_buffer_bytes: int
    """Effective, as the kernel counts it: twice the request."""
    realtime: bool
    locked: bool


class NetlinkWitness:
    """The kernel group's uevents with SEQNUM, each stamped when it was read from the socket.

    Errors: PlugmeterError where the kernel refuses the socket. In a container without its own
    network namespace the kernel's events do not arrive at all; that is not an error of the socket.
    """

    name: WitnessName = "netlink"

    def __init__(
        self,
        *,
        receive_buffer_bytes: int = 128 << 20,
        ring_slots: int = 2048,
        realtime_priority: int = 10,
        lock_memory: bool = True,
    ) -> None:
        self._ring = MessageRing(ring_slots)
        try:
            self._socket = socket.socket(
                socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_KOBJECT_UEVENT
            )
            self._socket.bind((0, KERNEL_GROUP))
        except OSError as error:
            raise PlugmeterError(
                f"witness netlink: the kernel refuses a uevent socket ({error.strerror}); "
                "set witnesses.netlink = false to measure without it"
            ) from error
        self._queue = SocketQueue(self._socket)
        effective_bytes = self._queue.grow(receive_buffer_bytes)
        self._drops = 0
        self._drops_told = 0
        self._closed = False
        self._last_clean_ns = time.monotonic_ns()
        self._ready = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._room = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._stop = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._resumed = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._paused = False
        self._announced = False
        self._starved = False
        self._failure: OSError | None = None
        self._priority = realtime_priority
        self._realtime = False
        locked = lock_memory and self._ring.lock_memory()
        started = threading.Event()
        self._thread = threading.Thread(
            target=self._receive, args=(started,), name="netlink-receive", daemon=True
        )
        self._thread.start()
        started.wait()
        self.privileges = Privileges(effective_bytes, self._realtime, locked)

    # -- the receive thread ---------------------------------------------------------------------

    def _receive(self, started: threading.Event) -> None:
        if self._priority > 0:
            with contextlib.suppress(PermissionError):
                os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(self._priority))
                self._realtime = True
        started.set()
        poller = select.poll()
        poller.register(self._socket, select.POLLIN)
        poller.register(self._stop, select.POLLIN)
        waiting = select.poll()
        waiting.register(self._room, select.POLLIN)
        waiting.register(self._stop, select.POLLIN)
        ring, sock, stop = self._ring, self._socket, self._stop
        while True:
            ready = poller.poll()
            if any(fd == stop for fd, _ in ready):
                return
            while True:
                if self._paused and not self._wait_until_resumed():
                    return
                try:
                    got = ring.fill(sock)
                except OSError as error:
                    if error.errno == errno.ENOBUFS:
                        # The overrun itself: its size is in sk_drops, which read() compares.
                        self._announce()
                        continue
                    self._failure = error
                    self._announce()
                    return
                if got:
                    self._announce()
                elif ring.full:
                    self._starved = True
                    if ring.full and any(fd == stop for fd, _ in waiting.poll()):
                        return
                    self._starved = False
                    with contextlib.suppress(BlockingIOError):
                        os.eventfd_read(self._room)
                else:
                    break

    def _wait_until_resumed(self) -> bool:
        """False where the witness is closed instead."""
        waiting = select.poll()
        waiting.register(self._resumed, select.POLLIN)
        waiting.register(self._stop, select.POLLIN)
        while self._paused:
            if any(fd == self._stop for fd, _ in waiting.poll()):
                return False
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(self._resumed)
        return True

    def _announce(self) -> None:
        # One system call for a burst, not one for a message: the flag falls only when read() begins.
        if not self._announced:
            self._announced = True
            os.eventfd_write(self._ready, 1)

    # -- the consumer ---------------------------------------------------------------------------

    def fileno(self) -> int:
        """Polls readable when ``read`` has something to return; -1 once closed."""
        return -1 if self._closed else self._ready

    def read(self) -> list[Uevent | Gap]:
        """What has been received since, at most ``MOST_PER_READ`` messages, and what was lost."""
        if not self._closed:
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(self._ready)
        # Only now: were the flag lowered first, an announcement in between would be taken away unread,
        # and the raised flag would keep back every later one.
        self._announced = False
        records: list[Uevent | Gap] = []
        while len(records) < MOST_PER_READ and len(self._ring):
            batch = self._ring.peek(MOST_PER_READ - len(records))
            records += self._parse(batch)
            self._ring.release(len(batch.lengths))
        if not self._closed:
            if self._starved:
                os.eventfd_write(self._room, 1)
            if len(self._ring):
                self._announce()
        self._tell_drops(records)
        return records

    @staticmethod
    def _parse(batch: Batch) -> list[Uevent | Gap]:
        parsed = uevent.parse_many(batch.stamps_ns, batch.slots, batch.lengths)
        if not any(batch.senders) and not any(batch.flags) and set(map(type, parsed)) == {Uevent}:
            return cast(list[Uevent | Gap], parsed)  # as nearly always; looked at in C
        records: list[Uevent | Gap] = []
        for t_ns, record, sender, flags in zip(
            batch.stamps_ns, parsed, batch.senders, batch.flags, strict=True
        ):
            if sender != KERNEL_PORT:
                records.append(Gap(t_ns, "netlink", "not_from_kernel", 1, t_ns))
            elif flags & socket.MSG_TRUNC:
                records.append(Gap(t_ns, "netlink", "truncated", 1, t_ns))
            elif isinstance(record, uevent.Malformed):
                records.append(Gap(t_ns, "netlink", f"malformed_{record.fault}", 1, t_ns))
            else:
                records.append(record)
        return records

    def _tell_drops(self, records: list[Uevent | Gap]) -> None:
        now_ns = time.monotonic_ns()
        self._count_drops()
        if self._drops != self._drops_told:
            lost = self._drops - self._drops_told
            records.append(Gap(now_ns, "netlink", "socket_queue", lost, self._last_clean_ns))
            self._drops_told = self._drops
        self._last_clean_ns = now_ns
        if self._failure is not None:
            records.append(Gap(now_ns, "netlink", f"socket_error_{self._failure.errno}", None, now_ns))
            self._failure = None

    def _count_drops(self) -> None:
        if not self._closed:
            self._drops += self._queue.new_drops()

    def held_since_ns(self) -> int | None:
        """The stamp of the oldest message in the ring."""
        return self._ring.oldest_ns()

    def tally(self) -> Tally:
        """Offered: all that was read from the socket, and all that the kernel dropped for it."""
        self._count_drops()
        pending = len(self._ring) + self._drops - self._drops_told
        return Tally(time.monotonic_ns(), "netlink", self._ring.filled + self._drops, pending)

    def pause(self) -> None:
        """Take nothing more from the socket until ``resume``: what comes fills the kernel's queue.

        A real stall, for whoever must provoke a known loss (``plugmeter selftest``). One more batch may be
        received while this returns. ``read`` goes on telling what is in the ring and what was dropped.
        """
        self._paused = True

    def resume(self) -> None:
        """Go on receiving; without a ``pause`` before, or once closed, nothing happens."""
        self._paused = False
        if not self._closed:
            os.eventfd_write(self._resumed, 1)

    def close(self) -> None:
        """Stop the thread and close the socket; what is in the ring can still be read."""
        if self._closed:
            return
        os.eventfd_write(self._stop, 1)
        self._thread.join()
        self._count_drops()
        self._closed = True
        self._socket.close()
        for descriptor in (self._ready, self._room, self._stop, self._resumed):
            os.close(descriptor)
