from __future__ import annotations

import pytest

from plugmeter.errors import UsageError
from plugmeter.rigs.stick import (
    Attachment,
    KernelUevent,
    Stick,
    bus_of,
    device_path,
    plug_events,
    plug_uevents,
    pull_events,
    pull_uevents,
)

ROOT = "/devices/pci0000:00/0000:00:14.0/usb1"
SCSI = f"{ROOT}/1-1/1-1:1.0/host4/target4:0:0/4:0:0:0"
FIRST = Attachment(Stick(0), "1-1", devnum=4)


def test_the_first_uevent_byte_by_byte() -> None:
    assert plug_uevents(FIRST)[0] == (
        b"add@/devices/pci0000:00/0000:00:14.0/usb1/1-1\0"
        b"ACTION=add\0"
        b"DEVPATH=/devices/pci0000:00/0000:00:14.0/usb1/1-1\0"
        b"SUBSYSTEM=usb\0"
        b"MAJOR=189\0MINOR=3\0DEVNAME=bus/usb/001/004\0DEVTYPE=usb_device\0"
        b"PRODUCT=951/1000/110\0TYPE=0/0/0\0BUSNUM=001\0DEVNUM=004\0"
    )


def test_the_order_of_a_plug() -> None:
    assert [
        (event.action, event.devpath.removeprefix(ROOT), event.subsystem) for event in plug_events(FIRST)
    ] == [
        ("add", "/1-1", "usb"),
        ("add", "/1-1/1-1:1.0", "usb"),
        ("add", "/1-1/1-1:1.0/host4", "scsi"),
        ("add", "/1-1/1-1:1.0/host4/scsi_host/host4", "scsi_host"),
        ("bind", "/1-1/1-1:1.0", "usb"),
        ("bind", "/1-1", "usb"),
        ("add", "/1-1/1-1:1.0/host4/target4:0:0", "scsi"),
        ("add", SCSI.removeprefix(ROOT), "scsi"),
        ("add", SCSI.removeprefix(ROOT) + "/scsi_disk/4:0:0:0", "scsi_disk"),
        ("add", SCSI.removeprefix(ROOT) + "/scsi_device/4:0:0:0", "scsi_device"),
        ("add", SCSI.removeprefix(ROOT) + "/scsi_generic/sg0", "scsi_generic"),
        ("add", SCSI.removeprefix(ROOT) + "/bsg/4:0:0:0", "bsg"),
        ("add", "/devices/virtual/bdi/8:0", "bdi"),
        ("add", SCSI.removeprefix(ROOT) + "/block/sda", "block"),
        ("add", SCSI.removeprefix(ROOT) + "/block/sda/sda1", "block"),
        ("bind", SCSI.removeprefix(ROOT), "scsi"),
    ]


def test_a_pull_takes_away_just_what_a_plug_made() -> None:
    def paths(events: tuple[KernelUevent, ...], action: str) -> set[str]:
        return {event.devpath for event in events if event.action == action}

    plug, pull = plug_events(FIRST), pull_events(FIRST)
    assert paths(plug, "add") == paths(pull, "remove")
    assert paths(plug, "bind") == paths(pull, "unbind")
    assert {event.node for event in plug if event.action == "add"} == {
        event.node for event in pull if event.action == "remove"
    }


def test_a_pull_goes_from_the_leaves_to_the_root() -> None:
    removed = [event.devpath for event in pull_events(FIRST) if event.action == "remove"]
    for place, path in enumerate(removed):
        assert not any(later.startswith(path + "/") for later in removed[place + 1 :])
    assert removed[-1] == f"{ROOT}/1-1"


@pytest.mark.parametrize("payload", plug_uevents(FIRST) + pull_uevents(FIRST))
def test_the_layout_of_every_payload(payload: bytes) -> None:
    assert payload.endswith(b"\0")
    head, *variables = payload[:-1].decode().split("\0")
    values = dict(variable.split("=", 1) for variable in variables)
    assert len(values) == len(variables)
    assert head == f"{values['ACTION']}@{values['DEVPATH']}"
    assert [variable.split("=")[0] for variable in variables[:3]] == ["ACTION", "DEVPATH", "SUBSYSTEM"]
    assert "SEQNUM" not in values
    assert ("DEVNAME" in values) == ("MAJOR" in values) == ("MINOR" in values)
    assert len(payload) < 1024


def test_nodes() -> None:
    attached = Attachment(Stick(3), "2-1.4", devnum=17, host=9, disk=1, generic=1)
    assert [event.node for event in plug_events(attached) if event.node and event.action == "add"] == [
        "bus/usb/002/017",
        "sg1",
        "bsg/9:0:0:0",
        "sdb",
        "sdb1",
    ]


@pytest.mark.parametrize(
    ("disk", "name", "number"),
    [
        (0, "sda", "8:0"),
        (15, "sdp", "8:240"),
        (16, "sdq", "65:0"),
        (25, "sdz", "65:144"),
        (26, "sdaa", "65:160"),
        (127, "sddx", "71:240"),
        (128, "sddy", "128:0"),
        (255, "sdiv", "135:240"),
        (256, "sdiw", "8:256"),
        (701, "sdzz", "131:720"),
        (702, "sdaaa", "131:736"),
    ],
)
def test_disks_past_the_alphabet(disk: int, name: str, number: str) -> None:
    attached = Attachment(Stick(0), "1-1", devnum=2, disk=disk)
    assert attached.disk_name == name
    assert any(event.devpath == f"/devices/virtual/bdi/{number}" for event in plug_events(attached))


def test_sticks_are_told_apart() -> None:
    sticks = [Stick(number) for number in range(2000)]
    assert len({(each.vendor_id, each.product_id) for each in sticks}) == 2000
    assert len({each.serial for each in sticks}) == 2000


@pytest.mark.parametrize(
    ("port", "path"),
    [
        ("1-1", "/usb1/1-1"),
        ("1-1.4", "/usb1/1-1/1-1.4"),
        ("12-3.4.10", "/usb12/12-3/12-3.4/12-3.4.10"),
    ],
)
def test_paths_behind_hubs(port: str, path: str) -> None:
    assert device_path(port).endswith(path)
    assert bus_of(port) == int(port.split("-")[0])


@pytest.mark.parametrize(
    "port", ["", "1", "usb1", "1-", "1-0", "0-1", "1-1:1.0", "1-1.", "1-1\n", "../x", "1-1/2"]
)
def test_what_is_no_port(port: str) -> None:
    with pytest.raises(UsageError, match="is not a USB port"):
        bus_of(port)
