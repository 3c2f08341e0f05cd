"""Two ways to empty a netlink socket beside a busy thread: recvmmsg into the ring, and recv_into.

A backlog waits in the socket's queue; one thread reads it while another does a fixed amount of computing,
as the pipeline does. Timed is until both are done: what the reading takes of the interpreter's lock, it
takes from the pipeline. No parsing, and a time stamp for each message either way.
"""

from __future__ import annotations

import socket
import statistics
import threading
import time
from array import array
from collections.abc import Callable
from dataclasses import dataclass

from plugmeter.errors import RigError
from plugmeter.measure.needs import truesize_bytes
from plugmeter.rigs.injection import Injector
from plugmeter.witnesses.ring import MessageRing
from plugmeter.witnesses.socket_queue import KERNEL_GROUP, NETLINK_KOBJECT_UEVENT, SocketQueue

_DEVPATH = "/devices/plugmeter/usb1/1-1"
_PAYLOAD = (f"add@{_DEVPATH}\0ACTION=add\0DEVPATH={_DEVPATH}\0SUBSYSTEM=usb\0DEVTYPE=usb_device\0").encode()
_CHARGED_BYTES = truesize_bytes(16 + len(_PAYLOAD) + 28)
"""With its netlink header, and SEQNUM of up to 20 digits."""

EVENTS = 50_000
WORK = 30_000
"""Turns of the computing thread, a microsecond or so each."""


@dataclass(frozen=True, slots=True)
class ReceiveResult:
    """Medians: microseconds for a message when nothing else runs, and beside the computing thread."""

    way: str
    events: int
    """The smallest backlog that there was."""
    alone_us: float
    beside_us: float
    ratio_to_recv_into: float
    """recv_into's time over this one's, beside the computing thread, pair by pair."""


def by_recvmmsg(sock: socket.socket) -> Callable[[int], None]:
    """As the netlink witness does."""
    ring = MessageRing()

    def read(count: int) -> None:
        while count > 0:
            count -= ring.fill(sock)
            ring.release(len(ring))

    return read


def by_recv_into(sock: socket.socket) -> Callable[[int], None]:
    """As most programs do: a call a message."""
    buffer = bytearray(4096)
    stamps_ns = array("Q", bytes(8 * 2048))

    def read(count: int) -> None:
        for number in range(count):
            sock.recv_into(buffer)
            stamps_ns[number & 2047] = time.monotonic_ns()

    return read


WAYS = {"recvmmsg": by_recvmmsg, "recv_into": by_recv_into}


def compare(runs: int = 5, events: int = EVENTS) -> list[ReceiveResult]:
    """Each way in turn, alone and beside the computing thread, ``runs`` times over; medians.

    Call it in a namespace where ``Injector`` works. The backlog is ``events``, or as many as the receive
    buffer holds that this user may have. Raises RigError where uevents cannot be injected
    or read.
    """
    rounds = [
        {(way, work): _time(way, work, events) for way in WAYS for work in (0, WORK)} for _ in range(runs)
    ]
    return [
        ReceiveResult(
            way,
            min(each[way, work][0] for each in rounds for work in (0, WORK)),
            statistics.median(each[way, 0][1] for each in rounds),
            statistics.median(each[way, WORK][1] for each in rounds),
            statistics.median(each["recv_into", WORK][1] / each[way, WORK][1] for each in rounds),
        )
        for way in WAYS
    ]


def _time(way: str, work: int, most: int) -> tuple[int, float]:
    """How many messages, and microseconds for each until they are read and the work is done."""
    failures: list[OSError] = []
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_KOBJECT_UEVENT) as sock:
        sock.bind((0, KERNEL_GROUP))
        events = fill(sock, most)
        read = WAYS[way](sock)

        def empty() -> None:
            try:
                read(events)
            except OSError as error:
                failures.append(error)

        reader = threading.Thread(target=empty)
        begun_ns = time.perf_counter_ns()
        reader.start()
        for _ in range(work):
            sum(range(100))
        reader.join()
        spent_ns = time.perf_counter_ns() - begun_ns
    if failures:
        raise RigError(f"the backlog could not be read by {way}: {failures[0].strerror}") from failures[0]
    return events, spent_ns / events / 1e3


def fill(sock: socket.socket, most: int) -> int:
    """Have ``most`` messages wait in the socket, or as many as its buffer holds; how many surely do."""
    queue = SocketQueue(sock)
    room = queue.grow(most * _CHARGED_BYTES) // _CHARGED_BYTES
    events = max(1, min(most, room))
    with Injector() as injector:
        for _ in range(events):
            injector.inject(_PAYLOAD)
    # Another kernel may charge more for a message. A reader must neither wait for one that was dropped, nor
    # meet the error that tells of it.
    dropped = queue.new_drops()
    if dropped:
        queue.clear_error()
    return events - dropped
