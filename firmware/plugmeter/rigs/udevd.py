"""A stand-in for udevd: does for injected devices what udevd does for real ones.

It hears the kernel's group, touches the device's node, and tells udev's group in libudev's own format,
so that the real libudev (and pyudev) receives it. No rules, no database.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import threading
import time
from pathlib import Path

from plugmeter.errors import RigError
from plugmeter.witnesses.socket_queue import KERNEL_GROUP, NETLINK_KOBJECT_UEVENT, SocketQueue
from plugmeter.witnesses.udev_message import encode_udev_message

UDEV_GROUP = 2
"""The multicast group on which udevd tells what it has handled."""

_BUFFER_BYTES = 128 << 20  # what udevd asks for (systemd: src/udev/udev-manager.c)
_LONGEST_BYTES = 8192
_NODE_MODE = 0o660
_NEEDED = ("ACTION", "DEVPATH", "SUBSYSTEM", "SEQNUM")


class UdevdStandIn:
    """A thread between the kernel's group and udev's.

    ``dev`` is the directory that stands for /dev. With ``drop_every`` = n > 0 every n-th uevent is
    thrown away on purpose, for tests whose loss must be known. It hears from its making on; the thread
    runs between ``start`` and ``stop``. What it received is accounted: ``received`` = ``broadcast`` +
    ``malformed`` + ``withheld`` once stopped; what the kernel dropped before it is ``drops``.
    """

    def __init__(self, dev: Path, *, receive_bytes: int = _BUFFER_BYTES, drop_every: int = 0) -> None:
        self._dev = dev
        self._drop_every = drop_every
        self.received = 0
        self.broadcast = 0
        self.malformed = 0
        self.withheld = 0
        self.foreign = 0
        """Messages from somebody else than the kernel; udevd ignores those."""
        self.nodes_gone = 0
        """Nodes that were deleted before they could be touched: the stick was pulled."""
        self.failure: str | None = None
        self._drops = 0
        try:
            self._socket = socket.socket(
                socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, NETLINK_KOBJECT_UEVENT
            )
            self._queue = SocketQueue(self._socket)
            self._queue.grow(receive_bytes)
            self._socket.bind((0, KERNEL_GROUP))
            self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        except OSError as error:
            raise RigError(
                f"the stand-in for udevd cannot open its uevent socket: {error.strerror}"
            ) from error
        self._thread = threading.Thread(target=self._run, name="udevd-stand-in", daemon=True)
        self._closed = False

    @property
    def drops(self) -> int:
        """Uevents that the kernel dropped since this socket's queue was full."""
        if not self._closed:
            self._drops += self._queue.new_drops()
        return self._drops

    def start(self) -> None:
        """Begin to hand on; once only."""
        self._thread.start()

    def stop(self) -> None:
        """Hand on what has been received up to now, and end; a second call does nothing."""
        if self._thread.is_alive():
            os.eventfd_write(self._wake, 1)
            self._thread.join()

    def close(self) -> None:
        """Stop, and close the socket; a second call does nothing."""
        if self._closed:
            return
        self.stop()
        self._drops = self.drops
        self._closed = True
        self._socket.close()
        os.close(self._wake)

    def _run(self) -> None:
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        poll.register(self._wake, select.POLLIN)
        try:
            stopping = False
            while not stopping:
                stopping = any(fd == self._wake for fd, _ in poll.poll())
                self._drain()
        except OSError as error:
            self.failure = f"the stand-in for udevd died: {error}"

    def _drain(self) -> None:
        while True:
            try:
                message, sender = self._socket.recvfrom(_LONGEST_BYTES)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                continue  # an overrun, told once; how much is lost is in ``drops``
            if sender != (0, KERNEL_GROUP):
                self.foreign += 1
                continue
            self.received += 1
            if self._drop_every and self.received % self._drop_every == 0:
                self.withheld += 1
                continue
            self._handle(message)

    def _handle(self, message: bytes) -> None:
        properties = parse(message)
        if not all(properties.get(key) for key in _NEEDED):
            self.malformed += 1
            return
        node = properties.get("DEVNAME")
        if node:
            properties["DEVNAME"] = f"/dev/{node}"  # udevd tells whole paths, the kernel relative ones
            if properties["ACTION"] in ("add", "change"):
                self._touch(node)
        properties["USEC_INITIALIZED"] = str(time.monotonic_ns() // 1000)
        try:
            encoded = encode_udev_message(properties)
        except ValueError:
            self.malformed += 1
            return
        self._socket.sendto(encoded, (0, UDEV_GROUP))
        self.broadcast += 1

    def _touch(self, node: str) -> None:
        """Set the node's permissions as udevd's rules do, which inotify shows as IN_ATTRIB."""
        try:
            (self._dev / node).chmod(_NODE_MODE)
        except FileNotFoundError:
            self.nodes_gone += 1


def parse(message: bytes) -> dict[str, str]:
    """The variables of a kernel uevent: the least that a listener does. Of duplicates the last counts."""
    _, *fields = message.decode("utf-8", "replace").split("\0")
    return {key: value for key, equals, value in (field.partition("=") for field in fields) if equals and key}
