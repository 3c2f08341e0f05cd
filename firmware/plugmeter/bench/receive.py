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

from plugmeter.rigs.injection import Injector
from plugmeter.witnesses.netlink import KERNEL_GROUP, NETLINK_KOBJECT_UEVENT
from plugmeter.witnesses.ring import MessageRing
from plugmeter.witnesses.socket_queue import SocketQueue

_DEVPATH = "/devices/plugmeter/usb1/1-1"
_PAYLOAD = (f"add@{_DEVPATH}\0ACTION=add\0DEVPATH={_DEVPATH}\0SUBSYSTEM=usb\0DEVTYPE=usb_device\0").encode()
_MOST_EVENTS = 50_000
_TRUESIZE_BYTES = 1280
"""What the kernel charges for one such message (measure/needs.py)."""
_WORK = 30_000


@dataclass(frozen=True, slots=True)
class ReceiveResult:
    """Medians: microseconds for a message when nothing else runs, and beside the computing thread."""

    way: str
    events: int
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


def compare(runs: int = 5) -> list[ReceiveResult]:
    """Each way in turn, alone and beside the computing thread, ``runs`` times over; medians.

    Call it in a namespace where ``Injector`` works. The backlog is as large as the receive buffer that
    this user may have.
    """
    rounds = []
    for _ in range(runs):
        rounds.append({(way, work): _time(way, work) for way in WAYS for work in (0, _WORK)})
    return [
        ReceiveResult(
            way,
            rounds[0][way, 0][0],
            statistics.median(each[way, 0][1] for each in rounds),
            statistics.median(each[way, _WORK][1] for each in rounds),
            statistics.median(each["recv_into", _WORK][1] / each[way, _WORK][1] for each in rounds),
        )
        for way in WAYS
    ]


def _time(way: str, work: int) -> tuple[int, float]:
    """How many messages, and microseconds for each until they are read and the work is done."""
    with (
        socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_KOBJECT_UEVENT) as sock,
        Injector() as injector,
    ):
        sock.bind((0, KERNEL_GROUP))
        room = SocketQueue(sock).grow(_MOST_EVENTS * _TRUESIZE_BYTES) // _TRUESIZE_BYTES
        events = min(_MOST_EVENTS, room)
        for _ in range(events):
            injector.inject(_PAYLOAD)
        reader = threading.Thread(target=WAYS[way](sock), args=(events,))
        begun_ns = time.perf_counter_ns()
        reader.start()
        for _ in range(work):
            sum(range(100))
        reader.join()
        return events, (time.perf_counter_ns() - begun_ns) / events / 1e3
