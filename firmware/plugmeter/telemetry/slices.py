"""The elements of a JSON array as bytes, each as it was written, the broken ones among them too."""

from __future__ import annotations

import re
from typing import Final

import msgspec

_SPLIT: Final = msgspec.json.Decoder(list[msgspec.Raw]).decode
_SPACE: Final = b" \t\r\n"
# A whole string, a string that never ends, or what structure is made of. Nothing in it backtracks.
_TOKENS: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|["\[\]{},]', re.DOTALL).finditer


def elements(payload: bytes) -> list[bytes]:
    """Each element of the array, not necessarily valid JSON. Raises ValueError where there is no array.

    msgspec splits what is valid throughout. Where it finds a fault (a lone surrogate, a thousand brackets
    within each other), only the brackets and commas are looked at, so that the other elements survive.
    """
    try:
        return [bytes(raw) for raw in _SPLIT(payload)]
    except (ValueError, RecursionError):
        return _by_brackets(payload)


def _by_brackets(payload: bytes) -> list[bytes]:
    text = payload.strip(_SPACE)
    if not (text.startswith(b"[") and text.endswith(b"]")):
        raise ValueError("it does not begin with [ and end with ]")
    found: list[bytes] = []
    closing: list[bytes] = []
    start = 1
    for token in _TOKENS(text):
        mark = token[0]
        if mark == b'"':
            raise ValueError("a string in it never ends")
        if mark in (b"[", b"{"):
            closing.append(b"]" if mark == b"[" else b"}")
        elif mark in (b"]", b"}"):
            if not closing or closing.pop() != mark:
                raise ValueError("its brackets do not match")
            if not closing and token.end() != len(text):
                raise ValueError("it goes on after its end")
        elif mark == b"," and len(closing) == 1:
            found.append(text[start : token.start()].strip(_SPACE))
            start = token.end()
    if closing:
        raise ValueError("its brackets do not match")
    found.append(text[start:-1].strip(_SPACE))
    return found
