"""A small outbox in memory that behaves like the real one, and a trivial controller."""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from paho.mqtt import client as paho
from paho.mqtt.enums import CallbackAPIVersion

from plugmeter.telemetry.record import StoredRecord, Tombstone
from plugmeter.telemetry.topics import Topics

PAYLOAD = b'{"port":"1-1.4","what":"matched","fill":"' + b"x" * 250 + b'"}'


@dataclass(frozen=True, slots=True)
class MemoryBatch:
    records: tuple[StoredRecord, ...]
    tombstones: tuple[Tombstone, ...]
    last: int
    stream: str


class MemoryOutbox:
    """Numbers from 1; pending until acknowledged; ``evict`` makes tombstones."""

    def __init__(self, stream: str | None = None) -> None:
        self.stream = stream or str(uuid.uuid4())
        self.produced = 0
        self.acknowledged: set[int] = set()
        self.absurd = 0
        self.reads = 0
        self._pending: dict[int, StoredRecord] = {}
        self._tombstones: list[Tombstone] = []
        self._lock = threading.Lock()
        self._callbacks: list[Callable[[], None]] = []
        self.fail: Exception | None = None

    def produce(self, count: int, data: bytes = PAYLOAD, kind: str = "verdict") -> None:
        with self._lock:
            for _ in range(count):
                self.produced += 1
                self._pending[self.produced] = StoredRecord(self.produced, kind, data, 0)
        for callback in self._callbacks:
            callback()

    def evict(self, first: int, last: int) -> None:
        with self._lock:
            for number in range(first, last + 1):
                self._pending.pop(number, None)
            self._tombstones.append(Tombstone(first, last, 0, "full", 0))
        for callback in self._callbacks:
            callback()

    @property
    def pending(self) -> int:
        with self._lock:
            return len(self._pending) + sum(each.count for each in self._tombstones)

    def next_batch(self, after: int, most_records: int, most_bytes: int) -> MemoryBatch:
        with self._lock:
            self.reads += 1
            if self.fail is not None:
                raise self.fail
            records: list[StoredRecord] = []
            tombstones: list[Tombstone] = []
            size, last = 0, after
            stones = iter(sorted((each for each in self._tombstones if each.last > after), key=_last))
            stone = next(stones, None)
            # The numbers are dense enough: looking them up one by one keeps a long backlog cheap.
            number = after
            while number < self.produced and len(records) + len(tombstones) < most_records:
                number += 1
                if stone is not None and stone.last == number:
                    tombstones.append(stone)
                    stone = next(stones, None)
                record = self._pending.get(number)
                if record is not None:
                    if records and size + len(record.data) > most_bytes:
                        return MemoryBatch(tuple(records), tuple(tombstones), last, self.stream)
                    records.append(record)
                    size += len(record.data)
                last = number
            return MemoryBatch(tuple(records), tuple(tombstones), last, self.stream)

    def break_stream(self) -> None:
        """The database was damaged: another stream begins, from number 1."""
        with self._lock:
            self.stream = str(uuid.uuid4())
            self.produced = 0
            self.acknowledged.clear()
            self._pending.clear()
            self._tombstones.clear()

    def acknowledge(self, wanted: Sequence[tuple[int, int]], *, stream: str | None = None) -> None:
        with self._lock:
            if stream not in (None, self.stream):
                return
            for first, last in wanted:
                if first > self.produced:
                    self.absurd += 1
                for number in range(first, min(last, self.produced) + 1):
                    self.acknowledged.add(number)
                    self._pending.pop(number, None)
            self._tombstones = [
                each
                for each in self._tombstones
                if any(number not in self.acknowledged for number in range(each.first, each.last + 1))
            ]

    def on_commit(self, callback: Callable[[], None]) -> None:
        self._callbacks.append(callback)

    def off_commit(self, callback: Callable[[], None]) -> None:
        self._callbacks = [each for each in self._callbacks if each != callback]

    @property
    def listeners(self) -> int:
        return len(self._callbacks)


def _last(tombstone: Tombstone) -> int:
    return tombstone.last


def encode(
    stream: str, device: str, records: Sequence[StoredRecord], tombstones: Sequence[Tombstone]
) -> bytes:
    """A stand-in for envelope.batch: what it must hold, without CloudEvents."""
    parts = [b'{"first":%d,"last":%d,"data":%b}' % (each.seq, each.seq, each.data) for each in records]
    parts += [b'{"first":%d,"last":%d,"data":null}' % (each.first, each.last) for each in tombstones]
    return b'{"stream":"%b","events":[%b]}' % (stream.encode(), b",".join(parts))


@dataclass(frozen=True, slots=True)
class MemoryAck:
    stream: str
    ranges: tuple[tuple[int, int], ...]


def decode_ack(payload: bytes) -> MemoryAck:
    """A stand-in for acks.decode."""
    try:
        value = json.loads(payload)
        ranges = tuple((int(first), int(last)) for first, last in value["ranges"])
        return MemoryAck(str(value["stream"]), ranges)
    except (KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"no acknowledgement: {error}") from None


class TrivialController:
    """Stores what arrives and acknowledges it. Has a thread of its own; may be told to keep quiet."""

    def __init__(
        self,
        port: int,
        device: str = "bench",
        *,
        host: str = "127.0.0.1",
        username: str = "",
        password: str = "",
        ca_file: Path | None = None,
    ) -> None:
        self.topics = Topics(device)
        self.stored: dict[int, int] = {}
        self.events = 0
        self.retained: dict[str, bytes] = {}
        self.messages: list[tuple[str, bytes]] = []
        self.quiet = False
        self.ready = threading.Event()
        self._client = paho.Client(CallbackAPIVersion.VERSION2, "controller", protocol=paho.MQTTv5)
        if username:
            self._client.username_pw_set(username, password)
        if ca_file is not None:
            self._client.tls_set(str(ca_file))
        self._client.on_connect = self._on_connect
        self._client.on_subscribe = self._on_subscribe
        self._client.on_message = self._on_message
        self._client.reconnect_delay_set(1, 1)
        self._client.connect(host, port)
        self._client.loop_start()
        assert self.ready.wait(20)

    def _on_connect(self, client: paho.Client, *_: object) -> None:
        client.subscribe([(self.topics.records, 1), (f"{self.topics.base}/#", 1)])

    def _on_subscribe(self, *_: object) -> None:
        self.ready.set()

    def _on_message(self, client: paho.Client, userdata: object, message: paho.MQTTMessage) -> None:
        payload = bytes(message.payload)
        if message.topic == self.topics.records:
            value = json.loads(payload)
            ranges = [[each["first"], each["last"]] for each in value["events"]]
            self.events += len(ranges)
            for first, last in ranges:
                for number in range(first, last + 1):
                    self.stored[number] = self.stored.get(number, 0) + 1
            if not self.quiet:
                self.acknowledge(value["stream"], ranges)
        else:
            self.retained[message.topic] = payload
            self.messages.append((message.topic, payload))

    def acknowledge(self, stream: str, ranges: Sequence[Sequence[int]]) -> None:
        text = json.dumps({"stream": stream, "ranges": [[first, last] for first, last in ranges]})
        self.publish(self.topics.acks, text.encode())

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        self._client.publish(topic, payload, qos=1, retain=retain)

    def statuses(self) -> list[bytes]:
        return [payload for topic, payload in self.messages if topic == self.topics.status]

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


class Diary:
    """What the link told."""

    def __init__(self) -> None:
        self.entries: list[tuple[str, dict[str, object]]] = []

    def __call__(self, event: str, details: object) -> None:
        assert isinstance(details, dict)
        json.dumps(details)  # it must be able to become a record
        self.entries.append((event, details))

    def events(self) -> list[str]:
        return [event for event, _ in self.entries]

    def details(self, event: str) -> list[dict[str, object]]:
        return [details for name, details in self.entries if name == event]

    def says(self, text: str) -> bool:
        return any(text in str(details) or text == event for event, details in self.entries)


def monotonic_deadline_ns(seconds: float) -> int:
    return time.monotonic_ns() + int(seconds * 1e9)
