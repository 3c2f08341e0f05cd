"""A preallocated ring of message slots that recvmmsg(2) fills in place.

One thread fills, one thread drains. The two cursors only ever grow and each is written by one side
alone, so no lock is needed: an int store is atomic under the interpreter's lock. When the ring is
full nothing is received and nothing is discarded here: the messages wait in the socket, whose own
overflow the kernel counts (sk_drops).

Why recvmmsg and not ``socket.recv_into``: one system call and one exchange of the interpreter's lock for
up to a thousand messages, with each one's sender and flags (docs/decisions/2026-11-21-receive-path.md).
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import socket
import time
from array import array
from collections.abc import Sequence
from typing import NamedTuple

_libc = ctypes.CDLL(None, use_errno=True)


class Iovec(ctypes.Structure):
    """struct iovec (bits/types/struct_iovec.h)."""

    _fields_ = (("iov_base", ctypes.c_void_p), ("iov_len", ctypes.c_size_t))


class Msghdr(ctypes.Structure):
    """struct msghdr (bits/socket.h)."""

    _fields_ = (
        ("msg_name", ctypes.c_void_p),
        ("msg_namelen", ctypes.c_uint32),
        ("msg_iov", ctypes.c_void_p),
        ("msg_iovlen", ctypes.c_size_t),
        ("msg_control", ctypes.c_void_p),
        ("msg_controllen", ctypes.c_size_t),
        ("msg_flags", ctypes.c_int),
    )


class Mmsghdr(ctypes.Structure):
    """struct mmsghdr (recvmmsg(2))."""

    _fields_ = (("msg_hdr", Msghdr), ("msg_len", ctypes.c_uint))


class _SockaddrNl(ctypes.Structure):
    """struct sockaddr_nl (linux/netlink.h)."""

    _fields_ = (
        ("nl_family", ctypes.c_ushort),
        ("nl_pad", ctypes.c_ushort),
        ("nl_pid", ctypes.c_uint32),
        ("nl_groups", ctypes.c_uint32),
    )


_libc.recvmmsg.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int, ctypes.c_void_p)
_libc.recvmmsg.restype = ctypes.c_int
_libc.mlock.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_libc.mlock.restype = ctypes.c_int

_U32_PER_HDR = ctypes.sizeof(Mmsghdr) // 4
_FLAGS_AT = (Mmsghdr.msg_hdr.offset + Msghdr.msg_flags.offset) // 4
_LEN_AT = Mmsghdr.msg_len.offset // 4
_U32_PER_NAME = ctypes.sizeof(_SockaddrNl) // 4
_PID_AT = _SockaddrNl.nl_pid.offset // 4


class Batch(NamedTuple):
    """Messages in the ring, as columns of equal length, oldest first."""

    stamps_ns: Sequence[int]
    slots: Sequence[memoryview]
    """The whole slot of each message; good until it is released."""
    lengths: Sequence[int]
    senders: Sequence[int]
    """Netlink ports; 0 is the kernel."""
    flags: Sequence[int]
    """As recvmsg(2) returns them: MSG_TRUNC where the message was longer than its slot."""


class MessageRing:
    """``slots`` messages of at most ``slot_bytes`` each.

    ``slots`` must be a power of two, so that a cursor becomes an index by a mask. A longer message
    is cut and marked ``truncated``; a uevent's environment has at most 2,048 bytes
    (include/linux/kobject.h, UEVENT_BUFFER_SIZE).
    """

    def __init__(self, slots: int = 2048, slot_bytes: int = 4096) -> None:
        if slots < 1 or slots & (slots - 1):
            raise ValueError(f"a ring has a power of two of slots, not {slots}")
        self.slots = slots
        self.slot_bytes = slot_bytes
        self._mask = slots - 1
        self._memory = mmap.mmap(-1, slots * slot_bytes)
        view = memoryview(self._memory)
        self._slot_views = [view[i * slot_bytes : (i + 1) * slot_bytes] for i in range(slots)]
        self._address = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        self._headers = (Mmsghdr * slots)()
        self._names = (_SockaddrNl * slots)()
        self._iovecs = (Iovec * slots)()
        for i in range(slots):
            self._iovecs[i].iov_base = self._address + i * slot_bytes
            self._iovecs[i].iov_len = slot_bytes
            header = self._headers[i].msg_hdr
            header.msg_name = ctypes.addressof(self._names) + i * ctypes.sizeof(_SockaddrNl)
            header.msg_namelen = ctypes.sizeof(_SockaddrNl)
            header.msg_iov = ctypes.addressof(self._iovecs) + i * ctypes.sizeof(Iovec)
            header.msg_iovlen = 1
        self._headers_at = ctypes.addressof(self._headers)
        self._header_words = memoryview(self._headers).cast("B").cast("I")
        self._name_words = memoryview(self._names).cast("B").cast("I")
        self._stamps_ns = array("Q", bytes(8 * slots))
        self.filled = 0
        """How many messages have ever been put in; written by the filling thread alone."""
        self.drained = 0
        """How many have ever been taken out; written by the draining thread alone."""

    def lock_memory(self) -> bool:
        """Keep the ring in RAM (mlock(2)); False where that is not permitted."""
        return bool(_libc.mlock(self._address, self.slots * self.slot_bytes) == 0)

    def fill(self, sock: socket.socket, most: int = 1024) -> int:
        """Receive what is there without blocking, in one system call; how many came.

        0 when nothing is there or no slot is free (tell them apart by ``full``). Raises OSError,
        ENOBUFS among them, which comes before the messages that are still queued.
        """
        at = self.filled & self._mask
        room = min(most, self.slots - at, self.slots - (self.filled - self.drained))
        if room <= 0:
            return 0
        got: int = _libc.recvmmsg(
            sock.fileno(), self._headers_at + at * ctypes.sizeof(Mmsghdr), room, socket.MSG_DONTWAIT, None
        )
        # One stamp for the batch, after it: what waited in the queue has no time of its own.
        now_ns = time.monotonic_ns()
        if got < 0:
            number = ctypes.get_errno()
            if number in (errno.EAGAIN, errno.EINTR):
                return 0
            raise OSError(number, os.strerror(number))
        self.publish(got, now_ns)
        return got

    def publish(self, count: int, t_ns: int) -> None:
        """Hand over ``count`` messages that were just written at the cursor, stamped ``t_ns``.

        They must not reach beyond the last slot. Nothing is copied and nothing allocated but the cursor.
        """
        at = self.filled & self._mask
        if count == 1:
            self._stamps_ns[at] = t_ns
        else:
            self._stamps_ns[at : at + count] = array("Q", (t_ns,)) * count
        self.filled += count

    def oldest_ns(self) -> int | None:
        """The stamp of the message that ``peek`` would give first; None where there is none."""
        return self._stamps_ns[self.drained & self._mask] if len(self) else None

    @property
    def full(self) -> bool:
        """Whether no slot is free."""
        return self.filled - self.drained >= self.slots

    def __len__(self) -> int:
        return self.filled - self.drained

    def peek(self, most: int) -> Batch:
        """The oldest messages that are there, up to ``most``, in place; ``release`` frees their slots.

        It ends at the ring's last slot, so there may be more behind it.
        """
        first = self.drained & self._mask
        last = min(first + min(most, self.filled - self.drained), self.slots)
        # Columns, taken out in C: four fields a message by index would cost as much as parsing it.
        headers = self._header_words[first * _U32_PER_HDR : last * _U32_PER_HDR]
        names = self._name_words[first * _U32_PER_NAME : last * _U32_PER_NAME]
        return Batch(
            self._stamps_ns[first:last],
            self._slot_views[first:last],
            headers[_LEN_AT::_U32_PER_HDR].tolist(),
            names[_PID_AT::_U32_PER_NAME].tolist(),
            headers[_FLAGS_AT::_U32_PER_HDR].tolist(),
        )

    def release(self, count: int) -> None:
        """The oldest ``count`` messages have been read: their slots may be filled again."""
        self.drained += count
