"""Driving GPIO lines from outside, for tests: by gpiozero's mock, or by whatever holds the wires.

In a QEMU guest the host drives the lines. ``DriveClient`` speaks to it over the channel that the
environment names in PLUGMETER_GPIO_DRIVER: a path (virtio-serial port or tty) or tcp:HOST:PORT.

The protocol, one line each way: ``set LINE 0|1`` is answered with ``ok`` once the line has the level,
or with ``error WHY``.
"""

from __future__ import annotations

import os
import socket
import time
import tty
from collections.abc import Callable
from typing import Protocol

from gpiozero.pins.mock import MockFactory

DRIVER_VARIABLE = "PLUGMETER_GPIO_DRIVER"
REQUIRED_VARIABLE = "PLUGMETER_GPIO_REQUIRED"
ANSWER_S = 20.0


class DriverError(Exception):
    """The other side refused, fell silent or went away."""


class Driver(Protocol):
    """Whatever puts a level onto an input line."""

    def set(self, line: int, high: bool) -> None:
        """Return once the line has this level."""
        ...

    def close(self) -> None: ...


class MockDriver:
    """Drives the pins of a MockFactory."""

    def __init__(self, factory: MockFactory) -> None:
        self._factory = factory

    def set(self, line: int, high: bool) -> None:
        pin = self._factory.pin(line)
        if high:
            pin.drive_high()
        else:
            pin.drive_low()

    def close(self) -> None:
        pass


class DriveClient:
    """Asks the host to drive lines, over a path or tcp:HOST:PORT."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._socket: socket.socket | None = None
        if address.startswith("tcp:"):
            _, host, port = address.split(":")
            self._socket = socket.create_connection((host, int(port)), timeout=ANSWER_S)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._fd = self._socket.fileno()
        else:
            self._fd = os.open(address, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
            if os.isatty(self._fd):
                tty.setraw(self._fd)
        os.set_blocking(self._fd, False)
        self._received = b""

    def set(self, line: int, high: bool) -> None:
        self._send(f"set {line} {int(high)}\n".encode())
        answer = self._receive()
        if answer != "ok":
            raise DriverError(f"{self._address} answered {answer!r} to: set {line} {int(high)}")

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
        elif self._fd >= 0:
            os.close(self._fd)
        self._fd = -1

    def _send(self, data: bytes) -> None:
        deadline = time.monotonic() + ANSWER_S
        while data:
            try:
                data = data[os.write(self._fd, data) :]
            except BlockingIOError:
                self._pause(deadline)

    def _receive(self) -> str:
        deadline = time.monotonic() + ANSWER_S
        while b"\n" not in self._received:
            try:
                chunk = os.read(self._fd, 4096)
            except BlockingIOError:
                self._pause(deadline)
                continue
            if not chunk:
                raise DriverError(f"{self._address} closed the channel")
            self._received += chunk
        answer, _, self._received = self._received.partition(b"\n")
        return answer.decode().strip()

    def _pause(self, deadline: float) -> None:
        # Not poll(): a virtio-serial port polls POLLHUP for as long as the host is not connected.
        if time.monotonic() > deadline:
            raise DriverError(f"{self._address} did not answer within {ANSWER_S:.0f} s")
        time.sleep(0.001)


def eventually(condition: Callable[[], bool], seconds: float = 20.0) -> bool:
    """Wait for an effect that has no descriptor to wait on; False when it has not come by then."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.002)
    return True
