"""JSON from strangers: bounded in size and depth, every key once, or one line that says what is wrong.

RFC 8259 leaves open what two equal keys, lone surrogates or NaN mean, so readers differ, and a message
that is one thing for the checker is another for the user. Here none of them is JSON.
"""

from __future__ import annotations

import json
from typing import Any, Final

import msgspec

DEPTH_LIMIT: Final = 32
"""Arrays and objects within each other. No message of ours needs more than a dozen."""

_DECODE: Final = msgspec.json.Decoder().decode
_ENCODE: Final = msgspec.json.Encoder().encode


def decode(payload: bytes, *, limit_bytes: int, depth: int = DEPTH_LIMIT) -> Any:  # noqa: ANN401
    """The value of one JSON text. Raises ValueError, one short line without any of the payload's text.

    Integers beyond 64 bits may come out as int or float: ask for their range before they are stored.
    """
    if len(payload) > limit_bytes:
        raise ValueError(f"it is too large: {len(payload)} bytes, at most {limit_bytes}")
    try:
        value: Any = _DECODE(payload)
    except UnicodeDecodeError:
        raise ValueError("it is not UTF-8") from None
    except ValueError as error:  # msgspec.DecodeError among them; its texts name positions, not contents
        raise ValueError(f"it is not JSON: {error}") from None
    except RecursionError:
        raise ValueError(f"it is nested too deeply: more than {depth} levels") from None
    # Cheap first: most messages have fewer brackets than levels allowed.
    if payload.count(b"[") + payload.count(b"{") > depth and _too_deep(value, depth):
        raise ValueError(f"it is nested too deeply: more than {depth} levels")
    # What encodes to the same bytes had no key twice; what was written otherwise must be read again.
    if _ENCODE(value) != payload:
        _refuse_twins(payload)
    return value


def decode_object(payload: bytes, *, limit_bytes: int, depth: int = DEPTH_LIMIT) -> dict[str, Any]:
    """As ``decode``, of one JSON object. Raises ValueError, one short line."""
    value = decode(payload, limit_bytes=limit_bytes, depth=depth)
    if not isinstance(value, dict):
        raise ValueError("it is not one JSON object: {...}")
    return value


def canonical(value: object) -> str:
    """The same text for the same value: names sorted, no blanks, ASCII."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def _too_deep(value: object, depth: int) -> bool:
    level = [value]
    for _ in range(depth):
        inner: list[object] = []
        for item in level:
            if isinstance(item, dict):
                inner.extend(item.values())
            elif isinstance(item, list):
                inner.extend(item)
        if not inner:
            return False
        level = inner
    return any(isinstance(item, dict | list) for item in level)


def _refuse_twins(payload: bytes) -> None:
    try:
        json.loads(payload, object_pairs_hook=_once, parse_int=float)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _once(pairs: list[tuple[str, object]]) -> None:
    if len({key for key, _ in pairs}) != len(pairs):
        raise ValueError("a key is in it twice")
