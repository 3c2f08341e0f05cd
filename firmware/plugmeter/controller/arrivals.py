"""What arrived: messages sorted by device and checked, ready for one transaction. Pure.

Everything here comes from a network and is hostile until it has passed. What does not pass is counted
at its device with the reason, and the rest of its message is kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

import msgspec

from plugmeter.telemetry import envelope, schemas, strictjson
from plugmeter.telemetry.topics import parse

KEPT_PROBLEMS: Final = 20
"""Of the problems of one device in one transaction so many are kept in words; all are counted."""

DOCUMENTS: Final = frozenset({"status", "meta", "summary", "reported"})

_EPOCH_2020_MS: Final = 1_577_836_800_000
_AHEAD_MS: Final = 3_600_000


@dataclass(frozen=True, slots=True)
class Arrival:
    """One record, with the number that its device gave it. ``data`` is text, JSON of one object as a rule."""

    seq: int
    kind: str
    time_ms: int
    data: str
    time: str = ""
    """As its device wrote it: ``time_ms`` may be a clock of ours instead."""


@dataclass(frozen=True, slots=True)
class Burial:
    """A tombstone: the numbers ``first`` .. ``last`` are gone for ``reason``."""

    first: int
    last: int
    reason: str
    rank: int
    time_ms: int


@dataclass(frozen=True, slots=True)
class Document:
    """A status, meta, summary or reported document: one JSON object, as text and as what it means."""

    text: str
    value: Mapping[str, Any]
    retained: bool


@dataclass(frozen=True, slots=True)
class CommandState:
    """The document on one command's topic; ``text`` is empty where the topic was cleared."""

    op: str
    id: str
    text: str
    state: str


@dataclass(slots=True)
class StreamArrivals:
    """What arrived of one stream."""

    records: list[Arrival] = field(default_factory=list)
    tombstones: list[Burial] = field(default_factory=list)


@dataclass(slots=True)
class DeviceArrivals:
    """What arrived of one device since the last transaction."""

    streams: dict[str, StreamArrivals] = field(default_factory=dict)
    documents: dict[str, Document] = field(default_factory=dict)
    commands: dict[tuple[str, str], CommandState] = field(default_factory=dict)
    payload_bytes: int = 0
    problem_count: int = 0
    problems: list[str] = field(default_factory=list)
    live: bool = False
    """Whether any of it was not retained: the device itself was heard just now."""

    @property
    def spoke(self) -> bool:
        """Whether any of it can be the device's own. A command that is given or taken away is not: whoever
        misspells a name makes no device."""
        answers = any(command.state not in ("", "init") for command in self.commands.values())
        return bool(self.streams or self.documents or self.problem_count or answers)

    def problem(self, text: str) -> None:
        """Count something that is not taken, and keep a few of them in words."""
        self.problem_count += 1
        if len(self.problems) < KEPT_PROBLEMS:
            self.problems.append(printable(text, 200))


class Arrivals:
    """Gathers messages for one transaction."""

    def __init__(self) -> None:
        self.devices: dict[str, DeviceArrivals] = {}
        self.messages = 0
        self.events = 0
        self.payload_bytes = 0
        self.strangers = 0
        """Messages on topics that are none of ours."""

    def __bool__(self) -> bool:
        return self.messages > 0

    def add(self, topic: str, payload: bytes, *, retained: bool, now_ms: int) -> None:
        """Take one message. Total: whatever it is, it is taken or counted."""
        self.messages += 1
        self.payload_bytes += len(topic) + len(payload)
        parsed = parse(topic)
        if parsed is None:
            self.strangers += 1
            return
        name, kind, rest = parsed
        if kind == "records":
            self._records(name, payload, retained, now_ms)
        elif kind in DOCUMENTS:
            self._document(self._device(name), kind, payload, retained)
        elif kind == "cmd":
            self._command(self._device(name), rest, payload)
        else:
            self.strangers += 1  # our own acks and desired, or what is not invented yet

    def _device(self, name: str) -> DeviceArrivals:
        device = self.devices.get(name)
        if device is None:
            device = self.devices[name] = DeviceArrivals()
        return device

    def _records(self, name: str, payload: bytes, retained: bool, now_ms: int) -> None:
        device = self._device(name)
        device.payload_bytes += len(payload)
        device.live |= not retained
        batch = envelope.parse_batch(payload, name)
        for problem in batch.problems:
            device.problem(f"records: {problem}")
        for event in batch.events:
            if event.fault is not None:
                device.problem(f"records: {event.kind} {event.first}: {event.fault}")
            stream = device.streams.get(event.stream)
            if stream is None:
                stream = device.streams[event.stream] = StreamArrivals()
            self.events += 1
            text = event.data.decode("utf-8")
            time_ms = _milliseconds(event.time, now_ms)
            if event.tombstone:
                stream.tombstones.append(_burial(event.first, event.last, time_ms, event.data))
            else:
                stream.records.append(Arrival(event.first, event.kind, time_ms, text, event.time))

    def _document(self, device: DeviceArrivals, kind: str, payload: bytes, retained: bool) -> None:
        if not payload:
            return  # somebody cleared the topic: what was known last stays known
        try:
            found = schemas.decode(kind, payload)
        except ValueError as error:
            device.problem(f"{kind}: {error}")
            return
        # A last will is not the device's own voice, and a retained document is not of now.
        device.live |= not retained and not (kind == "status" and found.get("state") == "lost")
        device.documents[kind] = Document(payload.decode("utf-8"), found, retained)

    def _command(self, device: DeviceArrivals, rest: tuple[str, ...], payload: bytes) -> None:
        op, command_id = rest
        if not payload:
            device.commands[op, command_id] = CommandState(op, command_id, "", "")
            return
        try:
            value = strictjson.decode(payload, limit_bytes=schemas.MESSAGE_LIMIT_BYTES)
        except ValueError as error:
            device.problem(f"cmd/{printable(op, 40)}: {error}")
            return
        state = value.get("state") if isinstance(value, dict) else None
        if isinstance(value, dict) and "signed" in value:
            state = "init"
        if not isinstance(state, str):
            device.problem(f"cmd/{printable(op, 40)}: it has no state")
            return
        device.commands[op, command_id] = CommandState(op, command_id, payload.decode(), printable(state, 20))


def printable(text: str, limit: int) -> str:
    """Text from the network, fit for one line of a terminal or a log."""
    text = text[:limit]
    return text if text.isprintable() else "".join(c if c.isprintable() else "?" for c in text)


class _TombstoneData(msgspec.Struct):
    reason: str
    rank: int


_DECODE_TOMBSTONE: Final = msgspec.json.Decoder(_TombstoneData).decode


def _burial(first: int, last: int, time_ms: int, data: bytes) -> Burial:
    said = _DECODE_TOMBSTONE(data)  # parse_batch has checked it
    return Burial(first, last, printable(said.reason, 40), min(max(said.rank, 0), 9), time_ms)


def _milliseconds(time: str, now_ms: int) -> int:
    """Wall time of a record (RFC 3339) in ms since 1970; ours where the device's clock cannot be right."""
    try:
        found = int(datetime.fromisoformat(time).timestamp() * 1000)
    except (ValueError, OverflowError):
        return now_ms
    return found if _EPOCH_2020_MS <= found <= now_ms + _AHEAD_MS else now_ms
