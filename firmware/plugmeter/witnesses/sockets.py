"""What a socket tells of its own receive queue: its size and what was dropped from it (socket(7))."""

from __future__ import annotations

import socket
import struct

SO_RCVBUFFORCE = 33
SO_MEMINFO = 55
_MEMINFO = struct.Struct("=9I")
_MEMINFO_DROPS = 8


def widen_receive_buffer(sock: socket.socket, wanted_bytes: int) -> int:
    """Ask for a receive buffer and return what the kernel gave, in its own count (twice the request).

    With CAP_NET_ADMIN in the first user namespace SO_RCVBUFFORCE gives any size; everybody else is
    held to net.core.rmem_max.
    """
    try:
        sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, wanted_bytes)
    except PermissionError:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, wanted_bytes)
    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)


def receive_drops(sock: socket.socket) -> int:
    """How many messages the kernel dropped for this socket, modulo 2**32.

    SO_MEMINFO, index SK_MEMINFO_DROPS (linux/sock_diag.h).
    """
    fields = _MEMINFO.unpack(sock.getsockopt(socket.SOL_SOCKET, SO_MEMINFO, _MEMINFO.size))
    drops: int = fields[_MEMINFO_DROPS]
    return drops
