"""A session with a test at the broker's end of its connection, and what the link remembers."""

from __future__ import annotations

import socket
import struct
from collections import Counter
from dataclasses import dataclass

from plugmeter.telemetry.backoff import Backoff
from plugmeter.telemetry.breaker import Breaker
from plugmeter.telemetry.client import Opening, Session
from plugmeter.telemetry.documents import Documents
from plugmeter.telemetry.guard import Guard
from plugmeter.telemetry.keepalive import Keepalive
from plugmeter.telemetry.link_memory import Inbound, Memory, Tally
from plugmeter.telemetry.sender import Sender
from plugmeter.telemetry.topics import Topics
from plugmeter.telemetry.window import Window
from plugmeter.telemetry.wire import Wire
from tests.telemetry.outboxes import Diary, MemoryOutbox, decode_ack, encode

TOPICS = Topics("bench")
ACK_S = 30.0
CONNACK = b"\x20\x03\x00\x00\x00"
SUBSCRIBE, PINGREQ, DISCONNECT = 8, 12, 14


def least(low: float, high: float) -> float:
    """Chance for those who want none."""
    return low


def memory_of(outbox: MemoryOutbox, diary: Diary, inbox: list[Inbound]) -> Memory:
    tally = Tally(Counter(), Counter())
    window = Window(ack_timeout_s=ACK_S)
    sender = Sender(outbox, encode, TOPICS.device, window)
    outbox.on_commit(sender.committed)
    return Memory(
        source=outbox,
        window=window,
        sender=sender,
        documents=Documents(),
        keepalive=Keepalive(40.0),  # begins with 10 s
        publishing=Breaker(least, first_s=100.0),
        publish_backoff=Backoff(least, base_s=1.0),
        document_backoff=Backoff(least, base_s=5.0),
        inbox=inbox.append,
        decode_ack=decode_ack,
        guard=Guard(diary, tally.counters),
        tally=tally,
    )


@dataclass(frozen=True)
class Published:
    """A PUBLISH, as the broker sees it. ``mid`` is 0 with QoS 0."""

    topic: str
    payload: bytes
    mid: int
    retain: bool


class FarEnd:
    """The broker's end of a connection."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self._data = b""

    def packets(self) -> list[int | Published]:
        """All that has come: a PUBLISH taken apart, of the others their types."""
        try:
            while data := self.socket.recv(65_536, socket.MSG_DONTWAIT):
                self._data += data
        except BlockingIOError:
            pass
        packets = []
        while (packet := self._next()) is not None:
            packets.append(packet)
        return packets

    def published(self) -> list[Published]:
        return [each for each in self.packets() if isinstance(each, Published)]

    def _next(self) -> int | Published | None:
        length, digits = 0, 0
        for digits, byte in enumerate(self._data[1:5], 1):
            length += (byte & 0x7F) << 7 * (digits - 1)
            if byte < 0x80:
                break
        end = 1 + digits + length
        if not self._data or len(self._data) < end:
            return None
        first, body, self._data = self._data[0], self._data[1 + digits : end], self._data[end:]
        if first >> 4 != 3:
            return first >> 4
        (size,) = struct.unpack_from("!H", body)
        topic, rest, mid = body[2 : 2 + size].decode(), body[2 + size :], 0
        if first & 0x06:
            mid, rest = struct.unpack_from("!H", rest)[0], rest[2:]
        assert rest[0] == 0, "no properties"
        return Published(topic, rest[1:], mid, bool(first & 1))


class Talk:
    """A session, the broker's end of it, and the link's memory."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        self.broker = FarEnd(theirs)
        self.outbox = MemoryOutbox()
        self.diary = Diary()
        self.inbox: list[Inbound] = []
        self.memory = memory_of(self.outbox, self.diary, self.inbox)
        self.session = Session(
            Wire(ours),
            Opening(client_id="bench", keepalive_s=60, will_topic=TOPICS.status, will=b"lost"),
        )
        self.broker.packets()

    def connected(self) -> None:
        """CONNACK is read, and its event taken."""
        self.broker.socket.sendall(CONNACK)
        self.session.read()
        self.session.events.clear()

    @property
    def counters(self) -> Counter[str]:
        return self.memory.tally.counters


def publish(topic: str, payload: bytes) -> bytes:
    """A PUBLISH of a broker, with QoS 0."""
    body = struct.pack("!H", len(topic.encode())) + topic.encode() + b"\x00" + payload
    assert len(body) < 128
    return bytes([0x30, len(body)]) + body


def puback(mid: int, code: int = 0) -> bytes:
    return b"\x40\x03" + struct.pack("!HB", mid, code)


def suback(mid: int, *codes: int) -> bytes:
    return bytes([0x90, 3 + len(codes)]) + struct.pack("!HB", mid, 0) + bytes(codes)
