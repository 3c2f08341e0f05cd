"""The fixtures themselves: a broker that comes and goes, a proxy that does what it says."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.telemetry.broker import Authority, Mosquitto, eventually
from tests.telemetry.chaos import Chaos, Packets, published

CONNECT = bytes.fromhex("10 10 0004 4d515454 05 02 003c 00 0003 616263".replace(" ", ""))


class Client:
    """MQTT by hand: what a test about bytes needs."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=20)
        self._packets = Packets()
        self._ready: list[bytes] = []
        self.socket.sendall(CONNECT)
        assert self.packet()[0] == 0x20

    def packet(self) -> bytes:
        while not self._ready:
            data = self.socket.recv(4096)
            if not data:
                raise EOFError
            self._ready += self._packets.feed(data)
        return self._ready.pop(0)

    def publish(self, topic: str, mid: int, payload: bytes = b"x") -> None:
        body = struct.pack("!H", len(topic)) + topic.encode() + struct.pack("!HB", mid, 0) + payload
        self.socket.sendall(b"\x32" + bytes([len(body)]) + body)

    def subscribe(self, topic: str) -> None:
        body = struct.pack("!HBH", 1, 0, len(topic)) + topic.encode() + b"\x01"
        self.socket.sendall(b"\x82" + bytes([len(body)]) + body)
        assert self.packet()[0] == 0x90

    def received(self, count: int) -> list[bytes]:
        """The last bytes of the next PUBLISHes."""
        arrived: list[bytes] = []
        while len(arrived) < count:
            packet = self.packet()
            if published(packet) is not None:
                arrived.append(packet[-1:])
        return arrived


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    with Mosquitto(tmp_path) as broker:
        yield broker


@pytest.fixture
def chaos(broker: Mosquitto) -> Iterator[Chaos]:
    with Chaos(broker.port) as chaos:
        yield chaos


def test_forwards(chaos: Chaos) -> None:
    client = Client(chaos.port)
    client.subscribe("t/a")
    client.publish("t/a", 7)
    assert {client.packet()[0] & 0xF0, client.packet()[0] & 0xF0} == {0x30, 0x40}
    assert chaos.connections == chaos.alive == 1


def test_rewrites_reason_codes(chaos: Chaos) -> None:
    client = Client(chaos.port)
    chaos.rewrite_puback(0x97, count=1, topic="/records")
    client.publish("t/status", 1)
    client.publish("t/records", 2)
    client.publish("t/records", 3)
    codes = {}
    for _ in range(3):
        packet = client.packet()
        codes[struct.unpack_from("!H", packet, 2)[0]] = packet[4] if len(packet) > 4 else 0
    assert codes[2] == 0x97
    assert codes[1] != 0x97 and codes[3] != 0x97


def test_resets_in_the_middle_of_a_puback(chaos: Chaos) -> None:
    client = Client(chaos.port)
    chaos.reset_in_puback()
    client.publish("t", 1)
    with pytest.raises(ConnectionResetError):
        while client.socket.recv(1):
            pass
    assert chaos.done["reset_in_puback"] == 1
    Client(chaos.port).publish("t", 1)


@pytest.mark.parametrize("way", ["blackhole", "half_open"])
def test_a_silent_connection_stays_open(chaos: Chaos, broker: Mosquitto, way: str) -> None:
    client = Client(chaos.port)
    getattr(chaos, way)()
    client.publish("t", 1)
    client.socket.settimeout(0.3)
    with pytest.raises(TimeoutError):
        client.socket.recv(1)
    if way == "half_open":
        eventually(lambda: "abc" in broker.log() and "closed" in broker.log(), "the broker sees it go")
    Client(chaos.port).publish("t", 1)  # a new one works


def test_a_blackhole_for_new_ones_ends_with_heal(chaos: Chaos) -> None:
    chaos.blackhole(new_too=True)
    with socket.create_connection(("127.0.0.1", chaos.port)) as swallowed:
        swallowed.sendall(CONNECT)
        swallowed.settimeout(0.3)
        with pytest.raises(TimeoutError):
            swallowed.recv(1)
    chaos.heal()
    Client(chaos.port)


def test_refuses_and_accepts_again(chaos: Chaos) -> None:
    chaos.refuse()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", chaos.port))
    chaos.accept()
    Client(chaos.port)


def test_loses_repeats_and_swaps(chaos: Chaos) -> None:
    client = Client(chaos.port)
    client.subscribe("t/acks")
    chaos.lose_publishes("/acks")
    client.publish("t/acks", 1, b"1")
    assert client.packet()[0] == 0x40
    chaos.repeat_publishes("/acks")
    client.publish("t/acks", 2, b"2")
    assert client.received(2) == [b"2", b"2"]
    chaos.swap_publishes("/acks")
    client.publish("t/acks", 3, b"3")
    client.publish("t/acks", 4, b"4")
    assert client.received(2) == [b"4", b"3"]
    assert chaos.done == {"lose": 1, "repeat": 1, "swap": 1}


def test_the_broker_comes_back_on_its_ports(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    with Mosquitto(tmp_path, authority=authority) as broker:
        ports = broker.port, broker.tls_port, broker.mtls_port
        Client(broker.port)
        broker.restart(kill=True)
        broker.pause()
        broker.resume()
        broker.restart()
        Client(broker.port)
        assert (broker.port, broker.tls_port, broker.mtls_port) == ports
