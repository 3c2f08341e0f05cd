"""Wall time as messages write it (RFC 3339) and as we keep it (nanoseconds since 1970). Pure."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Final

NS: Final = 1_000_000_000
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_EARLIEST_US: Final = (datetime.min.replace(tzinfo=UTC) - _EPOCH) // timedelta(microseconds=1)
_LATEST_US: Final = (datetime.max.replace(tzinfo=UTC) - _EPOCH) // timedelta(microseconds=1)
# Only this century and the next: what is beyond 2262 has no place in 64 bits of nanoseconds.
_TEXT: Final = re.compile(r"(2[01]\d\d-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d)", re.ASCII)


def instant(text: str) -> int | None:
    """Nanoseconds since 1970 of an RFC 3339 time of the years 2000 to 2199; None for any other text."""
    match = _TEXT.fullmatch(text)
    if match is None:
        return None
    seconds, fraction, zone = match.groups()
    try:
        moment = datetime.fromisoformat(seconds + ("+00:00" if zone == "Z" else zone))
    except ValueError:  # 31 February
        return None
    return (moment - _EPOCH) // timedelta(seconds=1) * NS + int((fraction or "0").ljust(9, "0"))


def rfc3339(time_ns: int) -> str:
    """``time_ns`` in UTC, to the microsecond: 2026-11-22T09:30:00.125000Z. What no calendar has becomes its
    first or last day: a clock may be set to anything, and what it stamps is told all the same."""
    second, fraction = divmod(min(max(time_ns // 1_000, _EARLIEST_US), _LATEST_US), 1_000_000)
    return f"{_second(second)}.{fraction:06}Z"


@lru_cache(maxsize=64)  # records come many a second
def _second(second: int) -> str:
    return (_EPOCH + timedelta(seconds=second)).replace(tzinfo=None).isoformat()
