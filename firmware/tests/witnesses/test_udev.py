import os
import select
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import pyudev

from plugmeter.errors import PlugmeterError
from plugmeter.records import Gap, Uevent
from plugmeter.witnesses.udev import UdevWitness, uevent
from plugmeter.witnesses.udev_message import decode_udev_message, encode_udev_message
from tests.namespace import (
    CLONE_NEWNS,
    UDEV_GROUP,
    in_child,
    in_namespace,
    in_user_namespace,
    mount_private,
    send_as_udevd,
    uevent_socket,
    unshare,
    usb_device,
)

GOOD = encode_udev_message(usb_device(1))


def drain(witness: UdevWitness) -> list[Uevent | Gap]:
    records: list[Uevent | Gap] = []
    while found := witness.read():
        records += found
    return records


def heard(*messages: bytes, receive_buffer_bytes: int = 1 << 20) -> tuple[list[Uevent | Gap], int, int]:
    """What a witness makes of these messages: its records, its offered, its ignored."""
    sender = uevent_socket()
    witness = UdevWitness(receive_buffer_bytes)
    try:
        for message in messages:
            send_as_udevd(sender, message)
        records = drain(witness)
        return records, witness.tally().offered, witness.ignored
    finally:
        witness.close()


@pytest.mark.parametrize("inside", [in_namespace, in_user_namespace], ids=["root", "user"])
def test_libudev_takes_what_we_encode(inside: Callable[..., tuple[list[Uevent | Gap], int, int]]) -> None:
    stick = encode_udev_message(usb_device(4711, TAGS=":uaccess:", ID_MODEL="Stick ä"))
    disk = encode_udev_message(
        {
            "ACTION": "remove",
            "DEVPATH": "/devices/usb1/1-1/1-1:1.0/host0/block/sda",
            "SUBSYSTEM": "block",
            "DEVNAME": "sda",
            "SEQNUM": str(2**63),
        }
    )
    records, offered, ignored = inside(lambda: heard(stick, disk))
    first, second = records
    assert isinstance(first, Uevent)
    assert isinstance(second, Uevent)
    assert 0 < first.t_ns <= second.t_ns
    assert first == Uevent(
        t_ns=first.t_ns,
        witness="udev",
        seqnum=4711,
        action="add",
        devpath="/devices/pci0000:00/0000:00:14.0/usb1/1-1",
        subsystem="usb",
        devtype="usb_device",
        devname="bus/usb/001/004",
    )
    assert (second.action, second.seqnum, second.devtype, second.devname) == ("remove", 2**63, "", "sda")
    assert (offered, ignored) == (2, 0)


def test_a_socket_filter_on_our_hashes_finds_our_messages() -> None:
    """libudev's own filters run in the kernel, on the hashes and the bloom filter that we computed."""

    def body() -> tuple[list[str], list[str]]:
        by_type = pyudev.Monitor.from_netlink(pyudev.Context(), source="udev")
        by_type.filter_by("usb", "usb_device")
        by_type.start()
        by_tag = pyudev.Monitor.from_netlink(pyudev.Context(), source="udev")
        by_tag.filter_by_tag("uaccess")
        by_tag.start()
        sender = uevent_socket()
        for number, changed in enumerate(
            ({}, {"SUBSYSTEM": "block"}, {"DEVTYPE": "usb_interface"}, {"TAGS": ":seat:uaccess:"}), start=1
        ):
            send_as_udevd(sender, encode_udev_message({**usb_device(number), **changed}))
        return (
            [str(device.sequence_number) for device in iter(lambda: by_type.poll(0), None)],
            [str(device.sequence_number) for device in iter(lambda: by_tag.poll(0), None)],
        )

    by_type, by_tag = in_namespace(body)
    assert by_type == ["1", "4"]
    assert by_tag == ["4"]


@pytest.mark.parametrize("size_bytes", [2048, 20_000])
def test_an_overflow_is_survived_and_counted_exactly(size_bytes: int) -> None:
    def body() -> tuple[list[Uevent | Gap], list[Uevent | Gap], int, int]:
        sender = uevent_socket()
        witness = UdevWitness(size_bytes)
        message = encode_udev_message(usb_device(1))
        for _ in range(1000):
            send_as_udevd(sender, message)
        first = drain(witness)
        for number in range(3):
            send_as_udevd(sender, encode_udev_message(usb_device(number + 2)))
        second = drain(witness)
        tally = witness.tally()
        witness.close()
        return first, second, tally.offered, tally.pending

    first, second, offered, pending = in_namespace(body)
    gaps = [record for record in first if isinstance(record, Gap)]
    events = [record for record in first if isinstance(record, Uevent)]
    lost = sum(gap.count or 0 for gap in gaps)
    assert {gap.cause for gap in gaps} == {"socket_queue"}
    assert lost > 0
    assert lost + len(events) == 1000
    assert all(gap.since_ns <= gap.t_ns for gap in gaps)
    assert [record.seqnum for record in second if isinstance(record, Uevent)] == [2, 3, 4]
    assert (offered, pending) == (1003, 0)


def test_overflows_while_we_read_are_counted_exactly() -> None:
    """Another process sends without pause: overflows come between any two system calls of ours."""

    def body() -> tuple[int, int, set[str], int]:
        witness = UdevWitness(4096)
        sent = 20_000
        sender = os.fork()
        if sender == 0:
            with uevent_socket() as sock:
                for _ in range(sent):
                    send_as_udevd(sock, GOOD)
            os._exit(0)
        records: list[Uevent | Gap] = []
        while os.waitpid(sender, os.WNOHANG) == (0, 0):
            records += witness.read()
        records += drain(witness)
        gaps = [record for record in records if isinstance(record, Gap)]
        lost = sum(gap.count or 0 for gap in gaps)
        assert (witness.tally().offered, witness.tally().pending) == (sent, 0)
        with uevent_socket() as sock:
            send_as_udevd(sock, GOOD)
        assert len(drain(witness)) == 1  # not deaf: see socket_queue
        return lost, lost + len(records) - len(gaps), {gap.cause for gap in gaps}, sent

    lost, accounted, causes, sent = in_namespace(body)
    assert lost > 0
    assert causes == {"socket_queue"}
    assert accounted == sent


def test_drops_are_counted_when_somebody_else_took_the_error() -> None:
    def body() -> tuple[int, int]:
        sender = uevent_socket()
        witness = UdevWitness(2048)
        for _ in range(200):
            send_as_udevd(sender, encode_udev_message(usb_device(1)))
        with socket.fromfd(witness.fileno(), socket.AF_NETLINK, socket.SOCK_RAW, 15) as thief:
            assert thief.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) != 0
        records = drain(witness)
        witness.close()
        lost = sum(record.count or 0 for record in records if isinstance(record, Gap))
        return lost, len([record for record in records if isinstance(record, Uevent)])

    lost, delivered = in_namespace(body)
    assert lost > 0
    assert lost + delivered == 200


def test_drops_found_by_tally_are_pending_until_read_even_after_close() -> None:
    def body() -> tuple[tuple[int, int], list[Uevent | Gap], tuple[int, int]]:
        sender = uevent_socket()
        witness = UdevWitness(2048)
        for _ in range(200):
            send_as_udevd(sender, encode_udev_message(usb_device(1)))
        before = witness.tally()
        witness.close()
        records = list(witness.read())
        after = witness.tally()
        assert witness.read() == []
        return (before.offered, before.pending), records, (after.offered, after.pending)

    (offered, pending), records, after = in_namespace(body)
    assert offered == pending > 0
    (gap,) = records
    assert isinstance(gap, Gap)
    assert gap.count == pending
    assert after == (offered, 0)


@pytest.mark.parametrize(
    "message",
    [
        encode_udev_message({key: value for key, value in usb_device(1).items() if key != missing})
        for missing in ("SEQNUM", "DEVPATH", "SUBSYSTEM", "ACTION")
    ]
    + [encode_udev_message(usb_device(0)), GOOD.replace(b"usb1/1-1", b"usb1/\xff-1")],
    ids=["no SEQNUM", "no DEVPATH", "no SUBSYSTEM", "no ACTION", "SEQNUM 0", "not UTF-8"],
)
def test_a_malformed_event_is_a_gap_and_the_next_is_read(message: bytes) -> None:
    records, offered, _ = in_namespace(lambda: heard(message, GOOD))
    gap, event = records
    assert isinstance(gap, Gap)
    assert (gap.cause, gap.count) == ("malformed", 1)
    assert isinstance(event, Uevent)
    assert offered == 2


def test_what_libudev_ignores_is_not_offered_but_seen() -> None:
    wrong_magic = GOOD.replace(bytes.fromhex("feedcafe"), bytes.fromhex("cafefeed"))
    records, offered, ignored = in_namespace(lambda: heard(wrong_magic, GOOD, wrong_magic))
    assert [type(record) for record in records] == [Uevent]
    assert (offered, ignored) == (1, 2)


def test_any_bytes_are_survived() -> None:
    junk = [bytes([number % 256]) * number for number in range(1, 9000, 250)]
    junk += [GOOD[:end] for end in range(1, len(GOOD), 7)]
    records, offered, ignored = in_namespace(lambda: heard(*junk, GOOD))
    assert isinstance(records[-1], Uevent)
    assert offered == len(records)
    assert 0 < offered + ignored <= len(junk) + 1


def test_an_event_needs_its_four_properties() -> None:
    whole = dict(usb_device(5))
    assert uevent(whole, 1) is not None
    for missing in ("SEQNUM", "DEVPATH", "SUBSYSTEM", "ACTION"):
        assert uevent({key: value for key, value in whole.items() if key != missing}, 1) is None
    assert uevent({**whole, "SEQNUM": "many"}, 1) is None


def _leave_udevd_behind() -> None:
    """As in a container: no devtmpfs on /dev and no udevd. libudev binds to no group, and keeps quiet."""
    unshare(CLONE_NEWNS)
    mount_private(Path("/dev"))
    Path("/dev/null").touch()  # ctypes runs ldconfig to find libudev, and wants this
    if Path("/run/udev").exists():
        mount_private(Path("/run/udev"))


def test_without_udevd_the_group_is_joined_where_a_rig_stands_in() -> None:
    def body() -> list[int]:
        _leave_udevd_behind()
        witness = UdevWitness(udevd_expected=False)
        with uevent_socket() as sender:
            send_as_udevd(sender, encode_udev_message(usb_device(7)))
        heard = witness.read()
        witness.close()
        return [record.seqnum for record in heard if isinstance(record, Uevent)]

    assert in_user_namespace(body) == [7]


def test_where_libudev_would_hear_nothing_we_say_so() -> None:
    def body() -> str:
        _leave_udevd_behind()
        with pytest.raises(PlugmeterError) as caught:
            UdevWitness()
        return str(caught.value)

    text = in_user_namespace(body)
    assert "run systemd-udevd" in text
    assert "\n" not in text


@contextmanager
def _udevd() -> Iterator[None]:
    """The real systemd-udevd: the system's own, or one of ours in namespaces of our own."""
    if Path("/run/udev/control").exists():
        yield
        return
    program = shutil.which("systemd-udevd", path="/lib/systemd:/usr/lib/systemd")
    assert program is not None
    Path("/run/udev").mkdir(exist_ok=True)
    mount_private(Path("/run/udev"))
    running = subprocess.Popen([program], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _until(lambda: Path("/run/udev/control").exists(), "systemd-udevd opens its control socket")
        yield
    finally:
        running.terminate()
        running.wait()


def _until(condition: Callable[[], bool], what: str) -> None:
    for _ in range(2000):
        if condition():
            return
        time.sleep(0.005)
    raise AssertionError(f"this never happened: {what}")


@pytest.mark.privileged
def test_the_real_udevd_is_heard() -> None:
    """Kernel, group 1, udevd, group 2, libudev, pyudev: the whole way of a real event."""

    def body() -> tuple[list[Uevent | Gap], list[bytes]]:
        unshare(CLONE_NEWNS)
        with _udevd():
            raw = uevent_socket(UDEV_GROUP)
            witness = UdevWitness()
            poller = select.poll()
            poller.register(witness, select.POLLIN)
            found: list[Uevent | Gap] = []

            def all_there() -> bool:
                poller.poll(5)
                found.extend(witness.read())
                return sum("/mem/null" in r.devpath for r in found if isinstance(r, Uevent)) >= 5

            for _ in range(5):
                Path("/sys/class/mem/null/uevent").write_text("change")
            _until(all_there, "five events on /dev/null come back from udevd")
            witness.close()
            messages = []
            while select.select([raw], [], [], 0)[0]:
                messages.append(raw.recv(65536))
            raw.close()
            return found, messages

    have_udevd = shutil.which("systemd-udevd", path="/lib/systemd:/usr/lib/systemd")
    if os.geteuid() != 0 or not have_udevd:
        pytest.skip("needs root and systemd-udevd (package udev)")
    inside = in_child if Path("/run/udev/control").exists() else in_namespace
    found, messages = inside(body)
    events = [r for r in found if isinstance(r, Uevent) and r.devpath.endswith("/mem/null")]
    assert [event.action for event in events] == ["change"] * 5
    assert [event.seqnum for event in events] == sorted({event.seqnum for event in events})
    assert {(event.subsystem, event.devname) for event in events} == {("mem", "null")}
    assert not [record for record in found if isinstance(record, Gap)]
    # Our own reader and writer of the format agree with udevd's, byte for byte.
    assert messages
    for message in messages:
        properties = decode_udev_message(message)
        assert encode_udev_message(properties) == message
