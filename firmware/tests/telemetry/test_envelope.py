from __future__ import annotations

import json
import uuid
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugmeter.moments import rfc3339
from plugmeter.telemetry import envelope, schemas
from plugmeter.telemetry.envelope import ParsedBatch, parse_batch
from plugmeter.telemetry.record import DATA_LIMIT_BYTES, RANKS, StoredRecord, Tombstone

STREAM = "6e0f8a52-3f0e-4a0b-9d0c-2b8f5f3a7c11"
T = 1_795_255_200_000_000_000
NUMBERS = st.integers(1, 2**63 - 1)
TIMES = st.integers(-(2**80), 2**80)
STREAMS = st.uuids().map(str)
DEVICES = st.from_regex(r"[a-z0-9][a-z0-9_-]{0,62}", fullmatch=True)
TEXT = st.text(st.characters(codec="utf-8"), max_size=10)
DATA = st.dictionaries(TEXT, st.none() | st.integers(-(2**63), 2**63) | TEXT | st.lists(TEXT), max_size=4)


def verdict(**change: object) -> dict[str, Any]:
    return {**schemas.schema("records/verdict")["examples"][0], **change}


def ours(**change: object) -> dict[str, Any]:
    """An event as we make them, with changes."""
    return {
        "specversion": "1.0",
        "id": f"{STREAM}/7",
        "source": "/plugmeter/bench",
        "type": "plugmeter.verdict.v1",
        "time": "2026-11-21T10:00:00.000000Z",
        "datacontenttype": "application/json",
        "data": verdict(),
        **change,
    }


def parsed(*events: object, device: str | None = "bench") -> ParsedBatch:
    return parse_batch(json.dumps(events).encode(), device)


# ---- what we write, we read ----


@given(STREAMS, DEVICES, NUMBERS, TIMES, DATA, st.sampled_from(sorted(RANKS)), st.booleans())
def test_a_record_arrives(
    stream: str, device: str, seq: int, time_ns: int, data: dict[str, object], kind: str, compact: bool
) -> None:
    text = json.dumps(data, separators=(",", ":") if compact else None).encode()
    found = parse_batch(envelope.batch(stream, device, [StoredRecord(seq, kind, text, time_ns)]), device)
    assert found.problems == ()
    (event,) = found.events
    assert (event.stream, event.device, event.kind, event.tombstone) == (stream, device, kind, False)
    assert (event.first, event.last) == (seq, seq)
    assert event.time == rfc3339(time_ns)
    assert event.data == text


@given(STREAMS, NUMBERS, NUMBERS, st.integers(0, 3), TIMES)
def test_a_tombstone_arrives(stream: str, one: int, other: int, rank: int, time_ns: int) -> None:
    tombstone = Tombstone(min(one, other), max(one, other), rank, "full", time_ns)
    found = parse_batch(envelope.batch(stream, "bench", [], [tombstone]), "bench")
    assert found.problems == ()
    (event,) = found.events
    assert (event.first, event.last, event.kind) == (tombstone.first, tombstone.last, "tombstone")
    assert event.tombstone
    assert event.fault is None
    assert json.loads(event.data)["count"] == tombstone.count


HOSTILE_DATA = {
    "nothing": b"",
    "no JSON": b"}{",
    "no object": b"[1]",
    "NaN": b'{"a":NaN}',
    "not UTF-8": b'{"a":"\xff"}',
    "a lone surrogate": rb'{"a":"\ud800"}',
    "out of its place": b'{}},{"specversion":"1.0"',
    "a key twice": b'{"a":1,"a":2}',
    "deep": b'{"a":' * 100 + b"1" + b"}" * 100,
    "deeper than any stack": b'{"a":' * 20_000 + b"1" + b"}" * 20_000,
    "too large": b'{"a":"%b"}' % (b"x" * DATA_LIMIT_BYTES),
    "too large and not UTF-8": b"\xff" * (DATA_LIMIT_BYTES + 1),
}


@pytest.mark.parametrize("data", HOSTILE_DATA.values(), ids=HOSTILE_DATA.keys())
@pytest.mark.parametrize("kind", ["verdict", "", "UPPER", "tombstone", 'a","id":"x', "x" * 33])
def test_no_record_keeps_its_batch_from_arriving(data: bytes, kind: str) -> None:
    """A damaged database's record has its number, and the number arrives, with as much as can be shown."""
    records = [
        StoredRecord(1, "verdict", json.dumps(verdict()).encode(), T),
        StoredRecord(2, kind, data, T),
        StoredRecord(3, "verdict", json.dumps(verdict()).encode(), T),
    ]
    found = parse_batch(envelope.batch(STREAM, "bench", records), "bench")
    assert found.problems == ()
    assert [event.first for event in found.events] == [1, 2, 3]
    assert not any(event.tombstone for event in found.events)
    assert set(json.loads(found.events[1].data)) == {"unreadable", "reason"}


@given(st.binary(max_size=80), st.text(max_size=40), st.integers(1, 2**63 - 1), TIMES)
def test_whatever_a_record_holds_its_number_arrives(data: bytes, kind: str, seq: int, time_ns: int) -> None:
    found = parse_batch(envelope.batch(STREAM, "bench", [StoredRecord(seq, kind, data, time_ns)]), "bench")
    assert found.problems == ()
    assert [(event.stream, event.first, event.last) for event in found.events] == [(STREAM, seq, seq)]


def test_the_largest_event_is_within_its_limit() -> None:
    record = StoredRecord(2**63 - 1, "a" * 32, b"{}", T)
    largest = len(envelope.event(str(uuid.UUID(int=2**128 - 1)), "d" * 63, record))
    assert largest - len(b"{}") + len(b",") <= envelope.EVENT_LIMIT_BYTES
    tombstone = Tombstone(2**62, 2**63 - 1, 3, "intake_full", T)
    assert len(envelope.tombstone_event(STREAM, "d" * 63, tombstone)) <= envelope.EVENT_LIMIT_BYTES
    full = StoredRecord(1, "raw", b'{"a":"%b"}' % (b"x" * (DATA_LIMIT_BYTES - 8)), T)
    assert len(full.data) == DATA_LIMIT_BYTES
    assert parse_batch(envelope.batch(STREAM, "bench", [full])).events[0].data == full.data


def test_a_batch_has_its_limits() -> None:
    small = StoredRecord(1, "link", b"{}", T)
    large = StoredRecord(1, "link", b'{"a":"%b"}' % (b"x" * 200_000), T)
    with pytest.raises(ValueError, match="1001 events are too many"):
        envelope.batch(STREAM, "bench", [small] * 1_001)
    with pytest.raises(ValueError, match="bytes are too many"):
        envelope.batch(STREAM, "bench", [large] * 6)
    assert envelope.batch(STREAM, "bench", []) == b"[]"


@pytest.mark.parametrize(("stream", "device"), [("x", "bench"), (STREAM, "a/b"), (STREAM, "")])
def test_a_sender_that_is_none(stream: str, device: str) -> None:
    with pytest.raises(ValueError, match="is no"):
        envelope.batch(stream, device, [StoredRecord(1, "link", b"{}", T)])


def test_what_is_sent_is_a_cloudevent_by_its_schema() -> None:
    record = StoredRecord(7, "verdict", json.dumps(verdict()).encode(), T)
    assert json.loads(envelope.event(STREAM, "bench", record)) == ours()
    for event in json.loads(envelope.batch(STREAM, "bench", [record], [Tombstone(1, 6, 0, "age", T)])):
        assert schemas.fault_of("event", event) is None
        assert schemas.record_fault(event["type"].split(".")[1], event["data"]) is None


# ---- what others write ----


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"specversion": "0.3"}, "specversion"),
        ({"specversion": 1.0}, "no event"),
        ({"datacontenttype": "text/plain"}, "datacontenttype"),
        ({"id": None}, "no event"),
        ({"id": 7}, "no event"),
        ({"id": ""}, "its id"),
        ({"id": STREAM}, "its id"),
        ({"id": f"{STREAM}/"}, "its id"),
        ({"id": f"{STREAM}/0"}, "its id"),
        ({"id": f"{STREAM}/-1"}, "its id"),
        ({"id": f"{STREAM}/01"}, "its id"),
        ({"id": f"{STREAM}/1.0"}, "its id"),
        ({"id": f"{STREAM}/1 "}, "its id"),
        ({"id": f"{STREAM}/٣"}, "its id"),
        ({"id": f"{STREAM}/7\n"}, "its id"),
        ({"id": f"{STREAM.upper()}/7"}, "its id"),
        ({"id": f"{STREAM}/{2**63}"}, "no range"),
        ({"id": f"{STREAM}/{'9' * 10_000}"}, "its id"),
        ({"id": f"{STREAM}/7-9"}, "a tombstone has a range"),
        ({"type": "plugmeter.tombstone.v1"}, "a tombstone has a range"),
        ({"type": "plugmeter.verdict.v2"}, "its type"),
        ({"type": "org.example"}, "its type"),
        ({"type": "plugmeter.Verdict.v1"}, "its type"),
        ({"source": "/plugmeter/other"}, "its source"),
        ({"source": "/plugmeter/"}, "its source"),
        ({"source": "bench"}, "its source"),
        ({"time": ""}, "its time"),
        ({"time": "2026-11-21"}, "its time"),
        ({"time": "2026-11-21T10:00:00"}, "its time"),
        ({"time": "2026-11-21T10:00:00+01:00"}, "its time"),
        ({"time": "2026-02-30T10:00:00Z"}, "its time"),
        ({"time": "2026-11-21T25:00:00Z"}, "its time"),
        ({"time": "0000-01-01T00:00:00Z"}, "its time"),
        ({"time": "٢٠٢٦-11-21T10:00:00Z"}, "its time"),
        ({"time": "2026-11-21T10:00:00." + "0" * 500 + "Z"}, "its time"),
        ({"time": 1795255200}, "no event"),
        ({"data": None}, "its data"),
        ({"data": []}, "its data"),
        ({"data": "{}"}, "its data"),
    ],
)
def test_an_event_without_an_identity_is_a_problem_and_no_event(
    change: dict[str, object], problem: str
) -> None:
    found = parsed(ours(**change), ours(id=f"{STREAM}/8"))
    assert [event.first for event in found.events] == [8]
    (line,) = found.problems
    assert line.startswith("event 1: ")
    assert problem in line
    assert line.isprintable()
    assert len(line) < 200


@pytest.mark.parametrize("key", ["specversion", "id", "source", "type", "time", "data"])
def test_an_event_needs_all_its_keys(key: str) -> None:
    found = parsed({name: value for name, value in ours().items() if name != key})
    assert found.events == ()
    assert len(found.problems) == 1


@pytest.mark.parametrize("value", [None, 1, "x", [], [[]], True, {}])
def test_an_event_is_an_object(value: object) -> None:
    found = parsed(value, ours())
    assert len(found.events) == len(found.problems) == 1


def test_extensions_pass_and_the_content_type_may_be_left_out() -> None:
    event = ours(traceparent="00-1")
    del event["datacontenttype"]
    assert len(parsed(event).events) == 1


TOMB = {"from": 5, "to": 9, "count": 5, "reason": "full", "rank": 0}


@pytest.mark.parametrize(
    ("identity", "change", "events"),
    [
        ("5-9", {}, 1),
        ("5-5", {"to": 5, "count": 1}, 1),
        ("9-5", {"from": 9, "to": 5}, 0),
        ("5-9", {"from": 4}, 0),
        ("5-9", {"to": 10}, 0),
        ("5-9", {"count": 4}, 0),
        ("5-9", {"count": True}, 0),
        ("5-9", {"from": "5"}, 0),
        ("5-9", {"rank": None}, 0),
        ("5-9", {"reason": 1}, 0),
        (f"5-{2**63}", {"to": 2**63, "count": 2**63 - 4}, 0),
        (f"5-{2**63 - 1}", {"to": 2**63 - 1, "count": 2**63 - 5}, 1),
        ("5", {}, 0),
    ],
)
def test_a_tombstones_id_and_data_agree(identity: str, change: dict[str, object], events: int) -> None:
    event = ours(id=f"{STREAM}/{identity}", type="plugmeter.tombstone.v1", data={**TOMB, **change})
    found = parsed(event)
    assert (len(found.events), len(found.problems)) == (events, 1 - events)


FAULTY = {
    b'{"a":1}': "verdict must contain",
    b'{"a":NOTHING}': None,
    json.dumps(verdict(enumerated="yes")).encode(): "verdict.enumerated must be boolean",
    json.dumps(verdict(port="x" * 65)).encode(): "verdict.port",
    json.dumps(verdict(t_ns=2**64)).encode(): "verdict.t_ns",
    json.dumps(verdict(more="a\0b")).encode(): "U+0000",
    b'{"a":1,"a":2}': "twice",
    b'{"a":' * 50 + b"1" + b"}" * 50: "deeply",
    b'{"a":1e999}': "JSON",
    b'{"a":%b}' % (b"9" * 5_000): "JSON",
    b'{"a":"\xff"}': None,
}


@pytest.mark.parametrize(("data", "fault"), FAULTY.items())
def test_what_has_an_identity_arrives_with_its_fault(data: bytes, fault: str | None) -> None:
    """It is stored as it is and acknowledged: refusing it would bring it again for ever."""
    head = json.dumps(ours(data=0)).encode()
    payload = b"[%b,%b]" % (
        head.replace(b'"data": 0', b'"data": ' + data),
        json.dumps(ours(id=f"{STREAM}/8")).encode(),
    )
    found = parse_batch(payload, "bench")
    assert found.events[-1].first == 8
    if fault is None:
        assert len(found.problems) == 1
        return
    assert found.problems == ()
    assert found.events[0].data == data
    assert fault in str(found.events[0].fault)
    assert str(found.events[0].fault).isprintable()


def test_a_newer_devices_kind_has_no_fault() -> None:
    (event,) = parsed(ours(type="plugmeter.eclipse.v1", data={"a": 1})).events
    assert (event.kind, event.fault) == ("eclipse", None)


def test_an_id_twice_in_a_batch_is_one_event() -> None:
    found = parsed(ours(), ours(data=verdict(port="1-9")), ours(id=f"{STREAM}/8"))
    assert [event.first for event in found.events] == [7, 8]
    assert json.loads(found.events[0].data) == verdict()
    assert found.problems == ("event 2: the same id is in this batch already",)


@pytest.mark.parametrize(
    "twin", ['"id": "x"', f'"id": "{STREAM}/9"', '"data": {}', '"\\u0069d": "x"', '"other": 1']
)
def test_a_key_twice_in_an_event_is_a_problem(twin: str) -> None:
    text = json.dumps(ours())
    for event in (f"{{{twin}, {text[1:]}", f"{text[:-1]}, {twin}}}"):
        found = parse_batch(f"[{event}]".encode(), "bench")
        good = "other" in twin
        assert (len(found.events), len(found.problems)) == (good, not good)


def test_without_a_device_any_will_do() -> None:
    assert parsed(ours(source="/plugmeter/other"), device=None).events[0].device == "other"


BOMBS = {
    "nothing": b"",
    "spaces": b" " * 1_000,
    "an object": b"{}",
    "a text": b'"x"',
    "NaN": b"NaN",
    "not UTF-8": b"\xff\xfe",
    "no end": b"[" * 1_000_000,
    "10 MB": b"[" + b" " * 10_000_000 + b"]",
    "too many events": b"[" + b",".join([b"1"] * 1_001) + b"]",
    "a text without end": b'["' + b"a" * 500_000,
    "escapes without end": b'["' + b"\\" * 500_001,
    "closed by the wrong brackets": b"[" * 500_000 + b"}" * 500_000,
    "two arrays": b"[][]",
    "a number without end": b"[" + b"9" * 1_000_000,
}


@pytest.mark.parametrize("payload", BOMBS.values(), ids=BOMBS.keys())
def test_bombs_give_one_problem(payload: bytes) -> None:
    found = parse_batch(payload)
    assert found.events == ()
    assert len(found.problems) == 1
    assert found.problems[0].startswith("the batch ")
    assert len(found.problems[0]) < 200


BAD_ELEMENTS = {
    "deeper than any stack": b"[" * 100_000 + b"]" * 100_000,
    "objects deeper than any stack": b'{"data":' * 50_000 + b"1" + b"}" * 50_000,
    "a lone surrogate": rb'{"id":"\ud800"}',
    "a huge number": b"9" * 100_000,
    "no JSON": b"nothing",
    "not UTF-8": b'{"id":"\xff"}',
    "empty": b"",
}


@pytest.mark.parametrize("bad", BAD_ELEMENTS.values(), ids=BAD_ELEMENTS.keys())
def test_one_bad_event_does_not_spoil_the_others(bad: bytes) -> None:
    good = [json.dumps(ours(id=f"{STREAM}/{n}")).encode() for n in (1, 2)]
    found = parse_batch(b"[%b,%b,%b]" % (good[0], bad, good[1]), "bench")
    assert [event.first for event in found.events] == [1, 2]
    (problem,) = found.problems
    assert problem.startswith("event 2: ")


def test_problems_are_bounded() -> None:
    found = parsed(*[1] * 1_000)
    assert len(found.problems) == 21
    assert found.problems[-1] == "and 980 more problems"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
CHANGES = st.dictionaries(st.sampled_from(list(ours())), JSON, max_size=2)


def is_sound(found: ParsedBatch) -> bool:
    for event in found.events:
        assert 1 <= event.first <= event.last <= 2**63 - 1
        assert str(uuid.UUID(event.stream)) == event.stream
        assert b"\0" not in event.data
        event.data.decode()
        if event.fault is None:
            assert isinstance(json.loads(event.data), dict)
    assert all(problem.isprintable() for problem in found.problems)
    return True


@given(st.binary(max_size=200))
def test_any_bytes(payload: bytes) -> None:
    assert is_sound(parse_batch(payload))


@given(st.lists(CHANGES, max_size=4))
def test_any_changes_to_good_events(changes: list[dict[str, object]]) -> None:
    payload = json.dumps([ours(**change) for change in changes]).encode()
    assert is_sound(parse_batch(payload, "bench"))


GOOD = json.dumps([ours(id=f"{STREAM}/{n}") for n in (1, 2)]).encode()


@given(st.integers(0, len(GOOD) - 1), st.integers(0, len(GOOD)), st.binary(max_size=4))
def test_any_damage_to_good_batches(start: int, length: int, put: bytes) -> None:
    assert is_sound(parse_batch(GOOD[:start] + put + GOOD[start + length % 9 :], "bench"))
