"""A device as the controller sees it: a real MQTT client that keeps each record until it is acknowledged."""

from __future__ import annotations

import json
import random
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from types import TracebackType

from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from plugmeter.telemetry import acks, envelope
from plugmeter.telemetry.record import StoredRecord, Tombstone
from plugmeter.telemetry.topics import Topics

RUN = "0b6f3b1e-52b4-4f7b-8f62-7f0f6f0d9a31"


def verdict(number: int, *, lost: bool = False, port: str | None = None) -> dict[str, object]:
    """A verdict's data, some 250 bytes as JSON."""
    seen = None if lost else 141_000.5 + number % 100
    return {
        "run": RUN,
        "t_ns": 81_301_000_000 + number,
        "port": port or f"1-{number % 8 + 1}",
        "ordinal": number,
        "action": "plug" if number % 2 else "pull",
        "outcome": "lost" if lost else "matched",
        "stage": "socket_queue" if lost else None,
        "enumerated": not lost,
        "latency_us": {"netlink": seen, "udev": seen, "node": seen},
    }


def stored(seq: int, kind: str, data: Mapping[str, object], time_ns: int | None = None) -> StoredRecord:
    """A record as an outbox gives it."""
    encoded = json.dumps(data, separators=(",", ":"), ensure_ascii=False).encode()
    return StoredRecord(seq, kind, encoded, time.time_ns() if time_ns is None else time_ns)


def account(
    stream: str, produced: int, acknowledged: int, tombstoned: int, oldest_pending: int
) -> dict[str, object]:
    """The outbox's part of a summary."""
    return {
        "stream": stream,
        "produced": produced,
        "acknowledged": acknowledged,
        "tombstoned": tombstoned,
        "pending": produced - acknowledged - tombstoned,
        "oldest_pending": oldest_pending,
    }


def summary(books: Mapping[str, object], run: Mapping[str, object] | None = None) -> dict[str, object]:
    return {
        "time": "2026-11-21T10:05:00.000000Z",
        "stage": "running",
        "outbox": dict(books),
        "run": run,
        "health": {"uptime_s": 301.5, "rss_bytes": 41_943_040},
    }


class Device:
    """One device with one stream. ``acknowledged`` are the numbers that the controller has told us of."""

    def __init__(self, port: int, name: str = "bench-1", stream: str | None = None) -> None:
        self.name = name
        self.stream = stream or str(uuid.uuid4())
        self.topics = Topics(name)
        self.acknowledged: set[int] = set()
        self.changed = threading.Condition()
        self._client = Client(
            CallbackAPIVersion.VERSION2,
            client_id=f"device-{name}-{random.randrange(10**9)}",
            protocol=MQTTProtocolVersion.MQTTv5,
        )
        self._client.max_inflight_messages_set(20)
        self._client.on_message = self._on_message
        subscribed = threading.Event()
        self._client.on_subscribe = lambda *_: subscribed.set()
        self._client.on_connect = self._on_connect
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()
        assert subscribed.wait(20)

    def __enter__(self) -> Device:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def _on_connect(self, *_: object) -> None:
        self._client.subscribe(self.topics.acks, qos=1)

    def _on_message(self, client: object, userdata: object, message: MQTTMessage) -> None:
        found = acks.decode(bytes(message.payload))
        if found.stream == self.stream:
            with self.changed:
                for first, last in found.ranges:
                    self.acknowledged.update(range(first, last + 1))
                self.changed.notify_all()

    def publish(self, topic: str, payload: bytes, *, retain: bool = False, qos: int = 1) -> None:
        """Returns when the broker has it."""
        self._client.publish(topic, payload, qos=qos, retain=retain).wait_for_publish(20)

    def tell(self, kind: str, document: Mapping[str, object]) -> None:
        """Publish a retained document."""
        self.publish(f"{self.topics.base}/{kind}", json.dumps(document).encode(), retain=True)

    def send(
        self, records: Sequence[StoredRecord], tombstones: Sequence[Tombstone] = (), *, wait: bool = True
    ) -> None:
        """Publish one batch."""
        payload = envelope.batch(self.stream, self.name, records, tombstones)
        info = self._client.publish(self.topics.records, payload, qos=1)
        if wait:
            info.wait_for_publish(20)

    def await_acknowledged(self, numbers: set[int], limit_s: float = 20.0) -> bool:
        """Whether all are acknowledged. The limit is for a test that hangs, and measures nothing."""
        with self.changed:
            return self.changed.wait_for(lambda: numbers <= self.acknowledged, limit_s)
