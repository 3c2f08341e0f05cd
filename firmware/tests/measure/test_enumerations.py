"""Which of a stick's dozen uevents is the enumeration."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugmeter.measure.enumerations import PORT_NAME, Enumeration, device_port, enumeration_of
from plugmeter.records import Uevent

BUS = "/devices/pci0000:00/0000:00:14.0/usb1"


def uevent(action: str, devpath: str, subsystem: str = "usb", devtype: str = "usb_device") -> Uevent:
    return Uevent(17, "netlink", 42, action, devpath, subsystem, devtype)


STICK = [  # what plugging and pulling one stick emits, shortened
    uevent("add", f"{BUS}/1-1/1-1.4"),
    uevent("change", f"{BUS}/1-1/1-1.4"),
    uevent("add", f"{BUS}/1-1/1-1.4/1-1.4:1.0", devtype="usb_interface"),
    uevent("add", f"{BUS}/1-1/1-1.4/1-1.4:1.0/host2", "scsi", "scsi_host"),
    uevent("add", f"{BUS}/1-1/1-1.4/1-1.4:1.0/host2/target2:0:0/2:0:0:0/block/sdb", "block", "disk"),
    uevent("bind", f"{BUS}/1-1/1-1.4/1-1.4:1.0", devtype="usb_interface"),
    uevent("bind", f"{BUS}/1-1/1-1.4"),
    uevent("unbind", f"{BUS}/1-1/1-1.4"),
    uevent("remove", f"{BUS}/1-1/1-1.4/1-1.4:1.0", devtype="usb_interface"),
    uevent("remove", f"{BUS}/1-1/1-1.4"),
]


def test_one_stick_is_one_enumeration_each_way() -> None:
    assert [enumeration for each in STICK if (enumeration := enumeration_of(each))] == [
        Enumeration("1-1.4", True, 17, 42, "netlink"),
        Enumeration("1-1.4", False, 17, 42, "netlink"),
    ]


@pytest.mark.parametrize(
    ("devpath", "port"),
    [
        (f"{BUS}/1-1", "1-1"),
        (f"{BUS}/1-1/1-1.4/1-1.4.12", "1-1.4.12"),
        ("/devices/platform/vhci_hcd.0/usb10/10-15", "10-15"),
        ("1-1", "1-1"),
        (BUS, None),
        (f"{BUS}/1-1:1.0", None),
        (f"{BUS}/1-1/", None),
        (f"{BUS}/1-0", None),
        (f"{BUS}/1-1.", None),
        (f"{BUS}/1-1\n", None),
        (f"{BUS}/١-١", None),
        ("", None),
    ],
)
def test_the_port_is_the_sysname(devpath: str, port: str | None) -> None:
    assert device_port(devpath) == port
    enumeration = enumeration_of(uevent("add", devpath))
    assert (enumeration.port if enumeration else None) == port


@given(
    st.builds(
        Uevent,
        t_ns=st.integers(0),
        witness=st.sampled_from(["netlink", "udev"]),
        seqnum=st.integers(0),
        action=st.sampled_from(["add", "remove", "change", "bind", "", "ADD"]) | st.text(),
        devpath=st.sampled_from([each.devpath for each in STICK]) | st.text(),
        subsystem=st.sampled_from(["usb", "block"]) | st.text(),
        devtype=st.sampled_from(["usb_device", "usb_interface"]) | st.text(),
    )
)
def test_total_and_true_to_the_uevent(event: Uevent) -> None:
    enumeration = enumeration_of(event)
    wanted = event.subsystem == "usb" and event.devtype == "usb_device" and event.action in ("add", "remove")
    name = event.devpath.split("/")[-1]
    if wanted and PORT_NAME.fullmatch(name):
        added = event.action == "add"
        assert enumeration == Enumeration(name, added, event.t_ns, event.seqnum, event.witness)
    else:
        assert enumeration is None
