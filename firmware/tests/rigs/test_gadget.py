"""The gadget rig: its refusals anywhere, its plugs where there is a dummy_hcd (the guest runs this file)."""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from plugmeter.errors import RigError, UsageError
from plugmeter.records import Driven
from plugmeter.rigs.gadget import GadgetRig, check_steps
from plugmeter.rigs.sequence import Step

GADGETS = Path("/sys/kernel/config/usb_gadget")
MS = 1_000_000


def cycles(ports: Sequence[str], number: int, period_ms: int = 1100, plugged_ms: int = 600) -> list[Step]:
    """Each port plugged and pulled ``number`` times, the ports one after the other, 130 ms apart."""
    steps = []
    for index, port in enumerate(ports):
        for cycle in range(number):
            at = (index * 130 + cycle * period_ms) * MS
            steps.append(Step(at, port, True, cycle * len(ports) + index))
            steps.append(Step(at + plugged_ms * MS, port, False, cycle * len(ports) + index))
    return sorted(steps, key=lambda step: step.t_offset_ns)


def have_dummy_hcd() -> bool:
    if Path("/sys/module/dummy_hcd").is_dir():
        return True
    index = Path("/lib/modules", platform.release(), "modules.dep")
    return shutil.which("modprobe") is not None and index.is_file() and "dummy_hcd.ko" in index.read_text()


@pytest.fixture
def kernel() -> Iterator[None]:
    """Skips where gadgets cannot be had, and proves that the test left none behind."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to load modules and write configfs")
    if not have_dummy_hcd():
        pytest.skip("runs in the guest: a kernel with dummy_hcd")
    yield
    assert not GADGETS.is_dir() or not list(GADGETS.iterdir())
    assert "dummy_hcd" not in Path("/proc/modules").read_text()


@pytest.fixture
def uevents() -> Iterator[socket.socket]:
    """A plain socket on the kernel's group."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 15) as listener:
        # SO_RCVBUFFORCE (33): the test judges the rig, and not this socket's own losses.
        listener.setsockopt(socket.SOL_SOCKET, 33, 8 << 20)
        listener.bind((0, 1))
        yield listener


def usb_devices(listener: socket.socket, wanted: int, seconds: float = 20.0) -> list[tuple[str, str]]:
    """(action, port) of each usb_device add and remove, until ``wanted`` came, and then a little more."""
    seen: list[tuple[str, str]] = []
    deadline = time.monotonic() + seconds
    while True:
        listener.settimeout(0.7 if len(seen) >= wanted else max(0.01, deadline - time.monotonic()))
        try:
            message = listener.recv(65536)
        except TimeoutError:
            return seen
        head, *fields = message.decode().split("\0")
        action, _, devpath = head.partition("@")
        port = devpath.rpartition("/")[2]
        if "DEVTYPE=usb_device" in fields and action in {"add", "remove"} and not port.startswith("usb"):
            seen.append((action, port))


def play(rig: GadgetRig, seconds: float = 60.0) -> None:
    rig.start()
    deadline = time.monotonic() + seconds
    while not rig.finished and time.monotonic() < deadline:
        time.sleep(0.05)
    assert rig.finished


@pytest.mark.privileged
def test_every_plug_is_an_enumeration_and_every_pull_its_end(kernel: None, uevents: socket.socket) -> None:
    told: list[tuple[str, bool]] = []
    rig = GadgetRig(4, lambda ports: cycles(ports, 5), drive=lambda port, high: told.append((port, high)))
    try:
        play(rig)
        assert rig.failure is None
        assert rig.progress() == (40, 40)
        seen = usb_devices(uevents, 40)
        driven = rig.read()
    finally:
        rig.close()
    assert len(set(rig.ports)) == 4
    assert all(isinstance(entry, Driven) for entry in driven)
    assert [(entry.port, entry.rising) for entry in driven] == told
    assert [entry.t_ns for entry in driven] == sorted(entry.t_ns for entry in driven)
    for port in rig.ports:
        assert [action for action, where in seen if where == port] == ["add", "remove"] * 5
        assert [high for where, high in told if where == port] == [True, False] * 5
    assert len(seen) == 40
    assert rig.read() == []


@pytest.mark.privileged
def test_another_stick_has_another_serial_number(kernel: None, uevents: socket.socket) -> None:
    serials: list[str] = []
    names: list[str] = []

    def plan(ports: tuple[str, ...]) -> list[Step]:
        names.extend(ports)
        return [
            Step(0, ports[0], True, 7),
            Step(900 * MS, ports[0], False, 7),
            Step(1400 * MS, ports[0], True, 8),
            Step(2300 * MS, ports[0], False, 8),
        ]

    rig = GadgetRig(1, plan)
    try:
        rig.start()
        for _ in range(2):
            assert usb_devices_until(uevents, "add") == names[0]
            serials.append(Path("/sys/bus/usb/devices", names[0], "serial").read_text().strip())
            assert usb_devices_until(uevents, "remove") == names[0]
    finally:
        rig.close()
    assert serials == ["PM00000007", "PM00000008"]


def usb_devices_until(listener: socket.socket, action: str) -> str:
    """The port of the next usb_device event with this action."""
    listener.settimeout(20)
    while True:
        head, *fields = listener.recv(65536).decode().split("\0")
        name = head.rpartition("/")[2]
        if "DEVTYPE=usb_device" in fields and head.startswith(f"{action}@") and not name.startswith("usb"):
            return name


@pytest.mark.privileged
def test_a_killed_run_is_cleared_away_by_the_next(kernel: None, uevents: socket.socket) -> None:
    program = (
        f"import runpy, time; here = runpy.run_path({__file__!r})\n"
        "rig = here['GadgetRig'](2, lambda ports: [here['Step'](0, port, True, 1) for port in ports])\n"
        "here['play'](rig); print('plugged', flush=True); time.sleep(600)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as victim:
        assert victim.stdout is not None
        assert victim.stdout.readline() == b"plugged\n"
        with pytest.raises(RigError, match="another plugmeter"):
            GadgetRig(2, lambda ports: [])
        victim.send_signal(signal.SIGKILL)
    assert len(list(GADGETS.iterdir())) == 2
    # More ports than the killed run had: its dummy_hcd has to be loaded anew.
    rig = GadgetRig(3, lambda ports: cycles(ports, 1))
    try:
        drain(uevents)
        play(rig)
        assert rig.failure is None
        assert len(usb_devices(uevents, 6)) == 6
    finally:
        rig.close()


def drain(listener: socket.socket) -> None:
    """Read until nothing has come for a second: the removals of what was plugged before."""
    listener.settimeout(1.0)
    with contextlib.suppress(TimeoutError):
        while True:
            listener.recv(65536)


@pytest.mark.privileged
def test_stop_midway_leaves_the_rest_undone(kernel: None) -> None:
    rig = GadgetRig(1, lambda ports: cycles(ports, 50))
    try:
        rig.start()
        while rig.progress()[0] < 1:
            time.sleep(0.01)
        rig.stop()
        rig.stop()
        assert rig.finished
        assert rig.failure is None
        done, planned = rig.progress()
        assert (1 <= done < planned) and len(rig.read()) == done
    finally:
        rig.close()
        rig.close()


@pytest.mark.privileged
def test_a_drive_that_fails_ends_the_run_with_one_line(kernel: None) -> None:
    def broken(port: str, high: bool) -> None:
        raise RigError("no such pin")

    rig = GadgetRig(1, lambda ports: cycles(ports, 1), drive=broken)
    try:
        play(rig)
        assert rig.failure == "rig gadget: died at step 1 of 2: no such pin"
    finally:
        rig.close()


@pytest.mark.privileged
def test_a_refused_plan_leaves_nothing_behind(kernel: None) -> None:
    with pytest.raises(UsageError, match="names port nowhere"):
        GadgetRig(2, lambda ports: [Step(0, "nowhere", True, 1)])


@pytest.mark.privileged
def test_configfs_that_is_not_mounted_is_refused(kernel: None) -> None:
    subprocess.run(["umount", "/sys/kernel/config"], check=True)
    try:
        with pytest.raises(RigError, match=r"^rig gadget: configfs is not mounted"):
            GadgetRig(1, lambda ports: [])
    finally:
        # Without the mount it may have gone with the modules that needed it.
        subprocess.run(["modprobe", "configfs"], check=True)
        subprocess.run(["mount", "-t", "configfs", "configfs", "/sys/kernel/config"], check=True)


@pytest.mark.privileged
def test_a_kernel_without_dummy_hcd_is_refused() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root, to get as far as the modules")
    if have_dummy_hcd():
        pytest.skip("runs on the host: a kernel without dummy_hcd")
    with pytest.raises(
        RigError, match=r"^rig gadget: .*use --rig injected, or the Plugmeter image$|mount -t configfs"
    ):
        GadgetRig(1, lambda ports: [])


def test_an_ordinary_user_is_refused() -> None:
    before = os.geteuid()
    if before == 0:
        os.seteuid(65534)
    try:
        with pytest.raises(RigError, match=r"^rig gadget: needs root"):
            GadgetRig(1, lambda ports: [])
    finally:
        os.seteuid(before)


@pytest.mark.parametrize("count", [-1, 0, 33])
def test_a_count_that_dummy_hcd_cannot_have_is_refused(count: int) -> None:
    with pytest.raises(UsageError, match="1 to 32"):
        GadgetRig(count, lambda ports: [])


@pytest.mark.parametrize(
    ("steps", "wrong"),
    [
        ([Step(0, "9-1", True, 0)], "names port 9-1; there are 1-1, 2-1"),
        ([Step(0, "1-1", False, 0)], "port 1-1 is not plugged"),
        ([Step(0, "1-1", True, 0), Step(1, "1-1", True, 0)], "step 2: port 1-1 is already plugged"),
        ([Step(5, "1-1", True, 0), Step(4, "2-1", True, 0)], "step 2 is earlier"),
        ([Step(-1, "1-1", True, 0)], "step 1 is earlier"),
        ([Step(0, "1-1", True, 0, ((1_000_000, False), (2_000_000, True)))], "cannot bounce"),
    ],
)
def test_a_plan_that_cannot_be_played_is_refused(steps: list[Step], wrong: str) -> None:
    with pytest.raises(UsageError, match=wrong):
        check_steps(steps, ("1-1", "2-1"))


def test_a_plan_may_leave_sticks_plugged() -> None:
    check_steps(cycles(("1-1", "2-1"), 3)[:-1], ("1-1", "2-1"))
