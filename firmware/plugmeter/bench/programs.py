"""The listeners that a storm is tried on: each reads uevents in its own way and counts what it got.

A program runs in a child process until it hears the storm's end. What it does for each event is the same
for all: read the devpath, count, note how late it was, spend the handler's time.
"""

from __future__ import annotations

import os
import select
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import pyudev

from plugmeter.bench.storm import END_DEVPATH, MARK
from plugmeter.errors import PlugmeterError
from plugmeter.measure.latency import LatencyHistogram
from plugmeter.measure.pipeline import Pipeline
from plugmeter.records import Gap, RunStart, Uevent
from plugmeter.witnesses import uevent
from plugmeter.witnesses.netlink import NetlinkWitness
from plugmeter.witnesses.socket_queue import KERNEL_GROUP, NETLINK_KOBJECT_UEVENT

SILENCE_S = 10.0
"""A program that hears nothing for so long gives up: its storm died."""

_LATENCY_EVERY = 16
"""Every which event's latency is taken, so that taking it does not become the measurement."""


@dataclass(slots=True)
class Heard:
    """What a listener received of a storm."""

    handler_s: float = 0.0
    uevents: int = 0
    devices: int = 0
    first_ns: int = 0
    last_ns: int = 0
    known_lost: int = 0
    """Losses that the listener itself knows of; None of the plain ones does."""
    latency: LatencyHistogram = field(default_factory=LatencyHistogram)

    def take(self, action: str, devpath: str, devtype: str) -> bool:
        """Count one event; whether the storm goes on."""
        if devpath == END_DEVPATH:
            return False
        if self.uevents % _LATENCY_EVERY == 0:
            mark = MARK.match(devpath)
            if mark is None:
                return True  # not of this storm
            self.latency.record_ns(time.monotonic_ns() - int(mark[1]))
        self.uevents += 1
        if devtype == "usb_device" and action in ("add", "remove"):
            self.devices += 1
        if self.handler_s:
            time.sleep(self.handler_s)
        return True


def _plain(heard: Heard, ready: Callable[[], None]) -> None:
    """A socket as a beginner opens it: default buffer, one recv an event, the general parser."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_KOBJECT_UEVENT) as sock:
        sock.bind((0, KERNEL_GROUP))
        sock.settimeout(SILENCE_S)
        ready()
        going = True
        while going:
            try:
                data = sock.recv(8192)
            except TimeoutError:
                return
            except OSError:
                continue  # ENOBUFS: a beginner's loop goes on; what was lost it does not know
            heard.first_ns = heard.first_ns or time.monotonic_ns()
            read = uevent.parse(data, 0)
            going = not isinstance(read, Uevent) or heard.take(read.action, read.devpath, read.devtype)
        heard.last_ns = time.monotonic_ns()


def _pyudev(heard: Heard, ready: Callable[[], None]) -> None:
    """pyudev's Monitor on the kernel's group, polled; restarted where an overflow makes it raise."""
    monitor = pyudev.Monitor.from_netlink(pyudev.Context(), source="kernel")
    monitor.start()
    ready()
    going = True
    while going:
        try:
            device = monitor.poll(SILENCE_S)
        except OSError:
            # pyudev#194. SO_ERROR takes the error away, so that polling can go on.
            with socket.socket(fileno=os.dup(monitor.fileno())) as same:
                same.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            continue
        if device is None:
            return
        heard.first_ns = heard.first_ns or time.monotonic_ns()
        going = heard.take(device.action, device.device_path, device.device_type or "")
    heard.last_ns = time.monotonic_ns()


def _witness(heard: Heard, ready: Callable[[], None]) -> None:
    """Plugmeter's netlink witness with its default settings."""
    _from_witness(heard, ready, lambda records, now_ns: None)


def _pipeline(heard: Heard, ready: Callable[[], None]) -> None:
    """The netlink witness and behind it the whole measuring part: parse to ledger."""
    now_ns = time.monotonic_ns()
    pipeline = Pipeline(
        RunStart(
            now_ns,
            "storm",
            "simulated",
            (),
            ("netlink",),
            10**8,
            3 * 10**9,
            3 * 10**10,
            10**9,
            0.001,
            0,
            "",
            "",
        )
    )

    def feed(records: list[Uevent | Gap], now_ns: int) -> None:
        pipeline.feed(records)
        pipeline.advance(now_ns)

    _from_witness(heard, ready, feed)
    pipeline.advance(time.monotonic_ns())
    delivered = pipeline.witnesses["netlink"].delivered
    if delivered < heard.uevents:
        raise PlugmeterError(f"the ledger has {delivered} of {heard.uevents} uevents")


def _from_witness(
    heard: Heard, ready: Callable[[], None], use: Callable[[list[Uevent | Gap], int], None]
) -> None:
    witness = NetlinkWitness()
    poller = select.poll()
    poller.register(witness, select.POLLIN)
    ready()
    going = True
    while going and poller.poll(SILENCE_S * 1000):
        records = witness.read()
        now_ns = time.monotonic_ns()
        heard.first_ns = heard.first_ns or now_ns
        for record in records:
            if isinstance(record, Gap):
                heard.known_lost += record.count or 0
            elif not heard.take(record.action, record.devpath, record.devtype):
                going = False
        use(records, now_ns)
    heard.last_ns = time.monotonic_ns()
    witness.close()


PROGRAMS: Mapping[str, Callable[[Heard, Callable[[], None]], None]] = {
    "plugmeter": _witness,
    "pipeline": _pipeline,
    "pyudev": _pyudev,
    "plain": _plain,
}
"""By name: the netlink witness, the witness with the whole pipeline, pyudev, a plain socket."""
