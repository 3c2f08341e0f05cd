"""USB ports that exist only in the kernel: dummy_hcd's controllers, and a mass-storage gadget for each.

dummy_hcd (kernel: drivers/usb/gadget/udc/dummy_hcd.c) is a host controller and a device controller
wired to each other. A gadget made in configfs (Documentation/usb/gadget_configfs.rst) and bound to the
device side is enumerated on the host side by the real USB core: hub interrupt, debounce, descriptors,
drivers, uevents.

A stick is plugged by binding its gadget to the controller and pulled by unbinding it. The controller's
``soft_connect`` would be quicker, but on dummy_hcd it works once only: after "disconnect" and "connect" the
gadget answers no control request and the hub gives up with error -71 (seen on 6.12.107). Binding also
takes the serial number anew, so that one port may see many sticks.
"""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from plugmeter.errors import RigError, UsageError

MAX_PORTS = 32
"""dummy_hcd's own limit (MAX_NUM_UDC)."""

PREFIX = "plugmeter-"
"""Gadgets with such names are ours, also those of a run that was killed."""

_CONFIGFS = Path("/sys/kernel/config")
_GADGETS = _CONFIGFS / "usb_gadget"
_UDC_CLASS = Path("/sys/class/udc")
_PLATFORM = Path("/sys/devices/platform")
_LANGUAGE = "strings/0x409"
_FUNCTION = "functions/mass_storage.0"
_LUN_BYTES = 64 * 1024
_INSTEAD = "use --rig injected, or the Plugmeter image"


@dataclass(frozen=True, slots=True)
class Controller:
    """One dummy controller: ``port`` is the host side's name as in DEVPATH (3-1), ``udc`` the other's."""

    port: str
    udc: str


def check_count(count: int) -> None:
    """Raises UsageError for a number of ports that dummy_hcd cannot have."""
    if not 1 <= count <= MAX_PORTS:
        raise UsageError(
            f"rig gadget: {count} ports asked for; dummy_hcd has 1 to {MAX_PORTS}: ask for as many"
        )


def check_privilege() -> None:
    """Raises RigError where this process could not make a gadget anyhow."""
    if os.geteuid() != 0:
        raise RigError(
            "rig gadget: needs root (it loads modules and writes configfs); use sudo, or --rig injected"
        )


class DummyPorts:
    """``count`` ports with a gadget each, nothing plugged.

    Loads what is not loaded and clears away what a killed run has left. Raises RigError, in one line,
    where the kernel, the machine or the caller cannot have it; nothing is left behind then.
    """

    def __init__(self, count: int) -> None:
        check_count(count)
        check_privilege()
        self._loaded: list[str] = []
        self._gadgets: dict[str, _Gadget] = {}
        self._lock = -1
        self._medium = -1
        try:
            self._open(count)
        except BaseException:
            self.close()
            raise

    @property
    def ports(self) -> tuple[str, ...]:
        """The ports' names, as the kernel names a device plugged there."""
        return tuple(self._gadgets)

    def plug(self, port: str, stick: int) -> None:
        """Plug a stick with a serial number made from ``stick``; the kernel debounces it later."""
        self._gadgets[port].plug(f"PM{stick:08d}")

    def pull(self, port: str) -> None:
        """Pull whatever is plugged; the kernel notices later."""
        self._gadgets[port].pull()

    def close(self) -> None:
        """Pull everything, take it all apart, unload what was loaded here. A second call does nothing."""
        while self._gadgets:
            _, gadget = self._gadgets.popitem()
            gadget.remove()
        while self._loaded:
            # Refused where somebody began to use it meanwhile: then it is theirs.
            _unload(self._loaded.pop())
        for descriptor in (self._medium, self._lock):
            if descriptor >= 0:
                os.close(descriptor)
        self._medium = self._lock = -1

    def _open(self, count: int) -> None:
        self._load("libcomposite")
        if not os.path.ismount(_CONFIGFS):
            raise RigError(
                f"rig gadget: configfs is not mounted; as root: mount -t configfs none {_CONFIGFS}"
            )
        if not _GADGETS.is_dir():
            raise RigError(f"rig gadget: this kernel has no libcomposite (CONFIG_USB_CONFIGFS); {_INSTEAD}")
        self._lock = os.open(_GADGETS, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RigError(
                "rig gadget: another plugmeter is using the gadget rig; wait for it to end"
            ) from None
        left_behind = sorted(_GADGETS.glob(f"{PREFIX}*"))
        for path in left_behind:
            _Gadget.take_apart(path)
        if left_behind:
            # Who left the gadgets left the modules too; ours to unload, in this order from the end.
            self._loaded = ["libcomposite", "usb_f_mass_storage", "dummy_hcd"]
        self._load("usb_f_mass_storage")
        controllers = self._controllers(count, ours=bool(left_behind))
        # A file without a name, which every gadget shows read-only: nothing to clean up after a crash.
        self._medium = os.memfd_create("plugmeter-stick", os.MFD_CLOEXEC)
        os.ftruncate(self._medium, _LUN_BYTES)
        for number, controller in enumerate(controllers):
            path = _GADGETS / f"{PREFIX}{number}"
            gadget = _Gadget(path, controller)
            self._gadgets[controller.port] = gadget
            try:
                gadget.build(f"/proc/{os.getpid()}/fd/{self._medium}")
            except OSError as error:
                missing = error.errno == errno.ENOENT
                why = "this kernel has no usb_f_mass_storage" if missing else f"configfs refused {error}"
                raise RigError(f"rig gadget: {why}; {_INSTEAD}") from error

    def _load(self, module: str, *parameters: str) -> bool:
        """Load a module unless it is there; False where the kernel has none such."""
        if Path("/sys/module", module).is_dir():
            return True
        if not _modprobe(module, *parameters):
            return False
        if module not in self._loaded:
            self._loaded.append(module)
        return True

    def _controllers(self, count: int, ours: bool) -> Sequence[Controller]:
        """``count`` free controllers; ``ours`` says that a loaded dummy_hcd comes from a killed run."""
        if Path("/sys/module/dummy_hcd").is_dir():
            free = _free_controllers()
            if len(free) >= count:
                return free[:count]
            # Only what a killed run of ours has loaded may be taken away.
            if not (ours and _unload("dummy_hcd")):
                raise RigError(
                    f"rig gadget: dummy_hcd is loaded with {len(free)} free ports, {count} are needed; "
                    "ask for fewer, or as root: modprobe -r dummy_hcd"
                )
            self._loaded.remove("dummy_hcd")
        if not self._load("dummy_hcd", f"num={count}"):
            raise RigError(f"rig gadget: this kernel has no dummy_hcd (CONFIG_USB_DUMMY_HCD); {_INSTEAD}")
        free = _free_controllers()
        if len(free) < count:
            raise RigError(f"rig gadget: dummy_hcd gave {len(free)} ports and not {count}; {_INSTEAD}")
        return free[:count]


class _Gadget:
    """One configfs gadget, for one controller."""

    def __init__(self, path: Path, controller: Controller) -> None:
        self._path, self._udc = path, controller.udc

    def build(self, medium: str) -> None:
        """Make it, with ``medium`` as its read-only disk. Raises OSError; ``remove`` clears up."""
        path = self._path
        path.mkdir()
        # The Linux Foundation's numbers for gadgets made with configfs.
        _write(path / "idVendor", "0x1d6b")
        _write(path / "idProduct", "0x0104")
        # Where dummy_hcd has a SuperSpeed hub too, the stick would appear there and not at our port.
        if (path / "max_speed").exists():
            _write(path / "max_speed", "high-speed")
        (path / _LANGUAGE).mkdir()
        _write(path / _LANGUAGE / "manufacturer", "Plugmeter")
        _write(path / _LANGUAGE / "product", "Gadget stick")
        (path / "configs/c.1").mkdir()
        (path / _FUNCTION).mkdir()
        _write(path / _FUNCTION / "lun.0/ro", "1")
        _write(path / _FUNCTION / "lun.0/file", medium)
        (path / "configs/c.1/mass_storage.0").symlink_to(path / _FUNCTION)

    def plug(self, serial: str) -> None:
        _write(self._path / _LANGUAGE / "serialnumber", serial)
        _write(self._path / "UDC", self._udc)

    def pull(self) -> None:
        _write(self._path / "UDC", "\n")

    def remove(self) -> None:
        self.take_apart(self._path)

    @staticmethod
    def take_apart(path: Path) -> None:
        """Unbind and remove the gadget at ``path``, as far as it was made."""
        udc = path / "UDC"
        if udc.exists() and udc.read_text().strip():
            # ENODEV: its controller went away by itself.
            with suppress(OSError):
                _write(udc, "\n")
        (path / "configs/c.1/mass_storage.0").unlink(missing_ok=True)
        for directory in (path / "configs/c.1", path / _FUNCTION, path / _LANGUAGE, path):
            with suppress(FileNotFoundError):
                directory.rmdir()


def _free_controllers() -> list[Controller]:
    """All of dummy_hcd's controllers to which no gadget is bound, in the order of their numbers."""
    free = []
    numbered = sorted((int(path.name.rpartition(".")[2]), path) for path in _UDC_CLASS.glob("dummy_udc.*"))
    for number, udc in numbered:
        if (udc / "function").read_text().strip():
            continue
        for hub in _PLATFORM.glob(f"dummy_hcd.{number}/usb*"):
            if (hub / "speed").read_text().strip() == "480":
                free.append(Controller(f"{(hub / 'busnum').read_text().strip()}-1", udc.name))
    return free


def _write(path: Path, text: str) -> None:
    """One write(2), as kernel attributes want it."""
    descriptor = os.open(path, os.O_WRONLY)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)


def _modprobe(*arguments: str) -> bool:
    """Whether modprobe (modprobe(8), or busybox's) could do it."""
    try:
        return subprocess.run(["modprobe", *arguments], capture_output=True).returncode == 0
    except FileNotFoundError:
        return False


def _unload(module: str) -> bool:
    """Unload a module and what it alone needed; whether it is gone (busybox's exit status does not tell)."""
    _modprobe("-r", module)
    return not Path("/sys/module", module).is_dir()
