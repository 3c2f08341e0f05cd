"""The client that drives lines from within a guest, against real channels: TCP and a pseudo-terminal."""

from __future__ import annotations

import os
import pty
import socket
import threading
from collections.abc import Callable

import pytest

from tests.gpio_driver import DriveClient, DriverError


def serve(
    read: Callable[[], bytes], write: Callable[[bytes], object], answers: list[bytes]
) -> tuple[threading.Thread, list[bytes]]:
    heard: list[bytes] = []

    def run() -> None:
        for answer in answers:
            line = b""
            while not line.endswith(b"\n"):
                line += read()
            heard.append(line)
            write(answer)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread, heard


def test_over_tcp() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = DriveClient(f"tcp:127.0.0.1:{server.getsockname()[1]}")
        other, _ = server.accept()
        with other:
            thread, heard = serve(lambda: other.recv(1), other.sendall, [b"ok\n", b"ok\n", b"error no\n"])
            client.set(4, True)
            client.set(5, False)
            with pytest.raises(DriverError, match="'error no' to: set 6 1"):
                client.set(6, True)
            thread.join()
        assert heard == [b"set 4 1\n", b"set 5 0\n", b"set 6 1\n"]
        with pytest.raises((DriverError, OSError)):
            client.set(4, False)
        client.close()
        client.close()


def test_over_a_terminal() -> None:
    try:
        host, guest = pty.openpty()
    except OSError:
        pytest.skip("needs pseudo-terminals: mount devpts on /dev/pts")
    client = DriveClient(os.ttyname(guest))
    thread, heard = serve(lambda: os.read(host, 1), lambda data: os.write(host, data), [b"ok\r\n"])
    client.set(3, True)
    thread.join()
    assert heard == [b"set 3 1\n"]
    client.close()
    os.close(host)
    os.close(guest)
