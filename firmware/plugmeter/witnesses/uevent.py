"""What the kernel writes about one event: ``bytes -> Uevent | Malformed``, pure and total.

Layout (lib/kobject_uevent.c): ``ACTION@DEVPATH`` and then ``KEY=VALUE`` pairs, each ended by a NUL.
ACTION, DEVPATH and SUBSYSTEM come first, then what drivers/base/core.c:dev_uevent() adds (MAJOR,
MINOR, DEVNAME, DEVMODE, DEVUID, DEVGID, DEVTYPE), then bus and class, and SEQNUM last.
"""

from __future__ import annotations

import re
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

# The order in which the kernel writes. Whatever has this form is read three times as fast as by the
# general parser; any other form goes the general way, with the same answer (a property of the tests).
_AS_THE_KERNEL_WRITES = re.compile(
    r"([a-z]+)@(/[^\0]*)\0ACTION=\1\0DEVPATH=\2\0SUBSYSTEM=([^\0]+)\0"
    r"(?:MAJOR=[^\0]*\0MINOR=[^\0]*\0DEVNAME=([^\0]*)\0"
    r"(?:DEVMODE=[^\0]*\0)?(?:DEVUID=[^\0]*\0)?(?:DEVGID=[^\0]*\0)?)?"
    r"(?:DEVTYPE=([^\0]*)\0)?"
    r"(?:(?!SEQNUM=|ACTION=|DEVPATH=|SUBSYSTEM=|DEVNAME=|DEVTYPE=)[^\0=]++=[^\0]*+\0)*+"
    r"SEQNUM=([0-9]{1,19})\0",
).fullmatch


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
        action, devpath, subsystem, devname, devtype, seqnum = match.groups("")
        return Uevent(t_ns, witness, int(seqnum), action, devpath, subsystem, devtype, devname)
    return _parse_any_order(text, t_ns, witness)


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
