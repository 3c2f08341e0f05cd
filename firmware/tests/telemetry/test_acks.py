from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugmeter.telemetry import acks

STREAM = "6e0f8a52-3f0e-4a0b-9d0c-2b8f5f3a7c11"
NUMBERS = st.integers(1, 2**63 - 1)
RANGES = st.lists(st.tuples(NUMBERS, NUMBERS).map(lambda pair: (min(pair), max(pair))), max_size=20)


@given(RANGES)
def test_what_is_encoded_is_read(ranges: list[tuple[int, int]]) -> None:
    assert acks.decode(acks.encode(STREAM, ranges)) == acks.Acknowledgement(STREAM, tuple(ranges))


def test_the_largest_message_is_read_and_no_larger_one_made() -> None:
    most = [(2**63 - 2, 2**63 - 1)] * acks.RANGES_LIMIT
    assert len(acks.decode(acks.encode(STREAM, most)).ranges) == 1_000
    with pytest.raises(ValueError, match="1001 ranges are too many"):
        acks.encode(STREAM, [*most, (1, 1)])


@pytest.mark.parametrize(
    "ranges",
    [
        None,
        1,
        "1-2",
        {"1": 2},
        [1, 2],
        [[1]],
        [[1, 2, 3]],
        [[2, 1]],
        [[0, 1]],
        [[-1, 1]],
        [[1, 2**63]],
        [[1, 10**30]],
        [[1, 1.5]],
        [[1, True]],
        [["1", "2"]],
        [[1, None]],
        [[1, 2], [3]],
        [[1, 1]] * 1_001,
    ],
)
def test_ranges_that_are_none(ranges: object) -> None:
    with pytest.raises(ValueError, match=r"^acks"):
        acks.decode(json.dumps({"stream": STREAM, "ranges": ranges}).encode())


@pytest.mark.parametrize("stream", [None, 1, "", "x", STREAM.upper(), STREAM + "\n", STREAM + "0", [STREAM]])
def test_streams_that_are_none(stream: object) -> None:
    with pytest.raises(ValueError, match=r"^acks\.stream"):
        acks.decode(json.dumps({"stream": stream, "ranges": []}).encode())


def test_whole_floats_become_integers() -> None:
    found = acks.decode(b'{"stream":"%b","ranges":[[1.0,2e0]]}' % STREAM.encode())
    assert found.ranges == ((1, 2),)
    assert [type(number) for number in found.ranges[0]] == [int, int]


@given(st.binary(max_size=100))
def test_any_bytes_give_a_message_or_one_line(payload: bytes) -> None:
    with pytest.raises(ValueError, match=r"^[ -~]{1,200}$"):
        acks.decode(payload)


@pytest.mark.parametrize("payload", [b"[" * 60_000, b" " * 70_000, b'{"stream":1,"stream":2}'])
def test_bombs(payload: bytes) -> None:
    with pytest.raises(ValueError, match=r"^(it is|a key)"):
        acks.decode(payload)
