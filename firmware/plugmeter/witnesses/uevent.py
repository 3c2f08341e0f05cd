"""What the kernel writes about one event: ``bytes -> Uevent | Malformed``, pure and total.

Layout (lib/kobject_uevent.c): ``ACTION@DEVPATH`` and then ``KEY=VALUE`` pairs, each ended by a NUL.
ACTION, DEVPATH and SUBSYSTEM come first, then what drivers/base/core.c:dev_uevent() adds (MAJOR,
MINOR, DEVNAME, DEVMODE, DEVUID, DEVGID, DEVTYPE), then bus and class, and SEQNUM last.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from plugmeter.records import Uevent, WitnessName

Fault: TypeAlias = Literal[
    "empty",
    "no_nul",
    "not_utf8",
    "no_header",
    "not_a_pair",
    "duplicate_key",
    "missing_key",
    "bad_seqnum",
    "contradiction",
]

IDENTITY_KEYS = frozenset({"ACTION", "DEVPATH", "SUBSYSTEM", "SEQNUM", "DEVTYPE", "DEVNAME"})
"""Keys that say which event this is. Given twice, nobody can tell which one was meant: malformed.
Other keys may repeat (a driver may add what its bus added before); they are not read."""

SEQNUM_MAX = 2**64 - 1

# The form in which the kernel writes: what differs from event to event (path, number), and in the middle
# what repeats, since one device's events say the same of it each time. The middle is read once and kept.
# Any other form goes the general way, with the same answer (a property of the tests).
_AS_THE_KERNEL_WRITES = re.compile(
    r"([a-z]+)@(/[^\0]*)\0ACTION=\1\0DEVPATH=\2\0SUBSYSTEM=(.*)\0SEQNUM=([0-9]{1,19})\0", re.DOTALL
).fullmatch

_MIDDLES_KEPT = 4096
_middles: dict[str, tuple[str, str, str]] = {}
_new = tuple.__new__  # Uevent(...) itself is a call in Python, and takes twice as long


@dataclass(frozen=True, slots=True)
class Malformed:
    """A message that is no uevent; ``fault`` says why."""

    fault: Fault


def parse(
    data: bytes | bytearray | memoryview, t_ns: int, witness: WitnessName = "netlink"
) -> Uevent | Malformed:
    """Read one message. Never raises, whatever the bytes; ``t_ns`` is when it was received."""
    try:
        text = str(data, "utf-8")
    except UnicodeDecodeError:
        return Malformed("not_utf8")
    match = _AS_THE_KERNEL_WRITES(text)
    if match is not None:
        action, devpath, middle, number = match.groups()
        identity = _middles.get(middle) or _read_middle(middle)
        if identity is not None:
            return _new(Uevent, (t_ns, witness, int(number), action, devpath) + identity)  # noqa: RUF005  faster
    return _parse_any_order(text, t_ns, witness)


def parse_many(
    stamps_ns: Sequence[int],
    slots: Sequence[memoryview],
    lengths: Sequence[int],
    witness: WitnessName = "netlink",
) -> list[Uevent | Malformed]:
    """``parse`` of the first ``lengths[i]`` bytes of each slot, an eighth faster: a storm is read by this."""
    matched, known, new = _AS_THE_KERNEL_WRITES, _middles, _new
    parsed: list[Uevent | Malformed] = []
    take = parsed.append
    for t_ns, slot, length in zip(stamps_ns, slots, lengths, strict=True):
        try:
            match = matched(str(slot[:length], "utf-8"))
        except UnicodeDecodeError:
            match = None
        if match is not None:
            action, devpath, middle, number = match.groups()
            identity = known.get(middle)
            if identity is not None:
                take(new(Uevent, (t_ns, witness, int(number), action, devpath) + identity))  # noqa: RUF005
                continue
        take(parse(slot[:length], t_ns, witness))
    return parsed


def _read_middle(middle: str) -> tuple[str, str, str] | None:
    """SUBSYSTEM, DEVTYPE and DEVNAME from what follows ``SUBSYSTEM=``; None if it is not sound."""
    subsystem, *pairs = middle.split("\0")
    found: dict[str, str] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            return None
        if key in IDENTITY_KEYS:
            if key in found or key not in ("DEVTYPE", "DEVNAME"):
                return None  # twice, or not where the kernel writes it: the general parser says what it is
            found[key] = value
    if not subsystem:
        return None
    if len(_middles) >= _MIDDLES_KEPT:
        _middles.clear()  # bounded, whatever comes; what repeats is soon there again
    identity = _middles[middle] = (subsystem, found.get("DEVTYPE", ""), found.get("DEVNAME", ""))
    return identity


def _parse_any_order(text: str, t_ns: int, witness: WitnessName) -> Uevent | Malformed:
    if not text:
        return Malformed("empty")
    if text[-1] != "\0":
        return Malformed("no_nul")
    header, *pairs = text[:-1].split("\0")
    action, at, devpath = header.partition("@")
    if not at or not action or not devpath.startswith("/"):
        return Malformed("no_header")
    found: dict[str, str] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            return Malformed("not_a_pair")
        if key in IDENTITY_KEYS:
            if key in found:
                return Malformed("duplicate_key")
            found[key] = value
    if not found.get("SUBSYSTEM") or "SEQNUM" not in found:
        return Malformed("missing_key")
    if found.get("ACTION", action) != action or found.get("DEVPATH", devpath) != devpath:
        return Malformed("contradiction")
    number = found["SEQNUM"]
    if not (number.isascii() and number.isdigit()) or len(number) > 20 or int(number) > SEQNUM_MAX:
        return Malformed("bad_seqnum")
    return Uevent(
        t_ns,
        witness,
        int(number),
        action,
        devpath,
        found["SUBSYSTEM"],
        found.get("DEVTYPE", ""),
        found.get("DEVNAME", ""),
    )
