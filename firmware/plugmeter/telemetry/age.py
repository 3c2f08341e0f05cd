"""The age of records, by the time that the device was on: no clock on the wall is asked (pure).

A wall clock that is set a year forward would make every record too old at once, and a Pi without a clock
chip does just that when it first hears of the time. So age counts what certainly passed: within one boot
the time since then, suspend included (CLOCK_BOOTTIME, clock_gettime(2)); from an earlier boot on, the time
since this one. How long the device was off in between nobody knows, and it does not count.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

MARKS: Final = 256
"""Into so many steps the greatest age is divided: a record goes at most one of them late, never early."""

_LEAST_STEP_NS: Final = 1_000_000_000
_USUAL_STEP_NS: Final = 3_600_000_000_000


@dataclass(frozen=True, slots=True)
class Instant:
    """A moment of one boot of the machine."""

    boot_id: str
    """Of /proc/sys/kernel/random/boot_id; empty where there is none, which is never the same boot."""
    boot_ns: int
    """CLOCK_BOOTTIME."""


def lived_ns(lived_then_ns: int, then: Instant, now: Instant) -> int:
    """How long the device has been on altogether, by what is known from ``then``. Never goes back."""
    if now.boot_id and now.boot_id == then.boot_id:
        return lived_then_ns + max(0, now.boot_ns - then.boot_ns)
    return lived_then_ns + max(0, now.boot_ns)


def step_ns(max_age_ns: int) -> int:
    """How far apart the marks are by which the age of records is told; ``max_age_ns`` 0 is no limit."""
    if max_age_ns <= 0:
        return _USUAL_STEP_NS
    return min(_USUAL_STEP_NS * 24, max(_LEAST_STEP_NS, max_age_ns // MARKS))
