"""The control: a second listener, by a path of its own, that shows what the witnesses should have seen.

It shares no code with the witnesses: a plain socket on both groups of NETLINK_KOBJECT_UEVENT, read by a
thread that does nothing else, and messages split at their NULs. Its buffer is as large as it may be, and if
that was ever too small (ENOBUFS, netlink(7)), it says so and proves nothing.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import threading
from dataclasses import dataclass
from types import TracebackType

from plugmeter.errors import PlugmeterError

_NETLINK_KOBJECT_UEVENT = 15
_KERNEL_GROUP = 1
_UDEV_GROUP = 2
_SO_RCVBUFFORCE = 33
_BUFFER_BYTES = 128 << 20
_LONGEST_BYTES = 16384
_UDEV_HEADER_BYTES = 40
"""udevd's header before the properties (systemd: src/libsystemd/sd-device/device-monitor.c)."""


@dataclass(frozen=True, slots=True)
class Told:
    """One uevent of the kernel's group; ``port`` is empty unless a usb_device was added or removed."""

    seqnum: int
    port: str = ""
    plugged: bool = False


class Control:
    """Listens from its making until ``stop``; what it heard is complete only where ``overruns`` is 0."""

    def __init__(self) -> None:
        self.kernel: list[Told] = []
        """The kernel's group, in its order."""
        self.udev: set[int] = set()
        """SEQNUMs of udevd's group."""
        self.overruns = 0
        try:
            self._socket = socket.socket(
                socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, _NETLINK_KOBJECT_UEVENT
            )
            try:
                self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER_BYTES)
            except PermissionError:
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)
            self._socket.bind((0, _KERNEL_GROUP | _UDEV_GROUP))
        except OSError as error:
            raise PlugmeterError(f"the control cannot listen to uevents: {error.strerror}") from error
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._thread = threading.Thread(target=self._run, name="control", daemon=True)
        self._thread.start()
        self._stopped = False

    def stop(self) -> None:
        """Take what has come up to now, and end; a second call does nothing."""
        if self._stopped:
            return
        self._stopped = True
        os.eventfd_write(self._wake, 1)
        self._thread.join()
        self._socket.close()
        os.close(self._wake)

    def __enter__(self) -> Control:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _run(self) -> None:
        poller = select.poll()
        poller.register(self._socket, select.POLLIN)
        poller.register(self._wake, select.POLLIN)
        stopping = False
        while not stopping:
            stopping = any(fd == self._wake for fd, _ in poller.poll())
            self._take_all()

    def _take_all(self) -> None:
        while True:
            try:
                message, (sender, group) = self._socket.recvfrom(_LONGEST_BYTES)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                self.overruns += 1
                continue
            if group == _KERNEL_GROUP and sender == 0:
                self.kernel.append(told(message))
            elif group == _UDEV_GROUP:
                self.udev.add(told(message[_UDEV_HEADER_BYTES:]).seqnum)


def told(message: bytes) -> Told:
    """What a message says; SEQNUM 0 where it has none. Total: anybody may send to udevd's group."""
    fields = dict(field.partition(b"=")[::2] for field in message.split(b"\0"))
    digits = fields.get(b"SEQNUM", b"")
    seqnum = int(digits) if digits.isdigit() and len(digits) <= 20 else 0
    action = fields.get(b"ACTION")
    if fields.get(b"DEVTYPE") != b"usb_device" or action not in (b"add", b"remove"):
        return Told(seqnum)
    port = fields.get(b"DEVPATH", b"").rpartition(b"/")[2].decode("ascii", "replace")
    return Told(seqnum, port, action == b"add")
