"""What the kernel knows of a TCP connection: getsockopt(2) TCP_INFO, read without its owner's help."""

from __future__ import annotations

import os
import socket
import struct

from plugmeter.lifecycle.samples import TcpSample

_LAYOUT = struct.Struct("=8B24I")
"""struct tcp_info's beginning, as it has been since 2.6 (include/uapi/linux/tcp.h): only ever extended."""


def parse_tcp_info(raw: bytes) -> TcpSample | None:
    """The sample in ``raw``; None where it is too short to be one. Never raises."""
    if len(raw) < _LAYOUT.size:
        return None
    fields = _LAYOUT.unpack_from(raw)
    return TcpSample(
        state=fields[0],
        retransmits=fields[2],
        probes=fields[3],
        backoff=fields[4],
        unacked=fields[12],
        last_data_received_ms=fields[19],
        last_ack_received_ms=fields[20],
        rtt_us=fields[23],
        total_retransmits=fields[31],
    )


def read_tcp(fileno: int | None) -> TcpSample | None:
    """Of the socket with this number, which stays its owner's; None if there is none, or it is no TCP socket.

    The owner may close it at any moment: we look at a duplicate, which lives for these 10 us only.
    """
    if fileno is None:
        return None
    try:
        with socket.socket(fileno=os.dup(fileno)) as duplicate:
            raw = duplicate.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
    except OSError:  # EBADF, ENOTSOCK, EOPNOTSUPP, EMFILE: nothing is known of it
        return None
    return parse_tcp_info(raw)
