"""The flood: every uevent of it comes out on the kernel's group, in order and round and round."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from plugmeter.bench.flood import Flood
from plugmeter.errors import RigError
from tests.namespace import KERNEL_GROUP, in_namespace, uevent_socket


def _payload(number: Any) -> Any:
    path = f"/devices/flood/{number}"
    return f"add@{path}\0ACTION=add\0DEVPATH={path}\0SUBSYSTEM=usb\0".encode()


def _heard(listener: Any) -> Any:
    paths = []
    while True:
        try:
            paths.append(listener.recv(4096, socket.MSG_DONTWAIT).split(b"\0")[0])
        except BlockingIOError:
            return paths


def test_all_of_it_is_broadcast_in_order() -> None:
    def body() -> Any:
        with uevent_socket(KERNEL_GROUP) as listener, Flood([_payload(n) for n in range(3)]) as flood:
            flood.send(2)
            flood.send(5)
            return flood.emitted, _heard(listener)

    emitted, paths = in_namespace(body)
    assert emitted == 7
    assert paths == [f"add@/devices/flood/{n}".encode() for n in (0, 1, 2, 0, 1, 2, 0)]


def test_what_the_kernel_refuses_is_no_success() -> None:
    def body() -> Any:
        with (
            Flood([b"add@/devices/x\0" + b"X" * 4096 + b"\0"]) as flood,
            pytest.raises(RigError, match="refuses"),
        ):
            flood.send(1)

    in_namespace(body)
