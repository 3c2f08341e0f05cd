"""Acknowledgements: what a controller has committed of a stream, as a message and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from plugmeter.telemetry import schemas

RANGES_LIMIT: Final = 1_000
"""Ranges in one message; more take more messages."""
_LIMIT_BYTES: Final = 65_536


@dataclass(frozen=True, slots=True)
class Acknowledgement:
    """The controller has the records and tombstones of ``stream`` in ``ranges`` (inclusive)."""

    stream: str
    ranges: tuple[tuple[int, int], ...]


def encode(stream: str, ranges: Sequence[tuple[int, int]]) -> bytes:
    """The message. Raises ValueError for more than RANGES_LIMIT ranges."""
    if len(ranges) > RANGES_LIMIT:
        raise ValueError(f"{len(ranges)} ranges are too many for one acknowledgement of {RANGES_LIMIT}")
    return msgspec.json.encode({"stream": stream, "ranges": ranges})


def decode(payload: bytes) -> Acknowledgement:
    """Read a message from the ack topic. Raises ValueError in one line, for any bytes.

    All ranges are in order, each 1 <= first <= last <= 2^63 - 1: one that is not makes the message one of a
    confused controller, and nothing in it is believed.
    """
    message = schemas.decode("acks", payload, _LIMIT_BYTES)
    ranges = tuple((int(first), int(last)) for first, last in message["ranges"])
    for first, last in ranges:
        if first > last:
            raise ValueError(f"acks: the range {first} to {last} goes backwards")
    return Acknowledgement(message["stream"], ranges)
