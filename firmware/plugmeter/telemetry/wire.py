"""The socket as paho gets it: buffered, counted, and guarded against what a broker may never send."""

from __future__ import annotations

import contextlib
import socket
import ssl
from typing import Final

MESSAGE_LIMIT_BYTES: Final = 1_048_576
"""The Maximum Packet Size that brokers are told. One that sends more is not heard further."""
_CHUNK_BYTES: Final = 65_536
_CHUNKS_AT_ONCE: Final = 16
_PUBLISH: Final = 0x30
_QOS_2: Final = 0x04


class ProtocolError(OSError):
    """The broker sends what it must not. An OSError, so that paho ends the connection."""


class Frames:
    """Follows the packets in the bytes that arrive (MQTT 5, 2.1): paho would collect 256 MiB for one.

    QoS 2, which is never subscribed to, would have paho store messages without a bound: it is refused too.
    """

    def __init__(self, limit_bytes: int = MESSAGE_LIMIT_BYTES) -> None:
        self._limit_bytes = limit_bytes
        self._skip = 0
        self._header = bytearray()

    def feed(self, data: bytes) -> None:
        """Look at the next bytes. Raises ProtocolError."""
        position = min(self._skip, len(data))
        self._skip -= position
        header = self._header
        while position < len(data):
            byte = data[position]
            position += 1
            header.append(byte)
            if len(header) == 1:
                if byte & 0xF0 == _PUBLISH and byte & _QOS_2:
                    raise ProtocolError("the broker sends with QoS 2, which was not subscribed to")
                continue
            if byte & 0x80:
                if len(header) > 4:
                    raise ProtocolError("the broker sends a packet without a length")
                continue
            length = sum((part & 0x7F) << (7 * index) for index, part in enumerate(header[1:]))
            if length > self._limit_bytes:
                raise ProtocolError(
                    f"the broker sends {length} bytes at once; {self._limit_bytes} is the most"
                )
            header.clear()
            self._skip = max(0, length - (len(data) - position))
            position += length


class Wire:
    """A connected socket. Non-blocking; raises what sockets raise, and remembers it in ``trouble``."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._is_tcp = sock.family in (socket.AF_INET, socket.AF_INET6)
        self._frames = Frames()
        self._buffer = b""
        self._position = 0
        self.received_bytes = 0
        self.sent_bytes = 0
        self.trouble: OSError | None = None
        """What ended the connection, if it was an error."""
        self.dry = True
        """The last read found nothing more."""
        self.write_waits_for_read = False
        """TLS must read before it can write: waiting until the socket can be written to would spin."""
        self.hold = False
        """``close`` only ends our side; the socket stays, to be read until the other side has closed, too."""

    def recv(self, size: int) -> bytes:
        if self._position >= len(self._buffer):
            self._fill()
        data = self._buffer[self._position : self._position + size]
        self._position += len(data)
        return data

    def _fill(self) -> None:
        self.write_waits_for_read = False
        try:
            data = self._socket.recv(_CHUNK_BYTES)
            self._acknowledge()
            self._frames.feed(data)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            self.dry = True
            raise
        except OSError as error:
            self.trouble = error
            raise
        self._buffer, self._position = data, 0
        self.received_bytes += len(data)

    def _acknowledge(self) -> None:
        """Have the kernel acknowledge at once what was read, and not up to 40 ms later: a broker with Nagle's
        algorithm (mosquitto's default) holds its next message back for so long. To be set again after each
        read (TCP_QUICKACK in tcp(7))."""
        if self._is_tcp:
            with contextlib.suppress(OSError):  # the connection has ended, which the next read tells
                self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)

    def send(self, data: bytes | bytearray) -> int:
        try:
            sent = self._socket.send(data)
        except ssl.SSLWantReadError:
            self.write_waits_for_read = True
            raise
        except (BlockingIOError, ssl.SSLWantWriteError):
            raise
        except OSError as error:
            self.trouble = error
            raise
        self.sent_bytes += sent
        return sent

    def close(self) -> None:
        if not self.hold:
            self._socket.close()
            return
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError as error:  # the other side has gone already
            self.trouble = error

    def discard(self) -> bool:
        """Read and forget, up to a bound (then it is not ``dry``); whether the other side has closed."""
        self.dry = False
        try:
            return any(not self._socket.recv(_CHUNK_BYTES) for _ in range(_CHUNKS_AT_ONCE))
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            self.dry = True
            return False
        except OSError as error:
            self.trouble = error
            return True

    def fileno(self) -> int:
        return self._socket.fileno()

    def setblocking(self, flag: bool) -> None:
        self._socket.setblocking(flag)
