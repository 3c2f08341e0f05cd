"""Connecting without blocking: a real socket, and nobody who answers."""

from __future__ import annotations

import selectors
import socket
import time

import pytest

from plugmeter.telemetry.connector import Connector
from plugmeter.telemetry.failures import LinkError


def drive(connector: Connector) -> socket.socket:
    with selectors.DefaultSelector() as selector:
        while True:
            selector.register(connector.fileno(), connector.events)
            selector.select(max(0.0, connector.deadline_s - time.monotonic()))
            selector.unregister(connector.fileno())
            connected = connector.advance(time.monotonic())
            if connected is not None:
                return connected


def connector(host: str, port: int, timeout_s: float = 10.0) -> Connector:
    return Connector(host, port, None, time.monotonic(), timeout_s=timeout_s, user_timeout_s=7.0)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_connects(host: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        subject = connector(host, server.getsockname()[1])
        connected = drive(subject)
        assert subject.address == "127.0.0.1"
        assert connected.getsockopt(socket.IPPROTO_TCP, 18) == 7_000, "TCP_USER_TIMEOUT"
        assert connected.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        connected.close()


def test_the_next_address_is_tried() -> None:
    """localhost is ::1 as well as 127.0.0.1 on most machines; only the second has somebody."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        drive(connector("localhost", server.getsockname()[1])).close()


def test_nobody_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(LinkError) as caught:
        drive(connector("127.0.0.1", port))
    assert caught.value.failure.cause == "tcp"
    assert "refused" in caught.value.failure.text


def test_nobody_answers() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as server:
        address = server.getsockname()
        fillers = []
        for _ in range(8):  # once the queue is full, the kernel drops further SYNs
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(address)
            fillers.append(filler)
        subject = connector(address[0], address[1], timeout_s=1.0)
        with pytest.raises(LinkError) as caught:
            drive(subject)
        assert caught.value.failure.cause == "timeout"
        for filler in fillers:
            filler.close()


@pytest.mark.parametrize("host", ["no-such-host.invalid", "a" * 64, "a..b"])
def test_no_such_name(host: str) -> None:
    with pytest.raises(LinkError) as caught:
        drive(connector(host, 1883))
    assert caught.value.failure.cause == "dns"


def test_a_lookup_that_goes_on_is_taken_over() -> None:
    first = connector("localhost", 9)
    lookup = first.close()
    assert lookup is not None
    second = Connector("localhost", 9, None, time.monotonic(), timeout_s=5, user_timeout_s=5, lookup=lookup)
    assert second.lookup is lookup
    with pytest.raises(LinkError):
        drive(second)
