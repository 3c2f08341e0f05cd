"""The udev witness: what udevd told its listeners, heard through pyudev.

The poll loop is our own. pyudev's ``Monitor.poll`` raises on POLLERR, and its observer thread dies
of that (pyudev#194); here an overflow is cleared, counted by the socket's own drop counter, and
reported as a ``Gap``.

What one record is: one message that libudev made a device of, or refused as malformed (a Gap with
count 1). What libudev ignores without telling is no record and not offered: messages whose magic is
wrong, whose sender is not uid 0, or that came to us alone and not to the group. Such a message is
seen only as a wake-up that brought nothing; ``ignored`` counts these, a lower bound, since newer
versions of libudev skip several at once. If the kernel drops such a message it is in ``sk_drops``
like any other and is counted as lost: nobody can tell.
"""

from __future__ import annotations

import errno
import select
import socket
import time
from collections.abc import Mapping
from typing import Any

import pyudev

from plugmeter.errors import PlugmeterError
from plugmeter.records import Gap, Tally, Uevent, WitnessName
from plugmeter.witnesses.socket_queue import NETLINK_KOBJECT_UEVENT, SocketQueue

_SOL_NETLINK = 270
_NETLINK_ADD_MEMBERSHIP = 1
_UDEV_GROUP = 2

_READ_LIMIT = 4096
"""Wake-ups answered in one ``read``: it must come back even if others send faster than we read."""


class UdevWitness:
    """Hears udevd's rebroadcast (group 2 of NETLINK_KOBJECT_UEVENT) of this network namespace.

    ``receive_buffer_bytes`` is what is asked for; the attribute of that name is what was had, as the
    kernel accounts it: twice the request, or twice net.core.rmem_max for an ordinary user.

    ``udevd_expected``: False where somebody else than udevd sends on its group (a rig in a namespace):
    then the group is joined on a system without udevd, too.

    Raises PlugmeterError where libudev is missing or would never hear anything.
    """

    def __init__(self, receive_buffer_bytes: int = 128 * 1024 * 1024, *, udevd_expected: bool = True) -> None:
        self.ignored = 0
        self._received = 0
        self._dropped = 0
        self._untold = 0
        self._intact_ns = time.monotonic_ns()
        try:
            self._monitor: Any = pyudev.Monitor.from_netlink(pyudev.Context(), source="udev")
        except ImportError as error:
            raise PlugmeterError("libudev.so.1 is not there: install the package libudev1") from error
        except OSError as error:
            raise PlugmeterError(f"cannot listen to udevd: {error}") from error
        # A second descriptor of the same socket, for the options that pyudev does not know.
        self._socket = socket.fromfd(
            self._monitor.fileno(), socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_KOBJECT_UEVENT
        )
        self._poller = select.poll()
        self._poller.register(self._socket, select.POLLIN)
        self._queue = SocketQueue(self._socket)
        self.receive_buffer_bytes: int = self._queue.grow(receive_buffer_bytes)
        try:
            self._monitor.start()
        except OSError as error:
            self.close()
            raise PlugmeterError(f"cannot listen to udevd: {error}") from error
        _, groups = self._socket.getsockname()
        if groups == 0 and not udevd_expected:
            self._socket.setsockopt(_SOL_NETLINK, _NETLINK_ADD_MEMBERSHIP, _UDEV_GROUP)
        elif groups == 0:
            # libudev binds to no group at all, silently, where it thinks that no udevd can be.
            self.close()
            raise PlugmeterError(
                "libudev hears nothing here, since /run/udev/control is missing and /dev is no devtmpfs "
                "(a container?): run systemd-udevd, or leave the witness udev out"
            )

    @property
    def name(self) -> WitnessName:
        """Always ``udev``."""
        return "udev"

    def fileno(self) -> int:
        """The socket; it polls POLLIN, and POLLERR after an overflow. -1 once closed."""
        return self._socket.fileno()

    def read(self) -> list[Uevent | Gap]:
        """What udevd sent since the last call, at most a few thousand records; poll again for more.

        A Gap's ``since_ns`` is the last moment at which the drop counter was seen not to have moved.
        """
        records: list[Uevent | Gap] = []
        if self.fileno() >= 0:
            self._receive(records)
        self._tell_drops(records)
        return records

    def held_since_ns(self) -> int | None:
        """None: records are stamped in ``read``."""
        return None

    def tally(self) -> Tally:
        """offered = received + dropped by the kernel; pending = drops not yet told by a Gap.

        What waits in the kernel's queue is in neither: a netlink socket tells its bytes, not its
        messages. Read until dry, then the account is complete.
        """
        if self.fileno() >= 0:
            self._count_drops()
        return Tally(
            t_ns=time.monotonic_ns(),
            witness="udev",
            offered=self._received + self._dropped,
            pending=self._untold,
        )

    def close(self) -> None:
        """Close the socket. Drops that were not told yet still come out of ``read``."""
        if self.fileno() < 0:
            return
        self._count_drops()
        self._socket.close()
        self._monitor = None  # libudev closes its own descriptor with the last reference

    def _receive(self, records: list[Uevent | Gap]) -> None:
        woken = False
        for _ in range(_READ_LIMIT):
            ready = self._poller.poll(0)
            if not ready:
                break
            woken = True
            if ready[0][1] & select.POLLERR:
                self._overflowed(records)
            else:
                self._receive_one(records)
        if woken:
            # Somebody else may have taken the ENOBUFS (SO_ERROR tells it once): ask the counter.
            self._count_drops()

    def _receive_one(self, records: list[Uevent | Gap]) -> None:
        try:
            device = self._monitor.poll(0)
        except ValueError:
            # EINVAL: too long for libudev, or without DEVPATH, SUBSYSTEM, ACTION or SEQNUM.
            self._malformed(records)
            return
        except OSError as error:
            if error.errno in (None, errno.ENOBUFS):
                # The overflow came after our poll: pyudev's own poll raises, without an errno.
                self._overflowed(records)
            else:
                self._malformed(records)
            return
        if device is None:
            self.ignored += 1
            return
        event = uevent(device.properties, time.monotonic_ns())
        if event is None:
            self._malformed(records)
            return
        self._received += 1
        records.append(event)

    def _malformed(self, records: list[Uevent | Gap]) -> None:
        self._received += 1
        records.append(self._gap("malformed", 1))

    def _overflowed(self, records: list[Uevent | Gap]) -> None:
        self._queue.clear_error()
        self._count_drops()
        self._tell_drops(records)

    def _count_drops(self) -> None:
        count = self._queue.new_drops()
        self._dropped += count
        self._untold += count
        if count and not self._poller.poll(0):
            # Whoever took the ENOBUFS may have left the latch behind: nothing would wake us again.
            self._queue.release()
        if not self._untold:
            self._intact_ns = time.monotonic_ns()

    def _tell_drops(self, records: list[Uevent | Gap]) -> None:
        if self._untold:
            records.append(self._gap("socket_queue", self._untold))
            self._untold = 0
            self._intact_ns = records[-1].t_ns

    def _gap(self, cause: str, count: int) -> Gap:
        return Gap(
            t_ns=time.monotonic_ns(), witness="udev", cause=cause, count=count, since_ns=self._intact_ns
        )


def uevent(properties: Mapping[str, str], t_ns: int) -> Uevent | None:
    """A udev event from a device's properties; None if it is not one.

    SEQNUM, ACTION, DEVPATH and SUBSYSTEM must be there and be text; DEVTYPE and DEVNAME may be.
    """
    try:
        return Uevent(
            t_ns=t_ns,
            witness="udev",
            seqnum=int(properties["SEQNUM"]),
            action=properties["ACTION"],
            devpath=properties["DEVPATH"],
            subsystem=properties["SUBSYSTEM"],
            devtype=properties.get("DEVTYPE", ""),
            devname=properties.get("DEVNAME", "").removeprefix("/dev/"),
        )
    except (KeyError, ValueError):  # UnicodeDecodeError is a ValueError
        return None
