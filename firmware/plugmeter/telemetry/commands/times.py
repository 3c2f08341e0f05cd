"""Wall time as messages write it (RFC 3339) and as we keep it (nanoseconds since 1970). Pure."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Final

NS: Final = 1_000_000_000
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
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
    """``time_ns`` in UTC, to the millisecond: 2026-11-22T09:30:00.125Z. Any clock has one: it is cut to the
    years 1 to 9999."""
    milliseconds = time_ns // 1_000_000
    try:
        moment = _EPOCH + timedelta(milliseconds=milliseconds)
    except OverflowError:
        moment = datetime.max if time_ns > 0 else datetime.min
    return moment.replace(tzinfo=None).isoformat(timespec="milliseconds") + "Z"
