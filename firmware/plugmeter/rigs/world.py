"""A stand-in for devtmpfs and sysfs: injected devices exist there as plain files.

So the inotify witness and the coldplug scanner have something real to watch. Only what they look at
is there: nodes below ``dev`` and the USB devices' attributes below ``sys/bus/usb/devices``.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType

from plugmeter.errors import RigError
from plugmeter.rigs.stick import Attachment, bus_of


class World:
    """A temporary directory with ``dev`` and ``sys``; it goes away with ``close``, or at exit.

    ``directory`` is where the temporary directory is made (None: the system's place for those).
    ``ports`` tells which USB buses there are: each has its directory of nodes from the start, with
    the root hub's, as on a real machine.
    """

    def __init__(self, directory: Path | None = None, ports: Iterable[str] = ()) -> None:
        buses = sorted({bus_of(port) for port in ports}) or [1]
        try:
            # At interpreter exit, also after Ctrl-C, TemporaryDirectory's own finalizer removes it.
            self._temporary = tempfile.TemporaryDirectory(prefix="plugmeter-", dir=directory)
            self.root = Path(self._temporary.name)
            self.dev = self.root / "dev"
            self.sys = self.root / "sys"
            self._staging = self.root / "staging"
            self._staging.mkdir()
            (self.sys / "bus/usb/devices").mkdir(parents=True)
            (self.dev / "bsg").mkdir(parents=True)
            for bus in buses:
                (self.dev / f"bus/usb/{bus:03d}").mkdir(parents=True)
                self.create_node(f"bus/usb/{bus:03d}/001")
        except OSError as error:
            raise RigError(f"cannot make a directory for the injected devices: {error}") from error

    def create_node(self, name: str) -> None:
        """Make the node ``name``, relative to /dev; the kernel does so before the add uevent."""
        node = self.dev / name
        node.parent.mkdir(parents=True, exist_ok=True)
        node.touch(mode=0o600, exist_ok=False)

    def delete_node(self, name: str) -> None:
        """Delete a node; the kernel does so before the remove uevent."""
        (self.dev / name).unlink()

    def add_device(self, attached: Attachment) -> None:
        """Show a device in sysfs; all of it at once, as with the kernel before it tells anybody."""
        made = self._staging / attached.port
        made.mkdir()
        for name, value in (
            ("busnum", str(attached.busnum)),
            ("devnum", str(attached.devnum)),
            ("idVendor", attached.stick.vendor_id),
            ("idProduct", attached.stick.product_id),
            ("serial", attached.stick.serial),
        ):
            (made / name).write_text(value + "\n")
        made.rename(self._device(attached.port))

    def remove_device(self, port: str) -> None:
        """Take a device out of sysfs."""
        gone = self._staging / port
        self._device(port).rename(gone)
        shutil.rmtree(gone)

    def _device(self, port: str) -> Path:
        return self.sys / "bus/usb/devices" / port

    def close(self) -> None:
        """Remove everything; a second call does nothing."""
        self._temporary.cleanup()

    def __enter__(self) -> World:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
