"""The kernel's receive queue of a netlink socket: how much it holds, and what it dropped.

ENOBUFS tells *that* something was dropped, once, to whoever asks first. The drop counter of the
socket (``sk_drops``) tells how much, whoever asks and however often: it is what we count by.

After an overrun the kernel drops everything for this socket until a receive call leaves the queue
empty (net/netlink/af_netlink.c: NETLINK_S_CONGESTED, netlink_overrun, netlink_rcv_wake). The sender
may set that latch just after the reader emptied the queue. ENOBUFS then is all there is to wake the
reader; one who takes it with SO_ERROR and, finding the queue empty, receives nothing, is deaf for
ever, without a further error. So whoever takes the error must also call ``release``.
"""

from __future__ import annotations

import errno
import socket
import struct

NETLINK_KOBJECT_UEVENT = 15
"""linux/netlink.h: the protocol of uevents."""
KERNEL_GROUP = 1
"""The multicast group of the kernel's uevents; udevd's is 2."""

# asm-generic/socket.h; the same on x86-64, arm64, armhf and riscv64.
_SO_RCVBUFFORCE = 33
_SO_MEMINFO = 55

# linux/sock_diag.h: SK_MEMINFO_VARS values of 32 bits, SK_MEMINFO_DROPS the last of them.
_MEMINFO = struct.Struct("=9I")
_MEMINFO_DROPS = 8

_MODULUS = 2**32


class SocketQueue:
    """The receive queue of ``sock``, which stays the caller's to close."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._seen = self._read_drops()

    def grow(self, size_bytes: int) -> int:
        """Ask for a buffer of ``size_bytes`` and return what the kernel now accounts, in bytes.

        With CAP_NET_ADMIN over the initial user namespace any size is had (SO_RCVBUFFORCE), else up to
        net.core.rmem_max. The kernel doubles the request, to make room for its own bookkeeping
        (socket(7)); the effective figure is the doubled one.
        """
        request = max(1, min(size_bytes, 2**30 - 1))
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, request)
        except PermissionError:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, request)
        return self.size_bytes

    @property
    def size_bytes(self) -> int:
        """The effective size: twice what was granted, as SO_RCVBUF reads back."""
        return self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)

    def clear_error(self) -> int:
        """Take the socket's pending error, ENOBUFS or 0, and release the latch behind it."""
        error = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        self.release()
        return error

    def release(self) -> None:
        """Let an empty queue take messages again; one that holds some is left as it is.

        Looking at the first message (MSG_PEEK) is a receive call that takes nothing away. It may find
        an ENOBUFS that is newer still: taking that releases the latch as well.
        """
        try:
            self._socket.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.ENOBUFS):
                raise

    def new_drops(self) -> int:
        """How many messages the kernel dropped since the last call, exact below 2**32."""
        before, self._seen = self._seen, self._read_drops()
        return (self._seen - before) % _MODULUS

    def _read_drops(self) -> int:
        raw = self._socket.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, _MEMINFO.size)
        drops: int = _MEMINFO.unpack(raw)[_MEMINFO_DROPS]
        return drops
