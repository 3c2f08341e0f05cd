from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from plugmeter.errors import RigError
from plugmeter.rigs.stick import Attachment, Stick
from plugmeter.rigs.world import World


def files(directory: Path) -> set[str]:
    return {str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file()}


def test_it_has_the_buses_of_its_ports(tmp_path: Path) -> None:
    with World(tmp_path, ports=("1-1", "3-2.1", "1-2")) as world:
        assert files(world.dev) == {"bus/usb/001/001", "bus/usb/003/001"}


def test_nodes_come_and_go(tmp_path: Path) -> None:
    with World(tmp_path) as world:
        before = files(world.dev)
        world.create_node("sda")
        world.create_node("bus/usb/002/004")
        assert files(world.dev) - before == {"sda", "bus/usb/002/004"}
        world.delete_node("sda")
        assert files(world.dev) - before == {"bus/usb/002/004"}
        with pytest.raises(FileExistsError):
            world.create_node("bus/usb/002/004")
        with pytest.raises(FileNotFoundError):
            world.delete_node("sda")


def test_a_device_shows_the_attributes_of_sysfs(tmp_path: Path) -> None:
    stick = Stick(7)
    with World(tmp_path) as world:
        world.add_device(Attachment(stick, "1-1.4", devnum=17))
        device = world.sys / "bus/usb/devices/1-1.4"
        assert {path.name: path.read_text() for path in device.iterdir()} == {
            "busnum": "1\n",
            "devnum": "17\n",
            "idVendor": f"{stick.vendor_id}\n",
            "idProduct": f"{stick.product_id}\n",
            "serial": f"{stick.serial}\n",
        }
        world.remove_device("1-1.4")
        assert list(device.parent.iterdir()) == []
        world.add_device(Attachment(stick, "1-1.4", devnum=18))
        assert (device / "devnum").read_text() == "18\n"


def test_nothing_is_left_after_close(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.add_device(Attachment(Stick(0), "1-1", devnum=2))
    world.create_node("sda")
    world.close()
    world.close()
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_left_after_ctrl_c(tmp_path: Path) -> None:
    source = (
        "import sys, signal\n"
        "from pathlib import Path\n"
        "from plugmeter.rigs.world import World\n"
        "world = World(Path(sys.argv[1]))\n"
        "world.create_node('sda')\n"
        "print('ready', flush=True)\n"
        "signal.pause()\n"
    )
    package = Path(__file__).parents[2]
    with subprocess.Popen(
        [sys.executable, "-c", source, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(package)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        assert len(list(tmp_path.iterdir())) == 1
        child.send_signal(signal.SIGINT)
        child.wait(30)
    assert list(tmp_path.iterdir()) == []


def test_no_room_for_it_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(RigError, match="cannot make a directory for the injected devices") as refusal:
        World(tmp_path / "missing")
    assert "\n" not in str(refusal.value)
