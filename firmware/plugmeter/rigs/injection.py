"""Puts uevents on the kernel's own broadcast.

A message to port 0 of NETLINK_KOBJECT_UEVENT comes out on group 1 as if the kernel had made it, with
its SEQNUM (lib/kobject_uevent.c, uevent_net_rcv_skb). That takes CAP_SYS_ADMIN over the owner of the
network namespace: see ``namespace``. Only the standard library here, so that it runs anywhere.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from types import TracebackType

from plugmeter.errors import RigError
from plugmeter.witnesses.socket_queue import NETLINK_KOBJECT_UEVENT

LONGEST_PAYLOAD_BYTES = 2048 - 16 - 28
"""UEVENT_BUFFER_SIZE less the netlink header and room for ``SEQNUM=`` and 20 digits."""

_HEADER = struct.Struct("=IHHII")
_ERROR = struct.Struct("=i")
_MIN_TYPE = 16
_NLMSG_ERROR = 2
_NLM_F_REQUEST = 1
_NLM_F_ACK = 4


class Injector:
    """A socket that injects uevents into the network namespace it was opened in.

    ``emitted`` counts those that the kernel has acknowledged: each was offered to every listener.
    Not for use by two threads at once.
    """

    def __init__(self) -> None:
        try:
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_KOBJECT_UEVENT)
            self._socket.bind((0, 0))
        except OSError as error:
            raise RigError(f"cannot open a uevent socket: {error.strerror}") from error
        self._answer = bytearray(_HEADER.size + _ERROR.size)
        self._sequence = 0
        self.emitted = 0

    def inject(self, payload: bytes) -> None:
        """Broadcast one uevent, ``ACTION@DEVPATH`` and variables, each ended by NUL, without SEQNUM.

        One message a datagram: the kernel copies the whole of it, so several would come out as one.
        Raises RigError when the kernel refuses it.
        """
        self._sequence = self._sequence % 0xFFFF_FFFF + 1
        header = _HEADER.pack(
            _HEADER.size + len(payload), _MIN_TYPE, _NLM_F_REQUEST | _NLM_F_ACK, self._sequence, 0
        )
        try:
            self._socket.sendto(header + payload, (0, 0))
            status = self._acknowledgement()
        except OSError as error:
            raise RigError(_refusal(error.errno, len(payload))) from error
        if status:
            raise RigError(_refusal(status, len(payload)))
        self.emitted += 1

    def _acknowledgement(self) -> int:
        """The errno of the kernel's answer, which is there when sendto returns (netlink_rcv_skb)."""
        while True:
            size = self._socket.recv_into(self._answer, 0, socket.MSG_DONTWAIT)
            if size < len(self._answer):
                continue
            _, kind, _, sequence, _ = _HEADER.unpack_from(self._answer)
            if kind == _NLMSG_ERROR and sequence == self._sequence:
                status: int = _ERROR.unpack_from(self._answer, _HEADER.size)[0]
                return -status

    def close(self) -> None:
        """Close the socket; a second call does nothing."""
        self._socket.close()

    def __enter__(self) -> Injector:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _refusal(number: int | None, size_bytes: int) -> str:
    if number in (errno.EPERM, errno.EACCES):
        return (
            "the kernel does not let this process inject uevents: it needs CAP_SYS_ADMIN over its network "
            "namespace; run with sudo, or where user namespaces are allowed"
        )
    if number == errno.ECONNREFUSED:
        return "the kernel takes no uevents in this network namespace: it needs Linux 4.18 or newer"
    if number == errno.EINVAL and size_bytes > LONGEST_PAYLOAD_BYTES:
        return (
            f"the kernel refuses a uevent of {size_bytes} bytes: its buffer has room "
            f"for {LONGEST_PAYLOAD_BYTES}"
        )
    if number == errno.EAGAIN:
        return "the kernel did not acknowledge an injected uevent: it needs Linux 4.18 or newer"
    return f"the kernel refuses to inject a uevent: {os.strerror(number or 0)}"
