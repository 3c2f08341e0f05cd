"""Uevents on the broadcast as fast as the kernel takes them: many to a system call, made beforehand.

An ``Injector`` asks for an acknowledgement of each, which is right for a rig and slower than any listener
worth the name. A flood sends with sendmmsg(2) and looks for refusals afterwards: the kernel deals with
a message within the call that sends it, and answers only what it refuses (netlink_rcv_skb,
net/netlink/af_netlink.c), so when no answer has come, all of them were broadcast.
"""

from __future__ import annotations

import ctypes
import os
import socket
import struct
from collections.abc import Sequence
from types import TracebackType

from plugmeter.errors import RigError
from plugmeter.witnesses.ring import Iovec, Mmsghdr
from plugmeter.witnesses.socket_queue import NETLINK_KOBJECT_UEVENT

_HEADER = struct.Struct("=IHHII")
_MIN_TYPE = 16
_NLM_F_REQUEST = 1
_MOST_PER_CALL = 256

_libc = ctypes.CDLL(None, use_errno=True)
_libc.sendmmsg.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int)
_libc.sendmmsg.restype = ctypes.c_int


class Flood:
    """Broadcasts ``payloads`` in turn, round and round. ``emitted`` counts what went out."""

    def __init__(self, payloads: Sequence[bytes]) -> None:
        try:
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_KOBJECT_UEVENT)
            self._socket.bind((0, 0))
            self._socket.connect((0, 0))
        except OSError as error:
            raise RigError(f"cannot open a uevent socket: {error.strerror}") from error
        self.emitted = 0
        self._next = 0
        self._size = len(payloads)
        header = [_HEADER.pack(_HEADER.size + len(p), _MIN_TYPE, _NLM_F_REQUEST, 0, 0) for p in payloads]
        self._messages = [
            ctypes.create_string_buffer(h + p, len(h) + len(p)) for h, p in zip(header, payloads, strict=True)
        ]
        self._iovecs = (Iovec * self._size)()
        self._headers = (Mmsghdr * self._size)()
        for i, message in enumerate(self._messages):
            self._iovecs[i].iov_base = ctypes.addressof(message)
            self._iovecs[i].iov_len = len(message)
            self._headers[i].msg_hdr.msg_iov = ctypes.addressof(self._iovecs) + i * ctypes.sizeof(Iovec)
            self._headers[i].msg_hdr.msg_iovlen = 1

    def send(self, count: int) -> None:
        """Broadcast the next ``count`` uevents. RigError where the kernel refuses one."""
        left = count
        first = ctypes.addressof(self._headers)
        while left:
            most = min(left, self._size - self._next, _MOST_PER_CALL)
            sent = _libc.sendmmsg(self._socket.fileno(), first + self._next * ctypes.sizeof(Mmsghdr), most, 0)
            if sent < 0:
                raise RigError(f"the kernel refuses to inject uevents: {os.strerror(ctypes.get_errno())}")
            self.emitted += sent
            self._next = (self._next + sent) % self._size
            left -= sent
        self._check()

    def _check(self) -> None:
        try:
            answer = self._socket.recv(4096, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        status = struct.unpack_from("=i", answer, _HEADER.size)[0] if len(answer) >= _HEADER.size + 4 else 0
        raise RigError(f"the kernel refuses to inject uevents: {os.strerror(-status)}")

    def close(self) -> None:
        """Close the socket; a second call does nothing."""
        self._socket.close()

    def __enter__(self) -> Flood:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
