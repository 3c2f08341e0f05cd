"""What we use of paho beyond its public interface is still there, and does what it did."""

from __future__ import annotations

import socket
import struct

from plugmeter.telemetry.client import (
    Answered,
    Arrived,
    Connected,
    Ended,
    Opening,
    Refused,
    Session,
    Subscribed,
)
from plugmeter.telemetry.wire import Wire


class Pair:
    """A session and the broker's end of its connection."""

    def __init__(self, **opening: object) -> None:
        ours, self.broker = socket.socketpair()
        ours.setblocking(False)
        self.broker.settimeout(10)
        self.session = Session(
            Wire(ours),
            Opening(client_id="bench", keepalive_s=60, will_topic="t/status", will=b"lost", **opening),  # type: ignore[arg-type]  # of a test's table
        )
        self.connect = self.broker.recv(4096)

    def says(self, data: bytes) -> list[object]:
        self.broker.sendall(data)
        self.session.read()
        events = list(self.session.events)
        self.session.events.clear()
        return list(events)


def test_connect_is_clean_without_a_session_and_with_a_will() -> None:
    pair = Pair(username="user", password=b"\xff\x00pass")
    flags = pair.connect[9]
    assert flags & 0x02, "clean start"
    assert flags & 0x04 and flags >> 3 & 3 == 1 and flags & 0x20, "a will: QoS 1, retained"
    assert pair.connect.endswith(b"\x00\x04user\x00\x06\xff\x00pass")
    assert b"\x11\x00\x00\x00\x00" in pair.connect, "session expiry 0"
    assert b"t/status\x00\x04lost" in pair.connect


def test_the_password_is_not_shown() -> None:
    assert "secret" not in repr(Opening("c", 60, "t", b"", "user", b"secret"))


def test_connack_gives_the_limits() -> None:
    properties = b"\x21" + struct.pack("!H", 7) + b"\x27" + struct.pack("!I", 2_000) + b"\x13\x00\x0a"
    pair = Pair()
    packet = b"\x20" + bytes([3 + len(properties)]) + b"\x00\x00" + bytes([len(properties)]) + properties
    assert pair.says(packet) == [Connected(7, 2_000, 10.0)]
    assert Pair().says(b"\x20\x03\x00\x00\x00") == [Connected(65_535, 268_435_455, None)]


def test_connack_that_refuses() -> None:
    assert pair_refused(0x87) == [Refused(0x87)]


def pair_refused(code: int) -> list[object]:
    return [each for each in Pair().says(bytes([0x20, 3, 0, code, 0])) if not isinstance(each, Ended)]


def test_publish_ping_and_the_answers() -> None:
    pair = Pair()
    pair.says(b"\x20\x03\x00\x00\x00")
    mid = pair.session.publish("a/b", b"payload", retain=True)
    assert mid is not None
    sent = pair.broker.recv(4096)
    assert sent[0] == 0x33 and sent.endswith(b"payload")
    assert pair.says(b"\x40\x03" + struct.pack("!H", mid) + b"\x97") == [Answered(mid, 0x97)]
    assert pair.says(b"\x40\x02" + struct.pack("!H", mid)) == []  # nobody asked
    subscription = pair.session.subscribe(["a/#"])
    assert subscription is not None and pair.broker.recv(4096)[0] == 0x82
    assert pair.says(b"\x90\x04" + struct.pack("!H", subscription) + b"\x00\x87") == [
        Subscribed(subscription, (0x87,))
    ]
    pair.session.ping()
    assert pair.broker.recv(4096) == b"\xc0\x00"


def test_more_than_twenty_messages_are_not_held_back_by_paho() -> None:
    pair = Pair()
    pair.says(b"\x20\x03\x00\x00\x00")
    mids = [pair.session.publish("t", b"x", retain=False) for _ in range(30)]
    assert None not in mids
    sent = b""
    while sent.count(b"\x32") < 30:
        sent += pair.broker.recv(4096)


def test_messages_also_with_topics_that_are_none() -> None:
    pair = Pair()
    pair.says(b"\x20\x03\x00\x00\x00")
    assert pair.says(b"\x31\x05\x00\x01t\x00x") == [Arrived("t", b"x", True)]
    assert pair.says(b"\x30\x06\x00\x02\xff\xfe\x00x") == [Arrived(None, b"x", False)]


def test_the_end() -> None:
    pair = Pair()
    assert pair.says(b"\x20\x03\x00\x00\x00\xe0\x01\x8e")[1:] == [Ended(0x8E)]
    assert pair.session.over
    pair = Pair()
    pair.broker.close()
    pair.session.read()
    assert list(pair.session.events) == [Ended(None)] and pair.session.over


def test_does_not_read_on_from_one_who_does_not_read_our_answers() -> None:
    pair = Pair()
    pair.says(b"\x20\x03\x00\x00\x00")
    pair.broker.setblocking(False)
    pair.session.wire._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4_096)
    message = b"\x32\x07\x00\x01t\x00\x01\x00x"
    for _ in range(3_000):
        try:
            pair.broker.send(message * 100)
        except BlockingIOError:
            pass
        if not pair.session.wants_read:
            break
        pair.session.read()
        pair.session.events.clear()
    assert not pair.session.wants_read
    assert pair.session.wants_write
