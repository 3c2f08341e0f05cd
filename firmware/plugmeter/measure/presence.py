"""What differs between two coldplug scans: what was plugged and pulled while nobody looked.

``PresenceBook`` holds a run's scans against each other and against what the witnesses said meanwhile.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Literal, TypeAlias

from plugmeter.measure.enumerations import Enumeration
from plugmeter.records import Device, Presence

ChangeKind: TypeAlias = Literal["appeared", "vanished", "replaced"]


@dataclass(frozen=True, slots=True)
class Change:
    """One port that is not as it was. ``before`` is None if it appeared, ``after`` if it vanished.

    A change is net: a device that was pulled and plugged again is ``replaced`` within one boot, for
    its devnum is another, and how often it was is not to be known.
    """

    port: str
    kind: ChangeKind
    before: Device | None
    after: Device | None


def differences(before: Presence, after: Presence, *, same_boot: bool = True) -> list[Change]:
    """The changes from ``before`` to ``after``, in order of port.

    Within one boot a device is the same if its port, bus number and devnum are, and nothing that
    both scans know of it speaks against that: devnum comes round again after 127 plugs on a bus
    (drivers/usb/core/hub.c, choose_devnum). A field that one of them could not read is no difference.

    Across boots (``same_boot=False``) numbers mean nothing, and a device is the same if port, vendor,
    product and serial are.
    """
    was = {device.port: device for device in before.devices}
    now = {device.port: device for device in after.devices}
    changes = []
    for port in sorted(was.keys() | now.keys(), key=port_order):
        old, new = was.get(port), now.get(port)
        if old is None:
            changes.append(Change(port, "appeared", None, new))
        elif new is None:
            changes.append(Change(port, "vanished", old, None))
        elif not (_is_same_plug(old, new) if same_boot else _is_alike(old, new)):
            changes.append(Change(port, "replaced", old, new))
    return changes


UNDER_WAY_NS = 1_000_000_000
"""The kernel shows a device in sysfs before it tells of it: an enumeration that comes no later than this
after a scan takes the difference back that the scan found."""

MOST_PORTS = 4096
"""Ports that a book follows; what happens on further ones is counted in ``overlooked``."""


@dataclass(frozen=True, slots=True)
class PresenceAccount:
    """What a run's coldplug scans showed.

    ``at_start`` and ``at_end`` are numbers of devices, None where there was no such scan. ``before_start``
    is what changed from the scan that the run before left to the one at the start, None where there
    was none. ``appeared`` and ``vanished`` were found by ``resyncs`` scans and told by no enumeration.
    """

    at_start: int | None
    at_end: int | None
    before_start: dict[ChangeKind, int] | None
    resyncs: int
    appeared: int
    vanished: int
    overlooked: int


class PresenceBook:
    """Follows what is plugged, by scans and by enumerations, in the order of their times.

    Its memory is bounded by ``MOST_PORTS``: of a scan it keeps the ports, and only of the last run's
    and the first one's the devices, until they are compared.
    """

    __slots__ = (
        "_at_end",
        "_at_start",
        "_before_start",
        "_found",
        "_last",
        "_open",
        "_open_until_ns",
        "_overlooked",
        "_plugged",
        "_resyncs",
    )

    def __init__(self) -> None:
        self._last: Presence | None = None
        self._at_start: int | None = None
        self._at_end: int | None = None
        self._before_start: dict[ChangeKind, int] | None = None
        self._resyncs = 0
        self._plugged: set[str] = set()
        self._found: Counter[bool] = Counter()  # by whether it appeared
        self._open: dict[str, bool] = {}  # what the latest scan found, and may still be under way
        self._open_until_ns = 0
        self._overlooked = 0

    def __contains__(self, port: str) -> bool:
        """Whether a device is on ``port``, by what is known now."""
        return port in self._plugged

    def look(self, presence: Presence) -> None:
        """Take a scan. Its reason says which: last (also of another boot), start, resync, end."""
        match presence.reason:
            case "last" | "last_other_boot":
                self._last = presence
            case "start":
                self._begin(presence)
            case "resync":
                self._resync(presence)
            case "end":
                self._at_end = len(presence.devices)
            case _:
                self._overlooked += 1

    def hear(self, enumeration: Enumeration) -> None:
        """Take an enumeration that a witness told of."""
        port, added = enumeration.port, enumeration.added
        if self._open:
            if enumeration.t_ns > self._open_until_ns:
                self._open.clear()
            elif self._open.get(port) is added:
                self._found[added] -= 1
                del self._open[port]
        if not added:
            self._plugged.discard(port)
        elif len(self._plugged) < MOST_PORTS:
            self._plugged.add(port)
        else:
            self._overlooked += port not in self._plugged

    def account(self) -> PresenceAccount:
        """What is known so far."""
        return PresenceAccount(
            at_start=self._at_start,
            at_end=self._at_end,
            before_start=self._before_start,
            resyncs=self._resyncs,
            appeared=self._found[True],
            vanished=self._found[False],
            overlooked=self._overlooked,
        )

    def _begin(self, presence: Presence) -> None:
        self._at_start = len(presence.devices)
        self._plugged = self._ports(presence)
        if self._last is not None:
            same_boot = self._last.reason == "last"
            changes = Counter(
                change.kind for change in differences(self._last, presence, same_boot=same_boot)
            )
            self._before_start = {kind: changes[kind] for kind in ("appeared", "vanished", "replaced")}
            self._last = None

    def _resync(self, presence: Presence) -> None:
        self._resyncs += 1
        now = self._ports(presence)
        self._open = dict.fromkeys(now - self._plugged, True) | dict.fromkeys(self._plugged - now, False)
        self._open_until_ns = presence.t_ns + UNDER_WAY_NS
        self._found.update(self._open.values())
        self._plugged = now

    def _ports(self, presence: Presence) -> set[str]:
        ports = {device.port for device in presence.devices[:MOST_PORTS]}
        self._overlooked += max(0, len(presence.devices) - MOST_PORTS)
        return ports


def port_order(port: str) -> tuple[tuple[int, int | str], ...]:
    """A key by which 1-2 comes before 1-10, and 1-1.4 before 1-2; any text is put somewhere."""
    parts = port.replace("-", ".").split(".")
    # int() refuses absurd lengths; a port number has two digits at most.
    return tuple((0, int(part)) if part.isdecimal() and len(part) < 10 else (1, part) for part in parts)


def _is_same_plug(old: Device, new: Device) -> bool:
    if (old.busnum, old.devnum) != (new.busnum, new.devnum):
        return False
    known = (
        (old.vendor_id, new.vendor_id),
        (old.product_id, new.product_id),
        (old.serial, new.serial),
    )
    return all(one == other or not one or not other for one, other in known)


def _is_alike(old: Device, new: Device) -> bool:
    return (old.vendor_id, old.product_id, old.serial) == (new.vendor_id, new.product_id, new.serial)
