from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugmeter.telemetry.commands.strict import DEPTH_LIMIT, MalformedError, canonical, read_object


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "not JSON: Expecting value at character 1"),
        (b"\xff{}", "not UTF-8: byte 1 cannot be text"),
        (b"[]", "it must be one JSON object: {...}"),
        (b'"{}"', "it must be one JSON object: {...}"),
        (b"{} {}", "not JSON: Extra data at character 4"),
        (b'{"a": 1, "a": 1}', '"a" is there twice'),
        (b'{"b": {"a": 1, "a": 2}}', '"a" is there twice'),
        (b'{"a": NaN}', "NaN is no JSON"),
        (b'{"a": -Infinity}', "-Infinity is no JSON"),
        (b'{"a": 1e999}', "a number is too large"),
        (b'{"a": "\\ud800"}', "a text has half a surrogate pair in it"),
        (b'{"a": ' + b"9" * 5_000 + b"}", "a number has too many digits"),
        (b'{"a": ' + b"[" * 15 + b"]" * 15 + b"}", None),
        (b'{"a": ' + b"[" * 16 + b"]" * 16 + b"}", "nested too deep"),
        (b'{"a": ' + b"[" * 8_000 + b"]" * 8_000 + b"}", "nested too deep"),
    ],
)
def test_what_two_readers_could_understand_differently(data: bytes, why: str | None) -> None:
    if why is None:
        assert read_object(data) == json.loads(data)
        return
    with pytest.raises(MalformedError) as caught:
        read_object(data)
    assert str(caught.value) == why


JSON: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.text(st.characters(codec="utf-8")), inner, max_size=3),
    max_leaves=10,
)  # fmt: skip


@given(st.dictionaries(st.text(st.characters(codec="utf-8")), JSON, max_size=4))
def test_any_decent_object_reads_as_itself_however_it_is_written(value: dict[str, Any]) -> None:
    assert read_object(json.dumps(value)) == value
    assert read_object(json.dumps(value, ensure_ascii=False, indent=1).encode()) == value
    assert read_object(canonical(value)) == value


@given(st.dictionaries(st.text(), JSON, max_size=4), st.randoms())
def test_the_canonical_text_does_not_depend_on_the_order(value: dict[str, Any], random: Any) -> None:
    names = list(value)
    random.shuffle(names)
    assert canonical({name: value[name] for name in names}) == canonical(value)


@given(st.binary(max_size=200) | st.text(max_size=200))
def test_any_bytes_give_an_object_or_one_line(data: bytes | str) -> None:
    try:
        read = read_object(data)
    except MalformedError as error:
        assert str(error).isprintable()
    else:
        assert isinstance(read, dict)


def test_the_limit_leaves_room_for_a_configuration() -> None:
    value: dict[str, Any] = {"arguments": {"config": {"inotify": {"directories": ["/dev"]}}}}
    assert DEPTH_LIMIT > 5
    assert read_object(canonical(value)) == value
