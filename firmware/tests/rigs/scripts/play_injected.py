"""Plays an injected sequence in a namespace, listens with everything there is, and prints the counts.

The argument is a JSON object: the keywords of SequencePlan, and ``drop_every``, ``libudev``,
``inotify``, ``mock_lines``, ``die_after_steps``.
"""

from __future__ import annotations

import json
import os
import select
import socket
import sys
from collections.abc import Mapping
from typing import Any

from plugmeter.records import Driven
from plugmeter.rigs.injected import InjectedRig
from plugmeter.rigs.injection import Injector
from plugmeter.rigs.namespace import enter
from plugmeter.rigs.sequence import SequencePlan
from plugmeter.rigs.stick import device_path
from plugmeter.rigs.udevd import UdevdStandIn, parse
from plugmeter.rigs.world import World
from plugmeter.witnesses.socket_queue import SocketQueue
from plugmeter.witnesses.udev_message import decode_udev_message

OUR_DEVICES = device_path("1-1").rsplit("/", 2)[0]


class Listener:
    """A plain socket on one group."""

    def __init__(self, group: int) -> None:
        self.group = group
        self.messages: list[bytes] = []
        self.socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 15)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        self.socket.bind((0, group))

    def fileno(self) -> int:
        return self.socket.fileno()

    def drain(self) -> None:
        while True:
            try:
                message, sender = self.socket.recvfrom(8192)
            except BlockingIOError:
                return
            if self.group == 1 and sender != (0, 1):
                raise SystemExit(f"not from the kernel: {sender}")
            self.messages.append(message)


class LibudevListener:
    """The real libudev on udev's group."""

    def __init__(self) -> None:
        import pyudev

        self.seen: list[tuple[int, str, str]] = []
        self.monitor = pyudev.Monitor.from_netlink(pyudev.Context(), source="udev")
        # Not by libudev, which gives up where only root may have so much.
        with socket.socket(fileno=os.dup(self.monitor.fileno())) as same:
            SocketQueue(same).grow(1 << 22)
        self.monitor.start()

    def fileno(self) -> int:
        descriptor: int = self.monitor.fileno()
        return descriptor

    def drain(self) -> None:
        while (device := self.monitor.poll(timeout=0)) is not None:
            if is_ours({"DEVPATH": device.device_path}):
                self.seen.append((int(device.sequence_number), device.action, device.device_node or ""))


class InotifyListener:
    """inotify on the world's /dev."""

    def __init__(self, world: World) -> None:
        from inotify_simple import INotify, flags

        self.seen: list[tuple[str, str]] = []
        self.inotify = INotify(nonblocking=True)
        self.directories = {}
        for name in (".", "bsg", "bus/usb/001"):
            watch = self.inotify.add_watch(world.dev / name, flags.CREATE | flags.ATTRIB | flags.DELETE)
            self.directories[watch] = "" if name == "." else name + "/"
        self.names = {flags.CREATE: "create", flags.ATTRIB: "attrib", flags.DELETE: "delete"}

    def fileno(self) -> int:
        descriptor: int = self.inotify.fileno()
        return descriptor

    def drain(self) -> None:
        for event in self.inotify.read(timeout=0):
            self.seen.append((self.names[event.mask], self.directories[event.wd] + event.name))


def is_ours(uevent: Mapping[str, str]) -> bool:
    """A network namespace of root's hears the machine's own uevents, too."""
    return uevent.get("DEVPATH", "").startswith((OUR_DEVICES, "/devices/virtual/bdi/"))


def play(options: dict[str, Any]) -> dict[str, Any]:
    entered = enter()
    drop_every = options.pop("drop_every", 0)
    libudev = LibudevListener() if options.pop("libudev", False) else None
    watch_nodes = options.pop("inotify", False)
    mock = options.pop("mock_lines", False)
    die_after_steps = options.pop("die_after_steps", None)
    sequence = SequencePlan(**{**options, "ports": tuple(options["ports"])})
    world = World(ports=sequence.ports)
    kernel, udev = Listener(1), Listener(2)
    inotify = InotifyListener(world) if watch_nodes else None
    listeners = [listener for listener in (kernel, udev, libudev, inotify) if listener is not None]

    levels: list[tuple[str, bool]] = []
    if mock:
        from gpiozero import DigitalInputDevice

        from plugmeter.rigs.lines import mock_lines

        lines = mock_lines(sequence.ports)
        drive = lines.drive
        devices = []
        for port, pin in lines.pins.items():
            device = DigitalInputDevice(pin, pin_factory=lines.factory)
            device.when_activated = lambda port=port: levels.append((port, True))
            device.when_deactivated = lambda port=port: levels.append((port, False))
            devices.append(device)
    else:

        def drive(port: str, high: bool) -> None:
            levels.append((port, high))

    udevd = UdevdStandIn(world.dev, drop_every=drop_every)
    rig = InjectedRig(
        sequence, world, drive, Injector(), udevd, connect_delay_ms=110, die_after_steps=die_after_steps
    )
    rig.start()
    driven: list[Driven] = []
    while not rig.finished:
        select.select(listeners, [], [], 0.02)
        for listener in listeners:
            listener.drain()
        driven += rig.read()
    rig.stop()
    driven += rig.read()
    for listener in listeners:
        listener.drain()
    left_in_dev = sorted(
        str(path.relative_to(world.dev)) for path in world.dev.rglob("*") if not path.is_dir()
    )
    left_in_sys = [path.name for path in (world.sys / "bus/usb/devices").iterdir()]
    rig.close()

    uevents = [each for each in map(parse, kernel.messages) if is_ours(each)]
    rebroadcast = [each for each in map(decode_udev_message, udev.messages) if is_ours(each)]
    return {
        "user_namespace": entered.user,
        "failure": rig.failure,
        "progress": rig.progress(),
        "emitted": rig.emitted,
        "driven": [(each.port, each.rising) for each in driven],
        "times": [each.t_ns for each in driven],
        "levels": levels,
        "seqnums": [int(each["SEQNUM"]) for each in uevents],
        "enumerations": [
            (each["ACTION"], each["DEVPATH"].rsplit("/", 1)[1])
            for each in uevents
            if each.get("DEVTYPE") == "usb_device" and each["ACTION"] in ("add", "remove")
        ],
        "udev_seqnums": [int(each["SEQNUM"]) for each in rebroadcast],
        "libudev": libudev.seen if libudev is not None else None,
        "inotify": inotify.seen if inotify is not None else None,
        "udevd": {
            "received": udevd.received,
            "broadcast": udevd.broadcast,
            "withheld": udevd.withheld,
            "malformed": udevd.malformed,
            "drops": udevd.drops,
            "nodes_gone": udevd.nodes_gone,
        },
        "left_in_dev": left_in_dev,
        "left_in_sys": left_in_sys,
        "world_is_gone": not world.root.exists(),
    }


if __name__ == "__main__":
    print(json.dumps(play(json.loads(sys.argv[1]))))
