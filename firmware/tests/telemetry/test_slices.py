from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugmeter.telemetry import slices

TEXTS = st.text(st.characters(codec="utf-8"), max_size=8) | st.sampled_from(
    ['"', "\\", '\\"', "[", "]}", ","]
)
VALUES = st.recursive(
    st.none() | st.integers() | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)


@given(st.lists(VALUES, min_size=1, max_size=5), st.sampled_from([None, 1]))
def test_one_broken_element_does_not_move_the_others(values: list[object], indent: int | None) -> None:
    texts = [json.dumps(value, indent=indent).encode() for value in values]
    assert slices.elements(b"[%b]" % b",".join(texts)) == texts
    broken = [*texts, rb'"\ud800"', *texts]
    assert slices.elements(b" [%b]\n" % b" ,\t".join(broken)) == broken


def test_no_elements() -> None:
    assert slices.elements(b" [ ] ") == []


def is_array(payload: bytes) -> bool:
    try:
        return isinstance(json.loads(payload), list)
    except ValueError:
        return False


@given(st.lists(st.sampled_from([b"[", b"]", b"{", b"}", b'"', b"\\", b",", b" ", b"1", b":"]), max_size=24))
def test_any_bytes_give_elements_or_one_line(parts: list[bytes]) -> None:
    payload = b"".join(parts)
    try:
        found = slices.elements(payload)
    except ValueError:
        assert not is_array(payload)
        return
    assert sum(map(len, found)) <= len(payload)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"{}",
        b'"[]"',
        b"[",
        b"]",
        b"[}",
        b"[[]",
        b"[1]]",
        b"[1],[2]",
        b'["]',
        b'["\\"]',
        b"[" * 100_000,
        b"[" * 100_000 + b"}",
    ],
)
def test_what_is_no_array(payload: bytes) -> None:
    with pytest.raises(ValueError, match=r"^(it|its|a string in it) "):
        slices.elements(payload)


def test_a_million_brackets_are_one_element() -> None:
    bomb = b"[" * 500_000 + b"]" * 500_000
    assert slices.elements(b"[1,%b,2]" % bomb) == [b"1", bomb, b"2"]
