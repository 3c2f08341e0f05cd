"""The self-test's own judgement: it must see every figure that is not as proven."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from plugmeter.bench.control import Control, Told, told
from plugmeter.bench.selftest import Proof, held_against, proof_of
from plugmeter.measure.stages import Stage
from plugmeter.witnesses.udev_message import encode_udev_message
from tests.namespace import in_namespace, inject_uevent, send_as_udevd, uevent_socket, usb_device

LOSSES = (("1-1", 1, "plug", "socket_queue"), ("1-2", 2, "pull", "udevd"))
PROOF = Proof(LOSSES, 8, 3, 0)


def report() -> dict[str, Any]:
    """One that names just what ``PROOF`` proves."""
    return {
        "expected": 8,
        "lost": {str(stage): int(stage in (Stage.SOCKET_QUEUE, Stage.UDEVD)) for stage in Stage},
        "losses": [
            dict(zip(("port", "ordinal", "action", "stage"), loss, strict=True)) for loss in reversed(LOSSES)
        ],
        "matched": 5,
        "late": 1,
        "orphans": 0,
        "duplicates": 0,
        "witnesses": {"netlink": {"lost": 3}},
        "seqnums": {"lost": 3},
        "conservation": {"holds": True},
        "certificate": {"valid": True},
    }


def test_a_report_that_names_what_is_proven_passes() -> None:
    assert all(check.passed for check in held_against(report(), PROOF))


def change(*path: str | int, to: object) -> Callable[[dict[str, Any]], None]:
    def changed(value: Any) -> None:
        for step in path[:-1]:
            value = value[step]
        value[path[-1]] = to

    return changed


@pytest.mark.parametrize(
    "spoil",
    [
        change("expected", to=7),
        change("lost", "socket_queue", to=2),
        change("lost", "unknown", to=1),
        change("losses", 0, "port", to="1-3"),
        change("losses", 0, "ordinal", to=1),
        change("losses", 0, "action", to="plug"),
        change("losses", 0, "stage", to="unknown"),
        change("losses", to=[]),
        change("matched", to=6),
        change("orphans", to=1),
        change("duplicates", to=1),
        change("witnesses", "netlink", "lost", to=2),
        change("seqnums", "lost", to=4),
        change("conservation", "holds", to=False),
        change("certificate", "valid", to=False),
    ],
)
def test_any_other_figure_fails(spoil: Callable[[dict[str, Any]], None]) -> None:
    spoiled = copy.deepcopy(report())
    spoil(spoiled)
    assert not all(check.passed for check in held_against(spoiled, PROOF))


def test_a_control_that_lost_something_itself_proves_nothing() -> None:
    assert not all(check.passed for check in held_against(report(), Proof(LOSSES, 8, 3, 1)))


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (b"", Told(0)),
        (b"add@/a\0ACTION=add\0DEVPATH=/a/1-1\0DEVTYPE=usb_device\0SEQNUM=7\0", Told(7, "1-1", True)),
        (b"DEVPATH=/a/1-1.4\0ACTION=remove\0DEVTYPE=usb_device\0SEQNUM=8\0", Told(8, "1-1.4", False)),
        (b"ACTION=bind\0DEVPATH=/a/1-1\0DEVTYPE=usb_device\0SEQNUM=9\0", Told(9)),
        (b"ACTION=add\0DEVPATH=/a/sda\0DEVTYPE=disk\0SEQNUM=10\0", Told(10)),
    ],
)
def test_what_the_control_reads(message: bytes, expected: Told) -> None:
    assert told(message) == expected


def test_the_proof_names_what_the_control_heard_and_a_witness_did_not() -> None:
    def body() -> tuple[Proof, int]:
        with Control() as control, uevent_socket() as sender:
            for action, port in (
                ("add", "1-1"),
                ("add", "1-2"),
                ("bind", "1-1"),
                ("remove", "1-1"),
                ("add", "1-1"),
            ):
                inject_uevent(sender, action, f"/devices/usb1/{port}", SUBSYSTEM="usb", DEVTYPE="usb_device")
            control.stop()
            numbers = [event.seqnum for event in control.kernel]
        with Control() as listening, uevent_socket() as sender:
            for number in numbers[1:]:
                send_as_udevd(sender, encode_udev_message(usb_device(number)))
            listening.stop()
        control.udev = listening.udev
        had = {"netlink": {*numbers} - {numbers[2], numbers[3]}, "udev": {numbers[0], *numbers[1:4]}}
        return proof_of(control, had), len(numbers)

    proof, count = in_namespace(body)
    assert count == 5
    assert proof.losses == (
        ("1-1", 1, "plug", "udevd"),
        ("1-1", 2, "pull", "socket_queue"),
        ("1-1", 3, "plug", "udev_socket_queue"),
    )
    assert (proof.episodes, proof.netlink_missing, proof.overruns) == (4, 2, 0)
    assert proof.by_stage()["socket_queue"] == 1


def test_a_control_whose_buffer_was_too_small_says_so() -> None:
    def body() -> int:
        with Control() as control:
            control._socket.setsockopt(1, 33 if in_root() else 8, 1)  # SOL_SOCKET; SO_RCVBUFFORCE, SO_RCVBUF
            with uevent_socket() as sender:
                while not control.overruns:
                    inject_uevent(sender, "add", "/devices/none", SUBSYSTEM="none")
        return control.overruns

    assert in_namespace(body) > 0


def in_root() -> bool:
    with open("/proc/self/uid_map") as file:
        return file.read().split()[2] != "1"
