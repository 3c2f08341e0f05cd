"""Enters a network namespace in which this process may inject uevents.

With CAP_SYS_ADMIN a network namespace is enough; an ordinary user gets it in a user namespace of their
own (user_namespaces(7)), where 0 is mapped to their own uid, so that files they write stay theirs.
There is no way back for the process.

A network namespace that belongs to root's own user namespace hears the machine's real uevents as well
(lib/kobject_uevent.c, uevent_net_init); one in a user namespace hears what is injected, and nothing
else. Root stays out of user namespaces all the same: there SO_RCVBUFFORCE would be refused.

Only the standard library here, so that it runs anywhere.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
from dataclasses import dataclass
from pathlib import Path

from plugmeter.errors import RigError
from plugmeter.rigs.injection import Injector
from plugmeter.witnesses.socket_queue import KERNEL_GROUP, NETLINK_KOBJECT_UEVENT

_CLONE_NEWUSER = 0x1000_0000
_CLONE_NEWNET = 0x4000_0000
_PROC = Path("/proc")
_PROBE = (
    b"change@/devices/virtual/plugmeter\0ACTION=change\0DEVPATH=/devices/virtual/plugmeter\0SUBSYSTEM=none\0"
)

# What forbids user namespaces where, and the value that says so. The mend is the opposite.
_LIMITS = (
    ("user/max_user_namespaces", "0", "96365"),
    ("user/max_net_namespaces", "0", "96365"),
    ("kernel/unprivileged_userns_clone", "0", "1"),
    ("kernel/apparmor_restrict_unprivileged_userns", "1", "0"),
)


@dataclass(frozen=True, slots=True)
class Namespace:
    """The namespace entered; ``user`` says whether it took a user namespace as well."""

    user: bool


def enter() -> Namespace:
    """Move this process into a namespace where ``Injector`` works, and try that it does.

    Call it before anything starts a thread: unshare(2) refuses user namespaces to a process with
    several, and moves only the calling one into a network namespace. Raises RigError, one line that
    says what forbids it and what to do; after that the process may be left in a namespace that is of
    no use, and should end.
    """
    threads = sum(1 for _ in (_PROC / "self/task").iterdir())
    if threads > 1:
        raise RigError(
            f"cannot enter a namespace: this process has {threads} threads already, "
            "and must do it before it starts any"
        )
    uid, gid = os.geteuid(), os.getegid()
    status = _unshare(_CLONE_NEWNET)
    user = status == errno.EPERM
    if user:
        status = _unshare(_CLONE_NEWUSER | _CLONE_NEWNET)
    if status:
        raise RigError(_advice(f"unshare: {os.strerror(status)}"))
    if user:
        _map_to_root(uid, gid)
    try:
        check_injection()
    except RigError as error:
        raise RigError(_advice(f"it has one, but {error}")) from error
    return Namespace(user)


def check_injection() -> None:
    """Inject one uevent here and see it come back. Raises RigError when it does not."""
    with (
        socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_KOBJECT_UEVENT) as listener,
        Injector() as injector,
    ):
        listener.bind((0, KERNEL_GROUP))
        injector.inject(_PROBE)
        while True:
            try:
                seen = listener.recv(4096, socket.MSG_DONTWAIT)
            except BlockingIOError:
                raise RigError("an injected uevent does not come back on the kernel's group") from None
            if seen.startswith(_PROBE):
                return


def _unshare(flags: int) -> int:
    """unshare(2) by libc: ``os.unshare`` came with Python 3.12 only. Returns the errno, 0 for success."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.unshare.argtypes = [ctypes.c_int]
    libc.unshare.restype = ctypes.c_int
    return 0 if libc.unshare(flags) == 0 else ctypes.get_errno()


def _map_to_root(uid: int, gid: int) -> None:
    """0 in the namespace is the user outside; setgroups must be denied before gid_map may be written."""
    try:
        for name, text in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")):
            (_PROC / "self" / name).write_text(text)
    except OSError as error:
        raise RigError(_advice(f"{name}: {error.strerror}")) from error


def _advice(cause: str) -> str:
    for name, forbidding, mend in _LIMITS:
        if _setting(name) == forbidding:
            key = name.replace("/", ".")
            what = f"{key} is {forbidding}; run with sudo, or set it: sudo sysctl {key}={mend}"
            break
    else:
        what = "in a container this may be its seccomp filter; run with sudo, or outside of the container"
    return f"cannot inject uevents: this system forbids the namespace for it ({cause}); {what}"


def _setting(name: str) -> str:
    try:
        return (_PROC / "sys" / name).read_text().strip()
    except OSError:
        return ""  # this kernel has no such setting, or hides it: it is not the culprit to name
