"""Messages from a network: whatever they are, they are taken or counted."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugmeter.controller.arrivals import KEPT_PROBLEMS, Arrivals, printable
from plugmeter.telemetry.record import Tombstone
from tests.controller.bookings import STREAM, document, message, verdicts
from tests.controller.devices import account, stored, summary, verdict

NOW_MS = 1_795_300_000_000


def arrived(*messages: tuple[str, bytes], retained: bool = False) -> Arrivals:
    arrivals = Arrivals()
    for topic, payload in messages:
        arrivals.add(topic, payload, retained=retained, now_ms=NOW_MS)
    return arrivals


def test_records_and_tombstones_are_sorted_by_stream() -> None:
    arrivals = arrived(message(verdicts(1, 2), [Tombstone(3, 5, 1, "full", 10**18)]))
    found = arrivals.devices["bench-1"].streams[STREAM]
    assert [record.seq for record in found.records] == [1, 2]
    assert (found.tombstones[0].first, found.tombstones[0].last, found.tombstones[0].reason) == (3, 5, "full")
    assert arrivals.events == 3
    assert arrivals.devices["bench-1"].live


@pytest.mark.parametrize(
    ("time_ns", "expected_ms"),
    [
        (NOW_MS * 10**6 - 5 * 10**9, NOW_MS - 5_000),
        (NOW_MS * 10**6 + 60 * 10**9, NOW_MS + 60_000),
        (NOW_MS * 10**6 + 366 * 86_400 * 10**9, NOW_MS),
        (0, NOW_MS),
        (10**20, NOW_MS),
    ],
)
def test_a_clock_that_cannot_be_right_is_replaced_by_ours(time_ns: int, expected_ms: int) -> None:
    arrivals = arrived(message([stored(1, "verdict", verdict(1), time_ns)]))
    assert arrivals.devices["bench-1"].streams[STREAM].records[0].time_ms == expected_ms


def test_documents_are_checked() -> None:
    good = document("summary", summary(account(STREAM, 3, 1, 0, 2)))
    bad = document("summary", {"outbox": 5})
    arrivals = arrived(good, bad, document("status", {"state": "asleep"}))
    device = arrivals.devices["bench-1"]
    assert set(device.documents) == {"summary"}
    assert device.problem_count == 2
    assert device.problems[0].startswith("summary: ")


def test_a_retained_message_is_no_sign_of_life() -> None:
    assert not arrived(message(verdicts(1)), retained=True).devices["bench-1"].live


def test_our_own_messages_and_strange_topics_make_no_device() -> None:
    arrivals = arrived(
        ("plugmeter/v1/bench-1/acks", b"{}"),
        ("plugmeter/v1/bench-1/desired", b"{}"),
        ("plugmeter/v1/BENCH/records", b"[]"),
        ("plugmeter/v2/bench-1/records", b"[]"),
        ("", b""),
    )
    assert not arrivals.devices
    assert arrivals.strangers == 5
    assert arrivals.messages == 5


def test_problems_are_counted_and_a_few_kept() -> None:
    arrivals = arrived(*[document("status", {"n": n}) for n in range(3 * KEPT_PROBLEMS)])
    device = arrivals.devices["bench-1"]
    assert device.problem_count == 3 * KEPT_PROBLEMS
    assert len(device.problems) == KEPT_PROBLEMS


@pytest.mark.parametrize(
    ("payload", "state"),
    [
        (b'{"state":"accepted","op":"selftest","id":"c"}', "accepted"),
        (b'{"signed":"...","signature":"..."}', "init"),
        (b"", ""),
    ],
)
def test_the_states_of_commands(payload: bytes, state: str) -> None:
    device = arrived(("plugmeter/v1/bench-1/cmd/selftest/c", payload)).devices["bench-1"]
    assert device.commands["selftest", "c"].state == state


@pytest.mark.parametrize("payload", [b"[]", b"5", b"{", b'{"state":5}', b"\xff", b"[" * 100_000])
def test_a_command_that_is_none_is_a_problem(payload: bytes) -> None:
    device = arrived(("plugmeter/v1/bench-1/cmd/selftest/c", payload)).devices["bench-1"]
    assert (device.problem_count, device.commands) == (1, {})


def test_what_is_shown_is_printable() -> None:
    assert printable("a\x1b[2Jb\u202e\n", 20) == "a?[2Jb??"
    assert printable("x" * 50, 5) == "xxxxx"


_TOPICS = st.sampled_from(
    [
        f"plugmeter/v1/bench-1/{kind}"
        for kind in ("records", "status", "meta", "summary", "reported", "cmd/a/b")
    ]
) | st.text(max_size=30)
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@given(topic=_TOPICS, payload=st.binary(max_size=200) | _JSON.map(lambda value: json.dumps(value).encode()))
def test_nothing_that_comes_in_raises(topic: str, payload: bytes) -> None:
    arrivals = arrived((topic, payload))
    assert arrivals.messages == 1


@given(data=st.data())
def test_a_damaged_batch_raises_nothing(data: st.DataObject) -> None:
    topic, payload = message(verdicts(1, 2, 3), [Tombstone(9, 10, 0, "full", 1)])
    at = data.draw(st.integers(0, len(payload) - 1))
    damaged = payload[:at] + data.draw(st.binary(max_size=4)) + payload[at + data.draw(st.integers(0, 4)) :]
    found = arrived((topic, damaged)).devices["bench-1"]
    taken = sum(len(each.records) + len(each.tombstones) for each in found.streams.values())
    assert taken <= 4
    assert taken == 4 or found.problem_count
