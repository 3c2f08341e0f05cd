"""The uevent parser: a table of what the kernel writes, and totality over everything else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugmeter.records import Uevent
from plugmeter.witnesses import uevent
from plugmeter.witnesses.uevent import Fault, Malformed, parse

DEVPATH = "/devices/pci0000:00/0000:00:14.0/usb1/1-1"


def message(*pairs: str, header: str = f"add@{DEVPATH}", end: str = "\0") -> bytes:
    return ("\0".join((header, *pairs)) + end).encode()


KERNEL_ORDER = message(
    "ACTION=add",
    f"DEVPATH={DEVPATH}",
    "SUBSYSTEM=usb",
    "MAJOR=189",
    "MINOR=3",
    "DEVNAME=bus/usb/001/004",
    "DEVTYPE=usb_device",
    "PRODUCT=781/5581/100",
    "BUSNUM=001",
    "SEQNUM=12345",
)
EXPECTED = Uevent(7, "netlink", 12345, "add", DEVPATH, "usb", "usb_device", "bus/usb/001/004")


def test_reads_what_the_kernel_writes() -> None:
    assert parse(KERNEL_ORDER, 7) == EXPECTED
    assert parse(memoryview(bytearray(KERNEL_ORDER)), 7, "udev") == EXPECTED._replace(witness="udev")


def test_reads_any_order_of_keys() -> None:
    swapped = message(
        "SEQNUM=12345", "DEVTYPE=usb_device", "SUBSYSTEM=usb", "X=1", "X=2", "DEVNAME=bus/usb/001/004"
    )
    assert parse(swapped, 7) == EXPECTED


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (b"", "empty"),
        (KERNEL_ORDER[:-1], "no_nul"),
        (b"\xff" + KERNEL_ORDER, "not_utf8"),
        (message("SEQNUM=1", "SUBSYSTEM=usb", header="libudev"), "no_header"),
        (message("SEQNUM=1", "SUBSYSTEM=usb", header="@/devices/x"), "no_header"),
        (message("SEQNUM=1", "SUBSYSTEM=usb", header="add@devices/x"), "no_header"),
        (message("SEQNUM=1", "SUBSYSTEM"), "not_a_pair"),
        (message("SEQNUM=1", "", "SUBSYSTEM=usb"), "not_a_pair"),
        (message("SEQNUM=1", "=x", "SUBSYSTEM=usb"), "not_a_pair"),
        (message("SUBSYSTEM=usb", "SUBSYSTEM=usb", "SEQNUM=1"), "duplicate_key"),
        (message("SUBSYSTEM=usb", "SEQNUM=1", "SEQNUM=2"), "duplicate_key"),
        (KERNEL_ORDER.replace(b"BUSNUM=", b"DEVTYPE="), "duplicate_key"),
        (message("SUBSYSTEM=usb"), "missing_key"),
        (message("SEQNUM=1"), "missing_key"),
        (message("SEQNUM=1", "SUBSYSTEM="), "missing_key"),
        (message("SEQNUM=", "SUBSYSTEM=usb"), "bad_seqnum"),
        (message("SEQNUM=-1", "SUBSYSTEM=usb"), "bad_seqnum"),
        (message("SEQNUM=٣", "SUBSYSTEM=usb"), "bad_seqnum"),
        (message("SEQNUM=18446744073709551616", "SUBSYSTEM=usb"), "bad_seqnum"),
        (message("ACTION=remove", "SEQNUM=1", "SUBSYSTEM=usb"), "contradiction"),
        (message("DEVPATH=/elsewhere", "SEQNUM=1", "SUBSYSTEM=usb"), "contradiction"),
        (b"\0" * 65536, "no_header"),
        (b"A" * 65536, "no_nul"),
    ],
)
def test_says_what_is_wrong(data: bytes, fault: Fault) -> None:
    assert parse(data, 0) == Malformed(fault)


def test_the_largest_seqnum_is_read() -> None:
    read = parse(message("SUBSYSTEM=usb", f"SEQNUM={uevent.SEQNUM_MAX}"), 0)
    assert isinstance(read, Uevent)
    assert read.seqnum == uevent.SEQNUM_MAX


@given(st.binary(max_size=400))
def test_never_raises(data: bytes) -> None:
    assert isinstance(parse(data, 0), Uevent | Malformed)


KEYS = st.sampled_from(
    [
        "ACTION",
        "DEVPATH",
        "SUBSYSTEM",
        "SEQNUM",
        "DEVTYPE",
        "DEVNAME",
        "MAJOR",
        "MINOR",
        "DEVMODE",
        "PRODUCT",
        "",
    ]
)
VALUES = st.sampled_from(["add", "remove", DEVPATH, "usb", "usb_device", "1", "0x1", "", "a=b", "SEQNUM=3"])


@given(st.lists(st.tuples(KEYS, VALUES), max_size=12), st.booleans())
def test_the_quick_way_and_the_general_way_agree(pairs: list[tuple[str, str]], in_kernel_order: bool) -> None:
    given_pairs = [f"{key}={value}" for key, value in pairs]
    if in_kernel_order:
        given_pairs = ["ACTION=add", f"DEVPATH={DEVPATH}", "SUBSYSTEM=usb", *given_pairs, "SEQNUM=5"]
    data = message(*given_pairs)
    general = uevent._parse_any_order(data.decode(), 3, "netlink")
    assert parse(data, 3) == general
    assert parse(data, 3) == general  # what is kept of the first time does not change the answer


@given(
    st.from_regex(r"[a-z]{1,12}", fullmatch=True),
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=40),
    st.integers(0, uevent.SEQNUM_MAX),
)
def test_what_is_written_is_read(action: str, tail: str, seqnum: int) -> None:
    devpath = "/devices/" + tail
    read = parse(message("SUBSYSTEM=usb", f"SEQNUM={seqnum}", header=f"{action}@{devpath}"), 0)
    assert read == Uevent(0, "netlink", seqnum, action, devpath, "usb")


def test_what_it_keeps_is_bounded() -> None:
    for number in range(2 * uevent._MIDDLES_KEPT + 1):
        parse(message("ACTION=add", f"DEVPATH={DEVPATH}", f"SUBSYSTEM=s{number}", "SEQNUM=5"), 0)
    assert len(uevent._middles) <= uevent._MIDDLES_KEPT
