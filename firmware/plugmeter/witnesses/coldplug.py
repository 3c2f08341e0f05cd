"""The coldplug witness: which USB devices there are, read from sysfs without waiting for an event.

Source: Documentation/ABI/stable/sysfs-bus-usb and testing/sysfs-bus-usb of the kernel. Reading a
descriptor string takes the device's lock, so a scan may wait for an enumeration that is under way.
"""

from __future__ import annotations

import errno
import time
from dataclasses import dataclass
from pathlib import Path

from plugmeter.errors import PlugmeterError
from plugmeter.measure.presence import port_order
from plugmeter.records import Device, Gap, Presence

_GONE = frozenset({errno.ENOENT, errno.ENODEV, errno.ENXIO, errno.ENOTDIR})


@dataclass(frozen=True, slots=True)
class Scan:
    """What one look at sysfs gave.

    ``vanished``: devices that went while they were being read, which is normal and leaves nothing
    unknown. ``unreadable``: devices that are there and could not be read (EACCES, EIO, EPROTO, a
    number that is none): of these we do not know.
    """

    devices: tuple[Device, ...]
    vanished: int = 0
    unreadable: int = 0


def survey(sysfs: Path = Path("/sys")) -> Scan:
    """Every USB device in ``sysfs``/bus/usb/devices but root hubs, in order of port.

    A kernel without USB has no such directory and no devices. Raises PlugmeterError if the directory
    is there and cannot be listed.
    """
    directory = sysfs / "bus/usb/devices"
    try:
        names = [entry.name for entry in directory.iterdir()]
    except (FileNotFoundError, NotADirectoryError):
        return Scan(devices=())
    except OSError as error:
        raise PlugmeterError(f"cannot list the USB devices in {directory}: {error.strerror}") from error
    devices = []
    vanished = unreadable = 0
    for name in sorted(filter(_is_device, names), key=port_order):
        try:
            devices.append(_device(directory / name))
        except OSError as error:
            if error.errno in _GONE:
                vanished += 1
            else:
                unreadable += 1
        except ValueError:
            unreadable += 1
    return Scan(devices=tuple(devices), vanished=vanished, unreadable=unreadable)


def scan(sysfs: Path = Path("/sys")) -> tuple[Device, ...]:
    """The devices alone; ``survey`` also tells how many could not be read."""
    return survey(sysfs).devices


def take(reason: str, sysfs: Path = Path("/sys")) -> Presence:
    """A scan as a record; ``reason`` is start, resync or end, ``t_ns`` the moment it began."""
    return look(reason, sysfs)[0]


def look(reason: str, sysfs: Path = Path("/sys")) -> tuple[Presence] | tuple[Presence, Gap]:
    """A scan as a record, and a Gap (cause ``unreadable``) for devices that are there but unknown."""
    began_ns = time.monotonic_ns()
    found = survey(sysfs)
    presence = Presence(t_ns=began_ns, reason=reason, devices=found.devices)
    if not found.unreadable:
        return (presence,)
    gap = Gap(
        t_ns=time.monotonic_ns(),
        witness="coldplug",
        cause="unreadable",
        count=found.unreadable,
        since_ns=began_ns,
    )
    return (presence, gap)


def _is_device(name: str) -> bool:
    """Neither an interface (1-1:1.0) nor a root hub (usb1)."""
    return ":" not in name and not name.startswith("usb")


def _device(path: Path) -> Device:
    return Device(
        port=path.name,
        busnum=int(_attribute(path, "busnum")),
        devnum=int(_attribute(path, "devnum")),
        vendor_id=_attribute(path, "idVendor"),
        product_id=_attribute(path, "idProduct"),
        serial=_serial(path),
    )


def _attribute(path: Path, name: str) -> str:
    # Descriptor strings come from the stick: whatever they hold, they are text to us.
    return (path / name).read_text(encoding="utf-8", errors="replace").strip()


def _serial(path: Path) -> str:
    """Empty if the stick has none; the file is there only if it has."""
    try:
        return _attribute(path, "serial")
    except FileNotFoundError:
        if not path.exists():
            raise
        return ""
