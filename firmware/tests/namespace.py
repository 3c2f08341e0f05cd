"""Run a test's body in a child process inside a fresh network namespace, with uevents of its own.

As root the child unshares the network only; as an ordinary user it unshares the user namespace too
and is uid 0 in there, which is what the kernel asks of whoever injects uevents and what libudev asks
of whoever sends for udevd.
"""

from __future__ import annotations

import ctypes
import os
import pickle
import select
import signal
import socket
import tempfile
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import pytest

T = TypeVar("T")

CLONE_NEWNS = 0x00020000
CLONE_NEWUSER = 0x10000000
CLONE_NEWNET = 0x40000000

NETLINK_KOBJECT_UEVENT = 15
KERNEL_GROUP = 1
UDEV_GROUP = 2

_NOBODY = 65534

_GUARD_SECONDS = 120
"""After this long a child is taken for hung and killed: no test is meant to come near it."""


class FailedInNamespace(AssertionError):
    """What went wrong in the child: its traceback, as text."""


def in_namespace(body: Callable[[], T]) -> T:
    """Run ``body`` in a forked child inside a new network namespace and return what it returned.

    The result must be picklable. An exception in the child raises FailedInNamespace here; a
    pytest.skip in the child skips here. Skips where the system forbids such namespaces.
    """
    return in_child(lambda: _inside(body, always_user=False))


def in_user_namespace(body: Callable[[], T]) -> T:
    """As ``in_namespace``, but always in a new user namespace: uid 0 there, powerless outside."""
    return in_child(lambda: _inside(body, always_user=True))


def as_ordinary_user(body: Callable[[Path], T]) -> T:
    """Run ``body`` in a forked child that is no root, with an empty folder of its own; return its result."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)

        def play() -> T:
            if os.geteuid() == 0:
                os.setgroups([])
                os.setgid(_NOBODY)
                os.setuid(_NOBODY)
            return body(folder)

        if os.geteuid() == 0:
            os.chown(folder, _NOBODY, _NOBODY)
        return in_child(play)


def in_child(body: Callable[[], T]) -> T:
    """Run ``body`` in a forked child, in the namespaces there are."""
    here, there = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(here)
        _answer(there, body)
    os.close(there)
    answer = _listen(here, pid)
    os.close(here)
    _, status = os.waitpid(pid, 0)
    if not answer:
        raise FailedInNamespace(f"the child ended without an answer, wait status {status}")
    kind, value = pickle.loads(answer)
    if kind == "skip":
        pytest.skip(value)
    if kind == "failure":
        raise FailedInNamespace(value)
    result: T = value
    return result


def _answer(there: int, body: Callable[[], object]) -> None:
    """Only in the child: do the work, send the answer, and never come back into pytest."""
    try:
        try:
            answer = ("result", body())
        except pytest.skip.Exception as skipped:
            answer = ("skip", str(skipped.msg))
        except BaseException:  # noqa: BLE001 - whatever it is, the parent raises it again as text
            answer = ("failure", traceback.format_exc())
        with open(there, "wb") as pipe:
            pipe.write(pickle.dumps(answer))
    finally:
        os._exit(0)


def _listen(here: int, pid: int) -> bytes:
    chunks: list[bytes] = []
    poller = select.poll()
    poller.register(here, select.POLLIN)
    while True:
        if not poller.poll(_GUARD_SECONDS * 1000):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise FailedInNamespace(f"the child hung for {_GUARD_SECONDS} s and was killed")
        chunk = os.read(here, 65536)
        if not chunk:
            return b"".join(chunks)
        chunks.append(chunk)


def _inside(body: Callable[[], T], *, always_user: bool) -> T:
    _enter(always_user=always_user)
    return body()


def _enter(*, always_user: bool) -> None:
    uid, gid = os.getuid(), os.getgid()
    as_user = always_user or uid != 0
    try:
        unshare(CLONE_NEWNET | (CLONE_NEWUSER if as_user else 0))
        if as_user:
            Path("/proc/self/setgroups").write_text("deny")
            Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
            Path("/proc/self/gid_map").write_text(f"0 {gid} 1")
    except OSError as error:
        pytest.skip(
            f"needs a network namespace of its own: {error.strerror} (sysctl user.max_net_namespaces, "
            "kernel.unprivileged_userns_clone, kernel.apparmor_restrict_unprivileged_userns)"
        )


def mount_private(path: Path) -> None:
    """Put an empty tmpfs over ``path`` that only this process's mount namespace sees (mount(2))."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mount.argtypes = [*[ctypes.c_char_p] * 3, ctypes.c_ulong, ctypes.c_char_p]
    private_and_below = 1 << 18 | 1 << 14  # MS_PRIVATE | MS_REC
    for arguments in (
        (b"none", b"/", None, private_and_below, None),
        (b"tmpfs", os.fsencode(path), b"tmpfs", 0, None),
    ):
        if libc.mount(*arguments) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))


def unshare(flags: int) -> None:
    """unshare(2); os.unshare is there only from Python 3.12 on."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.unshare.argtypes = [ctypes.c_int]
    if libc.unshare(flags) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def uevent_socket(groups: int = 0) -> socket.socket:
    """A plain socket on the uevent broadcasts of this namespace; 0 only sends."""
    opened = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, NETLINK_KOBJECT_UEVENT)
    opened.bind((0, groups))
    return opened


def inject_uevent(sender: socket.socket, action: str, devpath: str, **properties: str) -> None:
    """Have the kernel broadcast a uevent in this namespace; it adds a SEQNUM of its own."""
    fields = {"ACTION": action, "DEVPATH": devpath, **properties}
    payload = f"{action}@{devpath}\0".encode()
    payload += b"".join(f"{key}={value}\0".encode() for key, value in fields.items())
    header = (
        (16 + len(payload)).to_bytes(4, "little")
        + (16).to_bytes(2, "little")  # type: the first that is not netlink's own
        + (1).to_bytes(2, "little")  # NLM_F_REQUEST
        + bytes(8)
    )
    sender.sendto(header + payload, (0, 0))


def send_as_udevd(sender: socket.socket, message: bytes) -> None:
    """Broadcast to udevd's listeners; ECONNREFUSED only says that the kernel itself listens not."""
    try:
        sender.sendto(message, (0, UDEV_GROUP))
    except ConnectionRefusedError:
        pass


def usb_device(seqnum: int, action: str = "add", port: str = "1-1", **more: str) -> Mapping[str, str]:
    """The properties that udevd would send for a USB stick."""
    return {
        "ACTION": action,
        "DEVPATH": f"/devices/pci0000:00/0000:00:14.0/usb1/{port}",
        "SUBSYSTEM": "usb",
        "DEVTYPE": "usb_device",
        "DEVNAME": "/dev/bus/usb/001/004",
        "SEQNUM": str(seqnum),
        **more,
    }
