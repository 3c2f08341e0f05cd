"""Brokers that let everybody in, and then refuse a subscription, or go."""

from __future__ import annotations

import socket
import struct
import threading
from types import TracebackType
from typing import Self

_CONNECT, _SUBSCRIBE = 1, 8
_CONNACK = bytes([0x20, 3, 0, 0, 0])
_NOT_AUTHORIZED = 0x87


class Refusing:
    """MQTT 5, as much of it as a subscription takes. Counts connections."""

    def __init__(self, word: bytes) -> None:
        """Subscriptions with ``word`` in their filters are refused."""
        self.connections = 0
        self._word = word
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._ended = False
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended = True
        with socket.create_connection(("127.0.0.1", self.port)):
            pass  # it sees that it has ended
        self._thread.join()
        self._listener.close()

    def _serve(self) -> None:
        while not self._ended:
            connection, _ = self._listener.accept()
            with connection:
                try:
                    while self._answer(connection):
                        pass
                except ConnectionError:
                    continue  # gone

    def _answer(self, connection: socket.socket) -> bool:
        """One packet. Whether there may be more."""
        head = connection.recv(1)
        if not head:
            return False
        length = shift = 0
        while True:
            (byte,) = connection.recv(1)
            length |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
        body = b""
        while len(body) < length:
            body += connection.recv(length - len(body))
        if head[0] >> 4 == _CONNECT:
            self.connections += 1
            connection.sendall(_CONNACK)
        elif head[0] >> 4 == _SUBSCRIBE:
            # For each filter one code; the filters of a step are as many as the words "plugmeter".
            code = _NOT_AUTHORIZED if self._word in body else 1
            codes = bytes([code] * body.count(b"plugmeter"))
            connection.sendall(bytes([0x90, 3 + len(codes)]) + body[:2] + b"\0" + codes)
            return self.subscribed(connection, body)
        return True

    def subscribed(self, connection: socket.socket, body: bytes) -> bool:
        """A subscription was answered. Whether there may be more packets."""
        return True


class Fleeting(Refusing):
    """Delivers messages with QoS 1 on one topic, and resets the connection when it is told ``go``."""

    def __init__(self, topic: str, messages: int) -> None:
        self.go = threading.Event()
        self.gone = threading.Event()
        self._topic = topic.encode()
        self._messages = messages
        super().__init__(b"\xff")

    def subscribed(self, connection: socket.socket, body: bytes) -> bool:
        if b"records" not in body:
            return True
        for mid in range(1, self._messages + 1):
            rest = len(self._topic).to_bytes(2, "big") + self._topic + bytes([0, mid, 0]) + b"[]"
            connection.sendall(bytes([0x32, len(rest)]) + rest)
        self.go.wait()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()
        self.gone.set()
        return False
