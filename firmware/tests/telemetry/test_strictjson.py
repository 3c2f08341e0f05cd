from __future__ import annotations

import json
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugmeter.telemetry import strictjson

TEXT = st.text(st.characters(codec="utf-8"))
NUMBERS = st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)


def decode(payload: bytes, limit_bytes: int = 100_000) -> object:
    return strictjson.decode(payload, limit_bytes=limit_bytes)


@given(VALUES, st.sampled_from([None, 1]))
def test_what_json_writes_is_read(value: object, indent: int | None) -> None:
    assert decode(json.dumps(value, indent=indent).encode()) == value


@given(st.binary(max_size=200))
def test_any_bytes_give_a_value_or_one_line(payload: bytes) -> None:
    try:
        decode(payload)
    except ValueError as error:
        assert str(error).isprintable()


BAD = {
    "nothing": b"",
    "spaces": b"   ",
    "NaN": b"NaN",
    "Infinity": b"[Infinity]",
    "a number without end": b"9" * 50_000,
    "a number too large": b"1e999",
    "not UTF-8": b'"\xff"',
    "a surrogate in UTF-8": b'"\xed\xa0\x80"',
    "a lone surrogate": rb'"\ud800"',
    "a lone surrogate as a key": rb'{"\udfff":1}',
    "a NUL in a text": b'"\0"',
    "a byte order mark": b"\xef\xbb\xbf{}",
    "two values": b"{}{}",
    "a comment": b"[1/*2*/]",
    "a comma too many": b"[1,]",
    "cut": b'{"a": [1, 2',
    "a key twice": b'{"a":1,"a":1}',
    "a key twice, written differently": rb'{"a":1,"\u0061":2}',
    "a key twice, deep inside": b'{"b":[{"a":1,"a":1}]}',
    "a key twice beside a huge number": b'{"a":1,"a":' + b"1" * 30 + b"}",
    "too deep by one": b"[" * 33 + b"]" * 33,
    "deeper than any stack": b"[" * 50_000,
    "objects deeper than any stack": b'{"a":' * 10_000 + b"1" + b"}" * 10_000,
}


@pytest.mark.parametrize("payload", BAD.values(), ids=BAD.keys())
def test_what_is_refused(payload: bytes) -> None:
    with pytest.raises(ValueError, match=r"^it is |^a key is in it twice$") as caught:
        decode(payload)
    assert len(str(caught.value)) < 200


def test_the_size_is_looked_at_first() -> None:
    with pytest.raises(ValueError, match="it is too large: 10000001 bytes, at most 100000"):
        decode(b"[" * 10_000_001)


def test_as_deep_as_is_allowed() -> None:
    assert decode(b"[" * 32 + b"]" * 32) is not None
    assert strictjson.decode(b"[[1],[2],[3]]", limit_bytes=99, depth=2) == [[1], [2], [3]]
    with pytest.raises(ValueError, match="more than 2 levels"):
        strictjson.decode(b"[[1],[[2]]]", limit_bytes=99, depth=2)


@pytest.mark.parametrize("payload", [b"[]", b'"{}"', b"1", b"null"])
def test_what_is_no_object(payload: bytes) -> None:
    with pytest.raises(ValueError, match=r"^it is not one JSON object: \{\.\.\.\}$"):
        strictjson.decode_object(payload, limit_bytes=99)


@given(st.dictionaries(TEXT, VALUES, max_size=4))
def test_an_object_reads_as_itself_however_it_is_written(value: dict[str, object]) -> None:
    for text in (json.dumps(value), json.dumps(value, ensure_ascii=False), strictjson.canonical(value)):
        assert strictjson.decode_object(text.encode(), limit_bytes=100_000) == value


@given(st.dictionaries(st.text(), VALUES, max_size=4), st.randoms())
def test_the_canonical_text_does_not_depend_on_the_order(value: dict[str, object], random: Random) -> None:
    names = list(value)
    random.shuffle(names)
    assert strictjson.canonical({name: value[name] for name in names}) == strictjson.canonical(value)
