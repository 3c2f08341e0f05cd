"""Storms: sticks' uevents put on the kernel's broadcast, at a density or as fast as the kernel takes them.

Every devpath of a storm carries the moment of its injection, ``/devices/plugmeter-<ns>/...``: so any
listener that prints or sees the devpath tells what it received and how late, without being asked to help.
"""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from plugmeter.errors import RigError
from plugmeter.rigs.injection import Injector
from plugmeter.rigs.numbering import Numbering
from plugmeter.rigs.stick import Stick, plug_events, pull_events

Profile: TypeAlias = Literal["sticks", "devices"]
"""sticks: all of a mass-storage stick's uevents; devices: only the usb_device's own add and remove."""

MARK = re.compile(r"/devices/plugmeter-(\d+)/")
DEVICE = re.compile(r"/devices/plugmeter-\d+/[\w:./]*/usb\d+/\d+-[\d.]+(?![\w./:-])")
"""The devpath of a storm's usb_device, and not of what lies below it."""
END_DEVPATH = "/devices/plugmeter-end"

_PREFIX = b"/devices/"
_END = f"change@{END_DEVPATH}\0ACTION=change\0DEVPATH={END_DEVPATH}\0SUBSYSTEM=plugmeter\0".encode()
_PORTS = 100
"""Ports that a storm spreads its sticks over; the next plug takes the next port."""
_ROUND = 400


@dataclass(frozen=True, slots=True)
class Storm:
    """``plugs`` plugs, each followed by its pull; ``density_per_s`` plugs a second, 0 for full speed."""

    plugs: int
    density_per_s: float = 0.0
    profile: Profile = "sticks"


@dataclass(frozen=True, slots=True)
class Emitted:
    """What a storm put on the broadcast, and how long it took."""

    uevents: int
    devices: int
    """usb_device adds and removes among them."""
    duration_s: float

    @property
    def plugs_per_s(self) -> float:
        """The density that was really had."""
        return self.devices / 2 / self.duration_s if self.duration_s else 0.0


def prepare(profile: Profile) -> list[list[tuple[bytes, bytes]]]:
    """A round of plugs and pulls in turn, each the payloads of its uevents, split where the time goes in.

    Made before the storm, so that making them is no part of it; a longer storm goes round again.
    """
    numbering = Numbering()
    prepared = []
    for number in range(_ROUND):
        attached = numbering.attach(Stick(number), f"1-{number % _PORTS + 1}")
        for events in (plug_events(attached), pull_events(attached)):
            prepared.append(
                [
                    _split(event.payload)
                    for event in events
                    if profile == "sticks" or (event.is_usb_device and event.action in ("add", "remove"))
                ]
            )
        numbering.detach(attached)
    return prepared


def _split(payload: bytes) -> tuple[bytes, bytes]:
    """The payload around the moment that goes into the devpath of its header and of its DEVPATH."""
    header, devpath, rest = payload.split(_PREFIX, 2)
    return header + b"/devices/plugmeter-%d/" + devpath + b"/devices/plugmeter-%d/", rest


def blow(storm: Storm, injector: Injector) -> Emitted:
    """Put the storm on the broadcast. A pull comes half a period after its plug."""
    events = itertools.cycle(prepare(storm.profile))
    emitted_before = injector.emitted
    begun_ns = time.monotonic_ns()
    half_ns = round(0.5e9 / storm.density_per_s) if storm.density_per_s else 0
    for number in range(2 * storm.plugs):
        if half_ns:
            _sleep_until(begun_ns + number * half_ns)
        _inject(next(events), injector)
    spent_ns = time.monotonic_ns() - begun_ns
    return Emitted(injector.emitted - emitted_before, 2 * storm.plugs, spent_ns / 1e9)


def _inject(events: Sequence[tuple[bytes, bytes]], injector: Injector) -> None:
    for head, rest in events:
        now_ns = time.monotonic_ns()
        injector.inject(head % (now_ns, now_ns) + rest)


def _sleep_until(due_ns: int) -> None:
    left_ns = due_ns - time.monotonic_ns()
    if left_ns > 0:
        time.sleep(left_ns / 1e9)


def say_end(injector: Injector) -> None:
    """Tell the listeners that the storm is over; said again until they have heard it."""
    try:
        injector.inject(_END)
    except OSError as error:
        raise RigError(f"cannot end the storm: {error}") from error
