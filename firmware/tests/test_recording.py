"""Recordings: what is written is read, and what is damaged is said with its line."""

from __future__ import annotations

import io
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugmeter import records
from plugmeter.errors import UsageError
from plugmeter.recording import TYPES, Input, RecordingWriter, decode, encode, read_recording

INTS = st.integers(0, 2**63 - 1)
GIVEN: dict[type[Any], dict[str, st.SearchStrategy[Any]]] = {
    records.Uevent: {"witness": st.sampled_from(["netlink", "udev"])},
    # Configurations have no infinite numbers, and JSON has none either.
    records.RunStart: {
        "claim_rate": st.floats(1e-9, 0.5),
        "plan": st.dictionaries(st.text(), st.integers(0, 9) | st.floats(0.25, 9.75) | st.text()),
    },
}
RECORDS = st.one_of(*(st.builds(cls, **GIVEN.get(cls, {})) for cls in TYPES.values() if cls is not int), INTS)


@given(st.lists(RECORDS, max_size=5))
def test_what_is_written_is_read(items: list[Input]) -> None:
    file = io.BytesIO()
    writer = RecordingWriter(file)
    for item in items:
        writer.write(item)
    file.seek(0)
    assert list(read_recording(file, "x")) == items


def written(*lines: bytes) -> io.BytesIO:
    return io.BytesIO(b"\n".join((b'{"plugmeter_recording":1}', *lines, b"")))


@pytest.mark.parametrize(
    ("file", "words"),
    [
        (io.BytesIO(b""), "no Plugmeter recording"),
        (io.BytesIO(b"{}\n"), "no Plugmeter recording"),
        (io.BytesIO(b"\x00\xff" * 9000), "no Plugmeter recording"),
        (io.BytesIO(b'{"plugmeter_recording":2}\n'), "format 2; this version reads format 1"),
        (written(b"[]"), "line 2"),
        (written(b"5"), "line 2"),
        (written(b"[" * 5000), "line 2"),
        (written(b'["advance",1]', b'["edge",{"t_ns":1}]'), "line 3"),
        (written(b'["edge",{"t_ns":"1","port":"1-1","rising":true}]'), "line 2"),
        (written(b'["nonsense",{}]'), "no record is called 'nonsense'"),
        (written(b'["advance",true]'), "line 2"),
        (written(b'["advance",\xff]'), "line 2"),
    ],
)
def test_damage_is_named(file: io.BytesIO, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        list(read_recording(file, "run.jsonl"))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_last_line_that_was_cut_is_left_out() -> None:
    edge = records.Edge(1, "1-1", True, 1)
    file = io.BytesIO(b'{"plugmeter_recording":1}\n' + encode(edge) + b"\n" + encode(edge)[:-3])
    assert list(read_recording(file, "x")) == [edge]


@given(st.binary(max_size=200))
def test_decoding_is_total(line: bytes) -> None:
    try:
        decode(line)
    except (ValueError, RecursionError) as error:
        assert not isinstance(error, msgspec.MsgspecError) or str(error)
