"""The numbers that the kernel hands out at each plug: USB device numbers, SCSI hosts, disks. Pure."""

from __future__ import annotations

import itertools

from plugmeter.errors import RigError
from plugmeter.rigs.stick import Attachment, Stick, bus_of

_LAST_DEVNUM = 127
_ROOT_HUB = 1


class Numbering:
    """Gives and takes numbers as the kernel does.

    USB device numbers go round from 2 to 127 on each bus (drivers/usb/core/hub.c, choose_devnum; 1 is
    the root hub's); SCSI hosts, disks and sg numbers are the lowest that are free; DISKSEQ only rises.
    ``first_host`` is where the SCSI hosts of the sticks begin: a machine has some of its own.
    """

    def __init__(self, first_host: int = 4) -> None:
        self._first_host = first_host
        self._next_devnum: dict[int, int] = {}
        self._devnums: dict[int, set[int]] = {}
        self._units: set[int] = set()
        self._disk_sequence = 0

    def attach(self, stick: Stick, port: str) -> Attachment:
        """Numbers for a stick in a port. Raises RigError when its bus is full."""
        unit = next(number for number in range(len(self._units) + 1) if number not in self._units)
        devnum = self._take_devnum(bus_of(port))
        self._units.add(unit)
        self._disk_sequence += 1
        return Attachment(
            stick=stick,
            port=port,
            devnum=devnum,
            host=self._first_host + unit,
            disk=unit,
            generic=unit,
            disk_sequence=self._disk_sequence,
        )

    def detach(self, attached: Attachment) -> None:
        """The numbers are free again."""
        self._devnums[attached.busnum].remove(attached.devnum)
        self._units.remove(attached.disk)

    def _take_devnum(self, bus: int) -> int:
        taken = self._devnums.setdefault(bus, set())
        start = self._next_devnum.get(bus, _ROOT_HUB + 1)
        for devnum in itertools.chain(range(start, _LAST_DEVNUM + 1), range(_ROOT_HUB + 1, start)):
            if devnum not in taken:
                taken.add(devnum)
                self._next_devnum[bus] = devnum + 1 if devnum < _LAST_DEVNUM else _ROOT_HUB + 1
                return devnum
        raise RigError(f"USB bus {bus} is full: it has numbers for {_LAST_DEVNUM - 1} devices at a time")
