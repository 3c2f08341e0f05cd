"""Storms: expected events that came close upon one another, told apart by quiet.

The unit of the bootstrap: what is lost together, is lost within one storm.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Storm:
    """``n`` expected events, ``lost`` of them lost; the first came at ``t_from_ns``."""

    t_from_ns: int
    t_until_ns: int
    """The time of the last."""
    n: int
    lost: int


def storms(events: Iterable[tuple[int, bool]], quiet_ns: int) -> list[Storm]:
    """Groups events, each (time, whether it was lost), in any order, into storms in the order of time.

    A pause longer than ``quiet_ns`` between two events begins a new storm. The n and the lost of all
    storms add up to those of the events.
    """
    if quiet_ns < 0:
        raise ValueError(f"a quiet time of {quiet_ns} ns cannot be")
    found: list[Storm] = []
    t_from_ns = t_until_ns = n = lost = 0
    for t_ns, is_lost in sorted(events):
        if n and t_ns - t_until_ns > quiet_ns:
            found.append(Storm(t_from_ns, t_until_ns, n, lost))
            n = lost = 0
        if not n:
            t_from_ns = t_ns
        t_until_ns = t_ns
        n += 1
        lost += is_lost
    if n:
        found.append(Storm(t_from_ns, t_until_ns, n, lost))
    return found
