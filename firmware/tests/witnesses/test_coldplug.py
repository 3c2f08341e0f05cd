import shutil
import threading
from pathlib import Path

import pytest

from plugmeter.records import Device
from plugmeter.witnesses.coldplug import look, scan, survey, take


def plug(sysfs: Path, port: str, **attributes: str) -> Path:
    """A device as sysfs shows it: a directory far below, and a link to it in bus/usb/devices."""
    real = sysfs / "devices" / port
    real.mkdir(parents=True)
    values = {"busnum": "1", "devnum": "4", "idVendor": "0781", "idProduct": "5567", **attributes}
    for name, value in values.items():
        (real / name).write_text(value + "\n")
    bus = sysfs / "bus/usb/devices"
    bus.mkdir(parents=True, exist_ok=True)
    (bus / port).symlink_to(real)
    return real


def test_devices_are_read_and_interfaces_and_root_hubs_are_not(tmp_path: Path) -> None:
    plug(tmp_path, "usb1", devnum="1")
    plug(tmp_path, "1-10", devnum="7")
    plug(tmp_path, "1-1.4", devnum="5", serial="4C53 ä")
    plug(tmp_path, "1-1")
    plug(tmp_path, "1-1:1.0")
    assert scan(tmp_path) == (
        Device("1-1", 1, 4, "0781", "5567"),
        Device("1-1.4", 1, 5, "0781", "5567", "4C53 ä"),
        Device("1-10", 1, 7, "0781", "5567"),
    )
    presence = take("start", tmp_path)
    assert presence.devices == scan(tmp_path)
    assert presence.reason == "start"
    assert look("end", tmp_path)[1:] == ()


def test_a_kernel_without_usb_has_no_devices(tmp_path: Path) -> None:
    assert survey(tmp_path).devices == ()
    assert scan(tmp_path / "nowhere") == ()


def test_a_device_that_vanished_is_no_device_and_counted(tmp_path: Path) -> None:
    plug(tmp_path, "1-1")
    shutil.rmtree(plug(tmp_path, "1-2"))  # the link stays, as when it is pulled between two reads
    (plug(tmp_path, "1-3") / "idProduct").unlink()
    found = survey(tmp_path)
    assert [device.port for device in found.devices] == ["1-1"]
    assert (found.vanished, found.unreadable) == (2, 0)
    assert len(look("resync", tmp_path)) == 1


def test_a_device_that_cannot_be_read_is_a_gap(tmp_path: Path) -> None:
    plug(tmp_path, "1-1")
    plug(tmp_path, "1-2", devnum="many")
    plug(tmp_path, "1-3", busnum="")
    awkward = plug(tmp_path, "1-4") / "idVendor"
    awkward.unlink()
    awkward.mkdir()  # EISDIR stands for EIO and its like
    presence, *gaps = look("resync", tmp_path)
    (gap,) = gaps
    assert [device.port for device in presence.devices] == ["1-1"]
    assert (gap.witness, gap.cause, gap.count) == ("coldplug", "unreadable", 3)
    assert presence.t_ns == gap.since_ns <= gap.t_ns


def test_a_serial_that_is_not_text_is_read_all_the_same(tmp_path: Path) -> None:
    (plug(tmp_path, "1-1") / "serial").write_bytes(b"\xff\xfe\x00A\n")
    (device,) = scan(tmp_path)
    assert device.serial.endswith("A")


def test_scanning_while_devices_come_and_go_never_fails(tmp_path: Path) -> None:
    """Directories vanish between any two reads of ours; the one device that stays is always seen."""
    plug(tmp_path, "1-1")
    stop = threading.Event()

    def storm() -> None:
        while not stop.is_set():
            for port in ("1-2", "1-3"):
                real = plug(tmp_path, port, serial="X")
                (tmp_path / "bus/usb/devices" / port).unlink()
                shutil.rmtree(real)

    rig = threading.Thread(target=storm)
    rig.start()
    try:
        for _ in range(300):
            found = survey(tmp_path)
            assert "1-1" in [device.port for device in found.devices]
            assert len(found.devices) + found.vanished + found.unreadable <= 3
    finally:
        stop.set()
        rig.join()


def test_the_real_sysfs_can_be_scanned() -> None:
    if not Path("/sys/bus/usb/devices").is_dir():
        pytest.skip("runs in the guest: a kernel with USB")
    found = survey()
    assert all(device.busnum >= 1 and device.devnum >= 1 for device in found.devices)
