from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from plugmeter.rigs.udevd import UdevdStandIn, parse

if TYPE_CHECKING:
    from tests.rigs.conftest import Runner

# A busy machine is no defect: nothing here is judged by the clock.
PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

# Run as an ordinary user: a user namespace hears none of the machine's own uevents, root's would.
# Injects payloads by turns with the stand-in running; prints its account, the group-2 messages, the modes.
STAND_IN = """
import json, os, socket, sys
from pathlib import Path
from plugmeter.rigs.injection import Injector
from plugmeter.rigs.namespace import enter
from plugmeter.rigs.udevd import UdevdStandIn
from plugmeter.rigs.world import World
from plugmeter.witnesses.udev_message import decode_udev_message
options = json.loads(sys.argv[1])
enter()
world = World()
for node in options["nodes"]: world.create_node(node)
listener = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 15)
listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
listener.bind((0, 2))
udevd = UdevdStandIn(world.dev, **options["keywords"])
injector = Injector()
if options["late"]:
    for payload in options["payloads"]: injector.inject(payload.encode("latin-1"))
    udevd.start()
else:
    udevd.start()
    for payload in options["payloads"]: injector.inject(payload.encode("latin-1"))
udevd.stop()
told = []
try:
    while True: told.append(decode_udev_message(listener.recv(8192, socket.MSG_DONTWAIT)))
except BlockingIOError: pass
udevd.close()
modes = [oct((world.dev / node).stat().st_mode & 0o777) for node in options["nodes"]]
world.close()
account = {name: getattr(udevd, name) for name in
    ("received", "broadcast", "malformed", "withheld", "foreign", "nodes_gone", "drops", "failure")}
print(json.dumps([account, told, modes]))
"""


def add(number: int, *variables: str) -> str:
    path = f"/devices/x{number}"
    return "\0".join((f"add@{path}", "ACTION=add", f"DEVPATH={path}", "SUBSYSTEM=block", *variables)) + "\0"


def stand_in(
    runner: Runner, payloads: list[str], nodes: tuple[str, ...] = (), late: bool = False, **keywords: int
) -> tuple[dict[str, object], list[dict[str, str]], list[str]]:
    options = {"payloads": payloads, "nodes": nodes, "late": late, "keywords": keywords}
    ran = runner.code(STAND_IN, json.dumps(options))
    assert ran.returncode == 0, ran.stderr
    account, told, modes = json.loads(ran.stdout)
    return account, told, modes


def account(**counts: int) -> dict[str, object]:
    names = ("received", "broadcast", "malformed", "withheld", "foreign", "nodes_gone", "drops")
    return {"failure": None, **{name: counts.get(name, 0) for name in names}}


def test_what_udev_tells_is_what_the_kernel_told_with_the_whole_path_of_the_node(ordinary: Runner) -> None:
    payload = add(1, "DEVNAME=bus/usb/001/004", "DEVTYPE=usb_device")
    counts, (told,), modes = stand_in(ordinary, [payload], ("bus/usb/001/004",))
    assert counts == account(received=1, broadcast=1)
    assert modes == ["0o660"]
    assert int(told.pop("SEQNUM")) > 0
    assert int(told.pop("USEC_INITIALIZED")) > 0
    assert told == {
        "ACTION": "add",
        "DEVPATH": "/devices/x1",
        "SUBSYSTEM": "block",
        "DEVNAME": "/dev/bus/usb/001/004",
        "DEVTYPE": "usb_device",
    }


def test_it_drains_what_came_before_it_was_stopped(ordinary: Runner) -> None:
    counts, told, _ = stand_in(ordinary, [add(number) for number in range(100)], late=True)
    assert counts == account(received=100, broadcast=100)
    assert [each["DEVPATH"] for each in told] == [f"/devices/x{number}" for number in range(100)]


def test_what_it_withholds_is_every_nth_and_counted(ordinary: Runner) -> None:
    counts, told, _ = stand_in(ordinary, [add(number) for number in range(10)], drop_every=3)
    assert counts == account(received=10, broadcast=7, withheld=3)
    assert [each["DEVPATH"] for each in told] == [f"/devices/x{number}" for number in (0, 1, 3, 4, 6, 7, 9)]


def test_its_own_losses_are_counted(ordinary: Runner) -> None:
    counts, told, _ = stand_in(ordinary, [add(number) for number in range(500)], late=True, receive_bytes=1)
    assert counts["drops"] == 500 - len(told)
    assert counts["drops"] != 0
    assert counts["received"] == counts["broadcast"] == len(told)
    assert counts["failure"] is None


def test_what_cannot_be_handled_is_counted(ordinary: Runner) -> None:
    payloads = [add(1, "DEVNAME=gone"), "add@/x\0ACTION=add\0", "", add(2)]
    counts, told, _ = stand_in(ordinary, payloads)
    assert counts == account(received=4, broadcast=2, malformed=2, nodes_gone=1)
    assert len(told) == 2


def test_it_starts_nothing_that_cannot_be_ended(tmp_path: Path) -> None:
    unstarted = UdevdStandIn(tmp_path)
    unstarted.stop()
    unstarted.close()
    unstarted.close()
    started = UdevdStandIn(tmp_path)
    started.start()
    started.stop()
    started.stop()
    started.close()
    assert started.failure is None


@pytest.mark.privileged
def test_who_is_not_the_kernel_is_not_believed(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root, to send to the kernel's group")
    udevd = UdevdStandIn(tmp_path)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 15) as liar:
        liar.sendto(add(1).encode(), (0, 1))
    udevd.start()
    udevd.close()
    assert udevd.foreign == 1
    assert udevd.broadcast == udevd.received


@PATIENT
@given(st.binary(max_size=300))
def test_the_parser_takes_anything(message: bytes) -> None:
    assert all(key and isinstance(value, str) for key, value in parse(message).items())


def test_the_parser() -> None:
    assert parse(b"add@/x\0ACTION=add\0A=b=c\0EMPTY=\0junk\0=no\0A=d\0") == {
        "ACTION": "add",
        "A": "d",
        "EMPTY": "",
    }
