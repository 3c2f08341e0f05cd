"""Messages that mean harm, for the topics that a device listens to: the same ones for the same seed."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tests.daemon.process import BASE, DEVICE

OPS = ("start-run", "stop-run", "selftest", "resync", "config", "log-level", "restart", "hwtest")
_TEXTS = (
    "", "x", "\0", "\u202e", "😀", "init", "accepted", "'; DROP TABLE commands; --", "../../etc/passwd", "+",
    "#", "A" * 70, "A" * 5_000, "NaN", "2026-11-22T10:00:00Z", "9999-99-99T99:99:99Z", DEVICE, "null",
)  # fmt: skip
_NUMBERS = (0, -1, 1, 0.5, -0.0, 2**31, 2**53 + 1, 2**63, -(2**63), 2**64, 10**400, 1e308)


@dataclass(frozen=True, slots=True)
class Shot:
    """One message."""

    topic: str
    payload: bytes
    qos: int
    retain: bool


class Hostile:
    """Makes them. ``stream`` is the device's own, which anybody at the broker can read."""

    def __init__(self, seed: int, stream: str) -> None:
        self._chance = random.Random(seed)
        self._stream = stream
        self._before: list[Shot] = []

    def shots(self, count: int) -> Iterator[Shot]:
        for _ in range(count):
            chance = self._chance
            if self._before and chance.random() < 0.15:  # duplicates and replays
                yield chance.choice(self._before)
                continue
            topic = self._topic()
            shot = Shot(topic, self._payload(topic), chance.randrange(3), chance.random() < 0.2)
            if len(self._before) < 200:
                self._before.append(shot)
            yield shot

    def _topic(self) -> str:
        chance = self._chance
        op = chance.choice((*OPS, "format-disk", "x" * 200, "ünï", " "))
        command_id = chance.choice(("a", "b", f"c{chance.randrange(400)}", "y" * 300, "é", " ", "\u2028"))
        return chance.choices(
            (f"{BASE}/acks", f"{BASE}/desired", f"{BASE}/cmd/{op}/{command_id}", "homeassistant/status"),
            (3, 2, 6, 1),
        )[0]

    def _payload(self, topic: str) -> bytes:
        chance = self._chance
        kind = chance.randrange(10)
        if kind == 0:
            return chance.randbytes(chance.choice((0, 1, 7, 300, 20_000)))
        if kind == 1:
            return chance.choice((b"[", b'{"a":')) * chance.choice((10, 40, 1_000, 100_000))
        if kind == 2:
            deep = chance.choice((15, 33, 500))
            return b"[" * deep + b"]" * deep
        if kind == 3:
            return b" " * chance.choice((17_000, 70_000, 300_000, 300_000, 1_200_000))
        if kind == 4:
            return chance.choice(
                (b"online", b"offline", b"null", b"{}", b"[]", b'"x"', b"1e999", b"NaN", b"\xef\xbb\xbf{}",
                 b'{"state":"init","state":"init"}', b'{"id":"\\ud800"}', b'{"stream":1,"ranges":[[1]]}')
            )  # fmt: skip
        document = self._document(topic)
        for _ in range(chance.randrange(1, 4)):
            self._spoil(document)
        return json.dumps(document, ensure_ascii=chance.random() < 0.5).encode("utf-8", "replace")

    def _document(self, topic: str) -> dict[str, Any]:
        chance = self._chance
        if topic.endswith("/acks"):
            stream = chance.choice((self._stream, self._stream, "00000000-0000-4000-8000-000000000000"))
            return {"stream": stream, "ranges": [[chance.randrange(1, 2_000), 2**62] for _ in range(3)]}
        if topic.endswith("/desired"):
            return {"id": chance.choice(_TEXTS[2:]), "config": {"mqtt": {"host": 7}, "nonsense": {"a": 1}}}
        parts = topic.split("/")
        expired = time.gmtime(time.time() - 3_600)
        return {
            "state": "init", "device": DEVICE, "op": parts[-2], "id": parts[-1],
            "issued": "2026-01-01T00:00:00Z", "expires": time.strftime("%Y-%m-%dT%H:%M:%SZ", expired),
            "arguments": {"rig": "injected", "level": "debug"},
        }  # fmt: skip

    def _spoil(self, document: dict[str, Any]) -> None:
        chance = self._chance
        name = chance.choice(tuple(document) or ("x",))
        way = chance.randrange(4)
        if way == 0:
            document.pop(name, None)
        elif way == 1:
            document[chance.choice(_TEXTS)] = self._value(3)
        elif name != "expires":  # what is old stays so: nothing here is to be obeyed
            document[name] = self._value(3)

    def _value(self, depth: int) -> Any:
        chance = self._chance
        kind = chance.randrange(6 if depth else 4)
        if kind == 0:
            return chance.choice(_TEXTS)
        if kind == 1:
            return chance.choice(_NUMBERS)
        if kind < 4:
            return chance.choice((None, True, False))
        if kind == 4:
            return [self._value(depth - 1) for _ in range(chance.randrange(4))]
        return {chance.choice(_TEXTS): self._value(depth - 1) for _ in range(chance.randrange(4))}
