"""Segments: what is packed comes out again, and whatever else the bytes are is said."""

from __future__ import annotations

import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugmeter.telemetry.ranges import normalise
from plugmeter.telemetry.record import RANKS
from plugmeter.telemetry.segment import Entry, SegmentDamaged, Span, gone_text, pack, parse_gone, unpack

ENTRIES = st.lists(
    st.builds(
        Entry,
        st.integers(1, 2**62),
        st.integers(0, 3),
        st.sampled_from(sorted(RANKS)),
        st.integers(-(2**63), 2**63),
        st.binary(max_size=50),
    ),
    min_size=1,
    max_size=8,
    unique_by=lambda entry: entry.seq,
).map(sorted)


@given(ENTRIES)
def test_a_round_trip(entries: list[Entry]) -> None:
    assert unpack(pack(entries)) == entries


@given(ENTRIES, st.data())
def test_a_flipped_bit_is_found_or_harmless(entries: list[Entry], data: st.DataObject) -> None:
    body = bytearray(pack(entries))
    at = data.draw(st.integers(0, 8 * len(body) - 1))
    body[at // 8] ^= 1 << at % 8
    try:
        assert unpack(bytes(body)) == entries
    except SegmentDamaged as damage:
        assert "\n" not in str(damage)


@given(st.binary(max_size=200))
def test_other_bytes_are_no_segment(body: bytes) -> None:
    for each in (body, zlib.compress(body), zlib.compress(b"%08d" % len(body) + body)):
        with pytest.raises(SegmentDamaged):
            unpack(each)


def test_a_segment_that_would_eat_the_memory_is_none() -> None:
    with pytest.raises(SegmentDamaged, match="too long"):
        unpack(zlib.compress(bytes(100_000_000)))


@given(st.lists(st.tuples(st.integers(1, 50), st.integers(1, 50)), max_size=6))
def test_what_is_gone_as_text(some: list[tuple[int, int]]) -> None:
    gone = normalise(some)
    assert parse_gone(gone_text(gone)) == gone


@pytest.mark.parametrize("text", ["x", "1", "1-2-3", "5-3", "1-2,3-4", "4-5,1-2", "-1-2", ","])
def test_what_is_no_ranges(text: str) -> None:
    with pytest.raises(SegmentDamaged):
        parse_gone(text)


def test_living() -> None:
    assert Span(3, 9, 4, 1, ((3, 3), (6, 7))).living == ((4, 5), (8, 9))
