"""The envelope: records as CloudEvents 1.0 in JSON, many in a batch, and back from hostile bytes.

    [{"specversion":"1.0","id":"<stream>/<seq>","source":"/plugmeter/<device>","type":"plugmeter.<kind>.v1",
      "time":"2026-11-21T10:00:00.000000Z","datacontenttype":"application/json","data":{...}}, ...]

CloudEvents says that source + id name an event once and for all: that is what makes resending harmless.
A tombstone's id is ``<stream>/<first>-<last>``. (CloudEvents spec 1.0.2, and its JSON format, "JSON Batch".)
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Final

import msgspec

from plugmeter.moments import rfc3339
from plugmeter.telemetry import schemas, slices, strictjson
from plugmeter.telemetry.record import DATA_LIMIT_BYTES, StoredRecord, Tombstone

CONTENT_TYPE: Final = "application/cloudevents-batch+json"
BATCH_LIMIT_BYTES: Final = 1_048_576
"""No batch is larger, and none that is gets read."""
BATCH_LIMIT_EVENTS: Final = 1_000
EVENT_LIMIT_BYTES: Final = 448
"""What an event is larger than its record's data, at most, with the comma after it. So a batch whose data is
within BATCH_LIMIT_BYTES - n * EVENT_LIMIT_BYTES fits."""
SEQ_LIMIT: Final = 2**63 - 1
"""The highest number of a stream: SQLite's and PostgreSQL's largest integer."""
TOMBSTONE: Final = "tombstone"
_UNREADABLE: Final = "unreadable"
_SHOWN_BYTES: Final = 1_000
_PROBLEMS_LIMIT: Final = 20

_STREAM: Final = r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
_ID: Final = re.compile(rf"({_STREAM})/([1-9][0-9]{{0,18}})(?:-([1-9][0-9]{{0,18}}))?").fullmatch
_KIND: Final = re.compile(r"[a-z][a-z0-9-]{0,31}").fullmatch
_TYPE: Final = re.compile(r"plugmeter\.([a-z][a-z0-9-]{0,31})\.v1").fullmatch
_SOURCE: Final = re.compile(r"/plugmeter/([a-z0-9][a-z0-9_-]{0,62})").fullmatch
_TIME: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,9})?Z", re.ASCII).fullmatch


# ---- the device's side ----


def event(stream: str, device: str, record: StoredRecord) -> bytes:
    """One record as a CloudEvent.

    Whatever the record holds, ``parse_batch`` reads its identity back: data that is no strict JSON (a damaged
    database, a defect of ours) goes as ``{"unreadable": ..., "reason": ...}``. Otherwise one record could
    keep its whole batch from ever being acknowledged.
    """
    kind, data = record.kind, record.data
    try:
        if not isinstance(strictjson.decode(data, limit_bytes=DATA_LIMIT_BYTES), dict):
            raise ValueError("it is no object")
        if not _KIND(kind) or kind == TOMBSTONE:
            raise ValueError(f"no record is of kind {kind[:40]!r}")
    except ValueError as error:
        data = _unreadable(data, str(error))
        kind = kind if _KIND(kind) and kind != TOMBSTONE else _UNREADABLE
    head, middle = _frame(stream, device, kind)
    return b"%b%d%b%b%b%b}" % (head, record.seq, middle, rfc3339(record.time_ns).encode(), _BEFORE_DATA, data)


def tombstone_event(stream: str, device: str, tombstone: Tombstone) -> bytes:
    """One tombstone as a CloudEvent of type plugmeter.tombstone.v1."""
    head, middle = _frame(stream, device, TOMBSTONE)
    data = msgspec.json.encode(
        {
            "from": tombstone.first,
            "to": tombstone.last,
            "count": tombstone.count,
            "reason": tombstone.reason,
            "rank": tombstone.rank,
        }
    )
    time = rfc3339(tombstone.time_ns).encode()
    return b"%b%d-%d%b%b%b%b}" % (head, tombstone.first, tombstone.last, middle, time, _BEFORE_DATA, data)


def batch(
    stream: str, device: str, records: Sequence[StoredRecord], tombstones: Sequence[Tombstone] = ()
) -> bytes:
    """Records and tombstones as one CloudEvents batch.

    Raises ValueError where that is more than a batch may hold (BATCH_LIMIT_EVENTS, BATCH_LIMIT_BYTES): ask
    the outbox for less. One record always fits.
    """
    if len(records) + len(tombstones) > BATCH_LIMIT_EVENTS:
        raise ValueError(
            f"{len(records) + len(tombstones)} events are too many for a batch of {BATCH_LIMIT_EVENTS}"
        )
    events = [event(stream, device, record) for record in records]
    events += [tombstone_event(stream, device, tombstone) for tombstone in tombstones]
    payload = b"[%b]" % b",".join(events)
    if len(payload) > BATCH_LIMIT_BYTES:
        raise ValueError(f"{len(payload)} bytes are too many for a batch of {BATCH_LIMIT_BYTES}")
    return payload


_BEFORE_DATA: Final = b'","datacontenttype":"application/json","data":'


@lru_cache(maxsize=64)
def _frame(stream: str, device: str, kind: str) -> tuple[bytes, bytes]:
    """What stands before an event's number, and between its number and its time."""
    if not re.fullmatch(_STREAM, stream):
        raise ValueError(f"{stream[:50]!r} is no stream: a UUID in small letters")
    if not _SOURCE(f"/plugmeter/{device}"):
        raise ValueError(f"{device[:80]!r} is no device's name")
    head = f'{{"specversion":"1.0","id":"{stream}/'
    middle = f'","source":"/plugmeter/{device}","type":"plugmeter.{kind}.v1","time":"'
    return head.encode(), middle.encode()


def _unreadable(data: bytes, reason: str) -> bytes:
    shown = data[:_SHOWN_BYTES].decode("ascii", "backslashreplace")
    return msgspec.json.encode({"unreadable": shown, "reason": reason})


# ---- the controller's side ----


@dataclass(frozen=True, slots=True)
class ParsedEvent:
    """A record or a tombstone as it arrived, its identity checked. A record has first = last.

    ``data`` is UTF-8 text without NUL, of one JSON object. ``fault`` says in one line what is wrong with its
    content, by its kind's schema: such a record has arrived nevertheless and is to be stored (as text) and
    acknowledged, or its device would send it for ever. Only what has no identity is no event.
    A kind that we do not know (a newer device's) has no fault: nobody can tell.
    """

    stream: str
    first: int
    last: int
    kind: str
    time: str
    """As the device's wall clock had it: RFC 3339, UTC, with Z."""
    data: bytes
    tombstone: bool
    device: str
    fault: str | None = None


@dataclass(frozen=True, slots=True)
class ParsedBatch:
    """What could be read of a payload, and a line for each thing that could not (20 of them at most)."""

    events: tuple[ParsedEvent, ...]
    problems: tuple[str, ...]


class _Event(msgspec.Struct):
    specversion: str
    id: str
    source: str
    type: str
    time: str
    data: msgspec.Raw
    datacontenttype: str = "application/json"


class _TombstoneData(msgspec.Struct):
    first: int = msgspec.field(name="from")
    last: int = msgspec.field(name="to")
    count: int = msgspec.field()
    reason: str = msgspec.field()
    rank: int = msgspec.field()


_DECODE_EVENT: Final = msgspec.json.Decoder(_Event).decode
_DECODE_TOMBSTONE: Final = msgspec.json.Decoder(_TombstoneData).decode


def parse_batch(payload: bytes, device: str | None = None) -> ParsedBatch:
    """Read a batch; never raises, whatever the bytes.

    ``device`` is the topic's: what claims to come from another is no event. One bad event does not spoil the
    others, unless the brackets around it are broken. No problem quotes the payload.
    """
    if len(payload) > BATCH_LIMIT_BYTES:
        return _refused(f"the batch is too large: {len(payload)} bytes, at most {BATCH_LIMIT_BYTES}")
    try:
        raws = slices.elements(payload)
    except ValueError as error:
        return _refused(f"the batch is no JSON array: {error}")
    if len(raws) > BATCH_LIMIT_EVENTS:
        return _refused(f"the batch has too many events: {len(raws)}, at most {BATCH_LIMIT_EVENTS}")
    events: list[ParsedEvent] = []
    problems: list[str] = []
    seen: set[tuple[str, int, int]] = set()
    for position, raw in enumerate(raws, start=1):
        try:
            parsed = _parse_event(raw, device)
            identity = (parsed.stream, parsed.first, parsed.last)
            if identity in seen:
                raise ValueError("the same id is in this batch already")
            seen.add(identity)
        except ValueError as error:
            problems.append(f"event {position}: {error}")
        else:
            events.append(parsed)
    if len(problems) > _PROBLEMS_LIMIT:
        more = len(problems) - _PROBLEMS_LIMIT
        problems[_PROBLEMS_LIMIT:] = [f"and {more} more problems"]
    return ParsedBatch(tuple(events), tuple(problems))


def _refused(problem: str) -> ParsedBatch:
    return ParsedBatch((), (problem,))


def _parse_event(raw: bytes, device: str | None) -> ParsedEvent:
    """Raises ValueError in one line."""
    try:
        found = _DECODE_EVENT(raw)
        data = bytes(found.data)
        data.decode()
    except UnicodeDecodeError:
        raise ValueError("it is not UTF-8") from None
    except ValueError as error:  # msgspec.DecodeError: names fields and types, quotes nothing
        raise ValueError(f"it is no event: {error}") from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    _refuse_twins(raw, found, data)
    if found.specversion != "1.0":
        raise ValueError("its specversion is not 1.0")
    if found.datacontenttype != "application/json":
        raise ValueError("its datacontenttype is not application/json")
    identity = _ID(found.id)
    kind = _TYPE(found.type)
    source = _SOURCE(found.source)
    if identity is None:
        raise ValueError("its id is not STREAM/NUMBER or STREAM/FIRST-LAST")
    if kind is None:
        raise ValueError("its type is not plugmeter.KIND.v1")
    if source is None or device not in (None, source[1]):
        raise ValueError("its source is not this device")
    if not _TIME(found.time) or not _in_calendar(found.time):
        raise ValueError("its time is not RFC 3339 in UTC")
    first = int(identity[2])
    last = int(identity[3]) if identity[3] else first
    if not first <= last <= SEQ_LIMIT:
        raise ValueError("its numbers are no range of 1 to 2^63 - 1")
    tombstone = kind[1] == TOMBSTONE
    if tombstone != bool(identity[3]):
        raise ValueError("a tombstone has a range, a record has one number")
    if not data.startswith(b"{"):
        raise ValueError("its data is no object")
    if len(data) > DATA_LIMIT_BYTES:
        raise ValueError(f"its data is too large: {len(data)} bytes, at most {DATA_LIMIT_BYTES}")
    if tombstone:
        _check_tombstone(data, first, last)
    return ParsedEvent(
        stream=identity[1],
        first=first,
        last=last,
        kind=kind[1],
        time=found.time,
        data=data,
        tombstone=tombstone,
        device=source[1],
        fault=_fault(kind[1], data),
    )


def _refuse_twins(raw: bytes, found: _Event, data: bytes) -> None:
    """An event with a key twice means different things to different readers."""
    ours = (
        f'{{"specversion":"{found.specversion}","id":"{found.id}","source":"{found.source}"'
        f',"type":"{found.type}","time":"{found.time}","datacontenttype":"{found.datacontenttype}","data":'
    ).encode()
    if len(raw) == len(ours) + len(data) + 1 and raw.startswith(ours):
        return  # written as we write it: each key once
    keys: list[str] = []

    def note(pairs: list[tuple[str, object]]) -> None:
        keys[:] = [key for key, _ in pairs]  # the last call is for the outermost object

    try:
        json.loads(raw, object_pairs_hook=note, parse_int=float)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if len(set(keys)) != len(keys):
        raise ValueError("a key is in it twice")


def _in_calendar(time: str) -> bool:
    try:
        datetime.fromisoformat(time)
    except ValueError:
        return False
    return True


def _check_tombstone(data: bytes, first: int, last: int) -> None:
    try:
        said = _DECODE_TOMBSTONE(data)
    except (ValueError, RecursionError):
        raise ValueError("it is no tombstone") from None
    if (said.first, said.last, said.count) != (first, last, last - first + 1):
        raise ValueError("a tombstone's id and its data disagree")


def _fault(kind: str, data: bytes) -> str | None:
    try:
        value = strictjson.decode(data, limit_bytes=DATA_LIMIT_BYTES)
    except ValueError as error:
        return str(error)
    if b"\\u0000" in data and _holds_nul(value):
        return "a text in it holds U+0000"
    return schemas.record_fault(kind, value)


def _holds_nul(value: object) -> bool:
    rest = [value]
    while rest:
        item = rest.pop()
        if isinstance(item, str):
            if "\0" in item:
                return True
        elif isinstance(item, dict):
            rest.extend(item)
            rest.extend(item.values())
        elif isinstance(item, list):
            rest.extend(item)
    return False
