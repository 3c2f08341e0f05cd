"""What the kernel says when a mass-storage stick is plugged or pulled. Pure: values in, bytes out.

Order and layout are those of a USB 2 stick with one partition as ``udevadm monitor --kernel
--property`` shows it on a 6.x kernel. The order of the variables is that of lib/kobject_uevent.c
(ACTION, DEVPATH, SUBSYSTEM), then drivers/base/core.c dev_uevent (MAJOR, MINOR, DEVNAME, DEVTYPE,
DRIVER), then bus, class and type. SEQNUM is not here: the kernel adds it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from plugmeter.errors import UsageError

_PORT = re.compile(r"(?P<bus>[1-9][0-9]{0,2})-[1-9][0-9]{0,2}(?:\.[1-9][0-9]{0,2}){0,6}", re.ASCII)
_VENDORS = ("0951", "0781", "090c", "058f", "13fe", "8564", "0930", "125f")
_REVISION = "0110"
_CONTROLLER = "/devices/pci0000:00/0000:00:14.0"
# Majors: Documentation/admin-guide/devices.txt; bsg has a dynamic one, from the top down.
_USB_MAJOR = 189
_SG_MAJOR = 21
_BSG_MAJOR = 244


@dataclass(frozen=True, slots=True)
class Stick:
    """One stick of the set, told apart by vendor, product and serial."""

    number: int

    @property
    def vendor_id(self) -> str:
        """idVendor, four hexadecimal digits."""
        return _VENDORS[self.number % len(_VENDORS)]

    @property
    def product_id(self) -> str:
        """idProduct, four hexadecimal digits."""
        return f"{(0x1000 + self.number) & 0xFFFF:04x}"

    @property
    def serial(self) -> str:
        """iSerial: no two sticks have the same."""
        return f"PM{self.number:010d}"


@dataclass(frozen=True, slots=True)
class Attachment:
    """A stick in a port, with the numbers that the kernel gave to its parts at this plug.

    ``port`` is the sysname (1-1.4); ``host`` the SCSI host's number, ``disk`` 0 for sda,
    ``generic`` 0 for sg0, ``disk_sequence`` the kernel's DISKSEQ.
    """

    stick: Stick
    port: str
    devnum: int
    host: int = 4
    disk: int = 0
    generic: int = 0
    disk_sequence: int = 1

    @property
    def busnum(self) -> int:
        """The USB bus of the port."""
        return bus_of(self.port)

    @property
    def disk_name(self) -> str:
        """sda .. sdz, sdaa .. (drivers/scsi/sd.c, sd_format_disk_name)."""
        letters = ""
        index = self.disk
        while index >= 0:
            letters = chr(ord("a") + index % 26) + letters
            index = index // 26 - 1
        return "sd" + letters

    @property
    def usb_node(self) -> str:
        """The device's own node, relative to /dev."""
        return f"bus/usb/{self.busnum:03d}/{self.devnum:03d}"


@dataclass(frozen=True, slots=True)
class KernelUevent:
    """One uevent before the kernel numbers it. ``node`` is the DEVNAME, empty where there is no node."""

    action: str
    devpath: str
    subsystem: str
    node: str
    variables: tuple[tuple[str, str], ...]

    @property
    def is_usb_device(self) -> bool:
        """Whether it is the device itself and not one of its parts."""
        return ("DEVTYPE", "usb_device") in self.variables

    @property
    def payload(self) -> bytes:
        """``ACTION@DEVPATH`` and the variables, each ended by NUL."""
        fields = [f"{self.action}@{self.devpath}"]
        fields += [f"ACTION={self.action}", f"DEVPATH={self.devpath}", f"SUBSYSTEM={self.subsystem}"]
        fields += [f"{key}={value}" for key, value in self.variables]
        return "\0".join(fields).encode("ascii") + b"\0"


def bus_of(port: str) -> int:
    """The bus number of a port's sysname. Raises UsageError for what is none."""
    match = _PORT.fullmatch(port)
    if match is None:
        raise UsageError(
            f"{port!r} is not a USB port: write bus-port, or bus-port.port behind a hub, as 1-1.4"
        )
    return int(match["bus"])


def device_path(port: str) -> str:
    """DEVPATH of the device in a port: behind hubs one directory for each."""
    bus = bus_of(port)
    ports = port.split("-", 1)[1].split(".")
    chain = "/".join(f"{bus}-{'.'.join(ports[: depth + 1])}" for depth in range(len(ports)))
    return f"{_CONTROLLER}/usb{bus}/{chain}"


def plug_events(attached: Attachment) -> tuple[KernelUevent, ...]:
    """Everything from the USB device's add to the SCSI disk's bind, in the kernel's order."""
    parts = _Parts(attached)
    return (
        parts.usb_device("add"),
        parts.usb_interface("add"),
        parts.host("add"),
        parts.scsi_host("add"),
        parts.usb_interface("bind"),
        parts.usb_device("bind"),
        parts.target("add"),
        parts.scsi("add"),
        parts.scsi_disk("add"),
        parts.scsi_device("add"),
        parts.scsi_generic("add"),
        parts.bsg("add"),
        parts.bdi("add"),
        parts.block("add"),
        parts.partition("add"),
        parts.scsi("bind"),
    )


def pull_events(attached: Attachment) -> tuple[KernelUevent, ...]:
    """From the leaves to the root, as __scsi_remove_device and usb_disconnect take it down."""
    parts = _Parts(attached)
    return (
        parts.bsg("remove"),
        parts.scsi_generic("remove"),
        parts.scsi_device("remove"),
        parts.scsi_disk("remove"),
        parts.partition("remove"),
        parts.bdi("remove"),
        parts.block("remove"),
        parts.scsi("unbind"),
        parts.scsi("remove"),
        parts.target("remove"),
        parts.scsi_host("remove"),
        parts.host("remove"),
        parts.usb_interface("unbind"),
        parts.usb_interface("remove"),
        parts.usb_device("unbind"),
        parts.usb_device("remove"),
    )


def plug_uevents(attached: Attachment) -> list[bytes]:
    """The payloads of ``plug_events``."""
    return [event.payload for event in plug_events(attached)]


def pull_uevents(attached: Attachment) -> list[bytes]:
    """The payloads of ``pull_events``."""
    return [event.payload for event in pull_events(attached)]


class _Parts:
    """The objects that the kernel makes of one stick, each as the uevent of an action upon it."""

    def __init__(self, attached: Attachment) -> None:
        self._at = attached
        self._usb = device_path(attached.port)
        self._interface = f"{self._usb}/{attached.port}:1.0"
        self._host = f"{self._interface}/host{attached.host}"
        self._address = f"{attached.host}:0:0:0"
        self._target = f"{self._host}/target{attached.host}:0:0"
        self._scsi = f"{self._target}/{self._address}"

    @property
    def _product(self) -> tuple[tuple[str, str], ...]:
        # drivers/usb/core/driver.c, usb_uevent: %x/%x/%x, without leading zeros
        stick = self._at.stick
        product = "/".join(f"{int(part, 16):x}" for part in (stick.vendor_id, stick.product_id, _REVISION))
        return (("PRODUCT", product), ("TYPE", "0/0/0"))

    def usb_device(self, action: str) -> KernelUevent:
        at = self._at
        return _event(
            action,
            self._usb,
            "usb",
            node=at.usb_node,
            number=(_USB_MAJOR, (at.busnum - 1) * 128 + at.devnum - 1),
            devtype="usb_device",
            driver="usb" if action == "bind" else "",
            more=(*self._product, ("BUSNUM", f"{at.busnum:03d}"), ("DEVNUM", f"{at.devnum:03d}")),
        )

    def usb_interface(self, action: str) -> KernelUevent:
        stick = self._at.stick
        modalias = (
            f"usb:v{stick.vendor_id.upper()}p{stick.product_id.upper()}d{_REVISION}"
            "dc00dsc00dp00ic08isc06ip50in00"
        )
        return _event(
            action,
            self._interface,
            "usb",
            devtype="usb_interface",
            driver="usb-storage" if action == "bind" else "",
            more=(*self._product, ("INTERFACE", "8/6/80"), ("MODALIAS", modalias)),
        )

    def host(self, action: str) -> KernelUevent:
        return _event(action, self._host, "scsi", devtype="scsi_host")

    def scsi_host(self, action: str) -> KernelUevent:
        return _event(action, f"{self._host}/scsi_host/host{self._at.host}", "scsi_host")

    def target(self, action: str) -> KernelUevent:
        return _event(action, self._target, "scsi", devtype="scsi_target")

    def scsi(self, action: str) -> KernelUevent:
        return _event(
            action,
            self._scsi,
            "scsi",
            devtype="scsi_device",
            driver="sd" if action == "bind" else "",
            more=(("MODALIAS", "scsi:t-0x00"),),
        )

    def scsi_disk(self, action: str) -> KernelUevent:
        return _event(action, f"{self._scsi}/scsi_disk/{self._address}", "scsi_disk")

    def scsi_device(self, action: str) -> KernelUevent:
        return _event(action, f"{self._scsi}/scsi_device/{self._address}", "scsi_device")

    def scsi_generic(self, action: str) -> KernelUevent:
        name = f"sg{self._at.generic}"
        number = (_SG_MAJOR, self._at.generic)
        return _event(action, f"{self._scsi}/scsi_generic/{name}", "scsi_generic", node=name, number=number)

    def bsg(self, action: str) -> KernelUevent:
        # bsg takes the lowest free minor, as sg does, and with sticks alone both are the same
        number = (_BSG_MAJOR, self._at.generic)
        return _event(
            action, f"{self._scsi}/bsg/{self._address}", "bsg", node=f"bsg/{self._address}", number=number
        )

    def bdi(self, action: str) -> KernelUevent:
        major, minor = self._disk_number
        return _event(action, f"/devices/virtual/bdi/{major}:{minor}", "bdi")

    def block(self, action: str) -> KernelUevent:
        name = self._at.disk_name
        return _event(
            action,
            f"{self._scsi}/block/{name}",
            "block",
            node=name,
            number=self._disk_number,
            devtype="disk",
            more=(("DISKSEQ", str(self._at.disk_sequence)),),
        )

    def partition(self, action: str) -> KernelUevent:
        name = self._at.disk_name
        major, minor = self._disk_number
        return _event(
            action,
            f"{self._scsi}/block/{name}/{name}1",
            "block",
            node=f"{name}1",
            number=(major, minor + 1),
            devtype="partition",
            more=(("DISKSEQ", str(self._at.disk_sequence)), ("PARTN", "1")),
        )

    @property
    def _disk_number(self) -> tuple[int, int]:
        # drivers/scsi/sd.c, sd_probe and sd_major: 16 majors of 16 disks each, then over again
        index = self._at.disk
        block = (index & 0xF0) >> 4
        major = 8 if block == 0 else 64 + block if block < 8 else 120 + block
        return major, (index & 0xF) << 4 | (index & 0xFFF00)


def _event(
    action: str,
    devpath: str,
    subsystem: str,
    *,
    node: str = "",
    number: tuple[int, int] | None = None,
    devtype: str = "",
    driver: str = "",
    more: tuple[tuple[str, str], ...] = (),
) -> KernelUevent:
    variables: list[tuple[str, str]] = []
    if number is not None:
        variables += [("MAJOR", str(number[0])), ("MINOR", str(number[1])), ("DEVNAME", node)]
    if devtype:
        variables.append(("DEVTYPE", devtype))
    if driver:
        variables.append(("DRIVER", driver))
    return KernelUevent(action, devpath, subsystem, node, (*variables, *more))
