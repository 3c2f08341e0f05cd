"""Uevents in, enumerations out: the one event in a dozen that says "a device came" or "a device went".

A stick that is plugged makes the kernel emit uevents for the device, its interfaces, the SCSI host, the
disk and more. Only the one with SUBSYSTEM=usb and DEVTYPE=usb_device is counted, once for each plug.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

from plugmeter.records import Uevent, WitnessName

PORT_NAME = re.compile(r"[1-9][0-9]*-[1-9][0-9]*(?:\.[1-9][0-9]*)*")
"""A USB device's sysname, busnum-port[.port...] (usb_alloc_dev, drivers/usb/core/usb.c), not usb1."""


class Enumeration(NamedTuple):
    """A ``usb_device`` was added to (or removed from) ``port``, as ``witness`` heard it at ``t_ns``.

    A named tuple since it is on the hot path, as ``records.Uevent`` is.
    """

    port: str
    added: bool
    t_ns: int
    seqnum: int
    witness: WitnessName


_new = tuple.__new__  # Enumeration(...) itself is a call in Python, and takes twice as long


@lru_cache(maxsize=4096)
def device_port(devpath: str) -> str | None:
    """The port of a USB device's own devpath (its last component), None for a root hub and anything else."""
    name = devpath.rpartition("/")[2]
    return name if PORT_NAME.fullmatch(name) else None


def enumeration_of(uevent: Uevent) -> Enumeration | None:
    """The enumeration that this uevent is, or None. On the hot path: the test that fails most comes first."""
    if uevent.devtype != "usb_device" or uevent.subsystem != "usb":
        return None
    action = uevent.action
    if action == "add":
        added = True
    elif action == "remove":
        added = False
    else:
        return None
    port = device_port(uevent.devpath)
    if port is None:
        return None
    return _new(Enumeration, (port, added, uevent.t_ns, uevent.seqnum, uevent.witness))
