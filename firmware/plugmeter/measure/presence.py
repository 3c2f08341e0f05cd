"""What differs between two coldplug scans: what was plugged and pulled while nobody looked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

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
