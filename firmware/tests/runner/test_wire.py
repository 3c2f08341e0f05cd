from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugmeter import recording
from plugmeter.measure.episodes import Episode
from plugmeter.measure.stages import Stage
from plugmeter.measure.verdicts import Verdict
from plugmeter.records import Edge, Gap, RunStart, Uevent
from plugmeter.runner import wire

START = RunStart(
    1, "injected", "simulated", ("1-1",), ("gpio", "netlink"), 2, 3, 4, 5, 0.001, 6, "2026", "1", {"a": "b"}
)
LOST = Verdict(Episode("1-1", 3, True, 10, 20, 5), "lost", Stage.UDEVD, True, 11, None, 13)
SAID: list[wire.Message | wire.Order] = [
    wire.Note("ä\n\u2028"),
    wire.Ready(1, "passive", "gpio", ("1-1",), ("netlink",), 2, "1", {"kernel": "6"}),
    wire.Started(START),
    wire.Decided(LOST),
    wire.Missed(Gap(5, "udev", "socket_queue", None, 4)),
    wire.Discarded("raw", 7, 1, 2),
    wire.Resynced(3, None),
    wire.Progress(1, 2, 3, lost={"udevd": 1}, witnesses={"gpio": wire.WitnessCount(1, 2, 3, 4)}),
    wire.Finished({"lost": {"udevd": 1}}, 1, 2, 3, 4),
    wire.Failure("UsageError", "no"),
    wire.Bye(),
    wire.Setup({"run": {"debounce_ms": 100}}, "f.toml", "passive", duration_s=1.5, state="/x"),
    wire.StopRun(),
    wire.Resync(),
]
ORDERS = (wire.Setup, wire.StopRun, wire.Resync)


@pytest.mark.parametrize("said", SAID, ids=lambda said: type(said).__name__)
def test_what_is_said_is_what_is_heard_and_by_no_other(said: Any) -> None:
    line = wire.encode(said)
    assert line.endswith(b"\n")
    assert b"\n" not in line[:-1]
    hears, refuses = wire.decode_message, wire.decode_order
    if isinstance(said, ORDERS):
        hears, refuses = refuses, hears  # type: ignore[assignment]  # either takes a line
    assert hears(line[:-1]) == said
    with pytest.raises(ValueError, match="nothing is called"):
        refuses(line[:-1])


def test_every_message_is_tried_here() -> None:
    tried = {type(said) for said in SAID}
    assert {*wire.MESSAGES.values(), *wire.ORDERS.values()} - tried == {wire.Raw}


def test_raw_inputs_pass_through_as_a_recording_has_them() -> None:
    inputs = [
        recording.encode(each)
        for each in (START, Edge(1, "1-1", True), Uevent(2, "netlink", 3, "add", "/d", "usb"), 4)
    ]
    message = wire.decode_message(wire.encode_raw(9, inputs)[:-1])
    assert isinstance(message, wire.Raw)
    assert (message.number, message.count) == (9, 4)
    assert bytes(message.inputs) == b"[" + b",".join(inputs) + b"]"


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"[]",
        b"null",
        b'["bye"]',
        b'["bye",{}]x',
        b'["ended",{"status":0}]',
        b'["gap",{"gap":{"t_ns":1e400}}]',
        b'["gap",{"gap":{"t_ns":"1","witness":"udev","cause":"","count":1,"since_ns":1}}]',
        b'["gap",{"gap":{"t_ns":1,"witness":"eve","cause":"","count":1,"since_ns":1}}]',
        b'["verdict",{}]',
        b'["raw",{"number":1,"count":1,"inputs":{}}]',
        b'["raw",{"number":1,"count":1,"inputs":["\xff"]}]',
        b'["note",{"text":"\xff"}]',
        b'["finished",{"report":' + b"[" * 100_000,
        b'["finished",{"report":' + b'{"a":' * 5_000 + b"1" + b"}" * 5_000 + b"}]",
        b"\xff\xfe\x00",
    ],
)
def test_what_is_no_message_is_a_value_error(line: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        wire.decode_message(line)


@given(st.binary() | st.recursive(st.none() | st.integers() | st.text(), st.lists).map(msgspec.json.encode))
def test_nothing_but_a_value_error_comes_of_any_line(line: bytes) -> None:
    for decode in (wire.decode_message, wire.decode_order):
        try:
            decode(line)
        except ValueError:
            continue


@given(st.lists(st.binary(max_size=20).map(lambda line: line.replace(b"\n", b"")), max_size=10), st.data())
def test_lines_are_the_same_however_they_arrive(lines: list[bytes], data: st.DataObject) -> None:
    whole = b"".join(line + b"\n" for line in lines) + b"rest"
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=8)))
    cutter = wire.Lines(limit_bytes=20)
    got: list[bytes] = []
    for begin, end in zip([0, *cuts], [*cuts, len(whole)], strict=True):
        got += cutter.feed(whole[begin:end])
    assert (got, cutter.partial, cutter.too_long) == (lines, True, 0)


@given(st.lists(st.binary(max_size=40), max_size=20))
def test_a_line_that_is_too_long_is_counted_and_costs_no_other(parts: list[bytes]) -> None:
    whole = b"".join(parts)
    *complete, rest = whole.split(b"\n")
    cutter = wire.Lines(limit_bytes=16)
    got = [line for part in parts for line in cutter.feed(part)]
    assert got == [line for line in complete if len(line) <= 16]
    assert cutter.too_long == sum(len(line) > 16 for line in (*complete, rest))
    assert cutter.partial == bool(rest)
